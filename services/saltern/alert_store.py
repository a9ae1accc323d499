"""Alerts, kept in Redis: what is wrong now, and what was until a while ago.

``saltern:alert:<fingerprint>`` is a hash; ``saltern:alerts`` the set of fingerprints, and the channel a fingerprint is
published on when something about it changed. An alert has one fingerprint however often it fires: 200 events about
one thing are one alert. Every change is one Lua script; those that begin or end an alert write a line of the journal
in the same step. Nothing here is desired state, so ``saltern:revision`` stays as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import redis

from saltern.registry import JOURNAL, JOURNAL_LENGTH, PREFIX, REVISION, check_text

ALERT = PREFIX + "alert:"
ALERTS = PREFIX + "alerts"
KEEP_S = 86_400
"""Seconds an alert that is over is remembered, unless the pillar says otherwise."""
EARLIER_S = 60
"""What the fleet did up to this long before an alert began is about it: the quick reflex may be first."""


@dataclass(frozen=True)
class Alert:
    """One thing that is wrong.

    :ivar name: what kind, such as CpuHigh
    :ivar subject: which machine, or what else it is about
    :ivar cause: alerts of one cause are told in one mail
    :ivar severity: warning or critical
    :ivar summary: one line for a person: what, where
    :ivar value: as it is; :ivar limit: as it should be; both with their unit, for a person
    :ivar firing: whether it is so now
    :ivar since: when it began; :ivar heard: when it was last said; :ivar ended: when it was over, or 0; unix seconds
    :ivar until: when it is over by itself, or 0
    :ivar count: how often it began
    :ivar done: what the fleet did about it; :ivar undo: the command that takes that back
    """

    name: str
    subject: str
    cause: str
    severity: str
    summary: str
    value: str = ""
    limit: str = ""
    details: str = ""
    firing: bool = True
    since: float = 0.0
    heard: float = 0.0
    ended: float = 0.0
    until: float = 0.0
    count: int = 1
    done: str = ""
    undo: str = ""
    journal: str = field(default="", compare=False)

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.name, self.subject)

    def at(self, now: float) -> Alert:
        """The alert as it is at this time: one that ends by itself may have."""
        if self.firing and self.until and now >= self.until:
            return Alert(**{**self.__dict__, "firing": False, "ended": self.until})
        return self


@dataclass(frozen=True)
class Alarm:
    """Something a person should know. Whoever takes it (the conductor's `alarm` hook) mails it or shows it.

    :ivar name: what kind, such as ProvisionFailed; with `subject` it is the same alarm however often it is given
    :ivar done: what the fleet did already
    :ivar undo: the command that takes that back
    :ivar firing: False: it is over
    :ivar expires_s: seconds after which it is over by itself; 0 is never
    """

    name: str
    subject: str
    summary: str
    severity: str = "warning"
    done: str = ""
    undo: str = ""
    cause: str = ""
    firing: bool = True
    expires_s: float = 0.0


def fingerprint(name: str, subject: str) -> str:
    """What names an alert everywhere: 16 hexadecimal digits of its name and subject."""
    return hashlib.sha256(f"{name}\0{subject}".encode()).hexdigest()[:16]


_PRELUDE = """
local alert_key, alerts_key, journal_key, revision_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, journal_length = ARGV[1], ARGV[2]
local t = redis.call('TIME')
local now = string.format('%d.%06d', t[1], t[2])
local function note(kind, subject, cause, fields)
  return redis.call('XADD', journal_key, 'MAXLEN', '~', journal_length, '*', 'kind', kind, 'subject', subject,
    'cause', cause, 'who', 'reflex', 'fields', fields, 'revision', redis.call('GET', revision_key) or '0')
end
local function not_newer(counter)
  local seen = redis.call('HGET', alert_key, 'counter') or '0'
  return counter ~= '' and (#seen > #counter or (#seen == #counter and seen >= counter))
end
"""

_FIRE = (
    _PRELUDE
    + """
local about, value, expires_in, counter, cause, earlier = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
if not_newer(counter) then return {'old', ''} end
local state, till = redis.call('HGET', alert_key, 'state'), tonumber(redis.call('HGET', alert_key, 'until') or '0')
local begins = state ~= 'firing' or (till > 0 and till <= tonumber(now))
local till_now = '0'
if tonumber(expires_in) > 0 then till_now = string.format('%.6f', tonumber(now) + tonumber(expires_in)) end
redis.call('HSET', alert_key, 'about', about, 'value', value, 'heard', now, 'until', till_now, 'state', 'firing')
if counter ~= '' then redis.call('HSET', alert_key, 'counter', counter) end
redis.call('PERSIST', alert_key)
local line = ''
if begins then
  local did_at = tonumber(redis.call('HGET', alert_key, 'did_at') or '0')
  if did_at < tonumber(now) - tonumber(earlier) then redis.call('HDEL', alert_key, 'done', 'undo', 'did_at') end
  redis.call('HSET', alert_key, 'since', now, 'ended', '0')
  redis.call('HINCRBY', alert_key, 'count', 1)
  for _, other in ipairs(redis.call('SMEMBERS', alerts_key)) do
    local key = string.sub(alert_key, 1, #alert_key - #id) .. other
    if redis.call('EXISTS', key) == 0 then redis.call('SREM', alerts_key, other) end
  end
  redis.call('SADD', alerts_key, id)
  local it = cjson.decode(about)
  line = note('alert.firing', it.subject, cause,
    cjson.encode({alert = it.name, summary = it.summary, value = value, fingerprint = id}))
  redis.call('HSET', alert_key, 'journal', line)
  redis.call('PUBLISH', alerts_key, id)
end
return {begins and 'begins' or 'again', line}
"""
)

_END = (
    _PRELUDE
    + """
local counter, keep, cause = ARGV[3], ARGV[4], ARGV[5]
if not_newer(counter) then return {'old', ''} end
if redis.call('HGET', alert_key, 'state') ~= 'firing' then return {'again', ''} end
redis.call('HSET', alert_key, 'state', 'resolved', 'ended', now, 'heard', now)
if counter ~= '' then redis.call('HSET', alert_key, 'counter', counter) end
redis.call('EXPIRE', alert_key, keep)
local it = cjson.decode(redis.call('HGET', alert_key, 'about'))
local line = note('alert.resolved', it.subject, cause, cjson.encode({alert = it.name, fingerprint = id}))
redis.call('PUBLISH', alerts_key, id)
return {'ends', line}
"""
)

_DID = (
    _PRELUDE
    + """
redis.call('HSET', alert_key, 'done', ARGV[3], 'undo', ARGV[4], 'did_at', now)
if not redis.call('HGET', alert_key, 'state') then redis.call('EXPIRE', alert_key, 3600) end
redis.call('PUBLISH', alerts_key, id)
return {'did', ''}
"""
)

_ALL = """
local found = {}
for _, id in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local flat = redis.call('HGETALL', ARGV[1] .. id)
  if #flat > 0 then found[#found + 1] = flat end
end
return found
"""


class AlertStore:
    """Alerts behind one Redis client; every method raises redis.RedisError when Redis cannot be reached."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self._fire = client.register_script(_FIRE)
        self._end = client.register_script(_END)
        self._did = client.register_script(_DID)

    def fire(
        self, alert: Alert, *, counter: int | None = None, cause: str = "", expires_s: float = 0.0
    ) -> bool:
        """Say that something is wrong; whether that is new.

        :param counter: of the event that says so; one that is not above the last changes nothing
        :param cause: what led to this, for the journal
        :param expires_s: seconds after which it is over unless it is said again; 0 is never
        """
        about = {name: getattr(alert, name) for name in ABOUT}
        args = (
            json.dumps(about), alert.value, str(expires_s), "" if counter is None else str(counter),
            check_text(cause, "cause"), EARLIER_S,
        )  # fmt: skip
        return self._run(self._fire, alert.fingerprint, args) == "begins"

    def end(
        self, name: str, subject: str, *, counter: int | None = None, cause: str = "", keep_s: int = KEEP_S
    ) -> bool:
        """Say that it is over; whether it was firing until now."""
        args = ("" if counter is None else str(counter), str(keep_s), check_text(cause, "cause"))
        return self._run(self._end, fingerprint(name, subject), args) == "ends"

    def did(self, name: str, subject: str, done: str, undo: str = "") -> None:
        """Write down what the fleet did about an alert, which may begin a moment later."""
        self._run(self._did, fingerprint(name, subject), (done, undo))

    def _run(self, script: Any, id_: str, args: tuple) -> str:
        keys = (ALERT + id_, ALERTS, JOURNAL, REVISION)
        return script(keys=keys, args=(id_, JOURNAL_LENGTH, *args))[0]

    def all(self) -> list[Alert]:
        """Every alert that fires or is remembered, oldest first."""
        # Read-only, so that a user who may only read can ask.
        rows = self.client.eval_ro(_ALL, 1, ALERTS, ALERT)
        found = [parse(dict(zip(row[::2], row[1::2], strict=True))) for row in rows]
        return sorted((each for each in found if each), key=lambda a: (a.since, a.name, a.subject))


ABOUT = ("name", "subject", "cause", "severity", "summary", "limit", "details")


def parse(stored: Mapping[str, str]) -> Alert | None:
    """An alert of what Redis holds; None when it has not begun yet.

    :raises ValueError: it holds something else
    """
    if "state" not in stored:
        return None
    return Alert(
        **json.loads(stored["about"]),
        value=stored["value"],
        firing=stored["state"] == "firing",
        **{name: float(stored.get(name, 0)) for name in ("since", "heard", "ended", "until")},
        count=int(stored.get("count", 1)),
        done=stored.get("done", ""),
        undo=stored.get("undo", ""),
        journal=stored.get("journal", ""),
    )
