"""Reflexes: real minions send events, the real master reacts, and the registry in a real Redis shows the outcome."""

from __future__ import annotations

import json
import time

import pytest
from host import end_reactor
from saltern import secrets, signing
from saltern.fleet import REPOSITORY
from saltern.registry import Registry

PRESENT = "saltern/instance/{}/present"
INSTANCE = {"port": "8080", "release": "r0123456789ab"}


@pytest.fixture
def signed(fleet):
    """A payload a machine signed for its own tag; each thing about it may be changed."""

    def make(machine="prod1", values=INSTANCE, tag=None, by=None, counter=None):
        key = secrets.event_key(secrets.load(fleet)["events"], by or machine)
        return signing.sign(key, machine, tag or PRESENT.format(machine), dict(values), counter)

    return make


@pytest.fixture
def registry(registry_empty):
    """The registry, empty at first."""
    return Registry(registry_empty)


def test_a_signed_word_registers_an_instance_at_the_address_the_master_knows(minions, bus, registry, signed):
    minions.says("prod1", PRESENT.format("prod1"), signed(values={**INSTANCE}))
    (reaction,) = bus.reactions()
    assert reaction["success"], reaction["return"]
    assert reaction["return"]["instance"] == "prod1"
    instance = registry.snapshot().instances["prod1"]
    assert (instance.pool, instance.addr, instance.port, instance.release, instance.want) == (
        "prod", "10.99.0.13", 8080, "r0123456789ab", "ready",
    )  # fmt: skip


def test_a_staging_machine_joins_the_canary_and_a_new_release_replaces_the_old(
    minions, bus, registry, signed
):
    for release in ("r1", "r2"):
        minions.says(
            "staging1", PRESENT.format("staging1"), signed("staging1", {**INSTANCE, "release": release})
        )
        assert bus.reactions()[0]["success"]
        assert registry.snapshot().instances["staging1"].release == release
    assert registry.snapshot().instances["staging1"].pool == "canary"


def test_the_same_word_again_is_rejected_and_changes_nothing(minions, bus, registry, signed):
    payload = signed()
    minions.says("prod1", PRESENT.format("prod1"), payload)
    assert bus.reactions()[0]["success"]
    before = registry.snapshot()
    minions.says("prod1", PRESENT.format("prod1"), payload)
    older = signed(values={**INSTANCE, "release": "r0old"}, counter=payload["counter"] - 1)
    minions.says("prod1", PRESENT.format("prod1"), older)
    for reaction in bus.reactions(2):
        assert not reaction["success"]
        assert "was used before" in reaction["return"]["error"]
        assert "\n" not in reaction["return"]["error"]
    assert registry.snapshot() == before


TEMPLATE = "{{ salt['cmd.run']('touch /tmp/saltern-was-here') }}{% raise %}"
YAML = "x\n    - tgt: '*'\n  local.cmd.run:\n    - arg: ['reboot']\n!!python/object/apply:os.system ['true']"


@pytest.mark.parametrize(
    ("sender", "tag", "about", "words"),
    [
        ("staging1", PRESENT.format("prod1"), {}, "signature is wrong"),
        ("staging1", PRESENT.format("prod1"), {"machine": "staging1", "tag": PRESENT.format("prod1")}, "not its own"),
        ("staging1", PRESENT.format("prod1"), {"by": "staging1"}, "it speaks for 'prod1'"),
        ("prod1", PRESENT.format("prod1"), {"by": "staging1"}, "signature is wrong"),
        ("prod1", PRESENT.format("prod1"), {"tag": "saltern/instance/prod1/absent"}, "signature is wrong"),
        ("prod1", PRESENT.format("prod1"), {"values": {}}, "says something else than"),
        ("prod1", PRESENT.format("prod1"), {"values": {**INSTANCE, "addr": "10.0.0.66"}}, "says something else than"),
        ("prod1", PRESENT.format("prod1"), {"values": {**INSTANCE, "port": "0"}}, "port 0 is not between 1 and 65535"),
        ("prod1", PRESENT.format("prod1"), {"values": {**INSTANCE, "port": "x"}}, "port x is not between 1 and 65535"),
        ("prod1", PRESENT.format("prod1"), {"values": {**INSTANCE, "port": None}}, "port None is not between"),
        ("prod1", PRESENT.format("prod1"), {"values": {**INSTANCE, "port": [1]}}, "is not between 1 and 65535"),
        ("prod1", PRESENT.format("prod1"), {"values": {**INSTANCE, "release": "../../etc"}}, "is not a release id"),
        ("prod1", PRESENT.format("prod1"), {"values": {**INSTANCE, "release": TEMPLATE}}, "is not a release id"),
        ("prod1", PRESENT.format("prod1"), {"values": {**INSTANCE, "release": YAML}}, "is not a release id"),
        ("prod1", PRESENT.format("prod1"), {"values": {**INSTANCE, "release": "r1\n"}}, "is not a release id"),
        ("prod1", PRESENT.format("prod1"), {"values": {TEMPLATE: YAML}}, "says something else than"),
        ("ops1", PRESENT.format("ops1"), {"machine": "ops1"}, "it is no instance"),
        ("prod1", "saltern/instance/*/present", {"tag": "saltern/instance/*/present"}, "the tag is not its own"),
        ("prod1", PRESENT.format(TEMPLATE), {"tag": PRESENT.format(TEMPLATE)}, "not its own"),
    ],
)  # fmt: skip
def test_a_forged_word_changes_nothing_and_is_rejected_in_one_line(
    minions, bus, registry, signed, sender, tag, about, words
):
    minions.says(sender, tag, signed(**about))
    (reaction,) = bus.reactions()
    assert not reaction["success"]
    assert words in reaction["return"]["error"]
    assert "\n" not in reaction["return"]["error"]
    assert registry.snapshot().revision == 0
    assert registry.client.keys("saltern:instance*") == []


@pytest.mark.parametrize(
    "payload",
    [
        None,
        "",
        TEMPLATE,
        YAML,
        3.5,
        [],
        [TEMPLATE],
        {"machine": "prod1"},
        {TEMPLATE: YAML},
        {"machine": TEMPLATE, "counter": YAML, "values": TEMPLATE, "signature": YAML},
        {"machine": "prod1", "counter": 10**18, "values": {"port": "8080"}, "signature": "\u2028\x00"},
        {"values": json.loads("[" * 200 + "]" * 200)},
    ],
    ids=repr,
)
def test_junk_changes_nothing_and_the_master_goes_on_reacting(minions, bus, registry, signed, payload):
    minions.says("prod1", PRESENT.format("prod1"), payload)
    # Whatever became of the junk, what is said after it is heard.
    minions.says("staging1", PRESENT.format("staging1"), signed("staging1"))
    bus.wait_for(
        lambda tag, data: data.get("success") is True and data.get("fun") == "runner.registry.register"
    )
    assert list(registry.snapshot().instances) == ["staging1"]


def test_nothing_hostile_was_run():
    """What the templates above would have left behind."""
    from pathlib import Path

    assert not Path("/tmp/saltern-was-here").exists()


def test_a_machine_is_struck_off_only_once_it_is_gone(minions, bus, registry, signed, fleet, make_machine):
    make_machine(fleet, "prod7", "10.99.0.27")
    for name, address in (("prod1", "10.99.0.13"), ("prod7", "10.99.0.27")):
        registry.register(name, addr=address, port=8080, release="r1", pool="prod")
    before = registry.snapshot()
    # An accepted minion says that another machine was destroyed: it is still there.
    minions.says("staging1", "salt/cloud/prod7/destroyed", {"name": "prod7", "instance_id": "prod7"})
    (reaction,) = bus.reactions()
    assert not reaction["success"]
    assert "prod7 is still there; `salt-cloud -d prod7` ends it first" in reaction["return"]["error"]
    assert registry.snapshot() == before
    (fleet.machines_dir / "prod7" / "machine.json").unlink()
    minions.says("staging1", "salt/cloud/prod7/destroyed", {"name": "prod7"})
    (reaction,) = bus.reactions()
    assert reaction["success"], reaction["return"]
    assert list(registry.snapshot().instances) == ["prod1"]


@pytest.mark.parametrize("name", ["*", "prod*", "nonsense", TEMPLATE.replace("/", ""), "prod1,prod2", ""])
def test_what_is_no_machine_is_never_struck_off(minions, bus, registry, name):
    registry.register("prod1", addr="10.99.0.13", port=8080, release="r1", pool="prod")
    before = registry.snapshot()
    minions.says("staging1", f"salt/cloud/{name}/destroyed", {})
    (reaction,) = bus.reactions()
    assert not reaction["success"]
    assert "is not a machine's id" in reaction["return"]["error"]
    assert registry.snapshot() == before


def test_a_registry_that_cannot_be_reached_is_said_in_one_line(minions, bus, registry, redis_server, signed):
    redis_server.stop()
    try:
        minions.says("prod1", PRESENT.format("prod1"), signed())
        (reaction,) = bus.reactions()
    finally:
        redis_server.start()
    assert not reaction["success"]
    assert "redis: " in reaction["return"]["error"]
    assert "\n" not in reaction["return"]["error"]


# How reactions are rendered: no field of an event becomes anything but a value ----------------------------------


@pytest.fixture(scope="module")
def render(salt):
    """Render a reaction as the master's reactor does."""
    from salt.utils.reactor import Reactor

    # It fetches files for itself by a client that has to be ended.
    reactor = Reactor(dict(salt.config))

    def of(name: str, tag: str, data: dict) -> list[dict]:
        return reactor.reactions(tag, data, [str(REPOSITORY / "reactor" / name)])

    yield of
    end_reactor(reactor)


def test_a_machine_that_came_up_is_configured_and_no_other(render):
    (chunk,) = render("minion_start.sls", "salt/minion/prod1/start", {"id": "prod1", "data": {}})
    assert (chunk["state"], chunk["fun"]) == ("local", "state.apply")
    assert (chunk["tgt"], chunk["tgt_type"], chunk["kwarg"]) == (["prod1"], "list", {"queue": True})


@pytest.mark.parametrize(
    "text", [TEMPLATE, YAML, "*", "a: b", "'", '"', "- x", "#", "null", "1", "true", "\\", "é\u2028"]
)
def test_no_field_of_an_event_is_more_than_a_value(render, text):
    (chunk,) = render("minion_start.sls", f"salt/minion/{text}/start", {"id": text, "data": {text: text}})
    assert chunk["tgt"] == [text]
    tag, data = f"saltern/instance/{text}/present", {"id": text, "data": {text: [text, {text: text}]}}
    (chunk,) = render("instance_present.sls", tag, data)
    arguments = {key: value for each in chunk["args"] for key, value in each.items()}
    assert arguments == {"tag": tag, "minion_id": text, "payload": data["data"]}
    (chunk,) = render("machine_destroyed.sls", f"salt/cloud/{text}/destroyed", {})
    assert chunk["args"] == [{"minion_id": text.split("/")[0]}]


@pytest.mark.parametrize(
    "name", ["instance_present", "scale_out", "scale_in", "scale_up", "alert", "canary_off"]
)
def test_a_signed_payload_arrives_as_it_was_sent(render, signed, name):
    """YAML would read 1e16 as a text, and take some characters for ends of lines."""
    payload = signed(values={"text": "é \u2028 \U0001f600", "count": 10**15, "load": 1e16, "little": 1e-05})
    # A beacon's event is its payload; another's carries it.
    data = {"id": "prod1", **payload} if name in ("alert", "canary_off") else {"id": "prod1", "data": payload}
    (chunk,) = render(f"{name}.sls", "some/tag", data)
    arguments = {key: value for each in chunk["args"] for key, value in each.items()}
    assert arguments == {"tag": "some/tag", "minion_id": "prod1", "payload": data.get("data", data)}


def test_every_word_is_reacted_to_once(minions, bus, registry, signed):
    begun = time.time_ns()
    for number in range(5):
        minions.says("prod1", PRESENT.format("prod1"), signed(counter=begun + number))
    reactions = bus.reactions(5)
    assert all(reaction["fun"] == "runner.registry.register" for reaction in reactions)
    # They may overtake each other, and an older one then counts for nothing; the first to come changes the registry.
    assert any(reaction["success"] for reaction in reactions)
    assert registry.snapshot().revision == 1
