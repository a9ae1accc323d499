"""Colours that can be read: whatever an operator sets, text stays legible on light and on dark paper. Pure."""

import re

HEX = re.compile(r"#([0-9a-f]{3}|[0-9a-f]{6})", re.IGNORECASE)
LEGIBLE = 4.5
"""Contrast that text needs at least (WCAG 2.2, success criterion 1.4.3, level AA)."""
STEPS = 20

BASIC = {
    "black": "#000000", "silver": "#c0c0c0", "gray": "#808080", "white": "#ffffff", "maroon": "#800000",
    "red": "#ff0000", "purple": "#800080", "fuchsia": "#ff00ff", "green": "#008000", "lime": "#00ff00",
    "olive": "#808000", "yellow": "#ffff00", "navy": "#000080", "blue": "#0000ff", "teal": "#008080",
    "aqua": "#00ffff",
}  # fmt: skip
"""The sixteen names of CSS 1."""

Rgb = tuple[float, float, float]


def parse(text: str) -> Rgb | None:
    """Red, green and blue from 0 to 1 of ``#rgb``, ``#rrggbb`` or a basic name; None for anything else."""
    wanted = BASIC.get(text.strip().lower(), text.strip())
    if not HEX.fullmatch(wanted):
        return None
    digits = wanted[1:] if len(wanted) == 7 else "".join(each * 2 for each in wanted[1:])
    red, green, blue = (int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4))
    return red, green, blue


def legible(colour: Rgb, paper: Rgb) -> str:
    """The colour as ``#rrggbb``, moved towards black or white no further than it takes to be read on ``paper``."""
    far: Rgb = (0.0, 0.0, 0.0) if _luminance(paper) > 0.18 else (1.0, 1.0, 1.0)
    for step in range(STEPS + 1):
        mixed = _hex(_mix(colour, far, step / STEPS))
        if contrast(_known(mixed), paper) >= LEGIBLE:
            return mixed
    return _hex(far)


def contrast(one: Rgb, other: Rgb) -> float:
    """Contrast ratio of two colours, 1 to 21 (WCAG 2.2, definition of contrast ratio)."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: Rgb) -> float:
    """Relative luminance of an sRGB colour (WCAG 2.2, definition of relative luminance)."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _mix(colour: Rgb, far: Rgb, share: float) -> Rgb:
    red, green, blue = (c + (f - c) * share for c, f in zip(colour, far, strict=True))
    return red, green, blue


def _known(text: str) -> Rgb:
    found = parse(text)
    assert found is not None
    return found


def _hex(colour: Rgb) -> str:
    return "#" + "".join(f"{round(c * 255):02x}" for c in colour)
