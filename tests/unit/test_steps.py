"""Progressive delivery, event by event."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from saltern.steps import (
    Abort,
    AskPerson,
    Command,
    Judged,
    Plan,
    Promote,
    Refused,
    SetShare,
    State,
    StepsError,
    Wait,
    advance,
    baseline_is_kept,
    standing,
)

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
PLAN = Plan()
BEGIN = 1_000_000.0
ids = itertools.count()


def command(kind: str, release: str = "v2", **more: object) -> Command:
    return Command(id=f"c{next(ids)}", kind=kind, release=release, **more)


def judged(
    verdict: str, started: float, ended: float | None = None, release: str = "v2", reason: str = ""
) -> Judged:
    return Judged(release, verdict, started, started + PLAN.step_seconds if ended is None else ended, reason)


def started(plan: Plan = PLAN, now: float = BEGIN) -> State:
    return advance(plan, State(), now, command("start"))[0]


def at_share(share: int, plan: Plan = PLAN) -> tuple[State, float]:
    """A release that passed its way up to a share, and the time it got there."""
    state, now = started(plan), BEGIN
    while state.share < share:
        now += plan.step_seconds
        state, _ = advance(plan, state, now, judged("pass", state.since))
    return state, now


def asked(actions: tuple) -> AskPerson:
    return next(action for action in actions if isinstance(action, AskPerson))


# The way up -------------------------------------------------------------------------------------------------


def test_a_release_that_passes_travels_all_shares_and_is_promoted():
    state, now = started(), BEGIN
    seen = [state.share]
    while state.phase == "stepping":
        now += PLAN.step_seconds
        state, actions = advance(PLAN, state, now, judged("pass", state.since))
        if state.phase == "stepping":
            assert actions == (SetShare(state.share), Wait(now + PLAN.step_seconds))
            seen.append(state.share)
    assert seen == [5, 10, 30, 60, 100]
    assert actions == (Promote("v2"),)
    assert (state.phase, state.share) == ("promoted", 100)
    assert now == BEGIN + 5 * PLAN.step_seconds


def test_starting_sets_the_first_share_and_says_when_to_look_again():
    state, actions = advance(PLAN, State(), BEGIN, command("start"))
    assert actions == (SetShare(5), Wait(BEGIN + 300))
    assert (state.release, state.phase, state.share, state.since) == ("v2", "stepping", 5, BEGIN)


@pytest.mark.parametrize(
    ("name", "event", "at"),
    [
        ("a pass before the minimum time", judged("pass", BEGIN, BEGIN + 299), 299),
        ("an early pass that is delivered late", judged("pass", BEGIN, BEGIN + 299), 400),
        ("a pass on a window from before the share", judged("pass", BEGIN - 1, BEGIN + 300), 300),
        ("a pass on a window that has not ended", judged("pass", BEGIN, BEGIN + 301), 300),
        ("a pass on a window from the future", judged("pass", BEGIN + 301), 300),
        ("a pass of another release", judged("pass", BEGIN, release="v3"), 300),
        ("a hold", judged("hold", BEGIN), 300),
        ("time alone", None, 1199),
    ],
)
def test_the_share_does_not_rise_on(name, event, at):
    state, actions = advance(PLAN, started(), BEGIN + at, event)
    assert (state.share, state.phase) == (5, "stepping"), name
    assert actions == (Wait(BEGIN + (300 if at < 300 else 1200)),)


def test_an_early_pass_is_not_kept_for_later():
    state, _ = advance(PLAN, started(), BEGIN + 200, judged("pass", BEGIN, BEGIN + 200))
    state, _ = advance(PLAN, state, BEGIN + 300)
    assert state.share == 5


def test_the_same_pass_twice_rises_once():
    event = judged("pass", BEGIN)
    state, _ = advance(PLAN, started(), BEGIN + 300, event)
    again, actions = advance(PLAN, state, BEGIN + 600, event)
    assert again == state
    assert not any(isinstance(action, SetShare) for action in actions)


def test_at_a_hundred_per_cent_the_baseline_is_the_one_that_was_kept():
    assert not baseline_is_kept(at_share(60)[0])
    assert baseline_is_kept(at_share(100)[0])


# The way down -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", PLAN.shares)
def test_a_fail_goes_to_zero_at_once_from_any_step(share):
    state, now = at_share(share)
    state, actions = advance(
        PLAN, state, now + 1, judged("fail", now - 500, reason="errors: 3 % of requests failed")
    )
    why = f"the judge at {share} %: errors: 3 % of requests failed"
    assert actions == (SetShare(0), Abort("v2", why))
    assert (state.phase, state.share, state.reason, state.latched) == ("aborted", 0, why, ("v2",))


@pytest.mark.parametrize("phase", ["stepping", "paused", "promoted"])
@pytest.mark.parametrize("event", [command("abort", reason="looks wrong"), judged("fail", 0.0)])
def test_abort_and_fail_work_from_every_phase(phase, event):
    state, now = at_share(30)
    if phase == "paused":
        state, _ = advance(PLAN, state, now, command("pause"))
    if phase == "promoted":
        state, _ = advance(PLAN, state, now, command("promote"))
    assert state.phase == phase
    state, actions = advance(PLAN, state, now, event)
    assert (state.phase, state.share) == ("aborted", 0)
    assert actions[0] == SetShare(0)


@pytest.mark.parametrize(
    "event",
    [
        judged("pass", BEGIN),
        judged("hold", BEGIN),
        command("start"),
        command("resume"),
        command("promote"),
        command("pause"),
        None,
    ],
)
def test_nothing_brings_an_aborted_release_back(event):
    state, _ = advance(PLAN, started(), BEGIN + 10, command("abort"))
    after, actions = advance(PLAN, state, BEGIN + 10_000, event)
    assert replace(after, seen=state.seen) == state
    assert not any(isinstance(action, SetShare | Promote) for action in actions)
    if isinstance(event, Command):
        assert isinstance(actions[0], Refused)


def test_an_aborted_release_stays_barred_after_another_was_started():
    state, _ = advance(PLAN, started(), BEGIN + 10, command("abort"))
    state, _ = advance(PLAN, state, BEGIN + 20, command("start", "v3"))
    after, actions = advance(PLAN, state, BEGIN + 30, command("start", "v2"))
    assert after.release == "v3"
    assert actions == (Refused("start: v2 was aborted; build a new release"),)


def test_a_new_release_starts_anew_after_an_abort():
    state, _ = advance(PLAN, started(), BEGIN + 10, command("abort"))
    state, actions = advance(PLAN, state, BEGIN + 20, command("start", "v3"))
    assert actions[0] == SetShare(5)
    assert (state.release, state.phase, state.latched) == ("v3", "stepping", ("v2",))


def test_a_new_release_in_the_middle_of_another_starts_at_the_first_share():
    state, now = at_share(60)
    state, actions = advance(PLAN, state, now, command("start", "v3"))
    assert actions[0] == SetShare(5)
    assert (state.release, state.share, state.since) == ("v3", 5, now)


def test_aborting_a_release_that_has_no_traffic_bars_it_and_leaves_the_other_alone():
    state, now = at_share(30)
    after, actions = advance(PLAN, state, now, command("abort", "v9"))
    assert (after.release, after.share, after.phase) == ("v2", 30, "stepping")
    assert actions == (Wait(now + 300),)
    assert isinstance(advance(PLAN, after, now, command("start", "v9"))[1][0], Refused)


def test_abort_without_a_release_means_the_one_under_way():
    state, actions = advance(PLAN, started(), BEGIN, command("abort", ""))
    assert actions[0] == SetShare(0)
    again, actions = advance(PLAN, state, BEGIN, command("abort", ""))
    assert again.phase == "aborted"
    assert actions == (SetShare(0),)
    assert advance(PLAN, State(), BEGIN, command("abort", ""))[1] == (
        Refused("abort: no release is under way"),
    )


# Pauses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "event", "reason"),
    [
        ("holding", judged("hold", BEGIN + 890, reason="cpu: 3 samples"), "hold: cpu: 3 samples"),
        ("silence", None, "no verdict from the judge"),
        ("old verdicts only", judged("pass", BEGIN - 5), "no verdict on a window of this step"),
    ],
)
def test_past_the_hold_limit_a_person_is_asked(name, event, reason):
    before, _ = advance(PLAN, started(), BEGIN + 1199.9, event)
    assert before.phase == "stepping", name
    state, actions = advance(PLAN, started(), BEGIN + 1200, event)
    assert actions == (AskPerson(1, f"no pass at 5 % within the hold limit; {reason}"),)
    assert (state.phase, state.share) == ("paused", 5)


def test_resume_gives_the_step_a_fresh_start():
    state, _ = advance(PLAN, started(), BEGIN + 1200)
    state, actions = advance(PLAN, state, BEGIN + 5000, command("resume"))
    assert actions == (Wait(BEGIN + 5300),)
    assert (state.phase, state.share, state.since) == ("stepping", 5, BEGIN + 5000)
    state, _ = advance(PLAN, state, BEGIN + 5300, judged("pass", BEGIN + 4999, BEGIN + 5300))
    assert state.share == 5
    state, _ = advance(PLAN, state, BEGIN + 5300, judged("pass", BEGIN + 5000))
    assert state.share == 10


def test_a_share_in_pause_before_needs_a_persons_agreement():
    plan = Plan(pause_before=(60,))
    state, now = at_share(30, plan)
    state, actions = advance(plan, state, now + 300, judged("pass", now))
    assert actions == (AskPerson(1, "30 % passed; 60 % needs a person's agreement"),)
    assert (state.phase, state.share) == ("paused", 30)
    state, actions = advance(plan, state, now + 900, command("resume", question=1))
    assert actions == (SetShare(60), Wait(now + 1200))
    assert (state.share, state.approved, state.agreement) == (60, False, False)


def test_agreement_to_a_pass_that_a_hold_followed_waits_for_another_pass():
    plan = Plan(pause_before=(60,))
    state, now = at_share(30, plan)
    state, _ = advance(plan, state, now + 300, judged("pass", now))
    state, _ = advance(plan, state, now + 600, judged("hold", now + 300))
    state, actions = advance(plan, state, now + 900, command("resume"))
    assert (state.phase, state.share, state.approved) == ("stepping", 30, True)
    assert actions == (Wait(now + 1200),)
    state, actions = advance(plan, state, now + 1200, judged("pass", now + 900))
    assert actions[0] == SetShare(60)  # agreed to already: not asked twice


def test_agreement_is_for_one_share_only():
    plan = Plan(pause_before=(60, 100))
    state, now = at_share(30, plan)
    state, _ = advance(plan, state, now + 300, judged("pass", now))
    state, _ = advance(plan, state, now + 300, command("resume"))
    assert state.share == 60
    state, actions = advance(plan, state, now + 600, judged("pass", now + 300))
    assert asked(actions).question == 2
    assert state.share == 60


def test_resuming_after_a_hold_is_not_agreement_to_the_next_share():
    plan = Plan(pause_before=(10,))
    state, _ = advance(plan, started(plan), BEGIN + 1200)
    state, _ = advance(plan, state, BEGIN + 1300, command("resume"))
    state, actions = advance(plan, state, BEGIN + 1600, judged("pass", BEGIN + 1300))
    assert asked(actions).reason == "5 % passed; 10 % needs a person's agreement"
    assert state.share == 5


def test_a_late_answer_to_a_closed_question_changes_nothing():
    state, _ = advance(PLAN, started(), BEGIN + 1200)
    state, _ = advance(PLAN, state, BEGIN + 1300, command("resume", question=1))
    state, _ = advance(PLAN, state, BEGIN + 2600)
    after, actions = advance(PLAN, state, BEGIN + 2700, command("resume", question=1))
    assert after.phase == "paused"
    assert actions == (Refused("resume: question 1 is closed; open is 2"),)


def test_a_person_can_pause_and_passes_do_not_move_it():
    state, now = at_share(30)
    state, actions = advance(PLAN, state, now + 5, command("pause", reason="lunch"))
    assert actions == (AskPerson(1, "lunch"),)
    after, actions = advance(PLAN, state, now + 400, judged("pass", now))
    assert (after, actions) == (state, ())
    resumed, _ = advance(PLAN, after, now + 500, command("resume"))
    assert (resumed.phase, resumed.share, resumed.since) == ("stepping", 30, now + 500)


def test_the_same_command_twice_counts_once_even_late():
    pause = command("pause")
    state, _ = advance(PLAN, started(), BEGIN + 1, pause)
    state, _ = advance(PLAN, state, BEGIN + 2, command("resume"))
    after, actions = advance(PLAN, state, BEGIN + 3, pause)
    assert after == state
    assert actions == (Wait(BEGIN + 302),)


def test_a_clock_that_went_back_far_asks_a_person_and_a_small_correction_does_not():
    small, _ = advance(PLAN, started(), BEGIN - 2)
    assert small.phase == "stepping"
    state, actions = advance(PLAN, started(), BEGIN - 86_400)
    assert asked(actions).reason == "the clock went back 86400 s at 5 %"
    state, actions = advance(PLAN, state, BEGIN - 86_000, command("resume"))
    assert actions == (Wait(BEGIN - 85_700),)


def test_a_person_can_promote_early_and_the_share_does_not_move():
    state, now = at_share(30)
    state, actions = advance(PLAN, state, now, command("promote"))
    assert actions == (Promote("v2"),)
    assert (state.phase, state.share) == ("promoted", 30)
    assert isinstance(advance(PLAN, state, now, command("start"))[1][0], Refused)


@pytest.mark.parametrize("kind", ["pause", "resume", "promote"])
@pytest.mark.parametrize("release", ["v2", "v9"])
def test_commands_to_a_release_that_is_not_under_way_are_refused_with_a_reason(kind, release):
    idle, actions = advance(PLAN, State(), BEGIN, command(kind, release))
    assert actions == (Refused(f"{kind} {release}: not possible, no release is under way"),)
    assert idle.phase == "idle"
    if release == "v9":
        _, actions = advance(PLAN, started(), BEGIN, command(kind, release))
        assert actions == (Refused(f"{kind} v9: not possible, v2 is stepping"),)


def test_a_plan_changed_under_way_takes_effect_at_the_next_step():
    state, now = at_share(30)
    state, actions = advance(Plan(shares=(1, 45, 100)), state, now + 300, judged("pass", now))
    assert actions[0] == SetShare(45)


# Restarts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "build", "expected"),
    [
        ("nothing yet", lambda: State(), (SetShare(0),)),
        ("stepping", lambda: at_share(30)[0], (SetShare(30), Wait(BEGIN + 900))),
        ("paused", lambda: advance(PLAN, started(), BEGIN, command("pause"))[0],
         (SetShare(5), AskPerson(1, "paused by a person"))),
        ("promoted", lambda: advance(PLAN, at_share(60)[0], BEGIN, command("promote"))[0],
         (SetShare(60), Promote("v2"))),
        ("aborted", lambda: advance(PLAN, started(), BEGIN, command("abort"))[0],
         (SetShare(0), Abort("v2", "aborted by a person"))),
    ],
)  # fmt: skip
def test_after_a_restart_the_state_says_what_must_be_true(name, build, expected):
    state = build()
    assert standing(PLAN, State.from_json(state.to_json()), state.since) == expected, name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "state: not JSON"),
        ("[]", "state: [] is not an object"),
        ('{"phase":"flying"}', "state: phase 'flying' is not one of idle"),
        ('{"phase":"stepping"}', "state: release '' does not match"),
        (
            '{"phase":"stepping","release":"v2","share":101}',
            "state: share 101 is not a whole number from 0 to 100",
        ),
        ('{"phase":"aborted","release":"v2","share":5}', "state: share 5 while aborted; it must be 0"),
        ('{"share":true}', "state: share True is not a whole number"),
        ('{"passed":1}', "state: passed 1 is not true or false"),
        ('{"since":NaN}', "state: since: nan is not a number of seconds"),
        ('{"since":-1}', "state: since: -1 is not a number of seconds"),
        ('{"latched":"v2"}', "state: latched 'v2' is not a list of texts"),
        ('{"reason":7}', "state: reason 7 is not a text"),
        ('{"mood":"good"}', "state: 'mood' is unknown; known are release, phase"),
    ],
)
def test_a_damaged_state_is_refused_with_one_clear_line(text, message):
    with pytest.raises(StepsError) as refused:
        State.from_json(text)
    assert message in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"shares": []}, "shares [] must rise"),
        ({"shares": [5, 10]}, "shares [5, 10] must rise from at least 1 to 100"),
        ({"shares": [5, 5, 100]}, "must rise"),
        ({"shares": [0, 100]}, "must rise from at least 1"),
        ({"shares": [5.5, 100]}, "shares [5.5, 100] is not a list of whole percentages"),
        ({"shares": "5,100"}, "is not a list of whole percentages"),
        ({"pause_before": [50]}, "pause_before 50 is not one of the shares"),
        ({"step_seconds": -1}, "steps: step_seconds: -1 is not a number of seconds"),
        ({"hold_seconds": "900"}, "steps: hold_seconds: '900' is not a number of seconds"),
        ({"speed": 2}, "steps: 'speed' is unknown; known are shares"),
    ],
)
def test_a_bad_plan_is_refused_with_one_clear_line(data, message):
    with pytest.raises(StepsError, match="steps: ") as refused:
        Plan.from_data(data)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Command("", "start", "v2"), "command: id '' is empty"),
        (lambda: Command("1", "fly", "v2"), "command: 'fly' is not one of start"),
        (lambda: Command("1", "start"), "command start: release '' does not match"),
        (lambda: Command("1", "start", "../v2"), "release '../v2' does not match"),
        (lambda: Judged("v2", "maybe", 0.0, 1.0), "judged: verdict 'maybe' is not pass, fail or hold"),
        (lambda: Judged("V 2", "pass", 0.0, 1.0), "judged: release 'V 2' does not match"),
        (lambda: Judged("v2", "pass", 2.0, 1.0), "judged: ended 1.0 is before started 2.0"),
        (lambda: Judged("v2", "pass", float("nan"), 1.0), "judged: started: nan is not a number of seconds"),
        (lambda: advance(PLAN, State(), float("inf")), "steps: now: inf is not a number of seconds"),
    ],
)
def test_a_bad_event_is_refused_with_one_clear_line(build, message):
    with pytest.raises(StepsError) as refused:
        build()
    assert message in str(refused.value)


def test_the_pillar_documents_every_number_and_holds_the_defaults():
    values = yaml.safe_load((ROOT / "pillar" / "canary.sls").read_text(encoding="utf-8"))["canary"]["steps"]
    assert set(values) == set(Plan.__dataclass_fields__)
    assert Plan.from_data(values) == PLAN


@given(st.text())
def test_any_text_is_a_state_or_refused_by_name(text):
    with pytest.raises(StepsError):
        State.from_json(text)
