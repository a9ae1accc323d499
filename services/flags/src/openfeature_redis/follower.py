"""The thread that keeps a process's flag set equal to the one in Redis.

It hears of changes in two ways, both of which replicas of Redis 6 and later offer on one connection. A writer
publishes the new document, which is used at once. Redis itself announces that the key changed (CLIENT
TRACKING in broadcast mode), whoever changed it and however; then the document is read. It is also read every
`resync` seconds, so that a lost announcement costs at most that; the same read finds a dead link and a
replica that has lost its primary.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, Protocol

from openfeature_redis.health import Fault
from openfeature_redis.held import Reading
from openfeature_redis.source import Source, candidates, cut_off
from openfeature_redis.wire import Address, Connection, Lost, Refused

log = logging.getLogger("openfeature_redis")

# Seconds between rounds of attempts, doubling from the first to the second.
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 0.5
# Seconds until a server is read again that is expected to become right by itself, or that published
# something.
RECHECK = 0.05


class Owner(Protocol):
    """Whom the follower works for."""

    def take(self, reading: Reading) -> Fault | None:
        """Use what was read; the fault says why it was not."""

    def report(self, fault: Fault | None) -> float:
        """Hear how things stand; answers in how many seconds it wants to hear again at the latest."""

    def has_flags(self) -> bool:
        """Whether evaluations can be answered."""


class Follower(threading.Thread):
    """One thread, at most one connection. `settled` is set once the first round has succeeded or failed."""

    def __init__(
        self, source: Source, key: str, revision_key: str | None, resync: float, owner: Owner
    ) -> None:
        super().__init__(name=f"openfeature-redis {key}", daemon=True)
        self.settled = threading.Event()
        self.last_fault: Fault | None = None
        self._source = source
        self._key = key
        self._revision_key = revision_key
        self._resync = resync
        self._owner = owner
        self._stopping = threading.Event()
        self._connection: Connection | None = None
        self._synced = False
        self._checked = float("-inf")  # when the server was last asked how it is

    def run(self) -> None:
        try:
            self._keep_following()
        except Exception as error:
            self.last_fault = Fault(
                f"flags are no longer followed, because of a bug: {error!r}", at_once=True
            )
            self._owner.report(self.last_fault)
            raise
        finally:
            self.settled.set()

    def _keep_following(self) -> None:
        pause = FIRST_PAUSE
        while not self._stopping.is_set():
            self._synced = False
            self._round()
            if self._synced:
                pause = FIRST_PAUSE
            look = self._owner.report(self.last_fault)
            self.settled.set()
            self._stopping.wait(min(pause, look))
            pause = min(pause * 2, LONGEST_PAUSE)

    def stop(self, timeout: float) -> None:
        """End the thread and its connection; waits `timeout` seconds for it at most."""
        self._stopping.set()
        connection = self._connection
        if connection is not None:
            connection.interrupt()
        if self.is_alive() and threading.current_thread() is not self:
            self.join(timeout)

    def abandon(self) -> None:
        """In a forked child, where the thread does not exist: close this copy of the parent's connection."""
        if self._connection is not None:
            self._connection.close()

    def _round(self) -> None:
        """Try every candidate once; returns when all have failed or one that was followed has ended."""
        try:
            addresses: list[Address] = candidates(self._source)
        except Lost as error:
            self._failed(str(error))
            return
        for address in addresses:
            try:
                self._follow(address)
            except (OSError, Refused) as error:
                self._failed(str(error) if isinstance(error, Lost) else f"{address}: {error}")
            if self._stopping.is_set() or self._synced:
                return

    def _failed(self, why: str) -> None:
        if self._stopping.is_set():
            return
        self.last_fault = Fault(f"flags are not being followed: {why}")
        log.debug("%s", self.last_fault.message)
        self._owner.report(self.last_fault)

    def _follow(self, address: Address) -> None:
        """Follow one server until it fails. Raises OSError and Refused."""
        connection = Connection(address, self._source.login.tls, self._source.timeout)
        self._connection = connection
        try:
            if self._stopping.is_set():
                return
            connection.enter(self._source.login)
            connection.call(
                ["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", self._key], ["SUBSCRIBE", self._key]
            )
            self._checked = float("-inf")
            wait = self._look(connection)
            while not self._stopping.is_set():
                self._await(connection, wait)
                wait = self._look(connection)
        finally:
            self._connection = None
            connection.close()

    def _look(self, connection: Connection) -> float:
        """Read, pass it on, and return the seconds until the next look.

        Every `resync` seconds it also asks how the server is; not more often, because flips should not wait.
        """
        keys = [self._key] if self._revision_key is None else [self._key, self._revision_key]
        now = time.monotonic()
        if now - self._checked < self._resync:
            (values,) = connection.call(["MGET", *keys])
        else:
            values, info = connection.call(["MGET", *keys], ["INFO", "replication"])
            self._checked = now
            lag = cut_off(info.decode())
            if lag is not None:
                if not self._owner.has_flags():  # better an old set than none
                    self._pass_on(connection, values[0], values[-1])
                raise Lost(f"{connection.address}: {lag}")
        look = self._pass_on(connection, values[0], values[-1])
        self._synced = True
        self.settled.set()
        fault = self.last_fault
        return min(look, self._resync if fault is None or fault.at_once else RECHECK)

    def _pass_on(self, connection: Connection, document: bytes | None, revision: bytes | None) -> float:
        """Hand a document to the owner; returns when the owner wants to hear again, in seconds."""
        numbered = self._revision_key is not None and revision is not None and revision.isdigit()
        number = int(revision) if numbered and revision is not None else None
        self.last_fault = self._owner.take(Reading(document, number, str(connection.address)))
        return self._owner.report(self.last_fault)

    def _await(self, connection: Connection, wait: float) -> None:
        """Return when the next look is due: after `wait` seconds, or when a change was announced.

        A published document is used at once, without asking for it. What Redis holds is then read a little
        later, when the other processes of the machine have had their turn.
        """
        deadline = time.monotonic() + wait
        published = False
        while not self._stopping.is_set() and (left := deadline - time.monotonic()) > 0:
            for kind, *rest in connection.pushes(left):
                if kind == b"message":
                    revision, _, document = rest[1].partition(b"\n")
                    if revision.isdigit():  # else it is not from a writer of ours
                        self._pass_on(connection, document, revision)
                    deadline = min(deadline, time.monotonic() + RECHECK)
                    published = True
                elif kind == b"invalidate" and self._concerns(rest[0]) and not published:
                    return

    def _concerns(self, keys: Any) -> bool:
        return keys is None or self._key.encode() in keys  # None: the whole database was flushed
