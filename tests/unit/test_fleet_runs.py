"""How far an instance is on its way out of the traffic or back."""

from __future__ import annotations

from typing import Any

import pytest
from saltern.fleet_runs import arrival


@pytest.mark.parametrize(
    ("wanted", "row", "seen", "at"),
    [
        ("drain", {"phase": "idle", "sessions": 0}, {"revision": 7}, "there"),
        ("maint", {"phase": "maint", "sessions": 0}, {"revision": 8}, "there"),
        ("ready", {"phase": "ready", "sessions": 3}, {"revision": 7}, "there"),
        ("ready", {"phase": "down", "sessions": 0}, {"revision": 7}, "down, 0 requests open"),
        ("maint", {"phase": "idle", "sessions": 0}, {"revision": 7}, "idle, 0 requests open"),
        ("drain", {"phase": "draining", "sessions": 2}, {"revision": 7}, "draining, 2 requests open"),
        ("drain", {"phase": "kept", "sessions": 2, "kept": "the last"}, {"revision": 7}, "kept: the last"),
        ("drain", {"phase": "idle", "sessions": 0}, {"revision": 6}, "the controller has not taken the change yet"),
        ("drain", {"phase": "idle", "sessions": 0}, {}, "the controller has not taken the change yet"),
        ("drain", {"phase": "unknown", "sessions": None}, None,
         "what HAProxy sees is unknown: is saltern-controller on the proxy running?"),
    ],
)  # fmt: skip
def test_an_instance_has_arrived_when_haproxy_says_so_after_the_change(
    wanted: str, row: dict[str, Any], seen: dict[str, Any] | None, at: str
) -> None:
    assert arrival(row, seen, 7, wanted) == at
