"""What `./saltern status` tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import redis

from saltern import master, members, rented
from saltern.errors import SalternError
from saltern.fleet import LOCAL, Fleet, role_of
from saltern.local import machine
from saltern.production import sharing
from saltern.registry import Instance, Registry


def urls(fleet: Fleet, public: Mapping[str, Sequence[str]] | None = None) -> dict[str, str]:
    """Where a person finds the product and the rest.

    :param public: the public addresses of machines that have any, by id
    """
    addresses = fleet.addresses()
    proxy, ops = addresses.get("proxy1"), addresses.get("ops1")
    front = next(iter((public or {}).get("proxy1", ())), proxy)
    return {
        "product": f"http://{front}/" if front else "",
        "admin": f"http://{proxy}:8081/" if proxy else "",
        "dashboard": f"http://{ops}:8080/" if ops else "",
        "alerts": f"http://{ops}:9093/" if ops else "",
    }


def status(fleet: Fleet) -> dict:
    """The fleet, its machines, its addresses, as data.

    :raises SalternError: there is no such fleet
    """
    fleet = Fleet.load(fleet.state_dir)
    instances, notes = _instances(fleet)
    if not master.answers(fleet):
        notes.append("the Salt master does not answer; `./saltern up` starts it")
    try:
        notes += sharing.notes(fleet)
    except (redis.RedisError, SalternError) as error:
        notes.append(f"which master leads is not known ({error})")
    public: dict[str, list[str]] = {}
    if fleet.cloud == LOCAL:
        described = machine.describe(fleet)
    else:
        described, public, more = rented.describe(fleet)
        notes += more
    machines = []
    for name, about in sorted(described.items()):
        usage = about["usage"] or {}
        instance = instances.get(name)
        machines.append({
            "id": name,
            "role": role_of(name),
            "address": about["address"],
            "state": about["state"],
            "want": instance.want if instance else None,
            "release": instance.release if instance else None,
            "memory": about["memory"],
            "memory_used": round(usage["memory"]) if usage else None,
            "cpus": about["cpus"],
        })  # fmt: skip
    return {
        "fleet": fleet.name,
        "machines": machines,
        "urls": urls(fleet, public),
        "state_dir": str(fleet.state_dir),
        "notes": notes,
    }


def _instances(fleet: Fleet) -> tuple[dict[str, Instance], list[str]]:
    """What the registry has, and what a person must know if it cannot be asked."""
    try:
        return dict(Registry(members.link(fleet)).snapshot().instances), []
    except (redis.RedisError, SalternError) as error:
        return {}, [f"the registry cannot be asked ({error}); releases are not shown"]
