"""From `git push` to serving on the canary: a one-line change over real ssh, and what of that is Saltern's own."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benching import Figure, main, median, report
from fleet_bench import NAME, down, live, timed, up

PRODUCTS_OWN = ("build", "test", "analyse")
"""Stages whose time is the product's: its packing with all it needs, its tests, its analysis."""


def bench(runs: int) -> dict[str, Any]:
    """Push a one-line change again and again, each time until the push says that it serves."""
    up()
    folder = Path(tempfile.mkdtemp(prefix="saltern-push-"))
    try:
        timed("clone", "--fleet", NAME, str(folder / "copy"))
        fleet = live()
        # The first one fills the caches that the later ones use, as on any day but the first.
        taken = [_push(folder / "copy", fleet, number) for number in range(runs + 1)][1:]
    finally:
        shutil.rmtree(folder)
        down()
    totals = [seconds for seconds, _ in taken]
    own = [seconds - spent for seconds, spent in taken]
    return report("push", [
        Figure("push_to_serving", median(totals), "s", "<= 25", runs=totals),
        Figure("push_own_overhead", median(own), "s", "<= 8", runs=own),
    ])  # fmt: skip


def _push(copy: Path, fleet: Any, number: int) -> tuple[float, float]:
    """Seconds from the push to serving, and what of that the product's own stages took.

    :raises RuntimeError: it does not serve in the end
    """
    with (copy / "product" / "page.css").open("a") as file:
        file.write(f"/* {number} {time.time_ns()} */\n")
    identity = ["-c", "user.name=Bench", "-c", "user.email=bench@fleet.test"]
    git = ["git", "-C", str(copy), *identity]
    subprocess.run([*git, "commit", "-qam", f"Change {number}", "--no-verify"], check=True)
    began = time.monotonic()
    done = subprocess.run(
        [*git, "push", "origin", "HEAD:staging"], capture_output=True, text=True, check=True
    )
    seconds = time.monotonic() - began
    if "it runs at " not in done.stderr:
        raise RuntimeError(f"push {number} does not serve: {done.stderr.strip().splitlines()[-3:]}")
    answer = fleet.salt("salt-run", "--out=json", "build.list", "branch=staging", "limit=1").stdout
    shown = json.loads(fleet.salt("salt-run", "--out=json", "build.show", json.loads(answer)[0]["id"]).stdout)
    return seconds, sum(each["seconds"] for each in shown["stages"] if each["name"] in PRODUCTS_OWN)


if __name__ == "__main__":
    main(bench, runs=(int, 5, "pushes that count"))
