"""What is kept of each rented machine beside its cloud: written before the cloud is asked, removed when it is gone.

`order.json` in the machine's folder says which order it was made by and whether that was carried to its end. Whatever
dies on the way, the next command finds by it what may be left over. `machine.json` beside it is the fleet's inventory,
the same as a local machine's, and is there only once there is a machine with an address.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from saltern.clouds.dialect import Node
from saltern.clouds.settings import Size
from saltern.errors import SalternError
from saltern.fleet import MACHINE_ID, Fleet, role_of, write_atomically


@dataclass(frozen=True)
class Entry:
    """:ivar name: the machine's; :ivar alias: its provider; :ivar token: its order's; :ivar made: whether it was
    finished; :ivar since: when it was begun, unix seconds
    """

    name: str
    alias: str
    token: str
    made: bool
    since: float


def _folder(fleet: Fleet, name: str) -> Path:
    role_of(name)  # an id of no role could lead anywhere
    return fleet.machines_dir / name


def entry(fleet: Fleet, name: str) -> Entry | None:
    """What is kept of a machine.

    :raises SalternError: what is kept cannot be read, or the id is no role's
    """
    path = _folder(fleet, name) / "order.json"
    try:
        return Entry(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise SalternError(f"{path}: not an order ({error}); `salt-cloud -d {name}` clears it") from error


def entries(fleet: Fleet) -> list[Entry]:
    """All that is kept."""
    names = sorted(path.parent.name for path in fleet.machines_dir.glob("*/order.json"))
    return [found for name in names if MACHINE_ID.match(name) and (found := entry(fleet, name))]


def begin(fleet: Fleet, name: str, alias: str, token: str) -> Entry:
    """Note that a machine is going to be asked for."""
    begun = Entry(name, alias, token, made=False, since=round(time.time(), 3))
    _write(fleet, begun)
    return begun


def finish(fleet: Fleet, begun: Entry, node: Node, size: Size, profile: str) -> None:
    """Note that the machine is there, and take it into the fleet's inventory."""
    inventory = {
        "id": begun.name, "address": node.address, "memory": size.memory, "cpus": size.cpus, "image": node.image,
        "profile": profile, "since": begun.since, "made": True,
    }  # fmt: skip
    path = _folder(fleet, begun.name) / "machine.json"
    write_atomically(path, json.dumps(inventory, indent=1) + "\n")
    _write(fleet, Entry(**{**asdict(begun), "made": True}))


def change(fleet: Fleet, name: str, **values: object) -> None:
    """Note in the inventory what is different about a machine now, if it is in there."""
    found = fleet.inventory().get(name)
    if found and any(found[key] != value for key, value in values.items()):
        path = _folder(fleet, name) / "machine.json"
        write_atomically(path, json.dumps({**found, **values}, indent=1) + "\n")


def forget(fleet: Fleet, name: str) -> None:
    """Nothing is left of the machine. The order goes last: until then a sweep knows of it."""
    folder = _folder(fleet, name)
    (folder / "machine.json").unlink(missing_ok=True)
    if folder.exists():
        shutil.rmtree(folder)


def _write(fleet: Fleet, kept: Entry) -> None:
    write_atomically(
        _folder(fleet, kept.name) / "order.json", json.dumps(asdict(kept), indent=1) + "\n", 0o600
    )
