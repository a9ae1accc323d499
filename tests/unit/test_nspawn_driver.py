"""The salt-cloud driver of local machines, called as salt-cloud calls it, on a fleet that is only written down."""

from __future__ import annotations

import importlib.util

import pytest
from salt.exceptions import SaltCloudConfigError, SaltCloudNotFound, SaltCloudSystemExit
from saltern.fleet import REPOSITORY
from saltern.local.cgroup import Limits

SIZES = {"small": {"memory": 384, "cpus": 1}, "medium": {"memory": 768, "cpus": 2}}


@pytest.fixture
def fired() -> list[tuple[str, dict]]:
    """The events the driver fired: (tag, fields)."""
    return []


@pytest.fixture
def driver(fleet, fired, monkeypatch):
    """The driver with the names Salt injects."""
    spec = importlib.util.spec_from_file_location("nspawn", REPOSITORY / "salt" / "_clouds" / "nspawn.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    provider = {"driver": "nspawn", "state_dir": str(fleet.state_dir), "sizes": SIZES}
    module.__opts__ = {
        "providers": {"local": {"nspawn": provider}},
        "profiles": {},
        "sock_dir": "/nowhere",
        "transport": "zeromq",
        "pki_dir": str(fleet.pki / "master"),
        "query.selection": ["id", "state"],
    }
    module.__active_provider_name__ = "local:nspawn"
    module.__utils__ = {
        "cloud.fire_event": lambda kind, words, tag, args, **link: fired.append((tag, args)),
        "cloud.cache_node": lambda node, provider, opts: None,
    }
    return module


def test_it_loads_for_a_provider_that_names_its_state_folder_only(driver):
    assert driver.__virtual__() == "nspawn"
    del driver.__opts__["providers"]["local"]["nspawn"]["state_dir"]
    assert driver.__virtual__() is False


def test_machines_are_listed_with_the_fields_of_every_driver(driver, fleet, make_machine):
    make_machine(fleet, "prod9", "10.99.0.40", made=False)  # begun: not a machine yet
    nodes = driver.list_nodes()
    assert sorted(nodes) == sorted(set(fleet.inventory()) - {"prod9"})
    assert nodes["prod1"] == {
        "id": "prod1",
        "image": "000000000000",
        "size": "384 MiB, 1 CPU",
        "state": "stopped",
        "private_ips": ["10.99.0.13"],
        "public_ips": [],
    }
    full = driver.list_nodes_full()
    assert full["prod1"]["profile"] == "small"
    assert driver.list_nodes_select()["prod1"] == {"id": "prod1", "state": "stopped"}
    assert driver.show_instance("prod1", call="action")["address"] == "10.99.0.13"


def test_sizes_and_the_location_come_from_the_configuration(driver):
    assert driver.avail_sizes()["medium"] == {"name": "medium", "memory": 768, "cpus": 2}
    assert list(driver.avail_locations()) == ["this-host"]


def test_images_are_those_that_are_built_whole(driver, monkeypatch, tmp_path):
    monkeypatch.setenv("SALTERN_HOME", str(tmp_path))
    for name, whole in (("abc", True), ("def", False)):
        (tmp_path / "images" / name).mkdir(parents=True)
        if whole:
            (tmp_path / "images" / name / "image.json").write_text("{}")
    assert driver.avail_images() == {"abc": {"name": "abc", "current": False}}


@pytest.mark.parametrize(
    ("profile", "limits"),
    [
        ({}, Limits(384, 1)),
        ({"size": "medium"}, Limits(768, 2)),
        ({"size": "medium", "memory": 512}, Limits(512, 2)),
        ({"cpus": 0.5}, Limits(384, 0.5)),
    ],
)
def test_a_profile_takes_a_size_and_may_say_more(driver, profile, limits):
    driver.__opts__["profiles"]["prod"] = profile
    assert driver._limits({"name": "prod6", "profile": "prod", "driver": "local:nspawn"}) == limits


def test_a_size_there_is_not_is_named_with_those_there_are(driver):
    driver.__opts__["profiles"]["prod"] = {"size": "huge"}
    with pytest.raises(SaltCloudConfigError, match="profile prod: size 'huge' is none of medium, small"):
        driver._limits({"name": "prod6", "profile": "prod", "driver": "local:nspawn"})


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        (None, "say memory=MIB, cpus=NUMBER or both"),
        ({}, "say memory=MIB, cpus=NUMBER or both"),
        ({"ram": 512}, "resize: ram: no such limit; say memory=MIB, cpus=NUMBER or both"),
        ({"memory": 512, "cpu": 2}, "resize: cpu: no such limit; say memory=MIB, cpus=NUMBER or both"),
        ({"memory": "lots"}, "resize: memory='lots' is not a number"),
        ({"memory": "512MiB"}, "resize: memory='512MiB' is not a number"),
        ({"memory": 512.5}, "resize: memory=512.5 is not a whole number"),
        ({"memory": True}, "resize: memory=True is not a whole number"),
        ({"memory": [512]}, r"resize: memory=\[512\] is not a number"),
        ({"memory": 1}, "memory 1: not between 128 and 1048576 MiB"),
        ({"cpus": 0}, "cpus 0: not between 0.05 and 1024 processors"),
        ({"cpus": "nan"}, "cpus nan: not between"),
        ({"memory": 512, "cpus": "x"}, "resize: cpus='x' is not a number"),
    ],
)
def test_a_resize_that_makes_no_sense_is_refused_and_changes_nothing(driver, fleet, kwargs, words):
    before = fleet.inventory()
    with pytest.raises(SaltCloudSystemExit, match=words):
        driver.resize("prod1", kwargs=kwargs, call="action")
    assert fleet.inventory() == before


@pytest.mark.parametrize(
    ("kwargs", "after"),
    [
        ({"memory": 512}, (512, 1)),
        ({"memory": "512"}, (512, 1)),
        ({"cpus": "1.5"}, (384, 1.5)),
        ({"memory": 768, "cpus": 2}, (768, 2)),
    ],
)
def test_a_resize_is_written_down(driver, fleet, kwargs, after):
    assert driver.resize("prod1", kwargs=kwargs, call="action") == {"memory": after[0], "cpus": after[1]}
    kept = fleet.inventory()["prod1"]
    assert (kept["memory"], kept["cpus"]) == after


@pytest.mark.parametrize("action", ["start", "stop", "reboot", "resize", "show_instance"])
def test_an_action_is_called_as_one(driver, action):
    with pytest.raises(SaltCloudSystemExit, match=f"{action}: call it with -a or --action"):
        getattr(driver, action)("prod1", call="function")


@pytest.mark.parametrize("action", ["start", "stop", "reboot", "resize", "show_instance"])
@pytest.mark.parametrize("name", ["prod77", "web1", "../prod1", "..", ""])
def test_a_machine_there_is_not_is_named(driver, fleet, action, name):
    more = {"kwargs": {"memory": 512}} if action == "resize" else {}
    with pytest.raises(SaltCloudNotFound, match="no such machine in fleet test"):
        getattr(driver, action)(name, call="action", **more)
    assert fleet.machines_dir.exists()


@pytest.mark.parametrize("name", ["prod77", "../machines", "..", "."])
def test_what_is_no_machine_is_not_destroyed_and_nothing_is_said_of_it(driver, fleet, fired, name):
    with pytest.raises(SaltCloudNotFound):
        driver.destroy(name, call="action")
    assert fleet.exists()
    assert len(fleet.inventory()) == 7
    assert fired == []


def test_a_destroyed_machine_leaves_nothing_and_its_life_is_told(driver, fleet, fired):
    assert driver.destroy("prod2", call="action") == {"Success": True}
    assert not (fleet.machines_dir / "prod2").exists()
    assert [tag for tag, _ in fired] == ["salt/cloud/prod2/destroying", "salt/cloud/prod2/destroyed"]


def test_a_fleet_that_is_gone_is_a_fault_of_the_configuration(driver, fleet):
    (fleet.state_dir / "fleet.json").unlink()
    with pytest.raises(SaltCloudConfigError, match="no fleet is kept here"):
        driver.list_nodes()
