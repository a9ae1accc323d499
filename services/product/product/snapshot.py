"""The last known list, in memory as a value and on disk as one small file.

The file lets a process that starts while Redis is away still show the list. It is a copy, never the truth.
"""

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from product import items
from product.items import Item


@dataclass(frozen=True)
class Listing:
    """The list as it was at one moment.

    ``items`` newest first; ``token`` names the write that led to it, "" when there was none yet;
    ``as_of`` is when Redis last confirmed it, in unix seconds.
    """

    items: tuple[Item, ...]
    token: str
    as_of: float


def save(path: Path, listing: Listing) -> None:
    """Replace the file in one step, so that a reader or a crash never meets half of it.

    Raises:
        OSError: the folder cannot be made or written.
    """
    document = {
        "as_of": listing.as_of,
        "token": listing.token,
        "items": [item.as_json() for item in listing.items],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(document, file, ensure_ascii=False)
        Path(temporary).replace(path)
    except OSError:
        Path(temporary).unlink()
        raise


def load(path: Path) -> Listing | None:
    """The saved list, or None when none was ever saved.

    Raises:
        OSError: the file is there but cannot be read.
        ValueError: it holds something else than a saved list.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    document = json.loads(text)
    if not isinstance(document, dict) or not isinstance(document.get("items"), list):
        raise ValueError("not a saved list: it has no items")
    token, as_of = document.get("token"), document.get("as_of")
    if not isinstance(token, str) or not isinstance(as_of, (int, float)):
        raise ValueError("not a saved list: it has no token or no as_of")
    return Listing(tuple(items.from_json(item) for item in document["items"]), token, float(as_of))
