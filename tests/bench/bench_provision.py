"""From `salt-cloud -p prod prod6` to the first request that prod6 answers through the proxy."""

from __future__ import annotations

import subprocess
import time
from typing import Any

from benching import Figure, main, median, report
from fleet_bench import REPOSITORY, fleet
from fleet_hands import Plant
from saltern.fleet import Fleet

BY_HAND = {"pools": {"prod": {"auto": False}}, "memory": {"auto": False}, "healing": {"auto": False}}
"""The bench alone makes and ends machines: on a busy host the fleet would make prod6 by itself."""


def bench(runs: int) -> dict[str, Any]:
    """Make one production machine again and again, and wait until it serves."""
    served, made, gone = [], [], []
    with fleet() as live, Plant(Fleet.load(live.state_dir)).set(scaling=BY_HAND):
        for _ in range(runs):
            began = time.monotonic()
            creating = subprocess.Popen(
                [str(REPOSITORY / ".venv/bin/salt-cloud"), "-p", "prod", "prod6"],
                cwd=live.workplace, stdout=subprocess.DEVNULL,
            )  # fmt: skip
            while live.headers().get("x-saltern-instance") != "prod6":
                if time.monotonic() - began > 120:
                    raise RuntimeError("prod6 did not serve within 120 s")
                if creating.returncode is None and creating.poll() is not None:
                    made.append(time.monotonic() - began)
            served.append(time.monotonic() - began)
            began = time.monotonic()
            live.salt("salt-cloud", "-y", "-d", "prod6")
            gone.append(time.monotonic() - began)
    return report("provision", [
        Figure("provision_to_first_request", median(served), "s", "<= 15", runs=served),
        Figure("salt_cloud_create", median(made), "s", runs=made),
        Figure("salt_cloud_destroy", median(gone), "s", runs=gone),
    ])  # fmt: skip


if __name__ == "__main__":
    main(bench, runs=(int, 5, "how often to make the machine"))
