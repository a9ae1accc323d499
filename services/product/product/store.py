"""The one place that talks to Redis: the shared list, its last known copy, and whether Redis is there at all.

The list is a hash ``product:items`` (id to JSON text). Every write is one Lua script, so it happens whole
or not at all, and leaves a fresh random token in ``product:token``. A reader sends the token it knows and
gets the items only if the token differs: one round trip either way. A token rather than a counter: after a
failover that lost the last writes, a counter could reach the same number with another list behind it.
"""

import logging
import secrets
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass, replace
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.commands.core import Script
from redis.retry import Retry
from redis.sentinel import (
    MasterNotFoundError,
    Sentinel,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

from product import items, snapshot
from product.config import RedisSettings
from product.items import MAX_ITEMS, Change, Conflict, Item, ListFull, NoSuchItem
from product.snapshot import Listing

log = logging.getLogger("product.store")

TIMEOUT = 0.25
"""Longest wait for one answer of Redis, in seconds. A healthy one answers in well under a millisecond."""

PING_TIMEOUT = 0.03
"""Longest wait for the health check's ping, in seconds."""

REFRESH = 0.5
"""How often the last known list is compared with Redis unasked, and a lost Redis tried, in seconds."""

REPEAT_SECONDS = 3600
"""How long a repeated request to add is recognized as one."""

UNDO_SECONDS = 3600
"""How long a deleted item can be brought back."""

READ = """
local token = redis.call('GET', KEYS[1]) or ''
if token == ARGV[1] then return {token} end
return {token, redis.call('HVALS', KEYS[2])}
"""

ADD = """
local earlier = redis.call('GET', KEYS[4])
if earlier and cjson.decode(earlier).title == ARGV[2] then return {'ok', earlier} end
if redis.call('HLEN', KEYS[2]) >= tonumber(ARGV[3]) then return {'full'} end
local id = redis.call('INCR', KEYS[3])
local now = tonumber(redis.call('TIME')[1])
local item = cjson.encode({id = id, title = ARGV[2], done = false, created = now, version = 1})
redis.call('HSET', KEYS[2], id, item)
redis.call('SET', KEYS[4], item, 'EX', ARGV[4])
redis.call('SET', KEYS[1], ARGV[1])
return {'ok', item}
"""

CHANGE = """
local stored = redis.call('HGET', KEYS[2], ARGV[2])
if not stored then return {'missing'} end
local item = cjson.decode(stored)
if ARGV[3] ~= '' and item.version ~= tonumber(ARGV[3]) then return {'conflict', stored} end
local title = ARGV[4] == '' and item.title or ARGV[4]
local done = item.done
if ARGV[5] ~= '' then done = ARGV[5] == '1' end
if title == item.title and done == item.done then return {'ok', stored} end
item.title, item.done, item.version = title, done, item.version + 1
stored = cjson.encode(item)
redis.call('HSET', KEYS[2], ARGV[2], stored)
redis.call('SET', KEYS[1], ARGV[1])
return {'ok', stored}
"""

REMOVE = """
local stored = redis.call('HGET', KEYS[2], ARGV[2])
if not stored then return {'missing'} end
redis.call('SET', KEYS[3], stored, 'EX', ARGV[3])
redis.call('HDEL', KEYS[2], ARGV[2])
redis.call('SET', KEYS[1], ARGV[1])
return {'ok', stored}
"""

RESTORE = """
local stored = redis.call('HGET', KEYS[2], ARGV[2])
if stored then return {'ok', stored} end
stored = redis.call('GET', KEYS[3])
if not stored then return {'missing'} end
if redis.call('HLEN', KEYS[2]) >= tonumber(ARGV[3]) then return {'full'} end
redis.call('HSET', KEYS[2], ARGV[2], stored)
redis.call('DEL', KEYS[3])
redis.call('SET', KEYS[1], ARGV[1])
return {'ok', stored}
"""

UNKNOWN = "-"
"""Sent as the known token when no list is known; no write ever leaves it."""


class Unavailable(Exception):
    """Redis did not take the request; nothing that the caller may rely on was changed."""


@dataclass(frozen=True)
class Reading:
    """What is on the list: ``live`` when Redis gave it just now, else the last known one, if there is any."""

    listing: Listing | None
    live: bool


def connect(settings: RedisSettings, timeout: float) -> redis.Redis:
    """A client of the primary that gives up after ``timeout`` seconds of silence and never tries twice.

    Where there are Sentinels every new connection asks one of them who the primary is: after an election the
    next connection reaches the new one.
    """
    options: dict[str, object] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "driver_info": None,
        "decode_responses": True,
    }
    if settings.ca is not None:
        options |= {"ssl": True, "ssl_ca_data": settings.ca, "ssl_check_hostname": True}
    login = {"username": settings.username, "password": settings.password}
    if settings.sentinel is None:
        host, port = settings.addresses[0]
        return redis.Redis(host=host, port=port, **login, **options)
    watch = settings.sentinel
    asked = {**options, "username": watch.username, "password": watch.password}
    kind = _SentinelConnection if settings.ca is None else _EncryptedSentinelConnection
    return _Sentinels(watch.addresses, sentinel_kwargs=asked).master_for(
        watch.service, connection_class=kind, **login, **options
    )


class _Sentinels(Sentinel):
    def discover_master(self, service_name: str) -> tuple[str, int]:
        try:
            return super().discover_master(service_name)
        except MasterNotFoundError as error:
            raise MasterNotFoundError(f"no Sentinel knows a primary of {service_name!r}") from error


class _HangsUp:
    """Ends a connection on which an answer was waited for in vain, as connections without Sentinel do.

    redis-py (8.1) keeps such a connection when it came through Sentinel: the next command is sent to the same
    silent server, and should it wake up, its late answer is taken for that command's.
    """

    def read_response(self, *arguments: object, **options: object) -> object:
        options.setdefault("disconnect_on_error", True)
        return super().read_response(*arguments, **options)  # type: ignore[misc]


class _SentinelConnection(_HangsUp, SentinelManagedConnection):
    pass


class _EncryptedSentinelConnection(_HangsUp, SentinelManagedSSLConnection):
    pass


class Store:
    """The shared list. Safe for several threads; one a process, made after the fork.

    While Redis is away reads answer at once from the last known list and writes raise Unavailable at once:
    only the keeper, a background thread, tries Redis then, every REFRESH seconds.
    """

    def __init__(self, settings: RedisSettings, state_dir: Path) -> None:
        self._redis = connect(settings, TIMEOUT)
        self._read, self._add, self._change, self._remove, self._restore = (
            self._redis.register_script(script) for script in (READ, ADD, CHANGE, REMOVE, RESTORE)
        )
        self._pinger = connect(settings, PING_TIMEOUT)
        self._pings = ThreadPoolExecutor(1, thread_name_prefix="ping")
        self._ping: Future[None] | None = None
        self._path = state_dir / "list.json"
        self._lock = threading.Lock()
        self._trouble: str | None = None
        self._disk_trouble: str | None = None
        self._known = self._load()
        self._stop = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)

    def start(self) -> None:
        """Ask Redis for the list once, then keep the last known copy fresh until close."""
        self._refresh()
        self._keeper.start()

    def close(self) -> None:
        """Stop the background threads and give the connections back."""
        self._stop.set()
        if self._keeper.is_alive():
            self._keeper.join()
        self._pings.shutdown()
        self._redis.close()
        self._pinger.close()

    @property
    def trouble(self) -> str | None:
        """Why Redis counts as away, or None while it answers."""
        return self._trouble

    @property
    def disk_trouble(self) -> str | None:
        """Why the last known list could not be saved, or None."""
        return self._disk_trouble

    @property
    def known(self) -> Listing | None:
        """The last known list, without asking Redis."""
        return self._known

    def read(self) -> Reading:
        """The list: one round trip while Redis answers, none while it is away."""
        listing = self._refresh() if self._trouble is None else None
        return Reading(listing or self._known, listing is not None)

    def add(self, title: str, repeat_key: str) -> Item:
        """Add an item.

        The same title with the same ``repeat_key`` within REPEAT_SECONDS is one request sent twice (a proxy
        tried again, a person pressed twice, an answer got lost): it answers the first item and adds nothing.

        Raises:
            ListFull, Unavailable.
        """
        return self._write(
            self._add,
            ["product:last_id", f"product:added:{repeat_key}"],
            [title, MAX_ITEMS, REPEAT_SECONDS],
        )

    def change(self, item_id: int, change: Change) -> Item:
        """Change title, tick or both; asking for what is already so changes nothing.

        Raises:
            NoSuchItem, Conflict, Unavailable.
        """
        done = "" if change.done is None else str(int(change.done))
        return self._write(
            self._change, [], [item_id, change.version or "", change.title or "", done], item_id
        )

    def remove(self, item_id: int) -> Item:
        """Take an item off the list; ``restore`` can bring it back for UNDO_SECONDS.

        Raises:
            NoSuchItem, Unavailable.
        """
        return self._write(self._remove, [f"product:deleted:{item_id}"], [item_id, UNDO_SECONDS], item_id)

    def restore(self, item_id: int) -> Item:
        """Bring a deleted item back to its old place.

        Raises:
            NoSuchItem: it was never there, or was deleted too long ago.
            ListFull, Unavailable.
        """
        return self._write(self._restore, [f"product:deleted:{item_id}"], [item_id, MAX_ITEMS], item_id)

    def ping(self, seconds: float) -> bool:
        """Whether Redis answers within ``seconds``; never waits longer, whatever network or resolver do.

        Callers that meet share one ping: a Redis that hangs costs one waiting thread, not one a caller.
        """
        with self._lock:
            if self._ping is None or self._ping.done():
                self._ping = self._pings.submit(self._ping_once)
            ping = self._ping
        try:
            return ping.result(seconds) is None
        except (redis.RedisError, NotYet):
            return False

    def _ping_once(self) -> None:
        self._pinger.ping()

    def _write(self, script: Script, keys: list[str], args: list[object], item_id: int = 0) -> Item:
        if self._trouble is not None:
            raise Unavailable(self._trouble)
        try:
            outcome, *stored = script(
                keys=["product:token", "product:items", *keys], args=[secrets.token_hex(8), *args]
            )
        except (redis.ConnectionError, redis.TimeoutError) as error:
            self._away(error)
            raise Unavailable(_reason(error)) from error
        except redis.RedisError as error:
            # It answers, so reads go on; it refuses this write: a read-only replica, a full disk.
            log.warning("redis refused a write: %s", _reason(error))
            raise Unavailable(_reason(error)) from error
        if outcome == "missing":
            raise NoSuchItem(item_id)
        if outcome == "full":
            raise ListFull
        item = items.parse(stored[0])
        if outcome == "conflict":
            raise Conflict(item)
        return item

    def _refresh(self) -> Listing | None:
        """The list as Redis has it now, remembered as the last known one; None when Redis is away.

        Threads may overtake each other here and leave the older list remembered: its token then differs from
        Redis's at the next refresh, which mends it. What is returned is always this thread's own answer.
        """
        before = self._known
        try:
            token, *changed = self._read(
                keys=["product:token", "product:items"], args=[before.token if before else UNKNOWN]
            )
        except redis.RedisError as error:
            self._away(error)
            return None
        if self._trouble is not None:
            log.warning("redis is back")
            self._trouble = None
        if before and not changed:
            listing = replace(before, as_of=time.time())
        else:
            listing = Listing(_parse_all(changed[0]), token, time.time())
            self._keep_copy(before, listing)
        self._known = listing
        return listing

    def _keep_copy(self, before: Listing | None, listing: Listing) -> None:
        with self._lock:
            if before and before.token and not listing.token:
                # Redis lost its memory. That is the truth from now on, but the copy is worth keeping aside.
                lost = self._path.with_name(f"list.lost-{int(before.as_of)}.json")
                log.error("redis came back without the list; %d items kept in %s", len(before.items), lost)
                self._save(lost, before)
            self._save(self._path, listing)

    def _save(self, path: Path, listing: Listing) -> None:
        try:
            snapshot.save(path, listing)
        except OSError as error:
            if self._disk_trouble is None:
                log.warning("%s: %s; the last known list is in memory only", path, error.strerror)
            self._disk_trouble = f"{path}: {error.strerror}"
        else:
            self._disk_trouble = None

    def _load(self) -> Listing | None:
        try:
            return snapshot.load(self._path)
        except (OSError, ValueError) as error:
            log.warning("%s: %s; starting without a last known list", self._path, error)
            return None

    def _away(self, error: redis.RedisError) -> None:
        if self._trouble is None:
            log.warning("redis is away: %s", _reason(error))
        self._trouble = _reason(error)

    def _keep(self) -> None:
        while not self._stop.wait(REFRESH):
            self._refresh()


def _parse_all(texts: list[str]) -> tuple[Item, ...]:
    """The items in the order people see them, newest first. What is no item is left out, and said."""
    parsed = []
    for text in texts:
        try:
            parsed.append(items.parse(text))
        except ValueError as error:
            log.error("product:items holds something that is no item (%s): %.80r", error, text)
    return tuple(sorted(parsed, key=lambda item: item.id, reverse=True))


def _reason(error: redis.RedisError) -> str:
    return " ".join(str(error).split()) or type(error).__name__
