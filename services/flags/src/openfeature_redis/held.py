"""The flag set a process holds, and the rules by which a newly read one replaces it. No I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from openfeature.contrib.tools.flagd.api import Evaluator
from openfeature.contrib.tools.flagd.core import FlagdCore
from openfeature.exception import ErrorCode, ProviderNotReadyError

from openfeature_redis.health import Fault

# How long (seconds) a lower revision must be seen before it is believed. A replica that lags catches up well
# within this; a failover that lost writes, or a restored backup, does not.
DISBELIEF = 2.0
EMPTY = '{"flags": {}}'


@dataclass(frozen=True)
class Reading:
    """What a server answered: the document (None when the key is absent), the revision, and who said so."""

    document: bytes | None
    revision: int | None
    server: str


@dataclass(frozen=True)
class Outcome:
    """fault: why the held set may be the wrong one. changed: keys that differ now, None when it was kept."""

    fault: Fault | None = None
    changed: Sequence[str] | None = None


class NotAFlagSet(ValueError):
    """A document that flagd-core cannot load."""


class Unloaded:
    """Answers evaluations before any flag set is there."""

    def _refuse(self, *_: Any) -> NoReturn:
        raise ProviderNotReadyError("no flag set has been read yet, neither from Redis nor from the snapshot")

    resolve_boolean_value = resolve_string_value = resolve_integer_value = _refuse
    resolve_float_value = resolve_object_value = _refuse


def _has_boolean(variants: Mapping[str, Any]) -> bool:
    return any(isinstance(value, bool) for value in variants.values())


class Held:
    """The flag set in force. `evaluator` answers from it: flagd-core itself, with nothing in between."""

    def __init__(self) -> None:
        self.evaluator: Evaluator | Unloaded = Unloaded()
        self.document: str | None = None
        self.booleans: frozenset[str] = frozenset()
        self._core = FlagdCore()
        self._texts: Mapping[str, str] = {}
        self._metadata: Mapping[str, Any] = {}
        self._revision: int | None = None
        self._lower_since: float | None = None

    def offer(self, reading: Reading, now: float) -> Outcome:
        """Take the reading, or say why the held set is kept. `now` is monotonic seconds."""
        if reading.document is None:
            if self.document is None:
                return Outcome(changed=self.load(EMPTY))
            if self.document == EMPTY and self._revision is None:
                return Outcome()
            return Outcome(Fault(f"{reading.server} has no flag set; answering from the last one"))
        if not self._believable(reading.revision, now):
            return Outcome(
                Fault(f"{reading.server} is at revision {reading.revision}, behind {self._revision}; waiting")
            )
        try:
            document = reading.document.decode()
            changed = None if document == self.document else self.load(document)
        except (UnicodeDecodeError, NotAFlagSet) as error:
            message = f"{reading.server} holds no valid flag set ({error}); answering from the last one"
            return Outcome(Fault(message, ErrorCode.PARSE_ERROR, at_once=True))
        self._revision = reading.revision
        return Outcome(changed=changed)

    def load(self, document: str) -> list[str]:
        """Put the document in force; returns the keys that changed. Raises NotAFlagSet and keeps the old."""
        try:
            data = json.loads(document)
            texts = {key: json.dumps(flag, sort_keys=True) for key, flag in data["flags"].items()}
            booleans = [key for key, flag in data["flags"].items() if _has_boolean(flag["variants"])]
            metadata = data.get("metadata", {})
            moved = self._core.set_flags_and_get_changed_keys(data)
        except Exception as error:
            # flagd-core lets whatever the odd document provokes escape: TypeError, AttributeError, re.error
            # ...
            raise NotAFlagSet(f"{type(error).__name__}: {error}") from error
        # flagd-core compares as Python does, where 1, 1.0 and true are equal; the text tells them apart. Its
        # own list adds the flags that changed through a shared $evaluators rule.
        edited = {key for key in texts.keys() | self._texts.keys() if texts.get(key) != self._texts.get(key)}
        if metadata != self._metadata:
            edited |= texts.keys()
        self.document, self._texts, self._metadata = document, texts, metadata
        self.booleans = frozenset(booleans)
        self.evaluator = self._core
        return sorted(edited | set(moved))

    def renew(self) -> None:
        """Replace flagd-core, whose lock a thread that a forked child does not have may hold."""
        self._core = FlagdCore()
        if self.document is not None:
            self._core.set_flags(self.document)
            self.evaluator = self._core

    def _believable(self, revision: int | None, now: float) -> bool:
        if revision is None or self._revision is None or revision >= self._revision:
            self._lower_since = None
            return True
        if self._lower_since is None:
            self._lower_since = now
        if now - self._lower_since < DISBELIEF:
            return False
        self._lower_since = None
        return True
