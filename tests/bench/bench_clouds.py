"""What a rented machine costs in requests and time, and what is left over when a cloud fails, against fakes of each.

    python tests/bench/bench_clouds.py [--json] [--machines 50] [--percent 20] [--seed 1]

The fakes answer as the clouds' reference pages say, and a machine of theirs runs after two looks; EC2 is played by
moto, whose machines run at once. Waiting happens on a clock that does not wait, so that a figure called "waiting" is
what the driver would have slept beside the cloud's own time, and "own time" is this computer's: libcloud's, the
driver's and the fake's together.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "services"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "functional"))

from benching import Figure, main, median, percentile, report
from cloud_fakes import all_well, seeded
from cloud_stand import CLOUDS
from cloud_storm import Outcome, storm
from saltern import secrets
from saltern.fleet import Fleet

NAMES = {
    "digitalocean": "DigitalOcean", "ec2": "EC2", "azure": "Azure", "openstack": "OpenStack", "linode": "Linode",
    "vultr": "Vultr", "gce": "Google",
}  # fmt: skip


@contextmanager
def fleet() -> Iterator[Fleet]:
    """A fleet that is only written down."""
    folder = Path(tempfile.mkdtemp(prefix="saltern-"))
    try:
        # By its name, which is a part of a machine's at some clouds, the fakes know whose machines they have.
        made = Fleet("test", "10.99.0.0/24", folder)
        made.save()
        secrets.ensure(made)
        yield made
    finally:
        shutil.rmtree(folder)


def run(kind: type, given: dict[str, Any], machines: int, percent: float, seed: int) -> Outcome:
    plan = seeded(seed, percent) if percent else all_well
    with fleet() as ours, kind(plan=plan).serving() as fake:
        return storm(fake, given, ours, [f"prod{number}" for number in range(1, machines + 1)])


def bench(machines: int, percent: float, seed: int) -> dict[str, Any]:
    """What a rented machine costs in requests and time, and what is left over when the cloud fails."""
    figures = []
    for cloud, name in NAMES.items():
        kind, given = CLOUDS[cloud]
        alone = run(kind, given, 1, 0, seed)
        figures.append(Figure(f"requests a machine, {name}", sum(alone.requests.values()), "", runs=1))
        calm = run(kind, given, machines, 0, seed)
        at_once = f"{machines} at once, {name}"
        asked, own = sum(calm.requests.values()) / machines, 1000 * calm.seconds / machines
        figures.append(Figure(f"requests a machine, {at_once}", asked, "", runs=machines))
        figures.append(Figure(f"own time a machine, {at_once}", own, "ms", runs=machines))
        figures.append(
            Figure(f"waiting a machine, median, {at_once}", median(calm.waited), "s", runs=calm.waited)
        )
        hard = run(kind, given, machines, percent, seed)
        where = f"{percent:g} % of requests failing, {name}"
        left, asked = len(hard.orphans) + len(hard.noted), sum(hard.requests.values()) / machines
        figures.append(Figure(f"machines up, {where}", 100 * len(hard.up) / machines, "%", runs=machines))
        figures.append(Figure(f"orphans, {where}", left, "", "<= 0", runs=machines))
        figures.append(Figure(f"requests a machine, {where}", asked, "", runs=machines))
        figures.append(
            Figure(f"waiting a machine, p95, {where}", percentile(hard.waited, 95), "s", runs=hard.waited)
        )
    return report("clouds", figures)


if __name__ == "__main__":
    main(
        bench,
        machines=(int, 50, "made at once"),
        percent=(float, 20.0, "of requests that go wrong"),
        seed=(int, 1, "another seed is other faults"),
    )
