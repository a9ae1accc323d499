"""The registry on a real Redis: each change one atomic step, and only when something changes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from host import free_port, until
from redis.backoff import NoBackoff
from redis.retry import Retry
from saltern import registry
from saltern.redis_link import connect
from saltern.registry import Change, Conflict, Instance, Registry, RegistryError, UnknownInstance
from traffic_stand import Process, redis_server

pytestmark = pytest.mark.functional


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis of this module's own."""
    server, port = redis_server(tmp_path_factory.mktemp("redis"))
    yield f"127.0.0.1:{port}"
    server.end()


@pytest.fixture
def client(address: str) -> Iterator[redis.Redis]:
    """An empty Redis."""
    with connect({"redis": {"addresses": [address]}}) as client:
        client.flushall()
        yield client


@pytest.fixture
def reg(client: redis.Redis) -> Registry:
    """A registry with one production server and one canary."""
    made = Registry(client)
    made.register("prod1", "10.0.0.1", 8080, "r1", "prod", by="ann", cause="c-1")
    made.register("staging1", "10.0.1.1", 8080, "r2", "canary", by="ann")
    return made


def journal(reg: Registry) -> list[dict[str, Any]]:
    """The journal's lines with their fields parsed."""
    lines = [fields for _, fields in reg.client.xrange(registry.JOURNAL)]
    return [{**line, "fields": json.loads(line["fields"])} for line in lines]


def test_an_empty_registry_has_nobody_and_the_default_share(client: redis.Redis) -> None:
    assert Registry(client).snapshot() == registry.State()


def test_a_registered_instance_is_read_back(reg: Registry) -> None:
    state = reg.snapshot()
    assert state.revision == 2
    one = state.instances["prod1"]
    assert one == Instance("prod1", "prod", "10.0.0.1", 8080, "r1", "ready", one.since)
    assert abs(one.since - time.time()) < 60
    assert reg.client.hgetall("saltern:instance:prod1").keys() >= {
        "pool",
        "addr",
        "port",
        "release",
        "want",
        "since",
    }


Act = Callable[[Registry], Change]
CHANGES: list[tuple[str, Act, str, str, dict[str, Any]]] = [
    (
        "register",
        lambda r: r.register("prod2", "10.0.0.2", 8080, "r1", "prod", by="ann", cause="c-9"),
        "instance.register",
        "prod2",
        {"pool": "prod", "addr": "10.0.0.2", "port": 8080, "release": "r1"},
    ),
    (
        "register elsewhere",
        lambda r: r.register("prod1", "10.0.0.9", 8080, "r3", "prod", by="ann", cause="c-9"),
        "instance.register",
        "prod1",
        {"pool": "prod", "addr": "10.0.0.9", "port": 8080, "release": "r3", "was": "r1"},
    ),
    (
        "unregister",
        lambda r: r.unregister("prod1", by="ann", cause="c-9"),
        "instance.unregister",
        "prod1",
        {"force": False},
    ),
    (
        "want",
        lambda r: r.want("prod1", "drain", limit_s=30, by="ann", cause="c-9"),
        "instance.want",
        "prod1",
        {"want": "drain", "was": "ready", "limit": 30, "force": False},
    ),
    (
        "want by force",
        lambda r: r.want("prod1", "maint", force=True, by="ann", cause="c-9"),
        "instance.want",
        "prod1",
        {"want": "maint", "was": "ready", "force": True},
    ),
    ("share", lambda r: r.set_share(10, by="ann", cause="c-9"), "split.share", "split", {"share": 10}),
    ("first share", lambda r: r.init_share(30, by="ann", cause="c-9"), "split.share", "split", {"share": 30}),
    (
        "canary off",
        lambda r: r.canary_off("memory 93 %", by="ann", cause="c-9"),
        "canary.off",
        "canary",
        {"reason": "memory 93 %", "releases": "r2"},
    ),
]


@pytest.mark.parametrize(
    ("what", "act", "kind", "subject", "fields"), CHANGES, ids=[row[0] for row in CHANGES]
)
def test_a_change_is_one_revision_one_notice_and_one_line_and_the_same_again_is_nothing(
    reg: Registry, what: str, act: Act, kind: str, subject: str, fields: dict[str, Any]
) -> None:
    with reg.client.pubsub(ignore_subscribe_messages=True) as notices:
        notices.subscribe(registry.REVISION)
        until(lambda: reg.client.pubsub_numsub(registry.REVISION)[0][1] == 1, "the subscription")
        lines = len(journal(reg))
        first = act(reg)
        assert (first.changed, first.revision) == (True, 3)
        notice = until(lambda: notices.get_message(timeout=1), "a notice")
        assert notice["data"] == "3"
        line = journal(reg)[lines]
        assert (line["kind"], line["subject"], line["who"], line["cause"]) == (kind, subject, "ann", "c-9")
        assert line["fields"] == fields
        assert line["revision"] == "3"
        assert reg.client.xrevrange(registry.JOURNAL, count=1)[0][0] == first.journal
        before = reg.snapshot()
        again = act(reg)
        assert again == Change(False, 3, "")
        assert reg.snapshot() == before
        assert len(journal(reg)) == lines + 1
        assert notices.get_message(timeout=0.1) is None


def test_registering_again_keeps_what_is_wanted_and_since_when(reg: Registry) -> None:
    reg.want("prod1", "drain", by="ann")
    since = reg.snapshot().instances["prod1"].since
    reg.register("prod1", "10.0.0.7", 8081, "r9", "prod", by="ann")
    one = reg.snapshot().instances["prod1"]
    assert (one.want, one.since, one.addr, one.port, one.release) == ("drain", since, "10.0.0.7", 8081, "r9")


def test_since_is_when_the_wanted_state_changed(reg: Registry) -> None:
    before = reg.snapshot().instances["prod1"].since
    reg.want("prod1", "drain", by="ann")
    drained = reg.snapshot().instances["prod1"].since
    assert drained > before
    reg.want("prod1", "drain", limit_s=5, by="ann")
    one = reg.snapshot().instances["prod1"]
    assert (one.since, one.limit_s) == (drained, 5.0)
    reg.want("prod1", "ready", by="ann")
    assert reg.snapshot().instances["prod1"].limit_s is None


def test_force_lasts_until_the_instance_is_wanted_ready_again(reg: Registry) -> None:
    reg.want("prod1", "maint", force=True, by="ann")
    assert reg.snapshot().forced == {"prod1"}
    reg.want("prod1", "ready", by="ann")
    assert reg.snapshot().forced == set()
    reg.unregister("prod1", force=True, by="ann")
    assert reg.snapshot().forced == {"prod1"}
    reg.register("prod1", "10.0.0.1", 8080, "r1", "prod", by="ann")
    assert reg.snapshot().forced == set()


def test_a_share_set_by_a_person_survives_the_next_highstate(reg: Registry) -> None:
    assert reg.init_share(30).changed
    reg.set_share(5, by="ann")
    assert not reg.init_share(30).changed
    assert reg.snapshot().split.share == 5
    assert reg.snapshot().split.by == "ann"


def test_canary_off_keeps_its_first_reason_and_on_opens_it(reg: Registry) -> None:
    reg.canary_off("first", cause="a-1", by="monitor")
    assert not reg.canary_off("second", by="monitor").changed
    latch = reg.snapshot().latches["canary"]
    assert (latch.reason, latch.cause, latch.by, latch.releases) == ("first", "a-1", "monitor", ("r2",))
    assert reg.canary_on(by="ann").changed
    assert not reg.canary_on(by="ann").changed
    assert reg.snapshot().latches == {}


def test_the_latch_opens_only_when_no_canary_carries_an_old_release(reg: Registry) -> None:
    reg.register("staging2", "10.0.1.2", 8080, "r2", "canary", by="ann")
    reg.canary_off("errors", by="monitor")
    reg.register("prod1", "10.0.0.1", 8080, "r9", "prod", by="ann")
    reg.register("staging1", "10.0.1.1", 8080, "r3", "canary", by="ann")
    assert "canary" in reg.snapshot().latches, "staging2 still runs what failed"
    change = reg.register("staging2", "10.0.1.2", 8080, "r3", "canary", by="ann")
    assert reg.snapshot().latches == {}
    last = journal(reg)[-1]
    assert (last["kind"], last["cause"]) == ("canary.on", change.journal)
    assert change.revision == reg.snapshot().revision


REFUSED: list[tuple[str, Callable[[Registry], object], type[RegistryError], str]] = [
    ("hostile id", lambda r: r.register("*", "10.0.0.1", 1, "r1", "prod"), RegistryError, "id"),
    (
        "hostile release",
        lambda r: r.register("prod1", "10.0.0.1", 1, "r1;quit", "prod"),
        RegistryError,
        "release",
    ),
    (
        "name for an address",
        lambda r: r.register("prod1", "evil.example", 1, "r1", "prod"),
        RegistryError,
        "address",
    ),
    ("unregister everything", lambda r: r.unregister("*"), RegistryError, "is not a machine id"),
    ("want of nobody", lambda r: r.want("prod7", "drain"), UnknownInstance, "prod7 is not registered"),
    ("want nonsense", lambda r: r.want("prod1", "down"), RegistryError, "want"),
    ("share", lambda r: r.set_share(130), RegistryError, "split: share 130 is not between 0 and 100"),
    (
        "old revision",
        lambda r: r.set_share(10, expect_revision=1),
        Conflict,
        "revision is 2, not the expected 1",
    ),
    ("old revision", lambda r: r.want("prod1", "drain", expect_revision=7), Conflict, "revision is 2"),
    (
        "old revision",
        lambda r: r.register("prod1", "10.0.0.9", 1, "r1", "prod", expect_revision=0),
        Conflict,
        "revision is 2",
    ),
    ("no reason", lambda r: r.canary_off(""), RegistryError, "canary: off needs a reason"),
    ("two lines", lambda r: r.canary_off("a\nb"), RegistryError, "printable"),
    ("a hostile who", lambda r: r.set_share(5, by="x\x00"), RegistryError, "by"),
    ("a hostile kind", lambda r: r.note("a\nb", "c", {}, by="ann"), RegistryError, "journal.kind"),
]


@pytest.mark.parametrize(("what", "act", "error", "message"), REFUSED, ids=[row[0] for row in REFUSED])
def test_what_is_refused_changes_nothing(
    reg: Registry, what: str, act: Callable[[Registry], object], error: type[RegistryError], message: str
) -> None:
    before, lines = reg.snapshot(), journal(reg)
    with pytest.raises(error, match=message):
        act(reg)
    assert reg.snapshot() == before
    assert journal(reg) == lines


def test_of_writers_that_meet_with_the_same_expectation_exactly_one_wins(reg: Registry, address: str) -> None:
    start, won, lost = threading.Barrier(8), [], []

    def write(share: int) -> None:
        with connect({"redis": {"addresses": [address]}}) as own:
            mine = Registry(own)
            revision = mine.snapshot().revision
            start.wait()
            try:
                mine.set_share(share, by=f"w{share}", expect_revision=revision)
                won.append(share)
            except Conflict:
                lost.append(share)

    threads = [threading.Thread(target=write, args=(share,)) for share in range(40, 48)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
    assert reg.snapshot().split.share == won[0]
    assert reg.snapshot().revision == 3


def test_a_snapshot_is_never_half_of_a_change(reg: Registry, address: str) -> None:
    stop, torn = threading.Event(), []

    def read() -> None:
        with connect({"redis": {"addresses": [address]}}) as own:
            mine = Registry(own)
            while not stop.is_set():
                it = mine.snapshot().instances["prod1"]
                if it.addr.rpartition(".")[2] != it.release[1:]:
                    torn.append(it)

    reader = threading.Thread(target=read)
    reg.register("prod1", "10.0.0.0", 8080, "r0", "prod")
    reader.start()
    for n in range(300):
        reg.register("prod1", f"10.0.0.{n % 200}", 8080, f"r{n % 200}", "prod")
    stop.set()
    reader.join()
    assert not torn


def test_a_note_is_a_line_without_a_revision(reg: Registry) -> None:
    before = reg.snapshot().revision
    line = reg.note(
        "drain.cut", "prod1", {"requests": [], "sessions": 2, "was": {}}, by="controller", cause="c-1"
    )
    assert reg.snapshot().revision == before
    assert reg.client.xrange(registry.JOURNAL, line, line)
    assert journal(reg)[-1]["fields"] == {"requests": [], "sessions": 2, "was": {}}


def test_the_journal_is_bounded(reg: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "JOURNAL_LENGTH", 50)
    for _ in range(400):
        reg.note("test", "journal", {}, by="ann")
    assert reg.client.xlen(registry.JOURNAL) < 200


RIGHTS = [
    "+ping",
    "+eval_ro",
    "+evalsha",
    "+script|load",
    "+subscribe",
    "+unsubscribe",
    "+publish",
    "+get",
    "+set",
    "+incr",
    "+time",
    "+exists",
    "+del",
    "+hget",
    "+hgetall",
    "+hset",
    "+hdel",
    "+sadd",
    "+srem",
    "+smembers",
    "+sismember",
    "+xadd",
    "~saltern:*",
    "&saltern:*",
]
"""What the controller's Redis user may do; the redis state grants the same."""


def test_the_documented_rights_suffice_for_everything_the_registry_does(reg: Registry, address: str) -> None:
    reg.client.execute_command("ACL", "SETUSER", "controller", "reset", "on", ">pw", "-@all", *RIGHTS)
    config = {"redis": {"addresses": [address], "username": "controller", "password": "pw"}}
    with connect(config) as limited:
        own = Registry(limited)
        own.register("prod4", "10.0.0.4", 8080, "r1", "prod")
        own.want("prod4", "drain", limit_s=3, force=True)
        own.want("prod4", "ready")
        own.set_share(12)
        own.init_share(30)
        own.canary_off("trying")
        own.canary_on()
        own.note("test", "x", {}, by="ann")
        own.unregister("prod4", force=True)
        assert own.snapshot().split.share == 12
        with limited.pubsub() as notices:
            notices.subscribe(registry.REVISION)
        limited.set("saltern:observed", "{}", ex=5)
        limited.xadd("saltern:windows", {"data": "{}"}, maxlen=10, approximate=True)
        with pytest.raises(redis.exceptions.NoPermissionError):
            limited.get("product:items")
        with pytest.raises(redis.exceptions.NoPermissionError):
            limited.flushall()


def test_after_a_failover_the_writers_reach_the_new_primary(tmp_path: Path) -> None:
    first, first_port = redis_server(tmp_path / "a", "--repl-diskless-sync-delay", "0")
    second, second_port = redis_server(tmp_path / "b", "--replicaof", "127.0.0.1", str(first_port))
    sentinel_port = free_port()
    file = tmp_path / "sentinel.conf"
    file.write_text(
        f"port {sentinel_port}\nbind 127.0.0.1\ndir {tmp_path}\n"
        f"sentinel monitor saltern 127.0.0.1 {first_port} 1\n"
        "sentinel down-after-milliseconds saltern 500\nsentinel failover-timeout saltern 2000\n"
    )
    sentinel = Process(["redis-server", str(file), "--sentinel"], tmp_path / "sentinel.log")
    sentinel.start()
    try:
        config = {
            "redis": {"addresses": [f"127.0.0.1:{first_port}"], "timeout_s": 5},
            "sentinel": {
                "addresses": [f"127.0.0.1:{free_port()}", f"127.0.0.1:{sentinel_port}"],
                "service": "saltern",
            },
        }

        def knows_replica() -> bool:
            try:
                with redis.Redis(
                    port=sentinel_port, decode_responses=True, retry=Retry(NoBackoff(), 0)
                ) as asked:
                    state = asked.sentinel_master("saltern")
                return state["num-slaves"] == 1
            except redis.RedisError:
                return False

        until(knows_replica, "Sentinel knowing the replica")
        with connect(config) as client:
            reg = Registry(client)
            reg.register("prod1", "10.0.0.1", 8080, "r1", "prod")
            with redis.Redis(port=second_port) as replica:
                until(lambda: replica.exists("saltern:instance:prod1"), "replication")
            first.end(9)

            def writes() -> bool:
                try:
                    return reg.set_share(17).revision >= 2
                except redis.RedisError:
                    return False

            until(writes, "a write on the new primary", pause=0.1)
            assert reg.snapshot().split.share == 17
            assert "prod1" in reg.snapshot().instances
            with redis.Redis(port=second_port, decode_responses=True) as promoted:
                assert promoted.hget("saltern:split", "share") == "17"
    finally:
        for process in (sentinel, second, first):
            process.end()
