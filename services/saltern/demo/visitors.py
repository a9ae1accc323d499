"""Visitors of the product: requests without an end over kept connections, every answer counted and checked."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

PATIENCE_S = 10.0
"""How long an answer may take before it counts as failed."""


@dataclass
class Tally:
    """What visitors saw."""

    pools: Counter[str] = field(default_factory=Counter)
    instances: Counter[str] = field(default_factory=Counter)
    releases: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    """Requests that got no answer, or none below 500: what happened to each."""
    errors: Counter[str] = field(default_factory=Counter)
    """Answers of 500 and more, by pool."""

    @property
    def requests(self) -> int:
        return sum(self.pools.values()) + len(self.failures)

    def text(self) -> str:
        """For a person."""
        failed = len(self.failures) + sum(self.errors.values())
        first = f" ({self.failures[0]})" if self.failures else ""
        return f"{failed:,} of {self.requests:,} requests failed{first}"

    @property
    def failed(self) -> int:
        return len(self.failures) + sum(self.errors.values())


def ask(connection: http.client.HTTPConnection, path: str, tally: Tally) -> None:
    """One request, counted."""
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException) as error:
        tally.failures.append(f"{type(error).__name__}: {error}")
        connection.close()
        return
    pool = answer.getheader("X-Saltern-Pool") or "nobody"
    tally.pools[pool] += 1
    tally.instances[answer.getheader("X-Saltern-Instance") or "nobody"] += 1
    tally.releases[answer.getheader("X-Saltern-Release") or "none"] += 1
    if answer.status >= 500:
        tally.errors[pool] += 1


def count(host: str, requests: int, path: str = "/version") -> Tally:
    """So many requests, one after the other."""
    tally = Tally()
    connection = http.client.HTTPConnection(host, timeout=PATIENCE_S)
    for _ in range(requests):
        ask(connection, path, tally)
    connection.close()
    return tally


class Visitors:
    """Some visitors at work; each asks, and rests for a moment."""

    def __init__(self, host: str, number: int, pause_s: float, path: str) -> None:
        self.host, self.pause_s, self.path = host, pause_s, path
        self._tallies = [Tally() for _ in range(number)]
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._visit, args=(each,), daemon=True) for each in self._tallies
        ]
        for each in self._threads:
            each.start()

    def _visit(self, tally: Tally) -> None:
        connection = http.client.HTTPConnection(self.host, timeout=PATIENCE_S)
        while not self._ended.is_set():
            ask(connection, self.path, tally)
            time.sleep(self.pause_s)
        connection.close()

    @property
    def tally(self) -> Tally:
        """What all of them saw until now."""
        whole = Tally()
        for each in self._tallies:
            whole.pools += each.pools.copy()
            whole.instances += each.instances.copy()
            whole.releases += each.releases.copy()
            whole.errors += each.errors.copy()
            whole.failures += list(each.failures)
        return whole

    def end(self) -> Tally:
        """Have them stop, and wait until they have."""
        self._ended.set()
        for each in self._threads:
            each.join()
        return self.tally


@contextmanager
def visitors(
    host: str, number: int = 4, pause_s: float = 0.015, path: str = "/version"
) -> Iterator[Visitors]:
    """Visitors while the context lasts; some two hundred requests a second."""
    found = Visitors(host, number, pause_s, path)
    try:
        yield found
    finally:
        found.end()
