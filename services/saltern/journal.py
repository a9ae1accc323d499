"""The diary of the fleet: what happened, who did it, and what led to it. Everything else writes it; this reads it.

``saltern:journal`` is a stream of lines: kind, subject, cause, who, fields (JSON), revision. A cause is the id of
another line, or the event that began it all: its tag and, if a machine signed it, its counter, which is when it was
signed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import redis

from saltern.errors import SalternError
from saltern.registry import JOURNAL

LINE_ID = re.compile(r"[0-9]{10,16}-[0-9]{1,10}\Z")
_EVENT = re.compile(r"(?P<tag>[a-z]+(?:/[A-Za-z0-9_.-]+)+)(?: (?P<counter>[0-9]{16,20}))?\Z")
LONGEST_CHAIN = 50
"""Lines. A cause is older than what it led to, so a chain ends; this one is for a journal that was tampered with."""
FURTHEST_BACK = 20_000
"""Lines that are looked through for an answer."""
MOST_SHOWN = 1000
_PIECE = 500


@dataclass(frozen=True)
class Line:
    """One line of the journal."""

    id: str
    kind: str
    subject: str
    cause: str = ""
    who: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def at(self) -> float:
        """When it was written, unix seconds by Redis's clock."""
        return int(self.id.partition("-")[0]) / 1000

    @property
    def what(self) -> str:
        """Kind and subject, and the few fields that say most, on one line."""
        return " ".join([self.kind, self.subject, *summary(self.fields)])


@dataclass(frozen=True)
class Origin:
    """Where a chain begins when it is not with a line: an event, or a person's words."""

    text: str
    at: float | None = None


def parse(id_: str, stored: Mapping[str, str]) -> Line:
    """The line as it is stored; fields that are no object are kept as text."""
    text = stored.get("fields", "{}")
    try:
        fields = json.loads(text)
    except ValueError:
        fields = text
    if not isinstance(fields, dict):
        fields = {"text": fields}
    return Line(
        id_,
        stored.get("kind", ""),
        stored.get("subject", ""),
        stored.get("cause", ""),
        stored.get("who", ""),
        # The conductor's lines carry a second object, in text.
        {name: _opened(value) for name, value in fields.items()},
    )


def _opened(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def summary(fields: Mapping[str, Any]) -> Iterator[str]:
    """Fields as ``name=value``, without what is empty."""
    for name, value in fields.items():
        if value not in ("", None, [], {}):
            text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
            yield f"{name}={text}" if " " not in text else f"{name}={text!r}"


def origin(cause: str) -> Origin:
    """What a cause says that is not a line of the journal."""
    found = _EVENT.match(cause)
    if found and found["counter"]:
        return Origin(found["tag"], int(found["counter"]) / 1e9)
    return Origin(cause)


# -- asking


# What a person says of a thing, and the lines that say it, the one nearest to the reason first.
_STATES: Mapping[str, Sequence[tuple[str, str]]] = {
    "exists": (("intent.done", "add"), ("instance.register", "")),
    "gone": (("intent.done", "remove"), ("instance.unregister", ""), ("machine.lost", "")),
    "bigger": (("intent.done", "up"),),
}


def question(text: str) -> Callable[[Line], int]:
    """How well a line answers: 0 not at all, else the lower the better.

    ``text`` is a line's id, or words: a kind with or without its dot ("canary off"), a subject, or a subject and one
    of exists, gone. Raises SalternError when there is nothing to ask.
    """
    words = text.replace(".", " ").split()
    if not words:
        raise SalternError(
            "journal.why: nothing is asked; a line's id, or words such as 'canary off', are right"
        )
    if LINE_ID.match(text.strip()):
        return lambda line: int(line.id == text.strip())
    *things, state = words
    if things and state in _STATES:
        ways = _STATES[state]

        def by_state(line: Line) -> int:
            for rank, (kind, inside) in enumerate(ways, 1):
                there = _names(line.fields.get("result"), inside) if inside else {line.subject}
                if line.kind == kind and set(things) <= there:
                    return rank
            return 0

        return by_state
    return lambda line: int(set(words) <= {line.subject, *line.kind.split(".")})


def _names(result: Any, name: str) -> set[str]:
    found = result.get(name) if isinstance(result, dict) else None
    return {str(each) for each in found} if isinstance(found, list) else set()


def best(lines: Iterable[Line], asked: Callable[[Line], int]) -> Line | None:
    """The newest line among those that answer best; ``lines`` are newest first."""
    found: tuple[int, Line] | None = None
    for line in lines:
        rank = asked(line)
        if rank and (found is None or rank < found[0]):
            found = rank, line
        if rank == 1:
            break
    return found[1] if found else None


def chain(line: Line, look: Callable[[str], Line | None]) -> list[Line | Origin]:
    """What led to a line, oldest first, the line itself last."""
    links: list[Line | Origin] = [line]
    seen = {line.id}
    while isinstance(last := links[-1], Line) and last.cause and len(links) < LONGEST_CHAIN:
        if not LINE_ID.match(last.cause):
            links.append(origin(last.cause))
        elif last.cause in seen:
            links.append(Origin(f"{last.cause}, which is in this chain already"))
        elif (found := look(last.cause)) is None:
            links.append(Origin(f"{last.cause}, which the journal no longer holds"))
        else:
            seen.add(found.id)
            links.append(found)
    return links[::-1]


def told(links: Sequence[Line | Origin]) -> list[dict[str, Any]]:
    """A chain for a person: when, how many milliseconds after the one before, what and who."""
    rows: list[dict[str, Any]] = []
    before: float | None = None
    for link in links:
        row: dict[str, Any] = {"at": stamp(link.at)}
        row["after_ms"] = None if before is None or link.at is None else round((link.at - before) * 1000)
        if isinstance(link, Line):
            row |= {"what": link.what, "who": link.who, "line": link.id}
        else:
            row |= {"what": link.text}
        rows.append(row)
        before = link.at if link.at is not None else before
    return rows


def stamp(at: float | None) -> str:
    """Unix seconds as a date and a time to the millisecond, UTC; nothing when it is not known."""
    if at is None:
        return ""
    return datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + " UTC"


# -- reading


def newest(client: redis.Redis, before: str = "+") -> Iterator[Line]:
    """Lines, newest first, as far back as ``FURTHEST_BACK``. Raises redis.RedisError."""
    left = FURTHEST_BACK
    while left > 0:
        entries = client.xrevrange(JOURNAL, max=before, count=min(_PIECE, left))
        yield from (parse(id_, stored) for id_, stored in entries)
        if len(entries) < _PIECE:
            return
        left -= len(entries)
        before = f"({entries[-1][0]}"


def get(client: redis.Redis, id_: str) -> Line | None:
    """One line; None when there is none of that id. Raises redis.RedisError."""
    entries = client.xrange(JOURNAL, min=id_, max=id_, count=1)
    return parse(*entries[0]) if entries else None


def why(client: redis.Redis, text: str) -> dict[str, Any]:
    """The chain that led to what is asked for, and what came of it.

    Raises SalternError when nothing in the journal answers, redis.RedisError.
    """
    line = best(newest(client), question(text))
    if line is None:
        raise SalternError(
            f"journal.why: nothing in the journal answers {text!r}; ask for a line's id (journal.tail shows them), "
            "a kind and its subject ('canary off', 'instance.want prod3'), or 'prod6 exists'"
        )
    effects = []
    for other in newest(client):
        if other.id == line.id or other.at < line.at:
            break
        if other.cause == line.id:
            effects.append({"at": stamp(other.at), "what": other.what, "who": other.who, "line": other.id})
    return {
        "chain": told(chain(line, lambda id_: get(client, id_))),
        "effects": effects[::-1],
    }


def wanted(line: Line, kind: str = "", subject: str = "", who: str = "") -> bool:
    """Whether a line is one of those asked for; a kind may be the first part of one: ``canary``."""
    return (
        (not kind or line.kind == kind or line.kind.startswith(f"{kind}."))
        and (not subject or line.subject == subject)
        and (not who or line.who == who)
    )


def shown(
    client: redis.Redis,
    count: object = 20,
    kind: str = "",
    subject: str = "",
    who: str = "",
    *,
    follow: Callable[[str], object] | None = None,
) -> list[dict[str, str]]:
    """The last ``count`` lines of those asked for, oldest first.

    ``follow`` is called with those and every new one, as a line of text, until the program is interrupted.

    Raises SalternError on a bad count, redis.RedisError.
    """
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST_SHOWN:
        raise SalternError(f"journal.tail: count {count!r} is not a whole number from 1 to {MOST_SHOWN}")
    last = client.xrevrange(JOURNAL, count=1)
    lines: list[Line] = []
    for line in newest(client):
        if len(lines) == count:
            break
        if wanted(line, kind, subject, who):
            lines.append(line)
    if follow is None:
        return [row(line) for line in reversed(lines)]
    for line in reversed(lines):
        follow(text(line))
    try:
        for line in since(client, last[0][0] if last else "0-0"):
            if wanted(line, kind, subject, who):
                follow(text(line))
    except KeyboardInterrupt:
        pass
    return []


def row(line: Line) -> dict[str, str]:
    """A line for a person or a program."""
    return {"at": stamp(line.at), "what": line.what, "who": line.who, "cause": line.cause, "line": line.id}


def text(line: Line) -> str:
    """A line on one line."""
    return f"{stamp(line.at)}  {line.what}  by {line.who or '?'}" + (
        f"  <- {line.cause}" if line.cause else ""
    )


def since(client: redis.Redis, after: str, block_ms: int = 500) -> Iterator[Line]:
    """Lines as they are written, for ever. Raises redis.RedisError."""
    while True:
        for _, entries in client.xread({JOURNAL: after}, block=block_ms) or ():
            for id_, stored in entries:
                after = id_
                yield parse(id_, stored)
