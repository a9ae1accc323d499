"""When pressure is high and when it is over: tables, and any history of samples."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from saltern import pressure
from saltern.pressure import OK_REPEATS, fresh, restored, settings, step

WANTED = {**pressure.DEFAULTS, "for": 2, "clear": 3, "refresh": 10.0, "calm": 86400.0}


def said(
    samples: list[float | None], start: dict | None = None, every: float = 1.0, now: float = 1000.0
) -> list:
    """What is said after each sample, one a second."""
    state, answer = start or fresh(), []
    for at, sample in enumerate(samples):
        state, edge = step(state, sample, now + at * every, WANTED)
        answer.append(edge)
    return answer


@pytest.mark.parametrize(
    ("samples", "edges"),
    [
        ([49.9, 49.9, 49.9], [None, None, None]),
        ([50, 50], [None, "high"]),
        ([100, 49, 100, 49, 100], [None] * 5),
        ([100, None, 100, 100], [None, "blind", "ok", "high"]),
        ([90, 90, 39, 39, 39], [None, "high", None, None, "ok"]),
        ([90, 90, 39, 39, 40, 39, 39, 39], [None, "high", None, None, None, None, None, "ok"]),
        ([90, 90, 45, 45, 45, 45], [None, "high", None, None, None, None]),
        ([90, 90, 1, 1, None, 1, 1, 1], [None, "high", None, None, "blind", "high", None, "ok"]),
        ([None, None, None, 3], ["blind", None, None, "ok"]),
        ([90, 90, *[90] * 10, 90], [None, "high", *[None] * 9, "high", None]),
    ],
)
def test_samples_make_edges(samples, edges):
    assert said(samples) == edges


def test_while_all_is_well_it_is_said_now_and_then_how_it_is():
    wanted = {**WANTED, "calm": 20.0}
    state, told = pressure.fresh(), []
    for now in range(1000, 1070):
        state, edge = pressure.step(state, 1.0 if now != 1040 else 90.0, now, wanted)
        told += [(now, edge)] if edge else []
    # At once, and then every 20 s, but not with a figure that may be about to be high.
    assert told == [(1000, "ok"), (1020, "ok"), (1041, "ok"), (1061, "ok")]


def test_an_end_is_said_again_a_few_times_and_then_no_more():
    edges = said([90, 90, 1, 1, 1, *[1] * 100])
    assert [at for at, edge in enumerate(edges) if edge == "ok"] == [4, *range(14, 14 + 10 * OK_REPEATS, 10)]


def test_a_clock_that_is_put_back_silences_nothing():
    state = {**fresh(), "level": "high", "said": 5000.0}
    assert step(state, 90, 1000.0, WANTED)[1] == "high"


@pytest.mark.parametrize(
    ("kept", "level"),
    [
        (None, "ok"),
        ("high", "ok"),
        ([], "ok"),
        ({}, "ok"),
        ({"level": "mad"}, "ok"),
        ({"level": "high", "since": "x"}, "ok"),
        ({"level": "high", "since": float("nan")}, "ok"),
        ({"level": "high", "since": True}, "ok"),
        ({"level": "high"}, "high"),
        ({"level": "high", "since": 3, "said": 4, "left": 0, "blind": True, "more": 1}, "high"),
    ],
)
def test_a_state_that_makes_no_sense_is_a_fresh_one(kept, level):
    state = restored(kept)
    assert state["level"] == level
    assert set(state) == set(fresh())


def test_a_refresh_forgets_neither_that_it_is_high_nor_when_it_was_said():
    state = fresh()
    for at in range(5):
        state, _ = step(state, 90, 1000.0 + at, WANTED)
    again = restored(json.loads(json.dumps(state)))
    assert step(again, 90, 1006.0, WANTED)[1] is None
    assert step(again, 90, 1011.0, WANTED)[1] == "high"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ([], pressure.DEFAULTS),
        ([{"high": 70}, {"low": 60}], {"high": 70, "low": 60}),
        ([{"high": 70, "low": 60}, {"roles": {"staging": {"high": 80}}}], {"high": 80, "low": 60}),
        ([{"roles": {"prod": {"high": 80}}}], {"high": 50}),
        ([{"interval": 5}, {"_beacon_name": "cpu"}, {"enabled": True}], {}),
        ([{"ignore": ["salt-minion"]}], {"ignore": ["salt-minion"]}),
        ([{"waiting": True}], {"waiting": True}),
    ],
)
def test_settings_are_defaults_then_the_configuration_then_the_roles(config, expected):
    assert settings(config, "staging1") == {**pressure.DEFAULTS, **expected}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"high": 50}, "not a list of settings"),
        ("high", "not a list of settings"),
        ([["high", 50]], "not a list of settings"),
        ([{"hihg": 50}], "hihg: no such setting"),
        ([{"high": "50"}], "high: '50' is not a number from 0 to 100"),
        ([{"high": 101}], "high: 101 is not a number"),
        ([{"high": True}], "high: True is not a number"),
        ([{"low": float("nan")}], "low: nan is not a number"),
        ([{"low": 60}], "low: 60 is above high, 50.0"),
        ([{"for": 0}], "for: 0 is not a number of samples"),
        ([{"for": 1.5}], "for: 1.5 is not a number of samples"),
        ([{"clear": None}], "clear: None is not a number of samples"),
        ([{"refresh": 0}], "refresh: 0 is not a number from 1"),
        ([{"ignore": "salt-minion"}], "ignore: 'salt-minion' is not a list"),
        ([{"waiting": 1}], "waiting: 1 is not true or false"),
        ([{"roles": ["staging"]}], "roles: not a table"),
        ([{"roles": {"staging": 5}}], "roles: not a table"),
        ([{"roles": {"staging": {"low": 51}}}], "low: 51 is above high"),
    ],
)
def test_a_wrong_setting_is_named(config, words):
    with pytest.raises(ValueError) as wrong:
        settings(config, "staging1")
    assert words in str(wrong.value)


SAMPLES = st.none() | st.floats(0, 100) | st.sampled_from([0.0, 39.9, 40.0, 49.9, 50.0, 100.0])


class AnyHistory(RuleBasedStateMachine):
    """Beside the machine's own state this keeps the whole history, and asks of that what is promised."""

    def __init__(self) -> None:
        super().__init__()
        self.state, self.now = fresh(), 1000.0
        self.samples: list[float | None] = []
        self.events: list[tuple[float, str]] = []
        self.level, self.blind = "ok", False

    @rule(sample=SAMPLES, seconds=st.floats(0.5, 30))
    def look(self, sample, seconds):
        self.now += seconds
        self.samples.append(sample)
        self.state, edge = step(self.state, sample, self.now, WANTED)
        if edge is None:
            return
        self.events.append((self.now, edge))
        if edge == "blind":
            assert sample is None and not self.blind
            self.blind = True
            return
        assert sample is not None
        if edge != self.level:
            if edge == "high":
                assert all(s is not None and s >= 50 for s in self.samples[-2:]) and len(self.samples) >= 2
            else:
                assert all(s is not None and s < 40 for s in self.samples[-3:]) and len(self.samples) >= 3
        self.level, self.blind = edge, False

    @precondition(lambda self: self.samples)
    @rule()
    def refresh(self):
        self.state = restored(json.loads(json.dumps(self.state)))
        # What was counted is forgotten; a gap in the history says the same.
        self.samples.append(None)

    @invariant()
    def what_was_said_last_is_what_is_so(self):
        assert self.state["level"] == self.level
        assert self.state["blind"] == self.blind

    @invariant()
    def long_enough_pressure_is_never_silent(self):
        if len(self.samples) >= 2 and all(s is not None and s >= 50 for s in self.samples[-2:]):
            assert self.level == "high"
            assert self.now - max(at for at, edge in self.events if edge == "high") < WANTED["refresh"]


TestAnyHistory = AnyHistory.TestCase


@given(st.lists(SAMPLES, max_size=60), st.lists(st.booleans(), min_size=60, max_size=60))
def test_whoever_hears_only_some_of_it_knows_the_level_once_it_lasts(samples, heard):
    """Events that are lost are made up for while a pressure lasts."""
    state, now, known = fresh(), 0.0, "ok"
    for sample, hears in zip(samples, heard, strict=False):
        now += 1
        state, edge = step(state, sample, now, WANTED)
        if edge in ("high", "ok") and hears:
            known = edge
    for _ in range(2 + int(WANTED["refresh"]) + 1):
        now += 1
        state, edge = step(state, 100.0, now, WANTED)
        known = edge or known
    assert known == "high"
