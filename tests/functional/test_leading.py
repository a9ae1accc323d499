"""The lease in a real Redis: one leads however many want to, and an earlier leader writes nothing more."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from conductor_stand import SECRET, Server
from host import until
from saltern import leading, secrets, signing
from saltern.conductor import Conductor
from saltern.intents import Fenced, Intent, Queue
from saltern.leading import LEASE, LEASE_S, Keeper, Lease, Lost
from saltern.provisioning import KINDS
from saltern.registry import FELT

A, B = "10.0.0.1", "10.0.0.2"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = Server()
    made.start()
    yield made
    made.close()


@pytest.fixture
def client(server: Server) -> Iterator[redis.Redis]:
    found = server.client()
    found.flushall()
    yield found
    found.close()


class Clock:
    """A monotonic clock that a test turns."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def ended(client: redis.Redis) -> None:
    """Nobody renewed the lease for as long as it lasts."""
    client.delete(LEASE)


def test_of_many_that_ask_at_once_one_leads(client: redis.Redis):
    for _ in range(20):
        ended(client)
        start = threading.Barrier(8)
        leases = [Lease(client, f"10.0.0.{number}") for number in range(1, 9)]

        def ask(lease: Lease, start: threading.Barrier = start) -> bool:
            start.wait()
            return lease.renew().token > 0

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(ask, leases)) == 1
        (leader,) = (lease for lease in leases if lease.leads())
        assert {lease.held.leader for lease in leases} == {leader.me}
        assert leading.leader(client) == leading.Answer(leader.me, leader.held.token)


def test_a_lease_goes_on_for_its_holder_and_lasts_no_longer_than_it_says(client: redis.Redis):
    clock = Clock()
    lease, other = Lease(client, A, clock), Lease(client, B, clock)
    first = lease.renew()
    clock.now += 5
    assert lease.renew().token == first.token
    assert 0 < client.pttl(LEASE) <= LEASE_S * 1000
    assert other.renew().token == 0
    clock.now += LEASE_S
    assert not lease.leads()
    assert not other.leads()


def test_every_new_lease_has_a_number_above_all_before_it(client: redis.Redis):
    numbers = []
    for me in (A, B, B, A):
        ended(client)
        numbers.append(Lease(client, me).renew().token)
    # A process that starts again while the lease of the one before lasts.
    numbers.append(Lease(client, A).renew().token)
    assert numbers == sorted(set(numbers))


def test_a_leader_that_slept_too_long_finds_another_and_starts_afresh(client: redis.Redis):
    lease, other = Lease(client, A), Lease(client, B)
    lease.renew()
    ended(client)
    assert other.renew().token
    with pytest.raises(Lost, match=f"{re.escape(B)} leads"):
        lease.renew()
    assert not lease.leads()
    assert other.leads()


def test_what_an_earlier_leader_writes_is_refused_and_changes_nothing(client: redis.Redis):
    old, new = Lease(client, A), Lease(client, B)
    old.renew()
    queue = Queue(client, "conductor", old.fence)
    begun, _ = queue.put(Intent("scale", "prod", {"to": 2}))
    queue.prepare()
    queue.begin(begun)
    ended(client)
    new.renew()
    before = (
        client.hgetall(f"saltern:intent:{begun}"),
        client.xlen("saltern:journal"),
        client.xlen("saltern:queue"),
    )
    for write in (
        lambda: queue.put(Intent("scale", "canary", {"to": 2})),
        lambda: queue.begin(begun),
        lambda: queue.record(begun, "choose", {"add": ["prod9"]}),
        lambda: queue.retry(begun, 1, 1.0, "late"),
        lambda: queue.finish(begun, "done", {}),
    ):
        with pytest.raises(Fenced, match=re.escape(f"{A} 1 led, and now {B} 2")):
            write()
    assert before == (
        client.hgetall(f"saltern:intent:{begun}"), client.xlen("saltern:journal"), client.xlen("saltern:queue"),
    )  # fmt: skip
    theirs = Queue(client, "conductor", new.fence)
    assert theirs.fresh() == [begun]
    assert theirs.record(begun, "choose", {"add": ["prod2"]}) == {"add": ["prod2"]}
    # Whoever wishes for something needs no lease.
    assert Queue(client).put(Intent("scale", "canary", {"to": 2}))[1]


def test_while_nobody_leads_a_leader_of_before_is_refused_too(client: redis.Redis):
    lease = Lease(client, A)
    lease.renew()
    ended(client)
    with pytest.raises(Fenced, match="and now nobody"):
        Queue(client, "conductor", lease.fence).put(Intent("scale", "prod", {"to": 2}))


def test_a_keeper_renews_through_an_outage_and_ends_when_another_leads(server: Server, client: redis.Redis):
    lease = Lease(client, A)
    keeper = Keeper(lease)
    keeper.start()
    try:
        until(lease.leads, "it leads")
        token = lease.held.token
        server.kill()
        server.start()
        fresh = server.client()
        until(lambda: fresh.pttl(LEASE) > (LEASE_S - 1) * 1000, "it is renewed after the outage")
        assert lease.held.token == token
        fresh.hset(LEASE, mapping={"holder": B, "token": token + 1})
        until(lambda: not keeper.alive(), "the keeper ends")
        assert f"{B} leads" in str(keeper.lost)
        assert not lease.leads()
        fresh.close()
    finally:
        keeper.stop()


def test_a_master_that_follows_hears_and_does_what_there_is_to_do_when_it_leads(client: redis.Redis):
    other, lease = Lease(client, A), Lease(client, B)
    other.renew()
    lease.renew()
    said: list = []
    conductor = Conductor(
        client, None, SECRET, lambda: pytest.fail("it decides"), fire=lambda *event: said.append(event),  # type: ignore[arg-type]
        alarm=said.append, kinds=KINDS, leads=lease.leads, fence=lease.fence,
    )  # fmt: skip
    tag = "salt/beacon/prod1/cpu/high"
    key = secrets.event_key(SECRET, "prod1")
    payload = {**signing.sign(key, "prod1", tag, {"percent": 91.0}), "id": "prod1"}
    assert conductor.hear(tag, payload)
    assert not conductor.hear(tag, {**payload, "id": "prod2"})
    conductor.step()
    assert client.hgetall(FELT) == {}
    ended(client)
    lease.renew()
    with pytest.raises(pytest.fail.Exception, match="it decides"):
        conductor.step()
    assert list(client.hgetall(FELT)) == ["prod1/cpu"]
    # What was forged meanwhile was the other's to tell.
    assert client.xlen("saltern:journal") == 0
    assert said == []
