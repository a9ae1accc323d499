"""What an event would bring about, if it came now: read, rendered, decided, and nothing done.

Everything is read as Redis' user `observer`, who may change nothing: that nothing happens is not a promise of this
code, Redis itself would refuse. The decisions are those of the same pure functions that decide when it is serious.
"""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import redis

from saltern import (
    events,
    journal,
    members,
    pillar,
    reacting,
    reflexes,
    rehearsal_policy,
    samples,
    scale_runs,
    scaling,
    secrets,
    signing,
)
from saltern.alert_store import Alert, AlertStore
from saltern.conductor import FELT_TAG, SCALE, Felt, Settings, considered, scaling_memory, wanted_number
from saltern.counters import COUNTERS
from saltern.errors import SalternError
from saltern.events import Event, Rejected
from saltern.fleet import MACHINE_ID, Fleet, role_of
from saltern.intents import Intent, Queue
from saltern.observed import read_observed
from saltern.pillar import POOL_OF_ROLE
from saltern.provisioning import Machine, SaltCloud, size_of
from saltern.registry import FELT, Registry, RegistryError, State, check_port, check_release

TAG = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)+\Z")
FROM_MACHINE = re.compile(r"(?P<about>salt/beacon|saltern/[a-z]+)/(?P<machine>[a-z]+[0-9]{1,4})/[a-z/]+\Z")


@dataclass(frozen=True)
class Now:
    """Everything that is, as far as decisions need it."""

    at: float
    settings: Mapping[str, Any]
    state: State
    observed: Mapping[str, Any] | None
    felt: Mapping[str, Felt]
    machines: Mapping[str, Machine]
    addresses: Mapping[str, str]
    unfinished: tuple[Intent, ...]
    alerts: tuple[Alert, ...]
    memories: Mapping[str, scaling.Memory]
    sizes: Mapping[str, Mapping[str, Any]]


def read(fleet: Fleet, client: redis.Redis) -> Now:
    """Read all of it.

    :raises SalternError: the fleet's files cannot be read
    :raises RegistryError: the registry is not usable
    :raises redis.RedisError: Redis does not answer
    """
    machines = SaltCloud(fleet).machines()
    settings = pillar.load(fleet.pillar_dir)
    stored = {key: json.loads(text) for key, text in client.hgetall(FELT).items()}
    return Now(
        at=time.time(),
        settings=settings,
        state=Registry(client).snapshot(),
        observed=read_observed(client),
        felt={key: Felt(v["high"], v["percent"], v["since"], v["at"]) for key, v in stored.items()},
        machines=machines,
        addresses=fleet.addresses(),
        unfinished=tuple(Queue(client).unfinished()),
        alerts=tuple(AlertStore(client).all()),
        memories={
            pool: scaling_memory(json.loads(client.get(SCALE + pool) or "{}"))
            for pool in settings["scaling"]["pools"]
        },
        sizes={id_: size_of(client, machine) for id_, machine in machines.items()},
    )


def as_sent(secret: str, tag: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The event as the bus would carry it.

    What a machine says is signed; whoever rehearses gives the values alone, such as ``{"percent": 93, "high": 50}``,
    and they are signed here as the machine would. What carries a signature already is left as it is.

    :raises SalternError: the tag is none, or what is given cannot be sent
    """
    if not TAG.match(tag):
        raise SalternError(f"rehearse.event: tag {tag!r} is not words with a / between them")
    found = FROM_MACHINE.match(tag)
    if found is None or not MACHINE_ID.match(found["machine"]) or "signature" in given or "data" in given:
        return dict(given)
    machine = found["machine"]
    try:
        payload = signing.sign(secrets.event_key(secret, machine), machine, tag, dict(given))
    except ValueError as error:
        raise SalternError(f"rehearse.event: {error}") from error
    # A beacon's values are the event itself; whatever else a minion sends is wrapped once more.
    return {"id": machine, **payload} if found["about"] == "salt/beacon" else {"id": machine, "data": payload}


@dataclass(frozen=True)
class Finding:
    """What somebody would decide.

    :ivar changes: what would be otherwise afterwards, a sentence each; none is nothing
    """

    who: str
    decides: str
    why: str = ""
    changes: tuple[str, ...] = ()

    def to_data(self) -> dict[str, Any]:
        return {"who": self.who, "decides": self.decides, "why": self.why, "changes": list(self.changes)}


def calls(rendered: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What a rendered reaction calls: the function, and its arguments by name."""
    for id_, body in rendered.items():
        if str(id_).startswith("__") or not isinstance(body, Mapping):
            continue
        for function, parts in body.items():
            if str(function).startswith("__"):
                continue
            arguments: dict[str, Any] = {}
            # Salt's compiler takes `runner.alert.gone` apart: the module stays the key, the rest joins its list.
            named = [each for each in parts if isinstance(each, str)] if isinstance(parts, list) else []
            for part in parts if isinstance(parts, list) else []:
                for key, value in part.items() if isinstance(part, Mapping) else ():
                    if key in ("args", "kwarg"):
                        for each in value if isinstance(value, list) else [value]:
                            arguments.update(each)
                    else:
                        arguments[str(key)] = value
            yield ".".join([str(function), *named]), arguments


def decide(fleet_secret: str, tag: str, data: Mapping[str, Any], called: Mapping[str, Mapping[str, Any]], now: Now,
           counted: Callable[[str], int]) -> list[Finding]:  # fmt: skip
    """What everybody who hears this event would decide.

    :param called: what reactors would call: function → arguments
    :param counted: the highest counter that was let through, of a kind of event
    """
    found: list[Finding] = []
    for function, arguments in called.items():
        work = _CALLED.get(function)
        if work is None:
            words = f"{function} is called; what it decides is its own business"
            found.append(Finding(function, words, changes=(_local(function, arguments),)))
            continue
        found += _authentic(fleet_secret, function, arguments, now, counted, work)
    if reacting.TAG.match(tag):
        found += _authentic(
            fleet_secret, "engine reflex", {"tag": tag, "minion_id": data.get("id"), "payload": data}, now, counted,
            _felt_by_reflex,
        )  # fmt: skip
    if FELT_TAG.match(tag):
        found += _authentic(
            fleet_secret, "engine conductor", {"tag": tag, "minion_id": data.get("id"), "payload": data}, now, counted,
            _felt_by_conductor,
        )  # fmt: skip
    if samples.TAG.match(tag):
        found.append(
            Finding("engine conductor", "the samples are kept", changes=("saltern:samples: one batch more",))
        )
    return found or [Finding("nobody", "nothing", "no reactor matches and no engine hears this tag")]


_Work = Callable[[Any, "Now", str], list[Finding]]


def _authentic(
    secret: str, who: str, arguments: Mapping[str, Any], now: Now, counted: Callable[[str], int], work: _Work
) -> list[Finding]:
    """Ask `work`, with the proven event where there is one."""
    if "payload" not in arguments:
        return work(arguments, now, who)
    tag = str(arguments.get("tag"))
    try:
        event = events.authenticate(
            secret, tag, arguments.get("minion_id"), arguments["payload"], time.time_ns()
        )
        # What one event is let through to is counted by itself, canary off and alerts each.
        for use in ("", reflexes.OFF, reflexes.ALERT):
            if (seen := counted(events.kind_of(event, use))) >= event.counter:
                raise Rejected(
                    f"event {tag!r} from {event.machine}: counter {event.counter} was used before ({seen})"
                )
        return work(event, now, who)
    except Rejected as rejected:
        return [
            Finding(
                who, "rejects the event", str(rejected),
                ("saltern:journal: a line event.rejected", "an alert about rejected events"),
            )
        ]  # fmt: skip
    except (SalternError, RegistryError) as error:
        return [Finding(who, "refuses", str(error))]


def _local(function: str, arguments: Mapping[str, Any]) -> str:
    target = arguments.get("tgt")
    whom = f" on {', '.join(map(str, target)) if isinstance(target, list) else target}" if target else ""
    return f"{function.partition('.')[2]} runs{whom}"


# --- reflexes


def _canary_off(event: Event, now: Now, who: str) -> list[Finding]:
    pressure = reflexes.understand(event)
    reason = reflexes.canary_reason(pressure, now.settings["alerts"]["canary_off"])
    if not reason:
        rules = now.settings["alerts"]["canary_off"]
        return [Finding(who, "the canary stays as it is", f"alerts.canary_off has {rules} as reasons")]
    if latch := now.state.latches.get("canary"):
        return [Finding(who, "the canary stays off", f"it is off already: {latch.reason}")]
    share = now.state.split.share
    return [
        Finding(
            who, "the canary goes off", reason,
            (
                f"saltern:latch:canary: off, {reason}",
                f"traffic: the canary's share in effect goes from {share} % to 0 %",
                "saltern:journal: a line canary.off",
            ),
        )
    ]  # fmt: skip


def _feel(event: Event, now: Now, who: str) -> list[Finding]:
    pressure = reflexes.understand(event)
    alert = reflexes.alert_of(pressure)
    fires = any(
        each.firing and each.name == alert.name and each.subject == alert.subject for each in now.alerts
    )
    what = f"alert {alert.name} of {alert.subject}"
    if pressure.edge == "ok":
        if not fires:
            return [Finding(who, "no alert changes", f"{what} does not fire")]
        return [Finding(who, f"{what} ends", "", (f"{what} is over, and mailed",))]
    if fires:
        return [Finding(who, f"{what} goes on", "it fires already")]
    return [
        Finding(who, f"{what} begins", f"{alert.summary}: {alert.value}", (f"{what} fires, and is mailed",))
    ]


def _felt_by_reflex(event: Event, now: Now, who: str) -> list[Finding]:
    found = _feel(event, now, who)
    pressure = reflexes.understand(event)
    if pressure.edge == "high" and pressure.role in reacting.CANARY_ROLES:
        found = [*_canary_off(event, now, who), *found]
    return found


# --- the conductor


def _felt_by_conductor(event: Event, now: Now, who: str) -> list[Finding]:
    head = FELT_TAG.match(event.tag)
    assert head is not None, "whoever asks has looked"
    key, high = f"{head[1]}/{head[2]}", head[3] == "high"
    percent = event.values.get("percent")
    if isinstance(percent, bool) or not isinstance(percent, int | float):
        raise Rejected(f"event {event.tag!r}: percent {percent!r} is not a number from 0")
    before = now.felt.get(key)
    since = before.since if before and before.high == high else now.at
    felt = {**now.felt, key: Felt(high, float(percent), since, now.at)}
    settings = Settings.from_pillar(now.settings["scaling"])
    found = []
    for pool, policy in settings.pools.items():
        _, current, decision = considered(
            pool, policy, settings.stale_s, now.machines, now.state, now.observed, felt, list(now.unfinished),
            now.memories.get(pool, scaling.Memory()), now.at,
        )  # fmt: skip
        why = "; ".join(decision.why)
        if decision.desired == current:
            found.append(Finding(who, f"pool {pool} keeps {current} machines", why))
            continue
        found.append(
            Finding(
                who, f"pool {pool} shall have {decision.desired} machines, not {current}", why,
                (f"saltern:queue: an intent scale {pool} to={decision.desired}",),
            )
        )  # fmt: skip
    if head[2] == "memory":
        found += _resize(event.machine, felt[key], settings, now, who)
    return found


def _resize(machine: str, feels: Felt, settings: Settings, now: Now, who: str) -> list[Finding]:
    about = now.machines.get(machine)
    if settings.vertical is None or about is None or role_of(machine) not in settings.vertical_roles:
        return []
    if any(i.kind == "resize" and i.args.get("machine") == machine for i in now.unfinished):
        return [Finding(who, f"{machine} keeps its memory for now", "it is being resized already")]
    kept = now.sizes[machine]
    wish = scaling.resize(
        settings.vertical, scaling.Size(about.memory, kept["base"], kept["changed"]),
        high=feels.high, percent=feels.percent, since=feels.since, now=now.at,
    )  # fmt: skip
    if wish is None:
        return [
            Finding(
                who,
                f"{machine} keeps its {about.memory} MiB",
                f"the policy asks for nothing at {feels.percent:g} %",
            )
        ]
    if wish.to is None:
        return [
            Finding(
                who, f"{machine} keeps its {about.memory} MiB", wish.why, ("alert MemoryAtMaximum fires",)
            )
        ]
    changes = (f"saltern:queue: an intent resize {machine} to={wish.to} MiB",)
    return [Finding(who, f"{machine} shall have {wish.to} MiB, not {about.memory}", wish.why, changes)]


# --- other reactions


def _register(event: Event, now: Now, who: str) -> list[Finding]:
    if set(event.values) != members.FIELDS or role_of(event.machine) not in POOL_OF_ROLE:
        raise Rejected(
            f"event {event.tag!r}: it is no instance, or says something else than {members.FIELDS}"
        )
    pool, address = POOL_OF_ROLE[role_of(event.machine)], now.addresses.get(event.machine)
    if address is None:
        raise Rejected(f"event {event.tag!r}: the fleet has no machine {event.machine}")
    new = (pool, address, check_port(event.values["port"]), check_release(event.values["release"]))
    old = now.state.instances.get(event.machine)
    if old and (old.pool, old.addr, old.port, old.release) == new:
        return [Finding(who, "nothing changes", f"{event.machine} is registered so already")]
    was = f"release {old.release}" if old else "not registered"
    changes = [f"saltern:instance:{event.machine}: {pool}, {new[1]}:{new[2]}, release {new[3]} (was {was})"]
    latch = now.state.latches.get("canary")
    if latch and pool == "canary":
        others = {i.release for i in now.state.instances.values() if i.pool == pool and i.id != event.machine}
        if not {*others, new[3]} & {*latch.releases}:
            changes.append(f"the canary is turned on: release {new[3]} is new since it was turned off")
    return [Finding(who, f"{event.machine} is registered", "the machine signed it", tuple(changes))]


def _unregister(arguments: Mapping[str, Any], now: Now, who: str) -> list[Finding]:
    id_ = str(arguments.get("minion_id"))
    if id_ in now.machines:
        return [Finding(who, "refuses", f"{id_} is still there")]
    if id_ not in now.state.instances:
        return [Finding(who, "nothing changes", f"{id_} is not registered")]
    return [
        Finding(who, f"{id_} is struck off", "its machine is no more", (f"saltern:instance:{id_}: gone",))
    ]


def _gone(arguments: Mapping[str, Any], now: Now, who: str) -> list[Finding]:
    id_ = str(arguments.get("minion_id"))
    if id_ in now.machines:
        return [Finding(who, "refuses", f"{id_} is still there")]
    firing = [each.name for each in now.alerts if each.firing and each.subject == id_]
    if not firing:
        return [Finding(who, "no alert changes", f"none of {id_} fires")]
    return [
        Finding(
            who, "alerts end", f"{id_} is no more", tuple(f"alert {name} of {id_} is over" for name in firing)
        )
    ]


def _request(event: Event, now: Now, who: str) -> list[Finding]:
    what, role = event.tag.rsplit("/", 1)[-1], role_of(event.machine)
    if event.tag != f"saltern/scale/{event.machine}/{what}" or what not in scale_runs.REQUESTS:
        raise Rejected(f"event {event.tag!r}: it asks for none of {', '.join(scale_runs.REQUESTS)}")
    if what == "up":
        about, most = now.machines.get(event.machine), now.settings["scaling"]["memory"]["max_mib"]
        if about is None or about.memory * 2 > most:
            now_mib = about.memory if about else 0
            raise SalternError(f"{event.machine}: {now_mib * 2} MiB is not between 128 and {most}")
        to = about.memory * 2
        return [
            Finding(
                who, f"{event.machine} shall have {to} MiB", f"it asks for more than {about.memory}",
                (f"saltern:queue: an intent resize {event.machine} to={to} MiB",),
            )
        ]  # fmt: skip
    if role not in POOL_OF_ROLE and role != "proxy":
        raise Rejected(f"event {event.tag!r} from {event.machine}: it belongs to no pool")
    pool = POOL_OF_ROLE.get(role, "prod")
    there = scale_runs.members(pool, now.machines, now.state, None)
    current = wanted_number(pool, len(there), list(now.unfinished))
    bounds = now.settings["scaling"]["pools"].get(pool, {"min": 1, "max": 100})
    to = scale_runs.bounded(pool, current, 1 if what == "out" else -1, bounds)
    return [
        Finding(
            who, f"pool {pool} shall have {to} machines, not {current}",
            f"{event.machine} asks for it, and it is within {bounds['min']} to {bounds['max']}",
            (f"saltern:queue: an intent scale {pool} to={to}",),
        )
    ]  # fmt: skip


def _lost(arguments: Mapping[str, Any], now: Now, who: str) -> list[Finding]:
    said = [each for each in arguments.get("gone") or [] if each in now.machines]
    if not said:
        return [Finding(who, "nothing", "none of the machines it names is the fleet's")]
    names = ", ".join(sorted(said))
    return [
        Finding(
            who, f"{names} is asked whether it answers", "what an event says is not believed",
            ("saltern:queue: an intent absent; a person is told of those that do not answer",),
        )
    ]  # fmt: skip


_CALLED: Mapping[str, _Work] = {
    "runner.reflex.canary_off": _canary_off,
    "runner.alert.feel": _feel,
    "runner.alert.gone": _gone,
    "runner.registry.register": _register,
    "runner.registry.unregister": _unregister,
    "runner.scale.request": _request,
    "runner.scale.lost": _lost,
}


def rehearse(
    fleet: Fleet,
    tag: str,
    given: object,
    react: Callable[[str, Mapping[str, Any]], list[dict[str, Any]]],
) -> dict[str, Any]:
    """Everything that would come of an event, were it to come now.

    :param given: its values, or the whole event
    :param react: what the master's reactor would do: for each match its pattern, its file, and what that renders to
    :raises SalternError: it is no event, or the fleet's files cannot be read
    :raises redis.RedisError: Redis does not answer
    """
    if not isinstance(given, Mapping):
        raise SalternError(
            f'rehearse.event: data {given!r} is not a table, such as \'{{"percent": 93, "high": 50}}\''
        )
    secret = secrets.load(fleet)["events"]
    data = as_sent(secret, str(tag), given)
    reactions, called = [], {}
    for reaction in react(tag, data):
        functions = dict(calls(reaction["renders"]))
        called.update(functions)
        reactions.append({**reaction, "calls": sorted(functions)})
    client = members.link(fleet, "observer")
    now = read(fleet, client)
    findings = decide(secret, tag, data, called, now, lambda kind: int(client.hget(COUNTERS, kind) or 0))
    return {
        "tag": tag,
        "reactors": reactions,
        "decisions": [finding.to_data() for finding in findings],
        "changes": list(dict.fromkeys(change for finding in findings for change in finding.changes)),
        "happened": "nothing: this was a rehearsal",
    }


def policy(fleet: Fleet, metric: object, high: object, role: object, lines: object) -> dict[str, Any]:
    """What another mark would have made of the last lines of the journal: see `rehearsal_policy`.

    :raises SalternError: a value is not right
    :raises redis.RedisError: Redis does not answer
    """
    if isinstance(lines, bool) or not isinstance(lines, int) or not 1 <= lines <= journal.FURTHEST_BACK:
        raise SalternError(
            f"rehearse.policy: lines {lines!r} is not a whole number from 1 to {journal.FURTHEST_BACK}"
        )
    newest = itertools.islice(journal.newest(members.link(fleet, "observer")), lines)
    return rehearsal_policy.rehearse(list(newest)[::-1], metric, high, role)
