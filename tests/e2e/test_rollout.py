"""Releases rolled over production on the running fleet, under load: a good one, bad ones, a person, a dead master."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fleet_commands import Live, wait_for
from fleet_hands import ROUTE, Plant, changed_product
from saltern import artifact, journal, master, redis_runs, rollouts
from saltern.fleet import Fleet
from saltern.local import cgroup
from saltern.registry import Registry
from test_fleet import failed_requests

# Where a release starts.
START = "    app = Bottle()\n"
SICK_ON_PROD3 = (
    '        if settings.instance == "prod3":\n            raise RuntimeError("a defect on prod3 alone")\n'
)
DIES_SOON = "    import os, threading\n\n    threading.Timer(5, os._exit, [1]).start()\n"
# Not beyond what a machine can bear: it is the alert that is to end it.
LEAKS = """    import threading, time

    def leak() -> None:
        held = []
        while len(held) < 32:
            held.append(b"x" * (8 << 20))
            time.sleep(0.25)
        time.sleep(3600)

    threading.Thread(target=leak, daemon=True).start()
"""
PRODUCTION = {f"prod{n}" for n in range(1, 6)}


def runner(live: Live, function: str, *arguments: str, timeout: float = 800) -> dict:
    """What `salt-run rollout.*` answers."""
    done = live.salt("salt-run", "--out=json", f"rollout.{function}", *arguments, timeout=timeout)
    return json.loads(done.stdout)


def running(registry: Registry, pool: str = "prod") -> dict[str, str]:
    """What every machine of a pool that serves runs."""
    there = registry.snapshot().instances.values()
    return {i.id: i.release for i in there if i.pool == pool and i.want == "ready"}


@pytest.fixture(scope="module")
def old(live: Live, fleet: Fleet, registry: Registry) -> Iterator[str]:
    """The release that production runs; it does so again in the end, and so does the canary."""
    before = artifact.releases(fleet)
    yield before["prod"].id
    for pool in artifact.POOLS:
        if set(running(registry, pool).values()) != {before[pool].id}:
            answer = runner(live, "rollback", before[pool].id, f"target={pool}", "wait=600")
            assert answer.get("state") == "done", answer
    registry.canary_on(reason="test", by="test")


@pytest.fixture(scope="module")
def make(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Build and keep a release of the product that is changed by a few lines."""

    def change(lines: str = "", where: str = ROUTE) -> str:
        release = changed_product(fleet, tmp_path_factory.mktemp("release"), lines, where)
        artifact.keep(fleet, release, branch="production", author="Jo <jo@example.org>")
        return release.id

    return change


@contextmanager
def load(live: Live, folder: Path) -> Iterator[Callable[[], tuple[int, int]]]:
    """Some three hundred requests a second; what is yielded ends them and says how many there were and failed."""
    script = folder / "steady.lua"
    script.write_text("function delay() return 40 end\n")
    url = f"{live.product.rstrip('/')}:80/"
    wrk = subprocess.Popen(
        ["wrk", "-t1", "-c16", "-d800s", "--timeout", "10s", "-s", str(script), url],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip

    def end() -> tuple[int, int]:
        wrk.send_signal(signal.SIGINT)
        said, _ = wrk.communicate(timeout=120)
        words = said.split()
        return int(words[words.index("requests") - 1]), failed_requests(said)

    try:
        yield end
    finally:
        wrk.kill()
        wrk.wait()


def test_a_good_release_goes_over_five_machines_and_back_and_no_request_fails(
    live: Live,
    fleet: Fleet,
    registry: Registry,
    plant: Plant,
    old: str,
    make: Callable[..., str],
    tmp_path: Path,
) -> None:
    release = make()
    # Whatever tests before this one left: nothing but the release is to change now.
    live.answer("prod*", "state.apply", "queue=True", timeout=300)
    plan = runner(live, "plan", release)
    assert len(plan["would"]) == 5 and all(f"{old} to {release}" in line for line in plan["would"])
    began = time.time()
    with load(live, tmp_path) as end:
        done = runner(
            live, "start", release, "wait=600", "by=jo", "reason=prices", "cause=saltern/build/passed"
        )
        assert (done["state"], done["progress"]) == ("done", "[####################] 5/5"), done
        assert running(registry) == dict.fromkeys(PRODUCTION, release)
        assert artifact.releases(fleet)["prod"].id == release
        assert not PRODUCTION & artifact.releases(fleet).keys()
        (roll,) = (i for i in rollouts.rolls(registry.client) if i.id == done["intent"])
        assert {id_ for known in roll.steps.values() for id_ in known.get("staged", ())} == PRODUCTION
        back = runner(live, "rollback", "wait=600", "by=jo")
        assert (back["state"], back["name"]) == ("done", old), back
        assert running(registry) == dict.fromkeys(PRODUCTION, old)
        requests, failed = end()
    assert failed == 0 and requests > 100
    rows = journal.why(registry.client, f"{release} done")["chain"]
    assert [row["what"].split()[0] for row in rows] == ["saltern/build/passed", "intent.queued", "roll.done"]
    status = runner(live, "status")
    assert [roll["name"] for roll in status["rolls"][:2]] == [old, release]
    assert status["releases"][release]["author"] == "Jo <jo@example.org>"
    assert set(status["releases"][old]["runs_on"]) >= PRODUCTION
    wait_for(lambda: plant.mails(began, f"prod runs {release}"), 20, "a mail says that it is done")


def test_a_release_that_is_sick_on_the_third_machine_leaves_all_on_the_old_one(
    live: Live,
    fleet: Fleet,
    registry: Registry,
    plant: Plant,
    old: str,
    make: Callable[..., str],
    tmp_path: Path,
) -> None:
    release = make(SICK_ON_PROD3)
    began = time.time()
    with load(live, tmp_path) as end:
        done = runner(live, "start", release, "wait=600", "order=id")
        assert "roll prod: failed" in done["error"] and "prod3" in done["error"]
        assert running(registry) == dict.fromkeys(PRODUCTION, old)
        requests, failed = end()
    assert failed == 0 and requests > 100
    assert artifact.releases(fleet)["prod"].id == old and not PRODUCTION & artifact.releases(fleet).keys()
    applied = [line["subject"] for line in plant.journal("roll.back", began)]
    assert applied == ["prod3", "prod2", "prod1"]
    wait_for(lambda: plant.mails(began, f"{release} stopped on prod"), 20, "a mail says that it failed")
    wait_for(lambda: plant.mails(began, f"prod is back on {old}"), 20, "a mail says that it went back")


def test_a_release_that_starts_and_dies_after_five_seconds_does_not_stay(
    live: Live, registry: Registry, old: str, make: Callable[..., str]
) -> None:
    done = runner(live, "start", make(DIES_SOON, START), "wait=600", "batch=2", "max_unavailable=2")
    assert "roll prod: failed" in done["error"], done
    assert running(registry) == dict.fromkeys(PRODUCTION, old)
    assert "died" in done["error"] or "down" in done["error"], done
    assert live.instances_seen(20) <= {*PRODUCTION, "staging1"}


def test_a_release_that_leaks_memory_is_found_out_by_the_alert_about_its_machine(
    live: Live, registry: Registry, plant: Plant, old: str, make: Callable[..., str]
) -> None:
    high = {"high": 50, "low": 45, "for": 2, "clear": 2, "refresh": 2}
    felt = [{"high": 100}, {"for": 3600}, {"roles": {"prod": high}}]
    with plant.set(",".join(sorted(PRODUCTION)), beacons={"memory": felt}):
        done = runner(live, "start", make(LEAKS, START), "wait=600", "highstate=False", "steady_s=60")
        assert "roll prod: failed" in done["error"], done
        assert "MemoryHigh of prod" in done["error"] and "since it is done" in done["error"]
        assert running(registry) == dict.fromkeys(PRODUCTION, old)
        for id_ in sorted(PRODUCTION):
            wait_for(lambda id_=id_: not plant.alert("MemoryHigh", id_), 60, f"{id_} has memory again")


def test_a_machine_that_hangs_over_its_highstate_is_given_up_and_serves_the_old_release(
    live: Live, registry: Registry, plant: Plant, old: str, make: Callable[..., str]
) -> None:
    """More than the release would change on prod3, and what is to change it never ends."""
    release, root = make(), plant.root("prod3")
    usermod, kept, passwd = root / "usr/sbin/usermod", root / "usr/sbin/usermod.kept", root / "etc/passwd"
    users = passwd.read_text()
    usermod.rename(kept)
    try:
        usermod.write_text("#!/bin/sh\nexec sleep 600\n")
        usermod.chmod(0o755)
        (line,) = (line for line in users.splitlines() if line.startswith("product:"))
        passwd.write_text(users.replace(line, line.rpartition(":")[0] + ":/bin/sh"))
        with plant.set(rollout={"apply_s": 60}):
            done = runner(live, "start", release, "wait=600", "order=id")
        assert "prod3: its states were not applied within 60 s" in done["error"], done
        assert running(registry) == dict.fromkeys(PRODUCTION, old)
    finally:
        passwd.write_text(users)
        kept.rename(usermod)
    (roll, *_) = runner(live, "status")["rolls"]
    assert roll["machines"] == {
        "prod1": "back",
        "prod2": "back",
        "prod3": "back",
        "prod4": "waits",
        "prod5": "waits",
    }


def test_a_person_stops_a_roll_in_the_middle(
    live: Live, registry: Registry, old: str, make: Callable[..., str]
) -> None:
    release = make()
    answers: list[dict] = []
    waiting = threading.Thread(target=lambda: answers.append(runner(live, "start", release, "wait=600")))
    waiting.start()
    wait_for(lambda: release in running(registry).values(), 60, "the first machine runs it")
    assert runner(live, "abort", "wrong prices", "by=jo")["aborted"]
    waiting.join()
    assert "jo aborted it: wrong prices" in answers[0]["error"]
    assert running(registry) == dict.fromkeys(PRODUCTION, old)


def test_a_master_killed_in_the_middle_goes_on_where_it_was(
    live: Live, fleet: Fleet, registry: Registry, old: str, make: Callable[..., str], tmp_path: Path
) -> None:
    release = make()
    with load(live, tmp_path) as end:
        id_ = rollouts.request(fleet, "prod", release, by="test", batch=2, max_unavailable=2)
        wait_for(lambda: release in running(registry).values(), 60, "the first machines run it")
        cgroup.kill(live.group("_master"))
        assert set(running(registry).values()) != {release}, "it was killed in the middle"
        master.start(fleet)

        def roll() -> rollouts.Roll:
            (one,) = [i for i in rollouts.rolls(registry.client) if i.id == id_]
            return one

        wait_for(lambda: roll().state not in rollouts.UNFINISHED, 150, "it comes to an end")
        _, failed = end()
    assert (roll().state, roll().error, failed) == ("done", "", 0)
    assert running(registry) == dict.fromkeys(PRODUCTION, release)


def test_the_canary_gets_a_release_alone(
    live: Live, registry: Registry, old: str, make: Callable[..., str]
) -> None:
    before = running(registry)
    release = make()
    done = runner(live, "start", release, "target=canary", "wait=600")
    assert done["state"] == "done", done
    assert running(registry, "canary") == {"staging1": release} and running(registry) == before


def test_a_state_goes_over_redis_with_the_primary_last(live: Live, fleet: Fleet, plant: Plant) -> None:
    began, primary = time.time(), redis_runs.primary(fleet)
    done = runner(live, "start", "state=common", "role=redis", "wait=600")
    assert done["state"] == "done", done
    applied = [line["subject"] for line in plant.journal("states.apply", began)]
    assert sorted(applied) == ["redis1", "redis2", "redis3"] and applied[-1] == primary
