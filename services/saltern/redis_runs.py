"""What `salt-run redis.*` does: tell who is primary, copy all data to the master's host, and bring a copy back."""

from __future__ import annotations

import hashlib
import secrets as random
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import redis

from saltern import certificates, rdb, secrets
from saltern.errors import SalternError
from saltern.fleet import Fleet
from saltern.pillar import load, redis_topology
from saltern.redis_link import connect, watchers
from saltern.topology import SERVICE, Topology, access

SERVICE_UNIT = "redis-server"
BACK_SECONDS = 60.0
"""How long a primary may take to read a copy and hear of a replica."""

Call = Callable[[Sequence[str], str, list, dict], Mapping[str, Any]]
"""Calls a function of Salt on machines: ids, function, arguments, keywords; the answer by id."""


def _machines(fleet: Fleet) -> tuple[Topology, dict[str, Any]]:
    settings = load(fleet.pillar_dir)["redis"]
    found = redis_topology(fleet, settings)
    if found is None:
        raise SalternError(
            f"redis: fleet {fleet.name} has no Redis machine; `salt-cloud -p redis redis1` makes one"
        )
    return found, settings


def _link(fleet: Fleet, user: str) -> dict[str, Any]:
    found, settings = _machines(fleet)
    kept = secrets.load(fleet)
    ca = certificates.authority(kept["tls"]) if settings["tls"] else ""
    return access(found, settings, user, kept, ca)


def _own(link: Mapping[str, Any], address: str) -> dict[str, Any]:
    """The same link, to one server only."""
    return {"redis": {**link["redis"], "addresses": [address]}}


def primary(fleet: Fleet) -> str:
    """The id of the machine that is primary: the Sentinels' word, where there are any.

    :raises redis.RedisError: none of them answers
    """
    found, _ = _machines(fleet)
    if not found.sentinel:
        return found.first
    at, _ = watchers(_link(fleet, "admin")).discover_master(SERVICE)
    return next((id_ for id_, address in found.nodes.items() if address == at), at)


def status(fleet: Fleet) -> dict[str, Any]:
    """Every Redis machine as it sees itself, and whom each Sentinel holds to be the primary."""
    found, settings = _machines(fleet)
    link = _link(fleet, "admin")
    names = {address: id_ for id_, address in found.nodes.items()}
    answer: dict[str, Any] = {"primary": "nobody is known to be", "machines": {}}
    try:
        answer["primary"] = primary(fleet)
    except redis.RedisError as error:
        answer["trouble"] = str(error)
    for id_, address in found.nodes.items():
        answer["machines"][id_] = _seen(_own(link, f"{address}:{settings['port']}"), names)
        if found.sentinel:
            asked = {**link, "sentinel": {**link["sentinel"],
                                          "addresses": [f"{address}:{settings['sentinel']['port']}"]}}  # fmt: skip
            answer["machines"][id_]["sentinel"] = _said(asked, names)
    return answer


def _seen(link: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    try:
        with connect(link) as client:
            state = client.info("replication")
    except redis.RedisError as error:
        return {"role": "away", "why": str(error)}
    if state["role"] == "master":
        good = state.get("min_slaves_good_slaves", state["connected_slaves"])
        return {"role": "primary", "replicas": state["connected_slaves"], "good_replicas": good}
    of = names.get(state["master_host"], state["master_host"])
    return {
        "role": "replica", "of": of, "link": state["master_link_status"],
        "last_heard_s": state["master_last_io_seconds_ago"],
    }  # fmt: skip


def _said(link: Mapping[str, Any], names: Mapping[str, str]) -> str:
    (sentinel,) = watchers(link).sentinels
    try:
        state = sentinel.sentinel_master(SERVICE)
        words = names.get(state["ip"], state["ip"])
        return f"{words} is primary; {state['num-other-sentinels']} other Sentinels, {state['num-slaves']} replicas"
    except redis.RedisError as error:
        return f"away: {error}"
    finally:
        sentinel.close()


# --- copies


def folder(fleet: Fleet) -> Path:
    """Where the master's host keeps copies."""
    return fleet.state_dir / "backups"


def backup(fleet: Fleet) -> dict[str, Any]:
    """Take a copy of all data to the master's host, from a replica where there is one.

    :raises SalternError: the server refuses
    """
    found, settings = _machines(fleet)
    link = _link(fleet, "replica")
    address = link["redis"]["addresses"][0]
    if found.sentinel and (replicas := watchers(link).discover_slaves(SERVICE)):
        address = "{}:{}".format(*replicas[0])
    path = rdb.take(link, address, folder(fleet), settings["backup"]["keep"])
    return {"file": str(path), "bytes": path.stat().st_size, "from": address}


def backups(fleet: Fleet) -> list[dict[str, Any]]:
    """The copies on the master's host, oldest first."""
    found = sorted(folder(fleet).glob("redis-*.rdb"))
    return [{"file": str(path), "bytes": path.stat().st_size} for path in found]


def restore(
    fleet: Fleet, file: str, call: Call, tell: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Have all Redis machines hold what a copy holds, and nothing else.

    The copy is put on the primary's disk and judged there before anything is stopped. Then the replicas stop first, so
    that none of them is elected with the old data; the primary starts from the copy, and the replicas take it from
    there. What the primary had is kept beside.

    :param file: a path on the master's host, or the name of one of `redis.backups`
    :raises SalternError: there is no such copy, or a step failed; what was stopped runs again
    """
    path = Path(file) if "/" in file else folder(fleet) / file
    if not path.is_file():
        raise SalternError(f"restore: {path}: no such file; `salt-run redis.backups` lists copies")
    rdb.judge(path)
    found, _ = _machines(fleet)
    first = primary(fleet)
    if first not in found.nodes:
        raise SalternError(
            f"restore: the primary is {first}, which is no machine of this fleet; `salt-run redis.status`"
        )
    others = [id_ for id_ in found.nodes if id_ != first]
    # Machines read the file server: nobody guesses this name, and it is gone when this ends.
    offered = fleet.files / "restore" / f"{random.token_hex(16)}.rdb"
    offered.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(path, offered)
        sha256 = hashlib.sha256(offered.read_bytes()).hexdigest()
        told = {"_restore": {"source": f"salt://restore/{offered.name}", "sha256": sha256}}
        tell(f"{first}: the copy is put there and judged")
        _apply(call, first, "redis.restore.copy", told)
        tell(f"{', '.join(others) or 'no replica'}: stopped")
        try:
            _done(call(others, "service.stop", [SERVICE_UNIT], {}) if others else {}, others, "service.stop")
            tell(f"{first}: starts from the copy")
            _apply(call, first, "redis.restore", told)
        finally:
            # Whatever happened, what was stopped runs again; Redis finds its place when it starts.
            call([first, *others], "service.start", [SERVICE_UNIT], {})
    finally:
        offered.unlink(missing_ok=True)
    keys = _wait_until_back(fleet)
    return {"primary": first, "file": str(path), "keys": keys}


def _apply(call: Call, machine: str, state: str, told: Mapping[str, Any]) -> None:
    answer = call([machine], "state.apply", [state], {"pillar": told, "queue": True}).get(machine)
    results = answer.values() if isinstance(answer, dict) else []
    faults = [f"{r.get('__id__')}: {r['comment']}" for r in results if r.get("result") is False]
    if faults or not results:
        raise SalternError(f"restore: {state} on {machine}: {faults[0] if faults else answer or 'no answer'}")


def _done(answer: Mapping[str, Any], machines: Sequence[str], what: str) -> None:
    failed = [id_ for id_ in machines if answer.get(id_) is not True]
    if failed:
        raise SalternError(f"restore: {what} on {failed[0]}: {answer.get(failed[0], 'no answer')}")


def _wait_until_back(fleet: Fleet) -> int:
    """Wait until the primary takes writes again; how many keys it holds.

    :raises SalternError: it did not in time
    """
    end = time.monotonic() + BACK_SECONDS
    while True:
        try:
            with connect(_link(fleet, "admin")) as client:
                # A write that changes nothing: refused while no replica confirms.
                client.delete("saltern:restored")
                return client.dbsize()
        except redis.RedisError as error:
            if time.monotonic() > end:
                raise SalternError(
                    f"restore: the primary takes no writes yet: {error}; `salt-run redis.status`"
                ) from error
        time.sleep(0.2)
