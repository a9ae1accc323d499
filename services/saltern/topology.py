"""Which Redis machines a fleet has, whether Sentinel watches over them, and how a client finds the primary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SERVICE = "saltern"
"""The primary's name among the Sentinels."""
LEAST_WATCHED = 3
"""Fewer machines elect nobody when one of them is gone, so a Sentinel on them would help nobody."""


@dataclass(frozen=True)
class Topology:
    """The Redis machines.

    :ivar nodes: address by id, the first primary first
    :ivar sentinel: whether Sentinel decides who is primary; else the first one is, always
    :ivar quorum: Sentinels that must agree that the primary is gone
    :ivar min_replicas: replicas the primary must hear of to take a write
    """

    nodes: Mapping[str, str]
    sentinel: bool
    quorum: int
    min_replicas: int

    @property
    def first(self) -> str:
        """The machine that is primary when the fleet is made, and stays it where there is no Sentinel."""
        return next(iter(self.nodes))

    def as_pillar(self) -> dict[str, Any]:
        """What machines are told of it."""
        return {
            "first": self.first, "nodes": dict(self.nodes), "sentinel": self.sentinel, "quorum": self.quorum,
            "min_replicas": self.min_replicas, "service": SERVICE,
        }  # fmt: skip


def topology(addresses: Mapping[str, str], first: str, meant: int = 0) -> Topology:
    """Decide.

    A primary that is cut off must lose no write: where another may be elected, it takes none without a replica. Where
    none can be, there is nothing to lose against, and it goes on alone.

    :param addresses: the Redis machines, by id
    :param first: the Redis machine that is primary when the fleet is made
    :param meant: how many Redis machines the fleet was made with; while one of them is being replaced, nothing changes
    """
    ids = sorted(addresses, key=lambda id_: (id_ != first, int(id_.removeprefix("redis"))))
    count = max(len(ids), meant)
    sentinel = count >= LEAST_WATCHED
    return Topology(
        nodes={id_: addresses[id_] for id_ in ids},
        sentinel=sentinel,
        quorum=count // 2 + 1,
        min_replicas=1 if sentinel else 0,
    )


def access(
    found: Topology, settings: Mapping[str, Any], user: str, kept: Mapping[str, Any], ca: str = ""
) -> dict[str, Any]:
    """How one user reaches Redis, as `redis_link.connect` reads it.

    :param settings: the pillar's `redis`
    :param kept: the fleet's secrets
    :param ca: the authority, in PEM, whose certificates the servers show; empty where nothing is encrypted
    """
    answer: dict[str, Any] = {
        "redis": {
            "addresses": [f"{address}:{settings['port']}" for address in found.nodes.values()],
            "username": user,
            "password": kept["redis"][user],
        }
    }
    if ca:
        answer["redis"]["tls"] = {"ca": ca}
    if found.sentinel:
        answer["sentinel"] = {
            "addresses": [f"{address}:{settings['sentinel']['port']}" for address in found.nodes.values()],
            "service": SERVICE,
            "username": "client",
            "password": kept["sentinel"]["client"],
        }
    return answer
