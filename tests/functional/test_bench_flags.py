"""The flags' bench runs and prints every figure. What it measures is not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.functional

BENCH = Path(__file__).parents[1] / "bench" / "bench_flags.py"


def test_a_short_run_prints_one_object_with_every_figure() -> None:
    done = subprocess.run(
        [sys.executable, str(BENCH), "--json", "--flip-count", "3", "--evaluations", "400", "--peers", "0"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert report["bench"] == "flags"
    figures = {figure["name"]: figure for figure in report["figures"]}
    assert figures["flip_seen_p50"]["runs"] == 18, "three flips, six products"
    assert figures["flip_seen_by_all_p99"]["goal"] == "<= 10"
    for key in ("static", "targeting", "fractional"):
        assert figures[f"evaluate_{key}_over_core"]["goal"] == "<= 1.1"
        assert {"flagd_core_path", "redis_get"} <= set(figures[f"evaluate_{key}"]["peers"])
    assert figures["network_per_evaluation"]["value"] == 0
