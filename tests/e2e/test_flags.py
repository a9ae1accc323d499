"""Feature flags on a real fleet: every instance follows at once, whichever way one is flipped."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from fleet_commands import REPOSITORY, Live, run, wait_for
from fleet_flags import Flags, kept
from openfeature_redis import flagset
from saltern.local import cgroup

# A flag, a variant of it, the path where it shows, and how: before and after.
SHOWN = [
    ("site_title", "summer", "/", r"<h1>(.*?)</h1>", "Bucket list", "Bucket list: the summer edition"),
    ("font_color", "red", "/", r'data-ink-light="(.*?)"', "#17292c", "#b42318"),
    ("show_picture", "on", "/getPic", r"HTTP/1.1 (\d+)", "204", "200"),
    ("disable_set", "on", "/", r'<button id="save" class="primary"(.*?)>', "", " disabled"),
    ("new_layout", "on", "/", r'<body class="(\w+)"', "narrow", "wide"),
]
SEED = json.loads((REPOSITORY / "salt" / "proxy" / "flags.json").read_text())


@pytest.fixture
def flags(live: Live) -> Iterator[Flags]:
    """The flags a new fleet starts with, but nothing is rolled out to some of the visitors."""
    with kept(live) as found:
        start = {**SEED["flags"], "new_layout": {**SEED["flags"]["new_layout"], "targeting": {}}}
        flagset.write(found.client, {"flags": start}, who="test", why="test")
        found.everywhere("/", "<h1>Bucket list</h1>")
        found.everywhere("/", '<body class="narrow"')
        yield found


def api(flags: Flags, method: str, path: str, body: str = "") -> tuple[int, dict]:
    """Ask the admin API as whoever may write."""
    token = json.loads((flags.live.state_dir / "secrets.json").read_text())["admin"]["write"]
    host = flags.live.product.rstrip("/")
    extra = ["-H", "Content-Type: application/json", "-d", body] if body else []
    done = run("curl", "-s", "-w", "\n%{http_code}", "-X", method, "-H", f"Authorization: Bearer {token}",
               f"{host}:8081{path}", *extra)  # fmt: skip
    text, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(text)


def test_a_new_fleet_has_its_flags_and_its_states_never_touch_them_again(live: Live) -> None:
    # Tests before this one may have left something for it to do.
    live.answer("proxy1", "state.apply", "queue=True", timeout=300)
    with kept(live) as flags:
        recorded = flagset.history(flags.client, flagset.HISTORY_LENGTH)
        assert recorded[-1].why == "the flags a new fleet starts with"
        flags.set_default("font_color", "green")
        revision = flagset.history(flags.client, 1)[0].revision
        states = live.answer("proxy1", "state.apply", timeout=300)["proxy1"]
        assert all(state["result"] is True for state in states.values()), states
        assert not any(state["changes"] for state in states.values()), states
        assert flagset.history(flags.client, 1)[0].revision == revision
        assert flags.document()["flags"]["font_color"]["defaultVariant"] == "green"


@pytest.mark.parametrize(("key", "variant", "path", "pattern", "before", "after"), SHOWN)
def test_a_flip_shows_on_every_instance_through_the_proxy(
    flags: Flags, key: str, variant: str, path: str, pattern: str, before: str, after: str
) -> None:
    def answers() -> dict[str, set[str]]:
        return flags.by_the_proxy(path, pattern)

    wait_for(
        lambda: answers() == {name: {before} for name in flags.instances}, 20, "all serve, with the old one"
    )
    flags.set_default(key, variant)
    wait_for(lambda: answers() == {name: {after} for name in flags.instances}, 10, f"{after!r} from all")
    flagset.undo(flags.client, who="test")
    wait_for(lambda: answers() == {name: {before} for name in flags.instances}, 10, f"{before!r} from all")


def test_an_operator_flips_lists_and_takes_back_by_salt_run(flags: Flags) -> None:
    def salt_run(*arguments: str) -> dict:
        done = flags.live.salt("salt-run", "--out=json", *arguments)
        return json.loads(done.stdout)

    done = salt_run("flags.set", "show_picture", "on", "why=it is nice", "by=ana")
    assert (done["changed"], done["after"]["defaultVariant"]) == (True, "on")
    flags.everywhere("/getPic", "HTTP/1.1 200 OK")
    newest = salt_run("flags.history", "1")[0]
    assert (newest["who"], newest["why"], newest["changed"]) == ("ana", "it is nice", ["show_picture"])
    assert salt_run("flags.undo")["changed"] == ["show_picture"]
    flags.everywhere("/getPic", "HTTP/1.1 204 No Content")
    assert salt_run("flags.list")["flags"]["show_picture"]["defaultVariant"] == "off"
    refused = salt_run("flags.set", "show_picture", "maybe")
    assert refused["retcode"] == 1 and "has no variant 'maybe'" in refused["error"]


def test_writing_is_switched_off_and_on_at_a_url(flags: Flags) -> None:
    def add(address: str, title: str) -> tuple[str, dict]:
        done = run("curl", "-s", "-w", "\n%{http_code}", "-H", "Content-Type: application/json",
                   "-d", json.dumps({"title": title}), f"http://{address}:8080/api/items")  # fmt: skip
        text, _, status = done.stdout.rpartition("\n")
        return status, json.loads(text)

    assert api(flags, "POST", "/disable/set/1")[0] == 200
    flags.everywhere("/", "The list is closed for changes.")
    for name, address in flags.instances.items():
        status, said = add(address, f"from {name}")
        assert status == "403", name
        assert said["error"].startswith("list: changes are switched off")
    assert "from prod1" not in run("curl", "-s", f"{flags.live.product}api/items").stdout
    status, said = api(flags, "GET", "/disable/set/0")
    assert (status, said["changed"]) == (200, True)
    flags.everywhere("/", '<button id="save" class="primary">')
    for name, address in flags.instances.items():
        status, item = add(address, f"from {name}")
        assert status == "201", name
        run("curl", "-s", "-X", "DELETE", f"{flags.live.product}api/items/{item['id']}")


def test_a_flag_is_switched_over_http_and_a_bad_one_is_refused_whole(flags: Flags) -> None:
    assert api(flags, "PUT", "/flags/font_color", '{"defaultVariant": "blue"}')[0] == 200
    flags.everywhere("/", 'data-ink-light="#1d4ed8"')
    before = flags.document()
    status, said = api(
        flags, "PUT", "/flags/font_color", '{"variants": {"a": 1, "b": "x"}, "state": "ENABLED"}'
    )
    assert (status, flags.document()) == (400, before), said


def test_a_plain_redis_cli_flips_a_flag_and_salt_run_takes_that_back(flags: Flags) -> None:
    text = json.dumps(flags.document()).replace('"Bucket list"', '"By hand"')
    flags.client.set("saltern:flags", text)
    flags.everywhere("/", "<h1>By hand</h1>")
    done = flags.live.salt("salt-run", "--out=json", "flags.undo")
    assert "flags.undo unrecorded=True" in json.loads(done.stdout)["error"]
    done = flags.live.salt("salt-run", "--out=json", "flags.undo", "unrecorded=True")
    assert json.loads(done.stdout)["changed"] == ["site_title"]
    flags.everywhere("/", "<h1>Bucket list</h1>")


def test_the_reader_of_flags_reads_on_a_replica_and_writes_nowhere(flags: Flags) -> None:
    password = json.loads((flags.live.state_dir / "secrets.json").read_text())["redis"]["flags-reader"]
    where = {each["id"]: each["address"] for each in flags.live.status()["machines"]}
    for machine in ("redis1", "redis2"):
        ask = [
            "redis-cli",
            "--no-auth-warning",
            "-h",
            where[machine],
            "--user",
            "flags-reader",
            "--pass",
            password,
        ]
        assert "font_color" in run(*ask, "mget", "saltern:flags").stdout
        for command in (
            ("set", "saltern:flags", "{}"),
            ("publish", "saltern:flags", "9\n{}"),
            ("get", "product:items"),
        ):
            assert "NOPERM" in run(*ask, *command).stdout, (machine, command)


def test_a_product_that_starts_while_redis_is_away_has_its_flags(flags: Flags) -> None:
    flags.set_default("site_title", "summer")
    flags.everywhere("/", "the summer edition")
    pids = [
        pid
        for machine in ("redis1", "redis2", "redis3")
        for pid in cgroup.processes(flags.live.group(machine))
        if run("cat", f"/proc/{pid}/comm").stdout.strip() == "redis-server"
    ]
    assert len(pids) >= 2
    url = f"http://{flags.instances['prod1']}:8080"
    try:
        run("kill", "-STOP", *map(str, pids))
        flags.live.salt("salt", "prod1", "service.restart", "product")
        wait_for(
            lambda: "the summer edition" in run("curl", "-s", url).stdout, 20, "the title from the snapshot"
        )
        flags.everywhere("/", "the summer edition")
    finally:
        run("kill", "-CONT", *map(str, pids))
    flags.everywhere("/health", '"flags": "READY"', seconds=30)
