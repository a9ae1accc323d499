"""Reflexes: what the fleet does at once when a machine says that it is under pressure.

What to do is decided by pure functions; the functions below them, which Salt's runners call, check the event, carry
the decision out and answer what they did. Turning the canary off is the safe direction: it needs one proven event,
no rate limit, and no Redis.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import redis

from saltern import alertmanager, canary_runs, events, members, pillar, rejections, secrets
from saltern.alert_store import Alert, AlertStore
from saltern.errors import SalternError
from saltern.events import Event, Rejected, Repeated
from saltern.fleet import MACHINE_ID, Fleet, role_of
from saltern.registry import Counted, Registry
from saltern.rejections import printable, reported

RESOURCES = {"cpu": "CPU", "memory": "Memory"}
EDGES = ("high", "ok", "blind")
OFF, ALERT = "canary_off", "alert"
"""What an event is let through to: it counts once for each."""
HEARD = "heard.json"
"""In the fleet's folder: the events that counted while Redis was away."""
NAME_LENGTH = 60
BY = "reflex"
CANARY_ON = "salt-run canary.on"


@dataclass(frozen=True)
class Pressure:
    """What a machine says about one of its resources.

    :ivar resource: cpu or memory; :ivar edge: high, ok or blind
    :ivar percent: of the machine's own limit; :ivar high: from where on it is too much
    :ivar services: per cent of the processor, or MiB, by systemd service
    """

    machine: str
    resource: str
    edge: str
    percent: float = 0.0
    high: float = 0.0
    services: tuple[tuple[str, float], ...] = ()
    detail: str = ""
    problem: str = ""

    @property
    def role(self) -> str:
        return role_of(self.machine)

    @property
    def alert(self) -> str:
        """The name of the alert that this edge begins or ends."""
        return self.resource.capitalize() + ("Blind" if self.edge == "blind" else "High")


def understand(event: Event) -> Pressure:
    """A proven event's meaning.

    :raises Rejected: it has none; what a machine signs may still be nonsense
    """
    head, _, rest = event.tag.partition(f"/{event.machine}/")
    resource, _, edge = rest.partition("/")
    if head != "salt/beacon" or resource not in RESOURCES or edge not in EDGES:
        raise Rejected(f"event {event.tag!r} from {event.machine}: not about cpu or memory")
    values = event.values
    if edge == "blind":
        return Pressure(event.machine, resource, edge, problem=printable(values.get("problem"), 200))
    numbers = {name: values.get(name) for name in ("percent", "high")}
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
            raise Rejected(f"event {event.tag!r} from {event.machine}: {name} is not between 0 and 100")
    services = values.get("services", {})
    if not isinstance(services, Mapping) or len(services) > 16:
        raise Rejected(f"event {event.tag!r} from {event.machine}: services is not a short table")
    return Pressure(
        event.machine,
        resource,
        edge,
        percent=float(numbers["percent"]),
        high=float(numbers["high"]),
        services=tuple((printable(k, NAME_LENGTH), _number(v)) for k, v in services.items()),
        detail=_of(values),
    )


def _of(values: Mapping[str, Any]) -> str:
    if "limit_mib" in values:
        return f"{_number(values.get('used_mib')):.0f} of {_number(values['limit_mib']):.0f} MiB"
    if "cpus" not in values:
        return ""
    cpus = _number(values["cpus"])
    waiting = _number(values.get("waiting"))
    lacking = f", {waiting:g} % of it waited for" if waiting >= 1 else ""
    return f"of {cpus:g} processor{'' if cpus == 1 else 's'}{lacking}"


def _number(value: object) -> float:
    """A number for a person to read; what is none reads as 0, because nothing is decided by it."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12
    return float(value) if good else 0.0


def canary_reason(pressure: Pressure, rules: Mapping[str, Any]) -> str:
    """Why this turns the canary off, on one line; empty when it does not.

    :param rules: the pillar's ``alerts:canary_off``: role → resources
    """
    if pressure.edge != "high" or pressure.resource not in rules.get(pressure.role, ()):
        return ""
    return f"{pressure.machine} {pressure.resource} {pressure.percent:g} % (limit {pressure.high:g} %)"


def alert_of(pressure: Pressure) -> Alert:
    """The alert for an operator that begins, goes on or ends with this."""
    what = RESOURCES[pressure.resource]
    where = f"{what} of {pressure.machine}"
    if pressure.edge == "blind":
        return Alert(
            pressure.alert, pressure.machine, "blind", "warning",
            f"{where} cannot be read: {pressure.problem}"[:300],
        )  # fmt: skip
    unit = "%" if pressure.resource == "cpu" else "MiB"
    services = ", ".join(f"{name} {value:g} {unit}" for name, value in pressure.services)
    return Alert(
        pressure.alert,
        pressure.machine,
        # One cause for a pool: what overloads one of its machines mostly overloads the others.
        f"pressure on {pressure.role}",
        "critical" if pressure.role == "proxy" else "warning",
        f"{where} is high",
        value=f"{pressure.percent:g} % {pressure.detail}".rstrip(),
        limit=f"{pressure.high:g} %",
        details=f"most by {services}" if services else "",
    )


# --- acting


@dataclass(frozen=True)
class Means:
    """What reflexes act with, made once in each process: a reflex has no time to make it."""

    fleet: Fleet
    client: redis.Redis
    registry: Registry
    alerts: AlertStore
    secret: str

    @property
    def settings(self) -> dict[str, Any]:
        """The pillar's section `alerts`, as it is now."""
        return pillar.load(self.fleet.pillar_dir)["alerts"]


_MEANS: dict[Fleet, Means] = {}


def means(fleet: Fleet) -> Means:
    """The fleet's means, kept until `let_go`.

    :raises SalternError: the fleet's files are not readable
    """
    if fleet not in _MEANS:
        client = members.link(fleet)
        _MEANS[fleet] = Means(
            fleet, client, Registry(client), AlertStore(client), secrets.load(fleet)["events"]
        )
    return _MEANS[fleet]


def let_go(fleet: Fleet) -> None:
    """Make the means anew the next time: Redis may be elsewhere by then."""
    _MEANS.pop(fleet, None)


def canary_off(fleet: Fleet, tag: str, minion_id: object, payload: object) -> dict[str, Any]:
    """Turn the canary off if this event is reason enough.

    Without Redis the proxies are told directly; then an event's age stands in for its counter.

    :raises Rejected: the event proves nothing
    :raises SalternError: it is reason enough, and neither Redis nor a proxy could be told
    """
    has = means(fleet)
    settings = has.settings
    try:
        with reported(has.client, tag, minion_id, settings["rejected_s"]):
            event = events.authenticate(has.secret, tag, minion_id, payload, time.time_ns())
            pressure = understand(event)
            reason = canary_reason(pressure, settings["canary_off"])
            if not reason:
                return {
                    "canary": "as it was",
                    "why": f"{pressure.machine} {pressure.resource} is no reason",
                }
            return turn_off(has, event, pressure, reason)
    except Repeated as repeated:
        return {"canary": "as it was", "why": str(repeated)}


def turn_off(has: Means, event: Event, pressure: Pressure, reason: str) -> dict[str, Any]:
    """Turn the canary off for a proven event, once.

    :raises Rejected: the event counted before
    :raises SalternError: neither Redis nor a proxy could be told
    """
    try:
        kind = events.kind_of(event, OFF)
        change = has.registry.canary_off(reason, cause=event.cause, by=BY, once=(kind, event.counter))
    except Counted as found:
        several = bool(has.fleet.peers)
        raise events.counted(event, str(found) == "again", time.time_ns(), several) from found
    except redis.RedisError as error:
        let_go(has.fleet)
        events.once_here(has.fleet.state_dir / HEARD, event, OFF)
        proxies = canary_runs.off_by_proxies(has.fleet, reason, f"redis: {error}", cause=event.cause, by=BY)
        return {"canary": "off", "reason": reason, **proxies}
    if change.changed:
        has.alerts.did(pressure.alert, pressure.machine, done_words(reason), CANARY_ON)
    return {"canary": "off", "changed": change.changed, "reason": reason, "journal": change.journal}


def done_words(reason: str) -> str:
    """What an operator reads of it."""
    return f"turned the canary off: all requests go to production ({reason})"


def feel(fleet: Fleet, tag: str, minion_id: object, payload: object) -> dict[str, Any]:
    """Begin, continue or end the alert that a machine's pressure is.

    Without Redis Alertmanager is told directly; machines under pressure repeat themselves, so it goes on being told.

    :raises Rejected: the event proves nothing
    :raises SalternError: neither Redis nor Alertmanager could be told
    """
    has = means(fleet)
    options = has.settings
    try:
        with reported(has.client, tag, minion_id, options["rejected_s"]):
            event = events.authenticate(has.secret, tag, minion_id, payload, time.time_ns())
            pressure = understand(event)
            try:
                events.within(has.client, event, rate(options))
                events.once(has.client, event, ALERT, several=bool(fleet.peers))
                return tell(has, event, pressure, options["keep_s"])
            except redis.RedisError as error:
                let_go(fleet)
                if time.time_ns() - event.counter > events.FRESH_NS:
                    raise Rejected(f"event {tag!r} from {minion_id}: older than a minute") from error
                url = tell_alertmanager(fleet, [(pressure, "")])
                return {
                    "alert": pressure.alert,
                    "subject": pressure.machine,
                    "redis": str(error),
                    "told": url,
                }
    except Repeated as repeated:
        return {"alert": "as it was", "why": str(repeated)}


def rate(options: Mapping[str, Any]) -> events.Rate:
    """How much a machine may say, of the pillar's section `alerts`."""
    return events.Rate(options["rate"]["burst"], options["rate"]["per_minute"])


def tell(has: Means, event: Event, pressure: Pressure, keep_s: int) -> dict[str, Any]:
    """Write an alert's beginning, going on or end into Redis.

    :param keep_s: seconds it is remembered after its end
    :raises redis.RedisError: Redis does not answer
    """
    alert, store = alert_of(pressure), has.alerts
    answer: dict[str, Any] = {"alert": alert.name, "subject": alert.subject}
    if pressure.edge != "ok":
        answer["begins"] = store.fire(alert, counter=event.counter, cause=event.cause)
    else:
        answer["ends"] = store.end(
            alert.name, alert.subject, counter=event.counter, cause=event.cause, keep_s=keep_s
        )
    if pressure.edge != "blind":
        # Whoever tells figures can read them.
        blind = pressure.resource.capitalize() + "Blind"
        store.end(blind, pressure.machine, counter=event.counter, cause=event.cause, keep_s=keep_s)
    return answer


def tell_alertmanager(fleet: Fleet, said: Sequence[tuple[Pressure, str]]) -> str:
    """Tell Alertmanager itself, for want of Redis; where it is.

    :param said: what machines feel, each with what the fleet did about it
    :raises SalternError: it does not answer, or there is none
    """
    settings, now = pillar.load(fleet.pillar_dir), time.time()
    posts = []
    for pressure, done in said:
        over = pressure.edge == "ok"
        held = replace(
            alert_of(pressure), since=now, firing=not over, ended=now if over else 0.0, done=done,
            undo=CANARY_ON if done else "",
        )  # fmt: skip
        # Believed until two repetitions have failed to come.
        refreshes = (each["refresh"] for each in settings["beacons"][pressure.resource] if "refresh" in each)
        posts.append(alertmanager.posted(held, fleet.name, now, 2.5 * next(refreshes, 30)))
    link = alertmanager.of_fleet(fleet, settings)
    link.post(posts)
    return link.url


def gone(fleet: Fleet, minion_id: object) -> dict[str, Any]:
    """End the alerts of a machine that really is no more: nobody else will.

    :raises Rejected: it is no machine's id, or the machine is still there
    """
    if not isinstance(minion_id, str) or not MACHINE_ID.match(minion_id):
        raise Rejected(f"{minion_id!r} is not a machine's id")
    if minion_id in fleet.inventory():
        raise Rejected(f"{minion_id} is still there; `salt-cloud -d {minion_id}` ends it first")
    keep_s = pillar.load(fleet.pillar_dir)["alerts"]["keep_s"]
    store = AlertStore(members.link(fleet))
    ended = [
        alert.name
        for alert in store.all()
        if alert.firing and alert.subject == minion_id and alert.name != rejections.NAME
        and store.end(alert.name, minion_id, cause=f"salt/cloud/{minion_id}/destroyed", keep_s=keep_s)
    ]  # fmt: skip
    return {"machine": minion_id, "ended": ended}


def listed(fleet: Fleet) -> dict[str, Any]:
    """What fires, and what was over a while ago, from Redis; from Alertmanager when Redis does not answer.

    :raises SalternError: neither answers
    """
    now = time.time()
    try:
        alerts = [alert.at(now) for alert in AlertStore(members.link(fleet)).all()]
    except redis.RedisError as error:
        link = alertmanager.of_fleet(fleet, pillar.load(fleet.pillar_dir))
        return {"redis": str(error), "firing": link.alerts()}
    rows = [
        {
            "alert": alert.name, "subject": alert.subject, "summary": alert.summary, "value": alert.value,
            "limit": alert.limit, "since": _stamp(alert.since), "heard": _stamp(alert.heard), "count": alert.count,
            "done": alert.done, "undo": alert.undo, "journal": alert.journal,
            **({} if alert.firing else {"ended": _stamp(alert.ended)}),
        }
        for alert in alerts
    ]  # fmt: skip
    return {
        "firing": [row for row in rows if "ended" not in row],
        "resolved": [row for row in rows if "ended" in row],
    }


def _stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(seconds))


def silence(fleet: Fleet, name: str, subject: str, hours: object, *, by: str, comment: str) -> dict[str, Any]:
    """Have Alertmanager mail nothing about an alert for a while. The alert itself goes on, and reflexes too.

    :param name: of the alert, such as CpuHigh; * is every alert
    :param subject: the machine; * is every machine
    :raises SalternError: a value is not right, or Alertmanager does not answer
    """
    for what, value in (("alert", name), ("machine", subject)):
        if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= 64:
            raise SalternError(f"alert.silence: {what} {value!r} is not a name of 1 to 64 characters, or *")
    if name == subject == "*":
        raise SalternError("alert.silence: everything at once is too much; name an alert or a machine")
    good = isinstance(hours, int | float) and not isinstance(hours, bool) and 0 < hours <= 24 * 366
    if not good:
        raise SalternError(f"alert.silence: hours {hours!r} is not a number above 0, such as 2")
    link = alertmanager.of_fleet(fleet, pillar.load(fleet.pillar_dir))
    found = link.silence({"alertname": name, "machine": subject}, time.time(), hours * 3600, by, comment)
    return {"silence": found, "undo": f"salt-run alert.unsilence {found}"}


def unsilence(fleet: Fleet, silence_id: str) -> dict[str, Any]:
    """End a silence.

    :raises SalternError: there is none by this id, or Alertmanager does not answer
    """
    alertmanager.of_fleet(fleet, pillar.load(fleet.pillar_dir)).unsilence(str(silence_id))
    return {"silence": str(silence_id), "ended": True}
