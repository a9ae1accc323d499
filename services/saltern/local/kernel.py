"""The two kernel settings of this host that a fleet needs, put back when the last fleet goes."""

from __future__ import annotations

import json
from pathlib import Path

from saltern.fleet import Fleet, home, write_atomically

SYSCTL = Path("/proc/sys")
# Setting → the least it must be. Machines reach the outside through the host; and every systemd in every machine
# takes about ten inotify instances of the one allowance that root has, 128 by default: too few for two fleets.
LEAST = {"net/ipv4/ip_forward": 1, "fs/inotify/max_user_instances": 2048}


def need(fleet: Fleet) -> None:
    """Raise what is too low, and remember what it was before the first fleet."""
    note = _read()
    for setting, least in LEAST.items():
        value = int((SYSCTL / setting).read_text())
        note["before"].setdefault(setting, value)
        if value < least:
            (SYSCTL / setting).write_text(str(least))
    note["fleets"] = sorted({*note["fleets"], str(fleet.state_dir)})
    write_atomically(_path(), json.dumps(note, indent=1) + "\n")


def release(fleet: Fleet) -> None:
    """This fleet needs them no more; the last one puts them back."""
    note = _read()
    note["fleets"] = [each for each in note["fleets"] if each != str(fleet.state_dir)]
    if note["fleets"]:
        write_atomically(_path(), json.dumps(note, indent=1) + "\n")
        return
    for setting, value in note["before"].items():
        if int((SYSCTL / setting).read_text()) != value:
            (SYSCTL / setting).write_text(str(value))
    _path().unlink(missing_ok=True)


def _path() -> Path:
    return home() / "kernel.json"


def _read() -> dict:
    path = _path()
    return json.loads(path.read_text()) if path.exists() else {"before": {}, "fleets": []}
