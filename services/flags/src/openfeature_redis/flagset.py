"""Writing the flag set: validated whole, compared and set, with undo and a history that says who, why, when.

Every write is one atomic Lua step on the primary: it sets the document if it is still the one the caller saw,
adds the change to the history, bumps the revision, publishes the new number on the channel named like the
revision's key, and the number with the document on the channel named like the document's key, which saves
readers from asking for it. `client` is a redis-py client of the primary throughout, with or without
decode_responses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openfeature.contrib.tools.flagd.core import FlagdCore

from openfeature_redis import schema
from openfeature_redis.held import EMPTY

if TYPE_CHECKING:
    import redis

# How often an edit is tried anew when somebody else writes in between.
ATTEMPTS = 10
HISTORY_LENGTH = 1000

# KEYS: document, revision, history. ARGV: "1" and the document the caller saw or "0" and "" for none; the new
# document; who; why; the changed keys as JSON; history length.
_WRITE = r"""
local now = redis.call('GET', KEYS[1])
if (ARGV[1] == '1' and now ~= ARGV[2]) or (ARGV[1] == '0' and now) then
  return {0, 0, ''}
end
redis.call('SET', KEYS[1], ARGV[3])
local revision = redis.call('INCR', KEYS[2])
local id = redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[7], '*', 'revision', revision, 'who', ARGV[4],
  'why', ARGV[5], 'changed', ARGV[6], 'existed', ARGV[1], 'before', ARGV[2], 'after', ARGV[3])
redis.call('PUBLISH', KEYS[2], revision)
redis.call('PUBLISH', KEYS[1], revision .. '\n' .. ARGV[3])
return {1, revision, id}
"""


class BadFlagSet(ValueError):
    """The flag set was refused whole; `faults` has every reason with its JSON path."""

    def __init__(self, faults: Sequence[schema.Fault]) -> None:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        super().__init__(f"flags: {faults[0]}{more}")
        self.faults = tuple(faults)


class NoSuchFlag(LookupError):
    """A flag, a variant or a change that is not there."""


class Conflict(RuntimeError):
    """Somebody else wrote in between; nothing was written."""


class Unrecorded(Conflict):
    """The set is not the one the history ends with: it was written past this module."""


class Unconfirmed(RuntimeError):
    """Written on the primary, but fewer replicas than asked for confirmed it in time."""


@dataclass(frozen=True)
class Names:
    """Keys, all derived from the prefix. Channels are named like the keys of document and revision."""

    prefix: str = "saltern:"

    @property
    def document(self) -> str:
        return f"{self.prefix}flags"

    @property
    def history(self) -> str:
        return f"{self.prefix}flags:history"

    @property
    def revision(self) -> str:
        return f"{self.prefix}revision"


@dataclass(frozen=True)
class Confirm:
    """Ask for a write to be on `replicas` replicas within `timeout` seconds (Redis' WAIT)."""

    replicas: int = 1
    timeout: float = 1.0


@dataclass(frozen=True)
class Stored:
    """The flag set as it is: text is None when there is none yet, and document is then empty."""

    text: str | None
    document: Mapping[str, Any]
    revision: int


@dataclass(frozen=True)
class Row:
    """One flag at a glance."""

    key: str
    state: str
    default: str | None
    variants: Mapping[str, Any]
    targeted: bool


@dataclass(frozen=True)
class Change:
    """One write. when: seconds since the epoch by the primary's clock; 0 when nothing had to be written."""

    revision: int
    who: str
    why: str
    when: float
    changed: Sequence[str]


NAMES = Names()


def parse(text: str | bytes) -> dict[str, Any]:
    """Read a flag set from JSON text. Raises BadFlagSet for what is not JSON or what `validate` refuses."""

    def constant(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise ValueError(f"the key {twice[0]!r} appears twice in one object")
        return dict(pairs)

    try:
        document = json.loads(text, parse_constant=constant, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise BadFlagSet([schema.Fault("$", str(error) or "nested too deeply")]) from error
    validate(document)
    return document  # type: ignore[no-any-return]  # validate has seen that it is an object


def validate(document: Any) -> None:
    """Raise BadFlagSet with every fault and its JSON path unless the flag set is good in all its parts."""
    faults = schema.faults(document)
    if faults:
        raise BadFlagSet(faults)
    try:
        FlagdCore().set_flags(json.dumps(document))
    except Exception as error:  # the evaluator has the last word, and lets any kind of error out
        raise BadFlagSet([schema.Fault("$", f"flagd-core cannot load it: {error!r}")]) from error


# -- edits: pure, a document in and a new one out


def with_default(document: Mapping[str, Any], key: str, variant: str) -> dict[str, Any]:
    """The document with another default variant. Raises NoSuchFlag for an unknown flag or variant."""
    flag = _flag(document, key)
    if variant not in flag["variants"]:
        raise NoSuchFlag(f"flags: {key} has no variant {variant!r}; it has {', '.join(flag['variants'])}")
    return _with_flag(document, key, {**flag, "defaultVariant": variant})


def with_state(document: Mapping[str, Any], key: str, state: str) -> dict[str, Any]:
    """The document with a flag ENABLED or DISABLED. Raises NoSuchFlag for an unknown flag."""
    return _with_flag(document, key, {**_flag(document, key), "state": state})


def _with_flag(document: Mapping[str, Any], key: str, flag: Mapping[str, Any]) -> dict[str, Any]:
    return {**document, "flags": {**document["flags"], key: flag}}


def changed_keys(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Keys of flags that are new, gone or different; all when shared evaluators or metadata differ."""
    old, new = before.get("flags", {}), after.get("flags", {})
    if any(_text(before.get(part)) != _text(after.get(part)) for part in ("$evaluators", "metadata")):
        return sorted(old.keys() | new.keys())
    return sorted(key for key in old.keys() | new.keys() if _text(old.get(key)) != _text(new.get(key)))


def _text(part: Any) -> str:
    return json.dumps(part, sort_keys=True)  # unlike ==, tells 1 from true


def _flag(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    flags: dict[str, dict[str, Any]] = document.get("flags", {})
    if key not in flags:
        raise NoSuchFlag(f"flags: there is no flag {key!r}; there are: {', '.join(sorted(flags)) or 'none'}")
    return flags[key]


# -- reading


def read(client: redis.Redis, names: Names = NAMES) -> Stored:
    """The flag set and the revision, read in one step. Raises BadFlagSet when the key holds no flags."""
    raw, revision = client.mget([names.document, names.revision])
    text = None if raw is None else _str(raw)
    try:
        document = json.loads(EMPTY if text is None else text)
    except ValueError as error:
        raise BadFlagSet([schema.Fault("$", f"{names.document} holds no JSON: {error}")]) from error
    if not isinstance(document, dict) or not isinstance(document.get("flags"), dict):
        raise BadFlagSet([schema.Fault("$.flags", f"{names.document} holds JSON without flags")])
    return Stored(text, document, int(revision or 0))


def list_flags(client: redis.Redis, names: Names = NAMES) -> list[Row]:
    """All flags, by key."""
    flags = read(client, names).document["flags"]
    return [
        Row(key, flag["state"], flag.get("defaultVariant"), flag["variants"], bool(flag.get("targeting")))
        for key, flag in sorted(flags.items())
    ]


def get_flag(client: redis.Redis, key: str, names: Names = NAMES) -> dict[str, Any]:
    """One flag's definition. Raises NoSuchFlag."""
    return _flag(read(client, names).document, key)


def history(client: redis.Redis, limit: int = 20, names: Names = NAMES) -> list[Change]:
    """The latest changes, newest first."""
    return [
        Change(
            int(fields["revision"]),
            fields["who"],
            fields["why"],
            _when(entry),
            tuple(json.loads(fields["changed"])),
        )
        for entry, fields in _entries(client, names, limit)
    ]


# -- writing


def write(
    client: redis.Redis,
    document: Mapping[str, Any],
    *,
    who: str,
    why: str,
    expected: Stored | None = None,
    names: Names = NAMES,
    confirm: Confirm | None = None,
) -> Change:
    """Make this the flag set.

    who, why: for the history, neither may be empty. expected: what the caller saw (from `read`); without it
    whatever is there at the moment of writing is replaced, and a broken document can be mended. Writing what
    is already there changes nothing and is answered with the present revision and no changed keys. Raises
    BadFlagSet, Conflict when something else is there by now, Unconfirmed, ValueError.
    """
    _accountable(who, why)
    validate(document)
    if expected is not None:
        return _compare_and_set(client, expected, document, who, why, names, confirm)
    for _ in range(ATTEMPTS):
        try:
            seen = read(client, names)
        except BadFlagSet:
            raw, revision = client.mget([names.document, names.revision])
            seen = Stored(None if raw is None else _str(raw), {}, int(revision or 0))
        try:
            return _compare_and_set(client, seen, document, who, why, names, confirm)
        except Conflict:
            continue
    raise Conflict(f"flags: others kept writing through {ATTEMPTS} attempts; nothing was written")


def set_default(
    client: redis.Redis,
    key: str,
    variant: str,
    *,
    who: str,
    why: str,
    names: Names = NAMES,
    confirm: Confirm | None = None,
) -> Change:
    """Make a variant the default of a flag. Raises NoSuchFlag and what `write` raises."""
    return _edit(client, lambda document: with_default(document, key, variant), who, why, names, confirm)


def enable(
    client: redis.Redis, key: str, *, who: str, why: str, names: Names = NAMES, confirm: Confirm | None = None
) -> Change:
    """Let the flag decide again. Raises NoSuchFlag and what `write` raises."""
    return _edit(client, lambda document: with_state(document, key, "ENABLED"), who, why, names, confirm)


def disable(
    client: redis.Redis, key: str, *, who: str, why: str, names: Names = NAMES, confirm: Confirm | None = None
) -> Change:
    """Make the code's own default apply. Raises NoSuchFlag and what `write` raises."""
    return _edit(client, lambda document: with_state(document, key, "DISABLED"), who, why, names, confirm)


def undo(
    client: redis.Redis,
    *,
    who: str,
    why: str = "",
    revision: int | None = None,
    names: Names = NAMES,
    confirm: Confirm | None = None,
) -> Change:
    """Take back the newest change, or every change from `revision` on, by restoring the set from before it.

    The undoing is a change like any other: it is in the history and can itself be undone. A set that was
    written past this module since then (by redis-cli, say) is not overwritten. Raises NoSuchFlag when there
    is nothing to undo, Unrecorded for such a set, and what `write` raises.
    """
    # the history is trimmed in whole blocks, so there may be somewhat more than HISTORY_LENGTH
    count = 1 if revision is None else HISTORY_LENGTH * 2
    found = [fields for _, fields in _entries(client, names, count)]
    if not found:
        raise NoSuchFlag("flags: nothing has been changed yet, so there is nothing to undo")
    seen = read(client, names)
    if seen.text != found[0]["after"]:
        raise Unrecorded(
            "flags: the set is not the one the newest change made, so undoing would lose somebody's edit; "
            "`restore` takes that edit back"
        )
    target = next((entry for entry in found if revision in (None, int(entry["revision"]))), None)
    if target is None:
        known = f"{found[-1]['revision']} to {found[0]['revision']}"
        raise NoSuchFlag(f"flags: revision {revision} is not a change of the flags; the history has {known}")
    before = parse(target["before"] if target["existed"] == "1" else EMPTY)
    reason = why or f"undo of revision {target['revision']} ({target['why']})"
    return write(client, before, who=who, why=reason, expected=seen, names=names, confirm=confirm)


def restore(
    client: redis.Redis, *, who: str, why: str, names: Names = NAMES, confirm: Confirm | None = None
) -> Change:
    """Write the set that the newest change made once more, over whatever was written past this module since.

    It mends a document that is no flag set. Raises NoSuchFlag when there was no change yet, and what `write` raises.
    """
    found = [fields for _, fields in _entries(client, names, 1)]
    if not found:
        raise NoSuchFlag("flags: nothing has been changed yet, so there is nothing to restore")
    return write(client, parse(found[0]["after"]), who=who, why=why, names=names, confirm=confirm)


def _edit(
    client: redis.Redis,
    edit: Callable[[Mapping[str, Any]], dict[str, Any]],
    who: str,
    why: str,
    names: Names,
    confirm: Confirm | None,
) -> Change:
    for _ in range(ATTEMPTS):
        seen = read(client, names)
        try:
            return write(
                client, edit(seen.document), who=who, why=why, expected=seen, names=names, confirm=confirm
            )
        except Conflict:
            continue
    raise Conflict(f"flags: others kept writing through {ATTEMPTS} attempts; nothing was written")


def _compare_and_set(
    client: redis.Redis,
    seen: Stored,
    document: Mapping[str, Any],
    who: str,
    why: str,
    names: Names,
    confirm: Confirm | None,
) -> Change:
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    changed = changed_keys(seen.document, document)
    if not changed and seen.text is not None and _text(seen.document) == _text(document):
        return Change(seen.revision, who, why, 0.0, ())
    call = [
        "EVAL", _WRITE, 3, names.document, names.revision, names.history,
        "0" if seen.text is None else "1", seen.text or "", text, who, why, json.dumps(changed),
        HISTORY_LENGTH,
    ]  # fmt: skip
    if confirm is None:
        send: Callable[..., Any] = client.execute_command
        written, revision, entry = send(*call)
    else:  # WAIT speaks of the connection it is sent on, so it has to go with the write
        pipeline = client.pipeline(transaction=False)
        queue: Callable[..., Any] = pipeline.execute_command
        queue(*call)
        queue("WAIT", confirm.replicas, int(confirm.timeout * 1000))
        (written, revision, entry), confirmed = pipeline.execute()
    if not written:
        raise Conflict("flags: somebody else changed the set in between; nothing was written")
    if confirm is not None and confirmed < confirm.replicas:
        raise Unconfirmed(
            f"flags: revision {revision} is written, but {confirmed} of {confirm.replicas} replicas "
            f"confirmed it within {confirm.timeout:g} s"
        )
    return Change(int(revision), who, why, _when(entry), tuple(changed))


def _accountable(who: str, why: str) -> None:
    for name, value in (("who", who), ("why", why)):
        if not value.strip():
            raise ValueError(f"flags: {name} is empty; the history must be able to say {name}")


def _str(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _entries(client: Any, names: Names, count: int) -> list[tuple[str, dict[str, str]]]:
    """The newest entries of the history, newest first: stream id and fields."""
    return [
        (_str(entry), {_str(name): _str(value) for name, value in fields.items()})
        for entry, fields in client.xrevrange(names.history, count=count)
    ]


def _when(entry: str | bytes) -> float:
    return int(_str(entry).split("-")[0]) / 1000
