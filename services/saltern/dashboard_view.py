"""What the dashboard shows: what was read becomes one JSON document, and a document's change becomes a patch.

Everything here is pure. The document holds no null, so that a patch can be a JSON Merge Patch (RFC 7396): what changed,
with null for what is gone. It holds times, not ages: a page that shows an age counts by itself, and nothing has to be
sent for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from saltern import journal, overview, steps
from saltern.alert_store import Alert
from saltern.fleet import MACHINE_ID, role_of
from saltern.intents import Intent
from saltern.judge import Verdict, Window
from saltern.registry import Instance, State
from saltern.windows import Second

GOOD, WARN, BAD = "good", "warn", "bad"
"""How a machine is: as it should be; something is going on; it does not do its work."""
TEXT_LENGTH = 300
LINES_SHOWN = 120
SECONDS_SHOWN = 60
RATE_S = 10
"""Requests a second are counted over so many seconds."""
SILENT_S = 150.0
"""A machine that nobody else sees says how it is once a minute: after two and a half it is missed."""
ENDED_S = 600.0
"""How long an intent that is done stays in sight."""
POOL_OF_ROLE = {"prod": "prod", "staging": "canary"}
_PHASES = {
    "draining": "finishing its open requests",
    "idle": "drained",
    "maint": "in maintenance",
    "leaving": "leaving",
    "kept": "kept, though it should go",
    "unplaced": "without a place at the proxy",
}


@dataclass(frozen=True)
class Usage:
    """What the product used on a machine, as its last sample says; per cent of the machine's limits."""

    at: float
    cpu: float
    memory: float


@dataclass(frozen=True)
class World:
    """Everything that was read, at one time.

    :ivar at: unix seconds by Redis's clock
    :ivar version: of the page's files; a page of another one loads itself anew
    :ivar hosts: machines of the fleet that serve no product, with their addresses
    :ivar itself: the machine that this runs on
    :ivar seen: what HAProxy sees, as the controller published it within its last seconds; None when nobody said
    :ivar felt: ``<machine>/<metric>`` → high, percent, since, at
    :ivar links: Redis machine → ``primary``, or ``replica`` and how far it is behind
    :ivar seconds: the controller's last seconds, oldest first
    :ivar shares: of the canary's steps, per cent
    :ivar judged: the verdict on the last seconds and the two windows it rests on
    :ivar intents: at work, waiting, or ended lately
    :ivar builds: by id, as `dashboard_builds.shown` has them
    :ivar flags: by key: state, defaultVariant, variants, targeted
    :ivar lines: of the journal, oldest first
    :ivar problems: what could not be read, and why
    """

    at: float
    fleet: str = ""
    version: str = ""
    hosts: Mapping[str, str] = field(default_factory=dict)
    itself: str = ""
    state: State | None = None
    seen: Mapping[str, Any] | None = None
    felt: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    usage: Mapping[str, Usage] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    seconds: Sequence[Second] = ()
    steps: steps.State = field(default_factory=steps.State)
    shares: Sequence[int] = ()
    judged: tuple[Verdict, Window, Window] | None = None
    intents: Sequence[Intent] = ()
    alerts: Sequence[Alert] = ()
    silences: Sequence[Mapping[str, Any]] = ()
    builds: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    flags: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    lines: Sequence[journal.Line] = ()
    problems: Sequence[str] = ()


def document(world: World) -> dict[str, Any]:
    """The whole picture, as plain values without null."""
    state = world.state
    problems = [*world.problems]
    if state is not None:
        problems += [
            each for each in overview.overview(state, world.seen)["problems"] if each not in problems
        ]
    return clean({
        "fleet": world.fleet,
        "version": world.version,
        "revision": state.revision if state else 0,
        "problems": [short(each) for each in problems],
        "machines": machines(world),
        "split": split(world),
        "traffic": traffic(world.seconds),
        "steps": stepped(world.steps, world.shares),
        "verdict": verdict(world.judged),
        "intents": {intent.id: intention(intent) for intent in world.intents},
        "alerts": {alert.fingerprint: alarm(alert.at(world.at)) for alert in world.alerts},
        "silences": {str(each.get("id", "")): silence(each) for each in world.silences},
        "builds": dict(world.builds),
        "flags": {key: flag(each) for key, each in world.flags.items()},
        "journal": {line.id: told(line) for line in world.lines[-LINES_SHOWN:]},
    })  # fmt: skip


# --- machines


def machines(world: World) -> dict[str, dict[str, Any]]:
    """Every machine somebody knows of: registered, seen by HAProxy, a host of the fleet, or one that says how it is."""
    known = {*world.hosts, *(key.partition("/")[0] for key in world.felt)}
    if world.state is not None:
        known |= {*world.state.instances, *world.state.rejected}
    if world.seen is not None:
        known |= {*world.seen["servers"]}
    totals, seconds = rates(world.seconds)
    everything = sum(totals.values())
    found: dict[str, dict[str, Any]] = {}
    for id_ in sorted(known):
        if not MACHINE_ID.match(id_):
            continue
        role = role_of(id_)
        instance = world.state.instances.get(id_) if world.state else None
        server = (world.seen or {"servers": {}})["servers"].get(id_)
        # What a machine felt long ago is how it was; one that is no member any more is forgotten.
        felt = {
            key.partition("/")[2]: each
            for key, each in world.felt.items()
            if key.partition("/")[0] == id_ and world.at - each["at"] <= SILENT_S
        }
        if role in POOL_OF_ROLE and instance is None and server is None and not felt:
            continue
        how, word = condition(world, id_, role, instance, server, felt)
        row: dict[str, Any] = {
            "role": role,
            "state": how,
            "word": short(word),
            "address": instance.addr if instance else world.hosts.get(id_),
            "heard": heard(world, id_, server, felt),
            **used(world.usage.get(id_), felt, world.at),
        }
        if role in POOL_OF_ROLE:
            row |= {
                "pool": instance.pool if instance else (server or {}).get("pool"),
                "release": instance.release if instance else (server or {}).get("release"),
                "want": instance.want if instance else "gone",
                "sessions": (server or {}).get("sessions"),
                "response_ms": (server or {}).get("response_ms"),
                "rate": round(totals.get(id_, 0) / seconds, 1) if seconds else None,
                "share": round(100 * totals.get(id_, 0) / everything) if everything else None,
            }
        found[id_] = row
    return found


def condition(
    world: World,
    id_: str,
    role: str,
    instance: Instance | None,
    server: Mapping[str, Any] | None,
    felt: Mapping[str, Mapping[str, Any]],
) -> tuple[str, str]:
    """How a machine is, and that in a few words."""
    how, word = (
        _serving(world, id_, instance, server) if role in POOL_OF_ROLE else _other(world, id_, role, felt)
    )
    high = [f"{metric} {each['percent']:.0f} %" for metric, each in sorted(felt.items()) if each["high"]]
    if how == GOOD and high:
        return WARN, f"{word}, under pressure: {', '.join(high)}"
    return how, word


def _serving(
    world: World, id_: str, instance: Instance | None, server: Mapping[str, Any] | None
) -> tuple[str, str]:
    if world.state is not None and id_ in world.state.rejected:
        return BAD, world.state.rejected[id_]
    if world.seen is None:
        return WARN, "nobody says how it is: the controller is silent"
    if server is None:
        why = "without a place at the proxy" if id_ in world.seen.get("unplaced", ()) else "not seen yet"
        return WARN, why if instance else "not registered"
    if id_ in world.seen.get("kept", {}):
        return WARN, f"kept: {world.seen['kept'][id_]}"
    if instance is not None and instance.want == "maint":
        return WARN, "in maintenance"
    if not server["up"]:
        return BAD, f"down ({server.get('check') or 'no check passed'})"
    phase = server["phase"]
    if phase != "ready":
        return WARN, _PHASES.get(phase, phase)
    if instance is not None and instance.pool == "canary" and "canary" in world.state.latches:
        return WARN, "up, without requests: the canary is off"
    return GOOD, "serving"


def _other(world: World, id_: str, role: str, felt: Mapping[str, Mapping[str, Any]]) -> tuple[str, str]:
    if role == "proxy":
        return (GOOD, "routing") if world.seen is not None else (BAD, "its controller says nothing")
    if role == "redis":
        if world.links:
            word = world.links.get(id_)
            return (GOOD, word) if word else (BAD, "not in touch with the primary")
        return WARN, "Redis cannot be asked"
    if id_ == world.itself:
        return GOOD, "shows this page"
    return (GOOD, "well") if felt else (WARN, "not heard of for a while")


def heard(
    world: World, id_: str, server: Mapping[str, Any] | None, felt: Mapping[str, Mapping[str, Any]]
) -> int | None:
    """When the machine last gave a sign of life, unix seconds: to HAProxy, to Redis, or by what it feels."""
    times = [each["at"] for each in felt.values()]
    if usage := world.usage.get(id_):
        times.append(usage.at)
    if server is not None and server["up"] and world.seen is not None:
        times.append(float(world.seen["ts"]))
    if role_of(id_) == "proxy" and world.seen is not None:
        times.append(float(world.seen["ts"]))
    if id_ in world.links or id_ == world.itself:
        times.append(world.at)
    return int(max(times)) if times else None


def used(usage: Usage | None, felt: Mapping[str, Mapping[str, Any]], now: float) -> dict[str, float]:
    """CPU and memory in per cent of the machine's limits: of the whole machine where it says so, or of the product."""
    found = {}
    for metric in ("cpu", "memory"):
        if metric in felt and (felt[metric]["high"] or usage is None or felt[metric]["at"] > usage.at):
            found[metric] = round(felt[metric]["percent"])
        elif usage is not None and now - usage.at <= SILENT_S:
            found[metric] = round(getattr(usage, metric))
    return found


# --- traffic


def rates(seconds: Sequence[Second]) -> tuple[dict[str, int], float]:
    """Requests by machine in the last `RATE_S` seconds, and how long those were."""
    recent = seconds[-RATE_S:]
    totals: dict[str, int] = {}
    for second in recent:
        for id_, (_, requests) in second.machines.items():
            totals[id_] = totals.get(id_, 0) + requests
    return totals, sum(second.seconds for second in recent)


def traffic(seconds: Sequence[Second]) -> dict[str, list[int]]:
    """The last minute, by when each second ended: production's requests, the canary's, and errors of both."""
    found = {}
    for second in seconds[-SECONDS_SHOWN:]:
        prod, canary = (second.pools[pool] for pool in ("prod", "canary"))
        found[f"{second.at:.1f}"] = [
            prod["requests"], canary["requests"], prod["errors"] + canary["errors"],
        ]  # fmt: skip
    return found


def split(world: World) -> dict[str, Any]:
    """The share that is wanted and the one in effect, why, and what was measured."""
    recent = world.seconds[-RATE_S:]
    lasted = sum(second.seconds for second in recent)
    pools = {}
    for pool in ("prod", "canary"):
        requests = sum(second.pools[pool]["requests"] for second in recent)
        slow = [s.pools[pool].get("response_ms") for s in recent if s.pools[pool]["requests"]]
        times = [each for each in slow if each is not None]
        pools[pool] = {
            "rate": round(requests / lasted, 1) if lasted else 0,
            "errors": sum(second.pools[pool]["errors"] for second in recent),
            "response_ms": round(sum(times) / len(times), 1) if times else None,
        }
    total = sum(each["rate"] for each in pools.values())
    found: dict[str, Any] = {
        "pools": pools,
        "measured": round(100 * pools["canary"]["rate"] / total) if total else None,
    }
    if world.state is not None:
        canary = overview.canary(world.state, world.seen)
        latch = canary["latch"]
        found |= {
            "share": canary["share"],
            "effective": canary["effective_share"],
            "why": short(canary["why"]),
            "by": world.state.split.by,
            "since": world.state.split.since,
            "releases": {
                pool: sorted({i.release for i in world.state.instances.values() if i.pool == pool})
                for pool in ("prod", "canary")
            },
            "latch": None if latch is None else {name: _shown(each) for name, each in latch.items()},
        }
    return found


def stepped(at: steps.State, shares: Sequence[int]) -> dict[str, Any]:
    """Where a release is on its way, and the way."""
    row: dict[str, Any] = {"phase": at.phase, "shares": {str(share): True for share in shares}}
    if at.phase != steps.IDLE:
        row |= {"release": at.release, "share": at.share, "since": at.since}
    if at.reason:
        row["reason"] = short(at.reason)
    return row


def verdict(judged: tuple[Verdict, Window, Window] | None) -> dict[str, Any]:
    """The judge's verdict with its numbers; empty when there is nothing to judge."""
    if judged is None:
        return {}
    found, canary, production = judged
    return {
        "verdict": found.verdict,
        "reason": short(found.reason),
        "seconds": round(canary.seconds),
        "requests": {"canary": canary.requests, "prod": production.requests},
        "metrics": {
            metric.name: {
                "unit": metric.unit,
                "verdict": metric.verdict,
                "reason": short(metric.reason),
                "canary": _rounded(metric.canary),
                "prod": _rounded(metric.baseline),
                "ratio": _rounded(metric.ratio),
                "p": _rounded(metric.p_value),
                "n": f"{metric.canary_n} / {metric.baseline_n}",
            }
            for metric in found.metrics
        },
    }


# --- what is going on


def intention(intent: Intent) -> dict[str, Any]:
    """An intent of any kind, with the steps that are done."""
    return {
        "kind": intent.kind,
        "pool": intent.pool,
        "state": intent.state,
        "args": short(" ".join(journal.summary(intent.args))),
        "at": intent.at,
        "by": short(intent.by),
        "attempts": intent.attempts or None,
        "not_before": intent.not_before or None,
        "error": short(intent.error) or None,
        "journal": intent.journal,
        "steps": {
            short(name): short(" ".join(journal.summary(facts if isinstance(facts, dict) else {"is": facts})))
            for name, facts in sorted(intent.steps.items(), key=lambda item: natural(item[0]))
        },
    }


def alarm(alert: Alert) -> dict[str, Any]:
    """An alert as it is now."""
    about = asdict(alert)
    kept = (
        "name", "subject", "severity", "summary", "value", "limit", "details", "firing", "since", "ended", "done",
        "undo", "journal",
    )  # fmt: skip
    return {name: _shown(about[name]) for name in kept if about[name] not in ("", 0, 0.0)} | {
        "firing": alert.firing
    }


def silence(about: Mapping[str, Any]) -> dict[str, Any]:
    """A silence of Alertmanager's."""
    matchers = about.get("matchers") or []
    return {
        "what": short(", ".join(f"{each.get('name')}={each.get('value')}" for each in matchers)),
        "until": short(about.get("endsAt", "")),
        "by": short(about.get("createdBy", "")),
        "comment": short(about.get("comment", "")),
    }


def flag(about: Mapping[str, Any]) -> dict[str, Any]:
    """A flag: its state, its default, what that is, and what else there is."""
    variants = about.get("variants") or {}
    return {
        "on": about.get("state") == "ENABLED",
        "variant": _shown(about.get("defaultVariant")),
        "variants": {short(name): _text(value) for name, value in variants.items()},
        "targeted": bool(about.get("targeted")),
    }


def told(line: journal.Line) -> dict[str, Any]:
    """A line of the journal."""
    return {
        "at": line.at,
        "kind": short(line.kind),
        "subject": short(line.subject),
        "what": short(" ".join(journal.summary(line.fields))),
        "who": short(line.who),
        "cause": short(line.cause),
    }


def intents_named(lines: Iterable[journal.Line], now: float) -> list[str]:
    """The ids of intents that ended within `ENDED_S`, as the journal tells."""
    ended = ("intent.done", "intent.failed", "intent.refused")
    return [
        str(line.fields["intent"])
        for line in lines
        if line.kind in ended and "intent" in line.fields and now - line.at <= ENDED_S
    ]


# --- values


def natural(name: str) -> tuple[str, int, str]:
    """A key that sorts prod2 before prod10."""
    head = name.rstrip("0123456789")
    digits = name[len(head) :]
    return head, int(digits) if digits.isascii() and digits else 0, name


def short(text: object, length: int = TEXT_LENGTH) -> str:
    """A text on one line, of bounded length, whatever it was."""
    line = "".join(c if c.isprintable() else " " for c in str(text))
    return line if len(line) <= length else line[: length - 1] + "…"


def _text(value: object) -> str:
    return short(value if isinstance(value, str) else json.dumps(value), 120)


def _shown(value: object) -> object:
    return value if value is None or isinstance(value, bool | int | float) else short(value)


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.3g}")


def clean(value: Any) -> Any:
    """Without null anywhere."""
    if isinstance(value, Mapping):
        return {str(key): clean(each) for key, each in value.items() if each is not None}
    if isinstance(value, list | tuple):
        return [clean(each) for each in value if each is not None]
    return value


# --- patches (RFC 7396)


def diff(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The merge patch that makes `before` into `after`; neither holds null. Empty when they are equal."""
    patch: dict[str, Any] = {key: None for key in before if key not in after}
    for key, value in after.items():
        if key not in before:
            patch[key] = value
            continue
        old = before[key]
        if isinstance(value, dict) and isinstance(old, dict):
            if inside := diff(old, value):
                patch[key] = inside
        elif type(old) is not type(value) or old != value:
            patch[key] = value
    return patch


def merge(target: Any, patch: Any) -> Any:
    """What a patch makes of a document: RFC 7396, section 2. The page does the same."""
    if not isinstance(patch, dict):
        return patch
    found = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = merge(found.get(key), value)
    return found
