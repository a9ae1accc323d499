"""How many machines a pool should have, and how much memory a machine: decided from plain values, nothing is done here.

The horizontal part is the algorithm of Kubernetes' HorizontalPodAutoscaler (HPA), with machines for pods; each formula
names the function of `pkg/controller/podautoscaler` it follows, at release 1.31. What is ours: separate cooldowns, a
back-off after machines that could not be made, and `min`, which only bounds scaling in: a fleet that was made smaller
than `min` stays as it is until load asks for more.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from saltern.errors import SalternError


@dataclass(frozen=True)
class Step:
    """How much may change within a period.

    :ivar machines: this many, or None
    :ivar percent: this share of the pool at the period's start, or None; exactly one of the two is given
    :ivar period_s: seconds looked back
    """

    machines: int | None
    percent: float | None
    period_s: float


@dataclass(frozen=True)
class Direction:
    """One direction of scaling.

    :ivar window_s: seconds of recommendations that must agree (the stabilization window)
    :ivar cooldown_s: seconds after a change before the next: out counts from the last out, in from any change
    :ivar steps: of several the most permissive counts (HPA's selectPolicy Max); none is no limit
    """

    window_s: float
    cooldown_s: float
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Policy:
    """How a pool is scaled.

    :ivar min: scaling in leaves at least this many machines
    :ivar max: scaling out makes at most this many
    :ivar targets: metric → per cent that is aimed at
    :ivar tolerance: a ratio mean/target this near to 1 changes nothing
    :ivar warmup_s: seconds a new machine counts as unready
    :ivar backoff_s: seconds without scaling out after machines could not be made; doubles with every further failure
    :ivar backoff_max_s: and ends doubling here
    """

    min: int
    max: int
    targets: Mapping[str, float]
    tolerance: float
    warmup_s: float
    out: Direction
    in_: Direction
    backoff_s: float
    backoff_max_s: float

    @classmethod
    def from_pillar(cls, values: Mapping[str, Any]) -> Policy:
        """The policy of one pool in `pillar/scaling.sls`, which the pillar's schema has checked."""

        def direction(side: Mapping[str, Any]) -> Direction:
            steps = (Step(s.get("machines"), s.get("percent"), s["period_s"]) for s in side["steps"])
            return Direction(side["window_s"], side["cooldown_s"], tuple(steps))

        return cls(
            values["min"], values["max"], dict(values["targets"]), values["tolerance"], values["warmup_s"],
            direction(values["out"]), direction(values["in"]), values["backoff_s"], values["backoff_max_s"],
        )  # fmt: skip


@dataclass(frozen=True)
class Member:
    """A machine of the pool that is there and is to stay.

    :ivar since: when it was made, unix seconds
    :ivar serving: whether requests can reach it
    """

    id: str
    since: float
    serving: bool


@dataclass(frozen=True)
class Metric:
    """One thing that is measured.

    :ivar target: per cent
    :ivar samples: per cent by machine of the pool; one that is not there is missing
    :ivar whole: or one value for the whole pool, such as its proxy's; HPA's Object metric
    :ivar is_whole: which of the two it is
    """

    name: str
    target: float
    samples: Mapping[str, float] = field(default_factory=dict)
    whole: float | None = None
    is_whole: bool = False


@dataclass(frozen=True)
class Memory:
    """What must outlive a restart; `to_data` and `from_data` make it plain.

    :ivar recommended: number of machines → when it was last recommended, unix seconds. The newest time of each number
        is all that a minimum or maximum over a window needs.
    :ivar changes: (unix seconds, machines more or fewer)
    :ivar failures: times in a row that machines could not be made
    :ivar failed_at: when that was last, unix seconds
    :ivar current: machines that were wanted when this was last decided on; None: never before
    """

    recommended: Mapping[int, float] = field(default_factory=dict)
    changes: tuple[tuple[float, int], ...] = ()
    failures: int = 0
    failed_at: float = 0.0
    current: int | None = None

    def to_data(self) -> dict[str, Any]:
        return {
            "recommended": {str(number): at for number, at in self.recommended.items()},
            "changes": [list(change) for change in self.changes],
            "failures": self.failures,
            "failed_at": self.failed_at,
            "current": self.current,
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Memory:
        """:raises ValueError: it is not what `to_data` made"""
        try:
            return cls(
                {int(number): float(at) for number, at in data["recommended"].items()},
                tuple((float(at), int(delta)) for at, delta in data["changes"]),
                int(data["failures"]),
                float(data["failed_at"]),
                None if data.get("current") is None else int(data["current"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"scaling: memory {data!r} is not readable ({error!r})") from error

    def changed(self, delta: int, now: float) -> Memory:
        """With a change of the wanted number of machines written down."""
        current = None if self.current is None else self.current + delta
        return replace(self, changes=(*self.changes, (now, delta)), current=current)

    def failed(self, now: float) -> Memory:
        """With machines that could not be made written down."""
        return replace(self, failures=self.failures + 1, failed_at=now)

    def succeeded(self) -> Memory:
        """Machines could be made: nothing is held back any more."""
        return replace(self, failures=0, failed_at=0.0)


@dataclass(frozen=True)
class Decision:
    """How many machines are wanted.

    :ivar proposals: what each metric alone asks for; None where it is missing
    :ivar recommended: what they ask for together, before windows, steps, bounds and cooldowns
    :ivar why: one clause for each thing that shaped the number
    """

    desired: int
    recommended: int
    proposals: Mapping[str, int | None]
    why: tuple[str, ...]
    memory: Memory


def propose(
    metric: Metric, members: Sequence[Member], current: int, policy: Policy, now: float
) -> int | None:
    """How many machines one metric asks for; None when nothing is known of it.

    `GetResourceReplicas` (replica_calculator.go): desired = ceil(ready × mean/target). Machines that are warming up or
    do not serve are unready, serving ones without a sample are missing. To scale out, both count as using nothing; to
    scale in, the missing ones count as using max(100, target) per cent. A correction that would turn the direction
    round, or brings the ratio within the tolerance, changes nothing. A metric of the whole pool follows
    `GetObjectMetricReplicas`: ceil(ready × value/target).

    :param current: machines wanted by now, those included that are being made
    :param now: unix seconds
    """
    settled = {m.id for m in members if m.serving and now - m.since >= policy.warmup_s}
    if metric.is_whole:
        if metric.whole is None:
            return None
        if not settled:
            return current
        ratio = metric.whole / metric.target
        return current if _within(ratio, policy) else _ceil(ratio * len(settled))
    samples = {id_: value for id_, value in metric.samples.items() if id_ in settled}
    if not samples:
        return None
    missing = settled - samples.keys()
    unready = current - len(settled)
    ratio = _mean(samples.values()) / metric.target
    out_with_unready = unready > 0 and ratio > 1
    if not out_with_unready and not missing:
        return current if _within(ratio, policy) else _ceil(ratio * len(samples))
    values = list(samples.values())
    if ratio < 1:
        values += [max(100.0, metric.target)] * len(missing)
    elif ratio > 1:
        values += [0.0] * len(missing)
    if out_with_unready:
        values += [0.0] * unready
    corrected = _mean(values) / metric.target
    if _within(corrected, policy) or (ratio < 1) != (corrected < 1):
        return current
    desired = _ceil(corrected * len(values))
    turns_round = (corrected < 1 and desired > current) or (corrected > 1 and desired < current)
    return current if turns_round else desired


def _within(ratio: float, policy: Policy) -> bool:
    return abs(ratio - 1) <= policy.tolerance + 1e-9


def _ceil(number: float) -> int:
    # 3 machines at 110 % of the target are 3.3000000000000003, and 3 at exactly the target must stay 3.
    return math.ceil(round(number, 9))


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return math.fsum(values) / len(values)


def decide(
    policy: Policy,
    members: Sequence[Member],
    current: int,
    metrics: Sequence[Metric],
    memory: Memory,
    now: float,
) -> Decision:
    """How many machines the pool should have now.

    The largest proposal counts (`computeReplicasForMetrics`, horizontal.go), and a metric that is missing never lets
    the pool shrink; so any metric may scale out and all must agree to scale in. Then the windows
    (`stabilizeRecommendationWithBehaviors`), then steps and bounds (`convertDesiredReplicasWithBehaviorRate`), then
    cooldowns and back-off. Machines that somebody else added (or that are there at the beginning, as HPA has it) are a
    wish for that many: it stands for the window, as a recommendation does.

    :param current: machines wanted by now, those included that are being made
    :param now: unix seconds
    """
    proposals = {metric.name: propose(metric, members, current, policy, now) for metric in metrics}
    why = [f"{name} asks for {'nothing: it is missing' if n is None else n}" for name, n in proposals.items()]
    known = [number for number in proposals.values() if number is not None]
    recommended = max(known, default=current)
    if recommended < current and len(known) < len(proposals):
        recommended = current
        why.append("a missing metric never scales in")
    added = memory.current is None or current > memory.current
    memory = _remember(policy, memory, recommended, now)
    if added and recommended < current and policy.in_.window_s:
        memory = replace(memory, recommended={**memory.recommended, current: now})
    memory = replace(memory, current=current)
    desired = _stabilize(policy, memory, recommended, current, now)
    if desired != recommended:
        why.append(f"{recommended} is not what was asked for all along")
    if desired > current:
        desired = _out(policy, memory, current, desired, now, why)
    elif desired < current:
        desired = _in(policy, memory, current, desired, now, why)
    return Decision(desired, recommended, proposals, tuple(why), memory)


def _remember(policy: Policy, memory: Memory, recommended: int, now: float) -> Memory:
    window = max(policy.out.window_s, policy.in_.window_s)
    periods = [step.period_s for side in (policy.out, policy.in_) for step in side.steps]
    longest = max([policy.out.cooldown_s, policy.in_.cooldown_s, *periods])
    kept = {number: at for number, at in memory.recommended.items() if now - at <= window}
    return replace(
        memory,
        recommended={**kept, recommended: now},
        changes=tuple(change for change in memory.changes if now - change[0] <= longest),
    )


def _stabilize(policy: Policy, memory: Memory, recommended: int, current: int, now: float) -> int:
    """The smallest recommendation of the out window, if that is more; the largest of the in window, if fewer."""
    lowest = min(
        [n for n, at in memory.recommended.items() if now - at <= policy.out.window_s] + [recommended]
    )
    highest = max(
        [n for n, at in memory.recommended.items() if now - at <= policy.in_.window_s] + [recommended]
    )
    return lowest if current < lowest else highest if current > highest else current


def _out(policy: Policy, memory: Memory, current: int, desired: int, now: float, why: list[str]) -> int:
    if memory.failures and (left := memory.failed_at + _backoff(policy, memory.failures) - now) > 0:
        why.append(f"machines could not be made {memory.failures} times; {left:.0f} s until the next attempt")
        return current
    if (left := _cooldown(policy.out, [at for at, delta in memory.changes if delta > 0], now)) > 0:
        why.append(f"the cooldown lasts {left:.0f} s more")
        return current
    # calculateScaleUpLimitWithScalingRules
    limits = [
        start + step.machines
        if step.machines is not None
        else math.ceil(start * (1 + (step.percent or 0) / 100))
        for step in policy.out.steps
        for start in (_at_start(memory, current, step.period_s, now),)
    ]
    limit = max([*limits, current]) if limits else desired
    if desired > limit:
        why.append(f"at most {limit} in one step")
    if desired > max(policy.max, current):
        why.append(f"max is {policy.max}")
    return min(desired, limit, max(policy.max, current))


def _in(policy: Policy, memory: Memory, current: int, desired: int, now: float, why: list[str]) -> int:
    if (left := _cooldown(policy.in_, [at for at, _ in memory.changes], now)) > 0:
        why.append(f"the cooldown lasts {left:.0f} s more")
        return current
    # calculateScaleDownLimitWithBehaviors
    limits = [
        start - step.machines
        if step.machines is not None
        else math.floor(start * (1 - (step.percent or 0) / 100))
        for step in policy.in_.steps
        for start in (_at_start(memory, current, step.period_s, now),)
    ]
    limit = min([*limits, current]) if limits else desired
    if desired < limit:
        why.append(f"at least {limit} in one step")
    # One machine always stays: nobody could serve otherwise.
    lowest = max(1, policy.min)
    if desired < lowest:
        why.append(f"min is {policy.min}")
    return max(desired, limit, min(lowest, current))


def _at_start(memory: Memory, current: int, period_s: float, now: float) -> int:
    """How many there were when the period began (`getReplicasChangePerPeriod`)."""
    return current - sum(delta for at, delta in memory.changes if now - at < period_s)


def _cooldown(side: Direction, changes: Sequence[float], now: float) -> float:
    return max(changes) + side.cooldown_s - now if changes else 0.0


def _backoff(policy: Policy, failures: int) -> float:
    # 2^20 is beyond any sensible limit, and beyond it a float overflows some day.
    return min(policy.backoff_s * 2 ** min(failures - 1, 20), policy.backoff_max_s)


def number_of(machine: str) -> int:
    """The number in a machine's id: 12 for `prod12`."""
    return int(re.sub(r"^[a-z]+", "", machine) or 0)


def youngest_first(members: Iterable[Member]) -> list[Member]:
    """The order in which machines are given up: the youngest first, of the same age the highest number."""
    return sorted(members, key=lambda m: (-m.since, -number_of(m.id)))


def free_names(role: str, taken: Iterable[str], count: int) -> list[str]:
    """The lowest ids of a role that nobody has: prod3 when there are prod1, prod2 and prod4.

    :raises SalternError: there are not so many
    """
    used = {number_of(id_) for id_ in taken if re.fullmatch(rf"{role}[0-9]+", id_)}
    found = [n for n in range(1, 10_000) if n not in used][:count]
    if len(found) < count:
        raise SalternError(f"{role}: no id is free; ids end at {role}9999")
    return [f"{role}{n}" for n in found]


# --- vertical


@dataclass(frozen=True)
class Vertical:
    """How a machine's memory is scaled.

    :ivar max_mib: no machine gets more
    :ivar cooldown_s: seconds between two doublings
    :ivar low_percent: coming back down must leave the use at or below this share of the new limit
    :ivar low_s: seconds it must have been low
    """

    max_mib: int
    cooldown_s: float
    low_percent: float
    low_s: float


@dataclass(frozen=True)
class Size:
    """A machine's memory.

    :ivar memory: its limit now, MiB
    :ivar base: what it was made with, MiB
    :ivar changed: when the limit last changed, unix seconds
    """

    memory: int
    base: int
    changed: float


@dataclass(frozen=True)
class Resize:
    """What to do about a machine's memory: `to` is None when nothing can be done and a person should know."""

    to: int | None
    why: str


def resize(
    policy: Vertical, size: Size, *, high: bool, percent: float, since: float, now: float
) -> Resize | None:
    """What to do about a machine's memory, or None: double it while it is high, halve it when low for long.

    :param high: whether it feels memory as high
    :param percent: its use of the limit
    :param since: since when it has felt so, unix seconds
    """
    if high:
        if now - size.changed < policy.cooldown_s:
            return None
        if size.memory >= policy.max_mib:
            return Resize(
                None, f"memory is high at {size.memory} MiB, and the most allowed is {policy.max_mib}"
            )
        to = min(size.memory * 2, policy.max_mib)
        return Resize(to, f"memory is high: {percent:.0f} % of {size.memory} MiB")
    if size.memory <= size.base or now - max(since, size.changed) < policy.low_s:
        return None
    to = max(size.base, size.memory // 2)
    if percent * size.memory / to > policy.low_percent:
        return None
    return Resize(to, f"memory has been low for {now - since:.0f} s: {percent:.0f} % of {size.memory} MiB")
