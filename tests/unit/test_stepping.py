"""What happens to the progressive steps, decided from the registry and what was seen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from saltern.judge import Metric, Verdict
from saltern.registry import Instance, Latch, Split, State
from saltern.stepping import (
    Leave,
    Settings,
    View,
    alarm_of,
    breaks_a_limit,
    due,
    intervention,
    kind_of,
    of_step,
    shown,
)
from saltern.steps import Command, Plan, left
from saltern.steps import State as Steps
from saltern.windows import Second, parse

pytestmark = pytest.mark.unit

PLAN = Plan(step_seconds=100, hold_seconds=200)
AUTO = Plan(auto=True)
UNDER_WAY = ("stepping", "paused", "promoted")
DEFAULT_SHARE = 30


def view(
    phase: str = "stepping",
    *,
    share: int = 10,
    split: int | None = None,
    canary: Mapping[str, str] | None = None,
    prod: Mapping[str, str] | None = None,
    drained: tuple[str, ...] = (),
    latch: Latch | None = None,
    by: str = "steps",
    **steps: Any,
) -> View:
    """A fleet in which r2 is on its way to production, which runs r1."""
    pools = (
        ("canary", canary if canary is not None else {"staging1": "r2"}),
        ("prod", prod or {"prod1": "r1"}),
    )
    instances = {
        id_: Instance(id_, pool, "10.0.0.1", 80, release, "drain" if id_ in drained else "ready")
        for pool, running in pools
        for id_, release in running.items()
    }
    at = (
        Steps()
        if phase == "idle"
        else Steps("r2", phase, 0 if phase == "aborted" else share, 1000.0, **steps)
    )
    wanted = Split(at.share if split is None else split, "salt-run", 1234.5)
    state = State(7, instances, wanted, {"canary": latch} if latch else {})
    return View(state, at, {"journal": "5-0", "by": by})


OFF = Latch("staging1 cpu 97 %", since=1111.0)


@pytest.mark.parametrize(
    ("plan", "seen", "wish"),
    [
        *((PLAN, view(phase), None) for phase in ("idle", *UNDER_WAY, "aborted")),
        # The latch goes before everything else.
        *(
            (PLAN, view(phase, latch=OFF, canary=running),
             Command("latch:1111.0", "abort", "r2", "off: staging1 cpu 97 %"))
            for phase in UNDER_WAY
            for running in ({"staging1": "r2"}, {"staging1": "r3"}, {})
        ),
        (PLAN, view("aborted", latch=OFF), None),
        (PLAN, view("idle", latch=OFF), None),
        # Another release on any canary machine ends this one; none at all is the controller's business.
        *(
            (PLAN, view(phase, canary={"staging1": "r2", "staging2": "r3"}),
             Leave("superseded", 0, "the canary runs r3"))
            for phase in UNDER_WAY
        ),
        (PLAN, view("stepping", canary={}), None),
        (PLAN, view("aborted", canary={"staging1": "r3"}), None),
        # A share set by hand pauses, and stays.
        (PLAN, view("stepping", split=40),
         Command("share:1234.5", "pause", "r2", "the share was set to 40 % by salt-run; resuming goes back to 10 %")),
        (PLAN, view("stepping", split=0),
         Command("share:1234.5", "pause", "r2", "the share was set to 0 % by salt-run; resuming goes back to 10 %")),
        (PLAN, view("paused", split=40), None),
        (PLAN, view("promoted", split=40), None),
        # Promoted, it is at its end when all of production that is wanted runs it.
        (PLAN, view("promoted", prod={"prod1": "r2", "prod2": "r2"}), Leave("finished", 30, "production runs it")),
        (PLAN, view("promoted", prod={"prod1": "r2", "prod2": "r1"}), None),
        (PLAN, view("promoted", prod={"prod1": "r2", "prod2": "r1"}, drained=("prod2",)),
         Leave("finished", 30, "production runs it")),
        (PLAN, view("stepping", prod={"prod1": "r2"}), None),
        # Nothing begins by itself, unless the pillar says so; and then only what is new, alone and allowed.
        (PLAN, view("idle"), None),
        (AUTO, view("idle"), Command("auto:2000.0", "start", "r2")),
        (AUTO, view("aborted", canary={"staging1": "r3"}, latched=("r2",)), Command("auto:2000.0", "start", "r3")),
        (AUTO, view("aborted", latched=("r2",)), None),
        (AUTO, view("idle", latch=OFF), None),
        (AUTO, view("idle", canary={}), None),
        (AUTO, view("idle", canary={"staging1": "r2", "staging2": "r3"}), None),
        (AUTO, view("idle", prod={"prod1": "r1", "prod2": "r2"}), None),
        (AUTO, view("stepping"), None),
    ],
)  # fmt: skip
def test_what_happens_to_the_canary_happens_to_the_steps(plan: Plan, seen: View, wish: Any) -> None:
    assert intervention(plan, seen, DEFAULT_SHARE, 2000.0) == wish


# --- which seconds


def second(at: float, share: int = 10, canaries: tuple[str, ...] = ("r2",)) -> Second:
    servers = {
        f"staging{n}": {"pool": "canary", "release": r, "requests": 1} for n, r in enumerate(canaries, 1)
    }
    row = {"requests": 1, "errors": 0, "response_ms": 1.0}
    data = {
        "ts": at,
        "seconds": 1.0,
        "share": share,
        "pools": {"prod": row, "canary": row},
        "servers": servers,
    }
    return parse(f"{round(at * 1000)}-0", {"data": json.dumps(data)})


ENTRIES = [
    second(1000.5),  # began before the step
    second(1001.0),
    second(1002.0, share=5),
    second(1003.0, share=0),  # no canary was healthy
    second(1004.0, canaries=("r2", "r3")),
    second(1005.0, canaries=()),
    second(1006.0, share=40),  # set by hand
    second(1007.0),
]


@pytest.mark.parametrize(
    ("phase", "kept"),
    [
        ("stepping", [1001, 1007]),
        ("paused", [1001, 1002, 1006, 1007]),
        ("promoted", [1001, 1002, 1006, 1007]),
    ],
)
def test_only_seconds_of_the_step_count_and_while_a_person_decides_all_with_a_share(
    phase: str, kept: list[int]
) -> None:
    at = Steps("r2", phase, 10, 1000.0)
    assert [entry.at for entry in of_step(at, ENTRIES)] == kept


@pytest.mark.parametrize(
    ("phase", "ended", "compared", "wanted"),
    [
        ("stepping", 1099.9, 0, False),
        ("stepping", 1100, 0, True),
        ("stepping", 1119.9, 1100, False),
        ("stepping", 1120, 1100, True),
        ("paused", 1100, 0, True),
        ("promoted", 5000, 0, False),
    ],
)
def test_the_comparison_waits_for_the_steps_time_and_is_not_repeated_at_will(
    phase: str, ended: float, compared: float, wanted: bool
) -> None:
    assert due(PLAN, Steps("r2", phase, 10, 1000.0), ended, compared) is wanted


@pytest.mark.parametrize(
    ("metrics", "broken"),
    [
        ([("fail", None), ("hold", None)], True),
        ([("fail", 0.0001), ("pass", 0.5)], False),
        ([("hold", None), ("pass", 0.5)], False),
        ([("fail", 0.0001), ("fail", None)], True),
        ([], False),
    ],
)
def test_a_limit_is_broken_without_a_comparison(metrics: list, broken: bool) -> None:
    made = tuple(Metric("errors", "%", verdict, "", p_value=p) for verdict, p in metrics)
    assert breaks_a_limit(Verdict("fail", "", made)) is broken


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        (Steps(), Steps("r2", "stepping", 5, 1), "started"),
        (Steps("r1", "aborted"), Steps("r2", "stepping", 5, 1), "started"),
        (Steps("r1", "paused", 5, 1), Steps("r2", "stepping", 10, 1), "started"),
        (Steps("r2", "stepping", 5, 1), Steps("r2", "stepping", 10, 2), "stepped"),
        (Steps("r2", "paused", 5, 1), Steps("r2", "stepping", 10, 2), "stepped"),
        (Steps("r2", "paused", 5, 1), Steps("r2", "stepping", 5, 2), "resumed"),
        (Steps("r2", "stepping", 5, 1), Steps("r2", "paused", 5, 1), "paused"),
        (Steps("r2", "stepping", 100, 1), Steps("r2", "promoted", 100, 1), "promoted"),
        (Steps("r2", "stepping", 5, 1), Steps("r2", "aborted"), "aborted"),
        (Steps("r2", "paused", 5, 1, passed=True), Steps("r2", "paused", 5, 1), "noted"),
        (Steps(), Steps(latched=("r9",)), "noted"),
    ],
)
def test_every_move_has_a_name(before: Steps, after: Steps, kind: str) -> None:
    assert kind_of(before, after) == kind


# --- what a person is told


@pytest.mark.parametrize(
    ("seen", "name"),
    [
        (view("paused"), "CanaryPaused"),
        (view("paused", by="salt-run"), None),
        (view("aborted"), "CanaryAborted"),
        (view("aborted", by="salt-run"), None),
        # Another release has come: what was aborted is over.
        (view("aborted", canary={"staging1": "r3"}), None),
        (view("stepping"), None),
        (view("promoted"), None),
        (view("idle"), None),
    ],
)
def test_a_person_is_told_of_what_no_person_did(seen: View, name: str | None) -> None:
    alarm = alarm_of(seen)
    assert (alarm and alarm.name) == name
    if alarm:
        assert alarm.cause == "5-0"


def test_where_the_steps_are_is_shown_in_few_words() -> None:
    assert shown(Steps()) == {"phase": "idle"}
    row = shown(Steps("r2", "paused", 10, 1000.0, question=3, reason="hold"))
    assert row == {
        "phase": "paused", "release": "r2", "share": 10, "since": 1000.0, "reason": "hold", "question": 3,
    }  # fmt: skip


def test_a_release_that_left_is_forgotten_and_what_was_barred_is_not() -> None:
    before = Steps("r2", "promoted", 100, 1000.0, question=4, latched=("r0",), seen=("a",))
    assert left(before) == Steps(question=4, latched=("r0",), seen=("a",))


def test_settings_come_from_the_pillar_and_what_it_leaves_out_is_the_default() -> None:
    pillar = {"canary": {"steps": {"step_seconds": 3}}, "traffic": {"canary": {"share": 20}}}
    made = Settings.from_pillar(pillar)
    assert (made.plan.step_seconds, made.plan.auto, made.share) == (3, False, 20)
    assert made.thresholds.min_requests == 500
