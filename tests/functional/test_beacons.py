"""The beacons as a minion runs them: loaded, configured and ticked by Salt, checked by what the master checks with."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import salt.beacons
import salt.config
from saltern import events, secrets
from saltern.fleet import REPOSITORY
from saltern.samples import checked

SECRET = "ab" * 32
KEY = secrets.event_key(SECRET, "staging1")
CPU = [{"high": 0}, {"low": 0}, {"for": 1}]
MEMORY = [{"high": 0}, {"low": 0}, {"for": 1}]


@pytest.fixture
def minion(tmp_path: Path) -> Callable[..., salt.beacons.Beacon]:
    """Make what a minion makes at its start and at every refresh of its beacons."""

    def make(pillar: dict[str, Any] | None = None) -> salt.beacons.Beacon:
        options = salt.config.minion_config(None)
        options.update(
            id="staging1",
            cachedir=str(tmp_path),
            pillar={"machine": {"key": KEY}} if pillar is None else pillar,
            beacons={},
            beacons_dirs=[str(REPOSITORY / "beacons")],
            utils_dirs=[str(REPOSITORY / "salt/_utils")],
            extension_modules=str(tmp_path / "extmods"),
        )
        return salt.beacons.Beacon(options, {})

    return make


def ticks(beacon: salt.beacons.Beacon, config: dict[str, Any], count: int, pause: float = 0.25) -> list[dict]:
    """What some ticks make the minion send."""
    found = []
    for _ in range(count):
        found += beacon.process(config, {})
        time.sleep(pause)
    return found


@pytest.mark.parametrize(("name", "config"), [("cpu", CPU), ("memory", MEMORY)])
def test_an_event_is_signed_for_the_tag_it_arrives_under(minion, name, config):
    (event,) = ticks(minion(), {name: config}, 3)
    assert event["tag"] == f"salt/beacon/staging1/{name}/high"
    assert event["data"]["id"] == "staging1"
    proven = events.authenticate(SECRET, event["tag"], "staging1", event["data"], time.time_ns())
    assert 0 <= proven.values["percent"] <= 100
    assert (proven.values["high"], proven.values["low"]) == (0, 0)
    assert isinstance(proven.values["services"], dict)


def test_a_refresh_repeats_nothing_and_forgets_nothing(minion):
    first = minion()
    assert len(ticks(first, {"memory": MEMORY}, 3)) == 1
    assert ticks(minion(), {"memory": MEMORY}, 3) == []
    # Whatever is used is below 100 per cent, so now it is over.
    calm = [{"high": 100}, {"low": 100}, {"for": 1}, {"clear": 2}]
    assert [e["tag"] for e in ticks(minion(), {"memory": calm}, 3)] == ["salt/beacon/staging1/memory/ok"]


def test_a_kept_state_that_is_spoilt_is_no_reason_to_be_silent(minion, tmp_path):
    (tmp_path / "saltern-memory.json").write_text("{")
    assert len(ticks(minion(), {"memory": MEMORY}, 2)) == 1


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        ("cpu", [{"high": 500}], "high: 500 is not a number"),
        ("cpu", [{"hihg": 50}], "hihg: no such setting"),
        ("cpu", {"high": 50}, "not a list"),
        ("memory", [{"ignore": ["x"]}], "ignore: memory is used up whoever uses it"),
    ],
)
def test_a_wrong_configuration_is_refused_in_one_line(minion, name, config, words):
    good, comment = minion().beacons[f"{name}.validate"](config)
    assert not good
    assert comment.startswith(f"beacon {name}: ") and words in comment


@pytest.mark.parametrize("name", ["cpu", "memory"])
def test_without_a_key_nothing_is_said_that_nobody_could_believe(minion, name):
    good, comment = minion({}).beacons[f"{name}.validate"]([{"high": 50}])
    assert (good, comment) == (False, f"beacon {name}: pillar has no machine:key to sign events with")
    assert ticks(minion({}), {name: [{"high": 0}, {"low": 0}]}, 2) == []


def test_a_beacon_that_cannot_read_says_so_once(minion, monkeypatch):
    beacon = minion()
    (event,) = ticks(beacon, {"memory": MEMORY}, 2)
    # The module is the minion's own copy: what it reads with is replaced where Salt keeps it.
    memory = beacon.beacons["memory.beacon"].__globals__

    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    whole = memory["_parts"]["usage.memory"]
    memory["_parts"]["usage.memory"] = broken
    (event,) = ticks(beacon, {"memory": MEMORY}, 4)
    assert event["tag"] == "salt/beacon/staging1/memory/blind"
    proven = events.authenticate(SECRET, event["tag"], "staging1", event["data"], time.time_ns())
    assert proven.values == {"problem": "[Errno 5] Input/output error"}
    memory["_parts"]["usage.memory"] = whole
    assert [e["tag"] for e in ticks(beacon, {"memory": MEMORY}, 2)] == ["salt/beacon/staging1/memory/high"]


def test_a_tick_never_waits(minion, monkeypatch):
    """They run on the minion's own loop: a sample over an interval, as psutil offers it, would stop it."""
    beacon = minion()
    config = {"cpu": [{"high": 100}, {"low": 99}], "memory": [{"high": 100}, {"low": 99}]}
    ticks(beacon, config, 2)

    def waits(seconds: float) -> None:
        raise AssertionError(f"waits {seconds} s")

    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", waits)
        for _ in range(20):
            assert not [each for each in beacon.process(config, {}) if "error" in each]


@pytest.fixture
def sampled(minion: Callable, tmp_path: Path) -> salt.beacons.Beacon:
    """A minion on whose machine the service `product` is this process."""
    beacon = minion()
    assert beacon.beacons["samples.validate"]([{"batch": 3}])[0]
    parts = beacon.beacons["samples.beacon"].__globals__["_parts"]
    folder = tmp_path / "cgroup/systemd/system.slice/product.service"
    folder.mkdir(parents=True)
    (folder / "cgroup.procs").write_text(f"{os.getpid()}\n")
    whole = parts["usage.service"]
    parts["usage.service"] = lambda name: whole(name, str(tmp_path / "cgroup"))
    return beacon


def test_samples_of_a_service_are_told_together_and_the_master_believes_them(sampled) -> None:
    first, second = ticks(sampled, {"samples": [{"batch": 3}]}, 7)
    for event in (first, second):
        assert event["tag"] == "salt/beacon/staging1/samples/taken"
        proven = events.authenticate(SECRET, event["tag"], "staging1", event["data"], time.time_ns())
        assert checked(proven.values) == proven.values
        assert len(proven.values["cpu"]) == 3
        assert min(proven.values["memory"]) > 0
    assert first["data"]["counter"] < second["data"]["counter"]


def test_where_the_service_does_not_run_nothing_is_told(sampled) -> None:
    assert ticks(sampled, {"samples": [{"service": "shop"}, {"batch": 1}]}, 4) == []


def test_samples_that_cannot_be_read_are_left_out_until_they_can(sampled, monkeypatch) -> None:
    parts = sampled.beacons["samples.beacon"].__globals__["_parts"]

    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setitem(parts, "usage.cpu", broken)
        assert ticks(sampled, {"samples": [{"batch": 1}]}, 3) == []
    assert len(ticks(sampled, {"samples": [{"batch": 1}]}, 3)) == 2


def test_a_beacon_of_samples_that_is_configured_wrongly_says_so(minion) -> None:
    good, comment = minion().beacons["samples.validate"]([{"batch": 0}])
    assert (good, comment) == (False, "beacon samples: batch: 0 is not a number of samples from 1 to 60")
    good, comment = minion({}).beacons["samples.validate"]([])
    assert (good, comment) == (False, "beacon samples: pillar has no machine:key to sign events with")
