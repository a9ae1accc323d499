"""The one check that every event from a machine passes before it may cause anything."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Protocol

from saltern import secrets, signing
from saltern.counters import COUNT, COUNTERS
from saltern.errors import SalternError
from saltern.fleet import MACHINE_ID, Fleet

# Counters are nanoseconds since 1970; a machine whose clock is this far ahead would lock itself out for as long.
FURTHEST_AHEAD_NS = 3600 * 10**9
# How long after it was signed an event may come once more by another way, and be no news instead of a replay; and how
# long it counts where no counter can be looked up.
FRESH_NS = 60 * 10**9
# The same where there are several masters: a machine sends each event to all of them, again and again to one that is
# away, and so long after it was signed it may come late.
LATE_NS = 300 * 10**9


class Counters(Protocol):
    """Where the highest counter of each machine is kept: in practice a Redis client."""

    def eval(self, script: str, numkeys: int, *keys_and_args: str) -> object: ...


@dataclass(frozen=True)
class Event:
    """:ivar machine: who said it, proven; :ivar tag: under what; :ivar values: what; :ivar counter: the how-manieth"""

    machine: str
    tag: str
    values: dict
    counter: int

    @property
    def cause(self) -> str:
        """What the journal says of what it caused."""
        return cause(self.tag, self.counter)


def cause(tag: str, counter: int) -> str:
    """An event as a cause: its tag, and nanoseconds since 1970 when it was said (see ``journal.origin``)."""
    return f"{tag} {counter}"


class Rejected(SalternError):
    """An event that must cause nothing; the text says why."""


class Repeated(Rejected):
    """An event that came a moment ago, by the same way or another: it causes nothing more, and nothing is wrong."""


def authenticate(secret: str, tag: str, minion_id: object, payload: object, now_ns: int) -> Event:
    """The event, if the machine it names signed it for this tag.

    :param secret: the fleet's event secret, hex
    :param tag: the tag it came under
    :param minion_id: the id Salt's bus gives for the sender
    :param payload: what it carries
    :param now_ns: nanoseconds since 1970
    :raises Rejected: anything about it is not as it should be
    """
    if not isinstance(minion_id, str) or not MACHINE_ID.match(minion_id):
        raise Rejected(f"event {tag!r}: {minion_id!r} is not a machine's id")
    try:
        signed = signing.verify(secrets.event_key(secret, minion_id), tag, payload)
    except ValueError as error:
        raise Rejected(f"event {tag!r} from {minion_id}: {error}") from error
    if signed["machine"] != minion_id:
        raise Rejected(f"event {tag!r} from {minion_id}: it speaks for {signed['machine']!r}")
    if not re.fullmatch(rf"[a-z]+/[a-z]+/{minion_id}/[a-z/]+", tag):
        raise Rejected(f"event {tag!r} from {minion_id}: the tag is not its own")
    if signed["counter"] <= 0:
        raise Rejected(f"event {tag!r} from {minion_id}: its counter is not above 0")
    if signed["counter"] > now_ns + FURTHEST_AHEAD_NS:
        raise Rejected(f"event {tag!r} from {minion_id}: its counter is more than an hour in the future")
    return Event(minion_id, tag, signed["values"], signed["counter"])


def kind_of(event: Event, use: str = "") -> str:
    """Under what an event is counted: its machine, its tag, and what it is let through to."""
    return f"{event.machine}:{event.tag}" + (f":{use}" if use else "")


def counted(event: Event, same: bool, now_ns: int, several: bool = False) -> Rejected:
    """What is said of an event that counted before.

    :param same: it was this very one, not a later one
    :param several: whether the fleet has several masters, of which another was told of it first
    """
    words = f"event {event.tag!r} from {event.machine}: counter {event.counter} was used before"
    age = now_ns - event.counter
    return Repeated(words) if (same and age <= FRESH_NS) or (several and age <= LATE_NS) else Rejected(words)


# One step, so that the same event delivered twice at once still counts once.
_ONCE = COUNT + "return count(KEYS[1], ARGV[1], ARGV[2])"


def once(counters: Counters, event: Event, use: str = "", *, several: bool = False) -> None:
    """Let an event through the first time only, and never after a later one of the same machine and kind.

    :param use: what it is let through to, where one event causes several things
    :param several: see `counted`
    :raises Rejected: it was seen before, or is older than one that was; Repeated, if it was seen just now
    """
    found = counters.eval(_ONCE, 1, COUNTERS, kind_of(event, use), str(event.counter))
    if found != "new":
        raise counted(event, found == "again", time.time_ns(), several)


def once_here(path: Path, event: Event, use: str = "") -> None:
    """The same while Redis is away, among the processes of this host alone: counters are in a file.

    :raises Rejected: as `once`; or it is too old, for nobody knows whether it counted before
    """
    now_ns = time.time_ns()
    if now_ns - event.counter > FRESH_NS:
        raise Rejected(f"event {event.tag!r} from {event.machine}: older than a minute")
    with path.open("a+") as file:
        flock(file, LOCK_EX)
        file.seek(0)
        try:
            kept = {kind: int(counter) for kind, counter in json.loads(file.read() or "{}").items()}
        except (ValueError, AttributeError):
            kept = {}  # half written by a host that went down: those events are older than a minute
        seen = kept.get(kind := kind_of(event, use), 0)
        if seen >= event.counter:
            raise counted(event, seen == event.counter, now_ns)
        fresh = {k: c for k, c in kept.items() if now_ns - c <= FRESH_NS}
        file.truncate(0)
        file.write(json.dumps({**fresh, kind: event.counter}))


# A bucket of tokens for each machine (the generic cell rate algorithm, ITU-T I.371: one time is all that is kept): it
# fills at a steady rate up to `burst`, and each event takes one.
ALLOW = """
local t = redis.call('TIME')
local now = t[1] * 1000 + t[2] / 1000
local each, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local due = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now)
if due + each - now > each * burst then return 0 end
redis.call('SET', KEYS[1], string.format('%.3f', due + each), 'PX', math.ceil(due + each - now))
return 1
"""
RATE_KEY = "saltern:rate:"


@dataclass(frozen=True)
class Rate:
    """:ivar burst: so many events at once; :ivar per_minute: then so many a minute"""

    burst: int = 60
    per_minute: float = 120


def within(counters: Counters, event: Event, rate: Rate) -> None:
    """Count an event against what its machine may cause something with.

    :raises Rejected: the machine has said too much
    """
    each_ms = 60_000 / rate.per_minute
    if not counters.eval(ALLOW, 1, RATE_KEY + event.machine, str(each_ms), str(rate.burst)):
        raise Rejected(
            f"event {event.tag!r} from {event.machine}: more than {rate.per_minute:g} a minute; "
            "pillar/alerts.sls: alerts.rate says how many it may send"
        )


def check(
    fleet: Fleet,
    counters: Counters,
    tag: str,
    minion_id: object,
    payload: object,
    now_ns: int,
    *,
    use: str = "",
    rate: Rate | None = None,
) -> Event:
    """Authenticate an event and let it through once.

    :param use: see `once`
    :param rate: how many of a machine's events may pass; None is any number
    :raises Rejected: it must cause nothing
    """
    event = authenticate(secrets.load(fleet)["events"], tag, minion_id, payload, now_ns)
    if rate is not None:
        within(counters, event, rate)
    once(counters, event, use, several=bool(fleet.peers))
    return event
