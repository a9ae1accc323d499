"""What Salt's runners ``flags.*`` do, on the master.

The set, its checks, its history and its undo are ``openfeature_redis.flagset``'s; here are the ways a person
changes it, and the line of the journal that says who did and why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from openfeature_redis import flagset
from openfeature_redis.flagset import Stored

from saltern import members
from saltern.canary_control import Outcome
from saltern.errors import SalternError
from saltern.flag_edits import flag_of, glance, with_definition, with_percent, with_value, with_variant
from saltern.fleet import Fleet
from saltern.registry import Change, Registry, check_text

# What flagset refuses: a bad set, a flag that is not there, an edit that somebody else's came before.
REFUSALS = (flagset.BadFlagSet, flagset.NoSuchFlag, flagset.Conflict, ValueError)
LONGEST_HISTORY = flagset.HISTORY_LENGTH


def listed(fleet: Fleet) -> dict[str, Any]:
    """Every flag at a glance, and the revision.

    :raises SalternError: the key holds no flag set
    """
    return glance(_read(members.link(fleet)))


def get(fleet: Fleet, key: str) -> dict[str, Any]:
    """One flag's definition.

    :raises SalternError: there is none, or the key holds no flag set
    """
    return flag_of(_read(members.link(fleet)).document, key)


def history(fleet: Fleet, limit: object = 10) -> list[dict[str, Any]]:
    """The latest changes, newest first.

    :raises SalternError: limit is no number of changes
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= LONGEST_HISTORY:
        raise SalternError(f"flags.history: limit {limit!r} is not between 1 and {LONGEST_HISTORY}")
    return [
        {"revision": c.revision, "who": c.who, "why": c.why, "when": c.when, "changed": list(c.changed)}
        for c in flagset.history(members.link(fleet), limit)
    ]


def change(
    fleet: Fleet,
    key: str,
    *,
    variant: object = None,
    value: object = None,
    percent: object = None,
    definition: object = None,
    why: str = "",
    cause: str = "",
    by: str,
) -> dict[str, Any]:
    """Change a flag in one of four ways: its default variant, its value, a rollout's share, or all of it.

    :raises SalternError: not exactly one of them is given, or the set that would result is not valid
    """
    ways: dict[str, tuple[object, Callable[[Mapping[str, Any], str, Any], dict[str, Any]]]] = {
        "variant": (variant, with_variant),
        "value": (value, with_value),
        "percent": (percent, with_percent),
        "definition": (definition, with_definition),
    }
    given = {name: (what, edit) for name, (what, edit) in ways.items() if what is not None}
    if len(given) != 1:
        raise SalternError(
            f"flags.set {key}: give one of {', '.join(ways)}; given: {', '.join(given) or 'none'}"
        )
    ((name, (what, edit)),) = given.items()
    shown = f"{name}={what}" if name in ("variant", "percent") else name
    reason = why or f"flags.set {key} {shown}"
    return _write(
        members.link(fleet), key, lambda document: edit(document, key, what), reason, cause, by, "flags.set"
    )


def switch(fleet: Fleet, key: str, on: bool, *, why: str = "", cause: str = "", by: str) -> dict[str, Any]:
    """Let a flag decide (on), or let the code's own default hold (off).

    :raises SalternError: there is no such flag
    """
    kind, state = ("flags.enable", "ENABLED") if on else ("flags.disable", "DISABLED")
    return _write(
        members.link(fleet),
        key,
        lambda document: flagset.with_state(document, key, state),
        why or f"{kind} {key}",
        cause,
        by,
        kind,
    )


def undo(
    fleet: Fleet,
    revision: object = None,
    *,
    unrecorded: bool = False,
    why: str = "",
    cause: str = "",
    by: str,
) -> dict[str, Any]:
    """Take back the newest change, or every change from ``revision`` on, or what no history recorded.

    :raises SalternError: there is no such change, or the set was written past the history since and ``unrecorded`` is
        not asked for
    """
    if revision is not None and (isinstance(revision, bool) or not isinstance(revision, int)):
        raise SalternError(f"flags.undo: revision {revision!r} is not a number; flags.history lists them")
    if unrecorded and revision is not None:
        raise SalternError("flags.undo: give revision or unrecorded, not both")
    client = members.link(fleet)
    _sayable(by, why, cause)
    try:
        if unrecorded:
            made = flagset.restore(client, who=by, why=why or "undo of what was written past the history")
        else:
            made = flagset.undo(client, who=by, why=why, revision=revision)
    except flagset.Unrecorded as error:
        raise SalternError(f"{error}; that is flags.undo unrecorded=True") from error
    except REFUSALS as error:
        raise SalternError(str(error)) from error
    fields = {"changed": list(made.changed), "why": made.why}
    journal = Registry(client).note("flags.undo", "flags", fields, by=by, cause=cause)
    return {"changed": list(made.changed), "revision": made.revision, "why": made.why, "journal": journal}


def _difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The parts of a flag that differ, as they were and as they are: a line of the journal is to be read."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return {
        "before": {name: before[name] for name in names if name in before},
        "after": {name: after[name] for name in names if name in after},
    }


def _sayable(by: str, why: str, cause: str) -> None:
    """Refuse what the journal cannot hold before anything is written."""
    for name, text in (("by", by), ("why", why), ("cause", cause)):
        check_text(text, f"flags.{name}")


def _read(client: Any) -> Stored:
    """The set as it is, known to be valid."""
    try:
        stored = flagset.read(client)
        flagset.validate(stored.document)
    except flagset.BadFlagSet as error:
        raise SalternError(f"{error}; flags.undo unrecorded=True brings the last good set back") from error
    return stored


def _write(
    client: Any,
    key: str,
    edit: Callable[[Mapping[str, Any]], dict[str, Any]],
    why: str,
    cause: str,
    by: str,
    kind: str,
) -> dict[str, Any]:
    """Edit the set as it is, or as it has become meanwhile, and say so in the journal."""
    _sayable(by, why, cause)
    for _ in range(flagset.ATTEMPTS):
        stored = _read(client)
        try:
            document = edit(stored.document)
            made = flagset.write(client, document, who=by, why=why, expected=stored)
        except flagset.Conflict:
            continue
        except REFUSALS as error:
            raise SalternError(str(error)) from error
        before, after = stored.document["flags"].get(key, {}), document["flags"][key]
        journal = ""
        if made.changed:
            fields = {"why": why, **_difference(before, after)}
            journal = Registry(client).note(kind, key, fields, by=by, cause=cause)
        answer = Outcome(Change(bool(made.changed), made.revision, journal), before, after).to_data()
        if kind == "flags.set" and after.get("targeting") and before.get("targeting") == after["targeting"]:
            answer["note"] = "the flag's targeting decides first; its default holds where that says nothing"
        return answer
    raise SalternError(f"flags: others kept writing through {flagset.ATTEMPTS} attempts; nothing was written")
