"""What `salt-run scale.*` does: tell how pools are scaled, and queue what a person or a machine asks for."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from saltern import events, pillar, reflexes, rejections
from saltern.conductor import FAILED, FELT, SCALE, wanted_number
from saltern.errors import SalternError
from saltern.fleet import MACHINE_ID, Fleet, role_of
from saltern.intents import Intent, Queue
from saltern.members import link
from saltern.pillar import POOL_OF_ROLE
from saltern.provisioning import ABSENT, MISSED, OBSERVED, ROLE_OF_POOL, SIZES, SaltCloud, members
from saltern.registry import Registry

POLL_SECONDS = 0.2
REQUESTS = ("out", "in", "up")
"""What a machine may ask for: the last part of the tag `saltern/scale/<id>/…`."""


def _pool(pool: object) -> str:
    if pool not in ROLE_OF_POOL or not isinstance(pool, str):
        raise SalternError(f"pool {pool!r}: not one of {', '.join(sorted(ROLE_OF_POOL))}")
    return pool


def _count(count: object) -> int:
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= 100:
        raise SalternError(f"count {count!r}: not a whole number between 1 and 100")
    return count


def status(fleet: Fleet) -> dict[str, Any]:
    """Every pool's size, bounds and last decision, what machines feel, what is queued, and what was given up."""
    client = link(fleet)
    settings = pillar.load(fleet.pillar_dir)["scaling"]
    state, machines, unfinished = (
        Registry(client).snapshot(),
        SaltCloud(fleet).machines(),
        Queue(client).unfinished(),
    )
    observed = json.loads(client.get(OBSERVED) or "{}")
    pools = {}
    for pool in ROLE_OF_POOL:
        there = members(pool, machines, state, observed)
        bounds = settings["pools"].get(pool, {})
        kept = json.loads(client.get(SCALE + pool) or "{}")
        pools[pool] = {
            "machines": [m.id for m in there],
            "serving": [m.id for m in there if m.serving],
            "wanted": wanted_number(pool, len(there), unfinished),
            "auto": bounds.get("auto", False),
            "min": bounds.get("min"),
            "max": bounds.get("max"),
            "decision": kept.get("decision"),
            "failures": kept.get("memory", {}).get("failures", 0),
        }
    sizes = {k: json.loads(v) for k, v in client.hgetall(SIZES).items() if "/" not in k}
    return {
        "pools": pools,
        "felt": {key: json.loads(text) for key, text in sorted(client.hgetall(FELT).items())},
        "memory": {
            id_: {"now_mib": machines[id_].memory, "made_with_mib": kept["base"]}
            for id_, kept in sorted(sizes.items())
            if id_ in machines
        },
        "intents": [_told(intent) for intent in unfinished],
        "failed": sorted(client.smembers(FAILED)),
    }


def _told(intent: Intent) -> dict[str, Any]:
    return {
        "id": intent.id, "kind": intent.kind, "pool": intent.pool, "args": dict(intent.args),
        "state": intent.state, "steps": sorted(intent.steps), "attempts": intent.attempts, "error": intent.error,
        "merged": intent.merged, "cause": intent.cause, "by": intent.by, "result": dict(intent.result),
    }  # fmt: skip


def out(
    fleet: Fleet,
    pool: object = "prod",
    count: object = 1,
    *,
    wait: float = 0,
    cause: str = "",
    by: str = "salt-run",
) -> dict[str, Any]:
    """Have a pool get more machines.

    :param wait: seconds to wait for the end; 0 answers at once
    :raises SalternError: no such pool, more than its `max`, or it did not come to a good end in time
    """
    return _scale(fleet, _pool(pool), _count(count), False, wait, cause, by)


def in_(
    fleet: Fleet,
    pool: object = "prod",
    count: object = 1,
    *,
    force: bool = False,
    wait: float = 0,
    cause: str = "",
    by: str = "salt-run",
) -> dict[str, Any]:
    """Have a pool give up machines: the youngest, drained first.

    :param force: go below the pool's `min`; the last one stays in any case
    :param wait: seconds to wait for the end; 0 answers at once
    :raises SalternError: no such pool, fewer than its `min`, or it did not come to a good end in time
    """
    return _scale(fleet, _pool(pool), -_count(count), force, wait, cause, by)


def _scale(
    fleet: Fleet, pool: str, more: int, force: bool, wait: float, cause: str, by: str
) -> dict[str, Any]:
    client = link(fleet)
    queue = Queue(client)
    bounds = pillar.load(fleet.pillar_dir)["scaling"]["pools"].get(pool, {"min": 1, "max": 100})
    state, machines = Registry(client).snapshot(), SaltCloud(fleet).machines()
    there = len(members(pool, machines, state, None))
    to = bounded(pool, wanted_number(pool, there, queue.unfinished()), more, bounds, force)
    args: dict[str, Any] = {"to": to, **({"force": True} if force else {})}
    id_, _ = queue.put(Intent("scale", pool, args, cause=cause, by=by))
    return _answer(queue, id_, wait, {"pool": pool, "to": to})


def bounded(pool: str, current: int, more: int, bounds: Mapping[str, Any], force: bool = False) -> int:
    """How many machines a pool shall have that has, or is to have, `current`.

    :raises SalternError: its bounds do not allow it
    """
    to, where = current + more, f"`scaling:pools:{pool}` in pillar/scaling.sls"
    if more > 0 and to > bounds["max"]:
        raise SalternError(f"pool {pool}: {to} machines are more than max, {bounds['max']}; see {where}")
    if to < 1 or (more < 0 and to < bounds["min"] and not force):
        remedy = "a pool keeps one machine" if to < 1 else f"see {where}, or say force=True"
        raise SalternError(f"pool {pool}: {to} machines are fewer than min, {bounds['min']}; {remedy}")
    return to


def up(
    fleet: Fleet,
    machine: object,
    memory: object = None,
    *,
    wait: float = 0,
    cause: str = "",
    by: str = "salt-run",
) -> dict[str, Any]:
    """Have a machine get more memory, or as much as is said.

    :param memory: MiB; None doubles it
    :raises SalternError: no such machine, or not within what is allowed
    """
    known = SaltCloud(fleet).machines()
    if not isinstance(machine, str) or machine not in known or not known[machine].made:
        raise SalternError(
            f"machine {machine!r}: fleet {fleet.name} has none by this name; `salt-cloud -Q` lists them"
        )
    most = pillar.load(fleet.pillar_dir)["scaling"]["memory"]["max_mib"]
    to = known[machine].memory * 2 if memory is None else memory
    if isinstance(to, bool) or not isinstance(to, int) or not 128 <= to <= most:
        raise SalternError(
            f"machine {machine}: {to!r} MiB is not between 128 and {most} (`scaling:memory:max_mib` in the pillar)"
        )
    pool = POOL_OF_ROLE.get(role_of(machine), role_of(machine))
    queue = Queue(link(fleet))
    args = {"machine": machine, "to": to, "why": f"asked for by {by}"}
    id_, _ = queue.put(Intent("resize", pool, args, f"resize:{machine}", cause, by))
    return _answer(queue, id_, wait, {"machine": machine, "to": to})


def _answer(queue: Queue, id_: str, wait: float, about: Mapping[str, Any]) -> dict[str, Any]:
    end = time.monotonic() + float(wait)
    while (intent := queue.load(id_)) and intent.state in ("queued", "running") and time.monotonic() < end:
        time.sleep(POLL_SECONDS)
    if intent is None:
        raise SalternError(f"intent {id_}: it was lost; `salt-run scale.status` tells what is queued")
    if intent.state in ("failed", "refused"):
        raise SalternError(f"{intent.kind} {intent.pool}: {intent.state}: {intent.error}")
    return {
        "intent": id_,
        **about,
        "state": intent.state,
        **({"result": dict(intent.result)} if intent.result else {}),
    }


def request(fleet: Fleet, tag: str, minion_id: object, payload: object) -> dict[str, Any]:
    """Do what a machine asked for by a signed event `saltern/scale/<id>/out`, `in` or `up`; bounds hold for it too.

    :raises events.Rejected: the event proves nothing, or asks for something else
    :raises SalternError: the bounds do not allow it
    """
    client = link(fleet)
    options = pillar.load(fleet.pillar_dir)["alerts"]
    with rejections.reported(client, tag, minion_id, options["rejected_s"]):
        event = events.check(
            fleet, client, tag, minion_id, payload, time.time_ns(), rate=reflexes.rate(options)
        )
        what = tag.rsplit("/", 1)[-1]
        if tag != f"saltern/scale/{event.machine}/{what}" or what not in REQUESTS:
            raise events.Rejected(
                f"event {tag!r} from {event.machine}: it asks for none of {', '.join(REQUESTS)}"
            )
        role = role_of(event.machine)
        if what != "up" and role not in POOL_OF_ROLE and role != "proxy":
            raise events.Rejected(f"event {tag!r} from {event.machine}: it belongs to no pool")
    if what == "up":
        return up(fleet, event.machine, cause=event.cause, by=event.machine)
    # What a proxy feels is about those behind it.
    change = out if what == "out" else in_
    return change(fleet, POOL_OF_ROLE.get(role, "prod"), cause=event.cause, by=event.machine)


def lost(
    fleet: Fleet, gone: object, back: object = (), cause: str = "salt/presence/change"
) -> dict[str, Any]:
    """Have machines looked at that Salt misses, or sees again after a person was told that it misses them.

    Whether it is so is asked the machines, not believed.
    """
    client = link(fleet)
    ids = sorted((_ids(gone) | (_ids(back) & client.smembers(ABSENT))) & fleet.inventory().keys())
    if not ids:
        return {"machines": []}
    # Kept apart from the intent: of two wishes that are merged into one, the machines of both are asked.
    client.sadd(MISSED, *ids)
    id_, _ = Queue(client).put(Intent("absent", "fleet", cause=cause, by="salt"))
    return {"machines": ids, "intent": id_}


def _ids(said: object) -> set[str]:
    names = said if isinstance(said, list | tuple) else []
    return {id_ for id_ in names if isinstance(id_, str) and MACHINE_ID.match(id_)}
