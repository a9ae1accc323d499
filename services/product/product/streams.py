"""Answers that stay open: whoever listens is told of every change, until this instance is to leave.

HAProxy says with each health check what it does with this server (``http-check send-state``). One that it sends
nobody new to ends its streams: who listened comes back elsewhere, and no roll waits for what never ends by itself.
"""

import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

STATE = re.compile(r"name=(?P<name>[^;]{1,200}); .*weight=(?P<weight>[0-9]+)/")
"""Of the header X-Haproxy-Server-State: which server of which backend is meant, and its share of what comes new."""

VALID = 5.0
"""How long what a proxy said counts, in seconds; it says something several times a second."""

LOOK = 0.25
"""Between two looks whether there is something to tell, in seconds."""

BEAT = 1.0
"""Longest silence on a stream, in seconds. Whoever has hung up is noticed at the next word but one."""


@dataclass(frozen=True)
class Word:
    """What a proxy said last about one of its servers: ``at`` in seconds of the monotonic clock."""

    leaves: bool
    at: float


def leaves(words: dict[str, Word], now: float) -> bool:
    """Whether a proxy sends nobody new here."""
    return any(word.leaves and now - word.at < VALID for word in words.values())


class Streams:
    """The open streams of one process. Each takes a thread, so there are never more than ``most``."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._words: dict[str, Word] = {}
        self._open = 0
        self._turn = threading.Condition()

    def heard(self, state: str | None) -> None:
        """Take in what a health check's header says; one without it, or of another kind, says nothing."""
        if found := STATE.search(state or ""):
            word = Word(int(found["weight"]) == 0, time.monotonic())
            with self._turn:
                self._words = {**self._words, found["name"]: word}
                if word.leaves:
                    self._turn.notify_all()

    def end(self) -> None:
        """End all streams, for the process ends."""
        with self._turn:
            self.most = 0
            self._turn.notify_all()

    def stream(self, tell: Callable[[], str]) -> Iterator[bytes] | None:
        """The bytes of a stream of server-sent events: what ``tell`` says now, and again whenever that is another.

        None when there is no room for one more, or this instance is to leave.
        """
        with self._turn:
            if self._open >= self.most or self._leaving():
                return None
            self._open += 1
        return self._bytes(tell)

    def _leaving(self) -> bool:
        return self.most == 0 or leaves(self._words, time.monotonic())

    def _bytes(self, tell: Callable[[], str]) -> Iterator[bytes]:
        said, at = None, 0.0
        try:
            while not self._leaving():
                now, text = time.monotonic(), tell()
                if text != said:
                    yield f"event: change\ndata: {text}\n\n".encode()
                    said, at = text, now
                elif now - at >= BEAT:
                    yield b": still here\n\n"
                    at = now
                with self._turn:
                    self._turn.wait(LOOK)
        finally:
            with self._turn:
                self._open -= 1
