"""What the journal says when it is asked why: which line answers, and what led to it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from saltern import journal
from saltern.errors import SalternError
from saltern.journal import Line, Origin, best, chain, origin, parse, question, told, wanted

QUEUED = Line("1763697600000-0", "intent.queued", "prod", "saltern/scale/prod/out", "conductor")
DONE = Line(
    "1763697609500-0",
    "intent.done",
    "prod",
    QUEUED.id,
    "conductor",
    {"result": {"add": ["prod6"], "remove": []}},
)
THERE = Line(
    "1763697609000-0",
    "instance.register",
    "prod6",
    "saltern/instance/prod6/present 1763697608900000000",
    "prod6",
)
OFF = Line(
    "1763697500000-0", "canary.off", "canary", "salt/beacon/staging1/cpu/high 1763697499960000000", "reflex"
)
OFF_BEFORE = Line("1763690000000-0", "canary.off", "canary", "", "salt-run")
LINES = [DONE, THERE, QUEUED, OFF, OFF_BEFORE]


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("canary off", OFF),
        ("canary.off", OFF),
        ("off canary", OFF),
        (OFF_BEFORE.id, OFF_BEFORE),
        ("prod6 exists", DONE),
        ("instance.register prod6", THERE),
        ("prod", DONE),
        ("prod7 exists", None),
        ("prod6 gone", None),
        ("canary on", None),
    ],
)
def test_the_newest_line_that_answers_best_is_meant(asked: str, answer: Line | None) -> None:
    assert best(LINES, question(asked)) == answer


def test_a_machine_nobody_queued_exists_because_it_registered() -> None:
    assert best([THERE, OFF], question("prod6 exists")) == THERE


def test_nothing_asked_is_said() -> None:
    with pytest.raises(SalternError, match="nothing is asked"):
        question("  ")


def test_a_chain_begins_with_the_event_and_tells_how_long_each_step_took() -> None:
    rows = told(chain(OFF, {}.get))
    assert [row["what"] for row in rows] == ["salt/beacon/staging1/cpu/high", "canary.off canary"]
    assert [row["after_ms"] for row in rows] == [None, 40]
    assert rows[0]["at"] == "2025-11-21 03:58:19.960 UTC"
    assert rows[1]["line"] == OFF.id


def test_a_chain_goes_from_line_to_line() -> None:
    by_id = {line.id: line for line in LINES}
    assert chain(DONE, by_id.get) == [Origin("saltern/scale/prod/out"), QUEUED, DONE]
    assert [row["after_ms"] for row in told(chain(DONE, by_id.get))] == [None, None, 9500]


def test_a_line_that_is_no_longer_kept_ends_the_chain() -> None:
    assert chain(DONE, {}.get)[0] == Origin(f"{QUEUED.id}, which the journal no longer holds")


def test_a_ring_of_causes_ends() -> None:
    a, b = (
        Line("1763697600000-0", "a", "x", "1763697600000-1"),
        Line("1763697600000-1", "b", "x", "1763697600000-0"),
    )
    links = chain(a, {a.id: a, b.id: b}.get)
    assert links[1:] == [b, a]
    assert isinstance(links[0], Origin) and "already" in links[0].text


@pytest.mark.parametrize(
    ("cause", "is_"),
    [
        ("salt/beacon/staging1/cpu/high 1763697499960000000", Origin("salt/beacon/staging1/cpu/high", 1763697499.96)),
        ("salt/cloud/prod6/destroyed", Origin("salt/cloud/prod6/destroyed")),
        ("a person's words 1763697499960000000", Origin("a person's words 1763697499960000000")),
    ],
)  # fmt: skip
def test_what_is_no_line_is_an_event_or_words(cause: str, is_: Origin) -> None:
    assert origin(cause) == is_


@pytest.mark.parametrize(
    ("asked", "is_"),
    [
        ({}, True), ({"kind": "canary"}, True), ({"kind": "canary.off"}, True), ({"kind": "can"}, False),
        ({"subject": "canary", "who": "reflex"}, True), ({"who": "salt-run"}, False), ({"subject": "prod1"}, False),
    ],
)  # fmt: skip
def test_lines_are_asked_for_by_kind_subject_and_who(asked: dict[str, str], is_: bool) -> None:
    assert wanted(OFF, **asked) is is_


@given(
    st.dictionaries(st.text(max_size=8), st.text(max_size=20) | st.integers() | st.none(), max_size=5),
    st.text(max_size=30),
)
def test_any_line_can_be_read_and_told(fields: dict[str, object], rest: str) -> None:
    for stored in (json.dumps(fields), rest):
        line = parse(
            "1763697600000-0", {"kind": "a.b", "subject": "x", "cause": rest, "who": "w", "fields": stored}
        )
        assert line.what.startswith("a.b x")
        assert journal.text(line)
        assert told(chain(line, {}.get))[-1]["line"] == line.id
