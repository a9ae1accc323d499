"""The dashboard as it runs: real Redis, the real process, the real admin API behind it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import pytest
import redis
from admin_stand import OURS, READ, WRITE, AdminStand
from alert_stand import mute_alertmanager
from dashboard_stand import BUILDS, DashboardStand, Painter, Viewer, builds_served
from host import PATIENCE, free_port, until
from redis.backoff import NoBackoff
from redis.retry import Retry
from saltern.journal import newest
from saltern.registry import JOURNAL, Registry
from traffic_stand import Process, redis_process, redis_server

HOSTILE = "<script>alert(1)</script>\"'&\u202e"

NEVER = Retry(NoBackoff(), 0)
"""How often what cannot be sent is sent again: whoever waits for Redis looks again by itself."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Process, int]]:
    folder = tmp_path_factory.mktemp("redis")
    process, port = redis_server(folder)
    yield process, port
    process.end()


@pytest.fixture
def client(server: tuple[Process, int]) -> Iterator[redis.Redis]:
    """An empty Redis."""
    found = redis.Redis(port=server[1], decode_responses=True)
    found.flushall()
    yield found
    found.close()


@pytest.fixture
def painter(client: redis.Redis) -> Painter:
    """A small fleet in it."""
    made = Painter(client)
    made.begin()
    for ago in range(40, 0, -1):
        made.second(ago_s=float(ago))
    made.second()
    return made


@pytest.fixture
def admin(client: redis.Redis, server: tuple[Process, int], tmp_path: Path) -> Iterator[AdminStand]:
    made = AdminStand(tmp_path, server[1])
    yield made.start()
    made.process.end()


@pytest.fixture
def dashboard(painter: Painter, server: tuple[Process, int], tmp_path: Path) -> Iterator[DashboardStand]:
    """The dashboard over the small fleet, without an admin API."""
    made = DashboardStand(tmp_path, server[1])
    yield made.start()
    made.process.end()


@pytest.fixture(scope="module")
def refusing(
    server: tuple[Process, int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DashboardStand]:
    """One dashboard with its admin API for all requests that must be refused."""
    folder = tmp_path_factory.mktemp("refusing")
    behind = AdminStand(folder, server[1]).start()
    made = DashboardStand(folder, server[1], behind.port)
    yield made.start()
    made.process.end()
    behind.process.end()


@pytest.fixture
def desk(
    painter: Painter, admin: AdminStand, server: tuple[Process, int], tmp_path: Path
) -> Iterator[DashboardStand]:
    """The dashboard with the admin API behind it."""
    made = DashboardStand(tmp_path, server[1], admin.port)
    yield made.start()
    made.process.end()


def signed_in(desk: DashboardStand) -> dict[str, str]:
    """The headers of a page that somebody signed in on."""
    answer = desk.ask("POST", "/session", {"token": WRITE})
    assert answer.status == 200, answer.text
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower()
    assert WRITE not in answer.text + cookie
    return {"Cookie": cookie.partition(";")[0], "X-CSRF-Token": answer.data["csrf"]}


# --- looking


def test_the_picture_is_what_the_registry_and_the_proxy_say(
    dashboard: DashboardStand, painter: Painter
) -> None:
    picture = until(lambda: (p := dashboard.picture()).get("alerts") and p, "the whole picture")
    assert picture["fleet"] == "test"
    assert picture["revision"] == painter.registry.snapshot().revision
    states = {id_: each["state"] for id_, each in picture["machines"].items()}
    assert states == {
        "prod1": "good", "prod2": "good", "prod3": "good", "staging1": "warn", "proxy1": "good", "ops1": "good",
        "redis1": "good", "redis2": "bad",
    }  # fmt: skip
    assert picture["machines"]["staging1"]["word"] == "serving, under pressure: cpu 93 %"
    assert picture["split"]["measured"] == 30
    assert picture["verdict"]["verdict"] in ("pass", "hold")
    assert set(picture["verdict"]["metrics"]) >= {"errors", "latency", "cpu", "memory"}
    assert picture["flags"]["font_color"] == {
        "on": True, "variant": "default", "variants": {"default": "", "red": "#f00"}, "targeted": False,
    }  # fmt: skip
    (intent,) = picture["intents"].values()
    assert (intent["state"], intent["steps"]) == ("running", {"made:prod4": "address=10.0.0.9"})
    assert {line["kind"] for line in picture["journal"].values()} >= {
        "instance.register",
        "machine.made",
        "alert.firing",
    }


def test_a_viewer_hears_of_every_kind_of_change_and_its_picture_is_the_servers(
    dashboard: DashboardStand, painter: Painter, client: redis.Redis
) -> None:
    with Viewer(dashboard.port) as viewer:
        viewer.until(lambda p: p.get("alerts"), "the first picture")
        assert viewer.kinds[0] == "state"
        painter.registry.set_share(55, by="anna")
        viewer.until(lambda p: p["split"]["share"] == 55, "the share")
        painter.down.add("prod2")
        painter.second()
        viewer.until(lambda p: p["machines"]["prod2"]["state"] == "bad", "the server that is down")
        painter.down.clear()
        painter.second()
        viewer.until(lambda p: p["machines"]["prod2"]["state"] == "good", "the server that is up again")
        painter.registry.canary_off("error rate", by="reflex")
        viewer.until(lambda p: p["split"].get("latch", {}).get("reason") == "error rate", "the latch")
        painter.registry.canary_on(by="anna")
        viewer.until(lambda p: "latch" not in p["split"], "the open latch")
        painter.registry.unregister("prod3", by="salt")
        del painter.machines["prod3"]
        painter.second()
        viewer.until(lambda p: "prod3" not in p["machines"], "the machine that is gone")
        assert set(viewer.kinds[1:]) <= {"patch", "beat"}
        picture = dashboard.picture()
        assert set(viewer.picture) == set(picture)
        assert viewer.picture["journal"] == picture["journal"]
        assert len(set(viewer.ids)) == len(viewer.ids), "every event has an id of its own"


def test_who_comes_back_gets_the_whole_picture_and_misses_nothing(
    dashboard: DashboardStand, painter: Painter
) -> None:
    with Viewer(dashboard.port) as viewer:
        viewer.until(lambda p: p.get("split"), "the first picture")
    painter.registry.set_share(11, by="anna")
    with Viewer(dashboard.port) as viewer:
        viewer.until(lambda p: p["split"]["share"] == 11, "what happened meanwhile")
        assert viewer.kinds[0] == "state"


def test_a_redis_that_goes_and_comes_back_is_told_and_the_picture_goes_on(
    tmp_path: Path, painter: Painter
) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    process, port = redis_server(folder)
    client = redis.Redis(port=port, decode_responses=True, retry=NEVER)
    own = Painter(client)
    own.begin()
    own.second()
    stand = DashboardStand(folder, port).start()
    try:
        with Viewer(stand.port) as viewer:
            viewer.until(lambda p: p["machines"].get("prod1", {}).get("state") == "good", "the fleet")
            process.end()
            viewer.until(
                lambda p: any("Redis does not answer" in each for each in p["problems"]), "the outage"
            )
            assert stand.ask("GET", "/health").status == 503
            assert viewer.picture["machines"]["prod1"]["release"] == "r1", "what was known stays"
            process.start()
            until(lambda: _pings(client), "Redis answering again")
            own.begin()
            own.second()
            viewer.until(lambda p: not any("Redis" in each for each in p["problems"]), "the end of it")
            own.registry.set_share(77, by="anna")
            viewer.until(lambda p: p["split"]["share"] == 77, "a change after it")
    finally:
        stand.process.end()
        process.end()


def _pings(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def test_why_tells_the_chain_that_journal_why_tells(dashboard: DashboardStand, painter: Painter) -> None:
    first = painter.registry.set_share(40, by="anna", cause="saltern/test/began 1795220681000000000")
    second = painter.registry.canary_off("slow", by="reflex", cause=first.journal)
    last = painter.registry.note("canary.told", "canary", {}, by="conductor", cause=second.journal)
    answer = dashboard.ask("GET", f"/why?q={second.journal}").data
    assert [each.get("line") for each in answer["chain"]] == [None, first.journal, second.journal]
    assert answer["chain"][0]["what"] == "saltern/test/began"
    assert [each["line"] for each in answer["effects"]] == [last]
    assert dashboard.ask("GET", "/why?q=canary%20off").data["chain"][-1]["line"] == second.journal


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/why?q=", 400, "at most 200 characters"),
        ("/why?q=" + "x" * 201, 400, "at most 200 characters"),
        ("/why?q=no%20such%20thing", 404, "nothing in the journal answers"),
        ("/nothing", 404, "the page is at /"),
        ("/../../etc/passwd", 404, "the page is at /"),
        ("/web/app.js", 404, "the page is at /"),
    ],
)
def test_what_is_not_there_or_cannot_be_is_refused_in_one_line(
    refusing: DashboardStand, path: str, status: int, words: str
) -> None:
    answer = refusing.ask("GET", path)
    assert answer.status == status
    assert words in answer.error


def test_hostile_values_are_text_in_every_answer_and_break_none(
    dashboard: DashboardStand, painter: Painter, client: redis.Redis
) -> None:
    client.xadd(
        JOURNAL, {"kind": HOSTILE, "subject": "a\nid: 9\nevent: state\ndata: {}\n\n", "fields": "no json"}
    )
    client.hset("saltern:felt", "prod1/cpu", "no json")
    client.hset("saltern:felt", HOSTILE, json.dumps({"high": True, "percent": 1, "at": time.time()}))
    client.xadd("saltern:windows", {"data": "{}"})
    client.xadd("saltern:samples", {"machine": "prod1", "age": "x", "data": "[]"})
    client.hset("saltern:instance:prod1", "release", HOSTILE)
    client.incr("saltern:revision")
    with Viewer(dashboard.port) as viewer:
        found = viewer.until(
            lambda p: [each for each in p["journal"].values() if each["kind"].startswith("<script")],
            "the line",
        )
        assert "\n" not in found[0]["subject"]
        painter.registry.set_share(9, by="anna")
        viewer.until(lambda p: p["split"]["share"] == 9, "what comes after it")
        assert viewer.picture["machines"]["prod1"]["state"] == "bad"
        assert HOSTILE not in viewer.picture["machines"]
    raw = dashboard.ask("GET", "/state")
    assert raw.headers["content-type"] == "application/json"
    assert raw.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("saltern:observed", '{"ts": 1, "servers": {"prod1": 7}}'),
        ("saltern:observed", '{"ts": 1, "servers": {}, "kept": 7}'),
        ("saltern:observed", "[]"),
        ("saltern:flags", '{"flags": 7}'),
        ("saltern:flags", "no json"),
        ("saltern:steps", {"state": '{"phase": "flying"}'}),
        ("saltern:alert:x", {"state": "firing", "about": "[]", "value": ""}),
    ],
)
def test_what_nobody_of_ours_writes_is_told_and_the_page_goes_on(
    refusing: DashboardStand, painter: Painter, client: redis.Redis, key: str, value: Any
) -> None:
    with Viewer(refusing.port) as viewer:
        viewer.until(lambda p: p.get("split", {}).get("share") == 30, "the fleet")
        if isinstance(value, dict):
            client.hset(key, mapping=value)
            client.sadd("saltern:alerts", "x")
        else:
            client.set(key, value)
        viewer.until(lambda p: any("cannot be" in each for each in p["problems"]), "what is wrong")
        client.delete(key)
        painter.registry.set_share(8, by="anna")
        viewer.until(
            lambda p: p["split"]["share"] == 8 and not any("cannot be" in e for e in p["problems"]), "its end"
        )


def test_every_answer_forbids_scripts_of_others_frames_and_other_hosts(dashboard: DashboardStand) -> None:
    for path in ("/", "/app.js", "/style.css", "/state", "/session", "/nothing", "/health", "/metrics"):
        headers = dashboard.ask("GET", path).headers
        policy = headers["content-security-policy"]
        assert (
            "default-src 'none'" in policy
            and "script-src 'self'" in policy
            and "frame-ancestors 'none'" in policy
        )
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
    page = dashboard.ask("GET", "/")
    assert dashboard.ask("GET", "/", headers={"If-None-Match": page.headers["etag"]}).status == 304


def test_prometheus_reads_what_the_dashboard_does(dashboard: DashboardStand) -> None:
    with Viewer(dashboard.port) as viewer:
        viewer.until(lambda p: p.get("machines"), "the first picture")
        words = ("saltern_dashboard_viewers 1\n", 'saltern_machines{state="good"} 6\n')
        text = until(
            lambda: (t := dashboard.ask("GET", "/metrics").text) and all(each in t for each in words) and t,
            "one viewer and six machines that are well",
        )
    assert "saltern_dashboard_redis_up 1" in text
    assert "saltern_dashboard_looks_total" in text
    until(lambda: "saltern_dashboard_viewers 0" in dashboard.ask("GET", "/metrics").text, "nobody")


def test_who_may_only_read_redis_can_run_it(tmp_path: Path) -> None:
    """The user `observer`, as salt/redis/users.acl.j2 makes it."""
    sha = dict.fromkeys(
        ("admin", "controller", "product", "flags-reader", "observer", "replica", "sentinel"),
        # of the password "x"
        "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",
    )
    source = (Path(__file__).resolve().parents[2] / "salt/redis/users.acl.j2").read_text()
    text = jinja2.Environment().from_string(source).render(pillar={"secrets": {"redis_sha256": sha}})
    (tmp_path / "users.acl").write_text(text.strip() + "\n")
    folder = tmp_path / "redis"
    folder.mkdir()
    port = free_port()
    process = redis_process(folder, port, "--aclfile", str(tmp_path / "users.acl"))
    process.start()
    admin = redis.Redis(port=port, username="admin", password="x", decode_responses=True, retry=NEVER)
    try:
        until(lambda: _pings(admin), "Redis answering")
        painter = Painter(admin)
        painter.begin()
        painter.second()
        link = {"addresses": [f"127.0.0.1:{port}"], "username": "observer", "password": "x"}
        stand = DashboardStand(tmp_path, port, changes={"redis": link}).start()
        try:
            picture = until(lambda: (p := stand.picture()).get("alerts") and p, "the whole picture")
            assert not [each for each in picture["problems"] if "Redis" in each or "NOPERM" in each]
            assert picture["machines"]["redis1"]["word"] == "primary"
            line = next(iter(picture["journal"]))
            assert stand.ask("GET", f"/why?q={line}").status == 200
        finally:
            stand.process.end()
    finally:
        process.end()


# --- changing


def test_without_signing_in_nothing_can_be_changed(desk: DashboardStand, painter: Painter) -> None:
    before = painter.registry.snapshot()
    for path in ("/actions", "/plan"):
        answer = desk.ask("POST", path, {"do": "share", "share": 50})
        assert (answer.status, answer.error) == (
            401,
            "sign in first: changing something needs the write token",
        )
        forged = {"Cookie": "saltern_session=forged", "X-CSRF-Token": "forged"}
        assert desk.ask("POST", path, {"do": "share", "share": 50}, forged).status == 401
    assert painter.registry.snapshot() == before


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"X-CSRF-Token": ""}, 403, "X-CSRF-Token: missing or wrong"),
        ({"X-CSRF-Token": "guessed"}, 403, "X-CSRF-Token: missing or wrong"),
        ({"X-CSRF-Token": "\xff"}, 403, "X-CSRF-Token: missing or wrong"),
        ({"Origin": "http://evil.test"}, 403, "comes from another site"),
        ({"Origin": "null"}, 403, "comes from another site"),
        ({"Sec-Fetch-Site": "cross-site"}, 403, "comes from another site"),
        ({"Sec-Fetch-Site": "same-site"}, 403, "comes from another site"),
        ({"Content-Type": "text/plain"}, 415, "application/json"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415, "application/json"),
    ],
)
def test_a_request_that_another_site_could_make_is_refused(
    refusing: DashboardStand, painter: Painter, changes: dict[str, str], status: int, words: str
) -> None:
    before = painter.registry.snapshot()
    headers = {**signed_in(refusing), **changes}
    answer = refusing.ask("POST", "/actions", {"do": "share", "share": 50}, headers)
    assert answer.status == status
    assert words in answer.error
    assert painter.registry.snapshot() == before


def test_a_change_says_what_will_happen_then_happens_and_is_in_the_journal(
    desk: DashboardStand, painter: Painter
) -> None:
    headers = {**signed_in(desk), "Origin": f"http://127.0.0.1:{desk.port}", "Sec-Fetch-Site": "same-origin"}
    asked = {"do": "share", "share": 50}
    before = painter.registry.snapshot()
    assert (
        desk.ask("POST", "/plan", asked, headers).data["will"][0]
        == "The canary's share becomes 50 %; it is 30 % now."
    )
    assert painter.registry.snapshot() == before, "saying it does nothing"
    answer = desk.ask("POST", "/actions", asked, headers)
    assert (answer.status, answer.data["before"], answer.data["after"]) == (200, {"share": 30}, {"share": 50})
    assert painter.registry.snapshot().split.share == 50
    lines = [each for each in desk.picture()["journal"].values() if each["kind"] == "admin.write"]
    line = until(
        lambda: [e for e in desk.picture()["journal"].values() if e["kind"] == "admin.write"] or lines,
        "the line",
    )[0]
    assert line["who"].startswith("admin:write@")


def test_every_action_reaches_what_it_is_about(
    desk: DashboardStand, painter: Painter, client: redis.Redis
) -> None:
    headers = signed_in(desk)

    def act(**asked: Any) -> None:
        answer = desk.ask("POST", "/actions", asked, headers)
        assert answer.status in (200, 202), answer.text

    act(do="canary.off", reason="looks wrong")
    assert painter.registry.snapshot().latches["canary"].reason == "looks wrong"
    act(do="canary.on")
    assert not painter.registry.snapshot().latches
    act(do="instance", id="prod2", want="drain")
    assert painter.registry.snapshot().instances["prod2"].want == "drain"
    act(do="instance", id="prod2", want="ready")
    assert painter.registry.snapshot().instances["prod2"].want == "ready"
    act(do="flag", key="font_color", variant="red")
    act(do="flag.state", key="disable_set", on=False)
    flags = json.loads(client.get("saltern:flags"))["flags"]
    assert flags["font_color"]["defaultVariant"] == "red"
    assert flags["disable_set"]["state"] == "DISABLED"


def test_a_release_by_steps_is_led_from_the_page_as_by_the_runners(
    desk: DashboardStand, painter: Painter
) -> None:
    headers = signed_in(desk)

    def act(command: str, status: int = 200) -> dict[str, Any]:
        asked = {"do": "step", "command": command, "reason": f"{command} it"}
        answer = desk.ask("POST", "/actions", asked, headers)
        assert answer.status == status, answer.text
        return answer.data

    def phase(wanted: str) -> None:
        until(lambda: desk.picture()["steps"].get("phase") == wanted, wanted)

    assert "no release is on its way" in act("pause", 400)["error"]
    assert act("start")["phase"] == "stepping"
    assert painter.registry.snapshot().split.share == 5
    phase("stepping")
    assert act("pause")["reason"] == "pause it"
    phase("paused")
    assert act("resume")["phase"] == "stepping"
    phase("stepping")
    assert act("promote")["phase"] == "promoted"
    phase("promoted")
    assert act("abort")["phase"] == "aborted"
    assert painter.registry.snapshot().split.share == 0
    phase("aborted")
    # One that was aborted never starts again, whoever asks.
    painter.registry.canary_on(by="test")
    assert "r2 was aborted" in act("start", 409)["error"]


def test_an_alert_is_silenced_and_the_silence_ended_from_the_page_and_both_are_in_the_journal(
    painter: Painter, server: tuple[Process, int], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    process, api = mute_alertmanager(tmp_path, free_port())
    request.addfinalizer(process.end)
    behind = AdminStand(tmp_path, server[1], {"alertmanager": api.url}).start()
    request.addfinalizer(behind.process.end)
    desk = DashboardStand(tmp_path, server[1], behind.port, {"alertmanager": api.url}).start()
    request.addfinalizer(desk.process.end)
    headers = signed_in(desk)
    asked = {"do": "silence", "alert": "CpuHigh", "machine": "staging1", "hours": 0.5, "reason": "new disk"}
    will = desk.ask("POST", "/plan", asked, headers).data["will"]
    assert will[0] == "For 0.5 hours nobody is mailed about CpuHigh of staging1."
    assert api.silences() == [], "saying it does nothing"
    assert desk.ask("POST", "/actions", asked, headers).status == 200
    (silence,) = api.silences()
    assert silence["comment"] == "new disk" and silence["createdBy"].startswith("admin:write@")
    until(lambda: desk.picture()["silences"].get(silence["id"]), "it is on the page")
    ended = {"do": "unsilence", "id": silence["id"]}
    assert desk.ask("POST", "/actions", ended, headers).status == 200
    assert api.silences() == []
    assert "there is none" in desk.ask("POST", "/actions", ended, headers).data["error"]
    lines = [(line.kind, line.subject) for line in newest(painter.client) if line.kind.startswith("alert.")]
    assert lines[:2] == [("alert.unsilence", silence["id"]), ("alert.silence", "staging1")]
    # Without Alertmanager nothing is pretended.
    process.end()
    answer = desk.ask("POST", "/actions", asked, headers)
    assert answer.status == 503 and "does not answer" in answer.data["error"]


def test_builds_are_shown_with_their_log_tests_and_coverage(
    painter: Painter, server: tuple[Process, int], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    good, odd = BUILDS
    with builds_served(tmp_path) as url:
        desk = DashboardStand(tmp_path, server[1], changes={"builds": url}).start()
        request.addfinalizer(desk.process.end)
        shown = until(lambda: desk.picture().get("builds"), "the builds")
        assert shown[good.id]["state"] == "passed" and shown[good.id]["took"] == 9.5
        assert shown[good.id]["stages"] == {"build": "1.2 s  release r2709ee1d8651"}
        assert shown[odd.id]["name"] == "<b>odd</b>", "text, and the page writes it as text"
        log = desk.ask("GET", f"/builds/{odd.id}/log")
        assert log.data == {"log": "== build\nof <script>alert(1)</script>\n", "whole": True}
        assert log.headers["content-type"] == "application/json"
        tests = desk.ask("GET", f"/builds/{good.id}/tests").data
        assert tests["counts"] == {"passed": 1, "failed": 1, "skipped": 1}
        assert tests["failed"] == [{"name": "tests.test_items::test_long", "why": "assert 1 == 2"}]
        coverage = desk.ask("GET", f"/builds/{good.id}/coverage").data
        assert (coverage["percent"], coverage["files"][0]["name"]) == (81.2, "product/items.py")
        for path in (
            f"/builds/{odd.id}/tests",
            "/builds/20261121-999999-abcdef0/log",
            "/builds/..%2f..%2fx/log",
        ):
            answer = desk.ask("GET", path)
            assert answer.status == 404 and "error" in answer.data, path
        assert desk.ask("GET", f"/builds/{good.id}/junit.xml").status == 404
    until(
        lambda: any("builds are shown as they were" in p for p in desk.picture()["problems"]),
        "it is told",
        60,
    )
    assert desk.picture()["builds"][good.id]["state"] == "passed"


@pytest.mark.parametrize(
    ("token", "status", "words"),
    [
        ("wrong", 401, "not one of the fleet's"),
        (READ, 403, "may only read"),
        ("", 400, "write token"),
        ("a b", 400, "write token"),
        ("x\r\nX-Evil: 1", 400, "write token"),
        ("x" * 600, 400, "write token"),
        (7, 400, "write token"),
    ],
)
def test_a_token_that_may_not_write_signs_nobody_in(
    desk: DashboardStand, token: Any, status: int, words: str
) -> None:
    answer = desk.ask("POST", "/session", {"token": token})
    assert answer.status == status
    assert words in answer.error
    assert "set-cookie" not in answer.headers
    assert str(token or "never") not in answer.text


def test_guessing_tokens_is_slowed_down_for_who_guesses(desk: DashboardStand) -> None:
    answers: list[int] = []
    while answers[-1:] != [429] and len(answers) < 200:
        sent = {"X-Forwarded-For": f"10.9.9.{len(answers)}"}
        answers.append(desk.ask("POST", "/session", {"token": f"guess{len(answers)}"}, sent).status)
    assert answers[:10] == [401] * 10
    assert answers[-1] == 429


def test_signing_out_ends_it_and_a_token_that_is_taken_back_does_too(
    desk: DashboardStand, admin: AdminStand
) -> None:
    headers = signed_in(desk)
    assert desk.ask("GET", "/session", headers=headers).data["signed_in"]
    assert desk.ask("DELETE", "/session", {}, {"Cookie": headers["Cookie"]}).status == 403
    assert desk.ask("DELETE", "/session", {}, headers).status == 200
    assert desk.ask("POST", "/actions", {"do": "canary.on"}, headers).status == 401
    headers = signed_in(desk)
    admin.process.end()
    admin.document["tokens"]["write"] = admin.document["tokens"]["read"]
    admin.start()
    assert desk.ask("POST", "/actions", {"do": "canary.on"}, headers).status == 401
    assert not desk.ask("GET", "/session", headers=headers).data["signed_in"]


def test_an_admin_api_that_is_away_is_told_and_looking_goes_on(
    desk: DashboardStand, admin: AdminStand
) -> None:
    headers = signed_in(desk)
    admin.process.end()
    answer = desk.ask("POST", "/actions", {"do": "share", "share": 1}, headers)
    assert answer.status == 502
    assert "does not answer" in answer.error and "look first" in answer.error
    assert desk.ask("GET", "/state").status == 200


@pytest.mark.parametrize(
    ("raw", "status"),
    [(b"{", 400), (b"", 400), (b"[]", 400), (b'{"do": 1, "do": 2}', 400), (b"x" * 5000, 413)],
)
def test_a_body_that_is_no_action_is_refused(refusing: DashboardStand, raw: bytes, status: int) -> None:
    headers = signed_in(refusing)
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.create_connection(("127.0.0.1", refusing.port), timeout=PATIENCE) as link:
        link.sendall(
            f"POST /actions HTTP/1.1\r\nHost: x\r\n{head}Content-Type: application/json\r\n"
            f"Content-Length: {len(raw)}\r\nConnection: close\r\n\r\n".encode()
            + raw
        )
        answer = b""
        while part := link.recv(4096):
            answer += part
    assert answer.startswith(b"HTTP/1.1 %d" % status), answer
    assert b'"error"' in answer


# --- many, and the end


def test_fifty_viewers_see_the_same_and_a_fifty_first_is_told_to_come_back(
    painter: Painter, server: tuple[Process, int], tmp_path: Path
) -> None:
    stand = DashboardStand(tmp_path, server[1], changes={"viewers": 50}).start()
    seen: list[int] = []
    opened = threading.Barrier(51, timeout=PATIENCE)

    def view() -> None:
        with Viewer(stand.port) as viewer:
            viewer.until(lambda p: p.get("split"), "the first picture")
            opened.wait()
            seen.append(viewer.until(lambda p: p["split"]["share"] == 66 and 66, "the change"))

    threads = [threading.Thread(target=view, daemon=True) for _ in range(50)]
    try:
        for thread in threads:
            thread.start()
        opened.wait()
        answer = stand.ask("GET", "/events")
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        assert stand.ask("GET", "/").status == 200, "a page can be loaded all the same"
        painter.registry.set_share(66, by="anna")
        for thread in threads:
            thread.join(PATIENCE)
        assert seen == [66] * 50
    finally:
        stand.process.end()


def test_it_ends_at_once_although_pages_listen(dashboard: DashboardStand) -> None:
    with Viewer(dashboard.port) as viewer:
        viewer.until(lambda p: p.get("split"), "the first picture")
        dashboard.process.send(signal.SIGTERM)
        # To its end, which a connection has not come to that is torn when patience with it is over.
        viewer.answer.read()
        dashboard.process.end()


def test_a_configuration_that_cannot_be_ends_it_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "dashboard.json").write_text('{"redis": {"addresses": ["127.0.0.1:1"]}}')
    done = subprocess.run(
        [sys.executable, "-m", "saltern.dashboard", "--config", str(tmp_path / "dashboard.json")],
        capture_output=True, text=True, timeout=PATIENCE, check=False, env={"PYTHONPATH": ":".join(map(str, OURS))},
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.strip().count("\n") == 0
    assert "admin: None is not an address" in done.stderr


def test_nothing_is_written_by_looking(
    dashboard: DashboardStand, client: redis.Redis, painter: Painter
) -> None:
    before = Registry(client).snapshot(), client.xlen(JOURNAL), sorted(client.keys())
    with Viewer(dashboard.port) as viewer:
        viewer.until(lambda p: p.get("alerts"), "the whole picture")
        dashboard.ask("GET", "/why?q=canary")
        dashboard.ask("GET", "/metrics")
    after = Registry(client).snapshot(), client.xlen(JOURNAL), sorted(client.keys())
    assert before == after
