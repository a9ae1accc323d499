"""From a signed word of ops1 to a release that is fetched, kept and asked to be rolled out: over a real Redis."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from host import until
from pipeline_stand import QUICK, PipelineStand
from redis_stand import RedisStand
from saltern import artifact, delivery, events, provisioning, secrets, signing
from saltern.alert_store import AlertStore
from saltern.builds import BUILDS
from saltern.errors import SalternError
from saltern.fleet import Fleet
from saltern.intents import Intent, Queue
from saltern.pipeline.records import Build
from saltern.provisioning import Refused, Work
from saltern.registry import JOURNAL, Registry

OPS = "127.99.0.21"
CONTENT = artifact.archive({"thing/__init__.py": b"answer = 42\n"})
SHA256 = hashlib.sha256(CONTENT).hexdigest()
RELEASE = f"r{SHA256[:12]}"
SAID = {
    "build": "20261121-071523-abcdef1", "result": "passed", "ref": "refs/heads/staging", "commit": "a" * 40,
    "release": RELEASE, "sha256": SHA256, "size": len(CONTENT), "platform": "any", "author": "Ada <ada@fleet.test>",
    "pusher": "clone", "why": "",
}  # fmt: skip


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """What is asked is no news."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """What ops1 serves, and the port."""
    folder = tmp_path_factory.mktemp("ops1")
    (folder / "artifacts").mkdir()
    server = http.server.ThreadingHTTPServer((OPS, 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, server.server_port
    server.shutdown()
    server.server_close()


@pytest.fixture
def fleet(redis_fleet: RedisStand, served: tuple[Path, int], make_machine: Callable[..., Any]) -> Fleet:
    """A fleet with an ops1 that serves the artifact."""
    folder, port = served
    path = redis_fleet.fleet.pillar_dir / "pipeline.sls"
    values = yaml.safe_load(path.read_text())
    values["pipeline"]["port"] = port
    path.write_text(yaml.safe_dump(values))
    make_machine(redis_fleet.fleet, "ops1", OPS)
    (folder / "artifacts" / f"{RELEASE}.tar.gz").write_bytes(CONTENT)
    (redis_fleet.fleet.files / "artifacts" / f"{RELEASE}.tar.gz").unlink(missing_ok=True)
    redis_fleet.client().flushall()
    return redis_fleet.fleet


@pytest.fixture
def client(redis_fleet: RedisStand) -> redis.Redis:
    return redis_fleet.client()


def word(
    fleet: Fleet, by: str = "", machine: str = "ops1", **changes: Any
) -> tuple[str, str, dict[str, Any]]:
    """Tag, sender and payload of what a build machine says."""
    values = {**SAID, **changes}
    tag = f"salt/beacon/{machine}/build/{values['result']}"
    key = secrets.event_key(secrets.load(fleet)["events"], by or machine)
    return tag, machine, {**signing.sign(key, machine, tag, values), "id": machine}


def intents(client: redis.Redis) -> list[Intent]:
    return [intent for intent in Queue(client).unfinished() if intent.kind == delivery.KIND]


def journal(client: redis.Redis) -> list[str]:
    return [line["kind"] for _, line in client.xrange(JOURNAL)]


def carry_out(fleet: Fleet, client: redis.Redis, intent: Intent, fired: list[Any]) -> dict[str, Any]:
    """Do what the conductor does for one intent."""
    queue = Queue(client)
    intent = queue.begin(intent.id)
    work = Work(
        intent=intent, world=provisioning.SaltCloud(fleet), registry=Registry(client), client=client, limits=None,
        fire=lambda tag, data: fired.append((tag, data)), alarm=None, stopping=lambda: False, facts=dict(intent.steps),
    )  # fmt: skip
    for name, act in delivery.kinds(fleet)[intent.kind].steps:
        work.facts[name] = queue.record(intent.id, name, act(work))
    return work.facts


def test_what_passed_on_staging_is_fetched_kept_and_rolled_out_to_the_canary(fleet, client):
    answer = delivery.deliver(fleet, *word(fleet))
    assert (answer["result"], answer["target"]) == ("passed", "canary")
    assert json.loads(client.hget(BUILDS, SAID["build"]))["release"] == RELEASE
    (intent,) = intents(client)
    fired: list[Any] = []
    facts = carry_out(fleet, client, intent, fired)
    assert facts["fetch"] == {"release": RELEASE, "bytes": len(CONTENT), "fetched": True}
    assert (fleet.files / f"artifacts/{RELEASE}.tar.gz").read_bytes() == CONTENT
    assert artifact.known(fleet)[RELEASE].sha256 == SHA256
    kept = artifact.kept(fleet)[RELEASE]
    assert (kept.branch, kept.commit, kept.author) == ("staging", "a" * 40, "Ada <ada@fleet.test>")
    rollout = Queue(client).load(facts["roll"]["rollout"])
    assert (rollout.kind, rollout.pool, rollout.args["release"]) == ("deploy", "canary", RELEASE)
    assert rollout.by == "Ada <ada@fleet.test>"
    # From the rollout back to what ops1 said: each names what caused it.
    lines = dict(client.xrange(JOURNAL))
    said = next(line for line in lines.values() if line["kind"] == "build.passed")
    assert said["cause"].startswith("salt/beacon/ops1/build/passed ")
    assert lines[lines[intent.journal]["cause"]] == said
    assert rollout.cause == intent.journal
    assert [tag for tag, _ in fired] == ["saltern/build/passed"]
    assert json.loads(client.hget(BUILDS, SAID["build"]))["rollout"] == rollout.id


def test_what_is_kept_goes_into_the_bucket_too_and_one_that_is_away_holds_up_no_deploy(fleet, client):
    path = fleet.pillar_dir / "pipeline.sls"
    values = yaml.safe_load(path.read_text())
    away = {"name": "artifacts", "endpoint": "http://127.0.0.1:9", "region": "us-east-1"}
    values["pipeline"]["bucket"].update(away)
    path.write_text(yaml.safe_dump(values))
    delivery.deliver(fleet, *word(fleet))
    facts = carry_out(fleet, client, intents(client)[0], [])
    assert facts["roll"]["rollout"] and RELEASE in artifact.known(fleet)
    (upload,) = (intent for intent in Queue(client).unfinished() if intent.kind == delivery.UPLOAD)
    assert (upload.pool, upload.args) == (
        "bucket", {"release": RELEASE, "sha256": SHA256, "platform": "any"},
    )  # fmt: skip
    assert upload.pool != intents(client)[0].pool
    assert facts["keep"] == {"kept": RELEASE, "forgotten": []}
    with pytest.raises(SalternError, match=f"bucket artifacts: {RELEASE}"):
        carry_out(fleet, client, upload, [])


@pytest.mark.parametrize(
    ("ref", "target", "queued"),
    [
        ("refs/heads/production", "prod", True),
        ("refs/heads/release", "prod", True),
        ("refs/heads/dev", "canary", True),
        ("refs/heads/feature/x", "", False),
        ("refs/tags/v1.0", "", True),
    ],
)
def test_the_pillar_says_where_a_branch_goes_and_a_tag_is_kept_and_goes_nowhere(
    fleet, client, ref, target, queued
):
    assert delivery.deliver(fleet, *word(fleet, ref=ref))["target"] == target
    assert len(intents(client)) == queued
    for intent in intents(client):
        facts = carry_out(fleet, client, intent, [])
        assert RELEASE in artifact.known(fleet)
        assert bool(facts["roll"]["rollout"]) == bool(target)


@pytest.mark.parametrize("result", ["queued", "failed", "cancelled"])
def test_what_did_not_pass_is_written_down_and_deploys_nothing(fleet, client, result):
    nothing = {"release": "", "sha256": "", "size": 0, "platform": "", "why": "test: 1 of 9 failed"}
    delivery.deliver(fleet, *word(fleet, result=result, **nothing))
    assert json.loads(client.hget(BUILDS, SAID["build"]))["result"] == result
    assert f"build.{result}" in journal(client)
    assert intents(client) == []


def test_what_is_said_again_until_it_is_confirmed_causes_one_thing(fleet, client):
    first = delivery.deliver(fleet, *word(fleet))
    assert "again" not in first
    for _ in range(3):
        assert delivery.deliver(fleet, *word(fleet))["again"] is True
    # A word that was overtaken is no news either.
    assert delivery.deliver(fleet, *word(fleet, result="queued"))["again"] is True
    assert len(intents(client)) == 1
    assert journal(client).count("build.passed") == 1


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"by": "prod1"}, "signature is wrong"),
        ({"machine": "prod1"}, "no word of a build machine"),
        ({"ref": "refs/heads/{{ x }}"}, "branch '{{ x }}'"),
        ({"sha256": "b" * 64}, "is not that of"),
        ({"more": "x"}, "it has"),
    ],
)
def test_a_forged_word_queues_nothing_and_raises_an_alert(fleet, client, about, words):
    with pytest.raises(events.Rejected) as rejected:
        delivery.deliver(fleet, *word(fleet, **about))
    assert words in str(rejected.value) and "\n" not in str(rejected.value)
    assert intents(client) == [] and not client.hgetall(BUILDS)
    assert [alert.name for alert in AlertStore(client).all()] == ["EventRejected"]


def test_a_word_for_another_result_than_its_tag_says_is_rejected(fleet, client):
    tag, machine, payload = word(fleet, result="failed", release="", sha256="", size=0, platform="")
    key = secrets.event_key(secrets.load(fleet)["events"], machine)
    passed = tag.replace("failed", "passed")
    forged = signing.sign(key, machine, passed, payload["values"])
    with pytest.raises(events.Rejected, match="no word of a build machine on failed"):
        delivery.deliver(fleet, passed, machine, forged)
    assert not client.hgetall(BUILDS)


def test_other_bytes_than_ops1_signed_are_not_kept(fleet, client, served):
    (served[0] / "artifacts" / f"{RELEASE}.tar.gz").write_bytes(CONTENT + b"x")
    delivery.deliver(fleet, *word(fleet))
    (intent,) = intents(client)
    with pytest.raises(SalternError, match=f"ops1 signed sha256 {SHA256} and serves "):
        carry_out(fleet, client, intent, [])
    assert not (fleet.files / f"artifacts/{RELEASE}.tar.gz").exists()


def test_an_ops1_that_does_not_answer_is_said_in_one_line_and_asked_again_later(fleet, client, served):
    (served[0] / "artifacts" / f"{RELEASE}.tar.gz").unlink()
    delivery.deliver(fleet, *word(fleet))
    (intent,) = intents(client)
    with pytest.raises(SalternError, match=rf"http://{OPS}:\d+/artifacts/{RELEASE}.tar.gz: HTTP Error 404"):
        carry_out(fleet, client, intent, [])
    (served[0] / "artifacts" / f"{RELEASE}.tar.gz").write_bytes(CONTENT)
    assert carry_out(fleet, client, intent, [])["roll"]["rollout"]


def test_in_a_freeze_window_it_is_kept_and_whoever_pushed_is_told_why_it_does_not_run(
    fleet, client, tmp_path
):
    path = fleet.pillar_dir / "rollout.sls"
    before = path.read_text()
    values = yaml.safe_load(before)
    days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
    values["rollout"]["freeze"] = [{"days": days, "reason": "stocktaking"}]
    path.write_text(yaml.safe_dump(values))
    try:
        delivery.deliver(fleet, *word(fleet))
        (intent,) = intents(client)
        with pytest.raises(Refused, match="nothing new is rolled now"):
            carry_out(fleet, client, intent, [])
    finally:
        path.write_text(before)
    assert RELEASE in artifact.known(fleet)
    assert "nothing new is rolled now" in json.loads(client.hget(BUILDS, SAID["build"]))["refused"]


# --- the worker's side: what it hears from Redis


def passed(stand: PipelineStand) -> Build:
    return until(lambda: (b := stand.builds()) and b[0].state == "passed" and b[0], "the build passed")


@pytest.fixture
def worker(
    fleet: Fleet, client: redis.Redis, redis_fleet: RedisStand, tmp_path: Path
) -> Iterator[PipelineStand]:
    """A worker that reads Redis as `observer`, which may write nothing, with one build that passed."""
    (tmp_path / "stand").mkdir()
    stand = PipelineStand(tmp_path / "stand")
    stand.configure(follow_s=0.1)
    stand.start(client=redis_fleet.client("observer"))
    stand.commit(QUICK)
    stand.push("staging").ended()
    passed(stand)
    yield stand
    stand.close()


def said_by(stand: PipelineStand) -> dict[str, Any]:
    (path,) = until(lambda: list(stand.records.outbox.glob("*.json")), "what the master shall hear")
    return json.loads(path.read_text())


def test_a_build_is_told_until_the_master_has_written_it_down(worker, fleet, client):
    said = said_by(worker)
    assert said["result"] == "passed"
    delivery.remember(client, {**said, "result": "queued"})
    time.sleep(1.2)
    assert said_by(worker) == said
    delivery.remember(client, said)
    until(lambda: not list(worker.records.outbox.iterdir()), "it is confirmed")


def test_a_pusher_is_shown_that_the_release_serves_once_the_whole_pool_has_it(worker, client):
    registry = Registry(client)
    registry.register("staging1", "10.0.0.1", 8080, "r0", "canary")
    time.sleep(0.8)
    assert worker.builds()[0].serving == "waiting"
    registry.register("staging1", "10.0.0.1", 8080, worker.builds()[0].release, "canary")
    build = until(lambda: (b := worker.builds()[0]).serving == "serving" and b, "it serves")
    assert build.stages[-1]["words"] == "serves on staging1"


def test_a_pusher_is_shown_why_the_release_does_not_serve(worker, client):
    said = said_by(worker)
    intent, _ = Queue(client).put(Intent("deploy", "canary", {"release": said["release"]}))
    Queue(client).begin(intent)
    Queue(client).finish(intent, "failed", {}, "staging1: /health answers 500")
    delivery.remember(client, {**said, "rollout": intent})
    build = until(lambda: (b := worker.builds()[0]).serving != "waiting" and b, "it is known")
    assert build.serving == "rollout failed: staging1: /health answers 500"
