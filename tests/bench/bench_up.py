"""How long a fleet of eleven takes to come up and to go, and how much memory it takes."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import Any

from benching import Figure, main, median, report
from fleet_bench import NAME, down, proportional_set_mib, timed, up


def bench(runs: int, cold: int) -> dict[str, Any]:
    """Bring the default fleet up and down again and again.

    Cold begins with neither image nor wheels nor virtual environment, as on a fresh machine whose packages are
    installed; it is measured in a folder of its own, and the checkout's environment is put aside meanwhile.
    """
    ups, downs, memory = [], [], []
    for _ in range(runs):
        ups.append(up())
        memory.append(proportional_set_mib(f"saltern-{NAME}"))
        downs.append(down())
    figures = [
        Figure("up_image_built", median(ups), "s", "<= 75", runs=ups),
        Figure("down", median(downs), "s", "<= 10", runs=downs),
        Figure("memory_pss", median(memory), "MiB", "<= 2560", runs=memory),
    ]
    if cold:
        colds = [_cold() for _ in range(cold)]
        figures.insert(0, Figure("up_cold", median(colds), "s", "<= 300", runs=colds))
    return report("up", figures)


def _cold() -> float:
    home = tempfile.mkdtemp(prefix="saltern-cold-", dir="/var/lib")
    checkout = tempfile.mkdtemp(prefix="saltern-checkout-", dir="/var/lib")
    os.environ["SALTERN_HOME"] = home
    try:
        import fleet_bench

        copy = os.path.join(checkout, "saltern")  # noqa: PTH118
        shutil.copytree(
            fleet_bench.REPOSITORY,
            copy,
            symlinks=True,
            ignore=shutil.ignore_patterns(".venv", ".git", ".saltern"),
        )
        return _elsewhere(copy)
    finally:
        del os.environ["SALTERN_HOME"]
        shutil.rmtree(home, ignore_errors=True)
        shutil.rmtree(checkout, ignore_errors=True)


def _elsewhere(checkout: str) -> float:
    """Up and down from another checkout; seconds of the up."""
    import fleet_commands

    kept, fleet_commands.REPOSITORY = fleet_commands.REPOSITORY, checkout
    try:
        return timed("up", "--fleet", NAME, "--subnet", "10.231.80.0/24")
    finally:
        timed("down", "--fleet", NAME, "--purge")
        fleet_commands.REPOSITORY = kept


if __name__ == "__main__":
    main(bench, runs=(int, 3, "how often up and down"), cold=(int, 1, "how often from nothing"))
