"""What HAProxy observes, as the controller publishes it and everybody else reads it.

``saltern:observed``  JSON of the present, for ``OBSERVED_TTL_S`` seconds: gone means nobody is looking::

    {"ts": 1795220681.4, "revision": 17, "share": 30, "share_reason": "as the registry says",
     "servers": {"prod1": {"slot": "p1", "pool": "prod", "release": "r1", "addr": "10.213.0.21", "port": 8080,
                           "up": true, "admin": "ready", "phase": "ready", "check": "L7OK", "sessions": 2,
                           "response_ms": 4, "since_s": 310}},
     "kept": {}, "unplaced": []}

``saltern:windows``   stream, field ``data``: JSON of what about one second brought::

    {"ts": 1795220681.4, "seconds": 1.004, "share": 30,
     "pools": {"prod": {"requests": 70, "errors": 0, "http_5xx": 0, "redispatches": 0, "sessions": 3,
                        "response_ms": 4.1}, "canary": {...}},
     "servers": {"prod1": {"pool": "prod", "release": "r1", "requests": 14, ...}}}

A request that failed on one server and was answered by another is an error of the first. ``response_ms`` is
HAProxy's average over each server's last 512 requests, weighted by this second's: fit to compare pools, not
to see one second.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import redis

OBSERVED = "saltern:observed"
OBSERVED_TTL_S = 5
"""No news is not good news: what is older than this is gone."""
WINDOWS = "saltern:windows"
WINDOWS_LENGTH = 7_200
"""About two hours."""


def read_observed(client: redis.Redis) -> dict[str, Any] | None:
    """What HAProxy sees now; None when no controller has said so lately."""
    text = client.get(OBSERVED)
    return None if text is None else json.loads(text)


def read_windows(client: redis.Redis, started: float, ended: float) -> list[dict[str, Any]]:
    """The windows published from ``started`` to ``ended`` (unix seconds by Redis's clock), oldest first."""
    entries = client.xrange(WINDOWS, min=int(started * 1000), max=int(ended * 1000))
    return [json.loads(fields["data"]) for _, fields in entries]


def pool_totals(windows: Iterable[Mapping[str, Any]], pool: str) -> dict[str, Any] | None:
    """One pool over several windows: the values a judge's Window takes, without the machines' samples.

    Returns ``pool, started, seconds, requests, errors, latency_ms, latency_kind``; None when there are no
    windows.
    """
    rows = [(window, window["pools"][pool]) for window in windows]
    if not rows:
        return None
    first = rows[0][0]
    return {
        "pool": pool,
        "started": first["ts"] - first["seconds"],
        "seconds": round(sum(window["seconds"] for window, _ in rows), 3),
        "requests": sum(row["requests"] for _, row in rows),
        "errors": sum(row["errors"] for _, row in rows),
        "latency_ms": [row["response_ms"] for _, row in rows if row["response_ms"] is not None],
        "latency_kind": "second",
    }
