"""Providers' configuration: what is refused, where secrets come from, and whether the files of etc/clouds hold."""

from __future__ import annotations

import json

import pytest
import yaml
from libcloud.compute.types import Provider
from saltern import master, secrets
from saltern.clouds import dialects, settings
from saltern.clouds.settings import Endpoint, Size
from saltern.errors import SalternError
from saltern.fleet import DEFAULT_MACHINES, REPOSITORY, role_of

CLOUDS = ("azure", "digitalocean", "ec2", "gce", "linode", "openstack", "vultr")
GOOD = {
    "libcloud_provider": "digitalocean",
    "secrets": {"key": "DO_TOKEN"},
    "location": "fra1",
    "image": "debian-12-x64",
    "sizes": {
        "small": {"id": "s-1", "memory": 1024, "cpus": 1},
        "cheap": {"id": "c-1", "memory": 2048, "cpus": 1},
        "medium": {"id": "s-2", "memory": 2048, "cpus": 2},
    },
}


def read(fleet, environment=None, **changes):
    given = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    environment = {"DO_TOKEN": "abc"} if environment is None else environment
    return settings.read("do", {"state_dir": fleet.state_dir, **given}, ("key",), ("vpc_uuid",), environment)


def test_a_provider_is_read(fleet):
    found = read(fleet, driver="libcloud", profiles={}, options={"vpc_uuid": "x"}, patience={"poll": 2})
    assert found.secrets == {"key": "abc"}
    assert found.sizes["medium"] == Size("medium", "s-2", 2048, 2.0)
    assert found.fleet == fleet
    assert found.patience.poll == 2
    assert "abc" not in repr(found)


def test_a_secret_may_stand_in_the_fleets_own_secrets_and_stays_there(fleet):
    kept = {**secrets.load(fleet), "clouds": {"DO_TOKEN": "kept"}}
    fleet.secrets_file.write_text(json.dumps(kept))
    secrets.ensure(fleet)
    assert read(fleet, environment={}).secrets == {"key": "kept"}
    assert read(fleet, environment={"DO_TOKEN": "newer"}).secrets == {"key": "newer"}


WRONG = [
    ({"sizes": None}, "provider do: 'sizes' is missing"),
    ({"image": ""}, "provider do: 'image' is missing"),
    ({"regoin": "fra1"}, "provider do: 'regoin' is unknown; known are libcloud_provider"),
    ({"secrets": {}}, "secrets: key must name an environment variable, such as KEY"),
    ({"secrets": {"key": "dop_v1_0123456789"}}, "the secret itself does not belong here"),
    ({"secrets": {"key": "OTHER"}}, "no key: set OTHER in the environment, or under \"clouds\""),
    ({"secrets": "DO_TOKEN"}, "secrets: 'DO_TOKEN' is not a mapping"),
    ({"sizes": {"small": {"id": "s-1"}}}, "size small: say id, memory .MiB. and cpus"),
    ({"sizes": {"small": {"id": "s-1", "memory": "1G", "cpus": 1}}}, "size small: memory '1G' is not a number"),
    ({"sizes": {"small": {"id": "s-1", "memory": 1024, "cpus": 0}}}, "size small: cpus 0 is not a number above 0"),
    ({"options": {"vpc": "x"}}, "option 'vpc' is unknown; known are vpc_uuid"),
    ({"timeout": -1}, "timeout -1 is not a number above 0"),
    ({"patience": {"forever": 1}}, "patience: 'forever' is unknown; known are base, most"),
    ({"api_root": "api.example.org"}, "api_root 'api.example.org' is not a URL"),
    ({"host": "127.0.0.1", "secure": "no"}, "secure 'no' is not true or false"),
    ({"host": "127.0.0.1", "port": 99999}, "port 99999 is not a number above 0, and at most 65535"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "words"), WRONG)
def test_what_is_wrong_is_said_in_one_line(fleet, changes, words):
    with pytest.raises(SalternError, match=words) as failure:
        read(fleet, **changes)
    assert "\n" not in str(failure.value)
    assert "dop_v1" not in str(failure.value)


@pytest.mark.parametrize(
    ("changes", "endpoint"),
    [
        ({}, None),
        ({"host": "127.0.0.1", "port": 8000, "secure": False}, Endpoint("127.0.0.1", 8000, False)),
        ({"host": "cloud.example.org"}, Endpoint("cloud.example.org", 443, True)),
        ({"host": "cloud.example.org", "secure": False}, Endpoint("cloud.example.org", 80, False)),
        ({"api_root": "http://localhost:81/a/b/"}, Endpoint("localhost", 81, False, "/a/b")),
        ({"api_root": "https://cloud.example.org"}, Endpoint("cloud.example.org", 443, True)),
    ],
)
def test_where_the_api_is(fleet, changes, endpoint):
    assert read(fleet, **changes).endpoint == endpoint


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ({"memory": 1024}, "small"),
        ({"memory": "2048"}, "cheap"),
        ({"memory": 2048.0}, "cheap"),
        ({"size": "medium"}, "medium"),
    ],
)
def test_a_size_is_asked_for_by_memory_or_name(fleet, asked, name):
    assert read(fleet).size_asked(asked).name == name


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({}, "say memory=MIB or size=NAME"),
        ({"memory": 1024, "size": "small"}, "one of the two"),
        ({"memory": 1500}, "memory 1500: no size of do has it; they have 1024, 2048, 2048 MiB"),
        ({"size": "huge"}, "size 'huge': do has small, cheap, medium"),
    ],
)
def test_a_size_there_is_not_is_named_with_those_there_are(fleet, asked, words):
    with pytest.raises(SalternError, match=words):
        read(fleet).size_asked(asked)


def test_a_profile_may_say_more_than_its_provider(fleet):
    found = read(fleet, options={"vpc_uuid": "x"})
    assert found.options_with({}) == {"vpc_uuid": "x"}
    assert found.options_with({"vpc_uuid": "y"}) == {"vpc_uuid": "y"}
    with pytest.raises(SalternError, match="option 'subnet' is unknown"):
        found.options_with({"subnet": "z"})


def test_a_cloud_that_is_not_known_is_named_with_those_that_are():
    with pytest.raises(
        SalternError,
        match="libcloud_provider 'aol': not one of digitalocean, ec2, azure_arm, openstack, linode, vultr, gce",
    ):
        dialects.of("aol")
    assert set(dialects.DIALECTS) <= {each for each in vars(Provider).values() if isinstance(each, str)}


@pytest.fixture
def shipped(fleet):
    """The files of etc/clouds as `up` writes them, by path."""
    texts = master.configuration(fleet)
    return {path: yaml.safe_load(text) for path, text in texts.items() if path.startswith("clouds/")}


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_provider_that_is_shipped_can_be_read_and_names_its_secrets_only(shipped, fleet, cloud):
    (given,) = shipped[f"clouds/{cloud}/cloud.providers.d/{cloud}.conf"].values()
    spoken = dialects.of(given["libcloud_provider"])
    environment = dict.fromkeys(given["secrets"].values(), "x")
    found = settings.read(cloud, given, spoken.secrets, spoken.options, environment)
    assert found.fleet == fleet
    sizes = list(found.sizes.values())
    # Memory is doubled when it is short: there has to be a size that has it.
    assert [size.memory for size in sizes[1:]] == [2 * size.memory for size in sizes[:-1]]


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_whole_fleet_can_be_made_by_its_map_with_every_clouds_profiles(shipped, cloud):
    profiles = shipped[f"clouds/{cloud}/cloud.profiles.d/{cloud}.conf"]
    (given,) = shipped[f"clouds/{cloud}/cloud.providers.d/{cloud}.conf"].values()
    fleet_map = yaml.safe_load((REPOSITORY / "etc" / "cloud.maps.d" / "fleet.map").read_text())
    assert sorted(name for names in fleet_map.values() for name in names) == sorted(DEFAULT_MACHINES)
    for role, names in fleet_map.items():
        assert {role_of(name) for name in names} == {role}
        assert profiles[role]["provider"] == cloud
        assert profiles[role]["size"] in given["sizes"]


def test_the_local_fleet_sees_nothing_of_rented_clouds(fleet):
    texts = master.configuration(fleet)
    loaded = [path for path in texts if path.startswith(("cloud.providers.d/", "cloud.profiles.d/"))]
    assert loaded == ["cloud.profiles.d/local.conf", "cloud.providers.d/local.conf"]
