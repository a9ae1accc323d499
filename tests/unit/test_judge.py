"""What the judge says, metric by metric: limits, missing data, effect, chance, and records."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from saltern.judge import (
    Comparison,
    Host,
    JudgeError,
    Record,
    Thresholds,
    Verdict,
    Window,
    compare,
    judge,
    main,
    mann_whitney_greater,
)

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = Thresholds()
NAMES = ["errors", "latency", "latency tail", "cpu", "memory"]


def spread(seed: int, n: int, level: float, sd: float) -> tuple[float, ...]:
    """n independent values around a level."""
    rng = random.Random(seed)
    return tuple(max(rng.gauss(level, sd), 0.0) for _ in range(n))


def window(pool: str, **changes: object) -> Window:
    """A healthy minute of a pool: one machine, 1,000 requests around 40 ms, cpu near 30 %, memory near 40
    %."""
    seed = 1 if pool == "canary" else 2
    healthy = {
        "pool": pool,
        "started": 1_700_000_000.0,
        "seconds": 60.0,
        "requests": 1000,
        "errors": 1,
        "latency_ms": spread(seed, 1000, 40, 8),
        "latency_kind": "request",
        "hosts": (
            Host(
                "staging1" if pool == "canary" else "prod1",
                spread(seed + 2, 60, 30, 3),
                spread(seed + 4, 60, 40, 1),
            ),
        ),
    }
    return Window(**{**healthy, **changes})


CANARY, PROD = window("canary"), window("prod")


def metric(verdict: Verdict, name: str):
    return next(found for found in verdict.metrics if found.name == name)


def judged(thresholds: Thresholds = DEFAULT, baseline: Window = PROD, **changes: object) -> Verdict:
    return judge(replace(CANARY, **changes), baseline, thresholds)


def hosts(cpu: tuple[float, ...] | None = None, memory: tuple[float, ...] | None = None) -> tuple[Host, ...]:
    healthy = CANARY.hosts[0]
    return (
        Host(
            "staging1",
            healthy.cpu_percent if cpu is None else cpu,
            healthy.memory_percent if memory is None else memory,
        ),
    )


def test_a_canary_like_production_passes_on_every_metric():
    verdict = judge(CANARY, PROD, DEFAULT)
    assert verdict.verdict == "pass"
    assert [(m.name, m.verdict) for m in verdict.metrics] == [(name, "pass") for name in NAMES]
    assert all(m.p_value is not None and m.ratio is not None and m.reason for m in verdict.metrics)


def test_a_better_canary_passes():
    verdict = judged(
        errors=0,
        latency_ms=spread(9, 1000, 10, 2),
        hosts=hosts(spread(9, 60, 5, 1), spread(9, 60, 10, 1)),
        baseline=window("prod", errors=9),
    )
    assert verdict.verdict == "pass"


# Hard limits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("errors", {"errors": 11}, "11 of 1000 requests failed, limit 1 %"),
        ("latency tail", {"latency_ms": spread(3, 1000, 1100, 50)}, "limit 1000 ms"),
        ("cpu", {"hosts": hosts(cpu=spread(3, 60, 95, 1))}, "staging1 is at 95 %, limit 90 %"),
        ("memory", {"hosts": hosts(memory=spread(3, 60, 95, 1))}, "staging1 is at 95 %, limit 90 %"),
    ],
)
def test_a_broken_hard_limit_fails_the_canary(name, changes, reason):
    verdict = judged(**changes)
    assert verdict.verdict == "fail"
    assert metric(verdict, name).verdict == "fail"
    assert reason in metric(verdict, name).reason
    assert reason in verdict.reason


@pytest.mark.parametrize(
    ("name", "both"),
    [
        ("errors", {"errors": 30}),
        ("latency tail", {"latency_ms": spread(3, 1000, 1100, 50)}),
        ("cpu", {"hosts": hosts(cpu=spread(3, 60, 95, 1))}),
        ("memory", {"hosts": hosts(memory=spread(3, 60, 95, 1))}),
    ],
)
def test_a_hard_limit_holds_for_the_canary_whatever_production_does_and_says_that_it_does_too(name, both):
    found = metric(judged(baseline=window("prod", **both), **both), name)
    assert found.verdict == "fail"
    assert "production is over it too" in found.reason


@pytest.mark.parametrize(
    ("requests", "errors", "verdict"),
    [
        (10, 10, "fail"),  # everything fails: no need to wait for 500
        (50, 5, "fail"),
        (50, 4, "hold"),  # a canary at the limit of 1 % does this once in six hundred windows
        (1, 1, "hold"),
        (499, 0, "hold"),
        (0, 0, "hold"),
    ],
)
def test_the_error_limit_works_before_the_window_is_full(requests, errors, verdict):
    found = judged(requests=requests, errors=errors, latency_ms=())
    assert metric(found, "errors").verdict == verdict
    assert found.verdict == verdict


def test_one_busy_second_is_not_saturation():
    busy = (100.0, *CANARY.hosts[0].cpu_percent[1:])
    assert judged(hosts=hosts(cpu=busy)).verdict == "pass"


def test_one_saturated_machine_fails_a_canary_of_several():
    calm = Host("staging2", CANARY.hosts[0].cpu_percent, CANARY.hosts[0].memory_percent)
    verdict = judged(hosts=(calm, *hosts(memory=(93.0,) * 60)))
    assert "staging1 is at 93 %" in metric(verdict, "memory").reason
    assert verdict.verdict == "fail"


# No data is not good news ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "canary", "prod", "reason"),
    [
        (
            "errors",
            {"requests": 499, "errors": 0, "latency_ms": ()},
            {},
            "canary had 499 requests, 500 needed",
        ),
        ("errors", {}, {"requests": 499, "errors": 0, "latency_ms": ()}, "prod had 499 requests, 500 needed"),
        ("latency", {"latency_ms": ()}, {}, "canary has no latencies"),
        ("latency", {}, {"latency_ms": ()}, "prod has no latencies"),
        ("latency tail", {"latency_ms": ()}, {}, "canary has no latencies"),
        ("latency", {"latency_ms": (40.0,) * 499}, {}, "canary has 499 latencies per request, 500 needed"),
        ("latency tail", {}, {"latency_ms": (40.0,) * 499}, "prod has 499 latencies per request, 500 needed"),
        ("latency", {"latency_kind": "second"}, {}, "record both alike"),
        ("latency tail", {"latency_kind": "second"}, {}, "record both alike"),
        ("latency", {}, {"latency_kind": "second"}, "record both alike"),
        ("cpu", {"hosts": ()}, {}, "no machine of canary was recorded"),
        ("memory", {}, {"hosts": ()}, "no machine of prod was recorded"),
        ("cpu", {"hosts": hosts(cpu=())}, {}, "staging1 sent 0 samples, 20 needed"),
        ("memory", {"hosts": hosts(memory=(40.0,) * 19)}, {}, "staging1 sent 19 samples, 20 needed"),
        ("memory", {}, {"hosts": hosts(memory=())}, "prod sent 0 samples, 20 needed"),
        ("cpu", {"hosts": (*CANARY.hosts, Host("staging2"))}, {}, "staging2 sent 0 samples"),
        ("cpu", {}, {"requests": 0, "errors": 0, "latency_ms": ()}, "production served no requests"),
    ],
)
def test_a_missing_metric_or_too_few_samples_hold_and_never_pass(name, canary, prod, reason):
    verdict = judge(window("canary", **canary), window("prod", **prod), DEFAULT)
    assert verdict.verdict == "hold"
    assert metric(verdict, name).verdict == "hold"
    assert reason in metric(verdict, name).reason


@pytest.mark.parametrize("empty", ["latency_ms", "hosts"])
def test_a_failed_metric_fails_the_canary_although_another_is_missing(empty):
    verdict = judged(errors=100, **{empty: ()})
    assert verdict.verdict == "fail"
    assert verdict.reason.startswith("errors: 100 of 1000")


def test_two_empty_windows_hold_on_every_metric():
    nothing = {"requests": 0, "errors": 0, "latency_ms": (), "hosts": ()}
    verdict = judge(window("canary", **nothing), window("prod", **nothing), DEFAULT)
    assert {found.verdict for found in verdict.metrics} == {"hold"}
    assert verdict.verdict == "hold"
    assert "\n" not in verdict.reason


@given(st.data())
def test_leaving_anything_out_never_turns_a_verdict_into_a_pass(data):
    def thinned(full: Window) -> Window:
        some = data.draw(st.sampled_from(["latency_ms", "cpu_percent", "memory_percent", "hosts"]))
        if some == "latency_ms":
            return replace(full, latency_ms=full.latency_ms[: data.draw(st.integers(0, 499))])
        if some == "hosts":
            return replace(full, hosts=())
        kept = getattr(full.hosts[0], some)[: data.draw(st.integers(0, 19))]
        return replace(full, hosts=(replace(full.hosts[0], **{some: kept}),))

    sides = [CANARY, PROD]
    side = data.draw(st.integers(0, 1))
    sides[side] = thinned(sides[side])
    assert judge(*sides, DEFAULT).verdict == "hold"


# The traps -------------------------------------------------------------------------------------------------


def test_with_two_samples_a_side_chance_would_decide_so_the_judge_holds():
    rng = random.Random(11)
    naive = 0
    for _ in range(100):
        ours, theirs = spread(rng.getrandbits(32), 2, 30, 6), spread(rng.getrandbits(32), 2, 30, 6)
        naive += sum(ours) > 1.1 * sum(theirs)
        verdict = judged(hosts=hosts(cpu=ours), baseline=window("prod", hosts=hosts(cpu=theirs)))
        assert metric(verdict, "cpu").verdict == "hold"
    # What the floor is there for: the same windows, judged by their ratio alone.
    assert naive / 100 > 0.2


def test_tolerance_one_fails_a_steady_one_per_cent_and_the_default_does_not():
    ours = tuple(1.01 * value for value in spread(21, 4000, 100, 1))
    canary = window("canary", requests=4000, latency_ms=ours)
    prod = window("prod", requests=4000, latency_ms=spread(22, 4000, 100, 1))
    touchy = replace(DEFAULT, tolerance=1.0, latency_min_ms=0.0)
    assert metric(judge(canary, prod, touchy), "latency").verdict == "fail"
    found = metric(judge(canary, prod, DEFAULT), "latency")
    assert found.p_value < 1e-6  # as certain as can be, and not worth acting on
    assert found.verdict == "pass"
    assert "within tolerance" in found.reason


def drifting(seed: int, n: int, level: float, sd: float, correlation: float) -> tuple[float, ...]:
    rng, values = random.Random(seed), []
    drift = rng.gauss(0, 1)
    for _ in range(n):
        drift = correlation * drift + math.sqrt(1 - correlation**2) * rng.gauss(0, 1)
        values.append(max(level + sd * drift, 0.0))
    return tuple(values)


def test_samples_that_resemble_their_neighbours_do_not_count_as_independent_ones():
    plain = failed = 0
    eager = replace(DEFAULT, tolerance=1.0, host_min_points=0.0)  # leave the decision to chance alone
    for seed in range(60):
        ours, theirs = drifting(seed, 120, 30, 5, 0.9), drifting(10_000 + seed, 120, 30, 5, 0.9)
        plain += mann_whitney_greater(ours, theirs) <= 0.002
        found = metric(judged(eager, window("prod", hosts=hosts(cpu=theirs)), hosts=hosts(cpu=ours)), "cpu")
        assert found.canary_independent < 40
        failed += found.verdict == "fail"
    assert plain / 60 > 0.15
    assert failed <= 1


@pytest.mark.parametrize(
    ("level", "verdict"),
    [(40.0, "pass"), (43.0, "pass"), (50.0, "hold")],
)
def test_a_memory_reading_that_never_moves_passes_within_tolerance_and_holds_beyond(level, verdict):
    steady = window("prod", hosts=hosts(memory=(40.0,) * 60))
    found = metric(judged(hosts=hosts(memory=(level,) * 60), baseline=steady), "memory")
    assert found.verdict == verdict
    assert found.p_value is None
    assert found.canary_independent == 1.0


# Effect and chance -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "verdict", "why"),
    [
        ("errors", {"errors": 10}, "hold", "suspicious"),
        ("errors", {"errors": 3}, "pass", "chance"),
        ("latency", {"latency_ms": spread(31, 1000, 52, 8)}, "fail", "not by chance"),
        ("latency", {"latency_ms": spread(31, 1000, 43, 8)}, "pass", "within tolerance"),
        ("cpu", {"hosts": hosts(cpu=spread(31, 60, 45, 3))}, "fail", "not by chance"),
        ("memory", {"hosts": hosts(memory=spread(31, 60, 60, 1))}, "fail", "not by chance"),
        ("memory", {"hosts": hosts(memory=spread(31, 60, 42, 1))}, "pass", "within tolerance"),
    ],
)
def test_a_metric_fails_when_effect_and_significance_agree(name, changes, verdict, why):
    found = judged(**changes)
    assert metric(found, name).verdict == verdict
    assert why in metric(found, name).reason
    assert found.verdict == verdict


def test_a_difference_that_is_significant_but_below_the_hard_limit_fails_on_errors():
    verdict = judged(errors=9, baseline=window("prod", requests=100_000, errors=20))
    assert metric(verdict, "errors").verdict == "fail"


def test_one_request_in_ten_that_takes_five_times_as_long_fails_on_the_tail_and_not_on_the_median():
    ours = tuple(5 * ms if i % 10 == 0 else ms for i, ms in enumerate(CANARY.latency_ms))
    verdict = judged(latency_ms=ours)
    assert metric(verdict, "latency").verdict == "pass"
    assert metric(verdict, "latency tail").verdict == "fail"


def test_without_one_slow_request_in_production_a_slow_tail_still_fails():
    ours = tuple(5 * ms if i % 11 in (0, 5) else ms for i, ms in enumerate(CANARY.latency_ms))
    found = metric(
        judged(latency_ms=ours, baseline=window("prod", latency_ms=(40.0,) * 1000)), "latency tail"
    )
    assert found.verdict == "fail"


def test_twice_almost_nothing_is_still_almost_nothing():
    idle = window("prod", hosts=hosts(spread(41, 60, 0.5, 0.05)))
    verdict = judged(hosts=hosts(spread(42, 60, 1.0, 0.05)), baseline=idle)
    assert metric(verdict, "cpu").verdict == "pass"
    assert "too small a difference" in metric(verdict, "cpu").reason


def test_latencies_recorded_per_second_are_judged_without_a_tail():
    def seconds(pool: str, level: float) -> Window:
        return window(pool, latency_kind="second", latency_ms=spread(len(pool), 60, level, 2))

    slower = judge(seconds("canary", 52), seconds("prod", 40), DEFAULT)
    assert [found.name for found in slower.metrics] == ["errors", "latency", "cpu", "memory"]
    assert metric(slower, "latency").verdict == "fail"
    assert judge(seconds("canary", 40), seconds("prod", 40), DEFAULT).verdict == "pass"
    beyond = judge(seconds("canary", 1200), seconds("prod", 1190), DEFAULT)
    assert metric(beyond, "latency").verdict == "fail"
    assert "95 % of the seconds took up to" in metric(beyond, "latency").reason


@pytest.mark.parametrize(
    ("name", "canary_requests", "canary_cpu", "verdict"),
    [
        ("three times the load, three times the cpu", 3000, 60, "pass"),
        ("three times the load, five times the cpu", 3000, 85, "fail"),
        ("the same load, half as much cpu again", 1000, 30, "fail"),
        ("a third of the load, the same cpu: an idle machine costs too", 500, 20, "pass"),
    ],
)
def test_cpu_is_compared_at_the_load_of_production(name, canary_requests, canary_cpu, verdict):
    canary = window(
        "canary", requests=canary_requests, latency_ms=(), hosts=hosts(cpu=spread(51, 60, canary_cpu, 1))
    )
    prod = window("prod", requests=1000, hosts=hosts(cpu=spread(52, 60, 20, 1)))
    found = metric(judge(canary, prod, DEFAULT), "cpu")
    assert found.verdict == verdict, name
    assert ("divided by 3.00" in found.reason) == (canary_requests == 3000)


def test_the_load_of_production_is_per_machine_and_second():
    prod = window(
        "prod",
        requests=10_000,
        seconds=120.0,
        hosts=tuple(replace(PROD.hosts[0], id=f"prod{i}") for i in range(5)),
    )
    # 1,000 requests in 60 s on one machine are what 10,000 in 120 s on five are.
    assert "divided" not in metric(judge(CANARY, prod, DEFAULT), "cpu").reason
    twice = metric(judge(replace(CANARY, requests=2000), prod, DEFAULT), "cpu")
    assert "divided by 2.00" in twice.reason


def test_production_machines_of_different_levels_are_worth_fewer_samples_than_they_send():
    levels = tuple(Host(f"prod{i}", spread(i, 60, 20 + 10 * i, 1), (40.0,) * 60) for i in range(1, 5))
    found = metric(judge(CANARY, window("prod", hosts=levels), DEFAULT), "cpu")
    assert found.baseline_n == 240
    assert found.baseline_independent < 20


def test_the_pools_cannot_be_swapped():
    with pytest.raises(JudgeError, match="the canary's window comes first"):
        judge(PROD, CANARY, DEFAULT)


# Records ---------------------------------------------------------------------------------------------------

percent = st.lists(st.floats(0, 100), max_size=5).map(tuple)
machines = st.lists(
    st.builds(Host, st.from_regex(r"(prod|staging)[0-9]{1,4}", fullmatch=True), percent, percent),
    max_size=3,
    unique_by=lambda host: host.id,
)


@st.composite
def windows(draw: st.DrawFn, pool: str) -> Window:
    requests = draw(st.integers(0, 10**6))
    return Window(
        pool=pool,
        started=draw(st.floats(0, 1e10)),
        seconds=draw(st.floats(0.001, 1e6)),
        requests=requests,
        errors=draw(st.integers(0, requests)),
        latency_ms=tuple(draw(st.lists(st.floats(0, 1e6), max_size=min(requests, 5)))),
        latency_kind=draw(st.sampled_from(["request", "second"])),
        hosts=tuple(draw(machines)),
    )


@given(windows("canary"), windows("prod"), st.floats(1, 100))
def test_a_record_comes_back_from_json_as_it_went(canary, baseline, tolerance):
    assert Window.from_json(canary.to_json()) == canary
    record = Record(canary, baseline, Thresholds(tolerance=tolerance))
    text = record.to_json()
    assert "\n" not in text
    assert Record.from_json(text) == record


@given(windows("canary"), windows("prod"))
def test_every_valid_pair_of_windows_gets_a_verdict_with_one_line_of_reason(canary, baseline):
    verdict = judge(canary, baseline, DEFAULT)
    assert verdict.verdict in ("fail", "hold")  # five samples are never enough to pass
    assert verdict.reason.splitlines() == [verdict.reason]
    json.dumps(verdict.to_data(), allow_nan=False)


def edited(**changes: object) -> str:
    data = json.loads(CANARY.to_json())
    for name, value in changes.items():
        if value is None:
            del data[name]
        else:
            data[name] = value
    return json.dumps(data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "window: not JSON: "),
        ("[]", "window is a list; an object is expected"),
        ("[" * 100_000, "window: not JSON: "),
        (edited(requests=None), "window: requests is missing"),
        (edited(color="red"), "window: 'color' is unknown; known are pool, started"),
        (edited(pool="staging"), "pool: 'staging' is neither canary nor prod"),
        (edited(requests="many"), "canary window: requests: 'many' is not a whole number from 0 to 1e+12"),
        (edited(requests=True), "canary window: requests: True is not a whole number"),
        (edited(requests=1.5), "canary window: requests: 1.5 is not a whole number"),
        (edited(errors=-1), "canary window: errors: -1 is not a whole number"),
        (edited(errors=1001), "errors 1001 exceeds requests 1000"),
        (edited(seconds=0), "canary window: seconds is 0"),
        (edited(seconds=[]), "canary window: seconds is a list; a number is expected"),
        (edited(started=-5), "canary window: started: -5 is not between 0 and 1e+12"),
        (edited(latency_kind="minute"), "latency_kind 'minute' is not one of request, second"),
        (edited(latency_ms=[1, -2]), "canary window: latency_ms[1]: -2 is not between 0"),
        (edited(latency_ms="fast"), "canary window: latency_ms is a text; a list of numbers is expected"),
        (
            edited(latency_ms=[1] * 1001),
            "1001 latencies of 1000 requests; per-second values need latency_kind second",
        ),
        (edited(latency_ms=[10**400]), "canary window: latency_ms[0]"),
        (edited(requests=10**400), "is not a whole number from 0 to 1e+12"),
        (CANARY.to_json().replace('"errors":1', f'"errors":1{"0" * 5000}'), "window: not JSON: "),
        (CANARY.to_json().replace('"errors":1', '"errors":NaN'), "window: NaN is not a number JSON knows"),
        (
            CANARY.to_json().replace('"errors":1', '"errors":1,"errors":0'),
            "window: 'errors' is given 2 times",
        ),
        (edited(hosts={}), "window: hosts is an object; a list of machines is expected"),
        (edited(hosts=[3]), "window: hosts[0] is a number; an object is expected"),
        (edited(hosts=[{"cpu_percent": []}]), "window: hosts[0]: id is missing"),
        (edited(hosts=[{"id": "prod1\n"}]), "is no minion id"),
        (edited(hosts=[{"id": ""}]), "hosts: id '' is no minion id; it must match"),
        (edited(hosts=[{"id": "prod1"}, {"id": "prod1"}]), "canary window: host prod1 is listed twice"),
        (
            edited(hosts=[{"id": "prod1", "cpu_percent": [3e9]}]),
            "host prod1: cpu_percent[0]: 3000000000.0 is not between",
        ),
        (edited(hosts=[{"id": "prod1", "memory_percent": None}]), "host prod1: memory_percent is null"),
    ],
)
def test_a_bad_window_is_refused_with_one_clear_line(text, message):
    with pytest.raises(JudgeError) as refused:
        Window.from_json(text)
    assert message in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values)
def test_anything_that_is_not_a_window_is_refused_by_name(data):
    with pytest.raises(JudgeError):
        Window.from_data(data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tolerance": 0.9}, "tolerance: 0.9 is not between 1 and 100"),
        ({"tolerance": math.nan}, "tolerance: nan is not between"),
        ({"min_requests": 0}, "min_requests: 0 is not between 1"),
        ({"min_requests": 1.5}, "min_requests: 1.5 is not a whole number"),
        ({"tolerance": "high"}, "tolerance: 'high' is not a number"),
        ({"false_alarm": True}, "false_alarm: True is not a number"),
        ({"false_alarm": 0.1, "suspicion": 0.05}, "suspicion: 0.05 is below false_alarm 0.1"),
        ({"tolerence": 1.2}, "tolerence: no such threshold; there are cpu_limit_percent"),
    ],
)
def test_a_bad_threshold_is_refused_with_one_clear_line(changes, message):
    with pytest.raises(JudgeError) as refused:
        DEFAULT.with_values(changes)
    assert message in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_the_pillar_documents_every_threshold_and_holds_the_defaults():
    text = (ROOT / "pillar" / "canary.sls").read_text(encoding="utf-8")
    values = yaml.safe_load(text)["canary"]["judge"]
    assert values == dataclasses.asdict(DEFAULT)
    assert Thresholds().with_values(values) == DEFAULT


def test_a_record_can_be_judged_again_with_other_thresholds():
    record = Record(replace(CANARY, errors=8), PROD)
    found = compare(record, record.thresholds, replace(DEFAULT, error_limit_percent=0.5, min_samples=61))
    assert isinstance(found, Comparison)
    assert (found.a.verdict, found.b.verdict) == ("hold", "fail")
    assert found.changed == ("errors", "cpu", "memory")


# Command line ----------------------------------------------------------------------------------------------


@pytest.fixture
def recorded(tmp_path):
    def write(**changes: object) -> str:
        path = tmp_path / "record.json"
        path.write_text(Record(replace(CANARY, **changes), PROD).to_json(), encoding="utf-8")
        return str(path)

    return write


@pytest.mark.parametrize(
    ("changes", "settings", "status", "first"),
    [
        ({}, [], 0, "pass: "),
        ({"errors": 30}, [], 1, "fail: errors: 30 of 1000 requests failed, limit 1 %"),
        ({"latency_ms": ()}, [], 3, "hold: latency and latency tail: canary has no latencies"),
        ({"errors": 30}, ["--set", "error_limit_percent=5", "--set", "tolerance=40"], 0, "pass: "),
        ({}, ["--set", "min_requests=2000"], 3, "hold: "),
    ],
)
def test_the_command_prints_verdict_and_reason_first_and_answers_by_exit_status(
    changes, settings, status, first, recorded, capsys
):
    assert main([recorded(**changes), *settings]) == status
    assert capsys.readouterr().out.startswith(first)


def test_the_table_is_aligned_and_shows_each_metric_with_its_numbers(recorded, capsys):
    main([recorded(errors=30)])
    lines = capsys.readouterr().out.splitlines()
    head, rows = lines[2], lines[3:]
    assert head.split()[:4] == ["metric", "verdict", "canary", "production"]
    assert [row[: head.index("verdict")].strip() for row in rows] == NAMES
    for column in ("verdict", "unit", "reason"):
        assert all(row[head.index(column) - 1] == " " != row[head.index(column)] for row in rows), column
    assert "3.00" in rows[0]
    assert "0.10" in rows[0]


def test_the_command_says_what_other_thresholds_changed(recorded, capsys):
    main([recorded(errors=30), "--set", "error_limit_percent=5", "--set", "error_min_points=5"])
    assert capsys.readouterr().out.splitlines()[-1] == "with the recorded thresholds: fail; changed: errors"


def test_the_command_prints_json_for_programs(recorded, capsys):
    assert main([recorded(errors=30), "--json", "--set", "error_min_points=5"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert (answer["verdict"], answer["recorded"], answer["changed"]) == ("fail", "fail", [])
    assert answer["metrics"][0]["name"] == "errors"
    assert answer["metrics"][0]["canary"] == 3.0


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        (None, [], "No such file"),
        (b"\xff\xfe", [], "can't decode"),
        (b"{}", [], "record: version is missing"),
        (b'{"version":9,"canary":{},"baseline":{}}', [], "version 9 is unknown; this judge reads version 1"),
        (b'{"version":1,"canary":{},"baseline":{}}', [], "record: canary: pool is missing"),
        ("record", ["--set", "tolerance"], "tolerance: not of the form name=value"),
        ("record", ["--set", "tolerance=much"], "tolerance: 'much' is not a number"),
        ("record", ["--set", "tolerance=0.5"], "tolerance: 0.5 is not between 1 and 100"),
        ("record", ["--set", "taste=1"], "taste: no such threshold"),
    ],
)
def test_the_command_refuses_bad_input_in_one_line_with_status_2(
    content, settings, message, tmp_path, capsys
):
    path = tmp_path / "record.json"
    if content is not None:
        path.write_bytes(Record(CANARY, PROD).to_json().encode() if content == "record" else content)
    assert main([str(path), *settings]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert len(err.splitlines()) == 1


def test_the_module_runs_as_a_command_on_standard_input_without_anything_installed():
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT / 'services')!r}); "
         "from saltern.judge import main; sys.exit(main(['-']))"],
        input=Record(CANARY, PROD).to_json(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("pass: ")
