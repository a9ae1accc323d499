"""Builds: what a machine says of one, through the real reactor and runner, to the conductor's queue in a real Redis."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml
from saltern import secrets, signing
from saltern.builds import BUILDS
from saltern.intents import Queue

RELEASE, SHA256 = f"r{'c' * 12}", "c" * 64
SAID = {
    "build": "20261121-071523-abcdef1", "result": "passed", "ref": "refs/heads/staging", "commit": "a" * 40,
    "release": RELEASE, "sha256": SHA256, "size": 1000, "platform": "any", "author": "Ada <ada@fleet.test>",
    "pusher": "clone", "why": "",
}  # fmt: skip
TEMPLATE = "{{ salt['cmd.run']('touch /tmp/saltern-was-here') }}{% raise %}"


@pytest.fixture
def says(fleet, salt):
    """Put what a beacon of ops1 says on the bus; each thing about it may be changed."""
    from salt.utils.event import get_event

    def say(by="ops1", machine="ops1", **changes):
        values = {**SAID, **changes}
        tag = f"salt/beacon/{machine}/build/{values['result']}"
        key = secrets.event_key(secrets.load(fleet)["events"], by)
        data = {**signing.sign(key, machine, tag, values), "id": machine}
        with get_event(
            "master", sock_dir=salt.config["sock_dir"], opts=dict(salt.config), listen=False
        ) as bus:
            assert bus.fire_event(data, tag)

    return say


def test_a_signed_word_that_a_build_passed_is_written_down_and_its_artifact_queued_to_be_fetched(
    minions, bus, registry_empty, says
):
    says()
    (reaction,) = bus.reactions(runner="build")
    assert reaction["success"], reaction["return"]
    assert reaction["return"]["target"] == "canary"
    (intent,) = Queue(registry_empty).unfinished()
    assert (intent.kind, intent.args["release"], intent.args["target"]) == ("fetch", RELEASE, "canary")
    assert intent.by == "ops1"
    assert json.loads(registry_empty.hget(BUILDS, SAID["build"]))["author"] == "Ada <ada@fleet.test>"


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"by": "prod1"}, "signature is wrong"),
        ({"ref": f"refs/heads/{TEMPLATE}"}, "not a name that is taken here"),
        ({"ref": "refs/heads/{{ x }}"}, "not a name that is taken here"),
        ({"release": TEMPLATE}, "release"),
        ({"author": "a\nb"}, "author is not one printable line"),
        ({"sha256": "b" * 64}, "is not that of"),
    ],
)
def test_a_forged_word_queues_nothing_and_is_rejected_in_one_line(
    minions, bus, registry_empty, says, about, words
):
    says(**about)
    (reaction,) = bus.reactions(runner="build")
    assert not reaction["success"]
    assert words in reaction["return"]["error"]
    assert "\n" not in reaction["return"]["error"]
    assert Queue(registry_empty).unfinished() == []
    assert not registry_empty.hgetall(BUILDS)


@pytest.fixture
def outbox(minions, shipped_pillar, home, bus):
    """The folder that ops1's beacon looks into, for as long as the test lasts."""
    path, folder = shipped_pillar / "beacons.sls", home / "outbox"
    before = path.read_text()
    folder.mkdir()
    values = yaml.safe_load(before)
    unfelt = {name: [{"high": 100}, {"for": 3600}] for name in ("cpu", "memory")}
    values["beacons"] = {"enabled": True, **unfelt, "build": [{"outbox": str(folder)}, {"again": 2}]}
    path.write_text(yaml.safe_dump(values))
    for kind in ("utils", "beacons"):
        minions.call("ops1", f"saltutil.sync_{kind}")
    assert minions.call("ops1", "saltutil.refresh_pillar", wait=True) is True
    yield folder
    shutil.rmtree(folder)
    path.write_text(before)
    assert minions.call("ops1", "saltutil.refresh_pillar", wait=True) is True


def test_the_beacon_tells_what_the_worker_left_until_it_is_taken_away(minions, bus, registry_empty, outbox):
    tag = "salt/beacon/ops1/build/{}"
    (outbox / "nonsense.json").write_text("{")
    (outbox / "20261121-000000-abcdef1.json").write_text("[]")
    path = outbox / f"{SAID['build']}.json"
    path.write_text(json.dumps(SAID))
    (reaction,) = bus.reactions(runner="build")
    assert reaction["success"], reaction["return"]
    assert reaction["return"]["result"] == "passed"
    # Nobody took it away: it is said again, and causes nothing more.
    (again,) = bus.reactions(runner="build")
    assert again["return"]["again"] is True
    assert len(Queue(registry_empty).unfinished()) == 1
    path.unlink()
    nothing = {"release": "", "sha256": "", "size": 0, "platform": "", "why": "test: 1 of 9 tests failed"}
    other = {**SAID, **nothing, "build": "20261121-071524-abcdef1", "result": "failed"}
    (outbox / f"{other['build']}.json").write_text(json.dumps(other))
    bus.wait_for(lambda found, data: found == tag.format("failed"))
    assert json.loads(registry_empty.hget(BUILDS, SAID["build"]))["result"] == "passed"


def test_a_hostile_author_is_a_text_and_nothing_more(minions, bus, registry_empty, says):
    says(author=TEMPLATE)
    (reaction,) = bus.reactions(runner="build")
    assert reaction["success"], reaction["return"]
    assert json.loads(registry_empty.hget(BUILDS, SAID["build"]))["author"] == TEMPLATE


def test_every_function_of_the_runner_shows_how_it_is_called(run_in):
    done = run_in("salt-run", "-d", "build")
    for name in ("deliver", "list", "show", "log", "cancel"):
        assert f"build.{name}:" in done.stdout, done.stdout
        assert f"salt-run build.{name}" in done.stdout
