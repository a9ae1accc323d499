"""What a rented machine is told at its first boot, carried out for real by cloud-init on a local machine."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import yaml
from fleet_commands import Live, wait_for
from saltern.clouds import userdata
from saltern.fleet import REPOSITORY, Fleet, home
from saltern.local import machine
from saltern.local.cgroup import Limits
from saltern.local.image import MINION_VENV, WHEELHOUSE

NAME = "prod99"
SEED = "var/lib/cloud/seed/nocloud"
JOIN_SECONDS = 800


def keys(live: Live, folder: Path) -> tuple[str, str]:
    """A new minion's keys: private, public."""
    done = live.salt("salt-key", f"--gen-keys={NAME}", f"--gen-keys-dir={folder}", "--keysize=2048")
    assert done.returncode == 0, done.stderr
    return (folder / f"{NAME}.pem").read_text(), (folder / f"{NAME}.pub").read_text()


def inside(fleet: Fleet, *command: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run a command on the machine as root, with no minion's help."""
    pid = machine._process(fleet, NAME, "systemd")
    clean = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive"]
    return subprocess.run(
        ["nsenter", f"--target={pid}", "--all", *clean, *command],
        capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip


def test_a_bare_machine_that_runs_its_user_data_ends_as_an_accepted_minion(live: Live, tmp_path: Path):
    fleet = Fleet.load(live.state_dir)
    private, public = keys(live, tmp_path)
    accepted = fleet.pki / "master" / "minions" / NAME
    config = yaml.safe_load((fleet.etc / "cloud").read_text())["minion"] | {"id": NAME}
    lock = (REPOSITORY / "requirements" / "machine.txt").read_text()
    told = userdata.write(
        userdata.Minion(
            NAME, yaml.safe_dump(config), private, public, (fleet.pki / "master" / "master.pub").read_text()
        ),
        userdata.pruned(lock, userdata.held_wheels(home() / WHEELHOUSE)),
    )
    files = {
        f"{SEED}/user-data": (told, 0o600),
        f"{SEED}/meta-data": (f"instance-id: {NAME}\n", 0o644),
        # The machine has its address already.
        "etc/cloud/cloud.cfg.d/99-network.cfg": ("network: {config: disabled}\n", 0o644),
        # Until cloud-init writes the unit there is no minion.
        "etc/systemd/system/salt-minion.service": ("[Service]\nExecStart=/bin/true\n", 0o644),
    }
    machine.create(fleet, NAME, Limits(1024, 2), "prod", files)
    try:
        accepted.write_text(public)
        assert inside(fleet, "rm", "-rf", MINION_VENV).returncode == 0
        wait_for(lambda: inside(fleet, "apt-get", "-q", "update").returncode == 0, 120, "apt-get update")
        done = inside(
            fleet, "apt-get", "-qy", "--no-install-recommends", "install", "cloud-init", timeout=400
        )
        assert done.returncode == 0, done.stderr
        done = inside(fleet, "cloud-init", "schema", "--config-file", f"/{SEED}/user-data")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Valid" in done.stdout
        for stage in (
            ["init", "--local"],
            ["init"],
            ["modules", "--mode=config"],
            ["modules", "--mode=final"],
        ):
            done = inside(fleet, "cloud-init", *stage, timeout=JOIN_SECONDS)
            assert done.returncode == 0, f"{stage}: {done.stdout[-1500:]}{done.stderr[-1500:]}"
        end = time.monotonic() + 120
        while live.answer("-L", NAME, "test.ping") != {NAME: True}:
            assert time.monotonic() < end, machine.last_words(fleet, NAME)
        assert live.answer("-L", NAME, "test.version") == {NAME: "3008.3"}
        assert inside(fleet, "hostname").stdout.strip() == NAME
        assert inside(fleet, "stat", "-c", "%a %U", "/etc/salt/pki/minion/minion.pem").stdout == "400 root\n"
        nobody = ["setpriv", "--reuid=65534", "--clear-groups"]
        refused = inside(fleet, *nobody, "curl", "-s", "--max-time", "3", "http://169.254.169.254/")
        assert refused.returncode == 7  # could not connect
        guard = inside(fleet, "nft", "list", "table", "inet", "saltern_metadata").stdout
        assert re.search(r"169\.254\.169\.254.* counter packets [1-9]", guard), guard
        again = inside(fleet, "/usr/local/sbin/saltern-join", timeout=JOIN_SECONDS)
        assert again.returncode == 0, again.stderr
        assert live.answer("-L", NAME, "test.ping") == {NAME: True}
    finally:
        done = live.salt("salt-cloud", "-y", "-d", NAME)
        accepted.unlink(missing_ok=True)
    assert done.returncode == 0, done.stderr
