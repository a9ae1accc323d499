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
from saltern import secrets, signing
from saltern.local import machine

MASTER, SECOND = "ops2", "ops3"
MACHINES = ("proxy1", "redis1", "prod1", "staging1", "ops1")
TOKEN = "DIGITALOCEAN_TOKEN=a token"
PKI = "/var/lib/saltern/saltern/pki/master"
# A port of this host that its machines may reach: nobody's here, no master runs on it.
API_PORT = 4506
STEP_SECONDS = 900
# What a host that runs all of it at once does to beacons is no news; and rented machines take their time.
CALM = (
    ("beacons.sls", "high: 50", "high: 100"),
    ("scaling.sls", "auto: true", "auto: false"),
    ("scaling.sls", "serve_s: 180", "serve_s: 900"),
    ("scaling.sls", "configure_s: 60", "configure_s: 300"),
)


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

    def answering(self, master: str = MASTER) -> set[str]:
        done = self.bare.run(master, "salt", "--out=json", "--static", "-t", "10", "*", "test.ping")
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


# Two masters -----------------------------------------------------------------------------------------------------


# What the other master would do about an event that both heard it does by then.
SETTLE_SECONDS = 3
STATE = "/var/lib/saltern/saltern"
HIGH = {"percent": 97.0, "high": 50, "low": 40, "since": 1.0}


def run_on(production: Production, master: str, *command: str) -> str:
    return production.bare.do(master, *command, timeout=STEP_SECONDS)


def notes(production: Production, master: str) -> list[str]:
    told = production.bare.run(master, "saltern", "status", "--json", timeout=STEP_SECONDS)
    return json.loads(told.stdout)["notes"] if told.returncode == 0 else []


def leads(production: Production, master: str) -> bool:
    """It leads, and nothing is wrong with the other."""
    return notes(production, master) == ["this master leads"]


def known(production: Production, master: str) -> str:
    """What a master knows: its own key, its minions', the fleet's secrets and machines."""
    shared = (
        f"cd {STATE} && cat secrets.json pki/master/master.pem pki/master/minions/* machines/*/machine.json"
    )
    return run_on(production, master, "sh", "-c", shared)


def journalled(production: Production, master: str, kind: str) -> int:
    tail = ("salt-run", "--out=json", "journal.tail", f"kind={kind}", "count=1000")
    return len(json.loads(run_on(production, master, *tail)))


def staging_is_hot(production: Production, master: str) -> None:
    """staging1's minion is given what its beacon would say, and tells all masters, as it does with every beacon."""
    kept = json.loads((production.bare.root(master) / STATE.lstrip("/") / "secrets.json").read_text())
    tag = "salt/beacon/staging1/cpu/high"
    payload = signing.sign(secrets.event_key(kept["events"], "staging1"), "staging1", tag, HIGH)
    said = {"beacons": [{"tag": tag, "data": {**payload, "id": "staging1"}, "beacon_name": "cpu"}]}
    run_on(production, master, "salt", "staging1", "event.fire", json.dumps(said), "__beacons_return")


def turned_off_once(production: Production, master: str) -> None:
    """A canary that is on is turned off by what staging1 feels, and that is one line in the journal."""
    before = journalled(production, master, "canary.off")
    run_on(production, master, "salt-run", "canary.on")
    staging_is_hot(production, master)
    wait_for(lambda: journalled(production, master, "canary.off") > before, 180, "the canary is off")
    time.sleep(SETTLE_SECONDS)
    assert journalled(production, master, "canary.off") == before + 1


def trusted(production: Production) -> None:
    """Root of each master may log in to the other."""
    keys = {}
    for name in (MASTER, SECOND):
        run_on(production, name, "apt-get", "-qy", "--no-install-recommends", "install", "openssh-server")
        ssh = production.bare.root(name) / "root/.ssh"
        if not (ssh / "id_ed25519").exists():
            run_on(
                production, name, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/root/.ssh/id_ed25519"
            )
        (ssh / "known_hosts").unlink(missing_ok=True)
        keys[name] = (ssh / "id_ed25519.pub").read_text()
    for name, other in ((MASTER, SECOND), (SECOND, MASTER)):
        (production.bare.root(name) / "root/.ssh/authorized_keys").write_text(keys[other])


@pytest.fixture(scope="module")
def second(production: Production) -> str:
    """A second master beside the first, as docs/production.md tells; its address."""
    bare = production.bare
    address = bare.make(SECOND, memory=1536)
    bare.checkout(SECOND)
    trusted(production)
    production.master("saltern", "install-master", "--peer", address)
    production.master("saltern", "backup", "/root/second.tar.gz")
    kept = (bare.root(MASTER) / "root/second.tar.gz").read_bytes()
    (bare.root(SECOND) / "root/second.tar.gz").write_bytes(kept)
    run_on(
        production, SECOND, f"{SOURCE}/saltern", "restore", "/root/second.tar.gz",
        "--address", address, "--peer", production.address,
    )  # fmt: skip
    production.master("salt-cloud", "-y", "-a", "start", "staging1")
    wait_for(lambda: production.answering() == set(MACHINES), 300, "every minion answers the first master")
    production.master("salt", "*", "state.apply", "common", "queue=True")
    return address


def test_a_second_master_knows_what_the_first_does_and_each_has_every_machine_in_its_hands(
    production: Production, second: str
):
    for name in (MASTER, SECOND):
        wait_for(lambda name=name: production.answering(name) == set(MACHINES), 600, f"all answer {name}")
    wait_for(lambda: leads(production, MASTER), 180, "the first master leads, and shares")
    assert known(production, SECOND) == known(production, MASTER)
    assert notes(production, SECOND) == [f"{production.address} leads"]
    for name in (MASTER, SECOND):
        said = json.loads(
            run_on(production, name, "salt", "--out=json", "staging1", "state.apply", "common", "queue=True")
        )
        assert {each["result"] for each in said["staging1"].values()} == {True}
        assert not any(each["changes"] for each in said["staging1"].values())
    refused = production.bare.run(SECOND, "saltern", "leave", "prod1")
    assert "saltern: leave: another master leads (`saltern status` says which); do it there" in refused.stderr
    run_on(
        production,
        MASTER,
        "sh",
        "-c",
        f"cp {STATE}/pki/master/minions/prod1 {STATE}/pki/master/minions/prod9",
    )
    wait_for(lambda: known(production, SECOND) == known(production, MASTER), 180, "an accepted key is both's")
    run_on(production, MASTER, "rm", f"{STATE}/pki/master/minions/prod9")
    wait_for(
        lambda: known(production, SECOND) == known(production, MASTER), 180, "a key taken back is both's"
    )
    turned_off_once(production, SECOND)


def test_a_master_is_lost_and_the_other_answers_once_and_no_visitor_notices(
    production: Production, second: str
):
    bare = production.bare
    with Visitors(proxy(production)) as visitors:
        wait_for(lambda: len(visitors.answers) > 20, 60, "visitors are served")
        lost = time.monotonic()
        machine.stop(bare.fleet, MASTER, orderly=False)
        wait_for(lambda: "this master leads" in notes(production, SECOND), 180, "the second master leads")
        print(f"the second master led {time.monotonic() - lost:.0f} s after the first was gone")
        turned_off_once(production, SECOND)
        # It has the cloud in its hands, and the first one's wishes are its own: one machine, wished for once.
        run_on(production, SECOND, "salt-run", "scale.out", "prod", "wait=600")
    assert set(visitors.answers) == {200}
    assert production.region.names() == sorted((*MACHINES, "prod2"))


def test_the_first_one_back_follows_and_is_told_what_it_missed(production: Production, second: str):
    machine.start(production.bare.fleet, MASTER)
    wait_for(lambda: leads(production, SECOND), 300, "the second master leads on, and shares")
    wait_for(lambda: known(production, MASTER) == known(production, SECOND), 300, "the first knows of prod2")
    everyone = {*MACHINES, "prod2"}
    wait_for(lambda: production.answering() == everyone, 600, "every machine answers the first one again")
    turned_off_once(production, MASTER)
    assert notes(production, MASTER) == [f"{second} leads"]


def test_a_master_may_leave_and_the_other_leads_alone(production: Production, second: str):
    production.bare.destroy(SECOND)
    wait_for(lambda: "this master leads" in notes(production, MASTER), 300, "the first leads")
    production.master("saltern", "install-master", "--peer", "")
    assert notes(production, MASTER) == []
    assert production.bare.run(MASTER, "systemctl", "is-active", "saltern-share").returncode != 0
    production.master("salt-cloud", "-y", "-d", "prod2")


def test_down_ends_every_machine_and_the_master_stays(production: Production):
    said = production.master("saltern", "down")
    assert "its master stays" in said
    assert production.region.names() == []
    assert production.status()["machines"] == []
    assert production.master("systemctl", "is-active", "saltern-master").strip() == "active"
