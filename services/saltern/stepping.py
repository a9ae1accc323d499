"""Driving the progressive steps: what the state machine in `steps` decides is made so, and told.

Where it runs. Salt's runners carry out what a person wants (`give`), in their own process, so that a pause or an
abort waits for nobody. `Stepper` runs beside the conductor in the master: it judges, moves on, and takes notice of
whatever else happens to the canary. Both change nothing but through `Registry.step`, one atomic step for the state,
the share and the journal's line, which is refused when anything in the registry changed since it was read. So the two
cannot undo each other's decisions, and after a crash the state and the share are one as they were.

Who wins. The canary's latch goes before the steps: whoever turns the canary off aborts the release, and an abort
turns the canary off before it is written down. The steps only ever ask for a share; while no canary is healthy the
controller gives it none, and such seconds are not judged. A share that a person sets meanwhile stays, and pauses the
steps; resuming goes back to the share of the step. A release that another one takes the place of on the canary leaves
with share 0.

What is judged. The hard limits are looked at all the time, and break off a release at once. The comparison with
production is made when a step's time is over and, while it holds, again after each fifth of that time: a test that is
asked every second finds what it looks for. While a person is asked, only the hard limits abort.

Each comparison is kept until the next release starts (``saltern:steps:windows``, hash: share → `judge.Record` as
JSON). At the last share production has no traffic, and is judged by its window of the share before.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import redis

from saltern import samples, windows
from saltern.alert_store import Alarm
from saltern.errors import SalternError
from saltern.judge import FAIL, HOLD, JudgeError, Record, Thresholds, Verdict, judge
from saltern.registry import STEPS, Change, Conflict, Registry, RegistryError, State
from saltern.rejections import printable
from saltern.steps import (
    ABORTED,
    PAUSED,
    PROMOTED,
    STEPPING,
    Command,
    Judged,
    Plan,
    Refused,
    SetShare,
    StepsError,
    advance,
    baseline_is_kept,
    left,
)
from saltern.steps import State as Steps
from saltern.windows import Second

log = logging.getLogger("saltern.stepping")

WHO = "steps"
WINDOWS_KEPT = STEPS + ":windows"
UNDER_WAY = (STEPPING, PAUSED, PROMOTED)
TICK_S = 0.5
LEAST_LOOK_S, MOST_LOOK_S = 1.0, 5.0
"""Between two looks at the hard limits: a sixtieth of a step, within these."""
LEAST_LIMITS_S = 10.0
"""The hard limits are asked of at least so many seconds, where a step is shorter."""
REASON_LENGTH = 250
_ATTEMPTS = 8
"""How often a move is decided anew because the registry changed in between."""
OPEN = (
    "a person may turn it on again (salt-run canary.on) and give it a share; it cannot start again by steps"
)


@dataclass(frozen=True)
class Settings:
    """What the pillar says: `canary:steps`, `canary:judge`, and the share of a fleet in which nothing is under way."""

    plan: Plan
    thresholds: Thresholds
    share: int

    @classmethod
    def from_pillar(cls, pillar: Mapping[str, Any]) -> Settings:
        """The settings in a pillar its schema has checked."""
        canary = pillar["canary"]
        return cls(
            Plan.from_data(canary.get("steps", {})),
            Thresholds().with_values(canary.get("judge", {})),
            pillar["traffic"]["canary"]["share"],
        )


@dataclass(frozen=True)
class View:
    """The registry and the steps as they were at one revision.

    :ivar move: of the last move: kind, fields (JSON), journal, by; ``told`` is the journal id of the last that was
        told, ``alarm`` what a person is being told
    """

    registry: State
    steps: Steps
    move: Mapping[str, str]

    @property
    def releases(self) -> set[str]:
        """What canary instances run."""
        return {i.release for i in self.registry.instances.values() if i.pool == "canary"}


@dataclass(frozen=True)
class Leave:
    """The release under way is no longer the canary's: it leaves with this share."""

    kind: str
    share: int
    reason: str


@dataclass(frozen=True)
class Moved:
    """What a command did: whether anything changed, and where the steps are now."""

    change: Change
    steps: Steps

    def to_data(self) -> dict[str, Any]:
        """As plain values, for a person."""
        return {"changed": self.change.changed, **shown(self.steps), "journal": self.change.journal}


def shown(at: Steps) -> dict[str, Any]:
    """Where the steps are, for a person."""
    row: dict[str, Any] = {"phase": at.phase}
    if at.phase in (*UNDER_WAY, ABORTED):
        row |= {"release": at.release, "share": at.share, "since": at.since}
    if at.reason:
        row["reason"] = at.reason
    if at.phase == PAUSED:
        row["question"] = at.question
    return row


def look(registry: Registry) -> View:
    """Read where everything is.

    Raises RegistryError or StepsError on what is unusable, redis.RedisError.
    """
    state = registry.snapshot()
    # Read later than the registry, so that a move in between is one that `Registry.step` refuses.
    move = registry.client.hgetall(STEPS)
    try:
        return View(state, Steps.from_json(move["state"]) if "state" in move else Steps(), move)
    except StepsError as error:
        raise StepsError(f"{STEPS}: {error}; deleting this key forgets the steps and starts afresh") from None


# --- deciding


def intervention(plan: Plan, view: View, share: int, now: float) -> Command | Leave | None:
    """What is to happen to the steps because of what happened to the canary, whatever the judge says.

    :param share: of a fleet in which nothing is under way, per cent
    """
    at, fleet = view.steps, view.registry
    latch = fleet.latches.get("canary")
    production = {i.release for i in fleet.instances.values() if i.pool == "prod" and i.want == "ready"}
    if at.phase in UNDER_WAY:
        if latch:
            return Command(f"latch:{latch.since}", "abort", at.release, f"off: {latch.reason}")
        if others := view.releases - {at.release}:
            return Leave("superseded", 0, f"the canary runs {', '.join(sorted(others))}")
        if at.phase == PROMOTED and production == {at.release}:
            return Leave("finished", share, "production runs it")
        if at.phase == STEPPING and fleet.split.share != at.share:
            split = fleet.split
            who = split.by or "somebody"
            reason = f"the share was set to {split.share} % by {who}; resuming goes back to {at.share} %"
            return Command(f"share:{split.since}", "pause", at.release, reason)
        return None
    if (
        plan.auto
        and not latch
        and len(view.releases) == 1
        and not view.releases & (production | {*at.latched})
    ):
        return Command(f"auto:{now}", "start", *view.releases)
    return None


def of_step(at: Steps, entries: Sequence[Second]) -> list[Second]:
    """The seconds in which the release had its share; while a person has the say, any share."""
    return [
        entry
        for entry in entries
        if entry.at - entry.seconds >= at.since
        and entry.canaries == {at.release}
        and (entry.share == at.share if at.phase == STEPPING else entry.share > 0)
    ]


def breaks_a_limit(verdict: Verdict) -> bool:
    """Whether a hard limit is broken: such a failure rests on no comparison, so it has no p-value."""
    return any(metric.verdict == FAIL and metric.p_value is None for metric in verdict.metrics)


def due(plan: Plan, at: Steps, ended: float, compared: float) -> bool:
    """Whether the comparison with production is to be made.

    :param ended: of the last second there is; :param compared: of the last one compared; unix seconds
    """
    return at.phase != PROMOTED and ended >= max(
        at.since + plan.step_seconds, compared + plan.step_seconds / 5
    )


def kind_of(before: Steps, after: Steps) -> str:
    """What a move is called, in the journal and on the bus."""
    if after.phase != before.phase or after.release != before.release:
        if after.phase == STEPPING:
            resumed = before.phase == PAUSED and before.release == after.release
            return (
                "stepped" if after.share > before.share and resumed else "resumed" if resumed else "started"
            )
        return after.phase
    return "stepped" if after.share > before.share else "noted"


def alarm_of(view: View) -> Alarm | None:
    """What a person has to be told as long as it is so. What a person did is no news to them."""
    at, by = view.steps, view.move.get("by", "")
    if by == WHO and at.phase == PAUSED:
        return Alarm(
            "CanaryPaused", "canary", f"{at.release} waits for a person: {at.reason}",
            undo="salt-run canary.resume, canary.promote or canary.abort", cause=view.move["journal"],
        )  # fmt: skip
    if by == WHO and at.phase == ABORTED and at.release in view.releases:
        return Alarm(
            "CanaryAborted", "canary", f"{at.release} was taken out of traffic: {at.reason}", "critical",
            done="all requests go to production", undo=OPEN, cause=view.move["journal"],
        )  # fmt: skip
    return None


# --- acting


def give(
    registry: Registry,
    plan: Plan,
    kind: str,
    release: str = "",
    *,
    by: str,
    reason: str = "",
    cause: str = "",
    question: int | None = None,
) -> Moved:
    """Carry out what a person wants: start, pause, resume, promote or abort a release.

    :param release: the one that the canary runs, to start; the one under way, otherwise; where it is left out as well
    :raises StepsError: it is not possible; the text says why
    :raises RegistryError: a text is not printable, or others kept changing the registry
    """
    id_ = f"{by}:{secrets.token_hex(8)}"
    for _ in range(_ATTEMPTS):
        view = look(registry)
        name = release or _meant(view, kind)
        if kind == "start":
            _startable(view, name)
        command = Command(id_, kind, name, reason, question)
        try:
            return _advance(registry, view, plan, command, _now(registry.client), by=by, cause=cause)
        except Conflict:
            continue
    raise Conflict(f"canary.{kind}: others kept changing the registry; nothing was changed, try again")


def _meant(view: View, kind: str) -> str:
    if kind != "start":
        if not view.steps.release:
            raise StepsError(f"canary.{kind}: no release is under way; salt-run canary.start begins one")
        return view.steps.release
    if len(view.releases) != 1:
        runs = ", ".join(sorted(view.releases)) or "nothing"
        raise StepsError(f"canary.start: the canary runs {runs}; name the release that all of it runs")
    return next(iter(view.releases))


def _startable(view: View, release: str) -> None:
    if latch := view.registry.latches.get("canary"):
        raise StepsError(f"canary.start: the canary is off ({latch.reason}); salt-run canary.on opens it")
    if others := view.releases - {release}:
        raise StepsError(f"canary.start: the canary runs {', '.join(sorted(others))}, not {release}")
    if not view.releases:
        raise StepsError(f"canary.start: no canary runs {release}; salt 'staging*' state.apply deploys it")


def _now(client: redis.Redis) -> float:
    seconds, micros = client.time()
    return float(seconds) + micros / 1e6


def _advance(
    registry: Registry,
    view: View,
    plan: Plan,
    event: Judged | Command | None,
    now: float,
    *,
    by: str,
    cause: str = "",
    judged: Verdict | None = None,
) -> Moved:
    """Let the state machine take an event, and make it so.

    :raises Conflict: the registry changed since it was looked at; look again
    :raises StepsError: the command is refused
    """
    before = view.steps
    after, actions = advance(plan, before, now, event)
    for action in actions:
        if isinstance(action, Refused):
            raise StepsError(f"canary.{action.reason}")
    aborting = SetShare(0) in actions
    if replace(after, seen=before.seen) == before and not (aborting and view.registry.split.share):
        return Moved(Change(False, view.registry.revision), before)
    cause = cause or view.move.get("journal", "")
    revision = view.registry.revision
    if aborting:
        # First what is urgent: should this end here, the latch aborts at the next look.
        line = printable(f"{after.release} is aborted: {after.reason}", REASON_LENGTH)
        revision = registry.canary_off(line, by=by, cause=cause).revision
    share = {STEPPING: after.share, ABORTED: 0}.get(after.phase)
    fields = {"release": after.release, "share": after.share, "was": before.share, "reason": after.reason}
    if judged is not None:
        fields |= {"verdict": judged.verdict, "judged": {m.name: m.reason for m in judged.metrics}}
    kind = ABORTED if aborting else kind_of(before, after)
    if kind == "started":
        registry.client.delete(WINDOWS_KEPT)
    change = registry.step(
        after.to_json(), None if share == view.registry.split.share else share, f"canary.{kind}", fields,
        by=by, cause=cause, expect_revision=revision,
    )  # fmt: skip
    return Moved(change, after)


class Stepper:
    """Judges and moves the release under way. `run` in a thread of its own, or `tick` over and over.

    :param settings: read anew before every look
    :param fire: puts an event on the bus: tag, data
    :param alarm: takes what a person should know, and that it is over
    """

    def __init__(
        self,
        client: redis.Redis,
        settings: Callable[[], Settings],
        *,
        fire: Callable[[str, Mapping[str, Any]], None],
        alarm: Callable[[Alarm], None],
        recorder: samples.Recorder,
    ) -> None:
        self.client = client
        self.settings = settings
        self.fire = fire
        self.alarm = alarm
        self.recorder = recorder
        self.registry = Registry(client)
        self._stopping = threading.Event()
        self._looked = self._compared = 0.0
        self._of: tuple[str, float] = ("", 0.0)
        self._held: Judged | None = None
        self._problem = ""

    def run(self) -> None:
        """Work until `stop`."""
        while not self._stopping.is_set():
            self.tick()
            self._stopping.wait(TICK_S)

    def stop(self) -> None:
        """End `run` soon; the release stays where it is."""
        self._stopping.set()

    def tick(self) -> None:
        """One round. What is wrong with Redis or a setting is said once, and waited for."""
        try:
            self.recorder.write()
            self.step()
            self._problem = ""
        except Conflict as error:
            log.debug("%s", error)
        except (redis.RedisError, SalternError, RegistryError, StepsError, JudgeError) as error:
            if str(error) != self._problem:
                log.error("the canary's steps wait until this is over: %s", error)
            self._problem = str(error)

    def step(self) -> None:
        """Look at everything, and do what is next; tell of it.

        :raises Conflict: something changed meanwhile; the next look decides
        """
        settings, view = self.settings(), look(self.registry)
        self._tell(view)
        now = _now(self.client)
        wish = intervention(settings.plan, view, settings.share, now)
        if isinstance(wish, Leave):
            self._leave(view, wish)
        elif wish is not None:
            cause = view.registry.latches["canary"].cause if wish.kind == "abort" else ""
            if wish.kind == "start":
                ids = (i.id for i in view.registry.instances.values() if i.release == wish.release)
                cause = f"saltern/instance/{min(ids)}/present"
            _advance(self.registry, view, settings.plan, wish, now, by=WHO, cause=cause)
        elif view.steps.phase in UNDER_WAY:
            self._judge(settings, view, now)
        else:
            return
        self._tell(look(self.registry))

    def _leave(self, view: View, wish: Leave) -> None:
        after = left(view.steps)
        fields = {
            "release": view.steps.release,
            "share": wish.share,
            "was": view.steps.share,
            "reason": wish.reason,
        }
        self.registry.step(
            after.to_json(), wish.share, f"canary.{wish.kind}", fields, by=WHO, cause=view.move.get("journal", ""),
            expect_revision=view.registry.revision,
        )  # fmt: skip

    def _judge(self, settings: Settings, view: View, now: float) -> None:
        plan, at = settings.plan, view.steps
        if self._of != (at.release, at.since):
            self._of, self._looked, self._compared, self._held = (at.release, at.since), 0.0, 0.0, None
        pause = min(max(plan.step_seconds / 60, LEAST_LOOK_S), MOST_LOOK_S)
        if 0 <= now - self._looked < pause:
            return
        self._looked = now
        longest = max(plan.step_seconds + plan.hold_seconds, LEAST_LIMITS_S)
        entries = of_step(at, windows.read(self.client, max(at.since, now - longest)))
        event, verdict = self._verdict(settings, at, entries, now) if entries else (None, None)
        if event is None:
            # What was said last stands until there is something new: should the time run out, that is why.
            event = self._held
        elif event.verdict == HOLD:
            self._held = event
        _advance(self.registry, view, plan, event, now, by=WHO, judged=verdict)

    def _verdict(
        self, settings: Settings, at: Steps, entries: Sequence[Second], now: float
    ) -> tuple[Judged | None, Verdict | None]:
        plan, ended = settings.plan, entries[-1].at
        recent = [e for e in entries if e.at > now - max(plan.step_seconds, LEAST_LIMITS_S)]
        if recent:
            canary, production = samples.judged(self.client, recent)
            verdict = judge(canary, production, settings.thresholds)
            if breaks_a_limit(verdict):
                return _event(at, recent, verdict), verdict
        if not due(plan, at, ended, self._compared):
            return None, None
        self._compared = ended
        canary, production = samples.judged(self.client, entries)
        if baseline_is_kept(at):
            kept = self._before(at.share)
            if kept is None:
                reason = "nothing is known of production from an earlier step; a person may promote"
                return _event(at, entries, Verdict(HOLD, reason, ())), None
            production = kept.baseline
        record = Record(canary, production, settings.thresholds)
        self.client.hset(WINDOWS_KEPT, str(at.share), record.to_json())
        verdict = judge(canary, production, settings.thresholds)
        if at.phase == PAUSED and verdict.verdict == FAIL and not breaks_a_limit(verdict):
            # A pause may last for days, and every comparison has its chance of a false alarm.
            verdict = replace(verdict, verdict=HOLD)
        return _event(at, entries, verdict), verdict

    def _before(self, share: int) -> Record | None:
        kept = {int(name): text for name, text in self.client.hgetall(WINDOWS_KEPT).items()}
        earlier = max((name for name in kept if name < share), default=None)
        return None if earlier is None else Record.from_json(kept[earlier])

    def _tell(self, view: View) -> None:
        """Put the last move on the bus and tell a person what they must know; twice only after a crash in between."""
        move = view.move
        if not move:
            return
        told = {}
        if move["journal"] != move.get("told"):
            kind = move["kind"].removeprefix("canary.")
            about = {**json.loads(move["fields"]), "by": move["by"], "cause": move["journal"]}
            self.fire(f"saltern/canary/{kind}", about)
            told["told"] = move["journal"]
        alarm = alarm_of(view)
        wanted = f"{alarm.name} {alarm.cause}" if alarm else ""
        if wanted != (had := move.get("alarm", "")):
            name = had.partition(" ")[0]
            if name and (alarm is None or alarm.name != name):
                self.alarm(Alarm(name, "canary", "it is over", firing=False, cause=move["journal"]))
            if alarm:
                self.alarm(alarm)
            told["alarm"] = wanted
        if told:
            self.client.hset(STEPS, mapping=told)


def _event(at: Steps, entries: Sequence[Second], verdict: Verdict) -> Judged:
    first, last = entries[0], entries[-1]
    reason = printable(verdict.reason, REASON_LENGTH)
    return Judged(at.release, verdict.verdict, first.at - first.seconds, last.at, reason)


def kept_window(client: redis.Redis, share: int) -> Record:
    """What was last compared at a share of the release under way, or the last one there was.

    :raises SalternError: there is none
    """
    text = client.hget(WINDOWS_KEPT, str(share))
    if text is None:
        shares = ", ".join(sorted(client.hkeys(WINDOWS_KEPT), key=int)) or "none"
        raise SalternError(f"canary.judge: nothing is kept from the step at {share!r} %; kept: {shares}")
    return Record.from_json(text)
