"""From load on the canary's machine to no request for the canary; from an alert's event to the mail."""

from __future__ import annotations

import json
import random
import time
from contextlib import nullcontext
from typing import Any

from benching import Figure, main, median, percentile, report
from fleet_bench import fleet as own_fleet
from fleet_hands import Plant, bus, said, until
from saltern.fleet import Fleet, home, role_of

CANARY = "staging1"
PEERS_S = {
    "Prometheus + Alertmanager at their defaults (60 s scrape and evaluation)": 120.0,
    "cron, every minute": 60.0,
}
"""Seconds of the polling alone, as their documentation has it: two looks, or one."""


def ready(plant: Plant) -> None:
    """The canary is on, takes requests, and its machine is at rest."""
    until(lambda: not plant.alert("CpuHigh", CANARY), 60, "its alert is over")
    plant.canary_on()


def burn(plant: Plant) -> float:
    """Load one processor of the canary's machine until HAProxy sends it nothing; seconds from the burner's start."""
    ready(plant)
    time.sleep(random.random())  # beacons look once a second: begin anywhere in between
    path = plant.start_burning(CANARY)
    try:
        ended = plant.gone(60)
        # Written a little later; before that it would be taken for over.
        until(lambda: plant.alert("CpuHigh", CANARY), 30, "its alert")
        return ended - float(path.read_text())
    finally:
        plant.stop_unit(CANARY)


def events_to_routing(plant: Plant, runs: int) -> list[float]:
    """Milliseconds from a signed event on the bus to HAProxy's share 0."""
    found = []
    high = {"percent": 99.0, "high": 50, "low": 40, "cpus": 1.0, "services": {}}
    with bus(plant.fleet) as event:
        for _ in range(runs):
            plant.canary_on()
            data, tag = said(plant.fleet, CANARY, "cpu/high", high)
            began = time.time()
            event.fire_event(data, tag)
            found.append((plant.gone(10) - began) * 1000)
            time.sleep(0.6)  # within what a machine may say
        event.fire_event(*said(plant.fleet, CANARY, "cpu/ok", {**high, "percent": 1.0}))
    return found


def alerts_to_mail(plant: Plant, rounds: int) -> list[float]:
    """Seconds from a signed event on the bus to the mail in the mailbox; each role's alerts are a mail of their own.

    Only of roles whose CPU no reflex answers to: nothing else shall happen.
    """
    machines = {role_of(name): name for name in plant.fleet.addresses() if role_of(name) in ("redis", "ops")}
    box = plant.mailbox()
    values = {"percent": 97.0, "high": 50, "low": 40, "cpus": 1.0, "services": {}}
    found = []

    def mails(summary: str, since: float, over: bool = False) -> list[float]:
        """When mails came that tell of this; one mail may tell of several alerts."""
        found = []
        for path in box.iterdir():
            firing, _, ended = path.read_text().partition("\nOver:\n")
            if summary in (ended if over else firing) and path.stat().st_mtime > since:
                found.append(path.stat().st_mtime)
        return found

    with bus(plant.fleet) as event:
        for each in range(rounds):
            if each:
                # An emptied group of Alertmanager's is swept away within this.
                time.sleep(plant.settings["ops"]["group_interval"] + 35)
            for name in machines.values():
                began = time.time()
                event.fire_event(*said(plant.fleet, name, "cpu/high", values))
                arrived = until(
                    lambda n=name, b=began: mails(f"CPU of {n} is high", b), 60, f"mail about {name}", 0.01
                )
                found.append(arrived[0] - began)
            began = time.time()
            for name in machines.values():
                event.fire_event(*said(plant.fleet, name, "cpu/ok", {**values, "percent": 1.0}))
            for name in machines.values():
                until(lambda n=name, b=began: mails(f"CPU of {n} is high", b, True), 120, f"{name} is over")
    return found


def minion_cpu(plant: Plant, machine: str, seconds: float) -> float:
    """Per cent of one processor that a machine's minion uses."""
    stat = next(
        path
        for folder in ("", "unified/")
        if (
            path := plant.root(machine) / f"sys/fs/cgroup/{folder}system.slice/salt-minion.service/cpu.stat"
        ).exists()
    )

    def used() -> float:
        return int(stat.read_text().split()[1]) / 1e6

    before, began = used(), time.monotonic()
    time.sleep(seconds)
    return (used() - before) / (time.monotonic() - began) * 100


def beacons_cost(plant: Plant, seconds: float) -> float:
    """Per cent of one processor that the beacons of a machine at rest use."""
    machine = next(name for name in plant.fleet.addresses() if role_of(name) == "prod")
    with_them = minion_cpu(plant, machine, seconds)
    # Not `beacons.disable`: Salt does nothing about those that come from the pillar.
    with plant.set(machine, beacons={"enabled": False}):
        time.sleep(5)
        without = minion_cpu(plant, machine, seconds)
    return max(0.0, with_them - without)


def bench(runs: int, events: int, mail_rounds: int, cost_seconds: int, fleet: str) -> dict[str, Any]:
    """Load the canary's machine, and see how soon it gets no requests and how soon the operator gets mail."""
    existing = nullcontext(Fleet.load(home() / fleet)) if fleet else None
    figures = []
    with existing or own_fleet() as made:
        plant = Plant(made if isinstance(made, Fleet) else Fleet.load(made.state_dir))
        if runs:
            burned = [burn(plant) for _ in range(runs)]
            figures += [
                Figure("load_to_canary_off_p50", median(burned), "s", runs=burned, peers=PEERS_S),
                Figure(
                    "load_to_canary_off_p95",
                    percentile(burned, 95),
                    "s",
                    "<= 3.2",
                    runs=burned,
                    peers=PEERS_S,
                ),
            ]
        if events:
            routed = events_to_routing(plant, events)
            figures += [
                Figure("event_to_routing_p50", median(routed), "ms", "<= 25", runs=routed),
                Figure("event_to_routing_p99", percentile(routed, 99), "ms", "<= 60", runs=routed),
            ]
        if mail_rounds:
            mailed = alerts_to_mail(plant, mail_rounds)
            figures.append(Figure("alert_to_mail_p95", percentile(mailed, 95), "s", "<= 1.5", runs=mailed))
        if cost_seconds:
            figures.append(Figure("beacons_cpu", beacons_cost(plant, cost_seconds), "% of a core", "<= 1"))
        plant.canary_on()
    return json.loads(json.dumps(report("reaction", figures)))


if __name__ == "__main__":
    main(
        bench,
        runs=(int, 20, "how often to load the canary's machine"),
        events=(int, 50, "how many signed events to send"),
        mail_rounds=(int, 4, "rounds of one mail a role"),
        cost_seconds=(int, 30, "how long to watch a machine at rest"),
        fleet=(str, "", "an existing fleet to use, instead of one made for the bench"),
    )
