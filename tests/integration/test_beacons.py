"""From a real minion's beacon through the real master's reactor and engine to the canary's latch and the alert."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from host import until
from saltern import events, secrets
from saltern.alert_store import AlertStore
from saltern.registry import Registry

HIGH = "salt/beacon/staging1/memory/high"
OK = "salt/beacon/staging1/memory/ok"


@pytest.fixture
def feel(minions: Any, shipped_pillar: Any) -> Iterator[Callable[[int], None]]:
    """Have staging1's memory be high from so many per cent on; at the end all is as it was, and it feels nothing."""
    path = shipped_pillar / "beacons.sls"
    before = path.read_text()

    def change(percent: int) -> None:
        values = yaml.safe_load(before)
        values["beacons"] = {
            "enabled": True,
            "cpu": [{"high": 100}, {"for": 3600}],
            "memory": [{"high": percent}, {"low": percent}, {"for": 1}, {"clear": 1}],
        }
        path.write_text(yaml.safe_dump(values))
        assert minions.call("staging1", "saltutil.refresh_pillar", wait=True) is True

    for kind in ("utils", "beacons"):
        minions.call("staging1", f"saltutil.sync_{kind}")
    yield change
    path.write_text(before)
    assert minions.call("staging1", "saltutil.refresh_pillar", wait=True) is True


def test_a_machine_that_feels_pressure_turns_the_canary_off_and_raises_an_alert(
    minions, bus, registry_empty, feel
):
    feel(0)
    (event,) = bus.wait_for(lambda tag, data: tag == HIGH)
    secret = secrets.load(minions.fleet)["events"]
    assert events.authenticate(secret, HIGH, "staging1", event, time.time_ns()).values["high"] == 0
    # The reactor and the engine both turn it off; the event counts once.
    (reaction,) = bus.reactions(1, "reflex")
    assert reaction["success"], reaction["return"]
    latch = Registry(registry_empty).snapshot().latches["canary"]
    assert latch.reason.startswith("staging1 memory ")
    assert latch.cause == events.cause(HIGH, event["counter"])
    (alert,) = until(AlertStore(registry_empty).all, "an alert")
    assert (alert.name, alert.subject, alert.firing, alert.undo) == (
        "MemoryHigh", "staging1", True, "salt-run canary.on",
    )  # fmt: skip

    feel(100)
    bus.wait_for(lambda tag, data: tag == OK)
    until(lambda: not AlertStore(registry_empty).all()[0].firing, "its end")
    # What turned the canary off being over is no reason to turn it on: that takes a person or a new release.
    assert "canary" in Registry(registry_empty).snapshot().latches


def test_a_forged_event_of_another_machine_has_no_effect_but_an_alert(minions, bus, registry_empty):
    minions.says("prod1", HIGH, {"machine": "staging1", "counter": time.time_ns(), "values": {"percent": 99}})
    (reaction,) = bus.reactions(1, "reflex")
    assert reaction["return"]["retcode"] == 1, reaction["return"]
    (alert,) = until(AlertStore(registry_empty).all, "an alert")
    assert not Registry(registry_empty).snapshot().latches
    # Salt itself says who sent it: prod1.
    assert (alert.name, alert.subject) == ("EventRejected", "prod1")
