"""The canary judge: is the canary as good as production, on what both did in the same minutes?

Pure functions over recorded windows. Nothing here reads a clock, a socket or a file except the command line
at the end, and nothing beyond the standard library is needed, so a window recorded last month can be judged
again on any machine, with the same thresholds or with others.

What is compared
    A `Window` is what one pool did in a stretch of time: how many requests, how many of them failed, how long
    they took, and how busy each machine was. `judge` takes the canary's window and production's (the
    baseline).

The three verdicts
    pass   enough was seen, no limit is broken, and nothing is worse than production by more than the
           tolerance and more than chance explains.
    fail   a hard limit is broken, or a metric is worse by more than the tolerance AND more than chance
           explains.
    hold   everything else: too few requests or samples, a metric missing, or a difference too large to ignore
           and too uncertain to act on. A hold asks for another window; it is never read as good news.
    The overall verdict is the worst of its metrics: any fail fails, else any hold holds.

The metrics
    errors        share of requests that failed (5xx, or no connection), in per cent.
    latency       median of the latencies, in milliseconds.
    latency tail  the 95th percentile; only when single requests were recorded, since a minute holds too few
                  seconds to say anything about one second in twenty.
    cpu           median CPU use of the product, in per cent of its machine's own limit. When the canary's
                  machines carry more requests each than production's, the canary's value is divided by
                  that ratio first; the reason says so. It is never multiplied: what an idle machine costs
                  would then count against a canary with a small share. So at a small share extra CPU use
                  is judged leniently and is seen at the larger ones.
    memory        median memory use of the product, in per cent of its machine's own limit.

Reading the table
    canary, production   the two values above, in the metric's unit.
    ratio   canary / production. 1.30 is thirty per cent worse, 0.90 ten per cent better.
    p       the chance of a difference at least this large, in the bad direction, if both pools ran the same
            code.
    n       samples on each side and, in parentheses, how many independent ones they are worth (see below).

The order of the rules
    1. Hard limits (error rate, latency, saturation). They look at the canary alone, whatever production does.
       The error limit also works before the window is full: as soon as so many of the few requests failed
       that a rate at the limit would do so less than once in a thousand times, the canary has failed.
    2. Enough data? At least 500 requests in each window, 20 host samples from every canary machine, 20 from
       production. Without a floor chance decides: comparing two samples with two others "finds" a regression
       in up to 23 % of cases where there is none.
    3. Effect: the ratio must exceed the tolerance (1.1), and the difference a minimum in the metric's unit,
       before a metric can fail or hold on statistics. With a tolerance of 1.0 a steady difference of one per
       cent, which nobody would act on, becomes significant in every window that is long enough.
    4. Significance: Mann-Whitney U for latency, cpu and memory; Fisher's exact test for counts. One-sided:
       being faster is never a fault.

How chance is kept in bounds
    Five metrics are five chances of a false alarm. Holm's procedure (Holm 1979, "A simple sequentially
    rejective multiple test procedure", Scand. J. Statist. 6:65-70) keeps the chance that any of them fails
    without cause below `false_alarm`, 1 % for each judged window.

    Samples taken every second resemble the one before: sixty of them may be worth ten independent ones, and a
    test that counts sixty calls chance a finding in a quarter of all cases (lag-1 correlation 0.9). Each
    side's samples are therefore counted as n / tau, see `effective_size`. Below `min_independent` the test is
    not used at all: a difference within the tolerance passes, a larger one holds.

What it cannot see
    One canary machine cannot tell slow code from a slow machine; two can. Failures that come in bursts of one
    cause count as separate errors. Samples that mix much white noise with a slow drift look more independent
    than they are in a short window; windows of five minutes and more are long enough for what was simulated
    (tests/bench/bench_judge.py). The 1 % is a figure per judgement: a canary judged at five steps has five
    chances.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from operator import mul
from pathlib import Path
from statistics import NormalDist, median, variance
from typing import Any

PASS, FAIL, HOLD = "pass", "fail", "hold"

#: What one latency value stands for: one request, or one second (an average or a quantile of that second's
#: requests).
LATENCY_KINDS = ("request", "second")

#: Version of the JSON a record is written in.
RECORD_VERSION = 1

# Up to this many values a side the null distribution of U is counted exactly; beyond it the normal
# approximation is good to a few parts in a thousand and the count grows with the fourth power.
_EXACT_SIZE = 20

# No more lags than this are looked at. A series still correlated after 200 steps is worth one sample, see
# effective_size.
_MAX_LAG = 200

# CPU accounting against a quota overshoots 100 % for a second now and then; a value beyond this is another
# unit.
_MAX_PERCENT = 200.0

# No count, time or latency of this world is larger, and sums of squares of such numbers stay exact enough.
_MAX_NUMBER = 1e12

# The minion ids of machines whose samples can be in a window.
_HOST_ID = re.compile(r"(prod|staging|proxy|redis|ops)[0-9]{1,4}")

_NORMAL = NormalDist()


class JudgeError(ValueError):
    """A window, record or threshold that cannot be used. The message is one line: where, what, and what would
    be right.
    """


# ------------------------------------------------------------------------------------------------------------
# Values


@dataclass(frozen=True)
class Host:
    """Samples of one machine over a window, oldest first, one a second.

    cpu_percent, memory_percent: the product's use in per cent of the machine's own limit; empty when nothing was
        received.
    """

    id: str
    cpu_percent: tuple[float, ...] = ()
    memory_percent: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not _HOST_ID.fullmatch(self.id):
            raise JudgeError(f"hosts: id {self.id!r} is no minion id; it must match {_HOST_ID.pattern}")
        for name in ("cpu_percent", "memory_percent"):
            object.__setattr__(
                self, name, _numbers(f"host {self.id}: {name}", getattr(self, name), highest=_MAX_PERCENT)
            )


@dataclass(frozen=True)
class Window:
    """What one pool did in one stretch of time.

    pool: "canary" or "prod".
    started: Unix time in seconds; seconds: length.
    requests: requests sent to the pool, those that failed included.
    errors: how many of them failed there: 5xx answers plus connection failures. A canary request that was
        retried on production counts here although its user saw no error; otherwise a dead canary would look
        healthy.
    latency_ms: latencies in milliseconds in order of time, each standing for what latency_kind says
        ("request" or "second"). Samples of the requests are enough; all of them are not needed. Empty when
        not measured.
    hosts: the pool's machines with their samples.

    Raises JudgeError on anything else.
    """

    pool: str
    started: float
    seconds: float
    requests: int
    errors: int
    latency_ms: tuple[float, ...] = ()
    latency_kind: str = "request"
    hosts: tuple[Host, ...] = ()

    def __post_init__(self) -> None:
        if self.pool not in ("canary", "prod"):
            raise JudgeError(f"pool: {self.pool!r} is neither canary nor prod")
        where = f"{self.pool} window"
        object.__setattr__(self, "started", _number(f"{where}: started", self.started))
        object.__setattr__(self, "seconds", _number(f"{where}: seconds", self.seconds))
        if self.seconds == 0:
            raise JudgeError(f"{where}: seconds is 0; a window has a length")
        _count(f"{where}: requests", self.requests)
        _count(f"{where}: errors", self.errors)
        if self.errors > self.requests:
            raise JudgeError(
                f"{where}: errors {self.errors} exceeds requests {self.requests}; "
                "requests count the failed ones too"
            )
        if self.latency_kind not in LATENCY_KINDS:
            raise JudgeError(
                f"{where}: latency_kind {self.latency_kind!r} is not one of {', '.join(LATENCY_KINDS)}"
            )
        object.__setattr__(self, "latency_ms", _numbers(f"{where}: latency_ms", self.latency_ms))
        if self.latency_kind == "request" and len(self.latency_ms) > self.requests:
            raise JudgeError(
                f"{where}: {len(self.latency_ms)} latencies of {self.requests} requests; "
                "per-second values need latency_kind second"
            )
        hosts = tuple(self.hosts)
        twice = [name for name, times in Counter(host.id for host in hosts).items() if times > 1]
        if twice:
            raise JudgeError(f"{where}: host {twice[0]} is listed twice; give each machine once")
        object.__setattr__(self, "hosts", hosts)

    @property
    def error_percent(self) -> float | None:
        """Failed requests in per cent; None when there were no requests."""
        return 100.0 * self.errors / self.requests if self.requests else None

    def to_data(self) -> dict[str, Any]:
        """The window as plain lists and dicts, ready for JSON."""
        data = asdict(self)
        data["latency_ms"] = list(self.latency_ms)
        data["hosts"] = [
            {"id": h.id, "cpu_percent": list(h.cpu_percent), "memory_percent": list(h.memory_percent)}
            for h in self.hosts
        ]
        return data

    def to_json(self) -> str:
        """The window as JSON on one line; from_json gives back an equal window."""
        return _dump(self.to_data())

    @classmethod
    def from_data(cls, data: object, where: str = "window") -> Window:
        """The window in parsed JSON. Raises JudgeError on an unknown or missing key or a value that cannot
        be.
        """
        data = _object(
            where, data, required=("pool", "started", "seconds", "requests", "errors"), known=_names(cls)
        )
        hosts = data.get("hosts", [])
        if not isinstance(hosts, list | tuple):
            raise JudgeError(f"{where}: hosts is {_kind(hosts)}; a list of machines is expected")
        made = [
            Host(**_object(f"{where}: hosts[{i}]", host, required=("id",), known=_names(Host)))
            for i, host in enumerate(hosts)
        ]
        return cls(**{**data, "hosts": tuple(made)})

    @classmethod
    def from_json(cls, text: str) -> Window:
        """The window in a JSON text. Raises JudgeError."""
        return cls.from_data(_load("window", text))


@dataclass(frozen=True)
class Thresholds:
    """Every number of the judge an operator may change; pillar/canary.sls explains each and holds these same
    defaults.
    """

    min_requests: int = 500
    min_samples: int = 20
    min_independent: float = 5.0
    error_limit_percent: float = 1.0
    error_early_alarm: float = 0.001
    error_min_points: float = 0.1
    latency_limit_ms: float = 1000.0
    latency_percentile: float = 95.0
    latency_min_ms: float = 1.0
    cpu_limit_percent: float = 90.0
    memory_limit_percent: float = 90.0
    host_min_points: float = 2.0
    tolerance: float = 1.1
    false_alarm: float = 0.01
    suspicion: float = 0.05

    def __post_init__(self) -> None:
        for spec in fields(self):
            lowest, highest = _RANGES[spec.name]
            value = getattr(self, spec.name)
            whole = spec.type == "int"
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                raise JudgeError(f"{spec.name}: {value!r} is not a {'whole ' if whole else ''}number")
            if not lowest <= value <= highest:
                raise JudgeError(f"{spec.name}: {value} is not between {lowest:g} and {highest:g}")
        if self.suspicion < self.false_alarm:
            raise JudgeError(
                f"suspicion: {self.suspicion} is below false_alarm {self.false_alarm}; "
                "what fails must at least be suspicious"
            )

    def with_values(self, values: Mapping[str, Any]) -> Thresholds:
        """These thresholds with some replaced, as from the pillar. Raises JudgeError on an unknown name or a
        bad value.
        """
        for name in values:
            if name not in _RANGES:
                raise JudgeError(f"{name}: no such threshold; there are {', '.join(sorted(_RANGES))}")
        return replace(self, **values)

    def with_text(self, assignments: Iterable[str]) -> Thresholds:
        """These thresholds with some replaced, each written `name=value`, as on a command line. Raises
        JudgeError.
        """
        values: dict[str, Any] = {}
        for assignment in assignments:
            name, equals, text = assignment.partition("=")
            if not equals:
                raise JudgeError(f"{assignment}: not of the form name=value, for example tolerance=1.2")
            try:
                values[name] = int(text)
            except ValueError:
                try:
                    values[name] = float(text)
                except ValueError:
                    raise JudgeError(f"{name}: {text!r} is not a number") from None
        return self.with_values(values)


# Lowest and highest sensible value of each threshold. A floor of 1 on tolerance: below it the judge would
# fail a canary that is better than production.
_RANGES: dict[str, tuple[float, float]] = {
    "min_requests": (1, 10_000_000),
    "min_samples": (1, 100_000),
    "min_independent": (2, 1000),
    "error_limit_percent": (0, 100),
    "error_early_alarm": (0, 0.05),
    "error_min_points": (0, 100),
    "latency_limit_ms": (0, 3_600_000),
    "latency_percentile": (50, 99.9),
    "latency_min_ms": (0, 60_000),
    "cpu_limit_percent": (0, _MAX_PERCENT),
    "memory_limit_percent": (0, _MAX_PERCENT),
    "host_min_points": (0, 100),
    "tolerance": (1, 100),
    "false_alarm": (0, 0.5),
    "suspicion": (0, 0.5),
}


@dataclass(frozen=True)
class Metric:
    """The verdict on one metric and the numbers it rests on; the module's docstring says how to read them.

    p_value and ratio are None where there is none (no test was made; production's value is 0).
    canary_independent, baseline_independent: what the samples of each side are worth as independent ones.
    """

    name: str
    unit: str
    verdict: str
    reason: str
    canary: float | None = None
    baseline: float | None = None
    ratio: float | None = None
    p_value: float | None = None
    canary_n: int = 0
    baseline_n: int = 0
    canary_independent: float | None = None
    baseline_independent: float | None = None


@dataclass(frozen=True)
class Verdict:
    """pass, fail or hold, the metrics it follows from, and the reason on one line."""

    verdict: str
    reason: str
    metrics: tuple[Metric, ...]

    def to_data(self) -> dict[str, Any]:
        """The verdict as plain lists and dicts, ready for JSON."""
        return {**asdict(self), "metrics": [asdict(metric) for metric in self.metrics]}


@dataclass(frozen=True)
class Record:
    """Two windows as they were judged, with the thresholds of that day: all it takes to judge them again."""

    canary: Window
    baseline: Window
    thresholds: Thresholds = field(default_factory=Thresholds)

    def to_json(self) -> str:
        """The record as JSON on one line; from_json gives back an equal record."""
        return _dump(
            {
                "version": RECORD_VERSION,
                "canary": self.canary.to_data(),
                "baseline": self.baseline.to_data(),
                "thresholds": asdict(self.thresholds),
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Record:
        """The record in a JSON text. Thresholds it does not name take their defaults. Raises JudgeError."""
        known = ("version", "canary", "baseline", "thresholds")
        data = _object(
            "record", _load("record", text), required=("version", "canary", "baseline"), known=known
        )
        if data["version"] != RECORD_VERSION:
            raise JudgeError(
                f"record: version {data['version']!r} is unknown; this judge reads version {RECORD_VERSION}"
            )
        values = _object("record: thresholds", data.get("thresholds", {}), required=(), known=tuple(_RANGES))
        return cls(
            canary=Window.from_data(data["canary"], "record: canary"),
            baseline=Window.from_data(data["baseline"], "record: baseline"),
            thresholds=Thresholds().with_values(values),
        )


@dataclass(frozen=True)
class Comparison:
    """The same record under two sets of thresholds; changed names the metrics whose verdict differs."""

    a: Verdict
    b: Verdict
    changed: tuple[str, ...]


# ------------------------------------------------------------------------------------------------------------
# The judge


def judge(canary: Window, baseline: Window, thresholds: Thresholds) -> Verdict:
    """Judge the canary's window against production's.

    The windows need not be of the same minutes: with the whole traffic on the canary there is no production
    to compare with, and the window production recorded at the step before stands in.

    Raises JudgeError when the pools are swapped.
    """
    if canary.pool != "canary" or baseline.pool != "prod":
        raise JudgeError(
            f"judge: got the pools {canary.pool} and {baseline.pool}; "
            "the canary's window comes first, then prod's"
        )
    findings = [_errors(canary, baseline, thresholds)]
    findings += _latencies(canary, baseline, thresholds)
    findings += [_host_metric(name, canary, baseline, thresholds) for name in ("cpu", "memory")]

    tested = {
        i: found.metric.p_value
        for i, found in enumerate(findings)
        if not found.settled and found.metric.p_value is not None
    }
    significant = holm(tested, thresholds.false_alarm, len(findings))
    metrics = tuple(
        found.metric if found.settled else _weigh(found, i in significant, thresholds)
        for i, found in enumerate(findings)
    )
    return _overall(metrics)


def compare(record: Record, thresholds_a: Thresholds, thresholds_b: Thresholds) -> Comparison:
    """Judge one record under two sets of thresholds. Raises JudgeError as `judge` does."""
    a = judge(record.canary, record.baseline, thresholds_a)
    b = judge(record.canary, record.baseline, thresholds_b)
    changed = tuple(x.name for x, y in zip(a.metrics, b.metrics, strict=True) if x.verdict != y.verdict)
    return Comparison(a, b, changed)


@dataclass(frozen=True)
class _Finding:
    """A metric on its way to a verdict. settled: the verdict stands (a limit, missing data); otherwise the
    statistics decide from the p-value and from worse, whether the effect exceeds tolerance and minimum.
    """

    metric: Metric
    settled: bool
    worse: bool = False


def _settled(verdict: str, reason: str, **numbers: Any) -> _Finding:
    return _Finding(Metric(verdict=verdict, reason=reason, **numbers), settled=True)


def _measured(worse: bool, note: str = "", **numbers: Any) -> _Finding:
    return _Finding(Metric(verdict=HOLD, reason=note, **numbers), settled=False, worse=worse)


def _weigh(found: _Finding, significant: bool, t: Thresholds) -> Metric:
    """Turn effect and significance into a verdict; a note on how a value was made stays in front of the
    reason.
    """
    metric, p = found.metric, found.metric.p_value
    times = "production is at 0" if metric.ratio is None else f"{metric.ratio:.2f} times production"
    if metric.canary == metric.baseline:
        verdict, reason = PASS, "the same as production"
    elif not found.worse and metric.ratio is not None and metric.ratio <= t.tolerance:
        verdict, reason = PASS, f"{times}, within tolerance {t.tolerance:g}"
    elif not found.worse:
        verdict, reason = PASS, f"{times}, but too small a difference in {metric.unit} to matter"
    elif p is None:
        verdict = HOLD
        worth = min(metric.canary_independent or 0.0, metric.baseline_independent or 0.0)
        reason = (
            f"{times}, over tolerance {t.tolerance:g}, but the samples are worth {worth:.1f} independent "
            f"ones, {t.min_independent:g} needed"
        )
    elif significant:
        verdict, reason = FAIL, f"{times}, over tolerance {t.tolerance:g}, and not by chance (p {_short(p)})"
    elif p <= t.suspicion:
        verdict, reason = (
            HOLD,
            f"{times}, over tolerance {t.tolerance:g}; suspicious, not yet certain (p {_short(p)})",
        )
    else:
        verdict, reason = PASS, f"{times}, but chance explains it (p {_short(p)})"
    return replace(metric, verdict=verdict, reason=metric.reason + reason)


def _overall(metrics: tuple[Metric, ...]) -> Verdict:
    for verdict in (FAIL, HOLD):
        # Metrics that share a reason, as those of one missing measurement do, share a clause.
        clauses: dict[str, list[str]] = {}
        for metric in metrics:
            if metric.verdict == verdict:
                clauses.setdefault(metric.reason, []).append(metric.name)
        if clauses:
            text = "; ".join(f"{' and '.join(names)}: {reason}" for reason, names in clauses.items())
            return Verdict(verdict, text, metrics)
    return Verdict(PASS, f"all of {', '.join(m.name for m in metrics)} no worse than production", metrics)


def _errors(canary: Window, baseline: Window, t: Thresholds) -> _Finding:
    numbers: dict[str, Any] = {
        "name": "errors",
        "unit": "%",
        "canary": canary.error_percent,
        "baseline": baseline.error_percent,
        "canary_n": canary.requests,
        "baseline_n": baseline.requests,
    }
    limit = t.error_limit_percent
    counted = f"{canary.errors} of {canary.requests} requests failed"
    if canary.requests >= t.min_requests:
        if canary.errors * 100 > limit * canary.requests:
            return _settled(
                FAIL,
                f"{counted}, limit {limit:g} %{_production_too(baseline.error_percent, limit)}",
                **numbers,
            )
    elif canary.errors and binomial_tail(canary.errors, canary.requests, limit / 100) < t.error_early_alarm:
        return _settled(FAIL, f"{counted}: already beyond what limit {limit:g} % allows", **numbers)
    for window in (canary, baseline):
        if window.requests < t.min_requests:
            return _settled(
                HOLD, f"{window.pool} had {window.requests} requests, {t.min_requests} needed", **numbers
            )
    numbers["ratio"] = _ratio(numbers["canary"], numbers["baseline"])
    worse = _is_worse(numbers["canary"], numbers["baseline"], t.tolerance, t.error_min_points)
    p = fisher_greater(canary.errors, canary.requests, baseline.errors, baseline.requests)
    return _measured(
        worse,
        p_value=p,
        canary_independent=float(canary.requests),
        baseline_independent=float(baseline.requests),
        **numbers,
    )


def _latencies(canary: Window, baseline: Window, t: Thresholds) -> list[_Finding]:
    """The finding on the median and, where single requests were recorded, the one on the tail."""
    ours, theirs, kind = canary.latency_ms, baseline.latency_ms, canary.latency_kind
    with_tail = "request" in (kind, baseline.latency_kind)
    counts: dict[str, Any] = {"unit": "ms", "canary_n": len(ours), "baseline_n": len(theirs)}

    def hold(reason: str) -> list[_Finding]:
        names = ("latency", "latency tail") if with_tail else ("latency",)
        return [_settled(HOLD, reason, name=name, **counts) for name in names]

    for window in (canary, baseline):
        if not window.latency_ms:
            return hold(f"{window.pool} has no latencies; a missing metric never passes")
    if kind != baseline.latency_kind:
        return hold(
            f"canary was recorded per {kind}, production per {baseline.latency_kind}; record both alike"
        )

    needed = t.min_requests if with_tail else t.min_samples
    q = t.latency_percentile / 100
    here, there = quantile(sorted(ours), q), quantile(sorted(theirs), q)
    broken = None
    if len(ours) >= needed and here > t.latency_limit_ms:
        too = _production_too(there, t.latency_limit_ms)
        broken = _settled(
            FAIL,
            f"{t.latency_percentile:g} % of the {kind}s took up to {here:.0f} ms, "
            f"limit {t.latency_limit_ms:g} ms{too}",
            name="latency tail" if with_tail else "latency",
            canary=here,
            baseline=there,
            ratio=_ratio(here, there),
            **counts,
        )
    short = [window for window in (canary, baseline) if len(window.latency_ms) < needed]
    if short:
        held = hold(f"{short[0].pool} has {len(short[0].latency_ms)} latencies per {kind}, {needed} needed")
        return [*held[:-1], broken] if broken else held
    median_finding = _by_ranks("latency", "ms", ours, theirs, t.latency_min_ms, t)
    if not with_tail:
        return [broken or median_finding]
    return [median_finding, broken or _by_tail(ours, theirs, t)]


def _host_metric(name: str, canary: Window, baseline: Window, t: Thresholds) -> _Finding:
    limit = t.cpu_limit_percent if name == "cpu" else t.memory_limit_percent

    def read(host: Host) -> tuple[float, ...]:
        return host.cpu_percent if name == "cpu" else host.memory_percent

    # One machine after the other: where their levels differ, the jumps between them lower the effective size
    # as they should.
    ours = [value for host in canary.hosts for value in read(host)]
    theirs = [value for host in baseline.hosts for value in read(host)]
    numbers: dict[str, Any] = {"name": name, "unit": "%", "canary_n": len(ours), "baseline_n": len(theirs)}

    def hold(reason: str) -> _Finding:
        return _settled(HOLD, reason, **numbers)

    for host in canary.hosts:
        # The median, so that the limit speaks of more than half of the window and not of one busy second.
        if len(read(host)) >= t.min_samples and median(read(host)) > limit:
            numbers.update(canary=median(ours), baseline=median(theirs) if theirs else None)
            there = max((median(read(other)) for other in baseline.hosts if read(other)), default=None)
            reason = f"{host.id} is at {median(read(host)):.0f} %, limit {limit:g} %"
            return _settled(FAIL, reason + _production_too(there, limit), **numbers)
    for window in (canary, baseline):
        if not window.hosts:
            return hold(f"no machine of {window.pool} was recorded; a missing metric never passes")
    for host in canary.hosts:
        if len(read(host)) < t.min_samples:
            return hold(f"{host.id} sent {len(read(host))} samples, {t.min_samples} needed")
    if len(theirs) < t.min_samples:
        return hold(f"prod sent {len(theirs)} samples, {t.min_samples} needed")
    if name == "memory":
        return _by_ranks(name, "%", ours, theirs, t.host_min_points, t)
    if not baseline.requests:
        return hold("production served no requests, so its cpu says nothing about the canary's")
    load = _load_per_machine(canary) / _load_per_machine(baseline)
    # What would be shown as 1.00 is the same load.
    if round(load, 2) <= 1:
        return _by_ranks(name, "%", ours, theirs, t.host_min_points, t)
    note = f"divided by {load:.2f}, the load per machine against production: "
    return _by_ranks(name, "%", [value / load for value in ours], theirs, t.host_min_points, t, note)


def _load_per_machine(window: Window) -> float:
    return window.requests / window.seconds / len(window.hosts)


def _by_ranks(
    name: str,
    unit: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    minimum: float,
    t: Thresholds,
    note: str = "",
) -> _Finding:
    """Compare medians, and the whole samples with Mann-Whitney over their effective sizes."""
    here, there = median(ours), median(theirs)
    worth_here, worth_there = effective_size(ranks(ours)), effective_size(ranks(theirs))
    p = None
    if min(worth_here, worth_there) >= t.min_independent:
        p = mann_whitney_greater(ours, theirs, worth_here, worth_there)
    return _measured(
        _is_worse(here, there, t.tolerance, minimum),
        note,
        name=name,
        unit=unit,
        canary=here,
        baseline=there,
        ratio=_ratio(here, there),
        p_value=p,
        canary_n=len(ours),
        baseline_n=len(theirs),
        canary_independent=worth_here,
        baseline_independent=worth_there,
    )


def _by_tail(ours: Sequence[float], theirs: Sequence[float], t: Thresholds) -> _Finding:
    """Compare the slow end: how many requests of each side exceed a high percentile of both together.

    Mann-Whitney looks at the bulk and does not notice when one request in twenty becomes three times slower.
    Given the number beyond the common percentile, the canary's share of it is hypergeometric if both sides
    are alike (the quantile test: Johnson, Verrill & Moore 1987, "Two-sample rank tests for detecting changes
    that occur in a small proportion of the treated population", Biometrics 43:641-655). Counts that come in
    clusters are divided by their design effect first (Rao & Scott 1992, "A simple method for the analysis of
    clustered binary data", Biometrics 48:577-585).
    """
    q = t.latency_percentile / 100
    here, there = quantile(sorted(ours), q), quantile(sorted(theirs), q)
    cut = quantile(sorted([*ours, *theirs]), q)
    slow_here, slow_there = [float(x > cut) for x in ours], [float(x > cut) for x in theirs]
    worth_here, worth_there = _worth_of_events(slow_here, slow_there), _worth_of_events(slow_there, slow_here)
    p = None
    if min(worth_here, worth_there) >= t.min_independent:
        # Rounded so that the canary's share of slow requests never grows by rounding.
        k_here = math.floor(sum(slow_here) * worth_here / len(ours))
        k_there = math.ceil(sum(slow_there) * worth_there / len(theirs))
        p = fisher_greater(k_here, math.ceil(worth_here), k_there, math.ceil(worth_there))
    return _measured(
        _is_worse(here, there, t.tolerance, t.latency_min_ms),
        name="latency tail",
        unit="ms",
        canary=here,
        baseline=there,
        ratio=_ratio(here, there),
        p_value=p,
        canary_n=len(ours),
        baseline_n=len(theirs),
        canary_independent=worth_here,
        baseline_independent=worth_there,
    )


def _worth_of_events(events: Sequence[float], others: Sequence[float]) -> float:
    """The effective size of a series of zeros and ones. Where all are alike, as with no slow request at all,
    it says nothing about clusters, and is taken to cluster as the other side's events do.
    """
    seen = events if 0 < sum(events) < len(events) else others
    return len(events) * effective_size(seen) / len(seen)


def _is_worse(here: float, there: float, tolerance: float, minimum: float) -> bool:
    """Whether the difference is worth acting on: beyond the tolerance as a ratio, and beyond a minimum in its
    own unit.
    """
    return here > there * tolerance and here - there > minimum


def _ratio(here: float, there: float) -> float | None:
    return here / there if there else None


def _production_too(value: float | None, limit: float) -> str:
    return " (production is over it too)" if value is not None and value > limit else ""


# ------------------------------------------------------------------------------------------------------------
# Statistics


def quantile(ordered: Sequence[float], q: float) -> float:
    """The q-quantile (0 to 1) of sorted values, linear between neighbours (definition 7 of Hyndman & Fan
    1996).
    """
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def ranks(values: Sequence[float]) -> list[float]:
    """Each value's rank among all of them, 1 for the smallest, equal values sharing their mean rank."""
    ordered = sorted(values)
    place = {
        value: (bisect_left(ordered, value) + bisect_right(ordered, value) + 1) / 2 for value in set(values)
    }
    return [place[value] for value in values]


def effective_size(values: Sequence[float]) -> float:
    """How many independent samples a time series is worth, between 1 and its length: n / tau.

    tau is the largest of three estimates of 1 + 2 * (sum of all autocorrelations):

    - (1 + r) / (1 - r) from the lag-1 autocorrelation r, exact for a first-order process (Bayley & Hammersley
      1946, "The 'effective' number of independent observations in an autocorrelated time series", J. R. Stat.
      Soc. Suppl. 8:184-197). An estimate of r from n samples is too small by about (1 + 3r) / n (Marriott &
      Pope 1954, "Bias in the estimation of autocorrelations", Biometrika 41:390-402), which is put back.
    - the sum of the estimated autocorrelations in pairs of lags while the pairs are positive and falling
      (Geyer 1992, "Practical Markov chain Monte Carlo", Statist. Sci. 7:473-483), which also sees slow drift
      under quick noise. Each of its terms is too small by about tau / n, so the sum is divided by 1 - 1.5 *
      tau / n; the factor is from simulation of first-order processes of 20 to 300 samples.
    - the variance of the means of four batches against that of as many independent values (batch means, see
      Flegal & Jones 2010, "Batch means and spectral variance estimators in Markov chain Monte Carlo", Ann.
      Statist. 38:1034-1070). Rough, but it does not miss drift that the noise hides from every single lag.

    The variance of U is that of mean ranks, so for Mann-Whitney it is the ranks' correlation that counts:
    pass ranks. A series that never changes is worth 1, as nothing tells how often it could have.
    """
    n = len(values)
    mean = sum(values) / n
    centred = [value - mean for value in values]
    total = sum(map(mul, centred, centred))
    # Four values are the fewest the correction of r is defined for; equal values leave rounding noise only.
    if n < 4 or total <= 1e-18 * n * max(1.0, mean * mean):
        return 1.0

    def correlation(lag: int) -> float:
        return sum(map(mul, centred, centred[lag:])) / total

    first = correlation(1)
    r = (n * first + 1) / (n - 3)
    if r >= 1:
        return 1.0
    tau = (1 + max(r, 0.0)) / (1 - max(r, 0.0))

    pairs, lag, smallest = 0.0, 0, math.inf
    while lag + 1 < n // 2:
        if lag > _MAX_LAG:
            return 1.0
        pair = 1 + first if lag == 0 else correlation(lag) + correlation(lag + 1)
        if pair <= 0:
            break
        smallest = min(smallest, pair)
        pairs += smallest
        lag += 2
    summed = max(2 * pairs - 1, 1.0)
    tau = max(tau, summed / max(1 - 1.5 * summed / n, 1 / n))

    size = n // 4
    means = [sum(centred[i * size : (i + 1) * size]) / size for i in range(4)]
    tau = max(tau, size * variance(means) / (total / (n - 1)))
    return min(max(n / tau, 1.0), float(n))


def mann_whitney_greater(
    x: Sequence[float], y: Sequence[float], x_worth: float | None = None, y_worth: float | None = None
) -> float:
    """The p-value of Mann-Whitney's U against "x tends to be larger than y".

    Up to 20 independent values a side without ties the distribution of U is counted exactly (Mann & Whitney
    1947, Ann. Math. Statist. 18:50-60); otherwise the normal approximation with corrections for ties and
    continuity is used.

    x_worth, y_worth: effective sizes of autocorrelated samples. They take the place of the sizes in the
    variance, and the statistic is then referred to Student's t with x_worth + y_worth - 2 degrees of freedom,
    because a variance that rests on few independent values is itself uncertain.
    """
    m, n = len(x), len(y)
    m_worth, n_worth = m if x_worth is None else x_worth, n if y_worth is None else y_worth
    independent = m_worth >= m and n_worth >= n
    ordered = sorted(y)
    u = sum(bisect_left(ordered, value) + bisect_right(ordered, value) for value in x) / 2
    repeats = [times for times in Counter([*x, *y]).values() if times > 1]
    if independent and not repeats and max(m, n) <= _EXACT_SIZE:
        counts = _u_counts(m, n)
        return sum(counts[int(u) :]) / sum(counts)
    both = m + n
    distinct = 1 - sum(times**3 - times for times in repeats) / (both**3 - both)
    if distinct <= 0:
        return 1.0
    spread = math.sqrt((m_worth + n_worth + 1) / (12 * m_worth * n_worth) * distinct)
    z = (u / (m * n) - 0.5 - 0.5 / (m_worth * n_worth)) / spread
    if not independent:
        z = _as_normal(z, m_worth + n_worth - 2)
    return _NORMAL.cdf(-z)


@lru_cache(maxsize=64)
def _u_counts(m: int, n: int) -> tuple[int, ...]:
    """How many orders of m and n distinct values give U = 0, 1, ... m * n: the coefficients of the Gaussian
    binomial.
    """
    counts = [1] + [0] * (m * n)
    for i in range(1, m + 1):
        # Multiply by (1 - q^(n + i)), then divide by (1 - q^i), both as power series cut off at m * n.
        for k in range(m * n, n + i - 1, -1):
            counts[k] -= counts[k - n - i]
        for k in range(i, m * n + 1):
            counts[k] += counts[k - i]
    return tuple(counts)


def _as_normal(t: float, freedom: float) -> float:
    """The normal deviate with nearly the same tail as Student's t (Wallace 1959, "Bounds on normal
    approximations to Student's and the chi-square distributions", Ann. Math. Statist. 30:1121-1130); within 2
    % of the tail from 5 degrees on."""
    factor = (8 * freedom + 1) / (8 * freedom + 3)
    return math.copysign(factor * math.sqrt(freedom * math.log1p(t * t / freedom)), t)


def fisher_greater(k1: int, n1: int, k2: int, n2: int) -> float:
    """The p-value of Fisher's exact test against "k1 of n1 is a larger share than k2 of n2".

    The chance, k1 + k2 events given, that k1 or more of them fall to the first side (R. A. Fisher 1935, "The
    logic of inductive inference", J. R. Stat. Soc. 98:39-82). Exact at any size; errors are few, so the sum
    is short.
    """
    events, both = k1 + k2, n1 + n2
    lowest, highest = max(0, events - n2), min(events, n1)

    def chance(k: int) -> float:
        return math.exp(_log_choose(n1, k) + _log_choose(n2, events - k) - _log_choose(both, events))

    def up(k: int) -> float:
        return (n1 - k) * (events - k) / ((k + 1) * (n2 - events + k + 1))

    return _tail(k1, lowest, highest, events * n1 / both, chance, up)


def binomial_tail(k: int, n: int, p: float) -> float:
    """The chance of k or more events in n tries of probability p each."""
    if p <= 0 or p >= 1:
        return float(k <= (n if p >= 1 else 0))

    def chance(i: int) -> float:
        return math.exp(_log_choose(n, i) + i * math.log(p) + (n - i) * math.log1p(-p))

    return _tail(k, 0, n, n * p, chance, lambda i: (n - i) * p / ((i + 1) * (1 - p)))


def _tail(
    k: int, lowest: int, highest: int, mean: float, chance: Callable[[int], float], up: Callable[[int], float]
) -> float:
    """The chance of k or more, for a distribution on lowest..highest with one peak near its mean, given
    chance(k) and up(k) = chance(k + 1) / chance(k). Sums away from the peak, so that the first term is the
    largest and none is lost.
    """
    if k <= lowest:
        return 1.0
    if k > highest:
        return 0.0
    if k > mean:
        term = total = chance(k)
        while k < highest and term > total * 1e-17:
            term *= up(k)
            total += term
            k += 1
        return min(total, 1.0)
    k -= 1
    term = total = chance(k)
    while k > lowest and term > total * 1e-17:
        term /= up(k - 1)
        total += term
        k -= 1
    return min(max(1 - total, 0.0), 1.0)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def holm(p_values: Mapping[int, float], alpha: float, family: int) -> set[int]:
    """The keys whose p-values stay significant when the chance of any false one among `family` tests shall be
    alpha.

    Holm 1979. family may exceed the number of p-values: a metric that could not be tested still takes its
    share, so that missing data never makes the others more eager.
    """
    accepted: set[int] = set()
    for done, key in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        if p_values[key] > alpha / (family - done):
            break
        accepted.add(key)
    return accepted


# ------------------------------------------------------------------------------------------------------------
# Reading and writing


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def _number(where: str, value: object, highest: float = _MAX_NUMBER) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise JudgeError(f"{where} is {_kind(value)}; a number is expected")
    # Written so that NaN fails, and an integer too large for a float never becomes one.
    if not 0 <= value <= highest:
        raise JudgeError(f"{where}: {value} is not between 0 and {highest:g}")
    return float(value)


def _numbers(where: str, values: object, highest: float = _MAX_NUMBER) -> tuple[float, ...]:
    if not isinstance(values, list | tuple):
        raise JudgeError(
            f"{where} is {_kind(values)}; a list of numbers is expected, empty when nothing was measured"
        )
    return tuple(_number(f"{where}[{i}]", value, highest) for i, value in enumerate(values))


def _count(where: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_NUMBER:
        raise JudgeError(f"{where}: {value!r} is not a whole number from 0 to {_MAX_NUMBER:g}")


def _names(kind: type) -> tuple[str, ...]:
    return tuple(spec.name for spec in fields(kind))


def _object(where: str, data: object, required: Sequence[str], known: Sequence[str]) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise JudgeError(f"{where} is {_kind(data)}; an object is expected")
    for name in required:
        if name not in data:
            raise JudgeError(f"{where}: {name} is missing")
    for name in data:
        if name not in known:
            raise JudgeError(f"{where}: {name!r} is unknown; known are {', '.join(known)}")
    return data


def _load(where: str, text: str) -> object:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for name, times in Counter(name for name, _ in pairs).items():
            if times > 1:
                raise JudgeError(f"{where}: {name!r} is given {times} times; give it once")
        return dict(pairs)

    def refuse(word: str) -> None:
        raise JudgeError(f"{where}: {word} is not a number JSON knows; leave the sample out")

    try:
        return json.loads(text, object_pairs_hook=once, parse_constant=refuse)
    except JudgeError:
        raise
    except (ValueError, RecursionError) as error:
        raise JudgeError(f"{where}: not JSON: {error}") from None


def _dump(data: object) -> str:
    return json.dumps(data, allow_nan=False, separators=(",", ":"), sort_keys=True)


# ------------------------------------------------------------------------------------------------------------
# Command line


def _short(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _size(n: int, worth: float | None) -> str:
    return str(n) if worth is None or round(worth) == n else f"{n} ({worth:.0f})"


def render(verdict: Verdict) -> str:
    """The verdict as text: one line with the reason, then a table with a line for each metric."""
    head = (
        "metric",
        "verdict",
        "canary",
        "production",
        "unit",
        "ratio",
        "p",
        "n canary",
        "n production",
        "reason",
    )
    rows = [head] + [
        (
            metric.name,
            metric.verdict,
            _cell(metric.canary, ".2f"),
            _cell(metric.baseline, ".2f"),
            metric.unit,
            _cell(metric.ratio, ".2f"),
            "-" if metric.p_value is None else _short(metric.p_value),
            _size(metric.canary_n, metric.canary_independent),
            _size(metric.baseline_n, metric.baseline_independent),
            metric.reason,
        )
        for metric in verdict.metrics
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    # Words to the left, numbers to the right; the last column is not padded.
    left = {0, 1, 4, 9}
    lines = [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([f"{verdict.verdict}: {verdict.reason}", "", *(line.rstrip() for line in lines)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge a recorded pair of windows again. Exit status: 0 pass, 1 fail, 3 hold, 2 a file or threshold that
    is wrong.
    """
    parser = argparse.ArgumentParser(prog="python -m saltern.judge", description=main.__doc__)
    parser.add_argument("file", metavar="FILE", help="a record as JSON; - reads standard input")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change one threshold of the record; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    options = parser.parse_args(arguments)
    try:
        text = sys.stdin.read() if options.file == "-" else Path(options.file).read_text(encoding="utf-8")
        record = Record.from_json(text)
        both = compare(record, record.thresholds, record.thresholds.with_text(options.set))
    except (OSError, UnicodeDecodeError, JudgeError) as error:
        print(f"{options.file}: {error}" if not isinstance(error, OSError) else str(error), file=sys.stderr)
        return 2
    if options.json:
        print(
            json.dumps(
                {**both.b.to_data(), "recorded": both.a.verdict, "changed": list(both.changed)},
                allow_nan=False,
            )
        )
    else:
        print(render(both.b))
        if options.set:
            print(
                f"\nwith the recorded thresholds: {both.a.verdict}; "
                f"changed: {', '.join(both.changed) or 'nothing'}"
            )
    return {PASS: 0, FAIL: 1, HOLD: 3}[both.b.verdict]


if __name__ == "__main__":
    sys.exit(main())
