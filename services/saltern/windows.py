"""From the seconds the controller publishes to the two windows the judge compares.

The stream ``saltern:windows`` holds one entry a second, each with what the pools did in it (see
``observed``). A judgement is about one canary: seconds in which other releases served there, or in
which the canary had no share, are left out, in both pools alike.

A second's latency is HAProxy's average over each server's last requests, so neighbouring seconds resemble each
other; the judge counts that in (``judge.effective_size``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from .judge import Host, JudgeError, Window
from .observed import WINDOWS


@dataclass(frozen=True)
class Second:
    """One entry of the stream."""

    id: str
    at: float
    """When it ended, unix seconds by Redis's clock."""
    ended: float
    """The same by the proxy's clock."""
    seconds: float
    share: int
    pools: Mapping[str, Mapping[str, Any]]
    canaries: frozenset[str]
    """The releases that canary servers ran."""
    machines: Mapping[str, tuple[str, int]]
    """The servers there were: the pool of each, and how many requests it had."""


def parse(id_: str, fields: Mapping[str, str]) -> Second:
    """Read an entry. Raises JudgeError, naming the entry, when it is not what the controller writes."""
    where = f"windows: entry {id_}"
    try:
        data = json.loads(fields["data"])
        pools = {pool: data["pools"][pool] for pool in ("prod", "canary")}
        for row in pools.values():
            if not all(type(row[name]) is int for name in ("requests", "errors")):
                raise JudgeError(f"{where}: requests and errors are whole numbers")
        servers = data["servers"]
        return Second(
            id=id_,
            at=int(id_.split("-")[0]) / 1000,
            ended=float(data["ts"]),
            seconds=float(data["seconds"]),
            share=int(data["share"]),
            pools=pools,
            canaries=frozenset(str(s["release"]) for s in servers.values() if s["pool"] == "canary"),
            machines={str(id_): (str(s["pool"]), int(s["requests"])) for id_, s in servers.items()},
        )
    except JudgeError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise JudgeError(f"{where}: not a second of the controller's ({error!r})") from None


def read(client: redis.Redis, since: float) -> list[Second]:
    """The stream's entries that ended since then (unix seconds by Redis's clock), oldest first.

    Raises redis.RedisError, and JudgeError as ``parse``.
    """
    return [parse(id_, fields) for id_, fields in client.xrange(WINDOWS, min=max(0, int(since * 1000)))]


def of_one_canary(entries: Sequence[Second]) -> list[Second]:
    """The latest seconds in which the same releases served as canary, without those it had no share in."""
    releases = next((entry.canaries for entry in reversed(entries) if entry.canaries), frozenset())
    if not releases:
        return []
    same: list[Second] = []
    for entry in reversed(entries):
        if not entry.canaries <= releases:
            break
        if entry.share > 0 and entry.canaries:
            same.append(entry)
    return same[::-1]


def pair(
    entries: Sequence[Second], samples: Mapping[str, Iterable[Host]] | None = None
) -> tuple[Window, Window]:
    """The canary's window and production's over the same seconds.

    ``samples`` are the machines' own samples by pool; without them the judge holds on cpu and memory.

    Raises JudgeError when there is nothing to judge, or a value cannot be.
    """
    used = of_one_canary(entries)
    if not used:
        raise JudgeError(
            f"windows: none of the {len(entries)} seconds recorded had a canary with a share; "
            "turn it on, give it a share and wait"
        )
    return _window("canary", used, samples or {}), _window("prod", used, samples or {})


def _window(pool: str, entries: Sequence[Second], samples: Mapping[str, Iterable[Host]]) -> Window:
    rows = [entry.pools[pool] for entry in entries]
    latencies = [row.get("response_ms") for row in rows if row["requests"]]
    started = entries[0].ended - entries[0].seconds
    return Window(
        pool=pool,
        started=started,
        seconds=entries[-1].ended - started,
        requests=sum(row["requests"] for row in rows),
        errors=sum(row["errors"] for row in rows),
        latency_ms=tuple(value for value in latencies if value is not None),
        latency_kind="second",
        hosts=tuple(samples.get(pool, ())),
    )
