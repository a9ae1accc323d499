"""A master of its own machine, for real: installed, upgraded, restored; a machine joins it over ssh."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from bare_machines import SOURCE, Bare, bare_machines
from fleet_commands import run, wait_for

MASTER, MINION, OTHER, ELSEWHERE = "ops1", "prod1", "prod2", "ops2"
INSTALL_SECONDS = 600
SERVICES = ("saltern-master.service", "saltern-firewall.service", "saltern-backup.timer")


@dataclass
class Drill:
    """A master and a minion of its. :ivar bare: the machines; :ivar address: the master's; :ivar log: what was said;
    :ivar name: the master's machine"""

    bare: Bare
    address: str
    log: str
    name: str = MASTER

    def master(self, *command: str, timeout: float = 300) -> str:
        return self.bare.do(self.name, *command, timeout=timeout)

    def answers(self, minion: str = "prod1") -> bool:
        done = self.bare.run(
            self.name, "salt", "--out=json", "--static", "-t", "10", "-L", minion, "test.ping"
        )
        return done.returncode == 0 and json.loads(done.stdout) == {minion: True}


@pytest.fixture(scope="module")
def drill() -> Iterator[Drill]:
    with bare_machines("m", 1) as bare:
        address = bare.make(MASTER, memory=1536)
        bare.checkout(MASTER)
        done = bare.run(MASTER, f"{SOURCE}/saltern", "install-master", timeout=INSTALL_SECONDS)
        assert done.returncode == 0, done.stdout + done.stderr
        config = {"master": address, "id": MINION, "acceptance_wait_time": 1, "recon_max": 2000}
        bare.make(MINION, memory=512, files={"etc/salt/minion": (json.dumps(config), 0o640)})
        drill = Drill(bare, address, done.stdout + done.stderr)
        wait_for(lambda: MINION in keys(drill)["minions_pre"], 180, "the minion's key is offered")
        assert known(drill, "minions_pre") == offered(drill)
        drill.master("salt-key", "-y", "-a", MINION)
        wait_for(drill.answers, 180, "the minion answers")
        yield drill


def keys(drill: Drill) -> dict[str, list[str]]:
    return json.loads(drill.master("salt-key", "-L", "--out=json"))


def known(drill: Drill, state: str = "minions") -> str:
    """The minion's public key as its master has it."""
    folder = "/var/lib/saltern/saltern/pki/master"
    return drill.master("cat", f"{folder}/{state}/{MINION}").strip()


def offered(drill: Drill) -> str:
    """The minion's public key as it has it itself."""
    return drill.bare.do(MINION, "cat", "/etc/salt/pki/minion/minion.pub").strip()


def minion_process(drill: Drill) -> str:
    return drill.bare.do(MINION, "systemctl", "show", "-P", "MainPID", "salt-minion")


def test_the_master_is_run_by_systemd_as_a_user_of_its_own_behind_its_firewall(drill: Drill):
    assert f"master of fleet saltern: answers at {drill.address}" in drill.log
    for service in SERVICES:
        assert drill.master("systemctl", "is-active", service).strip() == "active", service
        assert drill.master("systemctl", "is-enabled", service).strip() == "enabled", service
    processes = [line.split() for line in drill.master("ps", "-eo", "user=,unit=").splitlines()]
    users = {user for user, unit in processes if unit == "saltern-master.service"}
    assert users == {"salt"}
    assert drill.master("find", "/var/lib/saltern/saltern", "!", "-user", "salt").strip() == ""
    assert drill.master("stat", "-c", "%a", "/var/lib/saltern/saltern").strip() == "750"
    assert "policy drop" in drill.master("nft", "list", "table", "inet", "saltern_master")
    drill.master("systemd-run", "--quiet", "/usr/bin/python3", "-m", "http.server", "9999")
    listens = ["/usr/bin/python3", "-c", "import socket; socket.create_connection(('127.0.0.1', 9999), 1)"]
    wait_for(lambda: drill.bare.run(MASTER, *listens).returncode == 0, 60, "a listener on the master")
    with pytest.raises(TimeoutError):
        socket.create_connection((drill.address, 9999), timeout=2)
    socket.create_connection((drill.address, 4505), timeout=60).close()
    drill.master("logrotate", "--debug", "/etc/logrotate.d/saltern-master")


def test_installed_again_it_changes_nothing_and_restarts_nothing(drill: Drill):
    before = drill.master("systemctl", "show", "-P", "MainPID", "saltern-master")
    said = drill.master(f"{SOURCE}/saltern", "install-master", timeout=INSTALL_SECONDS)
    assert "nothing had to change" in said
    assert drill.master("systemctl", "show", "-P", "MainPID", "saltern-master") == before


def test_an_upgrade_that_does_not_start_is_taken_back_and_one_that_does_is_kept(drill: Drill):
    source = drill.bare.root(MASTER) / SOURCE.lstrip("/")
    old = drill.master("readlink", "/opt/saltern/current").strip()
    shipped = (source / "etc/master").read_text()
    (source / "etc/master").write_text(shipped + "\nworker_threads: [\n")
    done = drill.bare.run(MASTER, f"{SOURCE}/saltern", "install-master", timeout=INSTALL_SECONDS)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{Path(old).name} is in use again" in done.stderr
    assert drill.master("readlink", "/opt/saltern/current").strip() == old
    wait_for(drill.answers, 180, "the minion answers the old release")
    (source / "etc/master").write_text(shipped + "\n# Another release.\n")
    drill.master(f"{SOURCE}/saltern", "install-master", timeout=INSTALL_SECONDS)
    assert drill.master("readlink", "/opt/saltern/current").strip() != old
    wait_for(drill.answers, 180, "the minion answers the new release")


def test_a_backup_that_is_cut_or_not_asked_for_changes_nothing(drill: Drill):
    wait_for(drill.answers, 180, "the minion answers")
    drill.master("saltern", "backup", "/root/kept.tar.gz")
    root = drill.bare.root(MASTER) / "root"
    assert (root / "kept.tar.gz").stat().st_mode & 0o777 == 0o600
    done = drill.bare.run(MASTER, "saltern", "restore", "/root/kept.tar.gz")
    assert done.returncode == 1
    assert "is kept here already; `--force` moves it aside" in done.stderr
    kept = (root / "kept.tar.gz").read_bytes()
    (root / "cut.tar.gz").write_bytes(kept[: len(kept) // 2])
    done = drill.bare.run(MASTER, "saltern", "restore", "--force", "/root/cut.tar.gz")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("saltern: /root/cut.tar.gz: not a whole backup")
    wait_for(drill.answers, 180, "the minion answers")


def test_a_restore_by_force_puts_what_was_kept_in_place_and_the_minion_goes_on_with_its_key(drill: Drill):
    key, process = known(drill), minion_process(drill)
    drill.master("saltern", "backup", "/root/kept.tar.gz")
    drill.master("salt-key", "-y", "-d", MINION)
    assert keys(drill)["minions"] == []
    drill.master("saltern", "restore", "--force", "/root/kept.tar.gz", timeout=INSTALL_SECONDS)
    wait_for(drill.answers, 300, "the minion answers the restored master")
    assert known(drill) == key == offered(drill)
    assert minion_process(drill) == process
    aside = drill.master("sh", "-c", "ls -d /var/lib/saltern/saltern.before-*").split()
    assert len(aside) == 1


def test_a_machine_that_exists_already_joins_over_ssh(drill: Drill, tmp_path: Path):
    # What an attempt before this one left.
    drill.bare.run(MASTER, "saltern", "leave", OTHER)
    (drill.bare.root(MASTER) / "root/.ssh/known_hosts").unlink(missing_ok=True)
    address = drill.bare.make(OTHER, memory=512)
    drill.bare.do(OTHER, "apt-get", "-qy", "--no-install-recommends", "install", "openssh-server")
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key"))
    key = drill.bare.root(MASTER) / "root/key"
    key.write_text((tmp_path / "key").read_text())
    key.chmod(0o600)
    refused = drill.bare.run(MASTER, "saltern", "join", OTHER, address, "--key", "/root/key")
    assert refused.returncode == 1
    assert f"saltern: root@{address}: cat: root@{address}: Permission denied" in refused.stderr
    ssh = drill.bare.root(OTHER) / "root/.ssh"
    ssh.mkdir(mode=0o700, exist_ok=True)
    (ssh / "authorized_keys").write_text((tmp_path / "key.pub").read_text())

    joined = drill.master("saltern", "join", OTHER, address, "--key", "/root/key", timeout=INSTALL_SECONDS)
    assert f"{OTHER}: joined in" in joined
    assert drill.bare.do(OTHER, "hostname").strip() == OTHER
    wait_for(lambda: drill.answers(OTHER), 180, "the machine that joined answers")
    told = json.loads(drill.master("saltern", "status", "--json"))["machines"]
    assert [(each["id"], each["address"], each["state"]) for each in told] == [(OTHER, address, "joined")]
    assert drill.master("find", "/var/lib/saltern/saltern", "!", "-user", "salt").strip() == ""

    drill.master("install", "-o", "salt", "-m", "600", "/root/key", "/var/lib/saltern/saltern/cache/key")
    ssh_key = "--priv=/var/lib/saltern/saltern/cache/key"
    said = drill.master("salt-ssh", "-i", ssh_key, "--user=root", "--out=json", "prod*", "test.ping")
    assert json.loads(said) == {OTHER: True}

    again = drill.bare.run(MASTER, "saltern", "join", OTHER, address, "--key", "/root/key")
    assert f"saltern: machine {OTHER}: there is one already, at {address}; take another name" in again.stderr


def test_machines_are_told_of_a_master_restored_at_another_address_and_may_leave_it(drill: Drill):
    drill.master("saltern", "backup", "/root/moved.tar.gz")
    kept = {name: (drill.bare.root(MASTER) / "root" / name).read_bytes() for name in ("moved.tar.gz", "key")}
    # Made first: it must not be given the address of the one that is lost.
    address = drill.bare.make(ELSEWHERE, memory=1536)
    assert address != drill.address
    drill.bare.destroy(MASTER)
    drill.bare.checkout(ELSEWHERE)
    for name, data in kept.items():
        path = drill.bare.root(ELSEWHERE) / "root" / name
        path.write_bytes(data)
        path.chmod(0o600)
    restore = (f"{SOURCE}/saltern", "restore", "/root/moved.tar.gz", "--address", address)
    drill.bare.do(ELSEWHERE, *restore, timeout=INSTALL_SECONDS)
    there = Drill(drill.bare, address, "", name=ELSEWHERE)
    assert keys(there)["minions"] == [MINION, OTHER]

    refused = there.bare.run(ELSEWHERE, "saltern", "move-machines", "--key", "/root/none", OTHER)
    assert refused.returncode == 1
    assert f"not moved; run it again with: {OTHER}" in refused.stderr
    said = there.master("saltern", "move-machines", "--key", "/root/key")
    assert f"1 machines go to {address}" in said
    wait_for(lambda: there.answers(OTHER), 180, "the machine answers the master at the new address")
    there.master("saltern", "leave", OTHER)
    assert keys(there)["minions"] == [MINION]
