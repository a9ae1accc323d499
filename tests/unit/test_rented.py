"""A fleet on rented machines: what is refused before anything is rented, and what a machine must be to join."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import tarfile

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from saltern import joining, rented, up
from saltern.errors import SalternError
from saltern.fleet import REPOSITORY, Fleet
from saltern.joining import Host
from saltern.local import network

HERE = {"ID": "debian", "VERSION_ID": "12"}


def test_a_fleet_without_a_cloud_is_asked_for_one(fleet):
    with pytest.raises(SalternError, match="no cloud is chosen; say which: --cloud digitalocean"):
        rented.settings(dataclasses.replace(fleet, cloud="none"))


def test_an_image_that_is_nobodys_yet_is_asked_for(fleet, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    with pytest.raises(
        SalternError, match="provider ec2: no image is chosen; write one of eu-central-1 into"
    ):
        rented.settings(dataclasses.replace(fleet, cloud="ec2"))


@pytest.mark.parametrize(
    ("cloud", "own", "secrets", "words"),
    [
        (
            "openstack", {"image": "i"},
            {"OS_APPLICATION_CREDENTIAL_ID": "x", "OS_APPLICATION_CREDENTIAL_SECRET": "x"},
            "^provider openstack: api_root is missing; .* pillar/clouds.sls, under clouds: openstack$",
        ),
        ("gce", {}, {"GOOGLE_CREDENTIALS": "/root/key.json"}, r"^provider gce: key: .*\(no JSON\); `export GOOGLE"),
        (
            "ec2", {"image": "i", "location": "moon"}, {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"},
            "^provider ec2: location 'moon' is no region of EC2",
        ),
    ],
)  # fmt: skip
def test_what_only_a_cloud_can_see_is_missing_is_said_before_anything_is_written(
    fleet, monkeypatch, tmp_path, cloud, own, secrets, words
):
    folder = shutil.copytree(REPOSITORY / "pillar", tmp_path / "pillar")
    (folder / "clouds.sls").write_text(json.dumps({"clouds": {cloud: own}}))
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    elsewhere = dataclasses.replace(fleet, cloud=cloud, pillar_dir=folder)
    with pytest.raises(SalternError, match=words) as said:
        rented.start(elsewhere, up.Progress(), ["prod1"])
    assert "\n" not in str(said.value)
    assert Fleet.load(fleet.state_dir).cloud == "local"


def test_without_a_master_that_machines_could_reach_nothing_is_rented(fleet, monkeypatch):
    monkeypatch.setattr(network, "links", lambda: [{"addr_info": [{"local": "10.1.1.1"}]}])
    monkeypatch.setenv("DIGITALOCEAN_TOKEN", "x")
    elsewhere = dataclasses.replace(fleet, cloud="digitalocean")
    with pytest.raises(SalternError, match="no master is installed here"):
        rented.start(elsewhere, up.Progress(), ["prod1"])
    assert Fleet.load(fleet.state_dir).cloud == "local"


def test_machines_that_joined_are_nobodys_to_ask_for(fleet):
    machines, public, notes = rented.describe(dataclasses.replace(fleet, cloud="none"))
    assert {about["state"] for about in machines.values()} == {"joined"}
    assert (public, notes) == ({}, [])


@pytest.mark.parametrize(
    ("event", "stage"),
    [
        (("salt/cloud/prod1/created", {}), "booted"),
        (("salt/minion/prod1/start", {}), "connected"),
        (("salt/minion/prod2/start", {}), "waiting"),
        (("salt/job/1/new", {"fun": "state.apply", "minions": ["prod1"]}), "waiting"),
        (None, "waiting"),
    ],
)
def test_a_machine_comes_as_far_as_the_bus_says(event, stage):
    progress = up.Progress(machines={"prod1": "waiting"})
    rented._heard(progress, event)
    assert progress.machines == {"prod1": stage}


def test_a_machine_never_goes_back():
    progress = up.Progress(machines={"prod1": "ready"})
    rented._heard(progress, ("salt/minion/prod1/start", {}))
    assert progress.machines == {"prod1": "ready"}


# Joining ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "address", "there", "words"),
    [
        ("prod6", "10.99.0.77", HERE, None),
        ("prod1", "10.99.0.77", HERE, "machine prod1: there is one already, at 10.99.0.13"),
        ("prod6", "10.99.0.13", HERE, "address 10.99.0.13: it is prod1's already"),
        ("prod6", "10.98.0.1", HERE, "address 10.98.0.1: not in 10.99.0.0/24, and the master's firewall"),
        ("prod6", "prod6.example.org", HERE, "address 'prod6.example.org': not an IPv4 address"),
        (
            "prod6",
            "10.99.0.77",
            {**HERE, "VERSION_ID": "13"},
            "10.99.0.77: runs debian 13, and this master debian 12",
        ),
        ("prod6", "10.99.0.77", {}, "10.99.0.77: runs None None, and this master debian 12"),
    ],
)
def test_a_machine_that_cannot_join_is_refused_in_one_line(fleet, name, address, there, words):
    said = joining.refusal(fleet, name, address, HERE, there)
    assert said is None if words is None else said.startswith(words) and "\n" not in said


def test_ssh_asks_nothing_and_what_runs_there_is_quoted():
    command = Host("10.0.0.7", key="/k", port=2222).command("sh", "-c", "echo a b")
    assert command[-4:] == ["2222", "root@10.0.0.7", "--", "sh -c 'echo a b'"]
    assert {"BatchMode=yes", "StrictHostKeyChecking=accept-new", "IdentitiesOnly=yes"} <= set(command)
    assert Host("10.0.0.7", user="me").command("id")[-1] == "sudo -n id"


def test_files_go_over_as_roots_with_their_modes():
    data = joining.packed({"/etc/salt/minion": ("id: prod6\n", 0o640)})
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        (about,) = tar.getmembers()
        assert (about.name, about.mode, about.uid, about.gid) == ("etc/salt/minion", 0o640, 0, 0)


def test_a_new_key_is_the_two_halves_of_one():
    private, public = joining.new_key()
    key = load_pem_private_key(private.encode(), None)
    half = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert (half.decode(), key.key_size) == (public, 2048)
    assert joining.new_key() != (private, public)


def test_only_a_machine_that_joined_may_leave(fleet):
    with pytest.raises(
        SalternError, match="machine prod1: not one that joined over ssh; `salt-cloud -d prod1`"
    ):
        joining.leave(fleet, "prod1", lambda words: None)
