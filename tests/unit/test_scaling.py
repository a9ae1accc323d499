"""The scaling policy: what HPA's documentation and source say, as tables, and what must hold for every input."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from saltern import scaling
from saltern.errors import SalternError
from saltern.scaling import Direction, Member, Memory, Metric, Policy, Size, Step, Vertical

NOW = 1_000_000.0
FREE = Direction(window_s=0, cooldown_s=0, steps=())
POLICY = Policy(
    min=1,
    max=100,
    targets={"cpu": 50},
    tolerance=0.1,
    warmup_s=30,
    out=FREE,
    in_=FREE,
    backoff_s=60,
    backoff_max_s=600,
)


def pool(count: int, *, warming: int = 0, dead: int = 0) -> list[Member]:
    """So many machines that serve, then some that were made just now, then some that do not serve."""
    ages = [1000.0] * count + [5.0] * warming + [1000.0] * dead
    return [Member(f"prod{n}", NOW - age, n <= count + warming) for n, age in enumerate(ages, 1)]


def cpu(*values: float | None, target: float = 50) -> Metric:
    return Metric("cpu", target, {f"prod{n}": v for n, v in enumerate(values, 1) if v is not None})


def proxy(value: float | None) -> Metric:
    return Metric("proxy_cpu", 50, whole=value, is_whole=True)


@pytest.mark.parametrize(
    ("case", "members", "current", "metric", "expected"),
    [
        ("twice the target doubles", pool(2), 2, cpu(100, 100), 4),
        ("half the target halves", pool(4), 4, cpu(25, 25, 25, 25), 2),
        ("a part of a machine is a whole one", pool(3), 3, cpu(60, 60, 60), 4),
        ("within the tolerance above", pool(10), 10, cpu(*[55] * 10), 10),
        ("beyond the tolerance above", pool(10), 10, cpu(*[55.5] * 10), 12),
        ("within the tolerance below", pool(10), 10, cpu(*[45] * 10), 10),
        ("beyond the tolerance below", pool(10), 10, cpu(*[44] * 10), 9),
        ("three times 110 % of a float is not five", pool(3), 3, cpu(*[50 * 4 / 3] * 3), 4),
        ("idle asks for nothing at all; bounds come later", pool(3), 3, cpu(0, 0, 0), 0),
        ("nobody measured is missing", pool(3), 3, cpu(None, None, None), None),
        ("missing counts as idle for out", pool(4), 4, cpu(100, 100, 100, None), 6),
        ("missing that turns out round changes nothing", pool(4), 4, cpu(80, None, None, None), 4),
        ("missing counts as full for in", pool(4), 4, cpu(10, 10, 10, None), 3),
        ("missing that turns in round changes nothing", pool(2), 2, cpu(10, None), 2),
        ("warming counts as idle for out", pool(2, warming=2), 4, cpu(100, 100, 90, 90), 4),
        ("much load beside warming ones still scales out", pool(2, warming=1), 3, cpu(100, 100), 4),
        ("warming is left out for in", pool(2, warming=2), 4, cpu(20, 20), 1),
        ("machines being made count as idle for out", pool(2), 4, cpu(100, 100), 4),
        ("a machine that does not serve is unready", pool(2, dead=1), 3, cpu(100, 100, 100), 4),
        ("only warming ones: nothing is known", pool(0, warming=2), 2, cpu(90, 90), None),
        ("a sample of a machine that left is not used", pool(1), 1, cpu(40, 900), 1),
        ("the proxy at twice its target doubles", pool(3), 3, proxy(100), 6),
        ("the proxy within tolerance", pool(3), 3, proxy(53), 3),
        ("the proxy counts machines that serve", pool(2, warming=2), 4, proxy(90), 4),
        ("the proxy unknown", pool(3), 3, proxy(None), None),
        ("the proxy with nobody behind it", pool(0, dead=2), 2, proxy(99), 2),
    ],
)
def test_a_metric_asks_for_what_hpa_would(case, members, current, metric, expected):
    assert scaling.propose(metric, members, current, POLICY, NOW) == expected, case


@pytest.mark.parametrize(
    ("case", "metrics", "expected"),
    [
        ("any may scale out", [cpu(20, 20, 20), proxy(100)], 6),
        ("all must agree to scale in", [cpu(20, 20, 20), proxy(50)], 3),
        ("all agree to scale in: the largest counts", [cpu(10, 10, 10), proxy(30)], 2),
        ("a missing one never scales in", [cpu(10, 10, 10), proxy(None)], 3),
        ("a missing one does not hold up scaling out", [cpu(None, None, None), proxy(100)], 6),
        ("nothing known changes nothing", [cpu(None), proxy(None)], 3),
        ("no metrics change nothing", [], 3),
    ],
)
def test_of_several_metrics_the_largest_wish_counts(case, metrics, expected):
    assert scaling.decide(POLICY, pool(3), 3, metrics, Memory(), NOW).desired == expected, case


def run(policy: Policy, rows: list[tuple[float, float, int]], count: int = 4) -> None:
    """Decide at (second, use of every machine) and expect so many, as if each decision were carried out at once."""
    memory, current = Memory(), count
    for at, use, expected in rows:
        members = [Member(f"prod{n}", 0.0, True) for n in range(1, current + 1)]
        metric = Metric("cpu", 50, {m.id: use for m in members})
        decision = scaling.decide(policy, members, current, [metric], memory, NOW + at)
        assert decision.desired == expected, (at, use, decision)
        memory = decision.memory
        if decision.desired != current:
            memory = memory.changed(decision.desired - current, NOW + at)
        # Whatever it remembers survives a restart.
        memory = Memory.from_data(json.loads(json.dumps(memory.to_data())))
        current = decision.desired


def test_a_machine_that_somebody_else_made_stays_for_as_long_as_a_recommendation_would():
    policy = replace(POLICY, min=2, in_=replace(FREE, window_s=300))
    memory = Memory()
    found = []
    for at, there in [(0, 2), (400, 3), (401, 3), (700, 3), (701, 3), (702, 4), (1003, 4)]:
        decision = scaling.decide(policy, pool(there), there, [cpu(*[10] * there)], memory, NOW + at)
        memory = Memory.from_data(json.loads(json.dumps(decision.memory.to_data())))
        found.append(decision.desired)
    assert found == [2, 3, 3, 3, 2, 4, 2]


@pytest.mark.parametrize(
    ("case", "changes", "rows"),
    [
        ("out at once, in only after the window", {"in_": replace(FREE, window_s=300)},
         [(0, 100, 8), (1, 25, 8), (299, 25, 8), (300, 25, 8), (301, 25, 4)]),
        ("in goes to the largest wish of the window", {"in_": replace(FREE, window_s=300)},
         [(0, 50, 4), (100, 38, 4), (301, 10, 4), (401, 10, 1)]),
        ("an out window waits for all to agree", {"out": replace(FREE, window_s=60)},
         [(0, 50, 4), (10, 100, 4), (59, 100, 4), (61, 100, 8)]),
        ("machines a period", {"out": replace(FREE, steps=(Step(2, None, 60),))},
         [(0, 100, 6), (30, 100, 6), (60, 100, 8)]),
        ("percent a period, rounded up as HPA does", {"out": replace(FREE, steps=(Step(None, 10, 60),))},
         [(0, 100, 5), (59, 100, 5), (60, 100, 6)]),
        ("the most generous step counts", {"out": replace(FREE, steps=(Step(1, None, 60), Step(None, 50, 60)))},
         [(0, 200, 6), (60, 200, 9)]),
        ("one at a time on the way in", {"in_": replace(FREE, steps=(Step(1, None, 60),))},
         [(0, 1, 3), (59, 1, 3), (60, 1, 2), (121, 1, 1)]),
        ("percent on the way in, rounded down as HPA does", {"in_": replace(FREE, steps=(Step(None, 50, 60),))},
         [(0, 1, 2), (60, 1, 1)]),
        ("out cools down after out alone", {"out": replace(FREE, cooldown_s=30)},
         [(0, 10, 1), (1, 100, 2), (2, 100, 2), (30, 100, 2), (31, 100, 4)]),
        ("in cools down after any change", {"in_": replace(FREE, cooldown_s=120)},
         [(0, 100, 8), (1, 10, 8), (119, 10, 8), (120, 10, 2)]),
        ("max", {"max": 6}, [(0, 200, 6)]),
        ("min", {"min": 3}, [(0, 1, 3)]),
        ("more than max stays", {"max": 2}, [(0, 100, 4)]),
        ("fewer than min stays", {"min": 9}, [(0, 1, 4), (1, 100, 8)]),
        ("one always stays", {"min": 1}, [(0, 0, 1)]),
    ],
)  # fmt: skip
def test_windows_steps_bounds_and_cooldowns_hold(case, changes, rows):
    run(replace(POLICY, **changes), rows)


@pytest.mark.parametrize(
    ("failures", "seconds"), [(1, 60), (2, 120), (3, 240), (4, 480), (5, 600), (6, 600), (5000, 600)]
)
def test_after_machines_could_not_be_made_the_pause_doubles_up_to_its_limit(failures, seconds):
    memory = Memory(failures=failures, failed_at=NOW)

    def desired(after: float) -> int:
        return scaling.decide(POLICY, pool(2), 2, [cpu(100, 100)], memory, NOW + after).desired

    assert (desired(seconds - 0.1), desired(seconds)) == (2, 4)


def test_failures_do_not_hold_up_scaling_in_and_one_success_ends_the_pause():
    failed = Memory().failed(NOW).failed(NOW)
    assert scaling.decide(POLICY, pool(4), 4, [cpu(*[25] * 4)], failed, NOW).desired == 2
    assert scaling.decide(POLICY, pool(2), 2, [cpu(100, 100)], failed.succeeded(), NOW).desired == 4


def test_a_decision_says_why():
    policy = replace(POLICY, max=3)
    why = scaling.decide(policy, pool(2), 2, [cpu(100, 100), proxy(None)], Memory(), NOW).why
    assert why == ("cpu asks for 4", "proxy_cpu asks for nothing: it is missing", "max is 3")


@pytest.mark.parametrize("data", [{}, {"recommended": 1, "changes": [], "failures": 0, "failed_at": 0}, []])
def test_a_memory_that_is_not_one_is_named(data):
    with pytest.raises(ValueError, match="scaling: memory"):
        Memory.from_data(data)


def test_the_youngest_go_first_and_of_the_same_age_the_highest_number():
    members = [
        Member("prod2", 5, True),
        Member("prod10", 5, True),
        Member("prod1", 9, False),
        Member("prod3", 1, True),
    ]
    assert [m.id for m in scaling.youngest_first(members)] == ["prod1", "prod10", "prod2", "prod3"]


@pytest.mark.parametrize(
    ("taken", "count", "names"),
    [
        ([], 2, ["prod1", "prod2"]),
        (["prod1", "prod2", "prod4"], 2, ["prod3", "prod5"]),
        (["staging1", "redis1"], 1, ["prod1"]),
        (["prod1"], 0, []),
    ],
)
def test_new_machines_take_the_lowest_names(taken, count, names):
    assert scaling.free_names("prod", taken, count) == names


def test_a_role_without_free_names_is_refused():
    with pytest.raises(SalternError, match="no id is free"):
        scaling.free_names("prod", [f"prod{n}" for n in range(1, 9999)], 2)


VERTICAL = Vertical(max_mib=1536, cooldown_s=60, low_percent=40, low_s=1800)


@pytest.mark.parametrize(
    ("case", "size", "high", "percent", "since", "to"),
    [
        ("high doubles", Size(384, 384, 0), True, 80, NOW, 768),
        ("high doubles up to the maximum", Size(1024, 384, 0), True, 80, NOW, 1536),
        ("high at the maximum: a person should know", Size(1536, 384, 0), True, 80, NOW, None),
        ("high within the cooldown waits", Size(768, 384, NOW - 59), True, 80, NOW - 100, "nothing"),
        ("high after the cooldown doubles again", Size(768, 384, NOW - 60), True, 80, NOW - 100, 1536),
        ("low for long halves", Size(768, 384, NOW - 5000), False, 20, NOW - 1800, 384),
        ("low for not so long waits", Size(768, 384, NOW - 5000), False, 20, NOW - 1799, "nothing"),
        (
            "low since before the last change waits from that on",
            Size(768, 384, NOW - 100),
            False,
            5,
            0,
            "nothing",
        ),
        ("never below what it was made with", Size(500, 384, 0), False, 5, 0, 384),
        ("what it was made with stays", Size(384, 384, 0), False, 5, 0, "nothing"),
        ("too much in use to halve", Size(768, 384, 0), False, 21, 0, "nothing"),
    ],
)
def test_memory_doubles_when_high_and_comes_back_when_low_for_long(case, size, high, percent, since, to):
    wish = scaling.resize(VERTICAL, size, high=high, percent=percent, since=since, now=NOW)
    assert (wish.to if wish else "nothing") == to, case


uses = st.floats(min_value=0, max_value=400, allow_nan=False)


@st.composite
def situations(draw):
    """A policy, a pool, its metrics and a memory."""
    side = st.builds(
        Direction,
        st.floats(0, 600),
        st.floats(0, 600),
        st.lists(
            st.one_of(
                st.builds(Step, st.integers(1, 5), st.none(), st.floats(1, 600)),
                st.builds(Step, st.none(), st.floats(1, 200), st.floats(1, 600)),
            ),
            max_size=3,
        ).map(tuple),
    )
    least = draw(st.integers(1, 10))
    policy = replace(
        POLICY, min=least, max=draw(st.integers(least, 20)), out=draw(side), in_=draw(side),
        tolerance=draw(st.floats(0, 0.5)),
    )  # fmt: skip
    count = draw(st.integers(1, 12))
    members = [
        Member(f"prod{n}", NOW - draw(st.floats(0, 100)), draw(st.booleans())) for n in range(1, count + 1)
    ]
    samples = {m.id: draw(uses) for m in members if draw(st.booleans())}
    metrics = [Metric("cpu", draw(st.floats(1, 100)), samples)]
    if draw(st.booleans()):
        metrics.append(Metric("proxy_cpu", 50, whole=draw(st.none() | uses), is_whole=True))
    memory = Memory(
        recommended=draw(st.dictionaries(st.integers(0, 20), st.floats(NOW - 700, NOW), max_size=4)),
        changes=tuple(draw(st.lists(st.tuples(st.floats(NOW - 700, NOW), st.integers(-3, 3)), max_size=4))),
        failures=draw(st.integers(0, 5)),
        failed_at=draw(st.floats(NOW - 700, NOW)),
    )
    return policy, members, count + draw(st.integers(0, 3)), metrics, memory


@given(situations())
def test_whatever_is_measured_the_bounds_hold_and_somebody_stays(situation):
    policy, members, current, metrics, memory = situation
    desired = scaling.decide(policy, members, current, metrics, memory, NOW).desired
    assert desired >= 1
    assert desired <= max(policy.max, current)
    assert desired >= min(policy.min, current)


@given(situations())
def test_whatever_is_measured_a_missing_metric_never_scales_in(situation):
    policy, members, current, metrics, memory = situation
    metrics = [*metrics, Metric("memory", 50, {})]
    assert scaling.decide(policy, members, current, metrics, memory, NOW).desired >= current


@given(situations())
def test_whatever_is_remembered_it_is_plain_data_and_bounded_by_the_windows(situation):
    policy, members, current, metrics, memory = situation
    after = scaling.decide(policy, members, current, metrics, memory, NOW).memory
    assert Memory.from_data(json.loads(json.dumps(after.to_data()))) == after
    window = max(policy.out.window_s, policy.in_.window_s)
    assert all(NOW - at <= window for at in after.recommended.values())


@given(situations(), uses)
def test_with_more_use_no_fewer_machines_are_wanted(situation, more):
    policy, members, _current, metrics, _memory = situation
    members = [Member(m.id, 0.0, True) for m in members]
    full = Metric("cpu", metrics[0].target, {m.id: metrics[0].samples.get(m.id, 10.0) for m in members})
    fuller = replace(full, samples={id_: value + more for id_, value in full.samples.items()})
    one = scaling.propose(full, members, len(members), policy, NOW)
    two = scaling.propose(fuller, members, len(members), policy, NOW)
    assert one is not None and two is not None
    assert one <= two


@given(st.integers(1, 50), st.floats(1, 400, allow_nan=False), st.floats(1, 100))
def test_with_everything_known_it_is_the_formula(count, use, target):
    members = [Member(f"prod{n}", 0.0, True) for n in range(1, count + 1)]
    metric = Metric("cpu", target, {m.id: use for m in members})
    ratio = math.fsum([use] * count) / count / target
    within = abs(ratio - 1) <= POLICY.tolerance + 1e-9
    expected = count if within else math.ceil(round(ratio * count, 9))
    assert scaling.propose(metric, members, count, POLICY, NOW) == expected
