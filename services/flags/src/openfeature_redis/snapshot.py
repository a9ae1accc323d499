"""The last flag set on disk, for a machine that starts while Redis is away.

The file is the document as Redis held it, byte for byte, so it can be read, checked or put there by hand.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def load(path: Path) -> str | None:
    """The saved document, or None when there is none. Raises OSError and UnicodeDecodeError."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def save(path: Path, document: str) -> None:
    """Replace the snapshot in one step; several processes may share it. Raises OSError.

    Not synced to the platter: a reader of a torn file is told so by the parser, and a flip does not wait for
    a disk.
    """
    try:
        if load(path) == document:
            return
    except UnicodeDecodeError:
        pass  # whatever is there is no snapshot: replace it
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(document)
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
