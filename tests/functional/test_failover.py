"""What happens to requests when a server, the controller, Redis or HAProxy itself goes away."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable

import pytest
from host import until
from saltern.observed import pool_totals, read_observed, read_windows
from traffic_stand import Machine, Stand, dying_server

pytestmark = pytest.mark.functional


@pytest.fixture
def fleet(stand: Stand) -> Stand:
    """Three production servers and a canary, all serving, the canary with its 30 percent."""
    for id_ in ("prod1", "prod2", "prod3", "staging1"):
        stand.add(id_)
    stand.await_up("prod1", "prod2", "prod3", "staging1")
    stand.await_share(30)
    return stand


def test_a_canary_killed_under_load_costs_no_request_and_comes_back_by_itself(fleet: Stand) -> None:
    with fleet.loading(clients=16) as load:
        for _ in range(5):
            before = load.count(pool="canary")
            until(lambda: load.count(pool="canary") > before + 10, "canary traffic")  # noqa: B023 - awaited here
            fleet.backends["staging1"].end(signal.SIGKILL)
            fleet.await_share(0)
            fleet.start_backend("staging1")
            fleet.await_share(30)
    assert not load.failures
    assert load.count(status=200) == load.total


def test_a_production_server_killed_under_load_costs_no_request(fleet: Stand) -> None:
    with fleet.loading(clients=16) as load:
        for id_ in ("prod1", "prod2"):
            before = load.total
            until(lambda: load.total > before + 50, "traffic")  # noqa: B023 - awaited in the loop
            fleet.backends[id_].end(signal.SIGKILL)
            until(lambda: "down" in fleet.servers()[id_], f"{id_} down")  # noqa: B023 - awaited in the loop
            fleet.start_backend(id_)
            fleet.await_up(id_)
    assert not load.failures
    assert load.count(status=200) == load.total


def test_with_the_canary_refusing_connections_the_next_request_goes_to_production(fleet: Stand) -> None:
    fleet.backends["staging1"].end(signal.SIGKILL)
    answers = [fleet.get(headers={"X-Saltern-Canary": "always"}) for _ in range(20)]
    assert {(a.status, a.pool) for a in answers} == {(200, "prod")}


def test_a_canary_with_a_failing_health_check_gets_nothing_until_it_has_settled(
    make_stand: Callable[..., Stand],
) -> None:
    stand = make_stand(canary={"settle_s": 1})
    stand.start()
    for id_ in ("prod1", "staging1"):
        stand.add(id_)
    stand.await_share(30)
    stand.get("/mode?health=503", {"X-Saltern-Canary": "always"})
    stand.await_share(0)
    stand.await_status(lambda s: s["share_reason"] == "no canary is healthy", "the reason")
    said = stand.controller.log.stat().st_size
    stand.backends["staging1"].end(signal.SIGKILL)
    stand.start_backend("staging1")
    stand.await_share(30)
    told = stand.controller.log.read_text()[said:]
    assert re.findall(r"the canary gets (.*)", told) == [
        "0 %: the canary is healthy again, settling for 1 s", "30 %: as the registry says",
    ]  # fmt: skip


def test_errors_above_the_hard_limit_turn_the_canary_off_until_a_person_turns_it_on(fleet: Stand) -> None:
    fleet.get("/mode?status=500", {"X-Saltern-Canary": "always"})
    with fleet.loading(clients=4):
        fleet.await_share(0)
        latch = until(lambda: fleet.registry.snapshot().latches.get("canary"), "the latch in the registry")
    assert latch.by == "controller"
    assert "is above 5 %" in latch.reason
    assert latch.releases == ("r1",)
    fleet.await_status(lambda s: s["share_reason"].startswith("off: error rate"), "the reason")
    entry = [fields for _, fields in fleet.client.xrange("saltern:journal") if fields["kind"] == "canary.off"]
    assert [json.loads(fields["fields"])["reason"] for fields in entry] == [latch.reason]
    fleet.get("/mode?status=200", {"X-Saltern-Canary": "always"})
    time.sleep(1)
    assert fleet.share() == 0, "health alone does not open a latch"
    fleet.registry.canary_on(by="ann")
    fleet.await_share(30)


def test_a_new_release_opens_the_latch_and_the_old_one_registering_again_does_not(fleet: Stand) -> None:
    fleet.registry.canary_off("trying", by="ann")
    fleet.await_share(0)
    fleet.registry.register("staging1", "127.0.0.1", fleet.ports["staging1"], "r1", "canary", by="test")
    assert "canary" in fleet.registry.snapshot().latches
    fleet.registry.register("staging1", "127.0.0.1", fleet.ports["staging1"], "r2", "canary", by="test")
    fleet.await_share(30)


def test_without_redis_everything_goes_on_and_health_says_so(fleet: Stand) -> None:
    fleet.redis.end(signal.SIGKILL)
    status = fleet.await_status(lambda s: not s["registry"]["ok"], "the loss being noticed")
    assert status["ok"] is False
    assert "Error" in status["registry"]["problem"]
    assert status["haproxy"]["ok"] is True
    load = fleet.load(500)
    assert not load.failures
    assert load.count(pool="canary") > 0
    fleet.backends["staging1"].end(signal.SIGKILL)
    fleet.await_share(0)
    assert fleet.load(100).count(status=200, pool="prod") >= 96


def test_without_redis_the_hard_limit_acts_at_once_and_is_reported_later(fleet: Stand) -> None:
    fleet.client.config_set("appendonly", "no")
    fleet.client.config_set("save", "3600 1")
    fleet.client.save()
    fleet.redis.end(signal.SIGKILL)
    fleet.get("/mode?status=500", {"X-Saltern-Canary": "always"})
    with fleet.loading(clients=4):
        fleet.await_share(0)
    fleet.await_status(lambda s: s["reports_waiting"] == 1, "a report waiting")
    # Not even a restart of the controller in between loses what has to be told.
    fleet.controller.end(signal.SIGKILL)
    fleet.start_controller()
    assert fleet.share() == 0
    fleet.start_redis()
    latch = until(lambda: fleet.registry.snapshot().latches.get("canary"), "the latch in the registry")
    assert "is above 5 %" in latch.reason
    fleet.await_status(lambda s: s["reports_waiting"] == 0, "nothing left to report")
    fleet.registry.canary_on(by="ann")
    fleet.get("/mode?status=200", {"X-Saltern-Canary": "always"})
    fleet.await_share(30)


def test_a_restarted_controller_changes_nothing(fleet: Stand) -> None:
    before = fleet.servers(), fleet.share()
    log = fleet.controller.log
    with fleet.loading(clients=8) as load:
        fleet.controller.end(signal.SIGKILL)
        size = log.stat().st_size
        fleet.start_controller()
        fleet.await_status(lambda s: s["ok"], "the controller well again")
        time.sleep(0.7)
    assert (fleet.servers(), fleet.share()) == before
    assert not load.failures
    assert " commands" not in log.read_text()[size:]


def test_a_controller_that_was_away_catches_up(fleet: Stand) -> None:
    fleet.controller.end()
    fleet.registry.set_share(60, by="test")
    fleet.registry.want("prod2", "drain", by="test")
    fleet.add("prod4")
    fleet.start_controller()
    fleet.await_share(60)
    fleet.await_servers(
        {
            "prod1": "ready/up",
            "prod2": "drain/up",
            "prod3": "ready/up",
            "prod4": "ready/up",
            "staging1": "ready/up",
        }
    )


def test_haproxy_restarted_with_controller_and_redis_away_has_its_servers_and_split(fleet: Stand) -> None:
    fleet.registry.want("prod3", "drain", by="test")
    fleet.registry.set_share(45, by="test")
    fleet.await_share(45)
    expected = {"prod1": "ready/up", "prod2": "ready/up", "prod3": "drain/up", "staging1": "ready/up"}
    fleet.await_servers(expected)
    until(lambda: (fleet.state_dir / "split.acl").read_text() == "0:44\n", "the split on disk")
    until(lambda: fleet.wishes(on_disk=True) == fleet.wishes(), "the servers on disk")
    fleet.controller.end(signal.SIGKILL)
    fleet.redis.end(signal.SIGKILL)
    fleet.haproxy.end(signal.SIGTERM)
    fleet.start_haproxy()
    fleet.await_servers(expected)
    assert fleet.share() == 45
    load = fleet.load(400)
    assert not load.failures
    assert load.count(status=200) == load.total
    assert {instance for (_, _, instance) in load.answers} == {"prod1", "prod2", "staging1"}


def test_haproxy_restarted_with_nothing_on_disk_is_filled_again(fleet: Stand) -> None:
    fleet.haproxy.end(signal.SIGTERM)
    (fleet.state_dir / "servers.state").write_text("1\n")
    for name in ("split.acl", "instances.map", "releases.map"):
        (fleet.state_dir / name).write_text("")
    fleet.start_haproxy()
    fleet.await_up("prod1", "prod2", "prod3", "staging1")
    fleet.await_share(30)
    until(lambda: "prod2" in (fleet.state_dir / "instances.map").read_text(), "the maps on disk again")


def test_haproxy_away_is_reported_and_the_controller_waits(fleet: Stand) -> None:
    fleet.haproxy.end(signal.SIGTERM)
    status = fleet.await_status(lambda s: not s["haproxy"]["ok"], "the loss being noticed")
    assert "admin.sock" in status["haproxy"]["problem"]
    assert fleet.controller.running
    fleet.start_haproxy()
    fleet.await_status(lambda s: s["ok"], "the controller well again")


def test_a_wiped_registry_takes_nobody_away_and_keeps_the_canary_off(fleet: Stand) -> None:
    fleet.registry.canary_off("errors", by="ann")
    fleet.await_share(0)
    fleet.client.flushall()
    fleet.await_status(lambda s: s["registry"]["revision"] < 3, "the wiped registry being read")
    time.sleep(0.5)
    assert set(fleet.servers().values()) == {"ready/up"}
    assert fleet.share() == 0
    fleet.await_status(lambda s: set(s["kept"]) == {"prod1", "prod2", "prod3", "staging1"}, "all kept")
    assert (
        until(lambda: fleet.registry.snapshot().latches.get("canary"), "the latch restored").reason
        == "errors"
    )
    fleet.registry.unregister("prod2", force=True, by="ann")
    fleet.await_servers({"prod1": "ready/up", "prod3": "ready/up", "staging1": "ready/up"})
    # Turned on again by a person it stays on, although the controller still knows a newer past.
    fleet.registry.canary_on(by="ann")
    fleet.registry.register("staging1", "127.0.0.1", fleet.ports["staging1"], "r1", "canary", by="test")
    fleet.await_share(30)
    time.sleep(0.7)
    assert fleet.registry.snapshot().latches == {}


def test_a_hostile_value_written_past_the_registry_is_neither_obeyed_nor_taken_for_absent(
    fleet: Stand,
) -> None:
    fleet.client.hset("saltern:instance:prod2", mapping={"addr": "10.0.0.1;shutdown frontend public"})
    fleet.client.hset(
        "saltern:instance:*", mapping={"pool": "prod", "addr": "10.0.0.1", "port": "1", "release": "r"}
    )
    fleet.client.sadd("saltern:instances", "*")
    fleet.registry.set_share(31, by="test")
    fleet.await_share(31)
    status = fleet.await_status(lambda s: s["kept"], "it being reported")
    assert "is not the IP address of one host" in status["kept"]["prod2"]
    assert fleet.servers()["prod2"] == "ready/up"
    assert set(fleet.servers()) == {"prod1", "prod2", "prod3", "staging1"}


def test_the_last_live_production_server_stays_until_a_person_forces_it(fleet: Stand) -> None:
    for id_ in ("prod1", "prod2", "prod3"):
        fleet.registry.want(id_, "maint", by="test")
    # Which of the three it is depends on how many of the wishes the controller read at once.
    kept = fleet.await_status(lambda s: s["kept"], "it being reported")["kept"]
    (last,) = kept
    others = dict.fromkeys({"prod1", "prod2", "prod3"} - {last}, "maint/down")
    fleet.await_servers({last: "ready/up", **others, "staging1": "ready/up"})
    assert "last live production server" in kept[last]
    assert fleet.load(100).count(status=200) >= 96
    fleet.registry.want(last, "maint", force=True, by="ann")
    fleet.await_servers({last: "maint/down", **others, "staging1": "ready/up"})


def test_what_haproxy_sees_is_published_and_expires_with_the_controller(fleet: Stand) -> None:
    fleet.load(200)
    seen = until(
        lambda: (
            (t := fleet.client.get("saltern:observed")) and (o := json.loads(t)) and o["share"] == 30 and o
        ),
        "observations",
    )
    assert set(seen["servers"]) == {"prod1", "prod2", "prod3", "staging1"}
    assert seen["servers"]["staging1"]["pool"] == "canary"
    assert seen["servers"]["prod1"]["phase"] == "ready"
    assert seen["servers"]["prod1"]["check"] == "L7OK"

    def requests() -> tuple[int, int]:
        rows = [json.loads(f["data"])["pools"] for _, f in fleet.client.xrange("saltern:windows")]
        return sum(r["prod"]["requests"] for r in rows), sum(r["canary"]["requests"] for r in rows)

    until(lambda: sum(requests()) >= 200, "every request in some window")
    prod, canary = requests()
    assert canary > 0
    assert prod + canary == 200
    rows = read_windows(fleet.client, time.time() - 600, time.time() + 1)
    totals = pool_totals(rows, "canary")
    assert totals is not None
    assert (totals["requests"], totals["errors"]) == (canary, 0)
    assert totals["latency_kind"] == "second"
    assert 0 < len(totals["latency_ms"]) <= len(rows)
    assert pool_totals([], "prod") is None
    fleet.controller.end(signal.SIGKILL)
    # Gone already, or about to be.
    assert fleet.client.ttl("saltern:observed") in (-2, *range(6))
    fleet.client.delete("saltern:observed")
    assert read_observed(fleet.client) is None


def test_a_failed_request_that_production_answered_is_an_error_of_the_canary(fleet: Stand) -> None:
    with dying_server() as (address, got):
        fleet.registry.register("staging1", *address, "r2", "canary", by="test")
        until(lambda: fleet.get(headers={"X-Saltern-Canary": "always"}).pool == "prod", "the canary failing")
        asked = time.time()
        until(
            lambda: (
                (t := pool_totals(read_windows(fleet.client, asked - 600, time.time() + 1), "canary"))
                and t["errors"] >= 1
            ),
            "the error in a window",
        )
        assert got


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs root")
def test_a_canary_that_dies_without_a_word_costs_no_request(make_stand: Callable[..., Stand]) -> None:
    stand = make_stand(check={"timeout_ms": 1000}, timeout={"connect_ms": 1000, "unacked_ms": 2000})
    stand.start()
    for id_ in ("prod1", "prod2"):
        stand.add(id_)
    machine = Machine()
    try:
        port = stand.start_backend("staging1", machine.address, machine.inside)
        stand.registry.register("staging1", machine.address, port, "r1", "canary", by="test")
        stand.await_up("prod1", "prod2", "staging1")
        stand.await_share(30)
        with stand.loading(clients=16) as load:
            until(lambda: load.count(pool="canary") > 50, "canary traffic")
            machine.drop()
            stand.await_share(0)
            canary = load.count(pool="canary")
            total = load.total
            until(lambda: load.total > total + 200, "traffic going on")
            assert load.count(pool="canary") == canary
            machine.deliver()
            stand.await_share(30)
        assert not load.failures
        assert load.count(status=200) == load.total
    finally:
        stand.backends["staging1"].end(signal.SIGKILL)
        machine.close()
