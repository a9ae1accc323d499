"""When a provider says READY, STALE or ERROR. Pure: a fault and a clock in, a state and an event out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from openfeature.event import ProviderEvent
from openfeature.exception import ErrorCode


class State(Enum):
    """What the provider last told the SDK."""

    NEW = "NEW"
    READY = "READY"
    STALE = "STALE"
    ERROR = "ERROR"


@dataclass(frozen=True)
class Fault:
    """Why the flag set may not be what Redis holds.

    at_once: an ERROR straight away, because waiting cannot mend it (a document that is no flag set).
    """

    message: str
    code: ErrorCode = ErrorCode.GENERAL
    at_once: bool = False


@dataclass(frozen=True)
class Health:
    """State and, unless it is READY, the monotonic moment (seconds) the fault began."""

    state: State = State.NEW
    since: float = 0.0


def step(
    health: Health, fault: Fault | None, now: float, grace: float, has_flags: bool
) -> tuple[Health, ProviderEvent | None]:
    """The next state and the event to emit, if any.

    A fault makes a READY provider STALE at once and a STALE one ERROR once `grace` seconds have passed since
    it began. A NEW provider that can answer from somewhere becomes READY first, so that STALE follows READY
    as the specification orders them; one that cannot answer is in ERROR.
    """
    if fault is None:
        if health.state is State.READY:
            return health, None
        return Health(State.READY), ProviderEvent.PROVIDER_READY
    if health.state is State.NEW and has_flags:
        return Health(State.READY), ProviderEvent.PROVIDER_READY
    if health.state is State.ERROR:
        return health, None
    if fault.at_once or health.state is State.NEW:
        return Health(State.ERROR, now), ProviderEvent.PROVIDER_ERROR
    if health.state is State.READY:
        return Health(State.STALE, now), ProviderEvent.PROVIDER_STALE
    if now - health.since >= grace:
        return replace(health, state=State.ERROR), ProviderEvent.PROVIDER_ERROR
    return health, None


def next_look(health: Health, now: float, grace: float) -> float:
    """Seconds until `step` may have something to say although nothing else happens; infinity when never."""
    return max(health.since + grace - now, 0.0) if health.state is State.STALE else float("inf")
