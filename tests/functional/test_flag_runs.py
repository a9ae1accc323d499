"""`salt-run flags.*` and the first flags of a new fleet, on a real Redis."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import redis
import yaml
from admin_stand import OURS
from host import PATIENCE, free_port
from openfeature_redis import flagset
from saltern import secrets
from saltern.fleet import REPOSITORY, Fleet
from test_admin_runners import runner
from traffic_stand import redis_process, redis_server

pytestmark = pytest.mark.functional

SEED = REPOSITORY / "salt" / "proxy" / "flags.json"
DOCUMENT = json.loads(SEED.read_text())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A Redis; its port."""
    process, port = redis_server(tmp_path_factory.mktemp("redis"))
    yield port
    process.end()


@pytest.fixture
def client(server: int) -> Iterator[redis.Redis]:
    """The Redis, empty."""
    with redis.Redis(port=server, decode_responses=True) as made:
        made.flushall()
        yield made


@pytest.fixture
def flags(client: redis.Redis, server: int, make_fleet: Callable[..., Fleet], tmp_path: Path) -> ModuleType:
    """The runner, of a fleet whose Redis that is."""
    pillar = shutil.copytree(REPOSITORY / "pillar", tmp_path / "pillar")
    settings = yaml.safe_load((pillar / "redis.sls").read_text())
    settings["redis"]["port"] = server
    (pillar / "redis.sls").write_text(yaml.safe_dump(settings))
    fleet = make_fleet({"redis1": "127.0.0.1"}, pillar_dir=pillar)
    password = secrets.load(fleet)["redis"]["admin"]
    client.acl_setuser("admin", enabled=True, reset=True, passwords=[f"+{password}"], keys="*", channels="*",
                       categories=["+@all"])  # fmt: skip
    return runner("flags", fleet)


@pytest.fixture
def filled(flags: ModuleType, client: redis.Redis) -> ModuleType:
    """The same with the flags of a new fleet."""
    flagset.write(client, DOCUMENT, who="test", why="test")
    return flags


def stored(client: redis.Redis) -> dict:
    return json.loads(client.get("saltern:flags"))["flags"]


def line(client: redis.Redis) -> dict[str, str]:
    """The newest line of the journal."""
    return client.xrevrange("saltern:journal", count=1)[0][1]


def test_flags_are_listed_and_told_one_by_one(filled: ModuleType) -> None:
    told = filled.list_()
    assert list(told["flags"]) == sorted(DOCUMENT["flags"])
    assert told["flags"]["font_color"]["defaultVariant"] == "default"
    assert filled.get("new_layout") == DOCUMENT["flags"]["new_layout"]
    assert filled.get("nope")["retcode"] == 1


def test_a_change_is_in_force_in_the_history_and_in_the_journal(
    filled: ModuleType, client: redis.Redis
) -> None:
    done = filled.set_("font_color", "blue", why="the sea is", cause="8-0", by="ana")
    assert (done["changed"], done["revision"]) == (True, 2)
    assert stored(client)["font_color"]["defaultVariant"] == "blue"
    newest = filled.history()[0]
    assert {**newest, "when": 0} == {
        "revision": 2, "who": "ana", "why": "the sea is", "when": 0, "changed": ["font_color"],
    }  # fmt: skip
    noted = line(client)
    assert (noted["kind"], noted["subject"], noted["who"], noted["cause"]) == (
        "flags.set",
        "font_color",
        "ana",
        "8-0",
    )
    assert json.loads(noted["fields"]) == {
        "why": "the sea is",
        "before": {"defaultVariant": "default"},
        "after": {"defaultVariant": "blue"},
    }
    again = filled.set_("font_color", "blue")
    assert (again["changed"], again["revision"], client.xlen("saltern:journal")) == (False, 2, 1)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"variant": "summer"}, {"defaultVariant": "summer"}),
        ({"value": "Our list"}, {"defaultVariant": "custom"}),
        ({"value": "long " * 100}, {"defaultVariant": "custom"}),
        ({"definition": DOCUMENT["flags"]["font_color"]}, DOCUMENT["flags"]["font_color"]),
    ],
)
def test_a_flag_is_set_by_variant_by_value_or_whole(
    filled: ModuleType, client: redis.Redis, given: dict, expected: dict
) -> None:
    assert filled.set_("site_title", **given)["changed"] is True
    assert expected.items() <= stored(client)["site_title"].items()
    assert filled.undo()["changed"] == ["site_title"]
    assert stored(client) == DOCUMENT["flags"]


def test_a_rollout_is_widened_and_a_default_behind_it_is_remarked_on(
    filled: ModuleType, client: redis.Redis
) -> None:
    assert "note" not in filled.set_("new_layout", percent=50)
    assert stored(client)["new_layout"]["targeting"] == {"fractional": [["on", 50], ["off", 50]]}
    assert "targeting decides first" in filled.set_("new_layout", True)["note"]


def test_a_flag_is_taken_out_of_force_and_back(filled: ModuleType, client: redis.Redis) -> None:
    assert filled.disable("show_picture", why="too slow")["changed"] is True
    assert stored(client)["show_picture"]["state"] == "DISABLED"
    assert filled.history(1)[0]["why"] == "too slow"
    assert filled.enable("show_picture")["changed"] is True
    assert filled.enable("show_picture")["changed"] is False
    assert stored(client) == DOCUMENT["flags"]


def test_the_newest_change_all_since_a_revision_and_an_undo_are_undone(
    filled: ModuleType, client: redis.Redis
) -> None:
    filled.set_("font_color", "red")
    filled.set_("show_picture", True)
    assert filled.undo()["changed"] == ["show_picture"]
    assert filled.undo(why="after all")["changed"] == ["show_picture"]
    assert stored(client)["show_picture"]["defaultVariant"] == "on"
    assert line(client)["kind"] == "flags.undo"
    assert filled.undo(revision=2)["changed"] == ["font_color", "show_picture"]
    assert stored(client) == DOCUMENT["flags"]


@pytest.mark.parametrize("past", ["{", "[]", '{"flags": {"a": 7}}', '{"flags": {}}'])
def test_what_was_written_past_the_history_is_told_and_taken_back_only_when_that_is_asked_for(
    filled: ModuleType, client: redis.Redis, past: str
) -> None:
    client.set("saltern:flags", past)
    refused = filled.undo()
    assert refused["retcode"] == 1 and client.get("saltern:flags") == past
    if past != '{"flags": {}}':
        for answer in (filled.list_(), filled.set_("font_color", "red"), filled.get("font_color")):
            assert "flags.undo unrecorded=True brings the last good set back" in answer["error"]
    assert client.get("saltern:flags") == past
    assert filled.undo(unrecorded=True)["revision"] == 2
    assert stored(client) == DOCUMENT["flags"]


@pytest.mark.parametrize(
    ("function", "arguments", "words"),
    [
        ("set_", {"key": "nope", "variant": "on"}, "flags: there is no flag 'nope'; there are: disable_set"),
        ("set_", {"key": "font_color", "variant": "pink"}, "font_color has no variant 'pink'"),
        ("set_", {"key": "font_color"}, "give one of variant, value, percent, definition; given: none"),
        ("set_", {"key": "font_color", "variant": "red", "value": "#111"}, "given: variant, value"),
        ("set_", {"key": "show_picture", "value": "yes"}, "flags: $.flags.show_picture.variants"),
        ("set_", {"key": "new", "definition": 7}, "flags: $.flags.new"),
        ("set_", {"key": "new", "definition": {"state": "ON", "variants": {"a": 1}}}, "$.flags.new"),
        ("set_", {"key": "font_color", "variant": "red", "why": "a\nb"}, "flags.why"),
        ("set_", {"key": "font_color", "variant": "red", "by": 7}, "flags.by"),
        ("set_", {"key": "font_color", "variant": "red", "by": " "}, "flags: who is empty"),
        ("enable", {"key": "nope"}, "there is no flag 'nope'"),
        ("disable", {"key": "*"}, "there is no flag '*'"),
        ("undo", {"revision": 77}, "revision 77 is not a change of the flags"),
        ("undo", {"revision": "all"}, "revision 'all' is not a number"),
        ("undo", {"revision": 1, "unrecorded": True}, "not both"),
        ("history", {"limit": 0}, "limit 0 is not between 1 and"),
        ("history", {"limit": "all"}, "limit 'all' is not between"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_and_changes_nothing(
    filled: ModuleType, client: redis.Redis, function: str, arguments: dict, words: str
) -> None:
    before = client.get("saltern:flags"), client.get("saltern:revision"), client.xlen("saltern:journal")
    answer = getattr(filled, function)(**arguments)
    assert answer["retcode"] == 1
    assert words in answer["error"] and "\n" not in answer["error"]
    after = client.get("saltern:flags"), client.get("saltern:revision"), client.xlen("saltern:journal")
    assert after == before


def test_an_edit_that_another_came_before_is_made_again_on_what_is_there_then(
    filled: ModuleType, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, others = flagset.write, [1]

    def write(*arguments: object, **words: object) -> object:
        if others:
            others.pop()
            flagset.set_default(client, "show_picture", "on", who="another", why="meanwhile")
        return real(*arguments, **words)

    monkeypatch.setattr(flagset, "write", write)
    assert filled.set_("font_color", "red")["changed"] is True
    assert stored(client)["show_picture"]["defaultVariant"] == "on"
    assert stored(client)["font_color"]["defaultVariant"] == "red"


# -- the first flags


def seed(port: int, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run what the state runs."""
    config = folder / "admin.json"
    config.write_text(json.dumps({"redis": {"addresses": [f"127.0.0.1:{port}"], "timeout_s": 10}}))
    flags = folder / "flags.json"
    if not flags.exists():
        shutil.copy(SEED, flags)
    command = [
        sys.executable,
        "-m",
        "saltern.flag_seed",
        "--config",
        str(config),
        "--flags",
        str(flags),
        *more,
    ]
    path = {"PYTHONPATH": ":".join(map(str, OURS))}
    return subprocess.run(command, env=path, capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_the_first_flags_are_written_once_and_nobodys_change_is_overwritten(
    flags: ModuleType, client: redis.Redis, server: int, tmp_path: Path
) -> None:
    would = seed(server, tmp_path, "--test")
    assert would.stdout.splitlines()[-1] == "changed=yes comment='the first flags would be written'", (
        would.stderr
    )
    assert not client.exists("saltern:flags")
    done = seed(server, tmp_path)
    assert done.stdout.splitlines()[-1] == "changed=yes comment='the first flags written'"
    assert stored(client) == DOCUMENT["flags"]
    assert flags.history()[0]["why"] == "the flags a new fleet starts with"
    flags.set_("font_color", "red")
    for more in ((), ("--test",)):
        again = seed(server, tmp_path, *more)
        assert again.stdout.splitlines()[-1].startswith("changed=no")
    assert stored(client)["font_color"]["defaultVariant"] == "red"
    client.delete("saltern:flags")
    assert seed(server, tmp_path).stdout.splitlines()[-1].startswith("changed=no"), "somebody took them away"
    assert not client.exists("saltern:flags")


def test_the_first_flags_wait_for_a_redis_that_is_only_being_made(tmp_path: Path) -> None:
    port = free_port()
    config, flags = tmp_path / "admin.json", tmp_path / "flags.json"
    config.write_text(json.dumps({"redis": {"addresses": [f"127.0.0.1:{port}"], "timeout_s": 10}}))
    shutil.copy(SEED, flags)
    path = {"PYTHONPATH": ":".join(map(str, OURS))}
    command = [sys.executable, "-m", "saltern.flag_seed", "--config", str(config), "--flags", str(flags)]
    waiting = subprocess.Popen(command, env=path, stdout=subprocess.PIPE, text=True)
    folder = tmp_path / "redis"
    folder.mkdir()
    process = redis_process(folder, port)
    process.start()
    try:
        said, _ = waiting.communicate(timeout=PATIENCE)
        assert said.splitlines()[-1].startswith("changed=yes")
    finally:
        waiting.kill()
        waiting.wait()
        process.end()


@pytest.mark.parametrize(
    ("content", "words"),
    [("{", "flags.json: not JSON"), ('{"flags": {"a": 7}}', "first flags: flags: $.flags.a"), (None, "")],
)
def test_first_flags_that_cannot_be_used_are_refused_in_one_line(
    client: redis.Redis, server: int, tmp_path: Path, content: str | None, words: str
) -> None:
    if content is None:  # a Redis that does not come
        done = seed(free_port(), tmp_path, "--wait", "0.3")
        words = "first flags: Error"
    else:
        (tmp_path / "flags.json").write_text(content)
        done = seed(server, tmp_path)
    assert done.returncode == 1
    assert words in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert not client.exists("saltern:flags")
