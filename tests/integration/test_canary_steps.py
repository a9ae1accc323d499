"""The canary's steps with the real master: typed at the command line, driven by the engine, told on the bus."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from host import until
from salt.utils.event import get_master_event
from saltern import secrets, signing, stepping
from saltern.fleet import REPOSITORY
from saltern.registry import Registry
from saltern.samples import SAMPLES

# What the master does with an engine: its options are in its globals, and its `start` never ends.
ENGINE = """
import importlib.util, sys
import salt.config
spec = importlib.util.spec_from_file_location("conductor", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.__opts__ = salt.config.master_config(sys.argv[2])
module.start()
"""


@pytest.fixture
def registry(registry_empty: Any) -> Registry:
    """A registry with a canary that runs another release than production."""
    registry = Registry(registry_empty)
    registry.register("prod1", addr="10.99.0.13", port=8080, release="r1", pool="prod")
    registry.register("staging1", addr="10.99.0.15", port=8080, release="r2", pool="canary")
    registry.set_share(30)
    return registry


@pytest.fixture
def engine(
    salt: Any, registry: Registry, shipped_pillar: Any, salt_factories_config: dict[str, Any]
) -> Iterator[subprocess.Popen]:
    """The engine `conductor`, as the master runs it; it makes and ends no machine."""
    path = shipped_pillar / "scaling.sls"
    before = path.read_text()
    path.write_text(before.replace("auto: true", "auto: false"))
    command = [
        sys.executable,
        "-c",
        ENGINE,
        str(REPOSITORY / "salt/_engines/conductor.py"),
        salt.config["conf_file"],
    ]
    process = subprocess.Popen(command, env=salt_factories_config["environ"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        path.write_text(before)


def answer(done: subprocess.CompletedProcess) -> dict:
    assert "Traceback" not in done.stdout + done.stderr
    return json.loads(done.stdout)


def test_a_person_starts_and_aborts_a_release(minions: Any, run_in: Callable, registry: Registry) -> None:
    def canary(function: str, *arguments: str, status: int = 0) -> dict:
        done = run_in("salt-run", "--out=json", f"canary.{function}", *arguments)
        assert done.returncode == status, done.stdout + done.stderr
        return answer(done)

    refused = canary("pause", status=1)
    assert refused["error"] == "canary.pause: no release is under way; salt-run canary.start begins one"
    started = canary("start", "by=jo")
    assert (started["changed"], started["phase"], started["release"], started["share"]) == (
        True,
        "stepping",
        "r2",
        5,
    )
    aborted = canary("abort", "wrong prices")
    assert (aborted["phase"], aborted["share"]) == ("aborted", 0)
    state = registry.snapshot()
    assert (state.split.share, state.latches["canary"].reason) == (0, "r2 is aborted: wrong prices")


def test_the_engine_tells_the_bus_of_every_move_and_off_aborts(
    minions: Any, bus: Any, registry: Registry, engine: subprocess.Popen
) -> None:
    stepping.give(registry, stepping.Plan(), "start", by="test")
    (started,) = bus.wait_for(lambda tag, data: tag == "saltern/canary/started")
    assert (started["release"], started["share"], started["by"]) == ("r2", 5, "test")
    registry.canary_off("looks wrong", cause="5-5")
    (aborted,) = bus.wait_for(lambda tag, data: tag == "saltern/canary/aborted")
    assert (aborted["release"], aborted["share"], aborted["reason"]) == ("r2", 0, "off: looks wrong")
    (alert,) = bus.wait_for(lambda tag, data: tag == "saltern/alert/firing")
    assert (alert["name"], alert["subject"], alert["cause"]) == ("CanaryAborted", "canary", aborted["cause"])
    assert registry.snapshot().split.share == 0


def test_samples_reach_redis_by_the_engine_and_never_the_reactor(
    minions: Any, bus: Any, registry: Registry, engine: subprocess.Popen
) -> None:
    tag = "salt/beacon/prod1/samples/taken"
    key = secrets.event_key(secrets.load(minions.fleet)["events"], "prod1")
    values = {"seconds": 2.0, "cpu": [1.0, 2.0], "memory": [3.0, 4.0]}
    voice = get_master_event(dict(minions.master.config), minions.master.config["sock_dir"], listen=False)

    def heard() -> bool:
        # Again: the engine may not be listening yet.
        voice.fire_event({"id": "prod1", **signing.sign(key, "prod1", tag, values)}, tag)
        return bool(registry.client.xlen(SAMPLES))

    until(heard, "samples in Redis", pause=1)
    (_, kept), *_ = registry.client.xrange(SAMPLES)
    assert kept["machine"] == "prod1"
    assert json.loads(kept["data"]) == values
    # What comes after it on the bus has been dealt with, and no runner was called for it.
    minions.says("prod1", "saltern/instance/prod1/present", "junk")
    (reaction,) = bus.reactions(1, None)
    assert reaction["fun"] == "runner.registry.register"
