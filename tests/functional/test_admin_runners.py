"""What ``salt-run canary.*`` and ``fleet.*`` do, on a whole traffic plane kept as a fleet."""

from __future__ import annotations

import importlib.util
import json
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from admin_stand import WRITE, AdminStand
from host import PATIENCE, folder_in_memory, until
from saltern import judge, secrets
from saltern.fleet import Fleet
from traffic_stand import ROOT, Stand

pytestmark = pytest.mark.functional


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    """A traffic plane with a canary."""
    folder = tmp_path / "plane"
    folder.mkdir()
    made = Stand(folder)
    try:
        made.start()
        made.add("prod1")
        made.add("staging1", release="r2")
        made.await_up("prod1", "staging1")
        made.await_share(30)
        yield made
    finally:
        made.close()


@pytest.fixture
def api(stand: Stand) -> Iterator[AdminStand]:
    """Its admin API."""
    made = AdminStand.before(stand)
    yield made.start()
    made.process.end()


@pytest.fixture
def fleet(stand: Stand, api: AdminStand, tmp_path: Path) -> Iterator[Fleet]:
    """The plane as a fleet: Redis and the proxy are machines at the address where they listen."""
    pillar = tmp_path / "pillar"
    shutil.copytree(ROOT / "pillar", pillar)
    for name, key, value in (("redis", "port", stand.redis_port), ("admin", "port", api.port)):
        content = yaml.safe_load((pillar / f"{name}.sls").read_text())
        content[name][key] = value
        (pillar / f"{name}.sls").write_text(yaml.safe_dump(content))
    home = folder_in_memory("fleet")
    made = Fleet("test", "10.99.0.0/24", home, pillar)
    made.save()
    for machine in ("redis1", "proxy1"):
        folder = made.machines_dir / machine
        folder.mkdir(parents=True)
        (folder / "machine.json").write_text(json.dumps({"address": "127.0.0.1"}))
    kept = secrets.ensure(made)
    kept["admin"]["write"] = WRITE
    made.secrets_file.write_text(json.dumps(kept))
    stand.client.acl_setuser("admin", enabled=True, passwords=[f"+{kept['redis']['admin']}"], keys="*",
                             channels="*", categories=["+@all"])  # fmt: skip
    yield made
    shutil.rmtree(home)


def runner(name: str, fleet: Fleet) -> ModuleType:
    """A runner as Salt's loader makes it."""
    spec = importlib.util.spec_from_file_location(f"runner_{name}", ROOT / f"salt/_runners/{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # What Salt's loader puts there.
    module.__opts__ = {"saltern_state_dir": str(fleet.state_dir)}  # type: ignore[attr-defined]
    module.__context__ = {}  # type: ignore[attr-defined]
    return module


def test_every_runner_function_says_how_it_is_called(fleet: Fleet) -> None:
    names = sorted(file.stem for file in (ROOT / "salt/_runners").glob("*.py"))
    assert {"canary", "fleet", "journal"} <= set(names)
    for name in names:
        module = runner(name, fleet)
        name = getattr(module, "__virtualname__", name)
        for word, each in vars(module).items():
            if callable(each) and not word.startswith("_") and each.__module__ == module.__name__:
                assert f"salt-run {name}.{word.rstrip('_')}" in (each.__doc__ or ""), word


def test_the_fleet_is_shown_as_wanted_and_as_seen(stand: Stand, fleet: Fleet) -> None:
    status = runner("fleet", fleet).status
    shown = until(lambda: (s := status())["instances"]["staging1"]["phase"] == "ready" and s, "news")
    assert json.loads(json.dumps(shown)) == shown
    row = shown["instances"]["staging1"]
    assert (row["pool"], row["release"], row["want"], row["health"]) == ("canary", "r2", "ready", "up")
    assert (shown["canary"]["share"], shown["canary"]["effective_share"]) == (30, 30)
    assert shown["problems"] == []
    stand.controller.end(signal.SIGKILL)
    stand.client.delete("saltern:observed")
    shown = status()
    assert {row["health"] for row in shown["instances"].values()} == {"unknown"}
    assert "unknown" in shown["problems"][0]


def test_the_canary_is_steered(stand: Stand, fleet: Fleet) -> None:
    canary = runner("canary", fleet)
    assert canary.share(45, cause="3-0")["before"] == {"share": 30}
    stand.await_share(45)
    assert canary.off("slow")["changed"] is True
    stand.await_share(0)
    assert canary.status()["latch"]["reason"] == "slow"
    assert canary.status()["latch"]["by"] == "salt-run"
    assert canary.on("fixed")["changed"] is True
    stand.await_share(45)
    for share in (130, -1, "x", None, "*", 1.5):
        refusal = canary.share(share)
        assert "is not between 0 and 100" in refusal["error"] and refusal["retcode"] == 1
    assert "reason" in canary.off("")["error"]
    assert "reason" in canary.off("a\nb")["error"]


def test_a_release_is_taken_through_its_steps_by_hand(stand: Stand, fleet: Fleet) -> None:
    canary = runner("canary", fleet)
    assert canary.status()["steps"] == {"phase": "idle"}
    assert (
        canary.pause()["error"] == "canary.pause: no release is under way; salt-run canary.start begins one"
    )
    assert canary.start("r9")["error"] == "canary.start: the canary runs r2, not r9"
    started = canary.start(by="jo", cause="3-0")
    assert (started["changed"], started["phase"], started["release"], started["share"]) == (
        True,
        "stepping",
        "r2",
        5,
    )
    stand.await_share(5)
    assert canary.start()["changed"] is False
    paused = canary.pause("until noon")
    assert (paused["phase"], paused["reason"], paused["question"]) == ("paused", "until noon", 1)
    assert canary.status()["steps"]["reason"] == "until noon"
    assert "not one printable line" in canary.pause("a\nb")["error"]
    assert "question 7 is closed; open is 1" in canary.resume(question=7)["error"]
    assert canary.resume(question=1)["phase"] == "stepping"
    assert canary.promote("r9")["error"] == "canary.promote r9: not possible, r2 is stepping"
    assert canary.promote("Not A Release")["retcode"] == 1
    assert canary.promote("r2")["phase"] == "promoted"
    aborted = canary.abort("wrong prices")
    assert (aborted["phase"], aborted["share"], aborted["reason"]) == ("aborted", 0, "wrong prices")
    stand.await_share(0)
    assert canary.start()["error"].startswith("canary.start: the canary is off (r2 is aborted: wrong prices)")
    canary.on()
    assert canary.start()["error"] == "canary.start: r2 was aborted; build a new release"
    assert canary.judge(share=30)["error"].startswith("canary.judge: nothing is kept from the step at 30 %")
    assert "is not between 0 and 100" in canary.judge(share="x")["error"]


def test_the_canary_is_turned_off_by_the_proxy_when_redis_is_away(stand: Stand, fleet: Fleet) -> None:
    canary = runner("canary", fleet)
    stand.redis.end(signal.SIGKILL)
    told = canary.off("breach on staging1", by="reactor")
    assert stand.share() == 0
    assert (told["proxy1"]["status"], told["proxy1"]["accepted"]) == (202, True)
    assert told["redis"].startswith("redis: ")
    assert canary.on()["retcode"] == 1
    stand.start_redis()
    until(lambda: stand.client.exists("saltern:latch:canary"), "the latch in the registry")
    assert stand.registry.snapshot().latches["canary"].reason == "reactor: breach on staging1"


def test_a_canary_that_could_not_be_turned_off_at_all_is_an_error(
    stand: Stand, api: AdminStand, fleet: Fleet
) -> None:
    canary = runner("canary", fleet)
    stand.redis.end(signal.SIGKILL)
    api.process.end()
    refusal = canary.off("breach")
    assert refusal["retcode"] == 1
    assert refusal["error"].startswith("canary: it may still be on; redis: ")
    assert "proxy1: the admin API does not answer" in refusal["error"]


def test_the_canary_is_judged_on_what_the_controller_recorded(
    stand: Stand, fleet: Fleet, tmp_path: Path
) -> None:
    canary = runner("canary", fleet)
    assert "no such threshold" in canary.judge(tolerence=1.2)["error"]
    for seconds in (0, "x", True, 10**6):
        assert "seconds" in canary.judge(seconds)["error"]

    def recorded() -> list[int]:
        rows = [json.loads(fields["data"])["pools"] for _, fields in stand.client.xrange("saltern:windows")]
        return [row["canary"]["requests"] for row in rows]

    with stand.loading(4):
        until(lambda: len(recorded()) >= 4 and sum(recorded()) > 150, "four seconds of traffic recorded")
    file = tmp_path / "window.json"
    verdict = canary.judge(600, save=str(file), min_requests=100, min_samples=2)
    assert json.loads(json.dumps(verdict)) == verdict
    assert verdict["metrics"]["errors"]["verdict"] == "pass"
    assert verdict["window"]["canary"]["requests"] > 100
    # No machine told its own samples, and what is missing never passes.
    assert verdict["metrics"]["cpu"]["verdict"] == verdict["verdict"] == "hold"
    record = judge.Record.from_json(file.read_text())
    assert record.thresholds.min_requests == 100
    assert judge.judge(record.canary, record.baseline, record.thresholds).verdict == "hold"


def test_an_instance_is_taken_out_and_put_back_and_the_runner_waits_for_it(
    stand: Stand, fleet: Fleet
) -> None:
    run = runner("fleet", fleet)
    stand.add("prod2")
    stand.await_up("prod2")
    for function, phase in ((run.drain, "idle"), (run.maint, "maint"), (run.ready, "ready")):
        done = function("prod1", wait=PATIENCE)
        assert (done["changed"], done["instance"]["phase"], done["cut"]) == (True, phase, []), done
    assert run.ready("prod1", wait=PATIENCE)["changed"] is False
    assert run.drain("prod1")["after"] == {"want": "drain", "limit_s": None, "force": False}


def test_what_a_drain_cuts_is_told(stand: Stand, fleet: Fleet) -> None:
    run = runner("fleet", fleet)
    stand.add("prod2")
    stand.await_up("prod2")
    with socket.create_connection(("127.0.0.1", stand.port), PATIENCE) as link:
        link.sendall(b"GET /upgrade HTTP/1.1\r\nHost: x\r\nX-Saltern-Canary: never\r\n"
                     b"Connection: Upgrade\r\nUpgrade: echo\r\n\r\n")  # fmt: skip
        assert b"101" in link.recv(4096)

        def holder() -> str:
            rows = run.status()["instances"]
            return next((id_ for id_ in ("prod1", "prod2") if rows[id_]["sessions"] == 1), "")

        id_ = until(holder, "the websocket counted")
        run.drain(id_, limit=300)
        until(lambda: run.status()["instances"][id_]["phase"] == "draining", "the drain seen")
        slow = run.drain(id_, limit=300, wait=0.5)
        assert slow == {"error": f"{id_} is not idle after 0.5 s: draining, 1 requests open", "retcode": 1}
        [cut] = run.drain(id_, limit=0.2, wait=PATIENCE)["cut"]
    assert cut["sessions"] == 1
    assert [each["source"].partition(":")[0] for each in cut["requests"]] == ["127.0.0.1"]


def test_the_last_live_server_stays_unless_a_person_forces_it(stand: Stand, fleet: Fleet) -> None:
    run = runner("fleet", fleet)
    refusal = run.drain("prod1", wait=PATIENCE)
    assert "last live production server" in refusal["error"] and "force=True" in refusal["error"]
    assert stand.get().status == 200
    assert run.drain("prod1", force=True, wait=PATIENCE)["instance"]["phase"] == "idle"
    assert run.ready("prod1", wait=PATIENCE)["instance"]["phase"] == "ready"


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"machine": "prod9"}, "prod9"),
        ({"machine": "*"}, "* is not registered"),
        ({"machine": "prod1", "limit": -1}, "limit"),
        ({"machine": "prod1", "limit": "soon"}, "limit"),
        ({"machine": "prod1", "wait": "long"}, "wait 'long'"),
        ({"machine": "prod1", "wait": 10**6}, "wait 1000000"),
    ],
)
def test_a_drain_that_makes_no_sense_is_refused(
    stand: Stand, fleet: Fleet, arguments: dict[str, object], fault: str
) -> None:
    refusal = runner("fleet", fleet).drain(**arguments)
    assert refusal["retcode"] == 1
    assert fault in refusal["error"]
    assert stand.registry.snapshot().instances["prod1"].want == "ready"
