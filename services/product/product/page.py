"""The page: plain values in, HTML out. Everything that came from a person is escaped by the template."""

import base64
import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

from bottle import SimpleTemplate

from product.config import Config
from product.items import MAX_TITLE, Item
from product.store import Reading

TITLE = "Bucket list"
TAGLINE = "Things to do before the tide turns."

_HERE = Path(__file__).parent
_STYLE = (_HERE / "page.css").read_text(encoding="utf-8")
_SCRIPT = (_HERE / "page.js").read_text(encoding="utf-8")
_TEMPLATE = SimpleTemplate((_HERE / "page.tpl").read_text(encoding="utf-8"))


def _source(text: str) -> str:
    """How a content security policy names one inline block: by its digest."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        f"style-src {_source(_STYLE)}",
        f"script-src {_source(_SCRIPT)}",
        "img-src data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
"""Style and script stand in the page itself, so that a page of one release never asks an instance of another
release for its files; nothing else may run."""


@dataclass(frozen=True)
class Draft:
    """What a person was doing when the page was asked for; it is shown again, never lost.

    ``key`` recognizes a repeated request to add; ``typed`` stands in the field for a new item.
    ``editing`` is the id of the item being edited, ``edit_text`` the text typed for it, ``edit_version`` the
    version it was read at (None: the item's own). ``deleted`` is the id of an item that can be brought back.
    ``problem`` is a sentence on what went wrong.
    """

    key: str
    typed: str = ""
    editing: int | None = None
    edit_text: str | None = None
    edit_version: int | None = None
    deleted: int | None = None
    problem: str | None = None


def mark(reading: Reading) -> str:
    """The entity tag of a reading: it differs exactly when a person would see another list or notice."""
    token = reading.listing.token if reading.listing else "none"
    return f'"{token}.{"live" if reading.live else "away"}"'


def render(config: Config, reading: Reading, draft: Draft) -> str:
    """The whole page as HTML."""
    items: tuple[Item, ...] | None = reading.listing.items if reading.listing else None
    return _TEMPLATE.render(
        title=TITLE,
        tagline=TAGLINE,
        style=_STYLE,
        script=_SCRIPT,
        items=items,
        done=sum(item.done for item in items or ()),
        away=not reading.live,
        as_of=_moment(reading.listing.as_of) if reading.listing else "",
        mark=mark(reading),
        max_title=MAX_TITLE,
        instance=config.instance,
        pool=config.pool,
        release=config.release,
        **vars(draft),
    )


def _moment(seconds: float) -> str:
    return time.strftime("%H:%M:%S UTC on %Y-%m-%d", time.gmtime(seconds))
