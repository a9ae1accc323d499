"""The whole of docs/production.md on this host: a master on a bare machine rents a fleet, is lost, and is restored.

The cloud is DigitalOcean's API, as the fakes have it; the machines behind it are real.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import yaml
from bare_machines import SOURCE, Bare, bare_machines
from cloud_region import Region
from fleet_commands import wait_for

MASTER = "ops2"
MACHINES = ("proxy1", "redis1", "prod1", "staging1", "ops1")
TOKEN = "DIGITALOCEAN_TOKEN=a token"
PKI = "/var/lib/saltern/saltern/pki/master"
# A port of this host that its machines may reach: nobody's here, no master runs on it.
API_PORT = 4506
STEP_SECONDS = 900
# What a host that runs all of it at once does to beacons is no news.
CALM = (("beacons.sls", "high: 50", "high: 100"), ("scaling.sls", "auto: true", "auto: false"))


@dataclass
class Production:
    """:ivar address: the master's; :ivar region: the cloud; :ivar said: what `up` said"""

    bare: Bare
    address: str
    region: Region
    said: str

    def master(self, *command: str) -> str:
        return self.bare.do(MASTER, *command, timeout=STEP_SECONDS)

    def status(self) -> dict:
        return json.loads(self.master("saltern", "status", "--json"))

    def serving(self) -> set[str]:
        """The instances that have registered with a release."""
        return {each["id"] for each in self.status()["machines"] if each["release"]}

    def answering(self) -> set[str]:
        done = self.bare.run(MASTER, "salt", "--out=json", "--static", "-t", "10", "*", "test.ping")
        answer = json.loads(done.stdout) if done.stdout.startswith("{") else {}
        return {name for name, value in answer.items() if value is True}


def new_master(bare: Bare) -> str:
    """A bare machine with this checkout, its pillar an operator's own; its address."""
    address = bare.make(MASTER, memory=1536)
    pillar = bare.checkout(MASTER) / "pillar"
    for file, old, new in CALM:
        text = (pillar / file).read_text()
        assert old in text
        (pillar / file).write_text(text.replace(old, new))
    own = {
        "api_root": f"http://{bare.fleet.gateway}:{API_PORT}",
        # On a starved host an answer is late, not lost.
        "timeout": 300,
        "patience": {"poll": 1, "settle": 1, "base": 0.5},
    }
    (pillar / "clouds.sls").write_text(yaml.safe_dump({"clouds": {"digitalocean": own}}))
    return address


@pytest.fixture(scope="module")
def production() -> Iterator[Production]:
    with bare_machines("r", 2) as bare:
        region = Region(looks=1, bare=bare)
        with region.serving((bare.fleet.gateway, API_PORT)):
            try:
                address = new_master(bare)
                bare.do(MASTER, f"{SOURCE}/saltern", "install-master", timeout=STEP_SECONDS)
                up = ("saltern", "up", "--cloud", "digitalocean", "--machines", ",".join(MACHINES))
                refused = bare.run(MASTER, *up)
                assert refused.returncode == 1
                assert (
                    "saltern: provider digitalocean: no key: set DIGITALOCEAN_TOKEN in the" in refused.stderr
                )
                assert region.names() == []
                done = bare.run(MASTER, "env", TOKEN, *up, timeout=STEP_SECONDS)
                assert done.returncode == 0, done.stdout + done.stderr[-3000:]
                yield Production(bare, address, region, done.stdout)
            finally:
                region.close()


def pools(address: str, requests: int = 20) -> set[str | None]:
    """Who served."""
    seen = set()
    for _ in range(requests):
        connection = http.client.HTTPConnection(address, timeout=60)
        connection.request("GET", "/version")
        answer = connection.getresponse()
        answer.read()
        seen.add(answer.headers["X-Saltern-Pool"] if answer.status == 200 else None)
        connection.close()
    return seen


def proxy(production: Production) -> str:
    told = production.status()
    return next(each["address"] for each in told["machines"] if each["id"] == "proxy1")


def test_one_word_makes_the_fleet_at_a_cloud_and_it_serves(production: Production):
    assert "5 machines ready" in production.said
    assert production.region.names() == sorted(MACHINES), production.region.requests
    told = production.status()
    assert {each["id"]: each["state"] for each in told["machines"]} == dict.fromkeys(MACHINES, "running")
    assert told["notes"] == []
    address = proxy(production)
    wait_for(lambda: pools(address) == {"prod", "canary"}, 180, "production and canary serve")


def test_machines_are_tagged_and_came_with_a_key_that_the_master_knew(production: Production):
    for droplet in production.region.droplets.values():
        role = droplet["name"].rstrip("0123456789")
        assert {"saltern-fleet:saltern", f"saltern-role:{role}"} <= set(droplet["tags"])
    keys = json.loads(production.master("salt-key", "-L", "--out=json"))
    assert (keys["minions"], keys["minions_pre"]) == (sorted(MACHINES), [])
    assert production.master("find", "/var/lib/saltern/saltern", "!", "-user", "salt").strip() == ""


def test_the_commands_of_every_day_mean_the_fleets_cloud(production: Production):
    listed = json.loads(production.master("salt-cloud", "-Q", "--out=json"))
    assert sorted(listed["digitalocean"]["libcloud"]) == sorted(MACHINES)
    # No token is given: it is kept with the fleet's secrets.
    production.master("salt-cloud", "-y", "-p", "prod", "prod2")
    wait_for(lambda: "prod2" in production.serving(), 300, "prod2 serves")
    production.master("salt-cloud", "-y", "-d", "prod2")
    assert "prod2" not in production.region.names()


class Visitors(threading.Thread):
    """Somebody who asks all the time. :ivar answers: the status of each answer, or what went wrong"""

    def __init__(self, address: str) -> None:
        super().__init__(name="visitors")
        self.address, self.answers, self.leave = address, [], threading.Event()

    def run(self) -> None:
        while not self.leave.wait(0.05):
            connection = http.client.HTTPConnection(self.address, timeout=60)
            try:
                connection.request("GET", "/")
                answer = connection.getresponse()
                answer.read()
                self.answers.append(answer.status)
            except OSError as error:
                self.answers.append(error)
            finally:
                connection.close()

    def __enter__(self) -> Visitors:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.leave.set()
        self.join()


def test_a_master_that_is_lost_is_restored_elsewhere_and_nobody_notices(production: Production):
    bare = production.bare
    production.master("saltern", "backup", "/root/kept.tar.gz")
    kept = (bare.root(MASTER) / "root/kept.tar.gz").read_bytes()
    keys = production.master("sh", "-c", f"cat {PKI}/minions/* {PKI}/master.pub")
    processes = [bare.do(name, "systemctl", "show", "-P", "MainPID", "salt-minion") for name in MACHINES]
    with Visitors(proxy(production)) as visitors:
        wait_for(lambda: len(visitors.answers) > 20, 60, "visitors are served")
        bare.destroy(MASTER)
        began = time.monotonic()
        assert new_master(bare) == production.address
        (bare.root(MASTER) / "root/kept.tar.gz").write_bytes(kept)
        production.master(f"{SOURCE}/saltern", "restore", "/root/kept.tar.gz")
        restored = time.monotonic() - began
        wait_for(lambda: production.answering() == set(MACHINES), 600, "every minion answers the new master")
        all_there = time.monotonic() - began
    print(
        f"restored in {restored:.0f} s, every minion answers after {all_there:.0f} s, {len(visitors.answers)} served"
    )
    assert set(visitors.answers) == {200}
    assert production.master("sh", "-c", f"cat {PKI}/minions/* {PKI}/master.pub") == keys
    assert [
        bare.do(name, "systemctl", "show", "-P", "MainPID", "salt-minion") for name in MACHINES
    ] == processes
    # The new master has the fleet in its hands.
    production.master("salt-cloud", "-y", "-a", "stop", "staging1")
    states = {each["id"]: each["state"] for each in production.status()["machines"]}
    assert states == dict.fromkeys(MACHINES, "running") | {"staging1": "stopped"}


def test_down_ends_every_machine_and_the_master_stays(production: Production):
    said = production.master("saltern", "down")
    assert "its master stays" in said
    assert production.region.names() == []
    assert production.status()["machines"] == []
    assert production.master("systemctl", "is-active", "saltern-master").strip() == "active"
