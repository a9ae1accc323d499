"""Which Redis machines there are, whether Sentinel watches them, and how clients find the primary."""

from __future__ import annotations

import pytest
from saltern import pillar, secrets
from saltern.fleet import REPOSITORY
from saltern.redis_link import connect
from saltern.topology import access, topology

ADDRESSES = {"redis1": "10.0.0.1", "redis2": "10.0.0.2", "redis3": "10.0.0.3", "redis10": "10.0.0.10"}


def of(count: int, meant: int = 0, first: str = "redis1"):
    return topology(dict(list(ADDRESSES.items())[:count]), first, meant)


@pytest.mark.parametrize(
    ("count", "meant", "sentinel", "quorum", "min_replicas"),
    [
        (1, 0, False, 1, 0),
        (2, 0, False, 2, 0),
        (3, 0, True, 2, 1),
        (4, 0, True, 3, 1),
        (2, 3, True, 2, 1),  # one of three is being replaced
        (1, 3, True, 2, 1),
        (3, 1, True, 2, 1),
    ],
)
def test_sentinel_watches_where_it_can_elect_somebody(count, meant, sentinel, quorum, min_replicas):
    found = of(count, meant)
    assert (found.sentinel, found.quorum, found.min_replicas) == (sentinel, quorum, min_replicas)


@pytest.mark.parametrize(
    ("first", "order"),
    [
        ("redis1", ["redis1", "redis2", "redis3", "redis10"]),
        ("redis3", ["redis3", "redis1", "redis2", "redis10"]),
        ("redis7", ["redis1", "redis2", "redis3", "redis10"]),
    ],
)
def test_the_first_primary_comes_first_and_then_the_numbers_count(first, order):
    found = of(4, first=first)
    assert list(found.nodes) == order
    assert found.first == order[0]


SETTINGS = pillar.load(REPOSITORY / "pillar")["redis"]
KEPT = secrets.generate()


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("ca", ["", "-----BEGIN CERTIFICATE-----"])
def test_what_a_user_is_told_is_what_its_client_reads(count, ca):
    told = access(of(count), SETTINGS, "observer", KEPT, ca)
    assert told["redis"]["addresses"][0] == "10.0.0.1:6379"
    assert ("sentinel" in told) == (count == 3)
    assert ("tls" in told["redis"]) == bool(ca)
    connect(told).close()


def test_a_fleet_remembers_how_many_redis_machines_it_was_made_with(fleet):
    assert fleet.redis_machines() == 0
    assert not pillar.redis_topology(fleet, SETTINGS).sentinel
    fleet.mean(["proxy1", "redis1", "redis2", "redis3", "prod1"])
    assert fleet.redis_machines() == 3
    found = pillar.redis_topology(fleet, SETTINGS)
    assert (list(found.nodes), found.sentinel) == (["redis1", "redis2"], True)
    assert "sentinel" in pillar.for_machine(fleet, "proxy1")["links"]["controller"]
    assert "sentinel" in pillar.for_machine(fleet, "redis1")["links"]["replica"]


def test_a_fleet_without_redis_is_told_of_none(make_fleet):
    told = pillar.for_machine(make_fleet({"ops1": "10.99.0.16"}), "ops1")
    assert told["links"] == {}
    assert "redis" not in told["fleet"]
