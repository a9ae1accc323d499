"""Who serves: what the master does when a machine says that it runs a release, and when a machine is no more."""

from __future__ import annotations

import time
from collections.abc import Callable

import redis

from saltern import certificates, events, secrets
from saltern.errors import SalternError
from saltern.fleet import MACHINE_ID, Fleet, role_of
from saltern.pillar import POOL_OF_ROLE, load, redis_topology
from saltern.redis_link import connect
from saltern.registry import Registry
from saltern.rejections import reported
from saltern.topology import access

# Events of an instance carry exactly these.
FIELDS = {"port", "release"}
LOOK_SECONDS = 1.0


def link(fleet: Fleet, user: str = "admin") -> redis.Redis:
    """The master's own client of the fleet's Redis; as `observer` it can change nothing."""
    settings = load(fleet.pillar_dir)["redis"]
    found = redis_topology(fleet, settings)
    if found is None:
        raise SalternError(f"redis: fleet {fleet.name} has no {settings['primary']}; `./saltern up` makes it")
    kept = secrets.load(fleet)
    ca = certificates.authority(kept["tls"]) if settings["tls"] else ""
    return connect(access(found, settings, user, kept, ca))


def await_redis(fleet: Fleet, going_on: Callable[[], bool]) -> bool:
    """Wait until the fleet has a Redis machine, be it one that is yet to boot: a master is there before its machines.

    :returns: whether there is one; without it, `going_on` said no
    """
    while going_on():
        if redis_topology(fleet, load(fleet.pillar_dir)["redis"]) is not None:
            return True
        time.sleep(LOOK_SECONDS)
    return False


def begin(fleet: Fleet) -> None:
    """Set what the registry starts with: the canary's share as the pillar has it, unless somebody has set one."""
    share = load(fleet.pillar_dir)["traffic"]["canary"]["share"]
    Registry(link(fleet)).init_share(share, by="pillar")


def register(fleet: Fleet, tag: str, minion_id: object, payload: object) -> dict:
    """Write down that an instance runs a release, at the address the master knows it by.

    :raises events.Rejected: the event proves nothing
    :raises RegistryError: what it says is not valid
    """
    client = link(fleet)
    with reported(client, tag, minion_id):
        event = events.check(fleet, client, tag, minion_id, payload, time.time_ns())
        if set(event.values) != FIELDS or role_of(event.machine) not in POOL_OF_ROLE:
            raise events.Rejected(
                f"event {tag!r} from {event.machine}: it is no instance, or says something else than {FIELDS}"
            )
        address = fleet.addresses().get(event.machine)
        if address is None:
            raise events.Rejected(f"event {tag!r}: fleet {fleet.name} has no machine {event.machine}")
    change = Registry(client).register(
        event.machine, addr=address, port=event.values["port"], release=event.values["release"],
        pool=POOL_OF_ROLE[role_of(event.machine)], cause=event.cause, by=event.machine,
    )  # fmt: skip
    return {"instance": event.machine, "revision": change.revision}


def unregister(fleet: Fleet, minion_id: object) -> dict:
    """Strike an instance off, if its machine really is no more: the word of an event alone does not count."""
    if not isinstance(minion_id, str) or not MACHINE_ID.match(minion_id):
        raise events.Rejected(f"{minion_id!r} is not a machine's id")
    if minion_id in fleet.inventory():
        raise events.Rejected(f"{minion_id} is still there; `salt-cloud -d {minion_id}` ends it first")
    change = Registry(link(fleet)).unregister(
        minion_id, cause=f"salt/cloud/{minion_id}/destroyed", by="master"
    )
    return {"instance": minion_id, "revision": change.revision}
