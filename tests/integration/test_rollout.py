"""Rolls with the real master: typed at the command line, and functions called on minions from the engine's threads."""

from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from host import PATIENCE
from salt.utils.event import get_event
from saltern import artifact, rollouts
from saltern import jobs as jobs_module
from saltern.errors import SalternError
from saltern.fleet import REPOSITORY
from saltern.hands import FleetHands
from saltern.jobs import Jobs
from saltern.registry import Registry

NEW = artifact.Artifact("r77", "7" * 64, "artifacts/r77.tar.gz")


@pytest.fixture
def registry(registry_empty: Any, fleet: Any) -> Iterator[Registry]:
    """Two production machines and a canary that run what the fleet wishes, and a release that none of them runs."""
    registry = Registry(registry_empty)
    before = artifact.releases(fleet)
    for number, name in enumerate(("prod1", "prod2", "staging1"), 13):
        pool = "canary" if name == "staging1" else "prod"
        registry.register(name, f"10.99.0.{number}", 8080, before[pool].id, pool, by="test")
    artifact.keep(fleet, NEW, branch="production", author="Jo <jo@example.org>")
    yield registry
    artifact.want(fleet, before)


@pytest.fixture
def rollout(minions: Any, run_in: Callable, registry: Registry) -> Callable[..., dict]:
    def run(function: str, *arguments: str, status: int = 0) -> dict:
        done = run_in("salt-run", "--out=json", f"rollout.{function}", *arguments)
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        return json.loads(done.stdout)

    return run


def test_a_plan_says_what_would_be_done_and_does_nothing(
    rollout: Callable[..., dict], registry: Registry
) -> None:
    revision = registry.snapshot().revision
    plan = rollout("plan", "r77", "batch=2", "max_unavailable=2")
    assert plan["would"] == [f"prod{n}: drain, r0123456789ab to r77, check, ready, watch" for n in (1, 2)]
    assert (plan["batch"], plan["max_unavailable"]) == (2, 2)
    dry = rollout("start", "r77", "test=True")
    assert dry["would"] == plan["would"]
    assert rollout("plan", "state=common", "role=ops,proxy")["would"] == [
        "ops1: apply common",
        "proxy1: apply common",
    ]
    assert registry.snapshot().revision == revision and not registry.client.exists("saltern:queue")


def test_a_roll_is_queued_shown_and_stopped(rollout: Callable[..., dict], registry: Registry) -> None:
    asked = rollout("start", "r77", "by=jo", "reason=prices", "cause=saltern/build/passed", "batch=2")
    assert (asked["state"], asked["name"], asked["target"], asked["by"]) == ("queued", "r77", "prod", "jo")
    status = rollout("status")
    (roll,) = status["rolls"]
    assert (roll["intent"], roll["reason"]) == (asked["intent"], "prices")
    assert status["releases"]["r77"]["author"] == "Jo <jo@example.org>"
    assert status["releases"]["r0123456789ab"] == {
        "wanted_by": ["prod"], "runs_on": ["prod1", "prod2"],
    } | ({"kept": status["releases"]["r0123456789ab"]["kept"]})  # fmt: skip
    assert rollout("abort", "wrong prices") == {"aborted": [asked["intent"]]}
    assert (
        registry.client.hget(f"saltern:intent:{asked['intent']}", "abort")
        == "salt-run aborted it: wrong prices"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("start", "r78"), "release 'r78': not kept; the newest are"),
        (("start", "r77", "target=ops"), "target 'ops': not one of prod, canary"),
        (("start", "r77", "batch=0"), "batch=0: a number of machines"),
        (("start", "r77", "speed=9"), "speed=9: no such option"),
        (("start", "r77", "state=common"), "either a release or a state"),
        (("start", "state=../etc"), "not the name of a state"),
        (("start", "state=common", "role=web"), "role 'web'"),
        (("start", "r77", "wait=never"), "wait 'never'"),
        (("abort",), "nothing is rolled"),
        (("rollback", "target=ops"), "target 'ops'"),
    ],
)
def test_what_is_not_possible_is_said_in_one_line(
    rollout: Callable[..., dict], registry: Registry, arguments: tuple[str, ...], words: str
) -> None:
    answer = rollout(*arguments, status=1)
    assert words in answer["error"] and "\n" not in answer["error"]
    assert not registry.client.exists("saltern:queue")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"release": "r77", "wait": 0, "by": "jo", "batch": 2}, ""),
        ({"release": "r78"}, "release 'r78': not kept"),
        ({"state": "../etc"}, "not the name of a state"),
    ],
)
def test_a_roll_can_be_a_step_of_an_orchestration(
    minions: Any, run_in: Callable, registry: Registry, given: dict, words: str
) -> None:
    done = run_in(
        "salt-run", "--out=json", "state.orchestrate", "orch.rolling", f"pillar={json.dumps(given)}"
    )
    assert done.returncode == (1 if words else 0), done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    queued = rollouts.rolls(registry.client)
    assert words in done.stdout and len(queued) == (0 if words else 1)
    for roll in queued:
        assert (roll.args["release"], roll.by, roll.args["options"]) == ("r77", "jo", {"batch": 2})


@pytest.fixture
def jobs(salt: Any, minions: Any, await_bus: Callable[[Any], None]) -> Iterator[Jobs]:
    """Calls as the engine makes them: published from any thread, answered on the bus that one thread reads."""
    spec = importlib.util.spec_from_file_location("conductor", REPOSITORY / "salt/_engines/conductor.py")
    engine = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(engine)
    engine.__opts__ = dict(salt.config)
    calls = Jobs(engine._publish)
    ended = threading.Event()
    listening = threading.Event()

    def listen() -> None:
        with get_event(
            "master", sock_dir=salt.config["sock_dir"], opts=dict(salt.config), listen=True
        ) as bus:
            await_bus(bus)
            listening.set()
            while not ended.is_set():
                if event := bus.get_event(wait=0.2, full=True):
                    calls.hear(event["tag"], event["data"])

    reader = threading.Thread(target=listen)
    reader.start()
    assert listening.wait(PATIENCE)
    yield calls
    ended.set()
    reader.join()


def test_functions_are_called_on_minions_from_several_threads_at_once(jobs: Jobs) -> None:
    answers: dict[str, Any] = {}

    def call(name: str) -> None:
        answers[name] = jobs.call([name, "prod1"], "test.arg", [name, 3], {"x": {"y": 1}}, seconds=PATIENCE)

    threads = [threading.Thread(target=call, args=(name,)) for name in ("ops1", "staging1", "proxy1")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in ("ops1", "staging1", "proxy1"):
        assert set(answers[name]) == {name, "prod1"}
        said = answers[name][name]
        assert (said["args"], said["kwargs"]["x"]) == ([name, 3], {"y": 1})


def test_a_machine_that_is_not_there_is_missing_and_the_others_answer(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()
    hear = jobs.hear
    monkeypatch.setattr(jobs, "hear", lambda tag, data: hear(tag, data) and (answered.set() or True))
    # However long prod1 takes: the time is over once it has answered.
    time = SimpleNamespace(monotonic=lambda: 1e9 if answered.is_set() else 0.0)
    monkeypatch.setattr(jobs_module, "time", time)
    monkeypatch.setattr(jobs_module, "SILENCE_S", float("inf"))
    assert jobs.call(["prod1", "prod9"], "test.ping", seconds=PATIENCE, again=True) == {"prod1": True}


def test_nobody_to_call_at_all_answers_nothing(jobs: Jobs) -> None:
    try:
        assert jobs.call(["prod9"], "test.ping", seconds=2) == {}
    except SalternError as error:
        assert "prod9" in str(error)


def test_a_release_that_cannot_be_put_on_a_disk_is_said_by_machine(
    jobs: Jobs, minions: Any, fleet: Any
) -> None:
    """Nothing is put anywhere here: the disk is the host's."""
    names = ("prod1", "ops1")
    for name in names:
        minions.call(name, "saltutil.sync_modules")
    hands = FleetHands(fleet, jobs)
    path = fleet.files / NEW.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"a release")
    try:
        artifact.keep(fleet, NEW)
        said = hands.stage(names, NEW.id, 5, PATIENCE, lambda: None)
        assert said.keys() == {*names}
        assert all("r77: its sha256 is" in words for words in said.values()), said
        artifact.keep(fleet, replace(NEW, platform="cpython-27-vax"))
        said = hands.stage(names, NEW.id, 5, PATIENCE, lambda: None)
        assert all("r77 is for cpython-27-vax, and this machine has" in words for words in said.values())
    finally:
        path.unlink()


def test_what_would_change_on_a_machine_is_found_out_and_changes_nothing(
    jobs: Jobs, minions: Any, fleet: Any
) -> None:
    found = FleetHands(fleet, jobs).look(["prod1"], PATIENCE, lambda: None)
    assert found.keys() == {"prod1"} and "product user" in found["prod1"]


def test_states_are_applied_and_what_goes_wrong_is_said_by_machine(jobs: Jobs, fleet: Any) -> None:
    faults = FleetHands(fleet, jobs).apply(["prod1"], "no.such.state", PATIENCE, lambda: None)
    assert list(faults) == ["prod1"] and "no.such.state" in faults["prod1"]
