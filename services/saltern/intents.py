"""The queue of slow work: what the fleet means to do, kept in Redis until it is done or given up.

An intent is level-triggered: it says what should be so ("pool prod has 6 machines"), not what to do. Wishes with the
same key that nobody has begun with are one intent, and the latest arguments count; that is how a storm of a thousand
edges becomes one. Each step that has been carried out is recorded in the intent, in the same atomic step as its journal
line, so whoever goes on after a crash knows what is done and writes nothing twice. A conductor writes under its lease
(see `leading`); what comes from an earlier one is refused.

Keys, all under ``saltern:``

====================  ======  ==================================================================================
``queue``             stream  one entry for each intent that is not done; consumer group ``conductor``
``intent:<id>``       hash    kind, pool, key, args (JSON), cause, by, at, state=queued|running|done|refused|failed,
                              merged, attempts, not_before, error, journal, ``step:<name>`` (JSON), result (JSON)
``intents``           hash    key → id of the intent that is queued and not begun
====================  ======  ==================================================================================
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import redis

from saltern.registry import JOURNAL, JOURNAL_LENGTH, PREFIX, REVISION, TEXT_LENGTH, check_text

QUEUE = "saltern:queue"
INTENT = "saltern:intent:"
WAITING = "saltern:intents"
GROUP = "conductor"
CONSUMER = "conductor"
KEPT_S = 7 * 86_400
"""How long an intent can be looked up after its end, seconds."""
ARGS_LENGTH = 4_000

_KIND = re.compile(r"[a-z]{1,20}(\.[a-z]{1,20})?\Z")
_POOL = re.compile(r"[a-z]{1,20}\Z")


class IntentError(ValueError):
    """An intent that cannot be queued; the text says why. Nothing was queued."""


class Fenced(RuntimeError):
    """Another master leads by now: nothing was written, and whoever wrote must stop."""


@dataclass(frozen=True)
class Intent:
    """Something the fleet means to do.

    :ivar kind: which of the conductor's kinds
    :ivar pool: one intent of a pool is at work at a time
    :ivar key: intents with the same key are the same wish
    :ivar cause: event tag or journal id of what led to it
    :ivar at: when it was first wished for, unix seconds by Redis's clock
    :ivar merged: how many more times it was wished for since
    :ivar not_before: unix seconds; a failed attempt is not repeated earlier
    :ivar steps: what the finished steps found out, by name
    :ivar journal: id of the journal line that tells of its queueing: the cause of all that follows
    """

    kind: str
    pool: str
    args: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""
    cause: str = ""
    by: str = ""
    id: str = ""
    state: str = "queued"
    at: float = 0.0
    merged: int = 0
    attempts: int = 0
    not_before: float = 0.0
    error: str = ""
    journal: str = ""
    steps: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)


_PRELUDE = """
local fence = ARGV[#ARGV]
if fence ~= '' then
  local lease = redis.call('HMGET', KEYS[5], 'holder', 'token')
  local held = lease[1] and lease[1] .. ' ' .. lease[2] or 'nobody'
  if held ~= fence then return redis.error_reply('FENCED ' .. fence .. ' led, and now ' .. held) end
end
local function now()
  local t = redis.call('TIME')
  return string.format('%d.%06d', t[1], t[2])
end
local function note(kind, subject, cause, who, fields)
  return redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[2], '*', 'kind', kind, 'subject', subject, 'cause', cause,
    'who', who, 'fields', fields, 'revision', redis.call('GET', KEYS[4]) or '0')
end
local prefix = ARGV[1]
"""

_PUT = (
    _PRELUDE
    + """
local key, kind, pool, args, cause, by = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local id = redis.call('HGET', KEYS[2], key)
if id and redis.call('HGET', prefix .. id, 'state') == 'queued' then
  redis.call('HSET', prefix .. id, 'args', args)
  redis.call('HINCRBY', prefix .. id, 'merged', 1)
  return {id, 0}
end
id = redis.call('XADD', KEYS[1], '*', 'kind', kind, 'pool', pool)
local line = note('intent.queued', pool, cause, by, cjson.encode({intent = id, kind = kind, args = args}))
redis.call('HSET', prefix .. id, 'kind', kind, 'pool', pool, 'key', key, 'args', args, 'cause', cause, 'by', by,
  'at', now(), 'state', 'queued', 'journal', line)
redis.call('HSET', KEYS[2], key, id)
return {id, 1}
"""
)

_BEGIN = (
    _PRELUDE
    + """
local id, who = ARGV[3], ARGV[4]
local it = prefix .. id
local state = redis.call('HGET', it, 'state')
if state == 'queued' then
  redis.call('HSET', it, 'state', 'running', 'began', now())
  local key = redis.call('HGET', it, 'key')
  if redis.call('HGET', KEYS[2], key) == id then redis.call('HDEL', KEYS[2], key) end
  note('intent.begun', redis.call('HGET', it, 'pool'), redis.call('HGET', it, 'journal'), who, cjson.encode({
    intent = id, kind = redis.call('HGET', it, 'kind'), args = redis.call('HGET', it, 'args'),
    merged = tonumber(redis.call('HGET', it, 'merged') or '0')}))
end
return redis.call('HGETALL', it)
"""
)

# What was recorded first stays: a step that was carried out twice has one outcome.
_RECORD = (
    _PRELUDE
    + """
local id, who, step, facts, kind, subject, fields = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local it = prefix .. id
if redis.call('HGET', it, 'state') ~= 'running' then return false end
if redis.call('HSETNX', it, 'step:' .. step, facts) == 1 and kind ~= '' then
  note(kind, subject, redis.call('HGET', it, 'journal'), who, fields)
end
return redis.call('HGET', it, 'step:' .. step)
"""
)

_RETRY = (
    _PRELUDE
    + """
local id, who, attempts, pause, error = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local it = prefix .. id
if redis.call('HGET', it, 'state') ~= 'running' then return 0 end
if redis.call('HGET', it, 'attempts') == attempts then return 0 end
redis.call('HSET', it, 'attempts', attempts, 'not_before', tonumber(now()) + tonumber(pause), 'error', error)
note('intent.retry', redis.call('HGET', it, 'pool'), redis.call('HGET', it, 'journal'), who, cjson.encode({
  intent = id, kind = redis.call('HGET', it, 'kind'), attempts = tonumber(attempts), pause_s = tonumber(pause),
  error = error}))
return 1
"""
)

_FINISH = (
    _PRELUDE
    + """
local id, who, state, result, error = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local it = prefix .. id
local was = redis.call('HGET', it, 'state')
redis.call('XACK', KEYS[1], ARGV[8], id)
redis.call('XDEL', KEYS[1], id)
if was ~= 'queued' and was ~= 'running' then return 0 end
local key = redis.call('HGET', it, 'key')
if redis.call('HGET', KEYS[2], key) == id then redis.call('HDEL', KEYS[2], key) end
redis.call('HSET', it, 'state', state, 'result', result, 'error', error, 'ended', now())
redis.call('EXPIRE', it, ARGV[9])
note('intent.' .. state, redis.call('HGET', it, 'pool'), redis.call('HGET', it, 'journal'), who, cjson.encode({
  intent = id, kind = redis.call('HGET', it, 'kind'), result = result, error = error}))
return 1
"""
)

LEASE = PREFIX + "leader"
"""Hash: holder and token of the lease under which the conductor works (see `leading`)."""

_KEYS = (QUEUE, WAITING, JOURNAL, REVISION, LEASE)


class Queue:
    """The queue behind one Redis client (replies decoded to text).

    Every method raises redis.RedisError when Redis cannot be reached; all may then be called again. Every writing one
    raises Fenced when another master leads.

    :param fence: tells the lease that the writes are made under; empty where whoever it is may write
    """

    def __init__(
        self, client: redis.Redis, who: str = "conductor", fence: Callable[[], str] = lambda: ""
    ) -> None:
        self.client = client
        self.who = who
        self.fence = fence
        self._put = client.register_script(_PUT)
        self._begin = client.register_script(_BEGIN)
        self._record = client.register_script(_RECORD)
        self._retry = client.register_script(_RETRY)
        self._finish = client.register_script(_FINISH)

    def _run(self, script: Any, *values: object) -> Any:
        try:
            return script(keys=_KEYS, args=(INTENT, JOURNAL_LENGTH, *values, self.fence()))
        except redis.ResponseError as error:
            if not str(error).startswith("FENCED"):
                raise
            raise Fenced(str(error)) from error

    def put(self, intent: Intent) -> tuple[str, bool]:
        """Queue an intent, or join it to one with the same key that nobody has begun with.

        :returns: the id, and whether it is a new one
        :raises IntentError: it is not valid
        """
        args = json.dumps(dict(intent.args), sort_keys=True)
        if not _KIND.match(intent.kind) or not _POOL.match(intent.pool):
            raise IntentError(f"intent: kind {intent.kind!r} or pool {intent.pool!r} is not a name")
        if len(args) > ARGS_LENGTH:
            raise IntentError(f"intent {intent.kind}: its arguments are longer than {ARGS_LENGTH} characters")
        values = (
            check_text(intent.key or f"{intent.kind}:{intent.pool}", "key"),
            intent.kind,
            intent.pool,
            args,
            check_text(intent.cause, "cause"),
            check_text(intent.by or self.who, "by"),
        )
        id_, new = self._run(self._put, *values)
        return id_, bool(new)

    def prepare(self) -> None:
        """Make the consumer group unless it is there; entries from before count too."""
        try:
            self.client.xgroup_create(QUEUE, GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    def fresh(self, block_ms: int | None = None) -> list[str]:
        """Ids of intents nobody was given before; waits up to `block_ms` for the first."""
        return self._read(">", block_ms)

    def mine(self) -> list[str]:
        """Ids of all intents this consumer was given and has not finished: what there is to go on with."""
        found: list[str] = []
        while batch := self._read(found[-1] if found else "0", None):
            found += batch
        return found

    def _read(self, start: str, block_ms: int | None) -> list[str]:
        try:
            answer = self.client.xreadgroup(GROUP, CONSUMER, {QUEUE: start}, count=500, block=block_ms)
        except redis.ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            self.prepare()
            return []
        return [id_ for _, entries in answer or [] for id_, _ in entries]

    def load(self, id_: str) -> Intent | None:
        """The intent, finished or not; None when there is none by this id any more."""
        stored = self.client.hgetall(INTENT + id_)
        return parse(id_, stored) if stored else None

    def unfinished(self) -> list[Intent]:
        """Every intent that is queued or running, oldest first."""
        ids = [id_ for id_, _ in self.client.xrange(QUEUE)]
        return [intent for id_ in ids if (intent := self.load(id_)) is not None]

    def begin(self, id_: str) -> Intent:
        """Start with an intent, or go on with it; wishes that come from now on make a new one."""
        flat = self._run(self._begin, id_, self.who)
        return parse(id_, dict(zip(flat[::2], flat[1::2], strict=True)))

    def record(
        self,
        id_: str,
        step: str,
        facts: Mapping[str, Any],
        kind: str = "",
        subject: str = "",
        fields: Mapping[str, Any] | None = None,
    ) -> Mapping[str, Any]:
        """Write down that a step is done, and its journal line if a kind is given, once.

        :returns: what is recorded: that of the first time, should there have been one
        :raises IntentError: the intent is not at work
        """
        values = (step, json.dumps(dict(facts)), kind, subject, json.dumps(dict(fields or facts)))
        kept = self._run(self._record, id_, self.who, *values)
        if kept is None:
            raise IntentError(f"intent {id_}: it is not at work, so its step {step} cannot be recorded")
        return json.loads(kept)

    def retry(self, id_: str, attempts: int, pause_s: float, error: str) -> None:
        """Write down a failed attempt and when the next may begin."""
        values = (str(attempts), f"{pause_s:g}", _one_line(error))
        self._run(self._retry, id_, self.who, *values)

    def finish(self, id_: str, state: str, result: Mapping[str, Any], error: str = "") -> bool:
        """End an intent; whether it was this call that ended it.

        :param state: done, refused (it should not be) or failed (it could not be)
        """
        values = (state, json.dumps(dict(result)), _one_line(error), GROUP, KEPT_S)
        return bool(self._run(self._finish, id_, self.who, *values))


def _one_line(text: str) -> str:
    line = "".join(c if c.isprintable() else " " for c in text)
    return line if len(line) <= TEXT_LENGTH else line[: TEXT_LENGTH - 3] + "..."


def parse(id_: str, stored: Mapping[str, str]) -> Intent:
    """The intent a hash describes.

    :raises IntentError: a field is missing or unreadable
    """
    try:
        return Intent(
            id=id_,
            kind=stored["kind"],
            pool=stored["pool"],
            key=stored["key"],
            args=json.loads(stored["args"]),
            cause=stored["cause"],
            by=stored["by"],
            state=stored["state"],
            at=float(stored["at"]),
            merged=int(stored.get("merged", 0)),
            attempts=int(stored.get("attempts", 0)),
            not_before=float(stored.get("not_before", 0)),
            error=stored.get("error", ""),
            journal=stored["journal"],
            steps={k[5:]: json.loads(v) for k, v in stored.items() if k.startswith("step:")},
            result=json.loads(stored.get("result", "{}")),
        )
    except (KeyError, ValueError) as error:
        raise IntentError(f"intent {id_}: what Redis has of it is not readable ({error!r})") from error
