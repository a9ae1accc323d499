"""Bare machines: real ones made by the local cloud on a network of their own, that are nobody's minions yet."""

from __future__ import annotations

import ipaddress
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fleet_commands import NAME, SUBNET, wait_for
from saltern.fleet import REPOSITORY, Fleet, home
from saltern.local import cgroup, image, kernel, machine, network
from saltern.local.cgroup import Limits
from saltern.local.image import WHEELHOUSE
from saltern.production import releases

SOURCE = "/root/saltern"
# Instead of the image's own minion, which nobody has told anything.
NO_MINION = {"etc/systemd/system/salt-minion.service": ("[Service]\nExecStart=/bin/true\n", 0o644)}
CLEAN = ("env", "-i", "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8")


@dataclass(frozen=True)
class Bare:
    """Machines on a network of their own. :ivar fleet: whose names and addresses they have; it has no master"""

    fleet: Fleet

    def make(self, name: str, memory: int = 1024, files: Mapping[str, tuple[str, int]] | None = None) -> str:
        """Make a machine, in place of one by that name; its address."""
        if name in self.fleet.inventory():
            machine.destroy(self.fleet, name)
        made = machine.create(
            self.fleet, name, Limits(memory, 2), "bare", NO_MINION if files is None else files
        )
        # Until then its own start still clears /tmp away.
        wait_for(
            lambda: self.run(name, "systemctl", "-q", "is-active", "basic.target").returncode == 0, 180, name
        )
        return made.address

    def root(self, name: str) -> Path:
        """Its files, as this host sees them."""
        return machine.folder(self.fleet, name) / "root"

    def destroy(self, name: str) -> None:
        machine.destroy(self.fleet, name)

    def run(self, name: str, *command: str, timeout: float = 300, stdin: bytes | None = None):
        """Run a command on a machine as root; what it prints is text."""
        pid = machine._process(self.fleet, name, "systemd")
        assert pid is not None, f"{name} does not run"
        done = subprocess.run(
            ["nsenter", f"--target={pid}", "--all", f"--wd={self.root(name)}", *CLEAN, *command],
            input=stdin, capture_output=True, timeout=timeout, check=False,
        )  # fmt: skip
        return subprocess.CompletedProcess(
            command, done.returncode, done.stdout.decode(), done.stderr.decode()
        )

    def do(self, name: str, *command: str, timeout: float = 300) -> str:
        """Run a command that must succeed; what it printed."""
        done = self.run(name, *command, timeout=timeout)
        assert done.returncode == 0, (
            f"{name}: {' '.join(command)}: {done.stdout[-1500:]}{done.stderr[-1500:]}"
        )
        return done.stdout

    def checkout(self, name: str) -> Path:
        """Bring this checkout to a machine, and the wheels that were fetched for it; where it is, seen from here."""
        target = self.root(name) / SOURCE.lstrip("/")
        for relative in releases.contents(REPOSITORY):
            copy = target / relative
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / relative, copy, follow_symlinks=False)
        shutil.copytree(home() / WHEELHOUSE, self.root(name) / "var/lib/saltern" / WHEELHOUSE)
        return target


@contextmanager
def bare_machines(suffix: str, offset: int) -> Iterator[Bare]:
    """Machines of one test.

    :param suffix: one letter, for the name of its network
    :param offset: its subnet is so many beyond the shared fleet's
    """
    network_of_live = ipaddress.IPv4Network(SUBNET)
    subnet = ipaddress.IPv4Network((int(network_of_live.network_address) + offset * 256, 24))
    name = f"{NAME}{suffix}"
    fleet = Fleet(name, str(subnet), home() / name)
    if not image.ready():
        image.build()
    fleet.save()
    try:
        kernel.need(fleet)
        network.up(fleet)
        yield Bare(fleet)
    finally:
        for each in [path.name for path in fleet.machines_dir.glob("*")]:
            machine.destroy(fleet, each)
        cgroup.kill(fleet.cgroup)
        cgroup.remove(fleet.cgroup)
        network.down(fleet)
        kernel.release(fleet)
        shutil.rmtree(fleet.state_dir)
