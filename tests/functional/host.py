"""What tests of every kind take from the host they run on: patience, memory to write to, ports.

What happened is judged, never how fast the host is: it may have two processors, other work to do, and a disk that
stalls for seconds. A deadline is there to end a test that would wait for ever, so it is far beyond anything a working
program takes; waiting costs nothing when it passes.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import socket
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


def memory() -> str | None:
    """A place for files that is no disk, has a gigabyte to spare and lets programs be run; None: there is none."""
    try:
        about = os.statvfs("/dev/shm")
    except OSError:
        return None
    roomy = about.f_bavail * about.f_frsize >= 2**30 and not about.f_flag & os.ST_NOEXEC
    return "/dev/shm" if roomy and os.access("/dev/shm", os.W_OK) else None


def folder_in_memory(prefix: str = "saltern-") -> Path:
    """A new folder with a short name, because sockets lie in it, and off the disk where the host has such a place."""
    return Path(tempfile.mkdtemp(prefix=prefix, dir=memory()))


def _ports() -> range:
    """Those that the system gives nobody by itself, so that none is taken between the asking and the listening."""
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    return range(10_000, low) if low >= 20_000 else range(20_000, 60_000)


_CANDIDATES = itertools.cycle(random.sample(_ports(), len(_ports())))


def free_port() -> int:
    """A TCP port that nobody listens on at any address, and that is given to nobody else in this process."""
    while True:
        port = next(_CANDIDATES)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("0.0.0.0", port))
            return port


def end_reactor(reactor: Any) -> None:
    """End what one of Salt's reactors fetches files with, without a warning that it was not."""
    reactor.minion.destroy()
    # Its finalizer takes what `destroy` empties for what is still open, unless it is gone.
    reactor.minion.returners = reactor.minion.functions = reactor.minion.utils = None
