"""Progressive delivery under any order of events: late, twice, of another release, across restarts."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from saltern.steps import (
    Abort,
    AskPerson,
    Command,
    Judged,
    Plan,
    Promote,
    SetShare,
    State,
    Wait,
    advance,
    standing,
)

pytestmark = pytest.mark.unit

RELEASES = st.sampled_from(["v1", "v2", "v3"])


class Delivery(RuleBasedStateMachine):
    """Drives advance with whatever can happen and keeps its own book of what must never."""

    past_events = Bundle("past_events")

    def __init__(self) -> None:
        super().__init__()
        self.plan = Plan(shares=(5, 10, 30, 60, 100), step_seconds=100, hold_seconds=200, pause_before=(60,))
        self.state = State()
        self.now = 1000.0
        self.ids = 0
        self.aborted: set[str] = set()
        self.share = 0  # what the proxy was told

    def feed(self, event: Judged | Command | None) -> None:
        before = self.state
        self.state, actions = advance(self.plan, before, self.now, event)
        self.check_rise(before, event)
        self.check_actions(before, actions)

    def check_rise(self, before: State, event: Judged | Command | None) -> None:
        after = self.state
        if after.share <= before.share and after.release == before.release:
            return
        if isinstance(event, Command) and event.kind == "start":
            assert after.share == self.plan.shares[0]
            assert after.release == event.release
            return
        assert after.release == before.release
        above = [share for share in self.plan.shares if share > before.share]
        assert after.share == above[0], "the share rises by one step"
        assert self.now >= before.since + self.plan.step_seconds, "not before its time"
        if isinstance(event, Judged):
            assert event.verdict == "pass"
            assert event.release == before.release
            assert before.since <= event.started <= event.ended <= self.now
            assert event.ended >= before.since + self.plan.step_seconds
            assert after.share not in self.plan.pause_before or before.approved
        else:
            # Only a person's agreement to a pass that had been reached at this very share.
            assert isinstance(event, Command)
            assert event.kind == "resume"
            assert before.phase == "paused"
            assert before.agreement
            assert before.passed

    def check_actions(self, before: State, actions: tuple) -> None:
        for action in actions:
            if isinstance(action, SetShare):
                self.share = action.share
            if isinstance(action, Abort):
                self.aborted.add(action.release)
            if isinstance(action, Promote):
                assert self.state.phase == "promoted"
                assert action.release == self.state.release not in self.aborted
            if isinstance(action, AskPerson):
                assert self.state.phase == "paused"
                assert action.question == self.state.question > before.question
            if isinstance(action, Wait):
                assert self.state.phase == "stepping"
        if self.state.phase == "promoted" != before.phase:
            assert Promote(self.state.release) in actions
        if self.state.phase == "paused" != before.phase:
            assert any(isinstance(action, AskPerson) for action in actions)

    @rule(seconds=st.sampled_from([0.0, 1.0, 50.0, 100.0, 100.0, 250.0, 301.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.feed(None)

    @rule(
        target=past_events,
        release=RELEASES,
        verdict=st.sampled_from(["pass", "pass", "hold", "fail"]),
        age=st.sampled_from([0.0, 1.0, 99.0, 100.0, 150.0, 400.0]),
    )
    def any_verdict_arrives(self, release: str, verdict: str, age: float) -> Judged:
        event = Judged(release, verdict, self.now - age, self.now, "said the judge")
        self.feed(event)
        return event

    @rule(target=past_events, seconds=st.sampled_from([100.0, 120.0]))
    def the_step_passes(self, seconds: float) -> Judged:
        self.now += seconds
        event = Judged(self.state.release or "v1", "pass", self.now - seconds, self.now)
        self.feed(event)
        return event

    @rule(target=past_events, early=st.sampled_from([0.5, 100.0]))
    def a_pass_arrives_that_began_before_the_share(self, early: float) -> Judged:
        self.now += 100.0
        event = Judged(self.state.release or "v1", "pass", max(self.state.since - early, 0.0), self.now)
        self.feed(event)
        return event

    @rule(
        target=past_events,
        release=RELEASES,
        kind=st.sampled_from(["start", "start", "pause", "resume", "promote"]),
    )
    def any_command_arrives(self, release: str, kind: str) -> Command:
        self.ids += 1
        event = Command(f"c{self.ids}", kind, release)
        self.feed(event)
        return event

    @rule(target=past_events)
    def the_person_resumes(self) -> Command:
        self.ids += 1
        event = Command(f"c{self.ids}", "resume", self.state.release or "v1", question=self.state.question)
        self.feed(event)
        return event

    @rule(target=past_events, release=RELEASES)
    def the_person_aborts(self, release: str) -> Command:
        self.ids += 1
        event = Command(f"c{self.ids}", "abort", release)
        self.feed(event)
        self.aborted.add(release)
        return event

    @rule(event=past_events)
    def an_event_is_delivered_again(self, event: Judged | Command) -> None:
        before = self.state
        self.feed(event)
        if isinstance(event, Command):
            assert self.state == before, "a command is carried out once"
        else:
            assert self.state.share <= before.share, "a verdict raises the share once"

    @rule()
    def everything_restarts(self) -> None:
        before = self.state
        self.state = State.from_json(before.to_json())
        assert self.state == before
        share_before = self.share
        for action in standing(self.plan, self.state, self.now):
            if isinstance(action, SetShare):
                self.share = action.share
        assert self.share == share_before, "carrying out the standing actions again changes nothing"

    @invariant()
    def the_proxy_was_told_the_share_of_the_state(self) -> None:
        assert self.share == self.state.share

    @invariant()
    def an_aborted_release_never_has_traffic(self) -> None:
        assert self.state.release not in self.aborted or self.state.share == 0

    @invariant()
    def no_share_without_a_release_under_way(self) -> None:
        if self.state.phase in ("idle", "aborted"):
            assert self.state.share == 0

    @invariant()
    def nothing_steps_past_the_hold_limit_once_time_was_told(self) -> None:
        later, _ = advance(self.plan, self.state, self.state.since + 301.0)
        assert later.phase != "stepping"


Delivery.TestCase.settings = settings(stateful_step_count=40)
TestDelivery = Delivery.TestCase
