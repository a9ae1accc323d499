"""Progressive delivery: from 5 to 100 per cent of the traffic, one judged step at a time.

A pure state machine. `advance` takes a plan (the pillar's numbers), the state, the time and at most one
event, and answers the next state and the actions that follow. It reads no clock and does nothing; whoever
calls it stores the state, then carries out the actions. The state is plain data, so it survives a restart as
JSON.

How a release travels
    stepping   It has the share of its current step. The first pass of a window that ended `step_seconds` or
               more into the step takes it to the next share, and from the last one to promoted. Holds, or no
               verdict at all, leave it where it is for `hold_seconds` more; then it is paused and a person is
               asked.
    paused     A person is needed: the judge held too long, the next share is in `pause_before`, a person
               paused it, or the clock went back. The share stays. Resume gives the step a fresh start, except
               when a pass only lacked the person's agreement and nothing but passes came since: then it rises
               at once.
    promoted   The last step passed, or a person said so. The share stays until production runs the release.
    aborted    Share 0, for ever: only another release starts anew. A fail, or a person, aborts at once from
               anywhere.

Rules that hold whatever the order of events
    - The share rises only by one step, only on a pass of a window that began at the current share and ended
      at least `step_seconds` after it was taken. Starting a release at the first share is the one exception.
    - After an abort the share is 0 and the release never comes back; both are kept in `latched`.
    - The same event twice is the same as once. A verdict is bound to its release and to the beginning of its
      window: the step it raised began later, so it cannot raise again. Commands carry an id and are
      remembered.
    - A fail of this release counts whenever its window was; passes and holds from before the current share do
      not.

At the last step production gets no traffic, so there is nothing to compare with in the same minutes:
`baseline_is_kept` says so, and the caller judges against production's window of the step before.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

IDLE, STEPPING, PAUSED, PROMOTED, ABORTED = "idle", "stepping", "paused", "promoted", "aborted"
PHASES = (IDLE, STEPPING, PAUSED, PROMOTED, ABORTED)

COMMANDS = ("start", "abort", "pause", "resume", "promote")

_RELEASE = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

# Commands are delivered again within minutes if at all; this many are remembered to recognise them.
_REMEMBERED_COMMANDS = 64

# Aborted releases that stay barred. A release older than this many aborts would have to be deployed by hand
# anyway.
_REMEMBERED_ABORTS = 256


# Later than any clock will say; what is larger is milliseconds or worse.
_MAX_SECONDS = 1e11


class StepsError(ValueError):
    """A plan, state or event that cannot be used. The message is one line: where, what, and what would be
    right."""


# ------------------------------------------------------------------------------------------------------------
# What goes in


@dataclass(frozen=True)
class Plan:
    """The numbers of `canary:steps` in pillar/canary.sls, which explains each. Raises StepsError."""

    shares: tuple[int, ...] = (5, 10, 30, 60, 100)
    step_seconds: float = 300.0
    hold_seconds: float = 900.0
    pause_before: tuple[int, ...] = ()
    auto: bool = False

    def __post_init__(self) -> None:
        for name in ("shares", "pause_before"):
            value = getattr(self, name)
            if not isinstance(value, list | tuple) or any(type(share) is not int for share in value):
                raise StepsError(f"steps: {name} {value!r} is not a list of whole percentages")
            object.__setattr__(self, name, tuple(value))
        rising = all(a < b for a, b in zip(self.shares, self.shares[1:], strict=False))
        if not self.shares or not rising or self.shares[0] < 1 or self.shares[-1] != 100:
            raise StepsError(
                f"steps: shares {list(self.shares)} must rise from at least 1 to 100, "
                "for example [5, 10, 30, 60, 100]"
            )
        for share in self.pause_before:
            if share not in self.shares:
                raise StepsError(f"steps: pause_before {share} is not one of the shares {list(self.shares)}")
        if type(self.auto) is not bool:
            raise StepsError(f"steps: auto {self.auto!r} is not true or false")
        for name in ("step_seconds", "hold_seconds"):
            object.__setattr__(self, name, _seconds(f"steps: {name}", getattr(self, name)))

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Plan:
        """The plan in the pillar; a key left out takes its default. Raises StepsError."""
        return cls(**_known("steps", data, cls))


@dataclass(frozen=True)
class Judged:
    """A verdict of the judge: pass, fail or hold, on this release's window from started to ended (Unix
    seconds).
    """

    release: str
    verdict: str
    started: float
    ended: float
    reason: str = ""

    def __post_init__(self) -> None:
        _release("judged", self.release)
        if self.verdict not in ("pass", "fail", "hold"):
            raise StepsError(f"judged: verdict {self.verdict!r} is not pass, fail or hold")
        if _seconds("judged: ended", self.ended) < _seconds("judged: started", self.started):
            raise StepsError(f"judged: ended {self.ended} is before started {self.started}")


@dataclass(frozen=True)
class Command:
    """What a person or the pipeline wants: start, abort, pause, resume or promote a release.

    id: tells a command delivered twice from one given twice; the journal id of its cause will do.
    release: required, except for abort, where leaving it out means whichever release is under way.
    question: for resume, the number of the question it answers (AskPerson.question), so that a late click
        does not answer a question its giver has not seen. None answers whatever is open.
    """

    id: str
    kind: str
    release: str = ""
    reason: str = ""
    question: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not self.id:
            raise StepsError(f"command: id {self.id!r} is empty; give the journal id of its cause")
        if self.kind not in COMMANDS:
            raise StepsError(f"command: {self.kind!r} is not one of {', '.join(COMMANDS)}")
        if self.release or self.kind != "abort":
            _release(f"command {self.kind}", self.release)


# ------------------------------------------------------------------------------------------------------------
# What comes out


@dataclass(frozen=True)
class SetShare:
    """Give the canary this share of the traffic, in per cent."""

    share: int


@dataclass(frozen=True)
class Wait:
    """Nothing to do. Call again at `until` (Unix seconds) at the latest, or with the next event."""

    until: float


@dataclass(frozen=True)
class AskPerson:
    """Tell the operator why the release waits; `resume` with this question number goes on, `abort` ends
    it."""

    question: int
    reason: str


@dataclass(frozen=True)
class Promote:
    """Roll the release out to production."""

    release: str


@dataclass(frozen=True)
class Abort:
    """Take the release out of traffic and tell the operator why."""

    release: str
    reason: str


@dataclass(frozen=True)
class Refused:
    """The command changed nothing; the reason is for whoever gave it."""

    reason: str


Action = SetShare | Wait | AskPerson | Promote | Abort | Refused


@dataclass(frozen=True)
class State:
    """Where a release is. The first state of a fleet is State().

    share: what the canary's share is set to, in per cent. The next one is the plan's next larger, so a plan
        may change under way.
    since: Unix seconds the share was taken or the step started afresh.
    agreement: paused on a pass, for a person's agreement to the next share only. passed: nothing but passes
    came since.
    approved: that person agreed. question: number of the last question asked.
    reason: why it is paused or aborted.
    latched: releases that were aborted. seen: ids of commands carried out.
    """

    release: str = ""
    phase: str = IDLE
    share: int = 0
    since: float = 0.0
    agreement: bool = False
    passed: bool = False
    approved: bool = False
    question: int = 0
    reason: str = ""
    latched: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.phase not in PHASES:
            raise StepsError(f"state: phase {self.phase!r} is not one of {', '.join(PHASES)}")
        if self.phase != IDLE:
            _release("state", self.release)
        for name, highest in (("share", 100), ("question", 10**9)):
            value = getattr(self, name)
            if type(value) is not int or not 0 <= value <= highest:
                raise StepsError(f"state: {name} {value!r} is not a whole number from 0 to {highest}")
        for name in ("agreement", "passed", "approved"):
            if type(getattr(self, name)) is not bool:
                raise StepsError(f"state: {name} {getattr(self, name)!r} is not true or false")
        for name in ("latched", "seen"):
            value = getattr(self, name)
            if not isinstance(value, list | tuple) or any(not isinstance(text, str) for text in value):
                raise StepsError(f"state: {name} {value!r} is not a list of texts")
            object.__setattr__(self, name, tuple(value))
        if not isinstance(self.reason, str):
            raise StepsError(f"state: reason {self.reason!r} is not a text")
        object.__setattr__(self, "since", _seconds("state: since", self.since))
        if self.phase in (IDLE, ABORTED) and self.share:
            raise StepsError(f"state: share {self.share} while {self.phase}; it must be 0")

    def to_json(self) -> str:
        """The state as JSON on one line; from_json gives back an equal state."""
        return json.dumps(asdict(self), allow_nan=False, separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> State:
        """The state in a JSON text. Raises StepsError on anything else, so that a damaged state is never
        acted on."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise StepsError(f"state: not JSON: {error}") from None
        return cls(**_known("state", data, cls))


# ------------------------------------------------------------------------------------------------------------
# The machine


def advance(
    plan: Plan, state: State, now: float, event: Judged | Command | None = None
) -> tuple[State, tuple[Action, ...]]:
    """The state after an event, or after time alone (event None), and what is to be done about it.

    now: Unix seconds. Every action is safe to carry out twice, so store the state first and act second.
    """
    now = _seconds("steps: now", now)
    if isinstance(event, Command):
        if event.id in state.seen:
            return state, _wait(plan, state, now)
        state = replace(state, seen=(*state.seen, event.id)[-_REMEMBERED_COMMANDS:])
        return _COMMANDED[event.kind](plan, state, now, event)
    if isinstance(event, Judged):
        return _judged(plan, state, now, event)
    return _time_passed(plan, state, now, "no verdict from the judge")


def standing(plan: Plan, state: State, now: float) -> tuple[Action, ...]:
    """What the state implies by itself, to be carried out after a restart in case the last actions were
    lost."""
    actions: tuple[Action, ...] = (SetShare(state.share),)
    if state.phase == ABORTED:
        actions += (Abort(state.release, state.reason),)
    if state.phase == PROMOTED:
        actions += (Promote(state.release),)
    if state.phase == PAUSED:
        actions += (AskPerson(state.question, state.reason),)
    return actions + _wait(plan, state, now)


def left(state: State) -> State:
    """The state once the release has left the canary, for production or for another release: nothing is under
    way. What was aborted stays barred."""
    return State(question=state.question, latched=state.latched, seen=state.seen)


def baseline_is_kept(state: State) -> bool:
    """Whether production gets no traffic, so that its window of the step before is the baseline to judge
    against."""
    return state.share == 100


_Result = tuple[State, tuple[Action, ...]]


def _wait(plan: Plan, state: State, now: float) -> tuple[Action, ...]:
    if state.phase != STEPPING:
        return ()
    ripe = state.since + plan.step_seconds
    return (Wait(ripe if now < ripe else ripe + plan.hold_seconds),)


def _judged(plan: Plan, state: State, now: float, event: Judged) -> _Result:
    if state.phase not in (STEPPING, PAUSED, PROMOTED) or event.release != state.release:
        return state, _wait(plan, state, now)
    if event.verdict == "fail":
        return _aborted(state, f"the judge at {state.share} %: {event.reason or 'fail'}")
    if not state.since <= event.started <= event.ended <= now:
        return _time_passed(plan, state, now, "no verdict on a window of this step")
    if state.phase == PAUSED and event.verdict == "hold":
        return replace(state, passed=False), ()
    # By the window's own time: a pass too early for the step stays too early, however late it is delivered.
    ripe = event.ended >= state.since + plan.step_seconds
    if state.phase == STEPPING and event.verdict == "pass" and ripe:
        return _risen(plan, state, now)
    return _time_passed(plan, state, now, f"{event.verdict}: {event.reason}")


def _time_passed(plan: Plan, state: State, now: float, last_word: str) -> _Result:
    if state.phase == STEPPING:
        if now >= state.since + plan.step_seconds + plan.hold_seconds:
            return _paused(state, f"no pass at {state.share} % within the hold limit; {last_word}")
        # Corrections of the clock are small; after a large one no waiting time means anything.
        if now < state.since - plan.step_seconds:
            return _paused(state, f"the clock went back {state.since - now:.0f} s at {state.share} %")
    return state, _wait(plan, state, now)


def _risen(plan: Plan, state: State, now: float) -> _Result:
    above = [share for share in plan.shares if share > state.share]
    if not above:
        return replace(state, phase=PROMOTED, reason=""), (Promote(state.release),)
    if above[0] in plan.pause_before and not state.approved:
        reason = f"{state.share} % passed; {above[0]} % needs a person's agreement"
        return _paused(replace(state, agreement=True, passed=True), reason)
    # A window that raised the share began before now, so it cannot raise it again, not even if the clock went
    # back.
    state = _fresh(state, max(now, state.since), share=above[0])
    return state, (SetShare(state.share), *_wait(plan, state, now))


def _fresh(state: State, now: float, **changes: Any) -> State:
    return replace(
        state,
        phase=STEPPING,
        since=now,
        agreement=False,
        passed=False,
        approved=False,
        reason="",
        **changes,
    )


def _paused(state: State, reason: str) -> _Result:
    state = replace(state, phase=PAUSED, question=state.question + 1, reason=reason)
    return state, (AskPerson(state.question, reason),)


def _aborted(state: State, reason: str) -> _Result:
    state = replace(
        _latched(state, state.release),
        phase=ABORTED,
        share=0,
        agreement=False,
        passed=False,
        approved=False,
        reason=reason,
    )
    return state, (SetShare(0), Abort(state.release, reason))


def _latched(state: State, release: str) -> State:
    others = tuple(other for other in state.latched if other != release)
    return replace(state, latched=(*others, release)[-_REMEMBERED_ABORTS:])


def _refused(state: State, reason: str) -> _Result:
    return state, (Refused(reason),)


def _start(plan: Plan, state: State, now: float, command: Command) -> _Result:
    if command.release in state.latched:
        return _refused(state, f"start: {command.release} was aborted; build a new release")
    if command.release == state.release and state.phase == PROMOTED:
        return _refused(state, f"start: {command.release} is already promoted")
    if command.release == state.release and state.phase != IDLE:
        return state, _wait(plan, state, now)
    state = _fresh(state, now, release=command.release, share=plan.shares[0])
    return state, (SetShare(state.share), *_wait(plan, state, now))


def _abort(plan: Plan, state: State, now: float, command: Command) -> _Result:
    release = command.release or state.release
    if not release:
        return _refused(state, "abort: no release is under way")
    if release != state.release:
        # It must not come later either, but it is not what has the traffic now.
        return _latched(state, release), _wait(plan, state, now)
    if state.phase == ABORTED:
        return state, (SetShare(0),)
    return _aborted(state, command.reason or "aborted by a person")


def _pause(plan: Plan, state: State, now: float, command: Command) -> _Result:
    if command.release != state.release or state.phase not in (STEPPING, PAUSED):
        return _refused(state, _not_under_way(state, command))
    if state.phase == PAUSED:
        return state, ()
    return _paused(state, command.reason or "paused by a person")


def _resume(plan: Plan, state: State, now: float, command: Command) -> _Result:
    if command.release != state.release or state.phase not in (STEPPING, PAUSED):
        return _refused(state, _not_under_way(state, command))
    if state.phase == STEPPING:
        return state, _wait(plan, state, now)
    if command.question not in (None, state.question):
        return _refused(state, f"resume: question {command.question} is closed; open is {state.question}")
    approved = state.agreement
    if approved and state.passed:
        return _risen(plan, replace(state, approved=True), now)
    state = replace(_fresh(state, now), approved=approved)
    return state, _wait(plan, state, now)


def _promote(plan: Plan, state: State, now: float, command: Command) -> _Result:
    if command.release != state.release or state.phase not in (STEPPING, PAUSED, PROMOTED):
        return _refused(state, _not_under_way(state, command))
    return replace(state, phase=PROMOTED, reason=""), (Promote(state.release),)


_COMMANDED = {"start": _start, "abort": _abort, "pause": _pause, "resume": _resume, "promote": _promote}


def _not_under_way(state: State, command: Command) -> str:
    what = f"{state.release} is {state.phase}" if state.release else "no release is under way"
    return f"{command.kind} {command.release}: not possible, {what}"


# ------------------------------------------------------------------------------------------------------------
# Checks


def _seconds(where: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MAX_SECONDS:
        raise StepsError(f"{where}: {value!r} is not a number of seconds from 0 to {_MAX_SECONDS:g}")
    return float(value)


def _release(where: str, value: object) -> None:
    if not isinstance(value, str) or not _RELEASE.fullmatch(value):
        raise StepsError(f"{where}: release {value!r} does not match {_RELEASE.pattern}")


def _known(where: str, data: object, kind: type) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise StepsError(f"{where}: {data!r} is not an object")
    names = [spec.name for spec in fields(kind)]
    for name in data:
        if name not in names:
            raise StepsError(f"{where}: {name!r} is unknown; known are {', '.join(names)}")
    return dict(data)
