"""What other thresholds would have made of what the journal tells."""

from __future__ import annotations

import json
from typing import Any

import pytest
from saltern.errors import SalternError
from saltern.journal import Line, parse
from saltern.rehearsal_policy import acts, edges, rehearse

START = 1_795_220_000.0


def line(at_s: float, of: str, subject: str, cause: str = "", /, **fields: Any) -> Line:
    stored = {"kind": of, "subject": subject, "cause": cause, "who": "x", "fields": json.dumps(fields)}
    return parse(f"{int((START + at_s) * 1000)}-0", stored)


def said(at_s: float, machine: str, metric: str = "cpu") -> str:
    return f"salt/beacon/{machine}/{metric}/high {int((START + at_s) * 1e9)}"


def alert(at_s: float, machine: str, percent: float, metric: str = "cpu") -> Line:
    name = f"{metric.capitalize()}High"
    return line(
        at_s, "alert.firing", machine, said(at_s, machine, metric), alert=name, value=f"{percent:g} % of 1 processor",
        fingerprint=f"{name}{machine}",
    )  # fmt: skip


DIARY = [
    alert(0, "staging1", 62),
    line(0.1, "canary.off", "canary", said(0, "staging1"), reason="staging1 cpu 62 % (limit 50 %)"),
    line(40, "alert.resolved", "staging1", "", alert="CpuHigh", fingerprint="CpuHighstaging1"),
    alert(100, "prod1", 55),
    # The conductor's own time, a little after the event's.
    line(101, "intent.queued", "prod", said(100.9, "prod1"), intent="1-0", kind="scale", args='{"to": 6}'),
    alert(300, "prod2", 91),
    line(301, "intent.queued", "prod", said(300.5, "prod2"), intent="2-0", kind="scale", args='{"to": 7}'),
    alert(400, "prod3", 66, "memory"),
    line(
        401,
        "intent.queued",
        "prod",
        said(400.2, "prod3", "memory"),
        intent="3-0",
        kind="resize",
        args='{"to": 768}',
    ),
    line(900, "intent.queued", "prod", said(899, "prod9"), intent="4-0", kind="scale", args='{"to": 8}'),
    line(950, "intent.queued", "prod", "1795220900000-0", intent="5-0", kind="scale", args='{"to": 8}'),
    line(960, "split.share", "split", "", share=30),
]


def test_a_higher_mark_says_which_of_what_happened_would_not_have() -> None:
    told = rehearse(DIARY, "cpu", 70)
    assert told["summary"] == ("2 of 3 alerts, 1 of 1 canary off, 1 of 3 scale-outs would not have happened")
    would = {row["because"]: row["would"] for row in told["decisions"]}
    assert would == {
        "staging1 cpu 62 %": "not have happened, unless it rose further within the 40 s it lasted",
        "prod1 cpu 55 %": "not have happened, unless it went on to rise",
        "prod2 cpu 91 %": "have happened all the same",
        "prod9 cpu": "not be known: the journal does not tell how much it was",
    }
    assert told["from"].startswith("2026-") and told["with"] == "cpu high: 70"


@pytest.mark.parametrize(
    ("metric", "high", "role", "summary"),
    [
        ("cpu", 50, "", "0 of 3 alerts, 0 of 1 canary off, 0 of 3 scale-outs would not have happened"),
        ("cpu", 100, "prod", "2 of 2 alerts, 2 of 3 scale-outs would not have happened"),
        ("memory", 70, "", "1 of 1 alert, 1 of 1 resize would not have happened"),
        ("cpu", 70, "redis", "nothing came of pressure in this time"),
    ],
)
def test_marks_are_asked_for_one_metric_and_one_role_or_all(
    metric: str, high: float, role: str, summary: str
) -> None:
    assert rehearse(DIARY, metric, high, role)["summary"] == summary


def test_an_empty_journal_tells_nothing() -> None:
    assert rehearse([], "cpu", 70)["summary"] == "nothing came of pressure in this time"


@pytest.mark.parametrize(
    ("metric", "high", "role", "words"),
    [
        ("disk", 70, "", "metric 'disk' is not one of cpu, memory"),
        ("cpu", 0, "", "high 0 is not a percentage"),
        ("cpu", 101, "", "high 101 is not a percentage"),
        ("cpu", "70", "", "high '70' is not a percentage"),
        ("cpu", True, "", "high True is not a percentage"),
        ("cpu", float("nan"), "", "is not a percentage"),
        ("cpu", 70, "web", "role 'web' is not one of"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(metric: Any, high: Any, role: Any, words: str) -> None:
    with pytest.raises(SalternError) as caught:
        rehearse(DIARY, metric, high, role)
    assert words in str(caught.value)


def test_lines_that_are_no_edge_are_passed_over() -> None:
    strange = [
        line(1, "alert.firing", "prod1", "salt/beacon/prod1/cpu/high", value="much"),
        line(2, "alert.firing", "prod1", "salt/beacon/prod1/cpu/blind 1795220000000000000", value="9 %"),
        line(3, "alert.firing", "x", "", value="9 %"),
        line(4, "canary.off", "canary", "by hand"),
    ]
    assert edges(strange) == []
    assert [what for what, *_ in acts(strange)] == ["alert"]
