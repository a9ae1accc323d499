"""From overloaded production to a new machine that serves."""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from typing import Any

from benching import Figure, main, median, percentile, report
from fleet_bench import fleet as own_fleet
from fleet_hands import BURNER, Plant, until
from saltern import scale_runs
from saltern.conductor import FELT, SCALE
from saltern.fleet import Fleet, home, role_of
from saltern.intents import Queue

SERVING_S = 120.0
PEERS_S = {
    "Kubernetes HPA + cluster autoscaler (15 s sync, 15 s metrics-server, 10 s scan)": 40.0,
    "EC2 Auto Scaling, detailed monitoring (one 60 s CloudWatch period)": 60.0,
    "Prometheus + Alertmanager at their defaults (60 s scrape and evaluation)": 120.0,
    "EC2 Auto Scaling, basic monitoring (one 5 min CloudWatch period)": 300.0,
}
"""Seconds until a polling system has decided, by the defaults in its own documentation (Kubernetes: horizontal pod
autoscaling, metrics-server and cluster-autoscaler FAQ; EC2 Auto Scaling user guide; Prometheus configuration).
Making the machine comes on top of theirs, and is in ours.
"""


def settled(plant: Plant, names: list[str]) -> None:
    """Production is what it was, at rest, and nothing holds the next decision back."""
    queue = Queue(plant.registry.client)
    until(lambda: not queue.unfinished(), SERVING_S, "nothing is queued", 0.2)

    def at_rest() -> bool:
        felt = plant.registry.client.hgetall(FELT)
        return not any(json.loads(text)["high"] for key, text in felt.items() if key.startswith("prod"))

    # Before machines are given up: while production feels high it would be made larger at once.
    until(at_rest, SERVING_S, "production is at rest", 0.2)
    extra = sum(role_of(id_) == "prod" for id_ in plant.fleet.inventory()) - len(names)
    if extra > 0:
        scale_runs.in_(plant.fleet, "prod", extra, force=True, wait=SERVING_S, by="bench")
    plant.registry.client.delete(f"{SCALE}prod")


def grow(plant: Plant, names: list[str]) -> tuple[float, float, float]:
    """Load one processor of every production machine; seconds until it is decided to grow, until a machine is made,
    and until it serves.
    """
    settled(plant, names)
    began = time.time()
    with plant.burning(*names):
        (line, *_) = until(lambda: plant.journal("scale.choose", began), SERVING_S, "it is decided")
        (new, *_) = line["fields"]["add"]
        until(lambda: new in plant.serving(), SERVING_S, f"{new} serves", 0.02)
        served = time.time()
        started = min(float((plant.root(name) / "run" / BURNER).read_text()) for name in names)
    (made, *_) = until(lambda: plant.journal("scale.make", began), SERVING_S, "it is made")
    return _seconds(line) - started, _seconds(made) - started, served - started


def _seconds(line: dict[str, Any]) -> float:
    return int(line["id"].partition("-")[0]) / 1000


def bench(runs: int, fleet: str) -> dict[str, Any]:
    """Overload production again and again, and see how soon one machine more serves; the load lasts until then."""
    existing = nullcontext(Fleet.load(home() / fleet)) if fleet else None
    with existing or own_fleet() as made:
        plant = Plant(made if isinstance(made, Fleet) else Fleet.load(made.state_dir))
        names = sorted(id_ for id_ in plant.fleet.inventory() if role_of(id_) == "prod")
        pool = {
            "auto": True, "min": len(names), "max": len(names) + 1, "targets": {"cpu": 45, "proxy_cpu": 45},
            "out": {"window_s": 0, "cooldown_s": 0, "steps": [{"machines": 1, "period_s": 1}]},
            "in": {"window_s": 3600, "cooldown_s": 3600, "steps": []},
        }  # fmt: skip
        with plant.set(scaling={"pools": {"prod": pool}, "healing": {"auto": False}}):
            times = [grow(plant, names) for _ in range(runs)]
            settled(plant, names)
        plant.canary_on()
    decided, created, served = ([each[at] for each in times] for at in range(3))
    figures = [
        Figure("overload_to_decision_p50", median(decided), "s", runs=decided, peers=PEERS_S),
        Figure("overload_to_machine_made_p50", median(created), "s", runs=created),
        Figure("overload_to_serving_p50", median(served), "s", "<= 12", runs=served),
        Figure("overload_to_serving_p95", percentile(served, 95), "s", "<= 20", runs=served, peers=PEERS_S),
    ]
    return json.loads(json.dumps(report("scale", figures)))


if __name__ == "__main__":
    main(
        bench,
        runs=(int, 20, "how often to overload production"),
        fleet=(str, "", "an existing fleet to use, instead of one made for the bench"),
    )
