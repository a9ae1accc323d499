"""Taking the canary out while parts of the control plane are away: Redis, the controller, HAProxy, the disk."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Iterator

import pytest
from admin_stand import READ, AdminStand
from host import until
from saltern import orders
from traffic_stand import Stand

pytestmark = pytest.mark.functional

ALERT = {"source": "staging1", "reason": "12 % errors", "cause": "5-0", "details": {"errors": 12}}


@pytest.fixture
def stand(make_stand: Callable[..., Stand]) -> Stand:
    """A traffic plane whose canary has its share and whose controller takes orders."""
    made = make_stand()
    made.start()
    made.add("prod1")
    made.add("staging1")
    made.await_up("prod1", "staging1")
    made.await_share(30)
    return made


@pytest.fixture
def api(stand: Stand) -> Iterator[AdminStand]:
    """Its admin API."""
    made = AdminStand.before(stand, {"redis": {"timeout_s": 1}})
    yield made.start()
    made.process.end()


def journal(stand: Stand) -> list[dict]:
    """The journal, oldest first."""
    return [{**line, "id": id_} for id_, line in stand.client.xrange("saltern:journal")]


def share_stays(stand: Stand, share: int) -> None:
    """The share is this now, and after the controller has looked again."""
    assert stand.share() == share
    seen = stand.status()["ts"]
    until(lambda: stand.status()["ts"] > seen + 1, "the controller looking again")
    assert stand.share() == share


@pytest.mark.parametrize(("path", "body"), [("/alert", ALERT), ("/canary/off", None)])
@pytest.mark.parametrize("how", ["gone", "silent"])
def test_without_redis_the_canary_is_out_at_once_stays_out_and_the_registry_learns_of_it_later(
    stand: Stand, api: AdminStand, path: str, body: dict | None, how: str
) -> None:
    if how == "gone":
        stand.redis.end(signal.SIGKILL)
    else:
        stand.redis.send(signal.SIGSTOP)
    reply = api.ask("POST", path, body)
    assert stand.share() == 0
    assert (reply.status, reply.data["accepted"], reply.data["cut"]) == (202, True, True)
    assert "Redis does not answer" in reply.data["text"] and "\n" not in reply.data["text"]
    share_stays(stand, 0)
    # The controller has it in its own state and needs the file no more.
    until(lambda: not orders.waiting(api.orders), "the order being taken")
    if how == "gone":
        stand.start_redis()
    else:
        stand.redis.send(signal.SIGCONT)
    until(lambda: stand.client.exists("saltern:latch:canary"), "the latch in the registry")
    latch = stand.registry.snapshot().latches["canary"]
    assert latch.reason == ("staging1: 12 % errors" if body else "turned off by hand")
    written = until(lambda: [x for x in journal(stand) if x["kind"] == "admin.write"], "the journal line")[-1]
    assert written["subject"] == f"POST {path}"
    fields = json.loads(written["fields"])
    assert fields["who"] == "admin:write@127.0.0.1"
    assert fields.get("errors") == (12 if body else None)
    assert written["cause"] == ("5-0" if body else "")


def test_other_changes_say_that_they_need_redis(stand: Stand, api: AdminStand) -> None:
    stand.redis.end(signal.SIGKILL)
    for method, path, body in (
        ("GET", "/split", None),
        ("PUT", "/split", {"share": 10}),
        ("GET", "/instances", None),
        ("PUT", "/instances/prod1", {"want": "drain"}),
        ("POST", "/canary/on", None),
    ):
        reply = api.ask(method, path, body)
        assert (reply.status, reply.headers["retry-after"]) == (503, "2")
        assert reply.error.startswith("redis: cannot be reached")
    assert stand.share() == 30
    health = api.ask("GET", "/health", token=READ)
    assert (health.status, health.data["status"], health.data["redis"]["ok"]) == (503, "degraded", False)
    assert api.ask("GET", "/health", token="").data == {"status": "degraded"}
    assert "saltern_registry_up 0" in api.ask("GET", "/metrics", token=READ).text


def test_an_order_given_while_the_controller_is_away_too_is_carried_out_when_it_comes(
    stand: Stand, api: AdminStand
) -> None:
    stand.controller.end(signal.SIGKILL)
    stand.redis.end(signal.SIGKILL)
    reply = api.ask("POST", "/alert", ALERT)
    assert (reply.status, reply.data["cut"]) == (202, True)
    assert stand.share() == 0
    assert [order.id for order in orders.waiting(api.orders)] == [reply.data["order"]]
    # It comes with the share of 30 it remembers, and without Redis to tell it better.
    stand.start_controller()
    share_stays(stand, 0)
    assert orders.waiting(api.orders) == []
    stand.controller.end(signal.SIGKILL)
    stand.start_controller()
    share_stays(stand, 0)


def test_with_redis_but_without_the_controller_haproxy_is_told_directly(
    stand: Stand, api: AdminStand
) -> None:
    stand.controller.end(signal.SIGKILL)
    until(lambda: not api.ask("GET", "/health", token=READ).data["controller"]["ok"], "a stale status")
    reply = api.ask("POST", "/canary/off", {"reason": "sick"})
    assert (reply.status, reply.data["cut"], reply.data["order"]) == (202, True, "")
    assert "the registry has it and HAProxy was told directly" in reply.data["text"]
    assert stand.share() == 0
    assert stand.registry.snapshot().latches["canary"].reason == "sick"
    assert orders.waiting(api.orders) == []


def test_with_haproxy_away_as_well_the_order_waits_for_the_controller(stand: Stand, api: AdminStand) -> None:
    stand.redis.end(signal.SIGKILL)
    stand.haproxy.end(signal.SIGKILL)
    stand.socket.unlink(missing_ok=True)
    reply = api.ask("POST", "/alert", ALERT)
    assert (reply.status, reply.data["cut"]) == (202, False)
    assert "HAProxy could not be told directly" in reply.data["text"]
    stand.start_haproxy()
    stand.await_share(0)
    share_stays(stand, 0)


def test_an_order_that_cannot_be_kept_is_no_success(stand: Stand, api: AdminStand) -> None:
    stand.redis.end(signal.SIGKILL)
    stand.controller.end(signal.SIGKILL)
    shutil.rmtree(api.orders)
    reply = api.ask("POST", "/alert", ALERT)
    assert reply.status == 503
    assert (
        "cannot be kept" in reply.error and "HAProxy gives the canary nothing for the moment" in reply.error
    )
    assert stand.share() == 0


def test_turning_the_canary_on_withdraws_orders_nobody_has_taken(stand: Stand, api: AdminStand) -> None:
    stand.controller.end(signal.SIGKILL)
    orders.give(api.orders, orders.Order("old news", "test"))
    assert api.ask("POST", "/canary/on").status == 200
    assert orders.waiting(api.orders) == []
    stand.start_controller()
    stand.await_share(30)
