"""Samples of what one service uses, gathered on its machine and told several at once.

The judge compares the canary's machines with production's by them (see `judge` and `samples`). They cause nothing by
themselves, so they are no edges: every machine tells them, all the time, in one event for `batch` seconds. The file is
also `salt/_utils/sampling.py`: it imports nothing but the standard library.
"""

from __future__ import annotations

from typing import Any

DEFAULTS = {"service": "product", "batch": 10}
"""The systemd service, and how many samples (one a second) are told at once."""
LARGEST_BATCH = 60
LONGEST_S = 5.0
"""Seconds between two looks beyond which they are not neighbours."""
SHORTEST_S = 0.2
"""Under a fifth of a second the kernel's own accounting steps are most of what is seen."""


def settings(config: object) -> dict[str, Any]:
    """The beacon's settings: defaults, then the configuration.

    :param config: as Salt has it, a list of mappings
    :raises ValueError: a setting is unknown or not right; the text names it
    """
    if not isinstance(config, list) or not all(isinstance(each, dict) for each in config):
        raise ValueError("not a list of settings, such as [{service: product}, {batch: 10}]")
    # What Salt itself reads from, or adds to, a beacon's configuration is not ours to check.
    given = {k: v for each in config for k, v in each.items()}
    wanted = {name: given.get(name, default) for name, default in DEFAULTS.items()}
    batch = wanted["batch"]
    if isinstance(batch, bool) or not isinstance(batch, int) or not 1 <= batch <= LARGEST_BATCH:
        raise ValueError(f"batch: {batch!r} is not a number of samples from 1 to {LARGEST_BATCH}")
    if not isinstance(wanted["service"], str) or not wanted["service"] or "/" in wanted["service"]:
        raise ValueError(f"service: {wanted['service']!r} is not the name of a systemd service")
    return wanted


def add(memory: dict[str, Any], look: dict[str, float] | None, batch: int) -> dict[str, Any] | None:
    """Take one more look; the batch that is full with it, or None.

    :param memory: the beacon's own dictionary
    :param look: ``at`` (monotonic seconds), ``cpus`` and ``limit`` (MiB) the machine may use, ``used`` (seconds of
        processor time since the service's start) and ``mib`` the service uses; None when it does not run
    :return: ``seconds`` the batch covers, ``cpu`` and ``memory`` in per cent of the machine's limits, oldest first
    """
    before, memory["before"] = memory.get("before"), look
    sample = before and look and _sample(before, look)
    if not sample:
        # A batch is of samples in a row: what is before a gap is dropped with it.
        memory.pop("batch", None)
        return None
    kept = memory.setdefault("batch", {"from": before["at"], "samples": []})
    kept["samples"].append(sample)
    if len(kept["samples"]) < batch:
        return None
    del memory["batch"]
    cpu, ram = zip(*kept["samples"], strict=True)
    return {"seconds": round(look["at"] - kept["from"], 3), "cpu": list(cpu), "memory": list(ram)}


def _sample(before: dict[str, float], look: dict[str, float]) -> tuple[float, float] | None:
    seconds, used = look["at"] - before["at"], look["used"] - before["used"]
    if not SHORTEST_S <= seconds <= LONGEST_S or used < 0 or look["cpus"] <= 0 or look["limit"] <= 0:
        return None
    return (
        round(min(100.0, 100 * used / (seconds * look["cpus"])), 1),
        round(min(100.0, 100 * look["mib"] / look["limit"]), 1),
    )
