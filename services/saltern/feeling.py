"""What the beacons `cpu` and `memory` have in common: keep state, decide, sign.

Salt runs a beacon every second on the minion's own loop and forgets its globals at every refresh. So nothing here
waits, and what must outlive a refresh is written down when it changes: seldom. The file is also
`salt/_utils/feeling.py`; the parts it uses are handed to it, because Salt loads each of them by itself.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

KEPT = ("level", "since", "said", "left", "blind")
"""What is written down; counting begins anew after a restart."""


def tick(
    name: str,
    machine: str,
    key: str,
    folder: str,
    wanted: dict[str, Any],
    memory: dict[str, Any],
    measure: Callable[[], dict[str, Any] | None],
    parts: Any,
    now: float,
) -> list[dict[str, Any]]:
    """One look: the events to send, which is mostly none.

    :param name: the beacon's name
    :param key: the machine's key for signing, hex
    :param folder: where the state is kept through a refresh
    :param wanted: `pressure.settings`
    :param memory: the beacon's own dictionary, which outlives ticks alone
    :param measure: takes a sample, a mapping with ``percent``; answers None while there is nothing to compare;
        raises OSError or ValueError when it cannot read
    :param parts: `pressure.step`, `pressure.restored` and `signing.sign`, by these names
    :param now: unix seconds
    """
    path = Path(folder) / f"saltern-{name}.json"
    if "state" not in memory:
        memory["state"] = parts["pressure.restored"](_read(path))
    try:
        sample = measure()
        problem = ""
    except (OSError, ValueError) as error:
        sample, problem = {"percent": None}, " ".join(str(error).split())[:200]
    if sample is None:
        return []
    old = memory["state"]
    state, edge = parts["pressure.step"](old, sample["percent"], now, wanted)
    memory["state"] = state
    if any(state[each] != old[each] for each in KEPT):
        _write(path, {each: state[each] for each in KEPT})
    if edge is None:
        return []
    values = {**sample, "high": wanted["high"], "low": wanted["low"], "since": round(state["since"], 3)}
    if edge == "blind":
        log.warning("beacon %s cannot read: %s; nothing more is said until it can", name, problem)
        values = {"problem": problem}
    tag = f"salt/beacon/{machine}/{name}/{edge}"
    return [{"tag": edge, **parts["signing.sign"](key, machine, tag, values)}]


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("%s: not usable (%s); starting as if nothing were known", path, error)
        return None


def _write(path: Path, state: dict[str, Any]) -> None:
    half = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        half.write_text(json.dumps(state))
        half.replace(path)
    except OSError as error:
        log.warning("%s: %s; a refresh of the beacons will forget the level", path, error)
