"""The judge on simulated traffic: a small run of tests/bench/bench_judge.py with fixed seeds.

Small, yet able to fail: the same windows make simpler judges, and this one with its safeguards off, cry wolf.
"""

from __future__ import annotations

import json
from dataclasses import replace

import bench_judge as bench
import benching
import pytest
from saltern.judge import Thresholds

CALM, NOISY = bench.CALM, bench.NOISY


@pytest.mark.parametrize(
    ("name", "traffic", "windows"),
    [
        ("the smallest windows there are", CALM, 600),
        ("latency per second", bench.PER_SECOND, 300),
        ("cpu that drifts under noise, 300 s", NOISY, 100),
        ("strongly autocorrelated cpu", replace(CALM, cpu_correlation=0.95, cpu_sd=8.0), 300),
        ("heavier tailed latencies", replace(CALM, latency_spread=1.2), 300),
        ("one per cent of errors on both sides", replace(CALM, requests=2000, error_rate=0.004), 100),
    ],
)
def test_alike_pools_hardly_ever_fail(name, traffic, windows):
    found = bench.verdicts(f"calibration {name}", windows, traffic, traffic)
    assert bench.share(found, "fail") <= 1.0, name
    assert bench.share(found, "pass") >= 60.0, name


def test_the_same_traffic_makes_simpler_judges_cry_wolf():
    pairs = list(bench.simulate("calibration the smallest windows there are", 200, CALM, CALM))
    assert sum(bench.alarm_by_ratio(*pair) for pair in pairs) > 20
    assert sum(bench.alarm_by_plain_test(*pair) for pair in pairs) > 40


def test_the_same_traffic_makes_this_judge_cry_wolf_without_its_safeguards():
    careless = Thresholds(
        tolerance=1.0,
        false_alarm=0.5,
        suspicion=0.5,
        latency_min_ms=0.0,
        host_min_points=0.0,
        error_min_points=0.0,
    )
    found = bench.verdicts("calibration the smallest windows there are", 200, CALM, CALM, careless)
    assert bench.share(found, "fail") > 5.0


@pytest.mark.parametrize(
    ("name", "canary", "production", "thresholds", "windows", "least"),
    [
        ("3 % errors against 0.1 %", {"error_rate": 0.03}, CALM, Thresholds(), 400, 99.0),
        (
            "3 % errors at a share of 5 %, by statistics alone",
            {"error_rate": 0.03, "latency_kind": "second"},
            replace(bench.NINETEEN_TIMES, seconds=60),
            bench.NO_ERROR_LIMIT,
            60,
            99.0,
        ),
        ("latency +30 %", {"latency_ms": 52.0}, CALM, Thresholds(), 100, 99.0),
        (
            "cpu +50 % over 300 s",
            {"cpu": 45.0, "seconds": 300},
            replace(CALM, seconds=300),
            Thresholds(),
            60,
            99.0,
        ),
    ],
)
def test_a_regression_is_caught_in_the_first_full_window(
    name, canary, production, thresholds, windows, least
):
    found = bench.verdicts(f"calibration {name}", windows, replace(CALM, **canary), production, thresholds)
    assert bench.share(found, "fail") >= least, name


@pytest.mark.parametrize(
    ("name", "canary"),
    [
        ("cpu +50 % over 60 s", {"cpu": 45.0}),
        ("memory +50 % over 60 s", {"memory": 60.0}),
    ],
)
def test_a_regression_too_short_to_be_certain_of_holds_rather_than_passes(name, canary):
    found = bench.verdicts(f"calibration {name}", 100, replace(CALM, **canary), CALM)
    assert bench.share(found, "pass") == 0.0, name
    assert bench.share(found, "hold") > 10.0, name


def test_simulated_errors_are_binomial():
    rng = bench.random.Random("errors")
    counts = [
        bench.window(rng, "prod", replace(CALM, requests=1000, error_rate=0.02, seconds=1)).errors
        for _ in range(400)
    ]
    mean = sum(counts) / 400
    variance = sum((count - mean) ** 2 for count in counts) / 399
    assert mean == pytest.approx(20.0, abs=0.7)
    assert variance == pytest.approx(19.6, rel=0.3)
    assert bench.window(rng, "prod", replace(CALM, error_rate=0.0)).errors == 0


def test_the_bench_gives_every_figure_its_name_and_goal():
    answer = bench.bench(windows=10, seed=1)
    assert answer["bench"] == "judge"
    assert set(answer["machine"]) >= {"cores", "python"}
    names = [figure["name"] for figure in answer["figures"]]
    assert len(set(names)) == len(names)
    for figure in answer["figures"]:
        assert set(figure) == {"name", "value", "unit", "goal", "met", "peers", "runs"}
        assert (figure["goal"] is None) == (figure["met"] is None)
    assert json.loads(json.dumps(answer)) == answer
    first = benching.table(answer).splitlines()[0]
    assert first.split() == ["figure", "value", "goal", "peers"]
