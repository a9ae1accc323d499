"""Changing what the fleet should do with traffic, with what was before and what is after.

The admin API and Salt's runners both call these; each is one step on the registry. A change is compared and
set against the state it was decided on, so ``before`` is exactly what the change replaced.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .registry import Change, Conflict, Registry, RegistryError, State, UnknownInstance

_ATTEMPTS = 8
"""How often a change is decided anew because the registry changed in between."""


class Stale(Conflict):
    """The thing to be changed is not the one the caller has seen. Nothing was changed."""


@dataclass(frozen=True)
class Outcome:
    """What a change did: its journal line and revision, and the values before and after."""

    change: Change
    before: Mapping[str, Any]
    after: Mapping[str, Any]

    def to_data(self) -> dict[str, Any]:
        """The outcome as plain values."""
        return {
            "changed": self.change.changed,
            "revision": self.change.revision,
            "journal": self.change.journal,
            "before": dict(self.before),
            "after": dict(self.after),
        }


def tag(value: object) -> str:
    """A short name for exactly this value: what an HTTP ETag holds."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def split_tag(state: State) -> str:
    """The tag of the split as it is wanted."""
    return tag(asdict(state.split))


def instance_tag(state: State, id_: str) -> str:
    """The tag of what is wanted of an instance.

    Raises UnknownInstance.
    """
    return tag({**asdict(_instance(state, id_)), "force": id_ in state.forced})


def set_share(
    registry: Registry,
    share: int,
    *,
    by: str,
    cause: str = "",
    seen: frozenset[str] | None = None,
    revision: int | None = None,
) -> Outcome:
    """Set the canary's share in percent.

    ``seen`` are tags of the split one of which must be its tag now, ``revision`` the registry's revision it
    must have; None asks for nothing.

    Raises RegistryError on a bad share, Stale or Conflict when somebody was faster, redis.RedisError.
    """

    def act(expect: int | None) -> Change:
        return registry.set_share(share, by=by, cause=cause, expect_revision=expect)

    before, change = _exactly(registry, lambda s: {"share": s.split.share}, act, split_tag, seen, revision)
    return Outcome(change, before, {"share": int(share)})


def set_want(
    registry: Registry,
    id_: str,
    want: str,
    *,
    by: str,
    limit_s: float | None = None,
    force: bool = False,
    cause: str = "",
    seen: frozenset[str] | None = None,
    revision: int | None = None,
) -> Outcome:
    """Say what an instance should be: ready, drain or maint; ``seen`` and ``revision`` as in ``set_share``.

    Raises RegistryError on a bad value, UnknownInstance, Stale or Conflict, redis.RedisError.
    """

    def view(state: State) -> dict[str, Any]:
        found = _instance(state, id_)
        return {"want": found.want, "limit_s": found.limit_s, "force": id_ in state.forced}

    def act(expect: int | None) -> Change:
        return registry.want(
            id_, want, limit_s=limit_s, force=force, by=by, cause=cause, expect_revision=expect
        )

    before, change = _exactly(registry, view, act, lambda s: instance_tag(s, id_), seen, revision)
    return Outcome(change, before, {"want": want, "limit_s": limit_s, "force": force})


def turn_off(registry: Registry, reason: str, *, by: str, cause: str = "") -> Outcome:
    """Turn the canary off until somebody or a new release turns it on. It goes before everything else, so
    nothing is read first.

    Raises RegistryError on an empty or unprintable reason, redis.RedisError.
    """
    change = registry.canary_off(reason, by=by, cause=cause)
    if change.changed:
        return Outcome(change, {"off": False}, {"off": True, "reason": reason})
    kept = _latch(registry)
    return Outcome(change, kept, kept)


def turn_on(registry: Registry, *, by: str, reason: str = "", cause: str = "") -> Outcome:
    """Open the latch; requests follow when the controller finds the canary healthy.

    Raises RegistryError on an unprintable reason, redis.RedisError.
    """
    before = _latch(registry)
    change = registry.canary_on(reason=reason, by=by, cause=cause)
    return Outcome(change, before if change.changed else {"off": False}, {"off": False})


def _latch(registry: Registry) -> dict[str, Any]:
    try:
        latch = registry.snapshot().latches.get("canary")
    except RegistryError as error:
        return {"unusable": str(error)}
    return {"off": False} if latch is None else {"off": True, "reason": latch.reason, "by": latch.by}


def _instance(state: State, id_: str) -> Any:
    if id_ not in state.instances:
        problem = state.rejected.get(id_, "fleet.status lists those that are")
        raise UnknownInstance(f"instance: {id_} is not registered; {problem}")
    return state.instances[id_]


def _exactly(
    registry: Registry,
    view: Callable[[State], dict[str, Any]],
    act: Callable[[int | None], Change],
    tag_of: Callable[[State], str],
    seen: frozenset[str] | None,
    revision: int | None,
) -> tuple[dict[str, Any], Change]:
    """Change what was read, or read again: a change of something else in between is no conflict."""
    for _ in range(_ATTEMPTS):
        try:
            state = registry.snapshot()
        except RegistryError as error:
            # A registry whose split is unusable can still be mended by setting it.
            if seen is not None:
                raise
            return {"unusable": str(error)}, act(revision)
        before = view(state)
        if seen is not None and "*" not in seen and tag_of(state) not in seen:
            raise Stale("registry: it was changed since it was read; read it again and decide again")
        try:
            return before, act(state.revision if revision is None else revision)
        except Conflict:
            if revision is not None:
                raise
    raise Conflict(f"registry: others kept changing it through {_ATTEMPTS} attempts; nothing was changed")
