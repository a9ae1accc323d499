"""What the benches share: figures with goals, the machine they were taken on, one JSON object or a table."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One measured number. ``goal`` is a comparison such as ``<= 25``; None when the number only informs."""

    name: str
    value: float
    unit: str
    goal: str | None = None
    peers: Mapping[str, float] = field(default_factory=dict)
    runs: Sequence[float] | int = ()
    """What each run gave, or, where a run gives only yes or no, how many there were."""

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without one."""
        if self.goal is None:
            return None
        sign, _, number = self.goal.partition(" ")
        return {"<=": self.value <= float(number), ">=": self.value >= float(number)}[sign]


def machine() -> dict[str, Any]:
    """The machine the figures are from."""
    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())
    return {
        "cores": os.cpu_count(),
        "cpu": cpu.group(1) if cpu else platform.machine(),
        "memory_mib": int(memory.group(1)) // 1024 if memory else None,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


def report(bench: str, figures: Sequence[Figure]) -> dict[str, Any]:
    """The one JSON object a bench prints."""
    return {
        "bench": bench,
        "machine": machine(),
        "figures": [
            {**asdict(f), "runs": f.runs if isinstance(f.runs, int) else list(f.runs), "met": f.met}
            for f in figures
        ],
    }


def table(result: Mapping[str, Any]) -> str:
    """The same for a person."""
    rows = [("figure", "value", "goal", "", "peers")]
    for f in result["figures"]:
        met = {True: "met", False: "MISSED", None: ""}[f["met"]]
        peers = ", ".join(f"{name} {value:g}" for name, value in f["peers"].items())
        rows.append((f["name"], f"{f['value']:g} {f['unit']}", f["goal"] or "", met, peers))
    widths = [max(len(row[at]) for row in rows) for at in range(5)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def main(bench: Callable[..., dict[str, Any]], **options: tuple[type, Any, str]) -> None:
    """Run a bench from the command line: ``--json`` and one flag for each of its options."""
    parser = argparse.ArgumentParser(description=(bench.__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    for name, (kind, default, text) in options.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=kind, default=default, help=f"{text} (default {default})"
        )
    arguments = vars(parser.parse_args())
    as_json = arguments.pop("json")
    result = bench(**arguments)
    print(json.dumps(result) if as_json else table(result))


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which ``percent`` of the values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(percent / 100 * len(ordered)) - 1))]


def median(values: Sequence[float]) -> float:
    """The middle value, to six decimals."""
    return round(statistics.median(values), 6)


@dataclass(frozen=True)
class WrkResult:
    """What wrk saw."""

    requests: int
    seconds: float
    failed: int
    """Socket errors and answers other than 2xx and 3xx."""

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


def wrk(url: str, seconds: float, connections: int = 64, threads: int = 1) -> WrkResult:
    """Load a URL with keep-alive connections for a time."""
    arguments = [
        "wrk",
        f"-t{threads}",
        f"-c{connections}",
        f"-d{max(1, round(seconds))}s",
        "--timeout",
        "10s",
        url,
    ]
    return parse_wrk(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout)


def parse_wrk(text: str) -> WrkResult:
    """Read wrk's summary. Raises ValueError when it is none."""
    done = re.search(r"(\d+) requests in ([\d.]+)(ms|s|m),", text)
    if not done:
        raise ValueError(f"not a summary of wrk: {text[-200:]!r}")
    seconds = float(done.group(2)) * {"ms": 0.001, "s": 1.0, "m": 60.0}[done.group(3)]
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    wrong = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    failed = sum(int(n) for n in errors.groups()) if errors else 0
    return WrkResult(int(done.group(1)), seconds, failed + (int(wrong.group(1)) if wrong else 0))
