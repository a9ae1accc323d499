"""A thousand edges in a second, a burst with one cause, and more samples than a fleet has."""

from __future__ import annotations

import json
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import redis
from benching import Figure, main, median, report
from fleet_bench import fleet as own_fleet
from fleet_hands import Plant, bus, said, text_of, until
from saltern import master
from saltern.conductor import FELT
from saltern.fleet import Fleet, home, role_of
from saltern.local import cgroup

CANARY = "staging1"
HIGH = {"percent": 97.0, "high": 50, "low": 40, "cpus": 1.0, "services": {}}
LOOK_S = 0.2
"""Between two looks at all alerts: a look at a thousand keeps Redis busy for some milliseconds."""
FIRST = 5000
"""The storm's machines are those the fleet never has: nothing is decided about them, and each is told of."""


def storm(plant: Plant, edges: int) -> tuple[float, float, float, int]:
    """Have edges of as many machines and resources come within a second, and one that turns the canary off in between.

    Seconds from the first edge until the last alert is written and the conductor knows what it hears last; of those
    that sending took; milliseconds until HAProxy sends the canary nothing; and how many edges were lost.
    """
    plant.canary_on()
    names = [f"prod{FIRST + n}" for n in range(edges // 2)]
    real = [id_ for id_ in plant.fleet.inventory() if role_of(id_) == "prod"]
    events = [said(plant.fleet, name, f"{what}/high", HIGH) for what in ("cpu", "memory") for name in names]
    last = [said(plant.fleet, name, "cpu/ok", {**HIGH, "percent": 1.0}) for name in real]
    off: list[float] = []
    watch = threading.Thread(target=lambda: off.append(plant.gone(60)), daemon=True)
    watch.start()
    with bus(plant.fleet) as link:
        began = time.time()
        for at, event in enumerate(events):
            if at == edges // 2:
                asked = time.time()
                link.fire_event(*said(plant.fleet, CANARY, "cpu/high", HIGH))
            link.fire_event(*event)
            # Not faster than a second for all of them.
            time.sleep(max(0.0, began + at / edges - time.time()))
        for event in last:
            link.fire_event(*event)
        sent = time.time() - began

        def missing() -> int:
            try:
                firing = {(a.name, a.subject) for a in plant.alerts.all() if a.firing}
            except redis.TimeoutError:
                return edges  # Redis is busy with the storm
            return sum((kind, name) not in firing for kind in ("CpuHigh", "MemoryHigh") for name in names)

        def heard() -> bool:
            felt = plant.registry.client.hmget(FELT, [f"{name}/cpu" for name in real])
            # The machine itself may have said something since.
            counters = (int(json.loads(text)["counter"]) if text else 0 for text in felt)
            return all(has >= event["counter"] for has, (event, _) in zip(counters, last, strict=True))

        end = time.monotonic() + 60
        while (lost := missing()) + (not heard()) and time.monotonic() < end:
            time.sleep(LOOK_S)
        handled = time.time() - began
        watch.join(60)
        for name in (*names, CANARY):
            for what in ("cpu", "memory"):
                link.fire_event(*said(plant.fleet, name, f"{what}/ok", {**HIGH, "percent": 1.0}))
        until(lambda: missing() == edges // 2 * 2, 60, "the storm is over", LOOK_S)
    return handled, sent, (off[0] - asked) * 1000, lost


def burst(plant: Plant, edges: int) -> int:
    """Mails about so many edges with one cause."""
    wait = plant.settings["ops"]["group_interval"]
    # A group of Alertmanager's that the storm has left is swept away within this.
    time.sleep(wait + 35)
    names = [f"redis{FIRST + n}" for n in range(edges)]
    began = time.time()
    with bus(plant.fleet) as link:
        for name in names:
            link.fire_event(*said(plant.fleet, name, "cpu/high", HIGH))

        def told() -> set[str]:
            texts = "".join(text_of(mail) for mail in plant.mails(began, "CPU of redis"))
            return {name for name in names if f"CPU of {name} is high" in texts}

        until(lambda: len(told()) == edges, 2 * wait + 60, "all are mailed", 0.5)
        mails = len(plant.mails(began, "CPU of redis"))
        for name in names:
            link.fire_event(*said(plant.fleet, name, "cpu/ok", {**HIGH, "percent": 1.0}))
    return mails


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def samples(plant: Plant, count: int) -> float:
    """How many samples a second the conductor's process can take in with one processor."""
    pid = next(
        pid for pid in cgroup.processes(master.group(plant.fleet))
        if "engines.conductor" in Path(f"/proc/{pid}/cmdline").read_text()
    )  # fmt: skip
    name = next(id_ for id_ in plant.fleet.inventory() if role_of(id_) == "prod")
    events = [said(plant.fleet, name, "cpu/ok", {**HIGH, "percent": 8.0 + at / count}) for at in range(count)]
    with bus(plant.fleet) as link:
        before = cpu_seconds(pid)
        for event in events:
            link.fire_event(*event)

        def heard() -> bool:
            text = plant.registry.client.hget(FELT, f"{name}/cpu")
            return bool(text) and int(json.loads(text)["counter"]) >= events[-1][0]["counter"]

        until(heard, 120, "the last sample is known")
        used = cpu_seconds(pid) - before
    return count / max(used, 0.01)


def bench(runs: int, edges: int, burst_edges: int, sample_count: int, fleet: str) -> dict[str, Any]:
    """Send storms of signed events, and see what is handled, how soon, and how often a person is mailed."""
    existing = nullcontext(Fleet.load(home() / fleet)) if fleet else None
    figures = []
    with existing or own_fleet() as made:
        plant = Plant(made if isinstance(made, Fleet) else Fleet.load(made.state_dir))
        calm = {"pools": {"prod": {"auto": False}}, "memory": {"auto": False}, "healing": {"auto": False}}
        with plant.set(scaling=calm):
            if runs:
                found = [storm(plant, edges) for _ in range(runs)]
                handled, sent, off, lost = ([each[at] for each in found] for at in range(4))
                figures += [
                    Figure("storm_handled", median(handled), "s", "<= 10", runs=handled),
                    Figure("storm_sent_in", median(sent), "s", runs=sent),
                    Figure("storm_edges_lost", max(lost), "edges", "<= 0", runs=lost),
                    Figure("storm_canary_off", max(off), "ms", "<= 500", runs=off),
                ]
            if burst_edges:
                figures.append(Figure("burst_mails", burst(plant, burst_edges), "mails", "<= 2", runs=1))
            if sample_count:
                rate = samples(plant, sample_count)
                figures.append(Figure("samples_per_core", rate, "samples/s", ">= 2000", runs=sample_count))
        plant.canary_on()
    return json.loads(json.dumps(report("storm", figures)))


if __name__ == "__main__":
    main(
        bench,
        runs=(int, 5, "how many storms"),
        edges=(int, 1000, "edges in a storm"),
        burst_edges=(int, 200, "edges with one cause, to count mails of"),
        sample_count=(int, 10_000, "samples to send to the conductor"),
        fleet=(str, "", "an existing fleet to use, instead of one made for the bench"),
    )
