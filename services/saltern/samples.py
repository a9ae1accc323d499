"""What the product uses on each machine, second by second: told by the beacon `samples`, kept for the judge.

``saltern:samples``  stream; each entry is one machine's batch: ``machine``, ``age`` (seconds from its last sample to
                     the entry's own time) and ``data``, JSON of what `sampling.add` made

Entries carry Redis's time, as those of ``saltern:windows`` do, so that the two can be laid over each other whatever
the clocks of the machines say. They are kept as long as the controller's seconds are.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from saltern import events
from saltern.events import Event, Rejected
from saltern.judge import Host, Window
from saltern.observed import WINDOWS_LENGTH
from saltern.registry import PREFIX
from saltern.sampling import LARGEST_BATCH, LONGEST_S, SHORTEST_S
from saltern.windows import Second, of_one_canary, pair

log = logging.getLogger("saltern.samples")

SAMPLES = PREFIX + "samples"
KEPT_S = float(WINDOWS_LENGTH)
LEAST_BETWEEN_S = 0.5
"""Between two batches of one machine: a machine that tells more often is not believed, so what is kept is bounded."""
MOST_WAITING = 10_000
"""Batches that wait for a Redis that does not answer; the oldest go first."""

TAG = re.compile(r"salt/beacon/[a-z]+[0-9]{1,4}/samples/taken\Z")


@dataclass(frozen=True)
class Batch:
    """One machine's samples in a row.

    :ivar ended: of the last, unix seconds by Redis's clock
    :ivar seconds: that all of them cover
    :ivar cpu: of the product, per cent of the machine's limit, oldest first; :ivar memory: likewise
    """

    machine: str
    ended: float
    seconds: float
    cpu: tuple[float, ...]
    memory: tuple[float, ...]

    def times(self) -> list[float]:
        """When each sample ended: they were taken at even steps."""
        each = self.seconds / len(self.cpu)
        return [self.ended - each * left for left in range(len(self.cpu) - 1, -1, -1)]


def checked(values: Mapping[str, Any]) -> dict[str, Any]:
    """A batch's values as they are kept.

    :raises ValueError: they are not what the beacon sends
    """
    told = {name: values.get(name) for name in ("seconds", "cpu", "memory")}
    if set(values) != set(told):
        raise ValueError(f"samples: there are {', '.join(sorted(values))}; {', '.join(told)} are right")
    for name in ("cpu", "memory"):
        numbers = told[name]
        if not isinstance(numbers, list) or not all(_between(n, 0, 100) for n in numbers):
            raise ValueError(f"samples: {name} is not a list of numbers from 0 to 100")
    count = len(told["cpu"])
    if not 1 <= count <= LARGEST_BATCH or count != len(told["memory"]):
        raise ValueError(f"samples: not 1 to {LARGEST_BATCH} of cpu and as many of memory")
    if not _between(told["seconds"], count * SHORTEST_S * 0.9, count * LONGEST_S * 1.1):
        raise ValueError(f"samples: seconds {told['seconds']!r} cannot be the time of {count} samples")
    return told


def _between(value: object, least: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


class Recorder:
    """Keeps what machines tell. `hear` from the thread that reads the bus, `write` from one that may wait for Redis.

    :param secret: the fleet's event secret, hex
    """

    def __init__(self, client: redis.Redis, secret: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.client = client
        self.secret = secret
        self.clock = clock
        self._waiting: deque[tuple[float, Event]] = deque(maxlen=MOST_WAITING)
        self._heard: dict[str, float] = {}
        self._refused: set[str] = set()
        self._lock = threading.Lock()

    def hear(self, tag: str, data: Mapping[str, Any]) -> bool:
        """Take an event from the bus; whether it is one of samples and is believed. Never blocks."""
        if not TAG.match(tag):
            return False
        try:
            event = events.authenticate(self.secret, tag, data.get("id"), data, time.time_ns())
            checked(event.values)
        except (Rejected, ValueError) as error:
            # Said once for each tag: nothing but a missing sample comes of it.
            if tag not in self._refused and len(self._refused) < 1000:
                self._refused.add(tag)
                log.warning("%s: not kept: %s", tag, error)
            return False
        now = self.clock()
        if now - self._heard.get(event.machine, float("-inf")) < LEAST_BETWEEN_S:
            return False
        self._heard[event.machine] = now
        with self._lock:
            self._waiting.append((now, event))
        return True

    def write(self) -> int:
        """Write down what was heard; how many batches.

        :raises redis.RedisError: Redis does not answer; what is not written waits
        """
        written = 0
        while self._waiting:
            with self._lock:
                heard, event = self._waiting[0]
            try:
                events.once(self.client, event)
                fields = {
                    "machine": event.machine,
                    "age": f"{self.clock() - heard:.3f}",
                    "data": json.dumps(checked(event.values)),
                }
                oldest = int((self.client.time()[0] - KEPT_S) * 1000)
                self.client.xadd(SAMPLES, fields, minid=max(0, oldest), approximate=True)
                written += 1
            except Rejected as error:
                log.warning("%s", error)
            with self._lock:
                # Unless it fell off the other end while we wrote.
                if self._waiting and self._waiting[0][1] is event:
                    self._waiting.popleft()
        return written


def read(client: redis.Redis, started: float, ended: float) -> list[Batch]:
    """The batches that may hold samples from ``started`` to ``ended`` (unix seconds by Redis's clock).

    Raises redis.RedisError. What is not a batch is left out: a missing sample never passes.
    """
    last = ended + LARGEST_BATCH * LONGEST_S
    entries = client.xrange(SAMPLES, min=int(started * 1000), max=int(last * 1000))
    return [batch for id_, fields in entries if (batch := parse(id_, fields)) is not None]


def parse(id_: str, fields: Mapping[str, str]) -> Batch | None:
    """An entry of the stream; None, and a line in the log, when it is no batch."""
    try:
        told = checked(json.loads(fields["data"]))
        at = int(id_.split("-")[0]) / 1000 - float(fields["age"])
        return Batch(fields["machine"], at, told["seconds"], *(tuple(told[n]) for n in ("cpu", "memory")))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        log.warning("%s: entry %s is no batch: %s", SAMPLES, id_, error)
        return None


def hosts(entries: Sequence[Second], batches: Iterable[Batch]) -> dict[str, list[Host]]:
    """The machines that served in these seconds, by pool, each with its samples from exactly them.

    A machine that told nothing is there too, without samples: the judge says what is missing.
    """
    ends = [entry.at for entry in entries]
    pools: dict[str, str] = {}
    for entry in entries:
        pools.update({id_: pool for id_, (pool, requests) in entry.machines.items() if requests})
    taken: dict[str, list[tuple[float, float, float]]] = {id_: [] for id_ in pools}
    for batch in batches:
        if batch.machine not in taken:
            continue
        for at, cpu, memory in zip(batch.times(), batch.cpu, batch.memory, strict=True):
            place = bisect_left(ends, at)
            if place < len(ends) and ends[place] - entries[place].seconds < at:
                taken[batch.machine].append((at, cpu, memory))
    found: dict[str, list[Host]] = {"canary": [], "prod": []}
    for id_, rows in sorted(taken.items()):
        rows.sort()
        host = Host(id_, tuple(row[1] for row in rows), tuple(row[2] for row in rows))
        found[pools[id_]].append(host)
    return found


def judged(client: redis.Redis, entries: Sequence[Second]) -> tuple[Window, Window]:
    """What the judge compares: the canary's window and production's of these seconds, with the machines' samples.

    Raises redis.RedisError, and JudgeError as `windows.pair`.
    """
    used = of_one_canary(entries)
    batches = read(client, used[0].at - used[0].seconds, used[-1].at) if used else []
    return pair(used or entries, hosts(used, batches))
