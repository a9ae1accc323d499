"""What an item of the list is, and which words from outside may become one. Pure: no Redis, no HTTP."""

import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass

MAX_TITLE = 200
"""Longest title, in code points after normalization."""

MAX_ITEMS = 500
"""Most items the list holds: the whole list travels in one reply and one page."""

MAX_ID_DIGITS = 12
"""Longest id accepted from outside, in digits; Lua counts exactly well beyond it."""

REPEAT_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Refused(ValueError):
    """A request that cannot be carried out as it stands. The text is one line for the person who sent it."""

    status = 422


class NoSuchItem(Refused):
    """The item is not on the list (any more)."""

    status = 404

    def __init__(self, item_id: int) -> None:
        super().__init__(f"id: item {item_id} is not on the list; it may have been deleted meanwhile")


class ListFull(Refused):
    """The list holds MAX_ITEMS already."""

    status = 409

    def __init__(self) -> None:
        super().__init__(f"list: it holds {MAX_ITEMS} items, the most it can; delete one first")


@dataclass(frozen=True)
class Item:
    """One thing to do. ``created`` is in unix seconds; ``version`` counts changes, from 1."""

    id: int
    title: str
    done: bool
    created: int
    version: int

    def as_json(self) -> dict[str, object]:
        """The item as the JSON API and the snapshot write it."""
        return asdict(self)


class Conflict(Refused):
    """The item was changed by somebody else after the caller read it."""

    status = 409

    def __init__(self, current: Item) -> None:
        super().__init__(
            f"version: item {current.id} is at version {current.version} by now; look at it and try again"
        )
        self.current = current


@dataclass(frozen=True)
class Change:
    """What to change of an item; None leaves a field as it is.

    ``version``, where given, is the version the caller saw: the change is refused when the item has moved on.
    """

    title: str | None = None
    done: bool | None = None
    version: int | None = None


def clean_title(raw: object) -> str:
    """The title as it is stored: composed characters (NFC), white space as single blanks, none at the ends.

    Raises:
        Refused: not text, nothing visible in it, longer than MAX_TITLE, or a control character in it.
    """
    if not isinstance(raw, str):
        raise Refused(f"title: {type(raw).__name__} where text is needed, 1 to {MAX_TITLE} characters")
    title = " ".join(unicodedata.normalize("NFC", raw).split())
    for position, character in enumerate(title, start=1):
        if unicodedata.category(character) in ("Cc", "Cs"):
            raise Refused(
                f"title: character {position} is U+{ord(character):04X}, a control character; use plain text"
            )
    if all(unicodedata.category(character)[0] in "CZ" for character in title):
        raise Refused(f"title: nothing to read in it; write what you want to do, 1 to {MAX_TITLE} characters")
    if len(title) > MAX_TITLE:
        raise Refused(f"title: {len(title)} characters; at most {MAX_TITLE} are allowed")
    return title


def new_title(document: object) -> str:
    """The title in the body of a request that adds an item.

    Raises:
        Refused: the body is not an object with just a valid title.
    """
    fields = _fields(document, ("title",))
    if "title" not in fields:
        raise Refused('title: missing; send {"title": "..."}')
    return clean_title(fields["title"])


def change(document: object) -> Change:
    """The change that the body of a PATCH asks for.

    Raises:
        Refused: not an object, an unknown field, a wrong type, or neither title nor done in it.
    """
    fields = _fields(document, ("title", "done", "version"))
    if "title" not in fields and "done" not in fields:
        raise Refused("body: nothing to change in it; send title, done or both")
    title = clean_title(fields["title"]) if "title" in fields else None
    done = fields.get("done")
    if "done" in fields and not isinstance(done, bool):
        raise Refused(f"done: {type(done).__name__} where true or false is needed")
    version = fields.get("version")
    if "version" in fields and (isinstance(version, bool) or not isinstance(version, int) or version < 1):
        raise Refused("version: it is the whole number, 1 or more, that the item had when you read it")
    return Change(title, done, version)


def repeat_key(raw: str) -> str:
    """A key by which a repeated request to add is recognized: 1 to 64 letters, digits, dashes, underscores.

    Raises:
        Refused: anything else.
    """
    if not REPEAT_KEY.fullmatch(raw):
        raise Refused("Idempotency-Key: use 1 to 64 letters, digits, dashes or underscores")
    return raw


def parse(text: str | bytes) -> Item:
    """An item from its stored JSON text.

    Raises:
        ValueError: it is not one.
    """
    return from_json(json.loads(text))


def from_json(document: object) -> Item:
    """An item from its decoded JSON.

    Raises:
        ValueError: a field is missing or has the wrong type.
    """
    kinds = {"id": int, "title": str, "done": bool, "created": int, "version": int}
    if not isinstance(document, dict):
        raise ValueError(f"an item is an object, not {type(document).__name__}")
    for name, kind in kinds.items():
        if type(document.get(name)) is not kind:
            raise ValueError(f"{name}: an item needs it as {kind.__name__}")
    return Item(**{name: document[name] for name in kinds})


def _fields(document: object, known: tuple[str, ...]) -> Mapping[str, object]:
    if not isinstance(document, dict):
        raise Refused('body: a JSON object is needed, such as {"title": "See the sea"}')
    unknown = sorted(set(document) - set(known))
    if unknown:
        raise Refused(f"{unknown[0][:40]!r}: no such field; known here: {', '.join(known)}")
    return document
