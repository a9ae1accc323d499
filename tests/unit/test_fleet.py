"""A fleet's name, network, folder and machines."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from saltern.errors import SalternError
from saltern.fleet import DEFAULT_MACHINES, LONGEST_STATE_DIR, Fleet, choose, home, role_of, write_atomically

HERE = Path("/var/lib/saltern/x")


@pytest.mark.parametrize(
    ("machine", "role"),
    [
        ("proxy1", "proxy"),
        ("redis3", "redis"),
        ("prod0", "prod"),
        ("prod9999", "prod"),
        ("staging12", "staging"),
        ("ops1", "ops"),
    ],
)
def test_the_role_of_a_machine_is_in_its_id(machine, role):
    assert role_of(machine) == role


@pytest.mark.parametrize(
    "machine",
    [
        "", "prod", "1", "prod12345", "Prod1", "prod1\n", " prod1", "prod1.example", "web1", "prod-1", "prod1*",
        "../prod1", "prod١", "prod1 prod2", "redis", "prodstaging1",
    ],
)  # fmt: skip
def test_an_id_of_no_role_is_refused_by_name(machine):
    with pytest.raises(SalternError) as refused:
        role_of(machine)
    assert repr(machine) in str(refused.value)
    assert "such as prod6" in str(refused.value)


@given(st.text())
def test_whatever_is_accepted_as_an_id_is_harmless_in_paths_tags_and_targets(text):
    try:
        role = role_of(text)
    except SalternError:
        return
    assert text.isascii()
    assert text.isalnum()
    assert text.startswith(role)


def test_every_default_machine_has_a_role():
    assert {role_of(name) for name in DEFAULT_MACHINES} == {"proxy", "redis", "prod", "staging", "ops"}


@pytest.mark.parametrize("name", ["a", "saltern", "e2e", "abcdefghij"])
def test_a_fleet_names_its_bridge_table_and_group_within_the_kernels_limits(name):
    fleet = Fleet(name, "10.213.0.0/24", HERE)
    assert len(fleet.bridge) <= 15  # IFNAMSIZ less the final zero
    assert name in fleet.bridge
    assert fleet.table == f"saltern_{name}"
    assert fleet.cgroup == f"saltern-{name}"


@pytest.mark.parametrize(
    "name", ["", "1a", "A", "a-b", "a_b", "abcdefghijk", "a b", "a\n", "ä", "../a", "a;b"]
)
def test_a_name_that_cannot_name_a_bridge_is_refused(name):
    with pytest.raises(SalternError, match="1 to 10 lower-case letters and digits"):
        Fleet(name, "10.213.0.0/24", HERE)


@pytest.mark.parametrize(
    ("subnet", "gateway"),
    [
        ("10.213.0.0/24", "10.213.0.1"),
        ("192.168.7.64/26", "192.168.7.65"),
        ("172.16.0.0/16", "172.16.0.1"),
        ("10.0.0.0/16", "10.0.0.1"),
    ],
)
def test_the_host_is_the_first_address_of_the_subnet(subnet, gateway):
    assert Fleet("a", subnet, HERE).gateway == gateway


@pytest.mark.parametrize(
    ("subnet", "words"),
    [
        ("10.213.0.0/27", "between /16 and /26"),
        ("10.0.0.0/15", "between /16 and /26"),
        ("8.8.8.0/24", "not a private IPv4 network"),
        ("127.0.0.0/24", "not a private IPv4 network"),
        ("169.254.0.0/16", "not a private IPv4 network"),
        ("192.0.2.0/24", "not a private IPv4 network"),
        ("10.213.0.1/24", "has host bits set"),
        ("10.213.0/24", "10.213.0.0/24 is right"),
        ("fd00::/64", "IPv4 network such as"),
        ("", "IPv4 network such as"),
        ("all", "IPv4 network such as"),
    ],
)
def test_a_subnet_that_cannot_hold_a_fleet_is_refused(subnet, words):
    with pytest.raises(SalternError, match=words) as refused:
        Fleet("a", subnet, HERE)
    assert subnet in str(refused.value)


def test_a_state_folder_is_as_long_as_its_sockets_allow():
    longest = Path("/" + "x" * (LONGEST_STATE_DIR - 1))
    assert len(f"{Fleet('a', '10.1.0.0/24', longest).state_dir}/run/{'s' * 40}") <= 107
    with pytest.raises(SalternError, match="choose a shorter one with --state-dir"):
        Fleet("a", "10.1.0.0/24", Path(f"{longest}x"))


def test_a_fleet_comes_back_from_its_folder_as_it_was_saved(fleet):
    assert Fleet.load(fleet.state_dir) == fleet
    assert Fleet.load(str(fleet.state_dir)) == fleet


def test_where_no_fleet_is_kept_up_is_the_remedy(tmp_path):
    with pytest.raises(SalternError, match=r"no fleet is kept here; `./saltern up` makes one"):
        Fleet.load(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", "{}", '{"name": "a"}', '{"name": ["a"]}'])
def test_a_fleet_description_that_is_none_is_named(tmp_path, text):
    (tmp_path / "fleet.json").write_text(text)
    with pytest.raises(SalternError, match=r"fleet.json: not a fleet's description"):
        Fleet.load(tmp_path)


def test_the_inventory_is_what_stands_in_the_machines_folders(fleet):
    assert fleet.addresses()["prod1"] == "10.99.0.13"
    assert list(fleet.inventory()) == sorted(fleet.addresses())
    (fleet.machines_dir / "prod3").mkdir()  # begun, and nothing written yet
    assert "prod3" not in fleet.inventory()


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "{}", '{"address": "here"}', '{"address": null}'])
def test_a_machine_description_that_is_none_is_named_with_the_remedy(fleet, text):
    path = fleet.machines_dir / "prod1" / "machine.json"
    path.write_text(text)
    with pytest.raises(SalternError) as refused:
        fleet.addresses()
    assert str(path) in str(refused.value)
    assert "salt-cloud -d prod1" in str(refused.value)


def test_a_lock_that_is_held_is_waited_for_or_refused(fleet):
    with fleet.locked("up"):
        with (
            pytest.raises(SalternError, match="another command is at work on 'up'"),
            fleet.locked("up", wait=False),
        ):
            pass
        with fleet.locked("releases", wait=False):
            pass
    with fleet.locked("up", wait=False):
        pass


def test_a_file_is_replaced_whole_with_its_mode_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "deep" / "secrets.json"
    write_atomically(path, "one", 0o600)
    with path.open() as before:
        write_atomically(path, "two", 0o640)
        assert before.read() == "one"  # who had it open keeps the whole old one
    assert path.read_text() == "two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [p.name for p in path.parent.iterdir()] == ["secrets.json"]


# Which fleet a command means ---------------------------------------------------------------------------------


@pytest.fixture
def house(fleet, monkeypatch):
    """SALTERN_HOME with the fleet `test` in it."""
    place = fleet.state_dir / "home"
    place.mkdir()
    monkeypatch.setenv("SALTERN_HOME", str(place))
    monkeypatch.delenv("SALTERN_FLEET", raising=False)
    Fleet("test", "10.99.0.0/24", place / "test").save()
    return place


def test_without_settings_the_default_fleet_is_meant(house):
    assert home() == house
    meant = choose()
    assert (meant.name, meant.subnet, meant.state_dir) == ("saltern", "10.213.0.0/24", house / "saltern")
    assert not meant.exists()


def test_the_environment_names_the_fleet_and_an_argument_wins(house, monkeypatch):
    monkeypatch.setenv("SALTERN_FLEET", "test")
    assert choose().name == "test"
    assert choose("other").name == "other"


def test_a_kept_fleet_keeps_its_subnet_and_needs_no_settings_again(house):
    assert choose("test").subnet == "10.99.0.0/24"
    assert choose("test", subnet="10.99.0.0/24").subnet == "10.99.0.0/24"
    assert choose(state_dir=str(house / "test")).name == "test"
    assert choose("test", pillar_dir=str(house)).pillar_dir == house


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "test", "subnet": "10.98.0.0/24"}, "its subnet is 10.99.0.0/24, not 10.98.0.0/24"),
        ({"name": "other", "state_dir": "test"}, "its name is test, not other"),
        ({"name": "test", "subnet": "nonsense"}, "subnet 'nonsense'"),
        ({"name": "No"}, "fleet 'No'"),
    ],
)
def test_a_setting_that_contradicts_the_kept_fleet_is_refused(house, settings, words):
    if "state_dir" in settings:
        settings = {**settings, "state_dir": str(house / settings["state_dir"])}
    before = (house / "test" / "fleet.json").read_text()
    with pytest.raises(SalternError, match=words):
        choose(**settings)
    assert (house / "test" / "fleet.json").read_text() == before


def test_the_environment_may_contradict_too(house, monkeypatch):
    monkeypatch.setenv("SALTERN_FLEET", "other")
    with pytest.raises(SalternError, match="its name is test, not other"):
        choose(state_dir=str(house / "test"))


def test_a_description_is_plain_json_for_other_programs(fleet):
    values = json.loads((fleet.state_dir / "fleet.json").read_text())
    assert values["name"] == "test"
    assert values["state_dir"] == str(fleet.state_dir)


def test_a_folder_with_no_machines_name_is_no_machine(fleet):
    write_atomically(fleet.machines_dir / "lost+found" / "machine.json", "{}")
    assert "lost+found" not in fleet.inventory()
