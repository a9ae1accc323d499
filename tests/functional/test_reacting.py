"""The quick reflexes as the master's engine has them: events as the bus brings them, a whole traffic plane behind."""
# Fixtures are named where they are used.
# ruff: noqa: F811

from __future__ import annotations

import json
import signal
from typing import Any

import pytest
import yaml
from host import until
from saltern import reacting, secrets, signing
from saltern.alert_store import Alert, AlertStore
from saltern.fleet import Fleet
from saltern.reacting import Reflexes
from test_admin_runners import api, fleet, runner, stand  # noqa: F401
from test_reflexes import TAG, VALUES, journal, signed, watched  # noqa: F401
from traffic_stand import Stand


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reacting, "GATHER_SECONDS", 0.0)
    monkeypatch.setattr(reacting, "AGAIN_SECONDS", 0.05)


def edge(fleet: Fleet, machine: str, what: str, percent: float = 93.0, by: str = "") -> tuple[str, dict]:
    """A beacon's event on the bus; `by` signs it."""
    tag = f"salt/beacon/{machine}/{what}"
    key = secrets.event_key(secrets.load(fleet)["events"], by or machine)
    return tag, {**signing.sign(key, machine, tag, {**VALUES, "percent": percent}), "id": machine}


def alerts(stand: Stand) -> dict[tuple[str, str], Alert]:
    return {(alert.name, alert.subject): alert for alert in AlertStore(stand.client).all()}


def test_pressure_on_staging_turns_the_canary_off_and_then_tells_of_both(stand, fleet):
    did: list[str] = []
    reflexes = Reflexes(fleet, did.append)
    payload = signed(fleet)
    assert reflexes.hear(TAG, payload)
    reflexes.step(0)
    stand.await_share(0)
    assert did == ["canary_off", "alert"]
    alert = alerts(stand)["CpuHigh", "staging1"]
    assert alert.done.startswith("turned the canary off: all requests go to production")
    assert (alert.firing, alert.undo) == (True, "salt-run canary.on")
    # The reactor is slower, and finds nothing left to do.
    assert runner("reflex", fleet).canary_off(TAG, "staging1", payload)["canary"] == "as it was"
    assert len(journal(stand, "canary.off")) == len(journal(stand, "alert.firing")) == 1


def test_the_reactor_may_be_first_and_it_is_the_same(stand, fleet):
    payload = signed(fleet)
    assert runner("reflex", fleet).canary_off(TAG, "staging1", payload)["changed"] is True
    stand.await_share(0)
    runner("canary", fleet).on("looked at it")
    stand.await_share(30)
    reflexes = Reflexes(fleet)
    assert reflexes.hear(TAG, payload)
    reflexes.step(0)
    assert stand.share() == 30
    assert list(alerts(stand)) == [("CpuHigh", "staging1")]


def test_in_a_storm_the_canary_goes_first_and_of_everything_else_the_newest_counts(stand, fleet):
    did: list[str] = []
    reflexes = Reflexes(fleet, did.append)
    path = fleet.pillar_dir / "alerts.sls"
    content = yaml.safe_load(path.read_text())
    content["alerts"]["rate"] = {"burst": 4, "per_minute": 60}
    path.write_text(yaml.safe_dump(content))
    machines = [f"prod{n}" for n in range(1, 26)]
    for turn in range(10):
        for machine in machines:
            for resource in ("cpu", "memory"):
                level = "high" if turn % 2 == 0 or machine == "prod7" else "ok"
                assert reflexes.hear(*edge(fleet, machine, f"{resource}/{level}"))
        if turn == 8:
            assert reflexes.hear(*edge(fleet, "staging1", "cpu/high"))
    reflexes.step(0)
    assert did[0] == "canary_off"
    assert did.count("alert") == 2 * len(machines) + 1
    stand.await_share(0)
    assert {key for key, alert in alerts(stand).items() if alert.firing} == {
        ("CpuHigh", "prod7"), ("MemoryHigh", "prod7"), ("CpuHigh", "staging1"),
    }  # fmt: skip


def test_the_canary_goes_off_in_the_middle_of_many_alerts(stand, fleet):
    did: list[str] = []

    def hook(what: str) -> None:
        did.append(what)
        if did == ["alert"] * 3:
            reflexes.hear(*edge(fleet, "proxy1", "cpu/high"))

    reflexes = Reflexes(fleet, hook)
    for n in range(1, 21):
        reflexes.hear(*edge(fleet, f"prod{n}", "cpu/high"))
    reflexes.step(0)
    assert did[:5] == ["alert"] * 3 + ["canary_off", "alert"]


def test_a_machine_that_says_too_much_is_told_of_and_its_last_word_is_written(stand, fleet):
    reflexes = Reflexes(fleet)
    path = fleet.pillar_dir / "alerts.sls"
    content = yaml.safe_load(path.read_text())
    content["alerts"]["rate"] = {"burst": 2, "per_minute": 20}
    path.write_text(yaml.safe_dump(content))
    for n in range(11):
        reflexes.hear(*edge(fleet, "prod1", "cpu/high" if n % 2 == 0 else "cpu/ok"))
        reflexes.step(0)

    def last_word() -> bool:
        reflexes.step(0.01)
        return ("EventRejected", "prod1") in alerts(stand) and alerts(stand)["CpuHigh", "prod1"].firing

    until(last_word, "the last word")
    assert alerts(stand)["EventRejected", "prod1"].details.startswith("event ")


@pytest.mark.parametrize(
    ("machine", "by", "change"),
    [
        ("prod1", "staging1", {}),
        ("staging1", "prod1", {}),
        ("staging1", "staging1", {"id": "prod1"}),
        ("staging1", "staging1", {"counter": 1}),
        ("staging1", "staging1", {"values": {**VALUES, "percent": 99.0}}),
        ("staging1", "staging1", {"id": "{{ 7 * 7 }}"}),
        ("*", "staging1", {}),
    ],
)
def test_a_forged_event_has_no_effect_and_is_told(stand, fleet, machine, by, change):
    reflexes = Reflexes(fleet)
    tag, data = edge(fleet, machine, "cpu/high", by=by)
    assert not reflexes.hear(tag, {**data, **change})
    reflexes.step(0)
    assert {name for name, _ in alerts(stand)} == {"EventRejected"}
    assert len(journal(stand, "alert.firing")) == 1
    assert stand.share() == 30
    # The truth is still believed.
    assert reflexes.hear(TAG, signed(fleet))
    reflexes.step(0)
    stand.await_share(0)


def test_a_replay_has_no_effect_and_is_told(stand, fleet):
    reflexes = Reflexes(fleet)
    first, second = signed(fleet), signed(fleet)
    for payload in (second, first):
        assert reflexes.hear(TAG, payload)
        reflexes.step(0)
        runner("canary", fleet).on("looked at it")
    reflexes.step(0)
    assert set(alerts(stand)) == {("CpuHigh", "staging1"), ("EventRejected", "staging1")}
    assert len(journal(stand, "canary.off")) == 1


@pytest.mark.parametrize(
    "tag", ["salt/beacon/prod1/disk/high", "salt/job/1/new", "salt/beacon/prod1/cpu/high\n", ""]
)
def test_other_events_are_none_of_its_business(stand, fleet, tag):
    reflexes = Reflexes(fleet)
    assert not reflexes.hear(tag, {"id": "prod1"})
    reflexes.step(0)
    assert alerts(stand) == {}


def test_without_redis_proxy_and_alertmanager_are_told_and_redis_when_it_is_back(stand, fleet, watched):
    reflexes = Reflexes(fleet)
    stand.redis.end(signal.SIGKILL)
    payload = signed(fleet)
    assert reflexes.hear(TAG, payload)
    reflexes.step(0)
    assert stand.share() == 0
    (told,) = watched.alerts()
    assert (told["summary"], told["undo"]) == ("CPU of staging1 is high", "salt-run canary.on")
    assert told["done"].startswith("turned the canary off")
    # The reactor's reaction finds that it has counted, without Redis too.
    assert runner("reflex", fleet).canary_off(TAG, "staging1", payload)["canary"] == "as it was"
    stand.start_redis()
    password = secrets.load(fleet)["redis"]["admin"]
    stand.client.acl_setuser(
        "admin", enabled=True, passwords=[f"+{password}"], keys="*", channels="*", categories=["+@all"]
    )

    def written() -> Any:
        reflexes.step(0.01)
        return alerts(stand)

    assert list(until(written, "the alert in Redis")) == [("CpuHigh", "staging1")]
    until(lambda: journal(stand, "admin.write"), "what was done without the registry, in it")
    assert len(journal(stand, "canary.off")) == len(journal(stand, "admin.write")) == 1
    assert json.loads(journal(stand, "canary.off")[0]["fields"])["reason"].startswith(
        "reflex: staging1 cpu 93 %"
    )


def test_a_redis_that_falls_silent_after_an_event_counted_loses_no_alert(stand, fleet, watched):
    fallen: list[str] = []

    def hook(what: str) -> None:
        if what == "alert" and not fallen:
            fallen.append(what)
            raise reacting.redis.ConnectionError("gone")

    reflexes = Reflexes(fleet, hook)
    reflexes.hear(*edge(fleet, "prod1", "cpu/high"))
    reflexes.step(0)
    assert [each["summary"] for each in watched.alerts()] == ["CPU of prod1 is high"]

    def written() -> Any:
        reflexes.step(0.01)
        return alerts(stand)

    assert list(until(written, "the alert in Redis")) == [("CpuHigh", "prod1")]
