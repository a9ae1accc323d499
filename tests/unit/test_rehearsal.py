"""What an event would bring about: the same decisions as when it is serious, over plain values."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from saltern import pillar, scaling, secrets, signing
from saltern.alert_store import Alert
from saltern.conductor import Felt
from saltern.errors import SalternError
from saltern.fleet import REPOSITORY
from saltern.intents import Intent
from saltern.provisioning import Machine
from saltern.registry import parse_state
from saltern.rehearsal import Now, as_sent, calls, decide

SECRET = "ab" * 32
HIGH = {"percent": 93.0, "high": 50.0, "services": {"product": 91.0}, "cpus": 1.0}
IDS = ("prod1", "prod2", "prod3", "prod4", "prod5", "staging1", "proxy1")


def instance(pool: str, release: str = "r1") -> dict[str, str]:
    return {"pool": pool, "addr": "10.99.0.13", "port": "8080", "release": release, "want": "ready"}


@pytest.fixture
def now() -> Now:
    """Five machines of production and a canary, all well."""
    instances = {id_: instance("canary" if id_ == "staging1" else "prod") for id_ in IDS if id_ != "proxy1"}
    at = time.time()
    machines = {id_: Machine(id_, True, at - 9000, 384) for id_ in IDS}
    servers = {id_: {"phase": "ready", "up": True} for id_ in instances}
    return Now(
        at=at, settings=pillar.load(REPOSITORY / "pillar"), state=parse_state(7, instances, {"share": "30"}, {}),
        observed={"ts": at, "servers": servers}, felt={}, machines=machines,
        addresses=dict.fromkeys(IDS, "10.99.0.13"), unfinished=(), alerts=(), memories={},
        sizes={id_: {"base": 384, "changed": 0.0} for id_ in IDS},
    )  # fmt: skip


def told(
    now: Now, tag: str, values: Mapping[str, Any], called: Mapping[str, Any] | None = None, seen: int = 0
) -> tuple[str, list[str]]:
    """What is decided, in one text, and what would change."""
    data = as_sent(SECRET, tag, values)
    arguments = {"tag": tag, "minion_id": data.get("id"), "payload": data.get("data", data)}
    functions = {name: arguments if given is None else given for name, given in (called or {}).items()}
    found = decide(SECRET, tag, data, functions, now, lambda kind: seen)
    return (
        " | ".join(f"{f.who}: {f.decides} ({f.why})" for f in found),
        [each for f in found for each in f.changes],
    )


def test_a_canary_under_pressure_goes_off_and_an_alert_begins(now: Now) -> None:
    words, changes = told(now, "salt/beacon/staging1/cpu/high", HIGH, {"runner.reflex.canary_off": None})
    assert "runner.reflex.canary_off: the canary goes off (staging1 cpu 93 % (limit 50 %))" in words
    assert "engine reflex: alert CpuHigh of staging1 begins" in words
    assert "traffic: the canary's share in effect goes from 30 % to 0 %" in changes


def test_a_canary_that_is_off_already_and_an_alert_that_fires_change_nothing(now: Now) -> None:
    state = parse_state(7, {}, {}, {"reason": "error rate", "releases": "r1"})
    alert = Alert("CpuHigh", "staging1", "c", "warning", "hot")
    words, changes = told(replace(now, state=state, alerts=(alert,)), "salt/beacon/staging1/cpu/high", HIGH)
    assert "the canary stays off (it is off already: error rate)" in words
    assert "alert CpuHigh of staging1 goes on" in words
    assert changes == []


def test_a_machine_of_production_is_no_reason_for_the_canary(now: Now) -> None:
    words, _ = told(now, "salt/beacon/prod1/cpu/high", HIGH, {"runner.reflex.canary_off": None})
    assert "the canary stays as it is" in words


def test_a_pool_grows_only_when_the_policy_says_so_and_it_says_why(now: Now) -> None:
    words, changes = told(now, "salt/beacon/prod1/cpu/high", HIGH)
    assert "pool prod keeps 5 machines" in words, words
    assert changes == ["alert CpuHigh of prod1 fires, and is mailed"]
    hot = {f"prod{n}/cpu": Felt(True, 95.0, now.at - 60, now.at - 1) for n in range(2, 6)}
    asked_all_along = {"prod": scaling.Memory(recommended={9: now.at - 1})}
    words, changes = told(
        replace(now, felt=hot, memories=asked_all_along), "salt/beacon/prod1/cpu/high", HIGH
    )
    assert "machines, not 5" in words, words
    assert any(each.startswith("saltern:queue: an intent scale prod to=") for each in changes)


def test_memory_is_doubled_up_to_its_maximum_and_not_twice(now: Now) -> None:
    tag, values = "salt/beacon/prod1/memory/high", {"percent": 80.0, "high": 50.0}
    words, changes = told(now, tag, values)
    assert "prod1 shall have 768 MiB, not 384" in words, words
    assert "saltern:queue: an intent resize prod1 to=768 MiB" in changes
    busy = replace(now, unfinished=(Intent("resize", "prod", {"machine": "prod1", "to": 768}),))
    assert "it is being resized already" in told(busy, tag, values)[0]
    most = now.settings["scaling"]["memory"]["max_mib"]
    big = replace(now, machines={**now.machines, "prod1": Machine("prod1", True, 1.0, most)})
    words, changes = told(big, tag, values)
    assert "the most allowed" in words
    assert "alert MemoryAtMaximum fires" in changes


@pytest.mark.parametrize(
    ("tag", "words", "change"),
    [
        (
            "saltern/scale/prod1/out",
            "pool prod shall have 6 machines, not 5",
            "saltern:queue: an intent scale prod to=6",
        ),
        (
            "saltern/scale/proxy1/out",
            "pool prod shall have 6 machines",
            "saltern:queue: an intent scale prod to=6",
        ),
        (
            "saltern/scale/prod1/up",
            "prod1 shall have 768 MiB",
            "saltern:queue: an intent resize prod1 to=768 MiB",
        ),
        ("saltern/scale/prod1/sideways", "rejects the event", "an alert about rejected events"),
    ],
)
def test_what_a_machine_asks_for_is_held_against_the_bounds(
    now: Now, tag: str, words: str, change: str
) -> None:
    said, changes = told(now, tag, {}, {"runner.scale.request": None})
    assert words in said
    assert change in changes


def test_a_pool_at_its_least_gives_up_none(now: Now) -> None:
    wanted = now.settings["scaling"]["pools"]["prod"]["min"]
    few = replace(
        now, state=parse_state(7, {f"prod{n}": instance("prod") for n in range(1, wanted + 1)}, {}, {})
    )
    few = replace(few, machines={id_: m for id_, m in now.machines.items() if id_ in few.state.instances})
    said, changes = told(few, "saltern/scale/prod1/in", {}, {"runner.scale.request": None})
    assert "refuses" in said and "fewer than min" in said
    assert changes == []


def test_an_instance_that_says_what_is_known_changes_nothing_and_a_new_release_opens_the_latch(
    now: Now,
) -> None:
    call = {"runner.registry.register": None}
    same = {"port": "8080", "release": "r1"}
    assert told(now, "saltern/instance/prod1/present", same, call)[1] == []
    state = parse_state(7, {"staging1": instance("canary")}, {}, {"reason": "slow", "releases": "r1"})
    words, changes = told(
        replace(now, state=state),
        "saltern/instance/staging1/present",
        {"port": "8080", "release": "r2"},
        call,
    )
    assert changes == [
        "saltern:instance:staging1: canary, 10.99.0.13:8080, release r2 (was release r1)",
        "the canary is turned on: release r2 is new since it was turned off",
    ]
    words, changes = told(now, "saltern/instance/prod1/present", {"port": "99999", "release": "r1"}, call)
    assert "port 99999 is not between 1 and 65535" in words
    assert changes == []


def test_a_machine_that_is_gone_is_struck_off_and_one_that_is_there_is_not(now: Now) -> None:
    call = {"runner.registry.unregister": {"minion_id": "prod1"}, "runner.alert.gone": {"minion_id": "prod1"}}
    words, changes = told(now, "salt/cloud/prod1/destroyed", {}, call)
    assert words.count("prod1 is still there") == 2
    assert changes == []
    left = {id_: m for id_, m in now.machines.items() if id_ != "prod1"}
    alert = Alert("CpuHigh", "prod1", "c", "warning", "hot")
    words, changes = told(
        replace(now, machines=left, alerts=(alert,)), "salt/cloud/prod1/destroyed", {}, call
    )
    assert changes == ["saltern:instance:prod1: gone", "alert CpuHigh of prod1 is over"]


def test_forged_and_repeated_events_are_rejected_as_they_would_be(now: Now) -> None:
    tag = "salt/beacon/staging1/cpu/high"
    forged = {**as_sent("cd" * 32, tag, HIGH)}
    words, changes = told(now, tag, forged)
    assert words.count("signature is wrong") == 2, "both engines"
    assert "saltern:journal: a line event.rejected" in changes
    words, _ = told(now, tag, HIGH, seen=time.time_ns() + 10**12)
    assert "was used before" in words


def test_what_a_machine_says_is_signed_as_it_would_be_and_anything_else_is_left_alone() -> None:
    beacon = as_sent(SECRET, "salt/beacon/prod1/cpu/high", HIGH)
    key = secrets.event_key(SECRET, "prod1")
    assert beacon["id"] == "prod1"
    assert signing.verify(key, "salt/beacon/prod1/cpu/high", beacon)["values"] == HIGH
    other = as_sent(SECRET, "saltern/scale/prod1/out", {})
    assert signing.verify(key, "saltern/scale/prod1/out", other["data"])
    assert as_sent(SECRET, "salt/presence/change", {"lost": ["prod1"]}) == {"lost": ["prod1"]}
    assert as_sent(SECRET, "salt/beacon/prod1/cpu/high", beacon) == beacon
    for bad in ("", "high", "salt/beacon/prod1/cpu/high\n", "a b/c", "../../x y"):
        with pytest.raises(SalternError, match="is not words"):
            as_sent(SECRET, bad, {})
    with pytest.raises(SalternError, match="not plain data"):
        as_sent(SECRET, "salt/beacon/prod1/cpu/high", {"percent": float("nan")})


def test_nobody_who_hears_it_is_said_too_and_a_strange_runner_is_named(now: Now) -> None:
    assert "nobody: nothing (no reactor matches" in told(now, "salt/job/1/new", {})[0]
    words, changes = told(
        now, "my/own/event", {}, {"runner.mine.go": {}, "local.state.apply": {"tgt": ["prod1"]}}
    )
    assert "runner.mine.go is called; what it decides is its own business" in words
    assert changes == ["mine.go runs", "state.apply runs on prod1"]


def test_calls_are_read_as_they_are_written_and_as_salts_compiler_leaves_them() -> None:
    rendered = {
        "gone": {"runner": [{"args": [{"minion_id": "prod9"}]}, "alert.gone"], "__sls__": "x"},
        "tell": {"runner.alert.feel": [{"args": [{"tag": "t"}, {"minion_id": "prod1"}]}, {"order": 1}]},
        "apply": {
            "local.state.apply": [{"tgt": ["prod1"]}, {"tgt_type": "list"}, {"kwarg": {"queue": True}}]
        },
        "__sls__": "x",
    }
    assert dict(calls(rendered)) == {
        "runner.alert.gone": {"minion_id": "prod9"},
        "runner.alert.feel": {"tag": "t", "minion_id": "prod1", "order": 1},
        "local.state.apply": {"tgt": ["prod1"], "tgt_type": "list", "queue": True},
    }
