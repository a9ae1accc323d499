"""The page: plain values in, HTML out. Everything that came from a person is escaped by the template."""

import base64
import hashlib
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from bottle import SimpleTemplate

from product import colour
from product.config import Config
from product.flags import Features
from product.items import MAX_TITLE, Item
from product.store import Reading

TITLE = "Bucket list"
TAGLINE = "Things to do before the tide turns."
TITLE_LENGTH = 80
"""Longest site title shown, in characters."""

INK = {"light": "#17292c", "dark": "#e4eeed"}
"""The colour of text while no flag says another."""
PAPER = {"light": "#e3f1ef", "dark": "#17302f"}
"""What text stands on: of the surfaces in page.css the one with the least contrast to text."""

_HERE = Path(__file__).parent
_STYLE = (_HERE / "page.css").read_text(encoding="utf-8")
_SCRIPT = (_HERE / "page.js").read_text(encoding="utf-8")
PICTURE = (_HERE / "picture.svg").read_text(encoding="utf-8")
_TEMPLATE = SimpleTemplate((_HERE / "page.tpl").read_text(encoding="utf-8"))


def _source(text: str) -> str:
    """How a content security policy names one inline block: by its digest."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def security_policy(features: Features) -> str:
    """The content security policy of a page. Style and script stand in the page itself, so that a page of one
    release never asks an instance of another release for its files; nothing else may run.
    """
    return "; ".join(
        (
            "default-src 'none'",
            f"style-src {_source(_STYLE)} {_source(_ink_style(features.font_color))}",
            f"script-src {_source(_SCRIPT)}",
            "img-src data:",
            "connect-src 'self'",
            "form-action 'self'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
        )
    )


@lru_cache(maxsize=64)
def inks(wanted: str) -> tuple[str, str]:
    """The colour of text on light and on dark paper; the page's own where ``wanted`` is no colour."""
    found = colour.parse(wanted)
    if found is None:
        return INK["light"], INK["dark"]
    light, dark = (colour.legible(found, colour.parse(PAPER[scheme]) or found) for scheme in PAPER)
    return light, dark


def _ink_style(wanted: str) -> str:
    light, dark = inks(wanted)
    return f":root{{--ink-light:{light};--ink-dark:{dark}}}"


def site_title(features: Features) -> str:
    """The title in one line that fits."""
    title = " ".join(features.site_title.split()) or TITLE
    return title if len(title) <= TITLE_LENGTH else f"{title[: TITLE_LENGTH - 1]}…"


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


def mark(reading: Reading, features: Features) -> str:
    """The entity tag of a reading: it differs exactly when a person would see another list, notice or look."""
    token = reading.listing.token if reading.listing else "none"
    look = hashlib.sha256(repr(features).encode()).hexdigest()[:8]
    return f'"{token}.{"live" if reading.live else "away"}.{look}"'


def render(config: Config, reading: Reading, draft: Draft, features: Features) -> str:
    """The whole page as HTML."""
    items: tuple[Item, ...] | None = reading.listing.items if reading.listing else None
    light, dark = inks(features.font_color)
    return _TEMPLATE.render(
        site_title=site_title(features),
        tagline=TAGLINE,
        style=_STYLE,
        ink_style=_ink_style(features.font_color),
        ink_light=light,
        ink_dark=dark,
        script=_SCRIPT,
        picture=PICTURE if features.show_picture else "",
        locked=features.disable_set,
        layout="wide" if features.new_layout else "narrow",
        items=items,
        done=sum(item.done for item in items or ()),
        away=not reading.live,
        as_of=_moment(reading.listing.as_of) if reading.listing else "",
        mark=mark(reading, features),
        max_title=MAX_TITLE,
        instance=config.instance,
        pool=config.pool,
        release=config.release,
        **vars(draft),
    )


def _moment(seconds: float) -> str:
    return time.strftime("%H:%M:%S UTC on %Y-%m-%d", time.gmtime(seconds))
