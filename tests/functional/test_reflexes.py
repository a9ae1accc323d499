"""Reflexes as the reactor's runners carry them out, on a whole traffic plane: with and without Redis, told
the truth and told lies.
"""
# Fixtures are named where they are used.
# ruff: noqa: F811

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from alert_stand import mute_alertmanager
from host import free_port, until
from saltern import secrets, signing
from saltern.alert_store import AlertStore
from saltern.alertmanager import Alertmanager
from saltern.fleet import Fleet, write_atomically
from test_admin_runners import api, fleet, runner, stand  # noqa: F401
from traffic_stand import Stand

VALUES = {"percent": 93.0, "high": 50, "low": 40, "cpus": 1.0, "services": {"product": 91.0}, "since": 1.5}
TAG = "salt/beacon/staging1/cpu/high"


def signed(
    fleet: Fleet,
    machine: str = "staging1",
    tag: str = TAG,
    values: dict | None = None,
    counter: int | None = None,
) -> dict[str, Any]:
    """What a machine's beacon puts on the bus."""
    key = secrets.event_key(secrets.load(fleet)["events"], machine)
    return {**signing.sign(key, machine, tag, VALUES if values is None else values, counter), "id": machine}


def journal(stand: Stand, kind: str) -> list[dict[str, str]]:
    return [entry for _, entry in stand.client.xrange("saltern:journal") if entry["kind"] == kind]


# The canary ------------------------------------------------------------------------------------------------


def test_pressure_on_staging_turns_the_canary_off_and_says_what_was_done(stand, fleet):
    payload = signed(fleet)
    done = runner("reflex", fleet).canary_off(TAG, "staging1", payload)
    assert (done["canary"], done["changed"], done["reason"]) == (
        "off",
        True,
        "staging1 cpu 93 % (limit 50 %)",
    )
    stand.await_share(0)
    assert runner("alert", fleet).feel(TAG, "staging1", payload)["begins"] is True
    (row,) = runner("alert", fleet).list_()["firing"]
    assert (row["alert"], row["subject"], row["undo"]) == ("CpuHigh", "staging1", "salt-run canary.on")
    assert row["done"].startswith("turned the canary off: all requests go to production")
    (entry,) = journal(stand, "canary.off")
    assert (entry["cause"], entry["who"]) == (f"{TAG} {payload['counter']}", "reflex")


def test_an_event_that_is_delivered_twice_has_one_effect(stand, fleet):
    reflex = runner("reflex", fleet)
    payload = signed(fleet)
    assert reflex.canary_off(TAG, "staging1", payload)["changed"] is True
    stand.await_share(0)
    runner("canary", fleet).on("looked at it")
    stand.await_share(30)
    again = reflex.canary_off(TAG, "staging1", payload)
    assert again["canary"] == "as it was" and "was used before" in again["why"]
    assert stand.share() == 30
    assert len(journal(stand, "canary.off")) == 1
    # What came a moment ago by another way is no forgery.
    assert AlertStore(stand.client).all() == []


def test_an_event_from_before_another_one_is_a_replay_and_told(stand, fleet):
    reflex = runner("reflex", fleet)
    older = signed(fleet)
    assert reflex.canary_off(TAG, "staging1", signed(fleet))["changed"] is True
    stand.await_share(0)
    runner("canary", fleet).on("looked at it")
    stand.await_share(30)
    assert "was used before" in reflex.canary_off(TAG, "staging1", older)["error"]
    assert stand.share() == 30
    assert [(alert.name, alert.subject) for alert in AlertStore(stand.client).all()] == [
        ("EventRejected", "staging1")
    ]


@pytest.mark.parametrize(
    ("machine", "what"), [("prod1", "cpu/high"), ("staging1", "cpu/ok"), ("redis1", "memory/high")]
)
def test_what_is_no_reason_changes_nothing(stand, fleet, machine, what):
    tag = f"salt/beacon/{machine}/{what}"
    assert (
        runner("reflex", fleet).canary_off(tag, machine, signed(fleet, machine, tag))["canary"] == "as it was"
    )
    assert stand.share() == 30


def forgeries(fleet: Fleet) -> dict[str, tuple[object, object, object]]:
    """Events that must cause nothing: tag, sender, payload."""
    good = signed(fleet)
    by_prod = signed(fleet, "prod1", TAG)
    other_tag = "salt/beacon/prod1/cpu/high"
    return {
        "prod1 speaks for staging1": (TAG, "staging1", {**by_prod, "machine": "staging1", "id": "staging1"}),
        "prod1 under staging1's tag": (TAG, "prod1", by_prod),
        "staging1 under prod1's tag": (other_tag, "staging1", signed(fleet, tag=other_tag)),
        "another edge": ("salt/beacon/staging1/cpu/ok", "staging1", good),
        "other values": (TAG, "staging1", {**good, "values": {**VALUES, "percent": 99.0}}),
        "a later counter": (TAG, "staging1", {**good, "counter": good["counter"] + 1}),
        "no signature": (TAG, "staging1", {k: v for k, v in good.items() if k != "signature"}),
        "a machine of no role": (TAG, "web1", good),
        "every machine": (TAG, "*", good),
        "a template": (TAG, "{{ salt['cmd.run']('id') }}", good),
        "a tag that is a template": ("salt/beacon/staging1/{{ 1 }}", "staging1", good),
        "yaml": (TAG, "staging1", "!!python/object/apply:os.system [id]"),
        "bytes": (TAG, b"staging1", good),
        "nothing": (None, None, None),
        "from the far future": (TAG, "staging1", signed(fleet, counter=time.time_ns() + 7200 * 10**9)),
        "signed nonsense": (TAG, "staging1", signed(fleet, values={"percent": "high"})),
    }


def test_no_forgery_has_an_effect_and_each_is_journalled_and_told(stand, fleet):
    for name, (tag, sender, payload) in forgeries(fleet).items():
        for module, function in (("reflex", "canary_off"), ("alert", "feel")):
            answer = getattr(runner(module, fleet), function)(tag, sender, payload)
            assert answer.get("retcode") == 1, (name, answer)
            assert "\n" not in answer["error"], name
    assert stand.share() == 30
    assert not stand.client.exists("saltern:latch:canary")
    rejected = AlertStore(stand.client).all()
    assert {alert.name for alert in rejected} == {"EventRejected"}
    assert {alert.subject for alert in rejected} == {"staging1", "prod1", "unknown"}
    assert len(journal(stand, "alert.firing")) == 3
    # After all that the truth is still believed.
    assert runner("reflex", fleet).canary_off(TAG, "staging1", signed(fleet))["changed"] is True


def test_the_canary_goes_off_even_if_its_machine_has_used_up_what_it_may_say(stand, fleet):
    alert = runner("alert", fleet)
    path = fleet.pillar_dir / "alerts.sls"
    content = yaml.safe_load(path.read_text())
    content["alerts"]["rate"] = {"burst": 2, "per_minute": 1}
    path.write_text(yaml.safe_dump(content))
    answers = [alert.feel(TAG, "staging1", signed(fleet)) for _ in range(3)]
    assert "more than 1 a minute" in answers[2]["error"]
    assert runner("reflex", fleet).canary_off(TAG, "staging1", signed(fleet))["changed"] is True
    stand.await_share(0)


def test_without_redis_the_proxy_is_told_directly_and_the_registry_later(stand, fleet):
    stand.redis.end(signal.SIGKILL)
    done = runner("reflex", fleet).canary_off(TAG, "staging1", signed(fleet))
    assert stand.share() == 0
    assert (done["canary"], done["proxy1"]["status"]) == ("off", 202)
    stand.start_redis()
    until(lambda: stand.client.exists("saltern:latch:canary"), "the latch in the registry")
    assert stand.registry.snapshot().latches["canary"].reason == "reflex: staging1 cpu 93 % (limit 50 %)"
    assert stand.share() == 0


def test_without_redis_an_event_that_is_delivered_twice_has_one_effect(stand, fleet):
    stand.redis.end(signal.SIGKILL)
    payload = signed(fleet)
    assert runner("reflex", fleet).canary_off(TAG, "staging1", payload)["canary"] == "off"
    again = runner("reflex", fleet).canary_off(TAG, "staging1", payload)
    assert again["canary"] == "as it was" and "was used before" in again["why"]
    stand.start_redis()
    until(lambda: journal(stand, "admin.write"), "what was done without the registry, in it")
    assert len(journal(stand, "canary.off")) == len(journal(stand, "admin.write")) == 1


def test_without_redis_an_old_event_is_no_news(stand, fleet):
    stand.redis.end(signal.SIGKILL)
    old = signed(fleet, counter=time.time_ns() - 61 * 10**9)
    assert "older than a minute" in runner("reflex", fleet).canary_off(TAG, "staging1", old)["error"]
    forged = signed(fleet, "prod1", TAG)
    assert "signature is wrong" in runner("reflex", fleet).canary_off(TAG, "staging1", forged)["error"]
    assert stand.share() == 30


# Alerts ----------------------------------------------------------------------------------------------------


@pytest.fixture
def watched(stand: Stand, fleet: Fleet, tmp_path: Path) -> Iterator[Alertmanager]:
    """The fleet has an ops machine too, with an Alertmanager that mails nobody."""
    port = free_port()
    write_atomically(fleet.machines_dir / "ops1" / "machine.json", json.dumps({"address": "127.0.0.1"}))
    path = fleet.pillar_dir / "ops.sls"
    content = yaml.safe_load(path.read_text())
    content["ops"]["alertmanager_port"] = port
    path.write_text(yaml.safe_dump(content))
    process, made = mute_alertmanager(tmp_path, port)
    yield made
    process.end()


def test_an_alert_begins_goes_on_and_ends_with_what_a_machine_says(stand, fleet):
    alert = runner("alert", fleet)
    high, ok = "salt/beacon/prod1/memory/high", "salt/beacon/prod1/memory/ok"
    assert alert.feel(high, "prod1", signed(fleet, "prod1", high))["begins"] is True
    assert alert.feel(high, "prod1", signed(fleet, "prod1", high))["begins"] is False
    assert alert.feel(ok, "prod1", signed(fleet, "prod1", ok))["ends"] is True
    assert alert.feel(ok, "prod1", signed(fleet, "prod1", ok))["ends"] is False
    listed = alert.list_()
    assert (listed["firing"], len(listed["resolved"])) == ([], 1)
    assert json.loads(json.dumps(listed)) == listed


def test_a_machine_that_can_read_again_is_no_longer_blind(stand, fleet):
    alert = runner("alert", fleet)
    blind, ok = "salt/beacon/prod1/cpu/blind", "salt/beacon/prod1/cpu/ok"
    alert.feel(blind, "prod1", signed(fleet, "prod1", blind, {"problem": "no file"}))
    assert alert.list_()["firing"][0]["summary"] == "CPU of prod1 cannot be read: no file"
    alert.feel(ok, "prod1", signed(fleet, "prod1", ok))
    assert alert.list_()["firing"] == []


def test_the_alerts_of_a_machine_that_is_gone_end_and_only_of_one_that_is(stand, fleet):
    alert = runner("alert", fleet)
    for machine in ("prod9", "redis1"):
        tag = f"salt/beacon/{machine}/cpu/high"
        alert.feel(tag, machine, signed(fleet, machine, tag))
    assert "redis1 is still there" in alert.gone("redis1")["error"]
    assert "is not a machine's id" in alert.gone("*")["error"]
    assert alert.gone("prod9") == {"machine": "prod9", "ended": ["CpuHigh"]}
    assert [row["subject"] for row in alert.list_()["firing"]] == ["redis1"]


def test_without_redis_alertmanager_is_told_directly(stand, fleet, watched):
    alert = runner("alert", fleet)
    stand.redis.end(signal.SIGKILL)
    told = alert.feel(TAG, "staging1", signed(fleet))
    assert told["told"] == watched.url
    shown = alert.list_()
    assert [row["summary"] for row in shown["firing"]] == ["CPU of staging1 is high"]
    assert "redis" in shown
    ok = "salt/beacon/staging1/cpu/ok"
    alert.feel(ok, "staging1", signed(fleet, tag=ok))
    until(lambda: watched.alerts() == [], "the end")


def test_a_silence_is_made_and_ended(stand, fleet, watched):
    alert = runner("alert", fleet)
    runner("alert", fleet).feel(TAG, "staging1", signed(fleet))
    made = alert.silence("CpuHigh", "staging1", hours=0.5)
    assert made["undo"] == f"salt-run alert.unsilence {made['silence']}"
    assert alert.unsilence(made["silence"])["ended"] is True
    for arguments, words in (
        (("*", "*"), "everything at once"),
        (("CpuHigh", "staging1", 0), "hours 0 is not a number above 0"),
        (("CpuHigh", "staging1", "2h"), "hours '2h' is not a number"),
        (("a\nb", "*"), "is not a name"),
        (("", "*"), "is not a name"),
    ):
        assert words in alert.silence(*arguments)["error"]
    assert "alertmanager at" in alert.unsilence("no-such-silence")["error"]


def test_without_an_ops_machine_or_redis_nobody_can_be_told_and_that_is_said(stand, fleet):
    stand.redis.end(signal.SIGKILL)
    assert (
        "fleet test has no ops machine"
        in runner("alert", fleet).feel(TAG, "staging1", signed(fleet))["error"]
    )


@pytest.mark.parametrize("name", ["alert", "reflex"])
def test_every_function_says_how_it_is_called(fleet, name):
    module = runner(name, fleet)
    for word, each in vars(module).items():
        if callable(each) and not word.startswith("_") and each.__module__ == module.__name__:
            assert f"salt-run {name}.{word.rstrip('_')}" in (each.__doc__ or ""), word
