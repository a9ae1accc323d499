"""What Salt's runners ``fleet.*`` do, on the master: the traffic at one glance, and an instance out of it and back."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import redis

from saltern import canary_control, overview
from saltern.errors import SalternError
from saltern.fleet import Fleet
from saltern.members import link
from saltern.registry import JOURNAL, Registry

ARRIVED = {"ready": "ready", "drain": "idle", "maint": "maint"}
"""By what is wanted of an instance: the controller's word for having got there."""
CUT = "drain.cut"
"""The journal's word for requests that were still open at the end of a drain's limit."""
LONGEST_WAIT_S = 3600
_POLL_S = 0.1


def status(fleet: Fleet) -> dict[str, Any]:
    """Every instance, the canary, and what is wrong.

    Raises SalternError, RegistryError or redis.RedisError when the registry cannot be read.
    """
    registry = Registry(link(fleet))
    return overview.overview(registry.snapshot(), overview.read_observed(registry.client))


def want(
    fleet: Fleet,
    machine: str,
    wanted: str,
    *,
    limit_s: float | None = None,
    force: bool = False,
    wait: object = 0,
    cause: str = "",
    by: str,
) -> dict[str, Any]:
    """Say what an instance should be, ready, drain or maint, and what came of it.

    ``limit_s`` is how many seconds open requests may take before they are cut, ``wait`` how many to wait for the
    instance to get there; 0 answers at once. After a wait the answer tells what was cut, under ``cut``.

    Raises SalternError when it does not get there in time or is kept as the last live one, RegistryError on a bad
    value or an unknown instance, redis.RedisError.
    """
    seconds = _wait(wait)
    client = link(fleet)
    registry = Registry(client)
    since = _newest(client)
    outcome = canary_control.set_want(
        registry, machine, wanted, limit_s=limit_s, force=force, by=by, cause=cause
    )
    found = outcome.to_data()
    if seconds:
        found["instance"] = _await(registry, machine, wanted, outcome.change.revision, seconds)
        found["cut"] = _cuts(client, machine, since)
    return found


def _wait(wait: object) -> float:
    if isinstance(wait, bool) or not isinstance(wait, int | float) or not 0 <= wait <= LONGEST_WAIT_S:
        raise SalternError(f"wait {wait!r}: not a number of seconds between 0 and {LONGEST_WAIT_S}")
    return wait


def arrival(row: Mapping[str, Any], seen: Mapping[str, Any] | None, revision: int, wanted: str) -> str:
    """How far an instance is: "there", "kept: why", or what it is still at.

    ``row`` is the overview's of the instance, ``seen`` what the controller published, ``revision`` the registry's
    with the change in it: what was seen before the controller knew of the change tells nothing.
    """
    if seen is None:
        return "what HAProxy sees is unknown: is saltern-controller on the proxy running?"
    if seen.get("revision", 0) < revision:
        return "the controller has not taken the change yet"
    if "kept" in row:
        return f"kept: {row['kept']}"
    if row["phase"] == ARRIVED[wanted]:
        return "there"
    return f"{row['phase']}, {row['sessions']} requests open"


def _await(registry: Registry, machine: str, wanted: str, revision: int, seconds: float) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while True:
        seen = overview.read_observed(registry.client)
        row = overview.instance(registry.snapshot(), seen, machine)
        at = arrival(row, seen, revision, wanted)
        if at == "there":
            return row
        if at.startswith("kept: "):
            raise SalternError(f"{machine} is {at}; force=True takes it out all the same")
        if time.monotonic() >= end:
            raise SalternError(f"{machine} is not {ARRIVED[wanted]} after {seconds:g} s: {at}")
        time.sleep(_POLL_S)


def _newest(client: redis.Redis) -> str:
    entries = client.xrevrange(JOURNAL, count=1)
    return entries[0][0] if entries else "0-0"


def _cuts(client: redis.Redis, machine: str, since: str) -> list[dict[str, Any]]:
    entries = [entry for _, entry in client.xrange(JOURNAL, min=f"({since}")]
    return [
        json.loads(entry["fields"])
        for entry in entries
        if entry["kind"] == CUT and entry["subject"] == machine
    ]
