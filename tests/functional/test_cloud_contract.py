"""What every salt-cloud driver of ours answers and fires, whoever the machines belong to: one suite over all of them.

The local cloud's kernel is replaced at its own seam (made for real by the end-to-end tests), EC2 is moto's server,
the other clouds are fakes of their documented APIs; libcloud's own client speaks to each.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cloud_stand import CLOUDS, Stand, fake_of, local_stand, rented_stand
from salt.exceptions import SaltCloudException, SaltCloudNotFound, SaltCloudSystemExit

BACKENDS = ("local", *CLOUDS)


@pytest.fixture(params=BACKENDS)
def stand(
    request: pytest.FixtureRequest, make_fleet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Stand]:
    fleet = make_fleet(machines={})
    if request.param == "local":
        yield local_stand(fleet, monkeypatch, tmp_path)
    else:
        with fake_of(request.param) as fake:
            yield rented_stand(CLOUDS[request.param][1], fake.port, fake.names, fleet, monkeypatch)


def test_a_machine_is_made_told_of_listed_and_kept(stand: Stand):
    node = stand.create("prod6")
    assert set(node) == {"id", "image", "size", "state", "private_ips", "public_ips"}
    assert node["state"] == "running"
    assert len(node["private_ips"]) == 1
    assert stand.tags() == [f"salt/cloud/prod6/{kind}" for kind in ("creating", "requesting", "created")]
    for tag, fields in stand.fired:
        assert fields["name"] == "prod6", tag
        assert fields["profile"] == "by-role", tag
    assert set(stand.fired[1][1]["kwargs"])
    assert stand.fired[2][1]["instance_id"] == node["id"]
    assert stand.there() == ["prod6"]
    assert stand.driver.list_nodes() == {"prod6": node}
    kept = stand.fleet.inventory()["prod6"]
    assert (kept["address"], kept["memory"], kept["made"]) == (node["private_ips"][0], stand.small, True)
    assert stand.key("prod6")


def test_every_listing_and_account_of_a_machine_agrees(stand: Stand):
    node = stand.create("prod6")
    full = stand.driver.list_nodes_full()["prod6"]
    assert full.items() >= node.items()
    assert full["name"] == "prod6"
    assert stand.driver.list_nodes_select() == {"prod6": {"id": node["id"], "state": "running"}}
    assert stand.driver.show_instance("prod6", call="action") == full


@pytest.mark.parametrize("profile", [{"size": "huge"}])
def test_a_machine_that_cannot_be_made_leaves_nothing_not_even_its_key(stand: Stand, profile):
    with pytest.raises(SaltCloudException, match=r"profile by-role: size 'huge'.* medium") as failure:
        stand.create("prod6", **profile)
    assert "\n" not in str(failure.value)
    assert stand.tags() == ["salt/cloud/prod6/creating"]
    assert stand.there() == []
    assert stand.fleet.inventory() == {}
    assert not stand.key("prod6")


def test_a_name_that_is_taken_is_refused_and_who_has_it_is_left_alone(stand: Stand):
    node = stand.create("prod6")
    with pytest.raises(SaltCloudException, match=r"machine prod6: there is one already.*salt-cloud -d prod6"):
        stand.create("prod6")
    assert stand.driver.list_nodes() == {"prod6": node}
    assert stand.key("prod6")
    assert "salt/cloud/prod6/created" not in stand.tags()[3:]


def test_a_destroyed_machine_leaves_nothing_and_its_end_is_told(stand: Stand):
    stand.create("prod6")
    stand.create("prod7")
    stand.fired.clear()
    assert stand.driver.destroy("prod6", call="action") == {"Success": True}
    assert stand.tags() == ["salt/cloud/prod6/destroying", "salt/cloud/prod6/destroyed"]
    assert stand.there() == ["prod7"]
    assert list(stand.driver.list_nodes()) == ["prod7"]
    assert list(stand.fleet.inventory()) == ["prod7"]
    assert not (stand.fleet.machines_dir / "prod6").exists()


@pytest.mark.parametrize("name", ["prod77", "web1", "../prod6", ""])
def test_what_is_no_machine_is_not_destroyed_and_nothing_is_said_of_it(stand: Stand, name):
    stand.create("prod6")
    stand.fired.clear()
    with pytest.raises(SaltCloudNotFound):
        stand.driver.destroy(name, call="action")
    assert stand.fired == []
    assert stand.there() == ["prod6"]


def test_a_machine_is_stopped_started_and_rebooted(stand: Stand):
    stand.create("prod6")
    for action, state in (
        ("stop", "stopped"),
        ("stop", "stopped"),
        ("start", "running"),
        ("start", "running"),
    ):
        assert getattr(stand.driver, action)("prod6", call="action") == {"Success": True}
        assert stand.driver.list_nodes()["prod6"]["state"] == state, action
    assert stand.driver.reboot("prod6", call="action") == {"Success": True}
    stand.driver.stop("prod6", call="action")
    assert stand.driver.reboot("prod6", call="action") == {"Success": True}
    assert stand.driver.list_nodes()["prod6"]["state"] == "running"


def test_memory_is_doubled_and_the_machine_runs_again(stand: Stand):
    stand.create("prod6")
    assert (
        stand.driver.resize("prod6", kwargs={"memory": stand.grown}, call="action")["memory"] == stand.grown
    )
    assert stand.fleet.inventory()["prod6"]["memory"] == stand.grown
    assert stand.driver.list_nodes()["prod6"]["state"] == "running"
    before = stand.driver.list_nodes()
    assert (
        stand.driver.resize("prod6", kwargs={"memory": str(stand.grown)}, call="action")["memory"]
        == stand.grown
    )
    assert stand.driver.list_nodes() == before


@pytest.mark.parametrize(
    "kwargs", [None, {}, {"ram": 512}, {"memory": "lots"}, {"memory": 512.5}, {"memory": True}, {"memory": 1}]
)
def test_a_resize_that_makes_no_sense_is_refused_and_changes_nothing(stand: Stand, kwargs):
    stand.create("prod6")
    before = stand.fleet.inventory(), stand.driver.list_nodes()
    with pytest.raises(SaltCloudSystemExit, match=r"resize: |memory "):
        stand.driver.resize("prod6", kwargs=kwargs, call="action")
    assert (stand.fleet.inventory(), stand.driver.list_nodes()) == before


@pytest.mark.parametrize("action", ["start", "stop", "reboot", "resize", "show_instance"])
def test_an_action_is_called_as_one_and_on_a_machine_there_is(stand: Stand, action):
    with pytest.raises(SaltCloudSystemExit, match=f"{action}: call it with -a or --action"):
        getattr(stand.driver, action)("prod6", call="function")
    more = {"kwargs": {"memory": stand.grown}} if action == "resize" else {}
    with pytest.raises(SaltCloudNotFound, match="prod6"):
        getattr(stand.driver, action)("prod6", call="action", **more)


@pytest.mark.parametrize("listing", ["avail_images", "avail_sizes", "avail_locations"])
def test_there_is_something_to_choose_from(stand: Stand, listing):
    found = getattr(stand.driver, listing)()
    assert found
    assert all(each["name"] for each in found.values())
    with pytest.raises(SaltCloudSystemExit, match=f"{listing}: call it with -f, --function or --list-"):
        getattr(stand.driver, listing)(call="action")


def test_a_machine_that_died_half_made_is_none_and_its_name_is_free(stand: Stand):
    stand.half_make("prod6")
    assert stand.driver.list_nodes() == {}
    assert stand.create("prod6")["state"] == "running"
    assert stand.there() == ["prod6"]


def test_a_machine_that_died_half_made_can_be_destroyed(stand: Stand):
    stand.half_make("prod6")
    assert stand.driver.destroy("prod6", call="action") == {"Success": True}
    assert stand.there() == []
    assert stand.fleet.inventory() == {}


def test_the_driver_loads_only_for_a_provider_of_its_own(stand: Stand):
    assert stand.driver.__virtual__() == stand.driver.__virtualname__
    alias, name = stand.driver.__active_provider_name__.split(":")
    del stand.driver.__opts__["providers"][alias][name]["state_dir"]
    assert stand.driver.__virtual__() is False
