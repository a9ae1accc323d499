"""The thread that keeps a process's flag set equal to the one in Redis.

It asks Redis to announce changes (CLIENT TRACKING in broadcast mode, which replicas of Redis 6 and later
offer to any user) and reads the document again on every announcement. It also reads it every `resync`
seconds, so that a lost announcement costs at most that; the same read finds a dead link and a replica that
has lost its primary.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Any, Protocol

from openfeature_redis.health import Fault
from openfeature_redis.held import Reading
from openfeature_redis.source import Source, candidates, cut_off
from openfeature_redis.wire import Address, Connection, Lost, Refused

log = logging.getLogger("openfeature_redis")

# Seconds between rounds of attempts, doubling from the first to the second.
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 0.5
# Seconds until the next read while a server is expected to become right by itself.
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

    def run(self) -> None:
        pause = FIRST_PAUSE
        while not self._stopping.is_set():
            self._synced = False
            self._round()
            if self._synced:  # a good connection ended: look for another one at once
                pause = FIRST_PAUSE
                continue
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
            connection.call(["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", self._key])
            wait = self._look(connection)
            while not self._stopping.is_set():
                wait = self._look(connection, announced=self._announced(connection, wait))
        finally:
            self._connection = None
            connection.close()

    def _look(self, connection: Connection, announced: bool = False) -> float:
        """Read, pass it on, and return the seconds until the next look.

        An announced change is read without asking how the server is, which the next regular look does.
        """
        keys = [self._key] if self._revision_key is None else [self._key, self._revision_key]
        if announced:
            (values,) = connection.call(["MGET", *keys])
        else:
            values, info = connection.call(["MGET", *keys], ["INFO", "replication"])
            lag = cut_off(info.decode())
            if lag is not None:
                if not self._owner.has_flags():
                    self._owner.take(self._reading(connection, values))  # better an old set than none
                raise Lost(f"{connection.address}: {lag}")
        fault = self._owner.take(self._reading(connection, values))
        self.last_fault = fault
        self._synced = True
        look = self._owner.report(fault)
        self.settled.set()
        return min(look, self._resync if fault is None or fault.at_once else RECHECK)

    def _reading(self, connection: Connection, values: Sequence[bytes | None]) -> Reading:
        revision = values[1] if len(values) > 1 else None
        number = int(revision) if revision is not None and revision.isdigit() else None
        return Reading(values[0], number, str(connection.address))

    def _announced(self, connection: Connection, wait: float) -> bool:
        """Whether Redis announced a change of the document within `wait` seconds."""
        deadline = time.monotonic() + wait
        while not self._stopping.is_set():
            for push in connection.pushes(deadline - time.monotonic()):
                if push[0] == b"invalidate" and self._concerns(push[1]):
                    return True
            if time.monotonic() >= deadline:
                return False
        return False

    def _concerns(self, keys: Any) -> bool:
        return keys is None or self._key.encode() in keys  # None: the whole database was flushed
