"""Hash-locked requirements, read by rules of our own: what a pusher wrote must not tell pip where to fetch from."""

from __future__ import annotations

import re

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*(?:\[[A-Za-z0-9._, -]*\])?"
_MARKER = r"[A-Za-z0-9_.,<>=!~'\"() -]*"
_LINE = re.compile(
    rf"({_NAME}==[A-Za-z0-9.!+_-]+)\s*(?:;\s*({_MARKER}?))?((?:\s+--hash=sha256:[0-9a-f]{{64}})+)\s*\Z"
)
MOST = 500


def cleaned(text: str, name: str) -> str:
    """The same lock with nothing in it but pinned names, their conditions and hashes.

    :param name: the file's, for errors
    :raises ValueError: there is something else; the text names the line
    """
    # A backslash at its end joins a line to the next, as pip reads it.
    joined = re.sub(r"\\\n", " ", text)
    found = []
    for line in joined.splitlines():
        stripped = re.sub(r"(^|\s)#.*", "", line).strip()
        if not stripped:
            continue
        match = _LINE.match(stripped)
        if match is None:
            raise ValueError(f"{name}: {stripped[:60]!a} is not `name==version` with --hash=sha256:... alone")
        pinned, marker, hashes = match.groups()
        found.append(" ".join([pinned, *([f"; {marker.strip()}"] if marker else []), *hashes.split()]))
    if len(found) > MOST:
        raise ValueError(f"{name}: {len(found)} requirements; {MOST} at most")
    return "\n".join(found) + "\n"
