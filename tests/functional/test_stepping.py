"""A release on its way to production by steps, on a real Redis: what moves it, what stops it, and what is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis
from conductor_stand import Crash, Server
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from redis.backoff import NoBackoff
from redis.retry import Retry
from saltern import stepping
from saltern.judge import judge
from saltern.observed import WINDOWS
from saltern.registry import STEPS, Conflict, Registry
from saltern.stepping import UNDER_WAY, kept_window
from saltern.steps import State as Steps
from saltern.steps import StepsError
from steps_stand import PLAN, Fleet
from traffic_stand import redis_server

SHARES = (5, 10, 30, 60, 100)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    process, port = redis_server(tmp_path_factory.mktemp("redis"))
    with redis.Redis(port=port, decode_responses=True) as client:
        yield client
    process.end()


@pytest.fixture
def fleet(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    client.flushall()
    return Fleet(client, monkeypatch)


# --- the way to production


def test_a_good_release_rises_step_by_step_and_leaves_when_production_runs_it(fleet: Fleet) -> None:
    moved = fleet.give("start")
    assert (moved.change.changed, moved.steps.release, fleet.share) == (True, "r2", 5)
    seen = [5]
    for _ in range(170):
        fleet.pass_by(1)
        if fleet.share != seen[-1]:
            seen.append(fleet.share)
    assert tuple(seen) == SHARES
    assert fleet.steps.phase == "promoted"
    assert fleet.told() == ["started", "stepped", "stepped", "stepped", "stepped", "promoted"]
    fleet.registry.register("prod1", "10.0.0.1", 80, "r2", "prod")
    fleet.pass_by(2)
    assert (fleet.steps.phase, fleet.share) == ("promoted", 100)
    fleet.registry.register("prod2", "10.0.0.2", 80, "r2", "prod")
    fleet.pass_by(2)
    assert (fleet.steps.phase, fleet.share) == ("idle", 30)
    assert fleet.told()[-1] == "finished"
    assert fleet.alarms == []


def test_every_move_is_a_line_of_the_journal_caused_by_the_one_before(fleet: Fleet) -> None:
    fleet.give("start", cause="deploy-7")
    fleet.pass_by(80)
    fleet.pass_by(20, errors=20)
    lines = fleet.journal("canary.started", "canary.stepped", "canary.off", "canary.aborted")
    assert [line["kind"] for line in lines] == [
        "canary.started", "canary.stepped", "canary.stepped", "canary.off", "canary.aborted",
    ]  # fmt: skip
    started, first, second, off, aborted = lines
    assert started["cause"] == "deploy-7"
    assert [first["cause"], second["cause"]] == [started["id"], first["id"]]
    assert off["cause"] == aborted["cause"] == second["id"]
    fields = json.loads(aborted["fields"])
    assert (fields["release"], fields["share"], fields["was"], fields["verdict"]) == ("r2", 0, 30, "fail")
    assert "errors" in fields["judged"]
    revisions = [int(line["revision"]) for line in lines]
    assert revisions == sorted(set(revisions))
    # The event names its line.
    assert fleet.fired[-1][1]["cause"] == aborted["id"]


def test_the_last_share_is_judged_by_what_production_did_before_it(fleet: Fleet) -> None:
    fleet.give("start")
    fleet.pass_by(130)
    assert fleet.share == 100
    fleet.pass_by(50, latency=30.0)
    assert fleet.steps.phase == "aborted"
    assert "latency" in fleet.steps.reason
    last = kept_window(fleet.client, 100)
    assert last.baseline == kept_window(fleet.client, 60).baseline
    assert last.canary.requests > 0
    assert judge(last.canary, last.baseline, last.thresholds).verdict == "fail"
    # The same window, judged again by somebody who does not mind.
    mild = last.thresholds.with_values({"tolerance": 5})
    assert judge(last.canary, last.baseline, mild).verdict == "pass"


def test_a_plan_that_begins_at_the_last_share_asks_a_person(fleet: Fleet) -> None:
    fleet.settings = replace(fleet.settings, plan=replace(PLAN, shares=(100,)))
    fleet.give("start")
    fleet.pass_by(91)
    assert fleet.steps.phase == "paused"
    assert "nothing is known of production" in fleet.steps.reason
    assert fleet.give("promote").steps.phase == "promoted"


# --- what ends it


@pytest.mark.parametrize(
    ("bad", "within", "words"),
    [
        ({"errors": 10}, 3, "limit 1 %"),
        ({"latency": 2000.0}, 21, "limit 1000 ms"),
        ({"cpu": 95.0}, 21, "limit 90 %"),
        # No limit is broken: only worse than production, which is known when the step's time is over.
        ({"latency": 30.0}, 50, "times production"),
        ({"cpu": 60.0}, 50, "times production"),
    ],
    ids=["errors", "latency limit", "saturation", "latency", "cpu"],
)
def test_a_bad_release_is_out_at_once_and_for_good(fleet: Fleet, bad: dict, within: int, words: str) -> None:
    fleet.give("start")
    fleet.pass_by(35)
    assert fleet.share == 10
    took = 0
    while fleet.steps.phase == "stepping":
        assert took < within, fleet.steps
        fleet.pass_by(1, **bad)
        took += 1
    assert (took < 25) == (within < 25), took
    state = fleet.registry.snapshot()
    assert (fleet.steps.phase, state.split.share) == ("aborted", 0)
    assert words in fleet.steps.reason
    assert words in state.latches["canary"].reason
    assert fleet.told()[-1] == "aborted"
    assert [(a.name, a.firing) for a in fleet.alarms] == [("CanaryAborted", True)]
    # It never comes back, whatever a person does.
    with pytest.raises(StepsError, match="the canary is off"):
        fleet.give("start")
    fleet.registry.canary_on()
    with pytest.raises(StepsError, match=r"canary.start: r2 was aborted; build a new release"):
        fleet.give("start")
    fleet.pass_by(40)
    assert (fleet.steps.phase, fleet.share) == ("aborted", 0)
    # A new one opens the latch, gets no request of its own accord, and may start.
    fleet.registry.register("staging1", "10.0.0.3", 80, "r3", "canary")
    fleet.pass_by(3)
    assert (fleet.registry.snapshot().latches, fleet.share) == ({}, 0)
    assert fleet.alarms[-1].firing is False
    assert fleet.give("start").steps.release == "r3"
    assert fleet.share == 5


def off(fleet: Fleet) -> None:
    fleet.registry.canary_off("error rate 12 % above 5 %", by="controller", cause="9-9")


def another_release(fleet: Fleet) -> None:
    fleet.registry.register("staging1", "10.0.0.3", 80, "r3", "canary")


def share_by_hand(fleet: Fleet) -> None:
    fleet.registry.set_share(40, by="jo")


@pytest.mark.parametrize("before", ["stepping", "paused", "promoted"])
@pytest.mark.parametrize(
    ("happens", "phase", "share", "told"),
    [
        (off, "aborted", 0, "aborted"),
        (another_release, "idle", 0, "superseded"),
        (share_by_hand, None, 40, None),
    ],
)
def test_what_happens_to_the_canary_goes_before_the_plan(
    fleet: Fleet, before: str, happens: Any, phase: str | None, share: int, told: str | None
) -> None:
    fleet.give("start")
    fleet.pass_by(35)
    if before != "stepping":
        fleet.give({"paused": "pause", "promoted": "promote"}[before])
    fleet.pass_by(1)
    happens(fleet)
    fleet.pass_by(1)
    wanted = phase or {"stepping": "paused"}.get(before, before)
    assert (fleet.steps.phase, fleet.share) == (wanted, share)
    if told:
        assert fleet.told()[-1] == told
    if happens is off:
        assert fleet.steps.reason == "off: error rate 12 % above 5 %"
        assert fleet.journal("canary.aborted")[-1]["cause"] == "9-9"
        # The latch is the one there was.
        assert fleet.registry.snapshot().latches["canary"].by == "controller"


def test_a_share_set_by_hand_stays_until_somebody_resumes(fleet: Fleet) -> None:
    fleet.give("start")
    fleet.pass_by(35)
    share_by_hand(fleet)
    fleet.pass_by(100)
    assert (fleet.steps.phase, fleet.share) == ("paused", 40)
    assert "set to 40 % by jo" in fleet.alarms[0].summary
    fleet.give("resume")
    assert (fleet.steps.phase, fleet.share) == ("stepping", 10)
    fleet.pass_by(1)
    assert [(a.name, a.firing) for a in fleet.alarms] == [("CanaryPaused", True), ("CanaryPaused", False)]
    fleet.pass_by(28)
    assert fleet.share == 10
    fleet.pass_by(2)
    assert fleet.share == 30


def test_a_hand_that_is_faster_than_the_next_step_is_not_overruled(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.give("start")
    fleet.pass_by(29)
    whole = Registry.step

    def slow(self: Registry, *args: Any, **named: Any) -> Any:
        monkeypatch.setattr(Registry, "step", whole)
        share_by_hand(fleet)
        return whole(self, *args, **named)

    monkeypatch.setattr(Registry, "step", slow)
    fleet.pass_by(3)
    assert Registry.step is whole, "a step was tried"
    assert (fleet.steps.phase, fleet.steps.share, fleet.share) == ("paused", 5, 40)


def test_a_command_is_decided_anew_when_the_registry_changes_under_it(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, left = Registry.step, [3]

    def contended(self: Registry, *args: Any, **named: Any) -> Any:
        if left[0]:
            left[0] -= 1
            fleet.registry.set_share(left[0])
        return whole(self, *args, **named)

    monkeypatch.setattr(Registry, "step", contended)
    assert fleet.give("start").steps.share == fleet.share == 5
    left[0] = 100
    with pytest.raises(Conflict, match="nothing was changed"):
        fleet.give("pause")
    assert fleet.steps.phase == "stepping"


# --- health alone


def test_a_canary_that_is_not_healthy_rises_not_and_goes_on_when_it_is_back(fleet: Fleet) -> None:
    fleet.give("start")
    fleet.pass_by(35)
    fleet.pass_by(40, healthy=False)
    assert (fleet.steps.phase, fleet.share) == ("stepping", 10)
    fleet.pass_by(40)
    assert (fleet.steps.phase, fleet.share) == ("stepping", 30)


def test_without_enough_to_judge_a_person_is_asked(fleet: Fleet) -> None:
    fleet.give("start")
    fleet.pass_by(92, requests=1)
    assert (fleet.steps.phase, fleet.share) == ("paused", 5)
    assert "canary had" in fleet.steps.reason and "500 needed" in fleet.steps.reason
    assert [(a.name, a.firing) for a in fleet.alarms] == [("CanaryPaused", True)]


def test_without_the_machines_own_samples_nothing_rises(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stepping.samples, "read", lambda *_: [])
    fleet.give("start")
    fleet.pass_by(92)
    assert (fleet.steps.phase, fleet.share) == ("paused", 5)
    assert "staging1 sent 0 samples, 20 needed" in fleet.steps.reason


# --- a person


def test_a_share_that_needs_a_persons_agreement_waits_for_it(fleet: Fleet) -> None:
    fleet.settings = replace(fleet.settings, plan=replace(PLAN, pause_before=(30,)))
    fleet.give("start")
    fleet.pass_by(70)
    assert (fleet.steps.phase, fleet.share) == ("paused", 10)
    question = fleet.steps.question
    with pytest.raises(StepsError, match=f"question {question - 1} is closed"):
        fleet.give("resume", question=question - 1)
    fleet.give("resume", question=question)
    assert (fleet.steps.phase, fleet.share) == ("stepping", 30)


def test_while_paused_only_a_broken_limit_aborts(fleet: Fleet) -> None:
    fleet.give("start")
    fleet.pass_by(35)
    fleet.give("pause", reason="lunch")
    fleet.pass_by(70, latency=30.0)
    assert fleet.steps.phase == "paused"
    assert fleet.alarms == [], "who pauses by hand knows"
    fleet.pass_by(5, errors=20)
    assert fleet.steps.phase == "aborted"


@pytest.mark.parametrize("kind", ["pause", "resume", "promote", "abort"])
def test_without_a_release_under_way_there_is_nothing_to_do(fleet: Fleet, kind: str) -> None:
    revision = fleet.registry.snapshot().revision
    with pytest.raises(StepsError, match=f"canary.{kind}: no release is under way"):
        fleet.give(kind)
    state = fleet.registry.snapshot()
    assert (state.revision, dict(state.latches)) == (revision, {})


def test_a_person_aborts_at_once_even_what_was_promoted(fleet: Fleet) -> None:
    fleet.give("start")
    fleet.give("promote")
    fleet.pass_by(1)
    fleet.give("abort", reason="wrong prices", cause="7-7")
    state = fleet.registry.snapshot()
    assert (fleet.steps.phase, state.split.share) == ("aborted", 0)
    assert state.latches["canary"].reason == "r2 is aborted: wrong prices"
    assert fleet.journal("canary.aborted")[-1]["cause"] == "7-7"
    # Again, after somebody gave it a share: off again.
    fleet.registry.canary_on()
    fleet.registry.set_share(20)
    assert fleet.give("abort").change.changed
    state = fleet.registry.snapshot()
    assert (state.split.share, "canary" in state.latches) == (0, True)
    assert not fleet.give("abort").change.changed


@pytest.mark.parametrize(
    ("prepare", "release", "words"),
    [
        (lambda r: r.canary_off("slow"), "", r"the canary is off \(slow\); salt-run canary.on opens it"),
        (lambda r: None, "r9", "the canary runs r2, not r9"),
        (lambda r: r.unregister("staging1"), "", "the canary runs nothing; name the release"),
        (lambda r: r.unregister("staging1"), "r2", "no canary runs r2"),
        (
            lambda r: r.register("staging2", "10.0.0.4", 80, "r3", "canary"),
            "",
            "the canary runs r2, r3; name",
        ),
        (
            lambda r: r.register("staging2", "10.0.0.4", 80, "r3", "canary"),
            "r2",
            "the canary runs r3, not r2",
        ),
    ],
)
def test_only_what_all_of_the_canary_runs_can_start(
    fleet: Fleet, prepare: Any, release: str, words: str
) -> None:
    prepare(fleet.registry)
    with pytest.raises(StepsError, match="canary.start: " + words):
        fleet.give("start", release)
    assert (fleet.steps.phase, fleet.share) == ("idle", 30)


def test_the_same_wish_twice_is_the_same_as_once(fleet: Fleet) -> None:
    assert fleet.give("start").change.changed
    revision = fleet.registry.snapshot().revision
    assert not fleet.give("start").change.changed
    assert fleet.registry.snapshot().revision == revision


# --- by itself


def test_a_new_release_starts_by_itself_only_when_the_pillar_says_so(fleet: Fleet) -> None:
    fleet.pass_by(5)
    assert (fleet.steps.phase, fleet.share) == ("idle", 30)
    fleet.settings = replace(fleet.settings, plan=replace(PLAN, auto=True))
    fleet.pass_by(1)
    assert (fleet.steps.release, fleet.share) == ("r2", 5)
    assert fleet.journal("canary.started")[0]["cause"] == "saltern/instance/staging1/present"
    fleet.pass_by(3, errors=30)
    fleet.registry.canary_on()
    fleet.pass_by(3)
    assert (fleet.steps.phase, fleet.share) == ("aborted", 0)
    another_release(fleet)
    fleet.pass_by(1)
    assert (fleet.steps.release, fleet.steps.phase) == ("r3", "stepping")
    fleet.give("abort")
    fleet.registry.register("staging1", "10.0.0.3", 80, "r1", "canary")
    fleet.pass_by(3)
    assert fleet.steps.phase == "aborted", "production runs r1 already"


# --- crashes and outages


def test_an_abort_that_breaks_off_after_the_latch_is_finished_by_the_next(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.give("start")
    fleet.pass_by(5)
    with monkeypatch.context() as patch:

        def crash(*_: Any, **__: Any) -> None:
            raise Crash

        patch.setattr(Registry, "step", crash)
        with pytest.raises(Crash):
            fleet.pass_by(3, errors=30)
    assert fleet.steps.phase == "stepping"
    assert "canary" in fleet.registry.snapshot().latches
    fleet.restart().tick()
    assert (fleet.steps.phase, fleet.share) == ("aborted", 0)


def test_what_was_not_told_before_a_crash_is_told_after_it(fleet: Fleet) -> None:
    fleet.give("start")

    def crash(tag: str, data: Any) -> None:
        raise Crash(tag)

    fleet.stepper.fire = crash
    with pytest.raises(Crash):
        fleet.stepper.tick()
    fleet.restart()
    fleet.pass_by(3)
    assert fleet.told() == ["started"]


def test_a_state_that_is_spoilt_is_never_acted_on(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    fleet.give("start")
    fleet.client.hset(STEPS, "state", '{"phase": "stepping", "share": 60}')
    fleet.pass_by(40)
    assert fleet.share == 5
    assert len([r for r in caplog.records if "deleting this key" in r.getMessage()]) == 1
    with pytest.raises(StepsError, match="saltern:steps: state: release '' does not match"):
        fleet.give("pause")


@pytest.fixture
def server() -> Iterator[Server]:
    """A Redis that a test may kill."""
    server = Server()
    server.start()
    yield server
    server.close()


def test_while_redis_is_away_nothing_is_lost(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = redis.Redis(unix_socket_path=server.path, decode_responses=True, retry=Retry(NoBackoff(), 0))
    fleet = Fleet(client, monkeypatch)
    fleet.give("start")
    fleet.pass_by(20)
    server.kill()
    for _ in range(5):
        fleet.stepper.tick()
    assert len([r for r in caplog.records if "wait until this is over" in r.getMessage()]) == 1
    server.start()
    fleet.pass_by(14)
    assert (fleet.told(), fleet.stepper._problem) == (["started", "stepped"], "")


def test_an_engine_that_starts_anew_in_every_second_goes_the_same_way(fleet: Fleet) -> None:
    fleet.give("start")
    for _ in range(165):
        fleet.pass_by(1)
        fleet.restart()
    assert fleet.steps.phase == "promoted"
    assert fleet.told() == ["started", "stepped", "stepped", "stepped", "stepped", "promoted"]


# --- whatever happens, in any order


def any_order(client: redis.Redis, patch: pytest.MonkeyPatch) -> type[RuleBasedStateMachine]:
    """Everything that can happen to a canary on its way."""

    class AnyOrder(RuleBasedStateMachine):
        @initialize(auto=st.booleans())
        def begin(self, auto: bool) -> None:
            client.flushall()
            self.fleet = Fleet(client, patch, replace(PLAN, auto=auto, pause_before=(60,)))
            self.aborted: set[str] = set()
            self.number = 2

        def did_since(self, at: Steps) -> tuple[int, int]:
            """What canary servers did at this share since it was taken."""
            seconds = [json.loads(fields["data"]) for _, fields in client.xrange(WINDOWS)]
            rows = [s["pools"]["canary"] for s in seconds if s["ts"] > at.since and s["share"] == at.share]
            return sum(row["requests"] for row in rows), sum(row["errors"] for row in rows)

        def look(self) -> None:
            """One look of the stepper, and what must hold across it."""
            fleet = self.fleet
            before, split = fleet.steps, fleet.share
            fleet.stepper.tick()
            after = fleet.steps
            if after.share > before.share and after.release == before.release:
                assert after.share == next(s for s in SHARES if s > before.share), "one step at a time"
                requests, errors = self.did_since(before)
                assert requests >= 500 and errors * 100 <= requests, (
                    "not without a canary that was seen, and well"
                )
                assert fleet.time - before.since >= PLAN.step_seconds, "not before its time"
                assert split == before.share, "not over a person's hand"
            if after.release != before.release and after.phase == "stepping":
                assert fleet.settings.plan.auto, "nothing begins by itself"

        @rule(seconds=st.sampled_from([1, 5, 31]), data=st.data())
        def time_passes(self, seconds: int, data: st.DataObject) -> None:
            how = data.draw(
                st.sampled_from(
                    [{}, {}, {}, {"errors": 20}, {"latency": 40.0}, {"requests": 0}, {"healthy": False}]
                )
            )
            for _ in range(seconds):
                self.fleet.pass_by(1, **how, tick=False)
                self.look()

        @rule(kind=st.sampled_from(["start", "start", "pause", "resume", "resume", "promote", "abort"]))
        def a_person_commands(self, kind: str) -> None:
            before = self.fleet.steps
            try:
                after = self.fleet.give(kind).steps
            except StepsError:
                assert self.fleet.steps == before
                return
            if after.share > before.share and after.release == before.release and before.phase in UNDER_WAY:
                assert (kind, before.agreement, before.passed) == ("resume", True, True)

        @rule(share=st.sampled_from([0, 5, 40, 100]))
        def a_person_sets_the_share(self, share: int) -> None:
            self.fleet.registry.set_share(share, by="jo")

        @rule(turn=st.sampled_from(["on", "on", "off"]))
        def somebody_turns_the_canary(self, turn: str) -> None:
            registry = self.fleet.registry
            registry.canary_on() if turn == "on" else registry.canary_off("because")

        @rule(old=st.booleans())
        def a_release_is_deployed(self, old: bool) -> None:
            self.number += not old
            release = f"r{max(2, self.number - old)}"
            self.fleet.registry.register("staging1", "10.0.0.3", 80, release, "canary")

        @rule()
        def production_follows(self) -> None:
            for n in (1, 2):
                self.fleet.registry.register(f"prod{n}", f"10.0.0.{n}", 80, f"r{self.number}", "prod")

        @rule()
        def the_engine_starts_anew(self) -> None:
            self.fleet.restart()

        @invariant()
        def what_holds_after_every_look(self) -> None:
            if not hasattr(self, "fleet"):
                return
            self.look()
            state, at = self.fleet.registry.snapshot(), self.fleet.steps
            running = {i.release for i in state.instances.values() if i.pool == "canary"}
            if at.phase in UNDER_WAY:
                assert not state.latches, "off aborts"
                assert at.release not in self.aborted, "an abort is for good"
                assert running == {at.release}, "one release, and the one that runs"
            if at.phase == "stepping":
                assert state.split.share == at.share
            if at.phase == "aborted":
                self.aborted.add(at.release)
            assert self.aborted <= set(at.latched)
            lines = self.fleet.journal()
            ids = {line["id"] for line in lines}
            for line in lines:
                if line["who"] == "steps" and line["cause"] and line["cause"][0].isdigit():
                    assert line["cause"] in ids, line
            assert client.hget(STEPS, "told") == client.hget(STEPS, "journal"), "all is told"

    return AnyOrder


def test_whatever_happens_in_any_order_the_rules_hold(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_state_machine_as_test(
        any_order(client, monkeypatch),
        settings=settings(
            max_examples=settings().max_examples, stateful_step_count=12, deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
