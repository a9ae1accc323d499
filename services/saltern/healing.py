"""Which machine is to be replaced: decided from plain values, nothing is done here.

A machine is gone when both say so, and for a grace time: HAProxy, whose health check it fails, and Salt, whose minion
does not answer. Either alone may be the fault of the one who looks. One at a time is replaced, none twice within
`flap_s`, and none while most of the pool seems gone: then the fault is likely on our side of the network, and taking
machines away makes it worse. (Kubernetes' node lifecycle controller stops evicting for the same reason, when the share
of its `unhealthy-zone-threshold`, 55 %, is passed.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Policy:
    """When machines are replaced.

    :ivar grace_s: seconds both must have called it gone
    :ivar flap_s: seconds after a replacement in which the same machine is not replaced again
    :ivar most_percent: share of a pool that may be gone; with more, nothing is replaced. One machine may always be.
    """

    grace_s: float
    flap_s: float
    most_percent: float


@dataclass(frozen=True)
class Sight:
    """What is known of a machine that should serve; None is unknown.

    :ivar up: whether HAProxy finds it healthy
    :ivar present: whether its minion answers
    """

    pool: str
    up: bool | None
    present: bool | None


@dataclass(frozen=True)
class Memory:
    """What must outlive a restart.

    :ivar gone: machine → since when both have called it gone, unix seconds
    :ivar replaced: machine → when it was last replaced, unix seconds
    :ivar told: machines about which a person was told that they are gone, until they are back
    """

    gone: Mapping[str, float] = field(default_factory=dict)
    replaced: Mapping[str, float] = field(default_factory=dict)
    told: frozenset[str] = frozenset()

    def to_data(self) -> dict[str, Any]:
        return {"gone": dict(self.gone), "replaced": dict(self.replaced), "told": sorted(self.told)}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Memory:
        """:raises ValueError: it is not what `to_data` made"""
        try:
            return cls(
                {str(k): float(v) for k, v in data["gone"].items()},
                {str(k): float(v) for k, v in data["replaced"].items()},
                frozenset(map(str, data["told"])),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"healing: memory {data!r} is not readable ({error!r})") from error


@dataclass(frozen=True)
class Decision:
    """What to do.

    :ivar replace: the machine to replace, or None
    :ivar alerts: machine → why it is not replaced; each is told once, until it is back
    :ivar back: machines about which a person was told, and which are back
    """

    replace: str | None
    alerts: Mapping[str, str]
    memory: Memory
    back: tuple[str, ...] = ()


def suspects(sights: Mapping[str, Sight]) -> list[str]:
    """The machines whose minions must be asked: HAProxy cannot reach them. Asking all of them all the time costs."""
    return sorted(id_ for id_, sight in sights.items() if sight.up is False)


def decide(
    policy: Policy, sights: Mapping[str, Sight], memory: Memory, now: float, *, busy: bool
) -> Decision:
    """Which machine to replace now, if any.

    :param sights: every machine that is wanted and that nobody is working on
    :param busy: whether one is being replaced already
    :param now: unix seconds
    """
    absent = {id_ for id_, sight in sights.items() if sight.up is False and sight.present is False}
    gone = {id_: memory.gone.get(id_, now) for id_ in absent}
    replaced = {id_: at for id_, at in memory.replaced.items() if now - at < policy.flap_s}
    due = sorted((since, id_) for id_, since in gone.items() if now - since >= policy.grace_s)
    alerts: dict[str, str] = {}
    candidates = []
    for since, id_ in due:
        pool = [other for other, sight in sights.items() if sight.pool == sights[id_].pool]
        missing = [other for other in pool if other in absent]
        if id_ in replaced:
            ago = now - replaced[id_]
            alerts[id_] = (
                f"gone again {ago:.0f} s after it was replaced; not replaced a second time by itself"
            )
        elif len(missing) > max(1, math.floor(len(pool) * policy.most_percent / 100)):
            alerts[id_] = (
                f"gone with {len(missing)} of {len(pool)} of its pool; none is replaced: look at the network"
            )
        else:
            candidates.append((since, id_))
    chosen = candidates[0][1] if candidates and not busy else None
    if chosen is not None:
        replaced[chosen] = now
        gone.pop(chosen)
    # One that is replaced is away from here until the new one has registered.
    back = {id_ for id_ in memory.told if id_ in sights and sights[id_].up}
    told = (memory.told - back) | alerts.keys() | ({chosen} if chosen else set())
    fresh = {id_: why for id_, why in alerts.items() if id_ not in memory.told}
    return Decision(chosen, fresh, Memory(gone, replaced, frozenset(told)), tuple(sorted(back)))
