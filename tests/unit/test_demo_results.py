"""What a step of the demo came to, its table, its line of JSON and its page; and how it takes Ctrl-C."""

from __future__ import annotations

import io
import json
import os
import signal

import pytest
from saltern.demo import page, screen, tour
from saltern.demo.results import Result, Step, choose, line, meets, rows, status, verdict
from saltern.demo.steps import SHOWN
from saltern.errors import SalternError

STEPS = [
    Step("traffic-split", "The share is what was asked for.", "off", "points", "<= 4.5", {"prod": 1}),
    Step("canary-off", "A sick canary gets nothing.", "until it is off", "s", "<= 3.2", {"staging": 1}),
    Step("redis-failover", "Another is elected.", "without a write", "s", "<= 3", {"redis": 3}),
]
GOOD = Result(STEPS[0], 1.25, (("did", "asked"), ("saw", "answers")), seconds=4.2)
SLOW = Result(STEPS[1], 4.0, seconds=9.0)
BROKEN = Result(STEPS[1], 2.0, broken=("3 requests failed",), seconds=9.0)
NEVER = Result(STEPS[1], None, broken=("not within 60 s: it is off",), seconds=60.0)
SKIPPED = Result(STEPS[2], skipped="takes at least 3 redis machines")


@pytest.mark.parametrize(
    ("figure", "goal", "met"),
    [
        (3.2, "<= 3.2", True),
        (3.21, "<= 3.2", False),
        (0, "<= 0", True),
        (5, ">= 4", True),
        (3, ">= 4", False),
    ],
)
def test_a_goal_is_a_comparison(figure, goal, met):
    assert meets(figure, goal) is met


@pytest.mark.parametrize("goal", ["", "3", "< 3", "about 3"])
def test_a_goal_that_is_none_is_refused(goal):
    with pytest.raises(ValueError, match="and a number are right"):
        meets(1, goal)


@pytest.mark.parametrize(
    ("result", "passed", "word"),
    [
        (GOOD, True, "pass"),
        (SLOW, False, "FAIL"),
        (BROKEN, False, "FAIL"),
        (NEVER, False, "FAIL"),
        (SKIPPED, None, "skipped"),
    ],
)
def test_a_step_passes_when_its_goal_is_met_and_nothing_else_is_wrong(result, passed, word):
    assert (result.passed, result.word) == (passed, word)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        ([], ["traffic-split", "canary-off", "redis-failover"]),
        (["canary-off"], ["canary-off"]),
        (["redis-failover", "traffic-split", "traffic-split"], ["traffic-split", "redis-failover"]),
    ],
)
def test_steps_are_shown_in_the_order_of_the_tour(names, chosen):
    assert [step.name for step in choose(STEPS, names)] == chosen


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("canary-of", "demo 'canary-of': no step by this name; canary-off is meant?"),
        ("xyz", "there are traffic-split, canary-off, redis-failover"),
    ],
)
def test_an_unknown_step_is_named_in_one_line(name, words):
    with pytest.raises(SalternError) as refused:
        choose(STEPS, [name])
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_a_fleet_that_is_too_small_is_told_what_it_lacks():
    step = Step("x", "", "", "s", "<= 1", {"prod": 2, "staging": 1})
    assert step.lacks({"prod": 2, "staging": 1}) == ""
    assert step.lacks({"prod": 1}) == "takes at least 2 prod and 1 staging machines"


def test_json_is_one_line_of_every_step():
    text = line([GOOD, NEVER, SKIPPED])
    assert "\n" not in text
    assert json.loads(text) == {
        "steps": [
            {"name": "traffic-split", "passed": True, "figure": 1.25, "unit": "points", "goal": "<= 4.5"},
            {"name": "canary-off", "passed": False, "figure": None, "unit": "s", "goal": "<= 3.2"},
            {"name": "redis-failover", "passed": None, "figure": None, "unit": "s", "goal": "<= 3"},
        ]
    }


@pytest.mark.parametrize(
    ("results", "ended", "words"),
    [
        ([GOOD], 0, "1 of 1 steps passed"),
        ([GOOD, SKIPPED], 0, "1 of 1 steps passed; 1 skipped"),
        ([GOOD, SLOW, SKIPPED], 1, "1 of 2 steps passed; not: canary-off; 1 skipped"),
    ],
)
def test_the_last_line_and_the_status_agree(results, ended, words):
    assert (status(results), verdict(results)) == (ended, words)


def test_the_table_has_what_was_measured_and_the_goal():
    assert rows([GOOD, NEVER, SKIPPED]) == [
        ("traffic-split", "pass", "1.25 points  off", "<= 4.5 points", "4 s"),
        ("canary-off", "FAIL", "no figure", "<= 3.2 s", "60 s"),
        ("redis-failover", "skipped", "takes at least 3 redis machines", "<= 3 s", ""),
    ]


def test_the_page_stands_alone_and_shows_what_was_said_as_text():
    hostile = Result(STEPS[1], 2.0, (("saw", "<script>alert(1)</script>"),), ("<b>broken</b>",))
    text = page.page([GOOD, hostile, SKIPPED], "saltern", "11 machines")
    assert text.startswith("<!doctype html>") and text.count("<section") == 3
    for never in ("<script", "<b>", "http://", "https://", "src="):
        assert never not in text
    for said in (
        "1.25 points",
        "&lt;script&gt;",
        "1 of 2 steps passed; not: canary-off; 1 skipped",
        "11 machines",
    ):
        assert said in text


def test_a_person_reads_each_thing_as_it_happens_and_the_table_last():
    out = io.StringIO()
    shown = screen.Screen(out)
    shown.begins("saltern", 11, STEPS)
    shown.step(STEPS[1])
    shown.note("did", "loaded it")
    shown.ended(BROKEN)
    shown.ended(SKIPPED)
    screen.summary([BROKEN, SKIPPED], out)
    text = out.getvalue()
    places = [text.index(words) for words in (
        "fleet saltern, 11 machines; 3 steps", "canary-off  A sick canary", "did  loaded it",
        "not right  3 requests failed", "FAIL  2 s until it is off; goal <= 3.2 s", "redis-failover  skipped: takes",
        "measured", "0 of 1 steps passed",
    )]  # fmt: skip
    assert places == sorted(places)
    assert "\x1b" not in text


def test_every_step_of_the_tour_has_a_name_of_its_own_and_a_goal_that_can_be_met():
    names = [step.name for step, _ in SHOWN]
    assert len(set(names)) == len(names) == 12
    for step, _ in SHOWN:
        number = step.goal.partition(" ")[2]
        assert meets(float(number), step.goal), step.name
        assert step.title.endswith(".")


def test_a_fleet_that_was_left_otherwise_is_told_in_what():
    found = tour.Found({"prod1": 512}, 30, False, {"prod1": ("ready", "r1")}, {"prod": "r1"})
    left = tour.Found({"prod1": 512, "prod2": 512}, 10, False, {"prod1": ("ready", "r1")}, {"prod": "r1"})
    assert found.differs(found) == []
    assert found.differs(left) == [
        "machines: was {'prod1': 512}, is {'prod1': 512, 'prod2': 512}",
        "split: was 30, is 10",
    ]


# Being stopped -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", tour.Interrupts.SIGNALS)
def test_the_first_signal_stops_and_no_other_stops_the_putting_back(number):
    said: list[str] = []
    undone = False
    with tour.Interrupts(said.append).caught(), pytest.raises(KeyboardInterrupt):
        try:
            os.kill(os.getpid(), number)
            raise AssertionError("it went on")
        finally:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), signal.SIGINT)
            undone = True
    assert undone and len(said) == 3 and "being put back" in said[0]


def test_a_signal_while_something_is_put_back_counts_afterwards():
    said: list[str] = []
    with tour.Interrupts(said.append).caught() as interrupts:
        interrupts.hold()
        os.kill(os.getpid(), signal.SIGINT)
        assert len(said) == 1
        with pytest.raises(KeyboardInterrupt):
            interrupts.release()


def test_handlers_are_those_from_before_when_it_is_over():
    before = {number: signal.getsignal(number) for number in tour.Interrupts.SIGNALS}
    with tour.Interrupts(print).caught():
        assert all(signal.getsignal(number) != handler for number, handler in before.items())
    assert {number: signal.getsignal(number) for number in before} == before
