"""How much the canary gets right now, and why. Pure.

The registry says what share is wanted; this says what share is safe. Taking the canary out needs one signal,
putting it back needs time: none while it is latched off, while none of its servers is healthy, or until one
has been healthy without a break for the settling time. An error rate above the hard limit latches it off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from .reconcile import BACKENDS, Observed
from .registry import Latch, State


@dataclass(frozen=True)
class Limits:
    """When the canary may have requests."""

    settle_s: float = 10.0
    error_limit_pct: float = 5.0
    error_window_s: float = 10.0
    error_min_requests: int = 50


@dataclass(frozen=True)
class Sample:
    """What canary servers did between two looks."""

    at: float
    requests: int
    errors: int


@dataclass(frozen=True)
class Memory:
    """What must be known from one decision to the next."""

    healthy_since: float | None = None
    """Since when a canary server has been healthy without a break, unix seconds."""
    downs: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """How often each canary slot had gone down, by HAProxy's count."""
    latch: Latch | None = None
    """Latched here, and not known yet to be latched in the registry."""
    samples: tuple[Sample, ...] = ()
    suspect: bool = False
    """The hard limit was broken at the last look. A crash looks like that for a moment; the next look tells.
    """
    was_latched: bool = False


@dataclass(frozen=True)
class Decision:
    """The effective share in percent, the reason in one line, and what to remember."""

    share: int
    reason: str
    memory: Memory
    broke: str = ""
    """Not empty exactly once, when the hard limit breaks: why the canary has to be latched off."""


def decide(
    state: State,
    observed: Observed,
    downs: Mapping[str, int],
    sample: Sample | None,
    memory: Memory,
    limits: Limits,
    now: float,
) -> Decision:
    """Decide the canary's effective share.

    ``downs`` is HAProxy's count of falls by slot, ``sample`` what happened since the last call (None when
    unknown, such as after a restart of HAProxy), ``now`` unix seconds.
    """
    latch = state.latches.get("canary") or memory.latch
    wanted = {i.id for i in state.instances.values() if i.pool == "canary" and i.want == "ready"}
    up = [slot for slot in _seats(observed, wanted) if _healthy(observed, slot)]
    unbroken = [slot for slot in up if memory.downs.get(slot, downs.get(slot, 0)) == downs.get(slot, 0)]
    since = memory.healthy_since
    if not up:
        since = None
    elif since is None or since > now or not unbroken:
        since = now

    # What failed because the canary fell is a matter of health, and a turned off canary starts again from
    # nothing.
    forget = not unbroken or (memory.was_latched and latch is None)
    seen = () if forget else (*memory.samples, *((sample,) if sample else ()))
    samples = tuple(s for s in seen if now - s.at < limits.error_window_s)
    broken = "" if latch else _broken(samples, limits)
    broke = broken if memory.suspect else ""
    if broke:
        latch = Latch(reason=broke, by="controller", since=now)
    after = Memory(
        healthy_since=since,
        downs=MappingProxyType(dict(downs)),
        latch=latch if broke else memory.latch,
        samples=() if broke else samples,
        suspect=bool(broken) and not broke,
        was_latched=latch is not None,
    )
    if latch is not None:
        return Decision(0, f"off: {latch.reason}", after, broke)
    if not wanted:
        return Decision(0, "no canary is registered and wanted", after)
    if since is None:
        return Decision(0, "no canary is healthy", after)
    if broken:
        return Decision(0, f"held back: {broken}", after)
    if now - since < limits.settle_s:
        return Decision(0, f"the canary is healthy again, settling for {limits.settle_s:g} s", after)
    return Decision(state.split.share, "as the registry says", after)


def _seats(observed: Observed, wanted: set[str]) -> list[str]:
    return [
        slot for slot, id_ in observed.maps["instances"].items() if slot.startswith("c") and id_ in wanted
    ]


def _healthy(observed: Observed, slot: str) -> bool:
    server = observed.servers.get((BACKENDS["canary"][0], slot))
    return server is not None and server.up and server.admin_state == "ready"


def _broken(samples: tuple[Sample, ...], limits: Limits) -> str:
    requests = sum(s.requests for s in samples)
    errors = sum(s.errors for s in samples)
    if requests < max(1, limits.error_min_requests):
        return ""
    rate = 100.0 * errors / requests
    if rate <= limits.error_limit_pct:
        return ""
    return (
        f"error rate {rate:.1f} % of {requests} requests in {limits.error_window_s:g} s "
        f"is above {limits.error_limit_pct:g} %"
    )
