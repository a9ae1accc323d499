"""The registry: what the fleet should look like, kept in Redis.

Desired state is data. Every change below is one Lua script, so it is one atomic step for every reader: it
writes, raises ``saltern:revision`` by one, publishes the new number on the channel of the same name and
appends a line to the journal. Doing a thing twice is the same as doing it once: a change that changes nothing
leaves all four alone.

Keys, all under ``saltern:``

===================  =======  ================================================================================
``instance:<id>``    hash     pool, addr, port, release, want, since; ``limit`` (s) if its drain has its own
``instances``        set      the ids that have an instance hash
``split``            hash     share, by, since
``latch:canary``     hash     present while the canary is off: reason, cause, by, since, releases
``forced``           set      ids a person allowed to leave even as the last live production server
``steps``            hash     state (JSON of ``steps.State``); of its last move: kind, fields, journal, by; what was
                              told of it: told, alarm
``revision``         integer  raised by every change
``journal``          stream   kind, subject, cause, who, fields (JSON), revision
===================  =======  ================================================================================
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import redis

from .counters import COUNT, COUNTERS

PREFIX = "saltern:"
REVISION = PREFIX + "revision"
"""The counter's key, and the channel its new value is published on."""
JOURNAL = PREFIX + "journal"
SPLIT = PREFIX + "split"
INSTANCES = PREFIX + "instances"
INSTANCE = PREFIX + "instance:"
FORCED = PREFIX + "forced"
LATCH = PREFIX + "latch:canary"
STEPS = PREFIX + "steps"
FELT = PREFIX + "felt"
"""What machines feel, told by the conductor: a hash, ``<machine>/<metric>`` → JSON: high, percent, since and at (unix
seconds), counter. Not desired state.
"""

POOLS = ("prod", "canary")
WANTS = ("ready", "drain", "maint")
DEFAULT_SHARE = 30
"""Percent of requests for the canary while nobody has set a share."""
JOURNAL_LENGTH = 20_000
"""Lines kept; at a busy fleet's few hundred a day, some months."""
TEXT_LENGTH = 300
DRAIN_LIMIT_MAX_S = 86_400

_ID = re.compile(r"(prod|staging|proxy|redis|ops)[0-9]{1,4}")
_RELEASE = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class RegistryError(ValueError):
    """A value the registry refuses; the text names it and says what would be right. Nothing was changed."""


class Conflict(RegistryError):
    """Somebody else changed the registry first. Nothing was changed; read it again and decide again."""


class UnknownInstance(RegistryError):
    """No instance has this id. Nothing was changed."""


class Counted(RegistryError):
    """The event that should have caused a change counted before; nothing was changed. The text is ``again`` if it was
    this very event, ``older`` if it was a later one.
    """


@dataclass(frozen=True)
class Instance:
    """One process that serves the product, and what the fleet wants of it."""

    id: str
    pool: str
    addr: str
    port: int
    release: str
    want: str = "ready"
    since: float = 0.0
    """When ``want`` last changed, unix seconds by Redis's clock."""
    limit_s: float | None = None
    """How long a drain may last before what is still open is cut; None takes the controller's default."""


@dataclass(frozen=True)
class Split:
    """How requests are divided: ``share`` percent to the canary."""

    share: int = DEFAULT_SHARE
    by: str = ""
    since: float = 0.0


@dataclass(frozen=True)
class Latch:
    """The canary is off until a person or a new release turns it on."""

    reason: str
    cause: str = ""
    by: str = ""
    since: float = 0.0
    releases: tuple[str, ...] = ()
    """The canary's releases when it was latched; a canary that carries none of them clears the latch."""


@dataclass(frozen=True)
class State:
    """The whole desired state at one revision."""

    revision: int = 0
    instances: Mapping[str, Instance] = field(default_factory=lambda: MappingProxyType({}))
    split: Split = Split()
    latches: Mapping[str, Latch] = field(default_factory=lambda: MappingProxyType({}))
    """Only ``canary`` exists today."""
    forced: frozenset[str] = frozenset()
    rejected: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Ids whose stored values are unusable, and why. They are neither obeyed nor taken for absent."""


@dataclass(frozen=True)
class Change:
    """What a write did: whether anything changed, the revision now, and the journal line (empty when
    unchanged).
    """

    changed: bool
    revision: int
    journal: str = ""


# --- values in: pure checks


def check_id(value: object) -> str:
    """Return the id, or raise RegistryError when it is not a machine's id."""
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise RegistryError(
            f"instance: id {_show(value)} is not a machine id; "
            "use prod, staging, proxy, redis or ops and 1 to 4 digits"
        )
    return value


def check_release(value: object) -> str:
    """Return the release, or raise RegistryError when it is not a release id."""
    if not isinstance(value, str) or not _RELEASE.fullmatch(value):
        raise RegistryError(
            f"instance: release {_show(value)} is not a release id; "
            "use 1 to 64 of a-z 0-9 . _ - starting with a-z or 0-9"
        )
    return value


def check_addr(value: object) -> str:
    """Return the address in canonical form, or raise RegistryError when it is not one host's IP literal."""
    try:
        address = ipaddress.ip_address(value) if isinstance(value, str) else None
    except ValueError:
        address = None
    if (
        address is None
        or address.is_unspecified
        or address.is_multicast
        or str(address) == "255.255.255.255"
        or getattr(address, "scope_id", None)
    ):
        raise RegistryError(
            f"instance: address {_show(value)} is not the IP address of one host; "
            "give a literal such as 10.213.0.21"
        )
    return str(address)


def check_port(value: object) -> int:
    """Return the port as a number, or raise RegistryError when it is not between 1 and 65535."""
    number = _integer(value)
    if number is None or not 1 <= number <= 65535:
        raise RegistryError(f"instance: port {_show(value)} is not between 1 and 65535")
    return number


def check_pool(value: object) -> str:
    """Return the pool, or raise RegistryError when it is neither prod nor canary."""
    if value not in POOLS or not isinstance(value, str):
        raise RegistryError(f"instance: pool {_show(value)} is not one of {', '.join(POOLS)}")
    return value


def check_want(value: object) -> str:
    """Return the wanted state, or raise RegistryError when it is none of ready, drain, maint."""
    if value not in WANTS or not isinstance(value, str):
        raise RegistryError(f"instance: want {_show(value)} is not one of {', '.join(WANTS)}")
    return value


def check_share(value: object) -> int:
    """Return the share as a number, or raise RegistryError when it is not a percentage."""
    number = _integer(value)
    if number is None or not 0 <= number <= 100:
        raise RegistryError(
            f"split: share {_show(value)} is not between 0 and 100; canary.share takes a percentage"
        )
    return number


def check_limit(value: object) -> float | None:
    """Return a drain's own limit in seconds (None: the default), or raise RegistryError when it makes no
    sense.
    """
    if value is None:
        return None
    try:
        seconds = (
            float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else -1.0
        )
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= DRAIN_LIMIT_MAX_S:
        raise RegistryError(f"drain: limit {_show(value)} is not between 0 and {DRAIN_LIMIT_MAX_S} seconds")
    return seconds


def check_text(value: object, name: str) -> str:
    """Return a line written by a person or a program, or raise RegistryError when it is not one printable
    line.
    """
    if not isinstance(value, str) or len(value) > TEXT_LENGTH or not value.isprintable():
        raise RegistryError(
            f"{name}: {_show(value)} is not one printable line of at most {TEXT_LENGTH} characters"
        )
    return value


def _integer(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,6}", value):
        return int(value)
    return None


def _show(value: object) -> str:
    text = (
        value
        if isinstance(value, str) and value.isprintable() and value.strip() == value != ""
        else repr(value)
    )
    return text if len(text) <= 80 else text[:77] + "..."


# --- values out


def parse_instance(id_: str, stored: Mapping[str, str]) -> Instance:
    """Make an Instance of a stored hash. Raises RegistryError when any field is unusable."""
    missing = [name for name in ("pool", "addr", "port", "release") if name not in stored]
    if missing:
        raise RegistryError(f"instance: {_show(id_)} has no {', '.join(missing)} stored")
    return Instance(
        id=check_id(id_),
        pool=check_pool(stored["pool"]),
        addr=check_addr(stored["addr"]),
        port=check_port(stored["port"]),
        release=check_release(stored["release"]),
        want=check_want(stored.get("want", "ready")),
        since=_seconds(stored.get("since", "0")),
        limit_s=check_limit(stored.get("limit")),
    )


def parse_state(
    revision: int,
    instances: Mapping[str, Mapping[str, str]],
    split: Mapping[str, str],
    latch: Mapping[str, str],
    forced: frozenset[str] = frozenset(),
) -> State:
    """Make a State of what Redis holds. Unusable instances land in ``rejected``.

    Raises RegistryError when the split is unusable: a share cannot be guessed.
    """
    good: dict[str, Instance] = {}
    rejected: dict[str, str] = {}
    for id_, stored in sorted(instances.items()):
        try:
            good[id_] = parse_instance(id_, stored)
        except RegistryError as error:
            rejected[id_] = str(error)
    latches = {}
    if latch:
        latches["canary"] = Latch(
            reason=latch.get("reason", ""),
            cause=latch.get("cause", ""),
            by=latch.get("by", ""),
            since=_seconds(latch.get("since", "0")),
            releases=tuple(latch.get("releases", "").split()),
        )
    return State(
        revision=revision,
        instances=MappingProxyType(good),
        split=Split(
            check_share(split.get("share", DEFAULT_SHARE)),
            split.get("by", ""),
            _seconds(split.get("since", "0")),
        ),
        latches=MappingProxyType(latches),
        forced=forced,
        rejected=MappingProxyType(rejected),
    )


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


# --- the scripts

_PRELUDE = """
local revision_key, journal_key, instances_key, split_key, latch_key, forced_key =
    KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local who, cause, expect, journal_length = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local instance_prefix = ARGV[5]

local function revision() return tonumber(redis.call('GET', revision_key) or '0') end
local function now()
  local t = redis.call('TIME')
  return string.format('%d.%06d', t[1], t[2])
end
local function note(kind, subject, json, at_revision)
  return redis.call('XADD', journal_key, 'MAXLEN', '~', journal_length, '*', 'kind', kind, 'subject', subject,
    'cause', cause, 'who', who, 'fields', json, 'revision', at_revision)
end
local function unchanged() return {'same', revision(), ''} end
local function commit(kind, subject, fields)
  local new = redis.call('INCR', revision_key)
  local line = note(kind, subject, cjson.encode(fields), new)
  redis.call('PUBLISH', revision_key, new)
  return {'changed', new, line}
end
local function all(key)
  local flat, map = redis.call('HGETALL', key), {}
  for i = 1, #flat, 2 do map[flat[i]] = flat[i + 1] end
  return map
end
if expect ~= '' and tonumber(expect) ~= revision() then return {'conflict', revision(), ''} end
"""

_SNAPSHOT = """
local instances = {}
for i, id in ipairs(redis.call('SMEMBERS', KEYS[3])) do
  instances[i] = {id, redis.call('HGETALL', ARGV[1] .. id)}
end
return {redis.call('GET', KEYS[1]) or '0', instances, redis.call('HGETALL', KEYS[4]),
  redis.call('HGETALL', KEYS[5]), redis.call('SMEMBERS', KEYS[6])}
"""

# A canary that registers with releases the latch has not seen is a new attempt: the latch opens.
_REGISTER = (
    _PRELUDE
    + """
local id, pool, addr, port, release = ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10]
local key = instance_prefix .. id
local old = all(key)
if old.pool == pool and old.addr == addr and old.port == port and old.release == release and old.want
    and redis.call('SISMEMBER', instances_key, id) == 1 then
  return unchanged()
end
redis.call('HSET', key, 'pool', pool, 'addr', addr, 'port', port, 'release', release,
  'want', old.want or 'ready', 'since', old.since or now())
redis.call('SADD', instances_key, id)
if (old.want or 'ready') == 'ready' then redis.call('SREM', forced_key, id) end
local result = commit('instance.register', id,
  {pool = pool, addr = addr, port = tonumber(port), release = release, was = old.release})
local latch = all(latch_key)
if pool == 'canary' and latch.releases and old.release ~= release then
  local latched = {}
  for name in string.gmatch(latch.releases, '%S+') do latched[name] = true end
  local fresh = true
  for _, other in ipairs(redis.call('SMEMBERS', instances_key)) do
    local it = all(instance_prefix .. other)
    if it.pool == 'canary' and latched[it.release] then fresh = false end
  end
  if fresh then
    redis.call('DEL', latch_key)
    cause = result[3]
    commit('canary.on', 'canary', {reason = 'new release ' .. release})
    result[2] = revision()
  end
end
return result
"""
)

_UNREGISTER = (
    _PRELUDE
    + """
local id, force = ARGV[6], ARGV[7]
local key = instance_prefix .. id
local marked = 0
if force == '1' then marked = redis.call('SADD', forced_key, id) end
local gone = redis.call('DEL', key) + redis.call('SREM', instances_key, id)
if gone + marked == 0 then return unchanged() end
return commit('instance.unregister', id, {force = force == '1'})
"""
)

_WANT = (
    _PRELUDE
    + """
local id, want, limit, force = ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local key = instance_prefix .. id
local old = all(key)
if not old.pool then return {'unknown', revision(), ''} end
local forced = redis.call('SISMEMBER', forced_key, id) == 1
local force_now = force == '1'
if old.want == want and (old.limit or '') == limit and forced == force_now then return unchanged() end
redis.call('HSET', key, 'want', want)
if old.want ~= want then redis.call('HSET', key, 'since', now()) end
if limit == '' then redis.call('HDEL', key, 'limit') else redis.call('HSET', key, 'limit', limit) end
if force_now then redis.call('SADD', forced_key, id) else redis.call('SREM', forced_key, id) end
return commit('instance.want', id, {want = want, was = old.want, limit = tonumber(limit), force = force_now})
"""
)

_SHARE = (
    _PRELUDE
    + """
local share, only_if_unset = ARGV[6], ARGV[7]
local old = redis.call('HGET', split_key, 'share')
if old == share or (old and only_if_unset == '1') then return unchanged() end
redis.call('HSET', split_key, 'share', share, 'by', who, 'since', now())
return commit('split.share', 'split', {share = tonumber(share), was = tonumber(old)})
"""
)

_CANARY_OFF = (
    _PRELUDE
    + COUNT
    + """
local reason, kind, counter = ARGV[6], ARGV[7], ARGV[8]
if counter ~= '' then
  local found = count(KEYS[7], kind, counter)
  if found ~= 'new' then return {found, revision(), ''} end
end
if redis.call('EXISTS', latch_key) == 1 then return unchanged() end
local releases, seen = {}, {}
for _, id in ipairs(redis.call('SMEMBERS', instances_key)) do
  local it = all(instance_prefix .. id)
  if it.pool == 'canary' and it.release and not seen[it.release] then
    seen[it.release] = true
    releases[#releases + 1] = it.release
  end
end
table.sort(releases)
redis.call('HSET', latch_key, 'reason', reason, 'cause', cause, 'by', who, 'since', now(),
  'releases', table.concat(releases, ' '))
return commit('canary.off', 'canary', {reason = reason, releases = table.concat(releases, ' ')})
"""
)

_CANARY_ON = (
    _PRELUDE
    + """
if redis.call('DEL', latch_key) == 0 then return unchanged() end
return commit('canary.on', 'canary', {reason = ARGV[6]})
"""
)

_STEP = (
    _PRELUDE
    + """
local steps_key = KEYS[7]
local state, share, kind, fields = ARGV[6], ARGV[7], ARGV[8], ARGV[9]
if share ~= '' then redis.call('HSET', split_key, 'share', share, 'by', who, 'since', now()) end
local new = redis.call('INCR', revision_key)
local line = note(kind, 'canary', fields, new)
redis.call('HSET', steps_key, 'state', state, 'kind', kind, 'fields', fields, 'journal', line, 'by', who)
redis.call('PUBLISH', revision_key, new)
return {'changed', new, line}
"""
)

_NOTE = _PRELUDE + "return {'noted', revision(), note(ARGV[6], ARGV[7], ARGV[8], revision())}"

_KEYS = (REVISION, JOURNAL, INSTANCES, SPLIT, LATCH, FORCED)


class Registry:
    """The registry behind one Redis client (see ``redis_link.connect``; replies must be decoded to text).

    Every method raises redis.RedisError when Redis cannot be reached; nothing is retried behind the caller's
    back.
    """

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self._register = client.register_script(_REGISTER)
        self._unregister = client.register_script(_UNREGISTER)
        self._want = client.register_script(_WANT)
        self._share = client.register_script(_SHARE)
        self._canary_off = client.register_script(_CANARY_OFF)
        self._canary_on = client.register_script(_CANARY_ON)
        self._step = client.register_script(_STEP)
        self._note = client.register_script(_NOTE)

    def snapshot(self) -> State:
        """Read the whole desired state in one atomic round trip."""
        # EVAL_RO, for users of Redis who may read and not write: EVAL asks for the right to write its keys.
        revision, instances, split, latch, forced = self.client.eval_ro(
            _SNAPSHOT, len(_KEYS), *_KEYS, INSTANCE
        )
        return parse_state(
            int(revision),
            {id_: _pairs(flat) for id_, flat in instances},
            _pairs(split),
            _pairs(latch),
            frozenset(forced),
        )

    def register(
        self,
        id: str,
        addr: str,
        port: int,
        release: str,
        pool: str,
        *,
        by: str = "salt",
        cause: str = "",
        expect_revision: int | None = None,
    ) -> Change:
        """Add an instance or update where and what it is; what is wanted of it stays as it was.

        The address is what Salt knows, never what the machine says about itself.
        A canary whose releases are all new since the canary was turned off opens the latch in the same step.

        Raises RegistryError on a value out of its schema, Conflict when the revision is not the expected one.
        """
        args = (check_id(id), check_pool(pool), check_addr(addr), check_port(port), check_release(release))
        return self._write(self._register, args, by, cause, expect_revision)

    def unregister(self, id: str, *, force: bool = False, by: str = "salt", cause: str = "") -> Change:
        """Forget an instance. ``force`` lets it go even if it is the last live production server.

        Raises RegistryError when the id is not a machine's id. An instance already gone is no error.
        """
        return self._write(self._unregister, (check_id(id), "1" if force else "0"), by, cause)

    def want(
        self,
        id: str,
        want: str,
        *,
        limit_s: float | None = None,
        force: bool = False,
        by: str = "salt",
        cause: str = "",
        expect_revision: int | None = None,
    ) -> Change:
        """Say what an instance should be: ready, drain or maint.

        ``limit_s`` is how long open requests may take before they are cut; None takes the controller's
        default. ``force`` lets the last live production server go.

        Raises RegistryError on a bad value, UnknownInstance, Conflict when the revision is not the expected
        one.
        """
        limit = check_limit(limit_s)
        args = (check_id(id), check_want(want), "" if limit is None else f"{limit:g}", "1" if force else "0")
        return self._write(self._want, args, by, cause, expect_revision)

    def set_share(
        self, share: int, *, by: str = "salt", cause: str = "", expect_revision: int | None = None
    ) -> Change:
        """Set the canary's share in percent. A latched canary gets nothing until it is turned on, whatever
        its share.

        Raises RegistryError when it is not between 0 and 100, Conflict when the revision is not the expected
        one.
        """
        return self._write(self._share, (check_share(share), "0"), by, cause, expect_revision)

    def init_share(self, share: int, *, by: str = "salt", cause: str = "") -> Change:
        """Set the canary's share unless somebody has set one before: what a first highstate does."""
        return self._write(self._share, (check_share(share), "1"), by, cause)

    def canary_off(
        self, reason: str, *, cause: str = "", by: str = "salt", once: tuple[str, int] | None = None
    ) -> Change:
        """Send everything to production until ``canary_on`` or a new release. A canary already off keeps its
        reason.

        ``once`` is the kind and counter of the event that causes this: it is counted in the same step.

        Raises RegistryError on an unusable reason, Counted when the event counted before.
        """
        if not reason:
            raise RegistryError(
                "canary: off needs a reason; say in one line why, such as error rate 12 % above 5 %"
            )
        kind, counter = once or ("", "")
        args = (check_text(reason, "canary.reason"), kind, str(counter))
        return self._write(self._canary_off, args, by, cause, keys=(*_KEYS, COUNTERS) if once else _KEYS)

    def canary_on(self, *, reason: str = "", cause: str = "", by: str = "salt") -> Change:
        """Open the latch. The controller still waits for a healthy canary before it sends anything there."""
        return self._write(self._canary_on, (check_text(reason, "canary.reason"),), by, cause)

    def step(
        self,
        state: str,
        share: int | None,
        kind: str,
        fields: Mapping[str, Any],
        *,
        by: str,
        cause: str = "",
        expect_revision: int,
    ) -> Change:
        """Move the canary's progressive steps: their new state, the share that goes with it (None: as it is), and
        the journal line that tells of it, all at once.

        Raises Conflict when anything in the registry changed since it was read.
        """
        wanted = "" if share is None else check_share(share)
        args = (state, wanted, check_text(kind, "journal.kind"), json.dumps(dict(fields)))
        return self._write(self._step, args, by, cause, expect_revision, keys=(*_KEYS, STEPS))

    def note(self, kind: str, subject: str, fields: Mapping[str, Any], *, by: str, cause: str = "") -> str:
        """Append a line to the journal that changes no desired state; returns its id."""
        args = (
            check_text(kind, "journal.kind"),
            check_text(subject, "journal.subject"),
            json.dumps(dict(fields)),
        )
        return self._write(self._note, args, by, cause).journal

    def _write(
        self,
        script: Any,
        args: tuple[Any, ...],
        by: str,
        cause: str,
        expect_revision: int | None = None,
        # A user of Redis needs the right to every key that is named here: no script names one it does not use.
        keys: tuple[str, ...] = _KEYS,
    ) -> Change:
        expect = "" if expect_revision is None else str(int(expect_revision))
        head = (check_text(by, "by"), check_text(cause, "cause"), expect, JOURNAL_LENGTH, INSTANCE)
        outcome, revision, journal = script(keys=keys, args=head + args)
        if outcome == "conflict":
            raise Conflict(
                f"registry: revision is {revision}, not the expected {expect}; read it again and decide again"
            )
        if outcome in ("again", "older"):
            raise Counted(outcome)
        if outcome == "unknown":
            raise UnknownInstance(f"instance: {args[0]} is not registered; fleet.status lists those that are")
        return Change(outcome == "changed", int(revision), journal)


def _pairs(flat: list[str]) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
