"""Who may do what on the admin API, and how often."""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

SCOPES = ("read", "write")
"""Each allows what the ones before it allow."""

LONGEST_TOKEN = 512
_MOST_KEYS = 4096


class Denied(Exception):
    """The Authorization header is there and proves nothing; the text says why."""


class Tokens:
    """The tokens that are accepted, known only by their SHA-256.

    A token is 256 random bits (saltern.secrets), so its plain hash cannot be searched, and trying tokens is
    hopeless at any rate: guesses are limited to keep the log readable, not to keep tokens secret.
    """

    def __init__(self, hashes: Mapping[str, Sequence[str]]) -> None:
        self._known = [(scope, bytes.fromhex(text)) for scope in SCOPES for text in hashes.get(scope, ())]

    def scope(self, authorization: str | None) -> str:
        """The scope of an Authorization header's value: "" when there is none, else read or write.

        Every known hash is compared, whichever fits, so the time tells nothing. Raises Denied.
        """
        if authorization is None:
            return ""
        scheme, _, token = authorization.partition(" ")
        token = token.strip(" ")
        if scheme.lower() != "bearer" or not 0 < len(token) <= LONGEST_TOKEN:
            raise Denied("the Authorization header is not of the form: Bearer TOKEN")
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        found = ""
        for scope, known in self._known:
            # The last match is the strongest scope.
            found = scope if hmac.compare_digest(digest, known) else found
        if not found:
            raise Denied("the token is not one of the fleet's")
        return found


def allows(scope: str, needed: str) -> bool:
    """Whether a scope covers what a route needs ("" is anybody)."""
    return not needed or (scope in SCOPES and SCOPES.index(scope) >= SCOPES.index(needed))


@dataclass
class _Bucket:
    level: float
    at: float


class Limiter:
    """Token buckets by key: ``burst`` requests at once, then ``per_minute`` of them (Turner's leaky bucket as
    a meter, in ITU-T I.371 the generic cell rate algorithm).
    """

    def __init__(self, per_minute: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = per_minute / 60
        self.burst = burst
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[Hashable, _Bucket] = OrderedDict()

    def take(self, key: Hashable) -> float:
        """Take one request from a key's bucket. Returns 0, or the seconds until there is one to take."""
        now = self._clock()
        with self._lock:
            bucket = self._buckets.setdefault(key, _Bucket(float(self.burst), now))
            self._buckets.move_to_end(key)
            bucket.level = min(float(self.burst), bucket.level + max(0.0, now - bucket.at) * self.rate)
            bucket.at = now
            if len(self._buckets) > _MOST_KEYS:
                # Whoever was away longest has most likely a full bucket again.
                self._buckets.popitem(last=False)
            if bucket.level < 1:
                return (1 - bucket.level) / self.rate
            bucket.level -= 1
            return 0.0

    def forget(self, key: Hashable) -> None:
        """What a key took does not count any more."""
        with self._lock:
            self._buckets.pop(key, None)
