"""The judge's own statistics against scipy's, which the machines it runs on do not have."""

from __future__ import annotations

import math
import random

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from saltern import judge as j
from scipy import stats

pytestmark = pytest.mark.unit

distinct = st.lists(st.integers(0, 10_000), min_size=2, max_size=36, unique=True)
tied = st.lists(st.integers(0, 9).map(float), min_size=3, max_size=60)


@given(distinct, st.data())
def test_small_samples_without_ties_get_the_exact_p_value(values, data):
    split = data.draw(st.integers(max(1, len(values) - 20), min(20, len(values) - 1)))
    x, y = [float(v) for v in values[:split]], [float(v) for v in values[split:]]
    expected = stats.mannwhitneyu(x, y, alternative="greater", method="exact").pvalue
    assert j.mann_whitney_greater(x, y) == pytest.approx(expected, rel=1e-9)


@given(tied, tied)
def test_ties_get_the_normal_approximation_corrected_for_ties_and_continuity(x, y):
    if len(set(x + y)) == len(x + y):
        return
    expected = stats.mannwhitneyu(
        x, y, alternative="greater", method="asymptotic", use_continuity=True
    ).pvalue
    if len(set(x + y)) == 1:
        expected = 1.0  # scipy divides by zero here; nothing differs, so nothing can be significant
    assert j.mann_whitney_greater(x, y) == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_large_samples_agree_with_scipy():
    rng = random.Random(5)
    x = [rng.lognormvariate(3.1, 0.5) for _ in range(700)]
    y = [rng.lognormvariate(3.0, 0.5) for _ in range(900)]
    expected = stats.mannwhitneyu(x, y, alternative="greater", method="asymptotic").pvalue
    assert 1e-12 < expected < 0.01
    assert j.mann_whitney_greater(x, y) == pytest.approx(expected, rel=1e-9)


def test_fewer_independent_samples_make_the_same_difference_less_significant():
    rng = random.Random(6)
    x, y = [rng.gauss(1, 1) for _ in range(60)], [rng.gauss(0, 1) for _ in range(60)]
    p = [j.mann_whitney_greater(x, y, worth, worth) for worth in (60, 30, 15, 8, 5)]
    assert p == sorted(p)
    assert p[0] < 1e-5 < 0.01 < p[-1]


def test_effective_sizes_take_the_place_of_sizes_and_refer_to_students_t():
    rng = random.Random(9)
    x, y = [rng.gauss(3, 1) for _ in range(60)], [rng.gauss(0, 1) for _ in range(60)]
    superiority = stats.mannwhitneyu(x, y).statistic / 3600
    z = (superiority - 0.5 - 0.5 / 64) / math.sqrt((8 + 8 + 1) / (12 * 64))
    assert j.mann_whitney_greater(x, y, 8, 8) == pytest.approx(stats.t.sf(z, 14), rel=0.02)
    assert stats.norm.sf(z) < 0.8 * stats.t.sf(z, 14)


@pytest.mark.parametrize("freedom", [8, 10, 20, 60, 300])
@pytest.mark.parametrize("tail", [0.1, 0.05, 0.01, 0.002])
def test_students_tail_is_within_three_per_cent_where_the_judge_decides(freedom, tail):
    t = stats.t.isf(tail, freedom)
    assert stats.norm.sf(j._as_normal(t, freedom)) == pytest.approx(tail, rel=0.03)


@given(st.integers(1, 400), st.integers(1, 400), st.data())
def test_fishers_exact_test_agrees_with_scipy(n1, n2, data):
    k1, k2 = data.draw(st.integers(0, n1)), data.draw(st.integers(0, n2))
    expected = stats.fisher_exact([[k1, n1 - k1], [k2, n2 - k2]], alternative="greater").pvalue
    assert j.fisher_greater(k1, n1, k2, n2) == pytest.approx(expected, rel=1e-7, abs=1e-14)


@pytest.mark.parametrize(
    ("k1", "n1", "k2", "n2"),
    [(1_100, 1_000_000, 1_000, 1_000_000), (30, 1_000, 19_000, 19_000_000), (900, 10_000, 90_000, 1_000_000)],
)
def test_fishers_exact_test_holds_for_large_windows(k1, n1, k2, n2):
    expected = stats.hypergeom.sf(k1 - 1, n1 + n2, k1 + k2, n1)
    assert j.fisher_greater(k1, n1, k2, n2) == pytest.approx(expected, rel=1e-6)


@given(st.integers(0, 600), st.integers(0, 600), st.floats(0, 1))
def test_the_binomial_tail_agrees_with_scipy(k, n, p):
    expected = stats.binom.sf(k - 1, n, p)
    assert j.binomial_tail(k, n, p) == pytest.approx(expected, rel=1e-7, abs=1e-12)


@given(st.lists(st.integers(-50, 50).map(float), min_size=1, max_size=80))
def test_ranks_agree_with_scipy(values):
    assert j.ranks(values) == stats.rankdata(values).tolist()


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=80), st.floats(0, 1))
def test_quantiles_agree_with_numpy(values, q):
    assert j.quantile(sorted(values), q) == pytest.approx(
        float(numpy.quantile(values, q)), rel=1e-9, abs=1e-9
    )


# Effective size --------------------------------------------------------------------------------------------


def autoregressive(rng: random.Random, n: int, correlation: float) -> list[float]:
    drift, values = rng.gauss(0, 1), []
    for _ in range(n):
        drift = correlation * drift + math.sqrt(1 - correlation**2) * rng.gauss(0, 1)
        values.append(drift)
    return values


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.5, 0.7, 0.9])
def test_the_effective_size_of_a_first_order_process_is_about_n_over_tau(correlation):
    rng = random.Random(7)
    expected = 600 * (1 - correlation) / (1 + correlation)
    found = sorted(j.effective_size(autoregressive(rng, 600, correlation)) for _ in range(101))
    assert 0.75 * expected <= found[50] <= 1.1 * expected


@pytest.mark.parametrize(("n", "most"), [(20, 3.0), (60, 4.7)])
def test_short_correlated_series_are_not_overrated(n, most):
    rng = random.Random(10)
    found = sorted(j.effective_size(j.ranks(autoregressive(rng, n, 0.9))) for _ in range(301))
    # The truth is n / 19; a short series hides its correlation, and a careless estimate follows it.
    assert found[150] < most


def test_slow_drift_under_noise_is_seen_although_neighbours_hardly_resemble_each_other():
    rng = random.Random(8)
    drift = autoregressive(rng, 1200, 0.95)
    values = [slow + rng.gauss(0, 1.5) for slow in drift]
    # Lag-1 alone would call this worth 600; the truth, from the process, is about 95.
    assert j.effective_size(values) < 180


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("a constant", [41.7] * 60),
        ("one value", [3.0]),
        ("three values", [1.0, 2.0, 3.0]),
        ("a level that never returns", [float(i < 2000) for i in range(4000)]),
    ],
)
def test_a_series_that_shows_no_independent_change_is_worth_one(name, values):
    assert j.effective_size(values) == 1.0, name


def test_a_rising_memory_is_worth_few_samples():
    assert j.effective_size([40 + i / 10 for i in range(300)]) < 5


@given(st.lists(st.floats(0, 100), min_size=1, max_size=120))
def test_the_effective_size_lies_between_one_and_the_size(values):
    assert 1.0 <= j.effective_size(values) <= len(values)


# Several metrics -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p_values", "family", "significant"),
    [
        ([0.001, 0.4, 0.5, 0.6, 0.7], 5, {0}),
        ([0.003, 0.4, 0.5, 0.6, 0.7], 5, set()),  # 0.01 / 5 is 0.002
        ([0.0019, 0.0024, 0.0033, 0.0049, 0.0099], 5, {0, 1, 2, 3, 4}),
        ([0.0019, 0.0026, 0.0033, 0.0049, 0.0099], 5, {0}),  # one step missed ends it
        ([0.004], 1, {0}),
        ([0.004], 5, set()),  # metrics that could not be tested still take their share
        ([], 5, set()),
    ],
)
def test_holms_procedure_steps_down_from_the_smallest(p_values, family, significant):
    assert j.holm(dict(enumerate(p_values)), 0.01, family) == significant


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=5), st.floats(0.001, 0.2))
def test_holm_accepts_whatever_bonferroni_accepts_and_nothing_above_alpha(p_values, alpha):
    accepted = j.holm(dict(enumerate(p_values)), alpha, len(p_values))
    assert {i for i, p in enumerate(p_values) if p <= alpha / len(p_values)} <= accepted
    assert all(p_values[i] <= alpha for i in accepted)
