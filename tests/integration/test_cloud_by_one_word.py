"""The same map on each cloud by changing one word: salt-cloud and libcloud's own clients, against the clouds' fakes."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import yaml
from cloud_fakes import Fake
from cloud_stand import fake_of, keep_keys
from fake_gce import key_file
from saltern import master, rented
from saltern.clouds.cloud import Wanted
from saltern.errors import SalternError
from saltern.fleet import REPOSITORY, Fleet

SECRETS = {
    "digitalocean": {"DIGITALOCEAN_TOKEN": "a token"},
    "ec2": {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "a secret"},
    "azure": {
        "AZURE_TENANT_ID": "tenant", "AZURE_SUBSCRIPTION_ID": "sub", "AZURE_CLIENT_ID": "client",
        "AZURE_CLIENT_SECRET": "a secret",
    },
    "openstack": {"OS_APPLICATION_CREDENTIAL_ID": "an id", "OS_APPLICATION_CREDENTIAL_SECRET": "a secret"},
    "linode": {"LINODE_TOKEN": "a token"},
    "vultr": {"VULTR_API_KEY": "a token"},
    "gce": {"GOOGLE_CREDENTIALS": key_file()},
}  # fmt: skip
OWN = {"ec2": {"image": "ami-12c6146b"}, "openstack": {"image": "0a1b-debian-12"}}
MAP = {"proxy": ["proxy1"], "redis": ["redis1"], "prod": ["prod1", "prod2"]}
NAMES = sorted(name for names in MAP.values() for name in names)


@dataclass
class Word:
    """A fleet at one cloud. :ivar secrets: what the environment holds"""

    fleet: Fleet
    fake: Fake
    secrets: dict[str, str]

    def cloud(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """salt-cloud, told nothing of which cloud it is."""
        return subprocess.run(
            master.command(self.fleet, "salt-cloud", "-y", "--log-level=error", *arguments),
            capture_output=True, text=True, timeout=300, check=False,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY / "services"), **environment},
        )  # fmt: skip


@pytest.fixture(params=list(SECRETS))
def word(request, make_fleet, tmp_path, monkeypatch) -> Iterator[Word]:
    cloud = request.param
    pillar = shutil.copytree(REPOSITORY / "pillar", tmp_path / "pillar")
    fleet = dataclasses.replace(
        make_fleet(machines={}, pillar_dir=pillar),
        cloud=cloud,
        address="10.99.0.2",
        known_as="salt.example.org",
    )
    fleet.save()
    with fake_of(cloud, looks=1) as fake:
        own = {
            **OWN.get(cloud, {}),
            "api_root": f"http://127.0.0.1:{fake.port}",
            "patience": {"poll": 0.2, "settle": 0.2},
        }
        (pillar / "clouds.sls").write_text(yaml.safe_dump({"clouds": {cloud: own}}))
        master.configure(fleet)
        keep_keys(fleet)
        for variable in (name for names in SECRETS.values() for name in names):
            monkeypatch.delenv(variable, raising=False)
        yield Word(fleet, fake, SECRETS[cloud])


def test_the_configuration_that_is_shipped_makes_a_machine_with_what_is_ones_own(word: Word):
    rented.keep_secrets(word.fleet, word.secrets)
    cloud = rented.cloud(word.fleet)
    size = next(iter(cloud.settings.sizes.values()))
    wanted = Wanted(
        "prod1", size, cloud.settings.image, cloud.settings.location, "", options=cloud.settings.options
    )
    node = cloud.create(wanted)
    assert (node.state, node.size, word.fake.names()) == ("running", size.id, ["prod1"])
    machines, _, notes = rented.describe(word.fleet)
    assert (machines["prod1"]["state"], notes) == ("running", [])
    cloud.destroy("prod1")
    assert word.fake.names() == []


@pytest.mark.parametrize("word", ("digitalocean", "ec2", "azure", "openstack"), indirect=True)
def test_a_map_is_made_known_and_ended_by_one_word(word: Word, tmp_path):
    rented.keep_secrets(word.fleet, word.secrets)
    (tmp_path / "some.map").write_text(json.dumps(MAP))
    done = word.cloud("-P", "-m", str(tmp_path / "some.map"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert word.fake.names() == NAMES
    accepted = word.fleet.pki / "master" / "minions"
    assert sorted(path.name for path in accepted.iterdir()) == NAMES
    machines, _, notes = rented.describe(word.fleet)
    assert {name: about["state"] for name, about in machines.items()} == dict.fromkeys(NAMES, "running")
    assert len({about["address"] for about in machines.values()}) == len(NAMES)
    assert notes == []
    for name, node in rented.cloud(word.fleet).made().items():
        role = name.rstrip("0123456789")
        assert (node.labels["saltern-fleet"], node.labels["saltern-role"]) == (word.fleet.name, role)
    rented._end_machines(word.fleet, lambda words: None)
    assert word.fake.names() == []
    assert list(accepted.iterdir()) == []
    assert word.fleet.inventory() == {}


def test_without_its_secrets_a_cloud_is_not_asked_and_the_first_that_lacks_is_named(word: Word):
    with pytest.raises(
        SalternError, match=rf"provider {word.fleet.cloud}: no \w+: set [A-Z_]+ in the env"
    ) as said:
        rented.settings(word.fleet)
    assert any(f"set {variable} in" in str(said.value) for variable in word.secrets)
    assert "\n" not in str(said.value)
    assert not word.fake.requests
    _, _, notes = rented.describe(word.fleet)
    assert [note.startswith("the cloud cannot be asked (provider") for note in notes] == [True]


def test_secrets_are_kept_with_the_fleets_own_and_a_new_one_replaces_the_old(word: Word):
    rented.keep_secrets(word.fleet, word.secrets)
    first = next(iter(word.secrets))
    rented.keep_secrets(word.fleet, {first: "newer"})
    kept = json.loads(word.fleet.secrets_file.read_text())
    assert kept["clouds"] == {**word.secrets, first: "newer"}
    assert word.fleet.secrets_file.stat().st_mode & 0o777 == 0o600
    rented.settings(word.fleet)
