"""`salt-run rehearse.event`: the master's own reactors and renderers, and nothing happens."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import redis
from saltern.registry import JOURNAL, Registry


@pytest.fixture
def registry(registry_empty: Any) -> Registry:
    found = Registry(registry_empty)
    found.register("prod1", addr="10.99.0.13", port=8080, release="r1", pool="prod")
    found.register("staging1", addr="10.99.0.15", port=8080, release="r2", pool="canary")
    found.set_share(30)
    return found


def everything(client: redis.Redis) -> dict[str, bytes]:
    """All that Redis holds of ours."""
    raw = redis.Redis(connection_pool=redis.ConnectionPool(
        connection_class=client.connection_pool.connection_class,
        **{**client.connection_pool.connection_kwargs, "decode_responses": False},
    ))  # fmt: skip
    return {key: raw.dump(key) for key in sorted(raw.keys("saltern:*"))}


@pytest.mark.parametrize(
    ("tag", "data", "reactors", "words"),
    [
        (
            "salt/beacon/staging1/cpu/high", {"percent": 93, "high": 50}, ["canary_off.sls"],
            ["the canary goes off", "staging1 cpu 93 % (limit 50 %)", "alert CpuHigh of staging1 begins"],
        ),
        ("salt/beacon/prod1/memory/high", {"percent": 80, "high": 50}, [], ["alert MemoryHigh of prod1 begins"]),
        ("saltern/scale/prod1/out", {}, ["scale_out.sls"], ["an intent scale prod"]),
        (
            "salt/beacon/prod1/cpu/blind", {"problem": "no cgroup"}, ["alert.sls"],
            ["alert CpuBlind of prod1 begins", "CPU of prod1 cannot be read: no cgroup"],
        ),
        (
            "saltern/instance/prod1/present", {"port": "8080", "release": "r9"}, ["instance_present.sls"],
            ["release r9 (was release r1)"],
        ),
        ("salt/cloud/prod9/destroyed", {}, ["machine_destroyed.sls", "alert_gone.sls"], ["prod9 is not registered"]),
        ("salt/presence/change", {"lost": ["prod1"]}, ["machine_lost.sls"], ["prod1 is asked whether it answers"]),
    ],
)  # fmt: skip
def test_an_event_is_rehearsed_with_the_masters_reactors_and_nothing_happens(
    minions: Any, run_in: Any, registry: Registry, registry_empty: Any, tag: str, data: dict[str, Any],
    reactors: list[str], words: list[str],
) -> None:  # fmt: skip
    before = registry.snapshot(), everything(registry_empty)
    told_before = registry_empty.xrange(JOURNAL)
    done = run_in("salt-run", "--out=json", "rehearse.event", tag, f"data={json.dumps(data)}")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert [each["file"].rpartition("/")[2] for each in told["reactors"]] == reactors
    assert all(each["renders"] for each in told["reactors"])
    text = json.dumps([told["decisions"], told["changes"]])
    assert [each for each in words if each not in text] == [], text
    assert told["happened"] == "nothing: this was a rehearsal"
    assert registry_empty.xrange(JOURNAL) == told_before
    assert (registry.snapshot(), everything(registry_empty)) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no tag"], "is not words with a / between them"),
        (["salt/x/y", "data=[1]"], "is not a table"),
        (["salt/beacon/prod1/cpu/high", "data=7"], "is not a table"),
    ],
)
def test_what_is_no_event_is_refused_in_one_line(
    minions: Any, run_in: Any, arguments: list[str], words: str
) -> None:
    done = run_in("salt-run", "--out=json", "rehearse.event", *arguments)
    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert words in error and "\n" not in error


def test_a_stranger_event_wakes_nobody(minions: Any, run_in: Any, registry: Registry) -> None:
    told = json.loads(run_in("salt-run", "--out=json", "rehearse.event", "my/own/event").stdout)
    assert told["reactors"] == [] and told["changes"] == []
    assert told["decisions"][0]["who"] == "nobody"


def test_another_mark_is_held_against_the_journal(minions: Any, run_in: Any, registry: Registry) -> None:
    cause = f"salt/beacon/staging1/cpu/high {time.time_ns()}"
    fields = {"alert": "CpuHigh", "value": "62 % of 1 processor", "fingerprint": "x"}
    registry.note("alert.firing", "staging1", fields, by="reflex", cause=cause)
    told = json.loads(run_in("salt-run", "--out=json", "rehearse.policy", "cpu", "high=70").stdout)
    assert told["summary"] == "1 of 1 alert would not have happened"
    done = run_in("salt-run", "--out=json", "rehearse.policy", "cpu", "high=700")
    assert done.returncode == 1
    assert "high 700 is not a percentage" in json.loads(done.stdout)["error"]


def test_salt_run_explains_it(minions: Any, run_in: Any) -> None:
    assert "salt-run rehearse.event" in run_in("salt-run", "-d", "rehearse").stdout
