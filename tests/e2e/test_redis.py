"""Each Redis machine of a real fleet is lost in turn, while somebody writes and the product is used."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis
from fleet_commands import Live, run, wait_for
from saltern import members, redis_runs
from saltern.fleet import Fleet
from saltern.local import cgroup

MACHINES = ("redis1", "redis2", "redis3")
PROBE = "product:e2e"
"""What the writer writes; outside of everything that anybody reads."""
# An election takes about three seconds on an idle machine; nothing here is about time.
PATIENCE = 60


@dataclass
class Seen:
    """What happened to somebody who used the fleet all the time."""

    confirmed: list[str] = field(default_factory=list)
    unwritten: int = 0
    pages: int = 0
    broken: list[str] = field(default_factory=list)


@contextmanager
def in_use(live: Live, fleet: Fleet) -> Iterator[Seen]:
    """A writer whose writes WAIT confirms, and a visitor who reads the list, both without a pause."""
    seen, stop = Seen(), threading.Event()

    def write() -> None:
        client, number = members.link(fleet), 0
        while not stop.is_set():
            number += 1
            try:
                with client.pipeline(transaction=False) as pipe:
                    _, replicas = pipe.sadd(PROBE, f"n{number}").wait(1, 500).execute()
                if replicas:
                    seen.confirmed.append(f"n{number}")
            except redis.RedisError:
                seen.unwritten += 1
            time.sleep(0.01)

    def read() -> None:
        while not stop.is_set():
            done = run("curl", "-s", "-w", "%{http_code}", "--max-time", "30", f"{live.product}api/items")
            seen.pages += 1
            if not done.stdout.endswith("200"):
                seen.broken.append(done.stdout[-200:])

    threads = [threading.Thread(target=each) for each in (write, read)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: len(seen.confirmed) > 20 and seen.pages > 2, 30, "the fleet is in use")
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.fixture
def fleet(live: Live) -> Iterator[Fleet]:
    """The fleet with all three Redis machines well, before and after."""
    known = Fleet.load(live.state_dir)
    wait_for(lambda: well(known), PATIENCE, "all Redis machines are well")
    yield known
    wait_for(lambda: well(known), PATIENCE, "all Redis machines are well again")
    members.link(known).delete(PROBE)


def well(fleet: Fleet) -> bool:
    """One primary that two replicas follow, and three Sentinels that say so."""
    status = redis_runs.status(fleet)
    machines = status["machines"]
    return (
        machines.get(status["primary"], {}).get("good_replicas") == len(MACHINES) - 1
        and all(each.get("link", "up") == "up" for each in machines.values())
        and all(
            each["sentinel"].startswith(f"{status['primary']} is primary; 2 other")
            for each in machines.values()
        )
    )


def elected(fleet: Fleet) -> str:
    """Who is primary; nobody while it is being decided."""
    try:
        return redis_runs.primary(fleet)
    except redis.RedisError:
        return ""


def init_of(live: Live, machine: str) -> str:
    """The machine's own init, as a process of this host."""
    pids = cgroup.processes(live.group(machine))
    return str(next(pid for pid in pids if Path(f"/proc/{pid}/comm").read_text().strip() == "systemd"))


def inside(live: Live, machine: str, *command: str) -> subprocess.CompletedProcess:
    return run("nsenter", "-t", init_of(live, machine), "-a", *command)


@contextmanager
def cut_off(live: Live, machine: str) -> Iterator[None]:
    """Nothing reaches this machine or leaves it, and nobody is told."""
    rules = (
        "table inet partition { chain input { type filter hook input priority -10; iifname host0 drop; }; "
        "chain output { type filter hook output priority -10; oifname host0 drop; }; }"
    )
    # The machine's network, the host's program.
    enter = ("nsenter", "-t", init_of(live, machine), "-n", "nft")
    assert run(*enter, rules).returncode == 0
    try:
        yield
    finally:
        assert run(*enter, "delete", "table", "inet", "partition").returncode == 0


def add_item(live: Live, title: str) -> str | None:
    """The id of a new item of the product's list, None while it cannot be saved."""
    done = run("curl", "-s", "--max-time", "5", "-X", "POST", "-H", "content-type: application/json",
               "-H", f"idempotency-key: {title.replace(' ', '-')}", "-d", json.dumps({"title": title}),
               f"{live.product}api/items")  # fmt: skip
    try:
        return str(json.loads(done.stdout)["id"])
    except (ValueError, KeyError):
        return None


def states_changed(live: Live, target: str) -> dict:
    answer = live.answer(target, "state.apply", "queue=True", timeout=240)
    return {
        (machine, state["__id__"]): state["changes"] or state["comment"]
        for machine, states in answer.items()
        for state in states.values()
        if state["changes"] or state["result"] is not True
    }


def test_a_killed_primary_process_costs_no_read_and_no_confirmed_write(live: Live, fleet: Fleet) -> None:
    machine = redis_runs.primary(fleet)
    with in_use(live, fleet) as seen:
        shown = inside(live, machine, "systemctl", "show", "-p", "MainPID", "--value", "redis-server")
        before = len(seen.confirmed)
        assert inside(live, machine, "kill", "-9", shown.stdout.strip()).returncode == 0
        wait_for(lambda: len(seen.confirmed) > before + 20, PATIENCE, "writes go on")
        wait_for(lambda: well(fleet), PATIENCE, "all three are well again")
    assert redis_runs.primary(fleet) != machine, "it left it to one that has every confirmed write"
    assert seen.broken == []
    assert set(seen.confirmed) <= members.link(fleet).smembers(PROBE)


@pytest.mark.parametrize("machine", MACHINES)
def test_a_machine_that_is_cut_off_costs_no_read_and_no_confirmed_write_and_comes_back(
    live: Live, fleet: Fleet, machine: str
) -> None:
    was = redis_runs.primary(fleet)
    with in_use(live, fleet) as seen:
        before = len(seen.confirmed)
        with cut_off(live, machine):
            wait_for(lambda: len(seen.confirmed) > before + 20, PATIENCE, "writes go on")
            wait_for(lambda: add_item(live, f"cut off {machine}"), PATIENCE, "the product saves again")
            assert (redis_runs.primary(fleet) == was) == (machine != was)
        wait_for(lambda: well(fleet), PATIENCE, "it has found its place")
    assert redis_runs.primary(fleet) != machine or machine != was
    assert seen.broken == []
    assert set(seen.confirmed) <= members.link(fleet).smembers(PROBE)
    item = add_item(live, f"cut off {machine}")
    assert item, "the same request again is the same item"
    run("curl", "-s", "-X", "DELETE", f"{live.product}api/items/{item}")


def test_a_change_reaches_haproxy_while_the_old_primary_is_cut_off(live: Live, fleet: Fleet) -> None:
    """Runner, registry, notice, controller, what HAProxy sees: all of it by way of the new primary."""

    def share() -> int:
        done = live.salt("salt-run", "fleet.status", "--out=json")
        return json.loads(done.stdout).get("canary", {}).get("effective_share")

    def changed(to: int) -> bool:
        return live.salt("salt-run", "canary.share", str(to)).returncode == 0 and share() == to

    before, was = share(), redis_runs.primary(fleet)
    with cut_off(live, was):
        wait_for(lambda: changed(before + 1), PATIENCE, "the new share in HAProxy")
        assert redis_runs.primary(fleet) != was
        wait_for(lambda: changed(before), PATIENCE, "the old one again")


def test_a_primary_whose_machine_dies_is_replaced_and_the_machine_comes_back_as_a_replica(
    live: Live, fleet: Fleet
) -> None:
    was = redis_runs.primary(fleet)
    with in_use(live, fleet) as seen:
        before = len(seen.confirmed)
        cgroup.kill(live.group(was))
        try:
            wait_for(lambda: len(seen.confirmed) > before + 20, PATIENCE, "writes go on")
        finally:
            done = live.salt("salt-cloud", "-y", "-a", "start", was)
        assert done.returncode == 0, done.stderr
        wait_for(lambda: well(fleet), PATIENCE, "it is back")
    assert redis_runs.status(fleet)["machines"][was]["role"] == "replica"
    assert seen.broken == []
    assert set(seen.confirmed) <= members.link(fleet).smembers(PROBE)


def test_states_do_not_fight_over_who_is_primary_and_still_change_settings(live: Live, fleet: Fleet) -> None:
    """After the elections of the tests before, and one more to be sure that redis1 is not primary."""
    if redis_runs.primary(fleet) == "redis1":
        with cut_off(live, "redis1"):
            wait_for(lambda: elected(fleet) not in ("", "redis1"), PATIENCE, "another primary")
        wait_for(lambda: well(fleet), PATIENCE, "redis1 follows")
    was = redis_runs.primary(fleet)
    assert states_changed(live, "redis*") == {}
    assert redis_runs.primary(fleet) == was
    changed = {"redis": {"maxmemory_mib": 96}}
    live.answer("redis*", "state.apply", "redis", f"pillar={json.dumps(changed)}", "queue=True", timeout=240)
    wait_for(lambda: well(fleet), PATIENCE, "all are well with the new setting")
    assert members.link(fleet).config_get("maxmemory") == {"maxmemory": str(96 * 1024 * 1024)}
    live.answer("redis*", "state.apply", "redis", "queue=True", timeout=240)
    wait_for(lambda: well(fleet), PATIENCE, "and with the old one")
    assert states_changed(live, "redis*") == {}


def test_a_copy_brings_back_what_was_there_when_it_was_made(live: Live, fleet: Fleet) -> None:
    client = members.link(fleet)
    client.sadd(PROBE, "before")
    # What is only to last a while may be over by then.
    keys = sum(client.ttl(key) == -1 for key in client.scan_iter())
    made = json.loads(live.salt("salt-run", "redis.backup", "--out=json").stdout)
    assert made["file"] in [
        each["file"] for each in json.loads(live.salt("salt-run", "redis.backups", "--out=json").stdout)
    ]
    client.sadd(PROBE, "after")
    refused = live.salt("salt-run", "redis.restore", "/etc/passwd")
    assert refused.returncode != 0
    assert "not a whole copy" in refused.stdout
    assert client.smembers(PROBE) == {"before", "after"}
    done = live.salt("salt-run", "redis.restore", Path(made["file"]).name, "--out=json", timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["keys"] >= keys
    assert members.link(fleet).smembers(PROBE) == {"before"}
    wait_for(lambda: well(fleet), PATIENCE, "the replicas have it, too")
    assert states_changed(live, "redis*") == {}


def test_every_replica_keeps_copies_on_its_own_disk(live: Live, fleet: Fleet) -> None:
    replicas = [machine for machine in MACHINES if machine != redis_runs.primary(fleet)]
    for machine in replicas:
        assert live.answer(machine, "service.start", "redis-backup") == {machine: True}
        found = live.answer(
            machine, "cmd.run", "for copy in /var/backups/redis/*.rdb; do redis-check-rdb $copy; done"
        )
        assert "RDB looks OK" in found[machine]
    timers = live.answer("redis*", "service.status", "redis-backup.timer")
    assert timers == dict.fromkeys(MACHINES, True)
