"""Turning the canary off without Redis: an order on the proxy's own disk, and HAProxy told at once.

The way an order goes. The admin API, on the same machine as the controller, writes it as a file into the
orders' folder and then sets HAProxy's share to 0 itself. The controller reads the folder between looking at
HAProxy and deciding, latches the canary off, keeps that with its own state, and only then removes the file;
it tells the registry as soon as Redis answers. The file comes before the command, so that the controller
never finds a share of 0 that it has no reason for and puts it back.

Orders only ever turn the canary off: whoever can write into the folder can take traffic away from the canary
and nothing else.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .haproxy import HAProxyError, Runtime, parse_acl

MOST_WAITING = 100
"""Orders kept at once. One is enough to turn the canary off; more would only fill the disk."""


@dataclass(frozen=True)
class Order:
    """One wish to have the canary off."""

    reason: str
    by: str
    """Who gave it."""
    cause: str = ""
    """Journal id of what led to it, if there is one."""
    what: str = ""
    """How it came, such as ``POST /alert``."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What else was said, for the journal."""
    at: float = 0.0
    """Unix seconds."""
    id: str = ""
    """Its file's name without the ending; ``give`` chooses it."""


def give(folder: Path, order: Order) -> Order:
    """Write an order so that it survives a crash; returns it with its id and time.

    With ``MOST_WAITING`` orders there already the canary is as good as off, and nothing is added.

    Raises OSError when it cannot be written.
    """
    now = time.time()
    given = Order(**{**asdict(order), "at": now, "id": f"{time.time_ns():020d}-{secrets.token_hex(4)}"})
    if len(_files(folder)) >= MOST_WAITING:
        return given
    partial = folder / f".{given.id}.new"
    with partial.open("w", encoding="utf-8") as out:
        json.dump(asdict(given), out)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(folder / f"{given.id}.json")
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    return given


def waiting(folder: Path) -> list[Order]:
    """The orders nobody has taken yet, oldest first; none when there is no such folder.

    A file that cannot be understood is an order too: somebody wanted the canary off.
    """
    found = []
    for path in _files(folder):
        try:
            found.append(Order(**{**json.loads(path.read_text(encoding="utf-8")), "id": path.stem}))
        except FileNotFoundError:
            continue  # taken while we looked
        except (OSError, ValueError, TypeError) as error:
            reason = f"an order that cannot be read ({type(error).__name__})"
            found.append(Order(reason=reason, by="orders", at=time.time(), id=path.stem))
    return found


def done(folder: Path, orders: Iterable[Order]) -> None:
    """Remove orders that have been carried out and will be remembered without their files."""
    for order in orders:
        (folder / f"{order.id}.json").unlink(missing_ok=True)


def cut(runtime: Runtime, map_dir: str) -> None:
    """Set the canary's share to 0 in HAProxy now, and read back that it is.

    Raises HAProxyError when that cannot be done.
    """
    path = f"{map_dir}/split.acl"
    drawn = parse_acl(runtime.ask([f"show acl {path}"])[0])
    if not drawn:
        return
    refused = runtime.change([f"del acl {path} {entry}" for entry in sorted(drawn)])
    left = parse_acl(runtime.ask([f"show acl {path}"])[0])
    if left:
        # The controller may have removed an entry first: what counts is whether any is left.
        why = f": {refused[0]}" if refused else ""
        raise HAProxyError(f"haproxy: the canary is still drawn by {', '.join(sorted(left))}{why}")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))
