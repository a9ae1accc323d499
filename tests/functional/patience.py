"""How tests of every kind wait and where their servers write: what happened is judged, never how fast the host is.

A host may have two processors, other work to do, and a disk that stalls for seconds. A deadline is there to end a test
that would wait for ever, so it is far beyond anything a working program takes; waiting costs nothing when it passes.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATIENCE = 120.0
"""Seconds until a condition that should come true is given up; less than pytest's own limit for a test."""


def until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE, pause: float = 0.01) -> Any:
    """Wait for a condition and return its value.

    :raises AssertionError: it did not come true in time
    """
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(pause)
    return value


def folder_in_memory(prefix: str = "saltern-") -> Path:
    """A new folder with a short name, because sockets lie in it, and off the disk where the host has such a place."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    return Path(tempfile.mkdtemp(prefix=prefix, dir=memory))
