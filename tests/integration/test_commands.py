"""Salt's own commands, run from the checkout with no flags, and what they say of mistakes."""

from __future__ import annotations

import json

import pytest
from openfeature_redis import flagset
from saltern.registry import Registry


def words(done) -> str:
    """All a command said."""
    return done.stdout + done.stderr


def test_salt_calls_the_fleets_minions(minions, run_in):
    done = run_in("salt", "--out=json", "--static", "-L", "prod1,ops1", "test.ping")
    assert done.returncode == 0, words(done)
    assert json.loads(done.stdout) == {"prod1": True, "ops1": True}


def test_minions_ask_nothing_of_each_other(minions):
    assert minions.call("prod1", "publish.publish", "ops1", "test.ping") == {}
    assert minions.call("prod1", "publish.runner", "registry.unregister", "ops1") == {}


def test_salt_key_lists_the_fleets_machines(minions, run_in):
    done = run_in("salt-key", "--out=json", "-L")
    assert done.returncode == 0, words(done)
    assert sorted(json.loads(done.stdout)["minions"]) == ["ops1", "prod1", "proxy1", "redis1", "staging1"]


def test_salt_run_explains_our_runners(minions, run_in):
    done = run_in("salt-run", "-d", "registry")
    assert done.returncode == 0, words(done)
    for name in ("register", "unregister"):
        assert f"salt-run registry.{name}" in done.stdout  # the CLI Example


def test_a_runner_acts_and_answers_data(minions, run_in, registry_empty):
    registry = Registry(registry_empty)
    registry.register("prod7", addr="10.99.0.27", port=8080, release="r1", pool="prod")
    registry.register("prod1", addr="10.99.0.13", port=8080, release="r1", pool="prod")
    done = run_in("salt-run", "--out=json", "registry.unregister", "prod7")
    assert done.returncode == 0, words(done)
    state = registry.snapshot()
    assert json.loads(done.stdout) == {"instance": "prod7", "revision": state.revision}
    assert list(state.instances) == ["prod1"]


def test_a_flag_is_set_by_a_word_listed_and_taken_back(minions, run_in, registry_empty):
    switch = {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "off"}
    flagset.write(registry_empty, {"flags": {"show_picture": switch}}, who="test", why="test")
    done = run_in("salt-run", "--out=json", "flags.set", "show_picture", "on", "why=launch day", "by=ana")
    assert done.returncode == 0, words(done)
    assert json.loads(done.stdout)["after"]["defaultVariant"] == "on"
    newest = json.loads(run_in("salt-run", "--out=json", "flags.history", "1").stdout)[0]
    assert (newest["who"], newest["why"], newest["changed"]) == ("ana", "launch day", ["show_picture"])
    assert json.loads(run_in("salt-run", "--out=json", "flags.undo").stdout)["changed"] == ["show_picture"]
    listed = json.loads(run_in("salt-run", "--out=json", "flags.list").stdout)
    assert listed["flags"]["show_picture"]["defaultVariant"] == "off"
    whole = json.dumps({**switch, "defaultVariant": "on"})
    done = run_in("salt-run", "--out=json", "flags.set", "beta", f"definition={whole}")
    assert json.loads(done.stdout)["changed"] is True, words(done)
    assert flagset.get_flag(registry_empty, "beta") == json.loads(whole)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["flags.set", "nope", "on"], "flags: there is no flag 'nope'; there are: none"),
        (["registry.unregister", "prod1"], "prod1 is still there; `salt-cloud -d prod1` ends it first"),
        (["registry.unregister", "web1"], "'web1' is not a machine's id"),
        (
            ["registry.register", "saltern/instance/prod1/present", "prod1", "{}"],
            "event 'saltern/instance/prod1/present' from prod1: payload is not signed",
        ),
        (
            ["registry.register", "saltern/instance/prod1/present", "*", "{}"],
            "event 'saltern/instance/prod1/present': '*' is not a machine's id",
        ),
    ],
)
def test_what_a_runner_refuses_is_one_line_and_exit_status_1(
    minions, run_in, registry_empty, arguments, line
):
    done = run_in("salt-run", "--out=json", *arguments)
    assert done.returncode == 1
    assert json.loads(done.stdout) == {"error": line, "retcode": 1}
    assert "Traceback" not in words(done)


def test_salt_cloud_knows_the_provider_and_its_sizes(minions, run_in):
    done = run_in("salt-cloud", "--out=json", "--list-providers")
    assert done.returncode == 0, words(done)
    assert "nspawn" in json.loads(done.stdout)["local"]
    done = run_in("salt-cloud", "--out=json", "--list-sizes", "local")
    assert done.returncode == 0, words(done)
    assert json.loads(done.stdout)["local"]["nspawn"]["medium"]["memory"] == 768


def test_salt_cloud_lists_the_machines(minions, run_in, fleet):
    done = run_in("salt-cloud", "--out=json", "-Q")
    assert done.returncode == 0, words(done)
    nodes = json.loads(done.stdout)["local"]["nspawn"]
    assert {name: node["private_ips"] for name, node in nodes.items()} == {
        name: [address] for name, address in fleet.addresses().items()
    }
    assert {node["state"] for node in nodes.values()} == {"stopped"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-p", "nonsense", "prod6"], "Profile nonsense is not defined"),
        (["-p", "prod", "web1"], "machine 'web1': not a role"),
        (["-y", "-a", "resize", "prod1", "memory=lots"], "resize: memory='lots' is not a number"),
        (["-y", "-a", "resize", "prod1", "memory=1"], "memory 1: not between 128 and 1048576 MiB"),
        (
            ["-y", "-a", "resize", "prod1", "ram=512"],
            "resize: ram: no such limit; say memory=MIB, cpus=NUMBER or both",
        ),
        (["-y", "-a", "resize", "prod1"], "resize: say memory=MIB, cpus=NUMBER or both"),
        (["-y", "-d", "prod77"], "No machines were found to be destroyed"),
    ],
)
def test_what_salt_cloud_refuses_is_said_in_a_line_and_changes_nothing(
    minions, run_in, fleet, arguments, said
):
    before = fleet.inventory()
    done = run_in("salt-cloud", *arguments)
    assert said in words(done)
    assert "Traceback" not in words(done)
    assert fleet.inventory() == before


def test_salt_cloud_resizes_a_machine(minions, run_in, fleet):
    done = run_in("salt-cloud", "-y", "-a", "resize", "ops1", "memory=512", "cpus=1.5")
    assert done.returncode == 0, words(done)
    assert (fleet.inventory()["ops1"]["memory"], fleet.inventory()["ops1"]["cpus"]) == (512, 1.5)
