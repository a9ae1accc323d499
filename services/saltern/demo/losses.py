"""Redis' primary lost while somebody writes: a writer that knows what was answered, and whether all is well."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import redis

from saltern import members, redis_runs
from saltern.fleet import Fleet
from saltern.local import cgroup


@dataclass
class Writer:
    """Writes one number after the other, some confirmed by WAIT and some not, and notes what was answered and when."""

    fleet: Fleet
    wait: bool
    key: str
    pause_s: float = 0.0
    answered: list[int] = field(default_factory=list)
    moments: list[float] = field(default_factory=list)

    def run(self, stop: threading.Event) -> None:
        client, number, name = members.link(self.fleet), 0, self.name
        while not stop.is_set():
            number += 1
            try:
                if self.wait:
                    with client.pipeline(transaction=False) as pipe:
                        _, replicas = pipe.sadd(name, number).wait(1, 500).execute()
                else:
                    replicas = client.sadd(name, number)
            except redis.RedisError:
                time.sleep(0.005)
                continue
            if replicas:
                self.answered.append(number)
                self.moments.append(time.monotonic())
            time.sleep(self.pause_s)

    @property
    def name(self) -> str:
        return f"{self.key}:{'confirmed' if self.wait else 'unconfirmed'}"

    def lost(self) -> int:
        """Writes that were answered and are not there."""
        return len(set(self.answered) - {int(n) for n in members.link(self.fleet).smembers(self.name)})

    def pause(self, since: float) -> float:
        """Seconds of the longest time without an answered write that ended after `since`, by the monotonic clock."""
        # What was answered while the signal was on its way belongs to the primary before.
        ends = zip(self.moments, self.moments[1:], strict=False)
        return max((b - a for a, b in ends if b > since), default=float("inf"))


def well(fleet: Fleet) -> bool:
    """Whether the primary has its replicas, and all Sentinels see them."""
    status = redis_runs.status(fleet)
    machines = status["machines"]
    return machines.get(status["primary"], {}).get("good_replicas") == len(machines) - 1 and all(
        each["sentinel"].startswith(f"{status['primary']} is primary; {len(machines) - 1} other")
        for each in machines.values()
    )


def process(fleet: Fleet, id_: str) -> int:
    """Redis' process on a machine, as the host sees it.

    :raises RuntimeError: it has none
    """
    for pid in cgroup.processes(f"{fleet.cgroup}/{id_}"):
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        if command.startswith(b"/usr/bin/redis-server") and b"sentinel" not in command:
            return pid
    raise RuntimeError(f"{id_} runs no Redis")
