"""`./saltern up --cloud digitalocean`: the same fleet, on machines that a cloud's API makes."""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from bare_machines import bare_machines
from cloud_region import Region
from fleet_commands import NAME, run, saltern, wait_for
from saltern import master
from saltern.fleet import REPOSITORY, Fleet, home

MACHINES = ("proxy1", "redis1", "prod1", "staging1", "ops1")
TOKEN = {"DIGITALOCEAN_TOKEN": "a token"}


@dataclass
class Rented:
    """:ivar name: the fleet; :ivar options: what every command is told; :ivar region: the cloud"""

    name: str
    region: Region
    options: tuple[str, ...]
    up: str

    @property
    def fleet(self) -> Fleet:
        return Fleet.load(home() / self.name)

    def status(self) -> dict:
        done = saltern("status", "--fleet", self.name, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def cloud(self, *arguments: str):
        """salt-cloud, told nothing of which cloud; the token is kept with the fleet's secrets."""
        return run(*master.command(self.fleet, "salt-cloud", "-y", "--log-level=error", *arguments))


@pytest.fixture(scope="module")
def rented(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rented]:
    with bare_machines("r", 2) as bare:
        region = Region(looks=1, bare=bare)
        name = f"{NAME}c"
        pillar = shutil.copytree(REPOSITORY / "pillar", tmp_path_factory.mktemp("own") / "pillar")
        # What a host that runs all of it at once does to beacons is no news.
        for file, old, new in (
            ("beacons.sls", "high: 50", "high: 100"),
            ("scaling.sls", "auto: true", "auto: false"),
        ):
            text = (pillar / file).read_text()
            assert old in text
            (pillar / file).write_text(text.replace(old, new))
        options = ("--fleet", name, "--subnet", bare.fleet.subnet, "--pillar", str(pillar))
        with region.serving():
            own = {
                "api_root": f"http://127.0.0.1:{region.port}",
                "patience": {"poll": 1, "settle": 1, "base": 0.5},
            }
            (pillar / "clouds.sls").write_text(yaml.safe_dump({"clouds": {"digitalocean": own}}))
            try:
                done = saltern(
                    "up",
                    "--cloud",
                    "digitalocean",
                    "--machines",
                    ",".join(MACHINES),
                    *options,
                    env=TOKEN,
                    timeout=900,
                )
                assert done.returncode == 0, done.stdout + done.stderr[-3000:]
                yield Rented(name, region, options, done.stdout)
            finally:
                region.close()
                if (home() / name).exists():
                    saltern("down", "--fleet", name)


def test_one_word_makes_the_fleet_at_a_cloud_and_it_serves(rented: Rented):
    assert "5 machines ready" in rented.up
    assert rented.region.names() == sorted(MACHINES)
    told = rented.status()
    assert {each["id"]: each["state"] for each in told["machines"]} == dict.fromkeys(MACHINES, "running")
    assert told["notes"] == []

    def pools() -> set[str]:
        seen = set()
        for _ in range(20):
            with urllib.request.urlopen(told["urls"]["product"] + "version", timeout=60) as answer:
                seen.add(answer.headers["X-Saltern-Pool"])
        return seen

    wait_for(lambda: pools() == {"prod", "canary"}, 120, "production and canary serve")


def test_machines_are_tagged_and_came_with_a_key_that_the_master_knew(rented: Rented):
    for droplet in rented.region.droplets.values():
        role = droplet["name"].rstrip("0123456789")
        assert {f"saltern-fleet:{rented.name}", f"saltern-role:{role}"} <= set(droplet["tags"])
    accepted = rented.fleet.pki / "master" / "minions"
    assert sorted(path.name for path in accepted.iterdir()) == sorted(MACHINES)
    assert not list((rented.fleet.pki / "master" / "minions_pre").glob("*"))


def test_the_commands_of_every_day_mean_the_fleets_cloud(rented: Rented):
    listed = json.loads(rented.cloud("-Q", "--out=json").stdout)
    assert sorted(listed["digitalocean"]["libcloud"]) == sorted(MACHINES)
    done = rented.cloud("-p", "prod", "prod2")
    assert done.returncode == 0, done.stdout + done.stderr
    wait_for(lambda: "prod2" in serving(rented), 240, "prod2 serves")
    done = rented.cloud("-d", "prod2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "prod2" not in rented.region.names()


def serving(rented: Rented) -> set[str]:
    """The instances that have registered with a release."""
    return {each["id"] for each in rented.status()["machines"] if each["release"]}


def test_what_is_missing_is_one_line_and_nothing_is_made(rented: Rented, tmp_path: Path):
    before = rented.region.names()
    kept = json.loads(rented.fleet.secrets_file.read_text())
    assert kept["clouds"] == TOKEN
    done = saltern("up", "--fleet", f"{NAME}n", "--cloud", "digitalocean", env={"DIGITALOCEAN_TOKEN": ""})
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if line.startswith("saltern:")] == [
        "saltern: provider digitalocean: no key: set DIGITALOCEAN_TOKEN in the environment, or under \"clouds\" in "
        f"{home()}/{NAME}n/secrets.json"
    ]  # fmt: skip
    assert not (home() / f"{NAME}n").exists()
    done = saltern("up", "--cloud", "ec2", *rented.options)
    assert (
        f"its machines are at digitalocean, not ec2; `./saltern down --fleet {rented.name}` first"
        in done.stderr
    )
    assert rented.region.names() == before


def test_down_ends_every_machine_and_leaves_nothing(rented: Rented):
    state_dir = rented.fleet.state_dir
    done = saltern("down", "--fleet", rented.name)
    assert done.returncode == 0, done.stderr
    assert rented.region.names() == []
    assert not state_dir.exists()
