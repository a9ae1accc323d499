"""Rolling a change over machines: the steps that `rollouts.walk` names, each carried out.

Each step looks first and does only what is missing, so that it can be broken off anywhere and be carried out again.
What goes wrong with a machine on the way forward is written down and stops the roll; what goes wrong on the way back is
written down too, and does not keep the other machines from going back.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any

import redis

from saltern import fleet_runs, observed, overview, rollouts
from saltern.alert_store import AlertStore
from saltern.errors import SalternError
from saltern.fleet import role_of
from saltern.hands import Hands
from saltern.intents import INTENT
from saltern.provisioning import Alarm, Ended, Interrupted, Kind, Refused, Step, Work, favoured
from saltern.registry import Instance, RegistryError
from saltern.rollouts import ABORT, FAILED, WHO, Facts, Plan, Settings

POLL_S = 0.05
LOOK_S = 0.2
"""Between two looks at all there is to see."""
CUT_S = 15.0
"""The controller cuts what is left at a drain's limit; how long it may take to say so."""
BACK_ATTEMPTS = 2
"""How often a machine that must go back is tried, before a person has to look."""
NEWS_S = 60.0
"""How long a mail's alert about something good stays."""


class Stop(SalternError):
    """The roll is to stop; the text says who said so."""


class Roller:
    """Carries out rolls with one fleet's hands.

    :param settings: read anew at every look
    """

    def __init__(self, hands: Hands, settings: Callable[[], Settings]) -> None:
        self.hands = hands
        self._settings = settings
        self._lock = threading.Lock()
        self._futures: dict[str, dict[str, Future[Facts]]] = {}
        """By roll, what is prepared for machines whose turn is still to come."""

    def kinds(self) -> dict[str, Kind]:
        """The conductor's kinds of intent that are rolls."""
        tag = "saltern/deploy/failed"
        undone = "see salt-run rollout.status and fleet.status"
        return {
            name: Kind(priority, self.steps, undone=undone, failed_tag=tag)
            for priority, name in ((2, "roll"), (2, "deploy"), (4, "states"))
        }

    def steps(self, work: Work) -> Iterator[Step]:
        """The steps of one roll, to its end."""
        yield "plan", self.plan
        plan = Plan.from_data(work.facts["plan"])
        for name in rollouts.walk(plan, work.facts):
            yield name, partial(self.act, plan, name)
        if why := rollouts.failure(work.facts):
            raise Ended(f"{plan.name}: {why}")

    def act(self, plan: Plan, name: str, work: Work) -> Facts:
        """Carry out a step."""
        _, what = rollouts.parts(name)
        acts: Mapping[str, Callable[[Plan, str, Work], Facts]] = {
            "begin": self.begin, "stage": self.stage, "take": self.take, "drain": self.drain, "apply": self.apply,
            "check": self.check, "ready": self.ready, "watch": self.watch, "steady": self.steady,
            "settle": self.settle, "more": self.more, "done": self.done, "fail": self.fail, "back": self.back,
            "unsettle": self.unsettle, "rolledback": self.end, "stopped": self.end,
        }  # fmt: skip
        try:
            found = dict(acts[what](plan, name, work))
        except (SalternError, RegistryError) as error:
            if what not in ("stage", "take", "more", "steady", *rollouts.FORWARD):
                raise
            found = {FAILED: str(error)}
        return {**found, "at": round(_now(work.client), 3)}

    # -- deciding what is to be done

    def plan(self, work: Work) -> Facts:
        """Look at everything and write down what is going to be done.

        :raises Refused: it should not be
        """
        intent = work.intent
        args = dict(intent.args)
        if why := self._aborted(work):
            raise Refused(why)
        settings = self._settings().with_options(rollouts.check_options(args.get("options", {})))
        began = _now(work.client)
        if not settings.force and (why := rollouts.frozen(settings.freeze, began)):
            raise Refused(f"nothing new is rolled now: {why}; force=True does all the same")
        make = self._plan_states if intent.kind == rollouts.STATES else self._plan_release
        plan = make(work, args, settings, began)
        return plan.to_data()

    def _plan_release(self, work: Work, args: Mapping[str, Any], settings: Settings, began: float) -> Plan:
        pool, release = work.intent.pool, str(args["release"])
        known = self.hands.known()
        if release not in known:
            raise Refused(f"release {release!r} is not kept any more")
        previous = self.hands.wanted(pool)
        there = {i.id: i for i in work.registry.snapshot().instances.values() if i.pool == pool}
        if not there:
            raise Refused(f"pool {pool} has no machine that is registered")
        skipped = {id_: i.want for id_, i in there.items() if i.want != "ready"}
        going = [id_ for id_, i in there.items() if i.want == "ready" and i.release != release]
        return Plan(
            kind=work.intent.kind, target=pool, name=release, previous=previous, skipped=skipped,
            order=self._in_order(work, going, settings.order),
            was={id_: i.release if i.release in known else previous for id_, i in there.items()},
            on_failure=settings.on_failure, highstate=settings.highstate, rollback=bool(
                args.get("options", {}).get("rollback")
            ), **_measures(settings, len(there), began),
        )  # fmt: skip

    def _plan_states(self, work: Work, args: Mapping[str, Any], settings: Settings, began: float) -> Plan:
        state, roles = str(args["state"]), tuple(args["roles"])
        there = work.registry.snapshot().instances
        names = [id_ for id_ in self.hands.machines() if role_of(id_) in roles]
        if not names:
            raise Refused(f"no machine is of role {' or '.join(roles)}")
        skipped = {id_: there[id_].want for id_ in names if id_ in there and there[id_].want != "ready"}
        redis_ones = [id_ for id_ in names if role_of(id_) == "redis"]
        primary = self.hands.redis_primary() if redis_ones else ""
        sessions = _sessions(work) if settings.order == "load" else {}
        order = rollouts.safe_order((id_ for id_ in names if id_ not in skipped), primary, sessions)
        pool = sum(i.pool == "prod" for i in there.values())
        return Plan(
            kind=rollouts.STATES, target="+".join(roles), name=state, order=order, skipped=skipped,
            on_failure="stop", **_measures(settings, pool, began),
        )  # fmt: skip

    def _in_order(self, work: Work, going: Iterable[str], how: str) -> tuple[str, ...]:
        servers = (work.observed() or {}).get("servers", {})
        return rollouts.in_order(going, _sessions(work), rollouts.out(servers, servers), how)

    # -- once

    def begin(self, plan: Plan, name: str, work: Work) -> Facts:
        """Say that it begins."""
        self._tell(plan, work, "started", machines=list(plan.order))
        return {"machines": list(plan.order), "was": plan.previous, "by": work.intent.by}

    def stage(self, plan: Plan, name: str, work: Work) -> Facts:
        """Have the release on the disks of those that go first before any is taken out of traffic for it.

        Where nothing else would change it is then switched to, which is all that its highstate would do; a machine of
        which more would change gets the whole of it when it is its turn. The others are prepared meanwhile.
        """
        return self._prepared(plan, work, plan.order[: plan.batch])

    def _prepared(self, plan: Plan, work: Work, names: Sequence[str]) -> Facts:
        """What was found when these machines were prepared, which is waited for.

        :returns: `machines` that have the release on their disks and need only be switched, `whole`: of others what
            else is to change; or that it failed
        """
        ahead = self._ahead(plan, work)
        found: dict[str, Any] = {"machines": [], "whole": {}}
        try:
            for future in dict.fromkeys(ahead[id_] for id_ in names if id_ in ahead):
                self._await(future, work)
                said = future.result()
                if FAILED in said:
                    return said
                found = {
                    "machines": [*found["machines"], *said["machines"]],
                    "whole": found["whole"] | said["whole"],
                }
        except BaseException:
            # Whoever tries again starts afresh.
            self._forget(work)
            raise
        return found

    def _await(self, future: Future[Facts], work: Work) -> None:
        alive = self._alive(work)
        while not future.done():
            alive()
            wait([future], LOOK_S)

    def _ahead(self, plan: Plan, work: Work) -> dict[str, Future[Facts]]:
        """By machine what prepares it, group after group in the order in which they go, in a thread of its own."""
        with self._lock:
            ahead = self._futures.setdefault(work.intent.id, {})
            done = self._staged(plan, work)
            left = [id_ for id_ in self._left(plan, work) if id_ not in ahead and id_ not in done]
            if left:
                pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
                for at in range(0, len(left), plan.batch):
                    group = left[at : at + plan.batch]
                    ahead |= dict.fromkeys(group, pool.submit(self._prepare, plan, work, group))
                pool.shutdown(wait=False)
            return ahead

    def _forget(self, work: Work) -> None:
        with self._lock:
            for future in self._futures.pop(work.intent.id, {}).values():
                future.cancel()

    def _prepare(self, plan: Plan, work: Work, group: Sequence[str]) -> Facts:
        seconds, alive = self._settings().apply_s, self._alive(work)
        names = self._instances(work, group)
        if not names:
            return {"machines": [], "whole": {}}
        with favoured(self.hands.favour, names):
            faults = self.hands.stage(names, plan.name, self._settings().keep, seconds, alive)
            differs = self.hands.look(names, seconds, alive) if plan.highstate else dict.fromkeys(names, ())
        if late := {
            id_: f"its states were not looked at within {seconds:g} s" for id_ in names if id_ not in differs
        }:
            return {FAILED: _first(late)}
        whole = {id_: list(states) for id_, states in differs.items() if states}
        # What those lack may be what their states are about to bring.
        if amiss := {id_: why for id_, why in faults.items() if id_ not in whole}:
            return {FAILED: _first(amiss)}
        return {"machines": [id_ for id_ in names if id_ not in whole], "whole": whole}

    def take(self, plan: Plan, name: str, work: Work) -> Facts:
        """Wait for the gates, decide whose turn it is, and have those prepared."""
        settings = self._settings()
        left = self._left(plan, work)
        prepares = plan.releases and not plan.rollback
        end = time.monotonic() + settings.wait_s
        while True:
            if prepares and (why := self._amiss(plan, work)):
                return {FAILED: why}
            found = rollouts.gate(plan, settings, left, self._sight(plan, settings, work))
            if found.take:
                said = self._prepared(plan, work, found.take) if prepares else {"machines": []}
                if FAILED in said:
                    return said
                return {
                    "machines": list(found.take),
                    "staged": said["machines"],
                    "whole": said.get("whole", {}),
                }
            if found.stop:
                return {FAILED: found.stop}
            self._alive(work)()
            if time.monotonic() > end:
                return {FAILED: f"waited {settings.wait_s:g} s for {found.wait}"}
            time.sleep(LOOK_S)

    def _amiss(self, plan: Plan, work: Work) -> str:
        """What is known by now of machines whose turn is still to come and could not be prepared."""
        for future in self._ahead(plan, work).values():
            if future.done() and not future.exception() and FAILED in (said := future.result()):
                return str(said[FAILED])
        return ""

    def _left(self, plan: Plan, work: Work) -> list[str]:
        wanted = [*plan.order]
        taken = 0
        for step, known in _ordered(work.facts):
            what = rollouts.parts(step)[1]
            if what == "more":
                wanted += known.get("add", ())
            elif what == "take":
                taken += len(known["machines"])
        return wanted[taken:]

    def _sight(self, plan: Plan, settings: Settings, work: Work) -> rollouts.Sight:
        client = work.client
        now = _now(client)
        state, seen = work.registry.snapshot(), overview.read_observed(client)
        pool = plan.target if plan.releases else "prod"
        fires = [
            a
            for a in (each.at(now) for each in AlertStore(client).all())
            if a.firing and rollouts.holds(plan, settings, a.name, a.subject)
        ]
        windows = observed.read_windows(client, plan.began, now)
        rows = [window["pools"][pool] for window in windows]
        members = [i.id for i in state.instances.values() if i.pool == pool or not plan.releases]
        servers = seen["servers"] if seen else {}
        done = rollouts.done_machines(plan, work.facts)
        wants = {id_: i.want for id_, i in state.instances.items()}
        # What fires of a machine since it is done is a word about what it was given: nobody waits for that to be over.
        symptoms = [
            f"{a.name} of {a.subject} since it is done"
            for a in fires
            if plan.gates and a.subject in done and a.since >= plan.began
        ]
        return rollouts.Sight(
            now=now, alerts=tuple(f"{a.name} of {a.subject}" for a in fires),
            out=rollouts.out(servers, members) if seen else None,
            requests=sum(row["requests"] for row in rows), errors=sum(row["http_5xx"] for row in rows),
            sick=(*rollouts.sick(done, wants, servers, now, self._starts(work)), *symptoms),
        )  # fmt: skip

    # -- a group

    def drain(self, plan: Plan, name: str, work: Work) -> Facts:
        """Send nobody new there, and wait until what they have is over."""
        names = self._instances(work, rollouts.machines_of(name))
        if names:
            self._drain(work, names, self._settings(), self._alive(work), force=plan.force)
        return {"machines": names}

    def _drain(
        self, work: Work, names: Sequence[str], settings: Settings, alive: Callable[[], None], *, force: bool
    ) -> None:
        revision = 0
        for id_ in names:
            change = work.registry.want(
                id_, "drain", limit_s=settings.drain_s, force=force, by=WHO, cause=work.intent.journal
            )
            revision = max(revision, change.revision)

        def still() -> str:
            return self._still(work, names, revision, "drain")

        _until(still, settings.drain_s + CUT_S, alive)

    def _still(self, work: Work, names: Iterable[str], revision: int, wanted: str) -> str:
        """What instances are still at that are to get somewhere; empty when all are there."""
        state, seen = work.registry.snapshot(), overview.read_observed(work.client)
        for id_ in names:
            if id_ not in state.instances:
                continue
            at = fleet_runs.arrival(overview.instance(state, seen, id_), seen, revision, wanted)
            if at.startswith("kept: "):
                raise SalternError(f"{id_} is {at}")
            if at != "there":
                return f"{id_}: {at}"
        return ""

    def apply(self, plan: Plan, name: str, work: Work) -> Facts:
        """Say what the machines shall run, and have them apply their states."""
        names = self._there(plan, work, rollouts.machines_of(name))
        if plan.releases:
            self.hands.assign(dict.fromkeys(names, plan.name))
        seconds, alive = self._settings().apply_s, self._alive(work)
        switched = self._switched(plan, work, names)
        rest = [id_ for id_ in names if id_ not in switched]
        with favoured(self.hands.favour, names):
            faults = dict(self.hands.switch(switched, plan.name, True, seconds, alive)) if switched else {}
            if rest:
                faults |= self.hands.apply(rest, "" if plan.releases else plan.name, seconds, alive)
        return {FAILED: _first(faults)} if faults else {"machines": names, "switched": switched}

    def _switched(self, plan: Plan, work: Work, names: Iterable[str]) -> list[str]:
        """Those of which nothing but the release is to change."""
        if not plan.releases:
            return []
        staged = self._staged(plan, work)
        return [id_ for id_ in names if not plan.highstate or id_ in staged]

    def _staged(self, plan: Plan, work: Work) -> set[str]:
        """Those that are written down as prepared, to be switched only."""
        first = work.facts.get(rollouts.step(plan.target, "stage"), {}).get("machines", ())
        takes = [known for step, known in work.facts.items() if rollouts.parts(step)[1] == "take"]
        return {*first, *(id_ for known in takes for id_ in known.get("staged", ()))}

    def check(self, plan: Plan, name: str, work: Work) -> Facts:
        """Ask the machines themselves whether they are well, and run what they shall."""
        names = rollouts.machines_of(name)
        settings = self._settings()
        if not plan.releases and any(role_of(id_) == "redis" for id_ in names):
            _until(self.hands.redis_whole, settings.serve_s, self._alive(work))
        found = self._well(work, self._instances(work, names), plan.name if plan.releases else "", settings)
        with favoured(self.hands.favour, names):
            _until(found, settings.serve_s, self._alive(work))
        if plan.releases:
            self._register(work, names, plan.name)
        return {"machines": list(names), "started": self._started(work, names, settings)}

    def _started(self, work: Work, names: Iterable[str], settings: Settings) -> dict[str, Any]:
        """When the products started, of those that say so; a worker that dies is replaced before the proxy sees it.

        :raises SalternError: one does not answer
        """
        found = {}
        for id_, there in self._some(work, names).items():
            said = self.hands.ask(there.addr, there.port, settings.version_path)
            if isinstance(said, dict) and "started" in said:
                found[id_] = said["started"]
        return found

    def _register(self, work: Work, names: Iterable[str], release: str) -> None:
        """Write down what instances said that they run: one that was only switched tells nobody."""
        for id_, there in self._some(work, names).items():
            work.registry.register(
                id_, there.addr, there.port, release, there.pool, by=WHO, cause=work.intent.journal
            )

    def _well(self, work: Work, names: Sequence[str], release: str, settings: Settings) -> Callable[[], str]:
        """What says what is wrong with instances, empty when nothing is."""

        def wrong() -> str:
            for id_, there in self._some(work, names).items():
                try:
                    said = self.hands.ask(there.addr, there.port, settings.version_path)
                    self.hands.ask(there.addr, there.port, settings.health_path)
                except SalternError as error:
                    return f"{id_}: {error}"
                runs = said.get("release") if isinstance(said, dict) else None
                if release and runs != release:
                    return f"{id_} runs {runs}, not {release}"
            return ""

        return wrong

    def ready(self, plan: Plan, name: str, work: Work) -> Facts:
        """Put them to work, and wait until the proxy finds them well."""
        names = self._instances(work, rollouts.machines_of(name))
        self._ready(work, names, plan.name if plan.releases else "", self._settings(), self._alive(work))
        return {"machines": names}

    def _ready(
        self, work: Work, names: Sequence[str], release: str, settings: Settings, alive: Callable[[], None]
    ) -> None:
        revision = 0
        for id_ in names:
            change = work.registry.want(id_, "ready", by=WHO, cause=work.intent.journal)
            revision = max(revision, change.revision)
        _until(lambda: self._serving(work, names, revision, release), settings.serve_s, alive)

    def _serving(self, work: Work, names: Iterable[str], revision: int, release: str) -> str:
        if still := self._still(work, names, revision, "ready"):
            return still
        servers = (overview.read_observed(work.client) or {}).get("servers", {})
        for id_ in names:
            if id_ in servers and (
                not servers[id_]["up"] or (release and servers[id_]["release"] != release)
            ):
                return (
                    f"{id_}: the proxy sees {servers[id_]['release']}, {servers[id_].get('check', 'not up')}"
                )
        return ""

    def watch(self, plan: Plan, name: str, work: Work) -> Facts:
        """Let the proxy find them well for long enough."""
        names = rollouts.machines_of(name)
        self._observe(plan, work, names, plan.min_healthy_s)
        return {"machines": list(names)}

    def steady(self, plan: Plan, name: str, work: Work) -> Facts:
        """Let all of them stay well for a while: what dies young dies now."""
        done = rollouts.done_machines(plan, work.facts)
        if done:
            self._observe(plan, work, [*done], plan.steady_s)
        return {"machines": [*done]}

    def _observe(self, plan: Plan, work: Work, names: Sequence[str], seconds: float) -> None:
        """Wait until machines were well for so long, without a break.

        :raises SalternError: one does not stay well, or those that are done are not, or clients see too many errors
        """
        settings = self._settings()
        release = plan.name if plan.releases else ""
        alive = self._alive(work)
        well = time.monotonic()
        end = well + seconds + settings.serve_s
        while True:
            wrong = self._serving(work, self._instances(work, names), 0, release)
            sight = self._sight(plan, settings, work)
            if sight.sick and not plan.rollback:
                raise SalternError("; ".join(sight.sick))
            wrong = wrong or self._alike(work, settings)
            if plan.gates and (why := rollouts.too_many_errors(settings, sight)):
                raise SalternError(why)
            alive()
            now = time.monotonic()
            if wrong:
                well = now
            elif now >= well + seconds:
                return
            if now >= end:
                raise SalternError(f"it does not stay well: {wrong or 'it was down over and over'}")
            time.sleep(LOOK_S)

    def _alike(self, work: Work, settings: Settings) -> str:
        """Which product that was well does not say now when it started; empty when all do.

        :raises SalternError: one has started again since
        """
        before = self._starts(work)
        there = work.registry.snapshot().instances
        serving = [id_ for id_ in before if id_ in there and there[id_].want == "ready"]
        try:
            found = self._started(work, serving, settings)
        except SalternError as error:
            return str(error)
        for id_, at in found.items():
            if at != before[id_]:
                raise SalternError(f"{id_}: it was well, died and was started again")
        return ""

    def _starts(self, work: Work) -> dict[str, Any]:
        """When the products started that say so, as it was written down when they were found well."""
        found: dict[str, Any] = {}
        for step, known in work.facts.items():
            if rollouts.parts(step)[1] == "check":
                found |= known.get("started", {})
        return found

    # -- the end

    def settle(self, plan: Plan, name: str, work: Work) -> Facts:
        """The pool runs it now: new machines get it, and no machine needs a word of its own."""
        self.hands.assign({plan.target: plan.name}, drop=self._everybody(plan, work))
        return {"release": plan.name, "was": plan.previous}

    def more(self, plan: Plan, name: str, work: Work) -> Facts:
        """Machines that were made meanwhile and still got the old release."""
        there = work.registry.snapshot().instances
        add = [
            i.id
            for i in there.values()
            if i.pool == plan.target and i.want == "ready" and i.release != plan.name
        ]
        rounds = sum(rollouts.parts(step)[1] == "more" for step in work.facts)
        if add and rounds >= rollouts.MOST_ROUNDS:
            return {FAILED: f"{', '.join(add)} still run another release after {rounds} more rounds"}
        return {"add": sorted(add, key=lambda id_: (len(id_), id_))}

    def done(self, plan: Plan, name: str, work: Work) -> Facts:
        """Say that it is done."""
        self._forget(work)
        cause = work.intent.journal
        what = (
            f"{plan.target} runs {plan.name}" if plan.releases else f"{plan.name} is applied to {plan.target}"
        )
        machines = sorted(rollouts.done_machines(plan, work.facts), key=lambda id_: (len(id_), id_))
        work.alarm(Alarm("DeployFailed", plan.target, f"{what}", firing=False, cause=cause))
        undo = f"salt-run rollout.rollback {plan.previous} target={plan.target}" if plan.previous else ""
        asked = "it was asked to go back" if plan.rollback else ""
        work.alarm(
            Alarm(
                "DeployDone", plan.name, what, "info", done=asked or f"{len(machines)} machines, one after the other",
                undo=undo if plan.previous != plan.name else "", cause=cause, expires_s=NEWS_S,
            )
        )  # fmt: skip
        self._tell(plan, work, "rolledback" if plan.rollback else "done", machines=machines)
        return {"machines": machines, "was": plan.previous}

    def fail(self, plan: Plan, name: str, work: Work) -> Facts:
        """Say that it stopped, and why."""
        self._forget(work)
        why = rollouts.failure(work.facts)
        back = "all machines go back to what they had" if rollouts.goes_back(plan) else "what is done stays"
        work.alarm(
            Alarm(
                "DeployFailed", plan.target, f"{plan.name} stopped on {plan.target}: {why}", "critical",
                done=back, undo=f"salt-run rollout.start {_again(plan)}", cause=work.intent.journal,
            )
        )  # fmt: skip
        self._tell(plan, work, "failed", why=why)
        return {"why": why}

    def back(self, plan: Plan, name: str, work: Work) -> Facts:
        """Have machines run what they had, whatever they are at; it is on their disks."""
        left: dict[str, str] = {}
        names = rollouts.machines_of(name)
        # Once a group was idle it was told to change, and may be about to: what it runs now proves nothing.
        told = FAILED not in work.facts.get(name.replace("/back#", "/drain#"), {FAILED: "never"})
        for attempt in range(BACK_ATTEMPTS):
            with favoured(self.hands.favour, names):
                left = self._go_back(plan, work, names if attempt == 0 else [*left], told)
            if not left:
                break
        there = self._some(work, [*left])
        for id_, instance in there.items():
            if not self._answers(instance):
                # Nobody is sent to what does not answer; and what is wanted but gone is replaced.
                work.registry.want(id_, "ready", by=WHO, cause=work.intent.journal)
        return {"machines": [id_ for id_ in names if id_ not in left], "not_back": left}

    def _go_back(self, plan: Plan, work: Work, names: Sequence[str], told: bool) -> dict[str, str]:
        """Those that did not, and why.

        :param told: whether they may have been told to change
        """
        settings = self._settings()
        going = self._some(work, names)
        alive = self._quiet(work)
        if plan.releases:
            # The pool has what it had until the end: a machine made anew meanwhile gets that too.
            self.hands.assign({id_: plan.was.get(id_, plan.previous) for id_ in names})
        changed = [
            id_
            for id_, there in going.items()
            if plan.releases and (told or not self._runs(there, plan.was.get(id_, plan.previous), settings))
        ]
        idle = False
        if changed:
            # One that will not go idle, or must not leave, is changed all the same.
            with contextlib.suppress(SalternError):
                self._drain(work, changed, settings, alive, force=False)
                idle = True
        faults: dict[str, str] = {}
        for release in dict.fromkeys(plan.was.get(id_, plan.previous) for id_ in changed):
            those = [id_ for id_ in changed if plan.was.get(id_, plan.previous) == release]
            faults |= self.hands.switch(those, release, idle, settings.apply_s, alive)
        for id_ in going:
            if id_ in faults:
                continue
            release = plan.was.get(id_, plan.previous) if plan.releases else ""
            try:
                _until(self._well(work, [id_], release, settings), settings.serve_s, alive)
                if release:
                    self._register(work, [id_], release)
                self._ready(work, self._instances(work, [id_]), release, settings, alive)
            except (SalternError, RegistryError) as error:
                faults[id_] = str(error)
        return faults

    def _runs(self, there: Instance, release: str, settings: Settings) -> bool:
        if there.release != release:
            return False
        try:
            said = self.hands.ask(there.addr, there.port, settings.version_path)
        except SalternError:
            return False
        return isinstance(said, dict) and said.get("release") == release

    def _answers(self, there: Instance) -> bool:
        try:
            self.hands.ask(there.addr, there.port, self._settings().version_path)
        except SalternError:
            return False
        return True

    def unsettle(self, plan: Plan, name: str, work: Work) -> Facts:
        """The pool runs what it ran; machines that differ from it, and are meant to, keep a word of their own."""
        stay = {} if rollouts.goes_back(plan) else rollouts.done_machines(plan, work.facts)
        own = {id_: plan.name if id_ in stay else was for id_, was in plan.was.items()}
        keep = {id_: release for id_, release in own.items() if release != plan.previous}
        drop = [id_ for id_ in self._everybody(plan, work) if id_ not in keep]
        self.hands.assign({plan.target: plan.previous, **keep}, drop=drop)
        return {"release": plan.previous, "others": keep}

    def end(self, plan: Plan, name: str, work: Work) -> Facts:
        """Say where everything is now."""
        groups = [known for step, known in work.facts.items() if rollouts.parts(step)[1] == "back"]
        back = sorted({id_ for known in groups for id_ in known["machines"]})
        lost = {id_: why for known in groups for id_, why in known["not_back"].items()}
        why = rollouts.failure(work.facts)
        facts = {"why": why, "back": back, "not_back": lost, "was": plan.previous}
        stay = [] if rollouts.goes_back(plan) else sorted(rollouts.done_machines(plan, work.facts))
        if stay:
            facts["stay"] = stay
        cause = work.intent.journal
        if lost:
            words = ", ".join(f"{id_} ({why})" for id_, why in lost.items())
            work.alarm(
                Alarm(
                    "DeployFailed", plan.target, f"{plan.name} stopped on {plan.target}, and did not go back: {words}",
                    "critical", done=f"{', '.join(back) or 'no machine'} went back",
                    undo="salt-run fleet.status shows them; salt-run rollout.rollback tries again", cause=cause,
                )
            )  # fmt: skip
        elif rollouts.goes_back(plan):
            work.alarm(
                Alarm(
                    "DeployRolledBack", plan.name, f"{plan.target} is back on {plan.previous}, away from {plan.name}",
                    "info", done=f"{', '.join(back) or 'no machine'} went back: {why}", cause=cause, expires_s=NEWS_S,
                )
            )  # fmt: skip
        if rollouts.goes_back(plan):
            self._tell(plan, work, "rolledback", machines=back, why=why, not_back=lost)
        return facts

    # -- looking

    def _everybody(self, plan: Plan, work: Work) -> list[str]:
        more = [
            id_
            for step, known in work.facts.items()
            if rollouts.parts(step)[1] == "more"
            for id_ in known.get("add", ())
        ]
        return [*dict.fromkeys([*plan.was, *plan.order, *more])]

    def _there(self, plan: Plan, work: Work, names: Iterable[str]) -> list[str]:
        """Those that are still there: one that was given up meanwhile holds up nothing."""
        if plan.releases:
            return self._instances(work, names)
        return [id_ for id_ in names if id_ in self.hands.machines()]

    def _some(self, work: Work, names: Iterable[str]) -> dict[str, Instance]:
        there = work.registry.snapshot().instances
        return {id_: there[id_] for id_ in names if id_ in there}

    def _instances(self, work: Work, names: Iterable[str]) -> list[str]:
        return [*self._some(work, names)]

    def _aborted(self, work: Work) -> str:
        return work.client.hget(INTENT + work.intent.id, ABORT) or ""

    def _alive(self, work: Work) -> Callable[[], None]:
        """What is called while something takes long, on the way forward."""

        def alive() -> None:
            self._quiet(work)()
            if why := self._aborted(work):
                raise Stop(why)

        return alive

    def _quiet(self, work: Work) -> Callable[[], None]:
        """The same on the way back, where nobody can stop it but the end of the conductor."""

        def alive() -> None:
            if work.stopping():
                raise Interrupted

        return alive

    def _tell(self, plan: Plan, work: Work, what: str, **fields: Any) -> None:
        data = {
            "kind": plan.kind, "target": plan.target, "name": plan.name, "was": plan.previous, **fields,
            "intent": work.intent.id, "cause": work.intent.journal, "by": work.intent.by,
        }  # fmt: skip
        if plan.releases:
            data["release"] = plan.name
        work.fire(f"saltern/deploy/{what}", data)


def _measures(settings: Settings, machines: int, began: float) -> dict[str, Any]:
    return {
        "batch": rollouts.amount(settings.batch, machines),
        "max_unavailable": rollouts.amount(settings.max_unavailable, machines),
        "gates": settings.gates, "force": settings.force, "min_healthy_s": settings.min_healthy_s,
        "steady_s": settings.steady_s, "deadline_s": settings.deadline_s, "began": began,
    }  # fmt: skip


def _sessions(work: Work) -> dict[str, int]:
    servers = (work.observed() or {}).get("servers", {})
    return {id_: int(server.get("sessions", 0)) for id_, server in servers.items()}


def _ordered(facts: Facts) -> Iterator[tuple[str, Facts]]:
    """Numbered steps in the order of their numbers: Redis keeps none."""

    def number(item: tuple[str, Facts]) -> int:
        return int(item[0].partition("#")[2] or 0)

    yield from sorted(((name, known) for name, known in facts.items() if "#" in name), key=number)


def _first(faults: Mapping[str, str]) -> str:
    id_, why = next(iter(sorted(faults.items())))
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return f"{id_}: {why}{more}"


def _again(plan: Plan) -> str:
    return (
        f"release={plan.name} target={plan.target}"
        if plan.releases
        else f"state={plan.name} role={plan.target}"
    )


def _now(client: redis.Redis) -> float:
    seconds, micros = client.time()
    return float(seconds) + micros / 1e6


def _until(wrong: Callable[[], str], seconds: float, alive: Callable[[], None]) -> None:
    """Poll until nothing is wrong any more.

    :raises SalternError: it still is in the end
    """
    end = time.monotonic() + seconds
    while why := wrong():
        alive()
        if time.monotonic() > end:
            raise SalternError(f"{why}, after {seconds:g} s")
        time.sleep(POLL_S)
