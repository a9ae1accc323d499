"""The bench runs and prints what the bench contract asks for. What it measures is not judged here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import openfeature_redis
import pytest

pytestmark = pytest.mark.functional


def test_a_short_run_prints_one_object_with_every_figure():
    source = str(Path(openfeature_redis.__file__).parents[1])
    command = [sys.executable, str(Path(__file__).with_name("bench_flags.py")), "--json"]
    run = subprocess.run(
        [*command, "--flips", "3", "--evaluations", "500"],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    report = json.loads(run.stdout)
    assert report["bench"] == "flags"
    assert {"cpus", "python", "redis"} <= report["machine"].keys()
    for figure in report["figures"]:
        assert figure.keys() == {"name", "value", "unit", "goal", "met", "peers", "runs"}
        assert figure["met"] == (None if figure["goal"] is None else figure["value"] <= figure["goal"])
    by_name = {figure["name"]: figure for figure in report["figures"]}
    assert {"flip_seen_p50", "flip_seen_p99", "flip_seen_by_all_p99", "evaluate_static"} <= by_name.keys()
    assert by_name["flip_seen_p50"]["runs"] == 18
    assert by_name["network_per_evaluation"]["value"] == 0
