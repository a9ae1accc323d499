"""The fleet's traffic at one glance: what is wanted, and what HAProxy makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import redis

from . import observed
from .registry import Instance, State

UNKNOWN = "unknown"


def read_observed(client: redis.Redis) -> Mapping[str, Any] | None:
    """What the controller published within its last seconds; None when that is nothing, or unusable.

    Raises redis.RedisError.
    """
    try:
        seen = observed.read_observed(client)
    except ValueError:
        return None
    return seen if isinstance(seen, dict) and isinstance(seen.get("servers"), dict) else None


def overview(state: State, seen: Mapping[str, Any] | None) -> dict[str, Any]:
    """Everything about the traffic: the split, the latch, every instance.

    ``seen`` is what ``read_observed`` answered. Without it health is unknown, which is not the same as well.
    """
    ids = sorted({*state.instances, *state.rejected, *(seen or {}).get("servers", {})}, key=_natural)
    return {
        "revision": state.revision,
        "canary": canary(state, seen),
        "instances": {id_: instance(state, seen, id_) for id_ in ids},
        "problems": _problems(state, seen),
    }


def canary(state: State, seen: Mapping[str, Any] | None) -> dict[str, Any]:
    """The split: share wanted, share in effect (percent; None when unknown) and why, and the latch."""
    latch = state.latches.get("canary")
    return {
        "share": state.split.share,
        "effective_share": None if seen is None else seen.get("share"),
        "why": "the controller has published nothing lately"
        if seen is None
        else seen.get("share_reason", ""),
        "latch": None
        if latch is None
        else {"reason": latch.reason, "by": latch.by, "cause": latch.cause, "since": latch.since},
    }


def instance(state: State, seen: Mapping[str, Any] | None, id_: str) -> dict[str, Any]:
    """One instance: what is wanted of it, and what HAProxy sees.

    ``health`` is up, down or unknown; ``phase`` is the controller's word for where it stands (ready, down,
    draining, idle, maint, leaving, kept, unplaced); ``sessions`` are its open requests.
    """
    found: Instance | None = state.instances.get(id_)
    server = (seen or {}).get("servers", {}).get(id_)
    row: dict[str, Any] = {
        "pool": found.pool if found else (server or {}).get("pool", UNKNOWN),
        "want": found.want if found else "gone",
        "release": found.release if found else (server or {}).get("release", ""),
        "address": f"{found.addr}:{found.port}" if found else "",
        "health": UNKNOWN if server is None else "up" if server["up"] else "down",
        "phase": UNKNOWN if server is None else server["phase"],
        "sessions": None if server is None else server["sessions"],
        "since": found.since if found else 0.0,
        "limit_s": found.limit_s if found else None,
        "force": id_ in state.forced,
    }
    if why := state.rejected.get(id_) or (seen or {}).get("kept", {}).get(id_):
        row["kept"] = why
    return row


def _problems(state: State, seen: Mapping[str, Any] | None) -> list[str]:
    found = [f"{id_}: {why}" for id_, why in sorted(state.rejected.items())]
    if seen is None:
        return [*found, "what HAProxy sees is unknown: is saltern-controller on proxy1 running?"]
    found += [f"{id_} is kept: {why}" for id_, why in sorted(seen.get("kept", {}).items())]
    found += [
        f"{id_} has no free slot; raise traffic.slots in the pillar" for id_ in seen.get("unplaced", [])
    ]
    return list(dict.fromkeys(found))


def _natural(id_: str) -> tuple[str, int]:
    head = id_.rstrip("0123456789")
    digits = id_[len(head) :]
    return head, int(digits) if digits.isascii() and digits else 0
