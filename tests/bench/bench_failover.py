"""From the loss of Redis' primary to the next write, and what it costs: writes lost, flags that could not be read."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis
from benching import Figure, main, median, report
from fleet_bench import REPOSITORY
from fleet_bench import fleet as own_fleet
from saltern import members, pillar, redis_runs, secrets
from saltern.demo.losses import Writer, process, well
from saltern.fleet import Fleet, home
from saltern.local import cgroup, machine
from saltern.topology import access

sys.path.insert(0, str(REPOSITORY / "services" / "flags" / "src"))

from openfeature_redis import RedisProvider
from openfeature_redis.flagset import write

KEY = "product:bench"
LEAST_SECONDS = 60.0
"""How long anything here may take before the bench gives up."""


@dataclass
class Reader:
    """Evaluates a flag without a pause, and counts the answers that are not the flag's."""

    provider: RedisProvider
    reads: int = 0
    failed: int = 0

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            found = self.provider.resolve_string_details("font_color", "")
            self.reads += 1
            self.failed += found.value != "black" or found.error_code is not None
            time.sleep(0.0005)


def until(condition: Callable[[], object], what: str) -> None:
    """Poll until something is so.

    :raises RuntimeError: it is not in time
    """
    end, trouble = time.monotonic() + LEAST_SECONDS, ""
    while True:
        try:
            if condition():
                return
        except redis.RedisError as error:
            trouble = f": {error}"
        if time.monotonic() > end:
            raise RuntimeError(f"not within {LEAST_SECONDS:g} s: {what}{trouble}")
        time.sleep(0.05)


def kill_process(fleet: Fleet, id_: str) -> Callable[[], None]:
    """Kill -9 of the primary's process; its unit starts it again."""
    os.kill(process(fleet, id_), signal.SIGKILL)
    return lambda: None


def silence_process(fleet: Fleet, id_: str) -> Callable[[], None]:
    """The primary stops answering, and no connection ends: as with a network that is cut."""
    pid = process(fleet, id_)
    os.kill(pid, signal.SIGSTOP)
    return lambda: os.kill(pid, signal.SIGCONT)


def kill_machine(fleet: Fleet, id_: str) -> Callable[[], None]:
    """Everything on the primary's machine ends at once, its Sentinel too."""
    cgroup.kill(f"{fleet.cgroup}/{id_}")
    return lambda: machine.start(fleet, id_)


LOSSES = {"process": kill_process, "silent": silence_process, "machine": kill_machine}


@contextmanager
def reading(fleet: Fleet) -> Iterator[RedisProvider]:
    """A flags provider that follows the fleet's flags through Sentinel, reading from replicas."""
    settings = pillar.load(fleet.pillar_dir)["redis"]
    link = access(pillar.redis_topology(fleet, settings), settings, "observer", secrets.load(fleet))
    with tempfile.TemporaryDirectory() as folder:
        provider = RedisProvider.from_config(link, snapshot=Path(folder) / "flags.json")
        provider.attach(lambda *_: None)
        provider.initialize(None)
        try:
            yield provider
        finally:
            provider.shutdown()


def lose(
    fleet: Fleet, provider: RedisProvider, how: Callable[[Fleet, str], Callable[[], None]]
) -> tuple[float, int, int, Reader]:
    """Lose the primary once and get it back.

    Seconds without a write, writes lost with WAIT and without, and what the reader saw.
    """
    until(lambda: well(fleet), "all Redis machines are well")
    confirmed, unconfirmed, reader = Writer(fleet, True, KEY), Writer(fleet, False, KEY), Reader(provider)
    members.link(fleet).delete(confirmed.name, unconfirmed.name)
    stop, undo = threading.Event(), None
    threads = [threading.Thread(target=each.run, args=(stop,)) for each in (confirmed, unconfirmed, reader)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: min(len(confirmed.answered), len(unconfirmed.answered)) > 200, "writers at work")
        id_ = redis_runs.primary(fleet)
        lost_at = time.monotonic()
        undo = how(fleet, id_)
        gone_at = time.monotonic()
        until(lambda: all(w.moments[-1] > gone_at + 1 for w in (confirmed, unconfirmed)), "writes again")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        if undo:
            undo()
    pause = confirmed.pause(lost_at)
    until(lambda: well(fleet), "the machine is a replica")
    return pause, confirmed.lost(), unconfirmed.lost(), reader


FLAGS = {"flags": {"font_color": {"state": "ENABLED", "variants": {"a": "black"}, "defaultVariant": "a"}}}


def measure(fleet: Fleet, runs: int) -> list[Figure]:
    """Lose the primary `runs` times in each way."""
    client = members.link(fleet)
    before = client.get("saltern:flags")
    write(client, FLAGS, who="bench", why="bench of failover")
    figures = []
    try:
        with reading(fleet) as provider:
            for name, how in LOSSES.items():
                seen = [lose(fleet, provider, how) for _ in range(runs)]
                pauses = [pause for pause, *_ in seen]
                figures += [
                    Figure(f"{name}_lost_to_write_s", round(median(pauses), 2), "s", "<= 5", runs=pauses),
                    Figure(f"{name}_lost_to_write_worst_s", round(max(pauses), 2), "s", "<= 5", runs=runs),
                    Figure(f"{name}_confirmed_writes_lost", sum(c for _, c, _, _ in seen), "writes", "<= 0", runs=runs),
                    Figure(f"{name}_unconfirmed_writes_lost", sum(u for _, _, u, _ in seen), "writes", runs=runs),
                    Figure(f"{name}_flag_reads_failed", sum(r.failed for *_, r in seen), "reads", "<= 0",
                           runs=[r.reads for *_, r in seen]),
                ]  # fmt: skip
    finally:
        client = members.link(fleet)
        client.delete(Writer(fleet, True, KEY).name, Writer(fleet, False, KEY).name)
        if before is None:
            client.delete("saltern:flags")
        else:
            client.set("saltern:flags", before)
    return figures


def bench(runs: int, fleet: str) -> dict:
    """Loss of Redis' primary: seconds to the next write, writes and reads lost."""
    if fleet:
        return report("failover", measure(Fleet.load(home() / fleet), runs))
    with own_fleet() as live:
        return report("failover", measure(Fleet.load(live.state_dir), runs))


if __name__ == "__main__":
    sys.exit(
        main(
            bench,
            runs=(int, 5, "losses of each kind"),
            fleet=(str, "", "a fleet that is up; it is used as it is"),
        )
    )
