"""salt-cloud itself, with the files of etc/clouds, makes and ends machines of a fake DigitalOcean."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import yaml
from cloud_fakes import DigitalOcean
from cloud_stand import keep_keys
from saltern import master
from saltern.fleet import REPOSITORY, Fleet


@dataclass
class Rented:
    """A fleet whose machines are rented. :ivar cloud: run salt-cloud"""

    fleet: Fleet
    fake: DigitalOcean
    cloud: Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def rented(make_fleet) -> Iterator[Rented]:
    fleet = make_fleet(machines={})
    master.configure(fleet)
    keep_keys(fleet)
    folder = fleet.etc / "clouds" / "digitalocean"
    with DigitalOcean(looks=1).serving() as fake:
        path = folder / "cloud.providers.d" / "digitalocean.conf"
        shipped = yaml.safe_load(path.read_text())
        shipped["digitalocean"] |= {
            "api_root": f"http://127.0.0.1:{fake.port}",
            "minion": {"master": "10.110.0.2"},
            "patience": {"quota": 3},
        }
        path.write_text(yaml.safe_dump(shipped))

        def cloud(*arguments: str, token: str = "a token") -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [master.program("salt-cloud"), "-c", str(folder), "-y", "--log-level=error", *arguments],
                capture_output=True, text=True, timeout=280, check=False,
                env={**os.environ, "DIGITALOCEAN_TOKEN": token, "PYTHONPATH": str(REPOSITORY / "services")},
            )  # fmt: skip

        yield Rented(fleet, fake, cloud)


def keys(fleet: Fleet) -> list[str]:
    """The minions whose keys the master accepts."""
    return sorted(path.name for path in (fleet.pki / "master" / "minions").iterdir())


def test_a_map_of_machines_is_made_side_by_side_with_their_keys_and_ended_without_a_trace(rented: Rented):
    names = ["prod1", "prod2", "proxy1"]
    plan = rented.fleet.state_dir / "some.map"
    plan.write_text(json.dumps({"prod": ["prod1", "prod2"], "proxy": ["proxy1"]}))
    done = rented.cloud("-P", "-m", str(plan), "--out=json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert rented.fake.names() == names
    assert keys(rented.fleet) == names
    assert {name: about["memory"] for name, about in rented.fleet.inventory().items()} == {
        "prod1": 1024,
        "prod2": 1024,
        "proxy1": 2048,
    }
    for droplet in rented.fake.droplets.values():
        document = yaml.safe_load(droplet["user_data"])
        public = next(f for f in document["write_files"] if f["path"] == "/etc/salt/pki/minion/minion.pub")
        accepted = (rented.fleet.pki / "master" / "minions" / droplet["name"]).read_text()
        assert public["content"].strip() == accepted.strip()
        role = droplet["name"].rstrip("0123456789")
        assert f"saltern-role:{role}" in droplet["tags"]
    listed = json.loads(rented.cloud("-Q", "--out=json").stdout)["digitalocean"]["libcloud"]
    assert sorted(listed) == names
    done = rented.cloud("-d", *names)
    assert done.returncode == 0, done.stdout + done.stderr
    assert rented.fake.names() == []
    assert keys(rented.fleet) == []
    assert rented.fleet.inventory() == {}


def test_what_a_cloud_refuses_ends_the_command_with_one_line_and_no_key(rented: Rented):
    rented.fake.limit = 0
    done = rented.cloud("-p", "prod", "prod6")
    assert "will exceed your droplet limit" in done.stdout + done.stderr
    assert keys(rented.fleet) == []
    done = rented.cloud("-p", "prod", "prod6", token="")
    assert done.returncode != 0
    said = [
        line for line in (done.stdout + done.stderr).splitlines() if "no key: set DIGITALOCEAN_TOKEN" in line
    ]
    assert len(said) == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert keys(rented.fleet) == []
