"""Healing: who is replaced, when, and who is not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from saltern import healing
from saltern.healing import Memory, Policy, Sight

POLICY = Policy(grace_s=20, flap_s=1800, most_percent=55)
FINE, DOWN, ABSENT, GONE, UNKNOWN, UNASKED = (
    (True, True), (False, True), (True, False), (False, False), (None, False), (False, None),
)  # fmt: skip


def sights(*states: tuple[bool | None, bool | None], pool: str = "prod") -> dict[str, Sight]:
    return {f"prod{n}": Sight(pool, *state) for n, state in enumerate(states, 1)}


def follow(rows, memory: Memory | None = None) -> list[tuple[str | None, list[str]]]:
    """Decide at each (second, states, busy); what was replaced and who was alerted about."""
    memory = memory or Memory()
    found = []
    for at, states, busy in rows:
        decision = healing.decide(POLICY, sights(*states), memory, at, busy=busy)
        memory = Memory.from_data(json.loads(json.dumps(decision.memory.to_data())))
        found.append((decision.replace, sorted(decision.alerts)))
    return found


@pytest.mark.parametrize(
    ("case", "rows", "expected"),
    [
        ("gone for the grace time is replaced", [(0, [GONE, FINE], False), (19, [GONE, FINE], False),
         (20, [GONE, FINE], False)], [None, None, "prod1"]),
        ("HAProxy alone is not enough", [(0, [DOWN, FINE], False), (99, [DOWN, FINE], False)], [None, None]),
        ("presence alone is not enough", [(0, [ABSENT, FINE], False), (99, [ABSENT, FINE], False)], [None, None]),
        ("HAProxy silent is not enough", [(0, [UNKNOWN, FINE], False), (99, [UNKNOWN, FINE], False)], [None, None]),
        ("unasked minions are not absent", [(0, [UNASKED, FINE], False), (99, [UNASKED, FINE], False)], [None, None]),
        ("back in between starts anew", [(0, [GONE, FINE], False), (10, [FINE, FINE], False),
         (20, [GONE, FINE], False), (39, [GONE, FINE], False), (40, [GONE, FINE], False)],
         [None, None, None, None, "prod1"]),
        ("one at a time, the longest gone first", [(0, [FINE, GONE, FINE, FINE], False),
         (5, [GONE, GONE, FINE, FINE], False), (30, [GONE, GONE, FINE, FINE], False),
         (31, [GONE, FINE, FINE, FINE], True), (60, [GONE, FINE, FINE, FINE], False)],
         [None, None, "prod2", None, "prod1"]),
        ("the only machine of a pool is replaced too", [(0, [GONE], False), (20, [GONE], False)], [None, "prod1"]),
    ],
)  # fmt: skip
def test_a_machine_is_replaced_when_both_say_it_is_gone_for_the_grace_time(case, rows, expected):
    assert [replaced for replaced, _ in follow(rows)] == expected, case


def test_a_flapping_machine_is_not_replaced_twice_and_a_person_is_told_once():
    rows = [(0, [GONE, FINE], False), (20, [GONE, FINE], False), (60, [FINE, FINE], False),
            (100, [GONE, FINE], False), (120, [GONE, FINE], False), (121, [GONE, FINE], False)]  # fmt: skip
    assert follow(rows) == [
        (None, []), ("prod1", []), (None, []), (None, []), (None, ["prod1"]), (None, []),
    ]  # fmt: skip


def test_after_the_flap_time_it_may_be_replaced_again():
    memory = Memory(replaced={"prod1": 20})
    rows = [(1800, [GONE, FINE], False), (1819, [GONE, FINE], False), (1820, [GONE, FINE], False)]
    assert follow(rows, memory)[-1] == ("prod1", [])


def test_it_is_told_again_when_it_was_back_in_between():
    memory = Memory(replaced={"prod1": 0})
    rows = [(0, [GONE, FINE], False), (20, [GONE, FINE], False), (30, [FINE, FINE], False),
            (40, [GONE, FINE], False), (60, [GONE, FINE], False)]  # fmt: skip
    assert [alerts for _, alerts in follow(rows, memory)] == [[], ["prod1"], [], [], ["prod1"]]


def test_with_most_of_a_pool_gone_nothing_is_replaced_and_a_person_is_told():
    rows = [(0, [GONE, GONE, GONE, FINE], False), (20, [GONE, GONE, GONE, FINE], False)]
    assert follow(rows) == [(None, []), (None, ["prod1", "prod2", "prod3"])]


def test_pools_are_counted_apart():
    both = {**sights(FINE, FINE, FINE), "staging1": Sight("canary", False, False)}
    first = healing.decide(POLICY, both, Memory(), 0, busy=False)
    assert healing.decide(POLICY, both, first.memory, 20, busy=False).replace == "staging1"


def test_only_machines_haproxy_cannot_reach_are_asked():
    assert healing.suspects(sights(FINE, DOWN, ABSENT, UNKNOWN, UNASKED)) == ["prod2", "prod5"]


state = st.sampled_from([True, False, None])


@given(
    st.lists(
        st.tuples(st.floats(0, 60), st.lists(st.tuples(state, state), min_size=4, max_size=4)), max_size=40
    )
)
def test_whatever_happens_nobody_is_replaced_who_was_not_gone_for_the_grace_time_nor_twice(history):
    memory, now = Memory(), 0.0
    gone_since: dict[str, float] = {}
    replaced: dict[str, float] = {}
    for pause, states in history:
        now += pause
        seen = sights(*states)
        for id_, sight in seen.items():
            if (sight.up, sight.present) == GONE:
                gone_since.setdefault(id_, now)
            else:
                gone_since.pop(id_, None)
        decision = healing.decide(POLICY, seen, memory, now, busy=False)
        memory = decision.memory
        if decision.replace:
            assert now - gone_since[decision.replace] >= POLICY.grace_s
            assert now - replaced.get(decision.replace, float("-inf")) >= POLICY.flap_s
            assert len([s for s in seen.values() if (s.up, s.present) == GONE]) <= 2
            replaced[decision.replace] = now
            gone_since.pop(decision.replace)


@pytest.mark.parametrize("data", [{}, {"gone": 1, "replaced": {}, "told": []}])
def test_a_memory_that_is_not_one_is_named(data):
    with pytest.raises(ValueError, match="healing: memory"):
        Memory.from_data(data)
