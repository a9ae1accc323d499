"""Rolling a change over machines: what is to happen, and in which order. Nothing is done here; `rolling` does it.

`request` is how everybody asks for a roll of a release.

A roll takes machines group by group. Each group is drained, changed, asked whether it is well, put back to work, and
watched through the proxy; before each, gates are looked at. When something goes wrong the group at work goes back to
what it had, and by policy those that are done do so too, the last one first.

What was done is written down step by step (see `intents`), so the whole is a function of what is written: `walk` says
which step comes next, whoever asks, after whatever crash.

Releases go over a pool: `roll` over production, `deploy` over the canary. `states` takes any Salt state over roles,
those first that the others do not need.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime, timedelta, timezone
from typing import Any

import redis

from saltern import artifact, pillar
from saltern.errors import SalternError
from saltern.fleet import MACHINE_ID, ROLES, Fleet, role_of
from saltern.intents import INTENT, Intent, Queue
from saltern.members import link
from saltern.pillar import POOL_OF_ROLE
from saltern.registry import Registry, check_text
from saltern.scaling import number_of

Facts = Mapping[str, Any]

KIND_OF_POOL = {"prod": "roll", "canary": "deploy"}
STATES = "states"
KINDS = (*KIND_OF_POOL.values(), STATES)
SAFE_ORDER = ("redis", "ops", "staging", "prod", "proxy")
"""Roles, first to last: what is a copy before what it copies (redis: the primary last), where few look before where
all do, and the proxy, without which nobody sees anything, at the end."""
STATE = re.compile(r"[a-z][a-z0-9_]{0,40}(\.[a-z0-9_]{1,40}){0,5}\Z")
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MOST_ROUNDS = 5
"""How often it is looked whether new machines came meanwhile."""
RESTART_SLACK_S = 2.0
"""The proxy counts a server's health in whole seconds."""
LATE_S = 2.0
"""A server that answers checks too late is down for a moment, whatever it runs: one that is down for longer is sick."""
BAR = 20


# --- what the pillar and a person say


@dataclass(frozen=True)
class Settings:
    """What `pillar/rollout.sls` says; its comments say what each is."""

    batch: int | str
    max_unavailable: int | str
    order: str
    on_failure: str
    highstate: bool
    keep: int
    min_healthy_s: float
    steady_s: float
    drain_s: float
    apply_s: float
    serve_s: float
    deadline_s: float
    alerts: tuple[str, ...]
    roles: tuple[str, ...]
    wait_s: float
    errors_percent: float
    errors_min: int
    freeze: tuple[Mapping[str, Any], ...]
    rollback: Mapping[str, Any]
    version_path: str
    health_path: str
    force: bool = False
    gates: bool = True

    @classmethod
    def from_pillar(cls, values: Mapping[str, Any]) -> Settings:
        """The section `rollout` of a pillar its schema has checked."""
        gates = values["gates"]
        own = {
            f.name: values[f.name]
            for f in fields(cls)
            if f.name in values and f.name not in ("gates", "freeze")
        }
        return cls(
            **own, alerts=tuple(gates["alerts"]), roles=tuple(gates["roles"]), freeze=tuple(values["freeze"]),
            **{name: gates[name] for name in ("wait_s", "errors_percent", "errors_min")},
        )  # fmt: skip

    def with_options(self, options: Mapping[str, Any]) -> Settings:
        """The settings of one roll. Going back asks no gate and no freeze, and has times and batches of its own."""
        chosen = {name: value for name, value in options.items() if name != "rollback"}
        if not options.get("rollback"):
            return replace(self, **chosen)
        back = {**self.rollback, "highstate": False, "force": True, "gates": False, "on_failure": "stop"}
        return replace(self, **{**back, **chosen})


_AMOUNT = re.compile(r"([1-9][0-9]?|100)%\Z")
_ANSWERS = {"order": ("load", "id"), "on_failure": ("back", "stop")}
OPTIONS = (
    "batch", "max_unavailable", "min_healthy_s", "steady_s", "deadline_s", "highstate", "force", "gates", "rollback",
    *_ANSWERS,
)  # fmt: skip


def check_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of one roll that are given.

    :raises SalternError: one is unknown, or not right
    """
    for name, value in options.items():
        whole = isinstance(value, int) and not isinstance(value, bool)
        if name in ("batch", "max_unavailable"):
            good = (whole and 1 <= value <= 1000) or (isinstance(value, str) and bool(_AMOUNT.match(value)))
            right = "a number of machines from 1, or per cent such as 40%"
        elif name in ("min_healthy_s", "steady_s", "deadline_s"):
            good = (whole or isinstance(value, float)) and 0 <= value <= 86_400
            right = "seconds, 0 to 86400"
        elif name in ("highstate", "force", "gates", "rollback"):
            good, right = isinstance(value, bool), "True or False"
        elif name in _ANSWERS:
            good, right = value in _ANSWERS[name], " or ".join(_ANSWERS[name])
        else:
            good, right = False, f"no such option; there are {', '.join(sorted(OPTIONS))}"
        if not good:
            raise SalternError(f"rollout: {name}={value!r}: {right}")
    return dict(options)


def amount(value: int | str, of: int) -> int:
    """A number or per cent of so many machines; never less than one.

    >>> amount("40%", 5), amount("40%", 1), amount(2, 5)
    (2, 1, 2)
    """
    number = int(value[:-1]) * of // 100 if isinstance(value, str) else value
    return max(1, number)


def frozen(windows: Iterable[Mapping[str, Any]], at: float) -> str | None:
    """Why nothing new is rolled at this time (unix seconds), or None.

    A window with hours over midnight belongs to the day on which it began.
    """
    now = datetime.fromtimestamp(at, timezone.utc)
    for window in windows:
        day = now
        if hours := window.get("hours"):
            start, end = hours
            clock = f"{now:%H:%M}"
            if start <= end:
                inside = start <= clock < end
            else:
                inside = clock >= start or clock < end
                if clock < end:
                    day = now - timedelta(days=1)
            if not inside:
                continue
        if "days" in window and DAYS[day.weekday()] not in window["days"]:
            continue
        if "dates" in window and not window["dates"][0] <= f"{day:%Y-%m-%d}" <= window["dates"][1]:
            continue
        return str(window["reason"])
    return None


# --- the plan


@dataclass(frozen=True)
class Plan:
    """One roll, as it was decided at its beginning.

    :ivar target: the pool, or for a state the roles
    :ivar name: the release, or the state
    :ivar order: machines, first to last
    :ivar was: the release of each before; empty for a state
    :ivar previous: the release of the pool before
    :ivar skipped: machines that somebody took out of traffic, and what is wanted of them: they are left alone
    :ivar batch: machines of one group at the most
    :ivar began: unix seconds by Redis's clock; the other times are seconds
    """

    kind: str
    target: str
    name: str
    order: tuple[str, ...]
    was: Mapping[str, str] = field(default_factory=dict)
    previous: str = ""
    skipped: Mapping[str, str] = field(default_factory=dict)
    batch: int = 1
    max_unavailable: int = 1
    on_failure: str = "back"
    highstate: bool = True
    gates: bool = True
    force: bool = False
    rollback: bool = False
    min_healthy_s: float = 0.0
    steady_s: float = 0.0
    deadline_s: float = 900.0
    began: float = 0.0

    @property
    def releases(self) -> bool:
        """Whether it is a release that is rolled, and can go back."""
        return self.kind != STATES

    def to_data(self) -> dict[str, Any]:
        """As plain values, to be written down."""
        return asdict(self)

    @classmethod
    def from_data(cls, values: Mapping[str, Any]) -> Plan:
        """What was written down."""
        known = {f.name for f in fields(cls)}
        chosen = {name: value for name, value in values.items() if name in known}
        return cls(**{**chosen, "order": tuple(chosen["order"])})


def in_order(
    machines: Iterable[str], sessions: Mapping[str, int], out: Iterable[str], how: str
) -> tuple[str, ...]:
    """Machines of a pool in the order in which they go: what is out of traffic anyway costs nothing, so it is first.

    :param sessions: open requests of each
    :param how: load or id
    """
    away = set(out)

    def rank(id_: str) -> tuple[bool, int, int]:
        return id_ not in away, sessions.get(id_, 0) if how == "load" else 0, number_of(id_)

    return tuple(sorted(machines, key=rank))


def safe_order(
    machines: Iterable[str], primary: str, how: Mapping[str, int] | None = None
) -> tuple[str, ...]:
    """Machines of several roles in the order in which a state goes over them.

    :param primary: the Redis machine that is primary now: the last of its role
    :param how: open requests of each instance, if the least loaded goes first
    """

    def rank(id_: str) -> tuple[int, bool, int, int]:
        role = id_.rstrip("0123456789")
        return SAFE_ORDER.index(role), id_ == primary, (how or {}).get(id_, 0), number_of(id_)

    return tuple(sorted(machines, key=rank))


def check_roles(roles: object) -> tuple[str, ...]:
    """The roles that a person means: one, several with commas between, or all.

    :raises SalternError: one is none
    """
    names = SAFE_ORDER if roles in ("", "all", None) else tuple(str(roles).replace(",", " ").split())
    for name in names:
        if name not in ROLES:
            raise SalternError(f"rollout: role {name!r}: not one of {', '.join(SAFE_ORDER)}, or all")
    return tuple(dict.fromkeys(names))


def lane(roles: Iterable[str]) -> str:
    """The pool whose intents a state waits for: it must not take machines out beside a roll."""
    there = set(roles)
    for role in ("prod", "staging"):
        if role in there:
            return POOL_OF_ROLE[role]
    return "fleet" if len(there) > 1 else next(iter(there))


# --- gates


@dataclass(frozen=True)
class Sight:
    """What is seen before a group is taken.

    :ivar now: unix seconds
    :ivar alerts: what fires of the named ones, as a person reads it
    :ivar requests: to the pool since the roll began; :ivar errors: of those, answered with 5xx
    :ivar out: members of the pool that are out of traffic; None when nobody knows
    :ivar sick: machines that are done and did not stay well, and what is wrong with each
    """

    now: float
    alerts: tuple[str, ...] = ()
    requests: int = 0
    errors: int = 0
    out: frozenset[str] | None = frozenset()
    sick: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gate:
    """Whether a group may be taken: `take` says which, `wait` what is waited for, `stop` why it ends here."""

    take: tuple[str, ...] = ()
    wait: str = ""
    stop: str = ""


def gate(plan: Plan, settings: Settings, left: Sequence[str], sight: Sight) -> Gate:
    """Decide which machines go next, of those that are left (in order).

    A machine that is out of traffic already can be taken at any time: that makes nothing worse.
    """
    if sight.sick and not plan.rollback:
        return Gate(stop="; ".join(sight.sick))
    if sight.now > plan.began + plan.deadline_s:
        return Gate(stop=f"the deadline of {plan.deadline_s:g} s has passed")
    if not plan.force and (why := frozen(settings.freeze, sight.now)):
        return Gate(stop=f"nothing more is rolled now: {why}")
    if plan.gates:
        if why := too_many_errors(settings, sight):
            return Gate(stop=why)
        if sight.alerts:
            return Gate(wait=f"{', '.join(sight.alerts)} to be over")
    if sight.out is None:
        return Gate(wait="HAProxy's word on who serves")
    chosen: list[str] = []
    gone = set(sight.out)
    for id_ in left[: plan.batch]:
        role = id_.rstrip("0123456789")
        # Groups are of one role: what is no instance goes alone, one after the other.
        if chosen and (role not in POOL_OF_ROLE or role != chosen[0].rstrip("0123456789")):
            break
        if role in POOL_OF_ROLE and id_ not in gone:
            if len(gone) >= plan.max_unavailable:
                break
            gone.add(id_)
        chosen.append(id_)
    if not chosen:
        return Gate(wait=f"{', '.join(sorted(gone, key=_natural))} to be back in traffic")
    return Gate(take=tuple(chosen))


def holds(plan: Plan, settings: Settings, name: str, subject: str) -> bool:
    """Whether nothing is rolled while an alert fires: a named one, unless it is of a machine that does not matter here.

    Those that are rolled over matter whatever their role. A subject that is no machine is everybody's.
    """
    if name not in settings.alerts:
        return False
    return not MACHINE_ID.match(subject) or role_of(subject) in settings.roles or subject in plan.order


def too_many_errors(settings: Settings, sight: Sight) -> str:
    """Why what clients saw since the roll began is too bad; empty when it is not."""
    percent = 100 * sight.errors / sight.requests if sight.requests else 0.0
    if sight.errors > settings.errors_min and percent > settings.errors_percent:
        return (
            f"{sight.errors} of {sight.requests} requests were answered with 5xx, {percent:.1f} % above "
            f"{settings.errors_percent:g} %"
        )
    return ""


def sick(
    done: Mapping[str, float],
    wants: Mapping[str, str],
    servers: Mapping[str, Mapping[str, Any]],
    now: float,
    known: Container[str],
) -> tuple[str, ...]:
    """Machines that were well when they were done and are not now, or were not in between.

    :param done: when each was last seen to be well, unix seconds
    :param wants: what is wanted of each: one that somebody took out meanwhile is not sick
    :param servers: what HAProxy sees of each
    :param known: those whose product says when it started: that one died is found out by that, and that it was down for
        a moment proves nothing
    """
    found = []
    for id_, at in done.items():
        if wants.get(id_) != "ready" or id_ not in servers:
            continue
        server = servers[id_]
        since = server.get("since_s", now)
        if not server["up"]:
            if since >= LATE_S:
                found.append(f"{id_} was well and is down")
        elif id_ not in known and since < now - at - RESTART_SLACK_S:
            found.append(f"{id_} was well, went down and came back")
    return tuple(found)


def out(servers: Mapping[str, Mapping[str, Any]], ids: Iterable[str]) -> frozenset[str]:
    """Those of these machines that get no traffic now, whatever the reason."""
    return frozenset(id_ for id_ in ids if id_ not in servers or servers[id_]["phase"] != "ready")


def _natural(id_: str) -> tuple[str, int]:
    role = id_.rstrip("0123456789")
    return role, number_of(id_)


# --- the order of the steps

FORWARD = ("drain", "apply", "check", "ready", "watch")
FAILED = "failed"
"""The fact by which a step says that the roll must not go on."""


def step(subject: str, what: str, number: int = 0) -> str:
    """The name of a step: whom it is about, what is done, and which time."""
    return f"{subject}/{what}" + (f"#{number}" if number else "")


def parts(name: str) -> tuple[str, str]:
    """Whom a step is about, and what it does."""
    subject, _, what = name.rpartition("/")
    return subject, what.partition("#")[0]


def machines_of(name: str) -> tuple[str, ...]:
    """The machines that a step is about."""
    return tuple(parts(name)[0].split(","))


def walk(plan: Plan, facts: Facts) -> Iterator[str]:
    """The steps of a roll by name, in order, to the end.

    `facts` is what each step found out, and grows with every step: a step that is taken from here must be in it before
    the next is asked for. Those that are in it already are named again.
    """
    subject, target = plan.name, plan.target
    groups: list[tuple[str, ...]] = []
    wanted = [*plan.order]
    settled, looking, rounds = not plan.releases, plan.releases, 0
    yield (name := step(subject, "begin"))
    if plan.releases and not plan.rollback:
        # What is gone back to is on the disks; where it is not, applying the states puts it there.
        yield (name := step(target, "stage"))
    while FAILED not in facts[name]:
        if sum(map(len, groups)) < len(wanted):
            yield (name := step(target, "take", len(groups) + 1))
            if FAILED not in facts[name]:
                groups.append(tuple(facts[name]["machines"]))
                for what in FORWARD:
                    yield (name := step(",".join(groups[-1]), what, len(groups)))
                    if FAILED in facts[name]:
                        break
        elif not settled:
            yield (name := step(target, "steady"))
            if FAILED not in facts[name]:
                yield (name := step(target, "settle"))
                settled = True
        elif looking:
            # Machines that came meanwhile had the old release when they were made.
            rounds += 1
            yield (name := step(target, "more", rounds))
            wanted += facts[name].get("add", ())
            looking = bool(facts[name].get("add"))
        else:
            yield step(subject, "done")
            return
    yield step(subject, "fail")
    through = len(groups) - (1 if groups and not _watched(groups, facts) else 0)
    for number in range(len(groups), 0, -1):
        if number > through or goes_back(plan):
            yield step(",".join(groups[number - 1]), "back", number)
    if plan.releases:
        yield step(target, "unsettle")
    yield step(subject, "rolledback" if goes_back(plan) else "stopped")


def _watched(groups: Sequence[tuple[str, ...]], facts: Facts) -> bool:
    """Whether the last group came through its last step."""
    last = facts.get(step(",".join(groups[-1]), FORWARD[-1], len(groups)), {FAILED: "not reached"})
    return FAILED not in last


def goes_back(plan: Plan) -> bool:
    """Whether a failure takes all machines back."""
    return plan.releases and plan.on_failure == "back"


def next_step(plan: Plan, facts: Facts) -> str | None:
    """The first step that is not written down; None when all are."""
    return next(iter(itertools.filterfalse(facts.__contains__, _known(plan, facts))), None)


def _known(plan: Plan, facts: Facts) -> Iterator[str]:
    for name in walk(plan, facts):
        yield name
        if name not in facts:
            return


def failure(facts: Facts) -> str:
    """Why a roll stopped; empty when it did not."""
    return next((str(found[FAILED]) for found in facts.values() if FAILED in found), "")


def done_machines(plan: Plan, facts: Facts) -> dict[str, float]:
    """Machines that came through, and when each was last seen to be well (unix seconds)."""
    found: dict[str, float] = {}
    for name, known in facts.items():
        if "/" in name and parts(name)[1] == FORWARD[-1] and FAILED not in known:
            found |= dict.fromkeys(known["machines"], float(known["at"]))
    return found


# --- for a person


def told(plan: Plan, facts: Facts, state: str) -> dict[str, Any]:
    """Where a roll stands, for a person or a program."""
    went = _known(plan, facts)
    groups: dict[str, str] = {}
    now = ""
    for name in went:
        subject, what = parts(name)
        if what in (*FORWARD, "back"):
            for id_ in subject.split(","):
                known = facts.get(name)
                if known is None:
                    groups[id_] = DOING[what]
                elif FAILED in known:
                    groups[id_] = f"{what} failed"
                else:
                    groups[id_] = DID[what]
        if name not in facts:
            now = f"{subject}: {DOING.get(what, what)}"
    everybody = [*plan.order, *(id_ for id_ in groups if id_ not in plan.order)]
    ready = sum(groups.get(id_) == DID["watch"] for id_ in everybody)
    row: dict[str, Any] = {
        "kind": plan.kind, "target": plan.target, "name": plan.name, "state": state,
        "progress": bar(ready, len(everybody)),
        "machines": {id_: groups.get(id_, "waits") for id_ in everybody},
    }  # fmt: skip
    if plan.releases:
        row["was"] = plan.previous
    if plan.skipped:
        row["skipped"] = dict(plan.skipped)
    if now and state in ("queued", "running"):
        row["now"] = now
    if why := failure(facts):
        row["why"] = why
    return row


DOING = {
    "begin": "begins",
    "stage": "is put on disks",
    "take": "gates",
    "drain": "drains",
    "apply": "is changed",
    "check": "is asked whether it is well",
    "ready": "is put to work",
    "watch": "is watched",
    "steady": "all are watched",
    "settle": "the release is made the pool's",
    "more": "who came meanwhile",
    "done": "ends",
    "fail": "failed",
    "back": "goes back",
    "unsettle": "all is as before",
    "rolledback": "ends",
    "stopped": "ends",
}
DID = {
    "drain": "drained", "apply": "changed", "check": "well", "ready": "in traffic", "watch": "done", "back": "back",
}  # fmt: skip


def bar(done: int, of: int) -> str:
    """A progress bar in text.

    >>> bar(3, 5)
    '[############........] 3/5'
    """
    full = BAR * done // of if of else BAR
    return f"[{'#' * full}{'.' * (BAR - full)}] {done}/{of}"


def text(row: Mapping[str, Any]) -> str:
    """Where a roll stands, on one line."""
    what = f"{row['kind']} {row['target']} {row['name']}"
    now = f"  {row['now']}" if "now" in row else f"  {row['state']}"
    return f"{what}  {row['progress']}{now}" + (f"  ({row['why']})" if "why" in row else "")


# --- asking for one

ROLLS = "saltern:rollouts"
"""List of the ids of the last rolls, the newest first."""
ROLLS_LENGTH = 50
ABORT = "abort"
"""Field of an intent: who wants it to stop, and why."""
WHO = "rollout"
UNFINISHED = ("queued", "running")


def request(
    fleet: Fleet, target: str, release: str, *, by: str, cause: str = "", reason: str = "", **options: Any
) -> str:
    """Have a release rolled over a pool; the conductor does it. One that waits for its turn is replaced by this.

    :param target: prod, machine by machine; canary, the machines whose release the steps then judge
    :param by: who wants it; :param cause: journal id or event of what led to it; :param reason: a person's words
    :param options: of `OPTIONS`, over what pillar/rollout.sls says
    :returns: the intent's id
    :raises SalternError: no such pool or release, an option is not right, or nothing new is rolled at this time
    :raises RegistryError: a text is not one printable line
    """
    if target not in KIND_OF_POOL:
        raise SalternError(f"rollout: target {target!r}: not one of {', '.join(KIND_OF_POOL)}")
    known = artifact.known(fleet)
    if release not in known:
        newest = ", ".join([*known][-3:]) or "none"
        raise SalternError(f"rollout: release {release!r}: not kept; the newest are {newest}")
    check_now(fleet, options)
    args = {"release": release, "reason": check_text(reason, "reason"), "options": options}
    return _put(fleet, Intent(KIND_OF_POOL[target], target, args, cause=cause, by=by))


def request_state(
    fleet: Fleet, state: object, roles: object, *, by: str, cause: str = "", reason: str = "", **options: Any
) -> str:
    """Have a state applied to all machines of some roles, machine by machine in a safe order.

    :raises SalternError: no state's name, no role, an option is not right, or nothing is rolled at this time
    """
    if not isinstance(state, str) or not STATE.match(state):
        raise SalternError(f"rollout: state {state!r}: not the name of a state, such as common or proxy")
    names = check_roles(roles)
    check_now(fleet, options)
    args = {"state": state, "roles": names, "reason": check_text(reason, "reason"), "options": options}
    return _put(fleet, Intent(STATES, lane(names), args, f"{STATES}:{state}:{'+'.join(names)}", cause, by))


def check_now(fleet: Fleet, options: Mapping[str, Any]) -> Settings:
    """The settings of a roll that would begin now.

    :raises SalternError: an option is not right, or nothing new is rolled at this time
    """
    found = settings(fleet).with_options(check_options(options))
    if not found.force and (why := frozen(found.freeze, time.time())):
        raise SalternError(f"rollout: nothing new is rolled now: {why}; force=True does all the same")
    return found


def settings(fleet: Fleet) -> Settings:
    """What the fleet's pillar says."""
    return Settings.from_pillar(pillar.load(fleet.pillar_dir)["rollout"])


def _put(fleet: Fleet, intent: Intent) -> str:
    client = link(fleet)
    id_, _ = Queue(client, intent.by).put(intent)
    pipe = client.pipeline()
    pipe.lrem(ROLLS, 0, id_)
    pipe.lpush(ROLLS, id_)
    pipe.ltrim(ROLLS, 0, ROLLS_LENGTH - 1)
    pipe.execute()
    return id_


def rolls(client: redis.Redis) -> list[Intent]:
    """The last rolls, the newest first."""
    queue = Queue(client)
    return [intent for id_ in client.lrange(ROLLS, 0, -1) if (intent := queue.load(id_))]


def abort(
    client: redis.Redis, intents: Iterable[Intent], reason: str, *, by: str, cause: str = ""
) -> list[str]:
    """Have rolls stop where they are and go back, as after a failure; which of them will.

    :raises RegistryError: a text is not one printable line
    """
    words = check_text(f"{by} aborted it" + (f": {reason}" if reason else ""), "reason")
    told = []
    for intent in intents:
        if intent.state in UNFINISHED:
            client.hset(INTENT + intent.id, ABORT, words)
            fields = {"intent": intent.id, "reason": reason}
            Registry(client).note(
                f"{intent.kind}.abort", _subject(intent), fields, by=by, cause=cause or intent.journal
            )
            told.append(intent.id)
    return told


def _subject(intent: Intent) -> str:
    return str(intent.args.get("release") or intent.args.get("state"))


def shown(intent: Intent) -> dict[str, Any]:
    """One roll, for a person or a program."""
    if "plan" in intent.steps:
        row = told(Plan.from_data(intent.steps["plan"]), intent.steps, intent.state)
    else:
        row = {
            "kind": intent.kind, "target": intent.pool, "name": _subject(intent), "state": intent.state,
            "progress": bar(0, 1),
        }  # fmt: skip
    if intent.error:
        row["error"] = intent.error
    if intent.args.get("reason"):
        row["reason"] = intent.args["reason"]
    return {**row, "intent": intent.id, "by": intent.by, "cause": intent.cause}
