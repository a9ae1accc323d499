"""How long to go on asking: backoff as a pure function, and the loop that follows it with a clock of the caller's."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from saltern.clouds import faults
from saltern.clouds.faults import CloudError, Fault

Answer = TypeVar("Answer")


class Clock(Protocol):
    """Seconds that pass; a test's pass at once."""

    def now(self) -> float:
        """Seconds since some moment; never goes back."""

    def sleep(self, seconds: float) -> None:
        """Let them pass."""


class SystemClock:
    """The computer's own."""

    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


@dataclass(frozen=True)
class Patience:
    """How often and how long; all in seconds.

    :ivar base: the first wait is at most this, each further one at most twice the one before
    :ivar most: no wait is longer, unless the cloud asks for more
    :ivar whole: after so long from the first try, no further one begins
    :ivar quota: the same where too many machines is the reason: others may be ended meanwhile, or not
    :ivar ready: until a machine that was asked for runs and has an address
    :ivar settle: until a request whose answer was lost has had its effect, or never will
    :ivar poll: at most, between two looks at something that is changing
    """

    base: float = 1.0
    most: float = 30.0
    whole: float = 300.0
    quota: float = 60.0
    ready: float = 300.0
    settle: float = 10.0
    poll: float = 5.0


def pause(patience: Patience, fault: Fault, tries: int, elapsed: float, draw: float) -> float | None:
    """Seconds to wait before the next try, or None: there is to be none.

    Exponential backoff with equal jitter: half of min(most, base * 2^(tries - 1)) is waited in any case, the other half
    by chance, so that fifty that were refused together do not come back together (Brooker, "Exponential Backoff And
    Jitter", 2015).

    :param tries: how many there were
    :param elapsed: seconds since the first began
    :param draw: from 0 to 1, where in the second half
    """
    if fault.kind in (faults.TOKEN, faults.GONE, faults.REFUSED):
        return None
    whole = patience.quota if fault.kind == faults.QUOTA else patience.whole
    wait = min(patience.most, patience.base * 2 ** min(tries - 1, 30))
    wait = max(wait * (0.5 + draw / 2), fault.after)
    return wait if elapsed + wait <= whole else None


def draw(seed: str, number: int) -> float:
    """A number from 0 to 1 that is always the same for the same seed, and another for each."""
    return int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:6], "big") / 2**48


@dataclass
class Asking:
    """Asks a cloud, again where that may help. `calls` counts the tries, for whoever measures.

    :ivar seed: makes the waits this one's own
    """

    patience: Patience
    clock: Clock
    seed: str
    calls: int = field(default=0)

    def ask(
        self, what: str, request: Callable[[], Answer], after_loss: Callable[[], Answer | None] = lambda: None
    ) -> Answer:
        """The answer to a request.

        :param what: in an error, before the cloud's words
        :param after_loss: called when an answer was lost, before the next try and when there is none: what it answers,
            other than None, is the answer after all
        :raises CloudError: the request failed for good
        """
        began, tries = self.clock.now(), 0
        while True:
            tries += 1
            self.calls += 1
            try:
                return request()
            except Exception as error:
                fault = faults.read(error)
                if fault is None:
                    raise
                wait = pause(
                    self.patience, fault, tries, self.clock.now() - began, draw(self.seed, self.calls)
                )
                if fault.kind == faults.LOST and (found := after_loss()) is not None:
                    return found
                if wait is None:
                    times = f" ({tries} times)" if tries > 1 else ""
                    raise CloudError(f"{what}: {fault.words}{times}", fault) from error
                self.clock.sleep(wait)

    def until(self, condition: Callable[[], Answer | None], seconds: float, what: str) -> Answer:
        """Look until there is something to see: a second from now, then less and less often.

        :raises CloudError: there was nothing in time
        """
        end, wait = self.clock.now() + seconds, min(1.0, self.patience.poll)
        while True:
            self.clock.sleep(wait)
            if (found := condition()) is not None:
                return found
            if self.clock.now() >= end:
                raise CloudError(f"{what}: not within {seconds:g} s", Fault(faults.LOST, "no change"))
            wait = min(self.patience.poll, wait * 1.5)
