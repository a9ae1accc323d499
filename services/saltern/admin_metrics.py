"""What the admin API tells Prometheus, in its text format 0.0.4."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from .registry import POOLS, WANTS, State

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)

Sample = tuple[Mapping[str, str], float]


class Requests:
    """Counts answers and their times, by route."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: Counter[tuple[str, str, int]] = Counter()
        self._times: Counter[tuple[str, str, int]] = Counter()
        self._seconds: Counter[tuple[str, str]] = Counter()

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answer. ``method`` and ``route`` are those of the route table, or ``other``."""
        with self._lock:
            self._answers[method, route, status] += 1
            self._times[method, route, bisect_left(BOUNDS_S, seconds)] += 1
            self._seconds[method, route] += seconds  # type: ignore[assignment]  # a Counter of floats

    def lines(self) -> list[str]:
        """The counts as metric lines."""
        with self._lock:
            answers, times, seconds = dict(self._answers), dict(self._times), dict(self._seconds)
        found = metric(
            "saltern_admin_requests_total",
            "counter",
            "Requests answered.",
            [({"method": m, "route": r, "status": str(s)}, n) for (m, r, s), n in sorted(answers.items())],
        )
        samples: list[str] = []
        name = "saltern_admin_request_seconds"
        for (method, route), total in sorted(seconds.items()):
            labels, sum_of = {"method": method, "route": route}, 0
            for at, bound in enumerate([*map(str, BOUNDS_S), "+Inf"]):
                sum_of += times.get((method, route, at), 0)
                samples.append(_line(f"{name}_bucket", {**labels, "le": bound}, sum_of))
            samples += [_line(f"{name}_sum", labels, total), _line(f"{name}_count", labels, sum_of)]
        return [*found, *_head(name, "histogram", "Time to answer a request."), *samples]


def traffic(state: State | None, status: Mapping[str, Any], orders: int) -> list[str]:
    """The registry (None: it cannot be read) and the controller's status as metric lines."""
    share = status.get("share")
    lines = [
        *metric("saltern_registry_up", "gauge", "1 while Redis answers.", [({}, int(state is not None))]),
        *metric(
            "saltern_controller_ok",
            "gauge",
            "1 while HAProxy equals the registry.",
            [({}, int(bool(status.get("ok"))))],
        ),
        *metric("saltern_orders_waiting", "gauge", "Orders the controller has not taken.", [({}, orders)]),
        *metric(
            "saltern_effective_share_percent",
            "gauge",
            "Percent of requests the canary is given now.",
            [] if share is None else [({}, share)],
        ),
    ]
    if state is None:
        return lines
    wants = Counter((i.pool, i.want) for i in state.instances.values())
    return [
        *lines,
        *metric("saltern_registry_revision", "counter", "Changes ever made.", [({}, state.revision)]),
        *metric("saltern_share_percent", "gauge", "The canary's wanted share.", [({}, state.split.share)]),
        *metric(
            "saltern_canary_latched",
            "gauge",
            "1 while the canary is turned off.",
            [({}, int("canary" in state.latches))],
        ),
        *metric(
            "saltern_instances",
            "gauge",
            "Registered instances.",
            [({"pool": p, "want": w}, wants[p, w]) for p in POOLS for w in WANTS],
        ),
    ]


def text(lines: Iterable[str]) -> str:
    """Metric lines as one text."""
    return "\n".join(lines) + "\n"


def metric(name: str, kind: str, about: str, samples: Iterable[Sample]) -> list[str]:
    return [*_head(name, kind, about), *(_line(name, labels, value) for labels, value in samples)]


def _head(name: str, kind: str, about: str) -> list[str]:
    return [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]


def _line(name: str, labels: Mapping[str, str], value: float) -> str:
    inside = ",".join(f'{key}="{_escaped(each)}"' for key, each in labels.items())
    return f"{name}{{{inside}}} {value:.10g}" if inside else f"{name} {value:.10g}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
