"""How gunicorn serves the dashboard: as the admin API is served, but a page may listen for as long as it likes."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

from saltern.admin_serve import PatientWorker

LISTENING: set[socket.socket] = set()
"""Connections on which a page is told what changes: they have no deadline."""
ENDINGS: list[Callable[[], None]] = []
"""Called when the worker is told to end, so that nobody waits for pages that listen."""


class StreamWorker(PatientWorker):
    """A worker that lets those in `LISTENING` be."""

    def murder_pending(self) -> None:
        """End what waited long enough, except who listens."""
        now = time.monotonic()
        with self.lock:
            for conn in self.began:
                if conn.sock in LISTENING:
                    self.began[conn] = now
        super().murder_pending()

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Begin to end: SIGTERM."""
        for end in ENDINGS:
            end()
        super().handle_exit(sig, frame)
