"""How often the canary judge cries wolf, what it catches, and what a judgement costs, on simulated traffic.

    python tests/bench/bench_judge.py [--json] [--windows 10000] [--seed 1]

The traffic: lognormal latencies, 0.1 % failing requests, CPU and memory as first-order autoregressive
samples, one a second, several production machines of slightly different level. A window is the smallest the
judge accepts, 500 requests a side, unless a figure's name says otherwise: that is where chance weighs most
and a regression is hardest to see. Standard library only, one core; every figure comes from its own random
stream, so one can be repeated alone.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "services"))

from benching import Figure, main, median, report
from saltern.judge import Host, Thresholds, Verdict, Window, judge, mann_whitney_greater


@dataclass(frozen=True)
class Traffic:
    """What a pool does. Defaults: a small web product on a normal day.

    requests: in the window. error_rate: share that fails. latency_ms: median; latency_spread: standard
    deviation of its logarithm. latency_kind: "request" or "second" (then one autoregressive value a second).
    machines, seconds: of the pool and the window. cpu, memory: level in per cent. cpu_sd, memory_sd: their
    standard deviation in points. *_memory_of: lag-1 correlation of the samples. cpu_noise: standard deviation
    of independent measurement noise on top, in points. tail: share of requests that are slower by tail_times.
    """

    requests: int = 500
    error_rate: float = 0.001
    latency_ms: float = 40.0
    latency_spread: float = 0.5
    latency_kind: str = "request"
    latency_correlation: float = 0.5
    machines: int = 1
    seconds: int = 60
    cpu: float = 30.0
    cpu_sd: float = 5.0
    cpu_correlation: float = 0.7
    cpu_noise: float = 0.0
    memory: float = 40.0
    memory_sd: float = 2.0
    memory_correlation: float = 0.95
    tail: float = 0.0
    tail_times: float = 1.0


def series(
    rng: random.Random, n: int, level: float, sd: float, correlation: float, noise: float = 0.0
) -> tuple[float, ...]:
    """n samples of a stationary first-order autoregressive process in per cent, with independent noise
    added."""
    step = math.sqrt(1 - correlation * correlation)
    drift, values = rng.gauss(0, 1), []
    for _ in range(n):
        drift = correlation * drift + step * rng.gauss(0, 1)
        value = level + sd * drift + (rng.gauss(0, noise) if noise else 0.0)
        values.append(min(max(value, 0.0), 100.0))
    return tuple(values)


def window(rng: random.Random, pool: str, traffic: Traffic) -> Window:
    """One simulated window of a pool."""
    t = traffic
    # Skips from failure to failure: geometric gaps give the same binomial count as one draw a request.
    errors, place = -1, 0
    while place <= t.requests:
        errors += 1
        place += (
            1 + int(math.log(1 - rng.random()) / math.log1p(-t.error_rate))
            if t.error_rate
            else t.requests + 1
        )
    gauss, exp, at = rng.gauss, math.exp, math.log(t.latency_ms)
    if t.latency_kind == "request":
        latencies = [exp(gauss(at, t.latency_spread)) for _ in range(t.requests)]
        if t.tail:
            latencies = [ms * t.tail_times if rng.random() < t.tail else ms for ms in latencies]
    else:
        # The mean of a second's requests spreads less, and drifts.
        spread = t.latency_spread / math.sqrt(max(t.requests / t.seconds, 1))
        drift = series(rng, t.seconds, 50.0, 1.0, t.latency_correlation)
        latencies = [exp(at + spread * (value - 50.0)) for value in drift]
    hosts = tuple(
        Host(
            f"{'staging' if pool == 'canary' else 'prod'}{i + 1}",
            series(rng, t.seconds, t.cpu, t.cpu_sd, t.cpu_correlation, t.cpu_noise),
            series(rng, t.seconds, t.memory, t.memory_sd, t.memory_correlation),
        )
        for i in range(t.machines)
    )
    return Window(pool, 0.0, float(t.seconds), t.requests, errors, tuple(latencies), t.latency_kind, hosts)


def simulate(seed: str, windows: int, canary: Traffic, baseline: Traffic) -> Iterator[tuple[Window, Window]]:
    """Pairs of windows, canary first; the seed fixes all of them."""
    rng = random.Random(seed)
    for _ in range(windows):
        yield window(rng, "canary", canary), window(rng, "prod", baseline)


def verdicts(
    seed: str, windows: int, canary: Traffic, baseline: Traffic, thresholds: Thresholds | None = None
) -> list[Verdict]:
    """The judge's verdicts on simulated pairs, under the default thresholds unless others are given."""
    chosen = thresholds or Thresholds()
    return [judge(ours, theirs, chosen) for ours, theirs in simulate(seed, windows, canary, baseline)]


def share(found: Sequence[Verdict], wanted: str) -> float:
    """Per cent of the verdicts that are `wanted`."""
    return 100.0 * sum(verdict.verdict == wanted for verdict in found) / len(found)


# Simpler judges, for what the rules of this one are worth. Both look at the same windows and metrics.


def alarm_by_ratio(canary: Window, baseline: Window) -> bool:
    """Whether any median, or the error rate, is more than a tenth above production's."""
    return canary.errors > 1.1 * baseline.errors or any(
        median(ours) > 1.1 * median(theirs) for ours, theirs in _samples(canary, baseline)
    )


def alarm_by_plain_test(canary: Window, baseline: Window) -> bool:
    """Whether any metric differs at 1 % in a Mann-Whitney test that takes every sample for an independent
    one."""
    return any(mann_whitney_greater(ours, theirs) <= 0.01 for ours, theirs in _samples(canary, baseline))


def _samples(canary: Window, baseline: Window) -> list[tuple[Sequence[float], Sequence[float]]]:
    return [
        (canary.latency_ms, baseline.latency_ms),
        (_joined(canary, "cpu_percent"), _joined(baseline, "cpu_percent")),
        (_joined(canary, "memory_percent"), _joined(baseline, "memory_percent")),
    ]


def _joined(window: Window, name: str) -> list[float]:
    return [value for host in window.hosts for value in getattr(host, name)]


PEERS = {"median ratio above 1.1": alarm_by_ratio, "Mann-Whitney on every sample": alarm_by_plain_test}


# The cases. Goals are those of the traffic issue; a figure without one is for information.

CALM = Traffic()
#: A CPU reading that is half slow drift (20 s) and half noise: the kind that looks more independent than it
#: is.
NOISY = Traffic(seconds=300, cpu_correlation=0.95, cpu_noise=5.0)
PER_SECOND = Traffic(latency_kind="second")
#: What 5 % of the traffic is: one canary machine with 500 requests, five of production with 9,500.
NINETEEN_TIMES = replace(PER_SECOND, requests=9500, machines=5)
NO_ERROR_LIMIT = Thresholds(error_limit_percent=100.0)

FALSE_ALARMS = [
    # name of the figure, traffic of both sides, part of --windows, goal
    ("false alarms, A/A", CALM, 1.0, 1.0),
    ("false alarms, A/A, latency per second", PER_SECOND, 0.05, None),
    ("false alarms, A/A, 300 s, drifting noisy cpu", NOISY, 0.1, None),
]
CAUGHT = [
    # name of the figure, canary, production, thresholds, part of --windows, goal
    ("errors 3 % against 0.1 %", replace(CALM, error_rate=0.03), CALM, None, 0.2, 99.0),
    (
        "errors 3 % against 0.1 %, share 5 %, no hard limit",
        replace(PER_SECOND, error_rate=0.03),
        NINETEEN_TIMES,
        NO_ERROR_LIMIT,
        0.05,
        None,
    ),
    ("latency +30 %", replace(CALM, latency_ms=52.0), CALM, None, 0.05, None),
    (
        "one request in twenty four times slower",
        replace(CALM, tail=0.05, tail_times=4.0),
        CALM,
        None,
        0.1,
        None,
    ),
    ("cpu +50 %, 60 s", replace(CALM, cpu=45.0), CALM, None, 0.05, None),
    ("cpu +50 %, 300 s", replace(CALM, cpu=45.0, seconds=300), replace(CALM, seconds=300), None, 0.05, None),
]


def bench(windows: int, seed: int) -> dict[str, Any]:
    """How often the judge cries wolf and what it catches: `windows` A/A windows, a part of as many for the others."""
    figures = []
    for name, traffic, part, goal in FALSE_ALARMS:
        n = max(1, round(windows * part))
        found = verdicts(f"{seed} {name}", n, traffic, traffic)
        wrong = share(found, "fail")
        peers = {}
        if goal is not None:
            few = list(simulate(f"{seed} {name}", min(n, 500), traffic, traffic))
            for peer, alarm in PEERS.items():
                peers[peer] = 100.0 * sum(alarm(ours, theirs) for ours, theirs in few) / len(few)
        figures.append(Figure(name, wrong, "%", goal and f"<= {goal:g}", peers, runs=n))
        figures.append(Figure(name.replace("false alarms", "held"), share(found, "hold"), "%", runs=n))
    for name, canary, baseline, thresholds, part, least in CAUGHT:
        n = max(1, round(windows * part))
        found = verdicts(f"{seed} {name}", n, canary, baseline, thresholds)
        caught = share(found, "fail")
        figures.append(Figure(f"caught, {name}", caught, "%", least and f">= {least:g}", runs=n))
        figures.append(Figure(f"passed, {name}", share(found, "pass"), "%", runs=n))
    for name, canary, baseline in (
        ("time a judgement, 500 requests a side, 60 s", CALM, CALM),
        (
            "time a judgement, 5,000 requests a side, 300 s, five production machines",
            replace(CALM, requests=5000, seconds=300),
            replace(CALM, requests=5000, seconds=300, machines=5),
        ),
    ):
        pairs = list(simulate(f"{seed} {name}", 30, canary, baseline))
        times = [_milliseconds(*pair) for pair in pairs]
        figures.append(Figure(name, median(times), "ms", runs=times))
    return report("judge", figures)


def _milliseconds(canary: Window, baseline: Window) -> float:
    thresholds = Thresholds()
    began = time.perf_counter()
    judge(canary, baseline, thresholds)
    return 1000.0 * (time.perf_counter() - began)


if __name__ == "__main__":
    main(bench, windows=(int, 10_000, "A/A windows to judge"), seed=(int, 1, "another seed is other traffic"))
