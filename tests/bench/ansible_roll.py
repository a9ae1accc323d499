"""The same roll by Ansible, for the bench `delivery`: over ssh to the same machines, drained at HAProxy likewise."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from fleet_bench import REPOSITORY  # first: it says where the rest is
from fleet_hands import Plant, until
from saltern import artifact
from saltern.fleet import Fleet, role_of

FOLDER = REPOSITORY / "tests" / "bench" / "ansible_peer"
VENV = FOLDER / ".venv"
# HAProxy's socket, asked with what every machine has.
ASK = """#!/usr/bin/python3
import socket, sys
asked = socket.socket(socket.AF_UNIX)
asked.connect("{socket}")
asked.sendall(sys.argv[1].encode() + b"\\n")
while said := asked.recv(65536):
    sys.stdout.buffer.write(said)
"""
ASK_PATH = "usr/local/bin/haproxy-ask"
# What a production machine's highstate writes: copied as it is, so that there is nothing to change.
MANAGED = (
    "/etc/hosts", "/etc/timezone", "/etc/systemd/journald.conf.d/saltern.conf", "/etc/logrotate.d/saltern",
    "/etc/apt/apt.conf.d/20auto-upgrades", "/etc/product/config.json", "/etc/systemd/system/product.service",
)  # fmt: skip
SSH_S = 60.0
INSTALL = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qy", "--no-install-recommends", "install")


def install() -> bool:
    """Have Ansible in a virtual environment of its own, made at the first run: its requirements are not ours.

    Where it cannot be had, the bench says so and goes on.
    """
    stamp = VENV / "complete"
    try:
        if not stamp.exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)
            subprocess.run(
                [str(VENV / "bin" / "pip"), "install", "-q", "--disable-pip-version-check", "--require-hashes",
                 "-r", str(FOLDER / "requirements.txt")],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            stamp.touch()
    except subprocess.CalledProcessError as error:
        words = (error.stderr or str(error)).strip().splitlines()[-1]
        print(f"Ansible is not measured: {words}", file=sys.stderr)
        return False
    return True


def rolled(fleet: Fleet, plant: Plant, release: str, folder: Path, key: Path, whole: bool) -> float:
    """Roll a release over production with Ansible; seconds it took.

    Saltern's controller is stopped meanwhile: it would put the servers back as the registry wants them.

    :param key: what opens the machines; :param folder: for what is made on the way
    :param whole: whether it makes sure of all of a machine's highstate, as Saltern does, or of the release alone
    :raises RuntimeError: it failed
    """
    inventory = _inventory(fleet, plant, key)
    (folder / "inventory.json").write_text(json.dumps(inventory))
    rollout = plant.settings["rollout"]
    known = artifact.known(fleet)[release]
    given = {
        "release": release, "artifact": str(fleet.files / known.file), "home": f"/opt/product/releases/{release}",
        "ask": f"/{ASK_PATH}", "proxy": plant.proxy, "min_healthy_s": rollout["min_healthy_s"],
        "steady_s": rollout["steady_s"], "timezone": plant.settings["common"]["timezone"],
        "files": str(_files(fleet, plant, folder)),
        "managed": [name for name in MANAGED if _everywhere(fleet, plant, name)],
    }  # fmt: skip
    plant.inside(plant.proxy, "systemctl", "stop", "saltern-controller")
    began = time.monotonic()
    done = subprocess.run(
        [str(VENV / "bin" / "ansible-playbook"), "-i", str(folder / "inventory.json"), "-e", json.dumps(given),
         *(() if whole else ("--skip-tags", "whole")), str(FOLDER / "roll.yml")],
        capture_output=True, text=True, check=False,
        env={**os.environ, "ANSIBLE_CONFIG": str(FOLDER / "ansible.cfg"), "ANSIBLE_HOME": str(folder / "ansible")},
    )  # fmt: skip
    seconds = time.monotonic() - began
    plant.inside(plant.proxy, "systemctl", "start", "saltern-controller")
    if done.returncode:
        raise RuntimeError(f"ansible-playbook: {done.stdout[-2000:]}{done.stderr[-500:]}")
    return seconds


def _machines(fleet: Fleet, *roles: str) -> dict[str, str]:
    return {name: at for name, at in fleet.addresses().items() if role_of(name) in roles}


def open_ssh(plant: Plant, folder: Path) -> Path:
    """Have the proxy and production let a key in, which have no sshd by themselves; where the key is."""
    key = folder / "key"
    if not key.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    for name, address in _machines(plant.fleet, "prod", "proxy").items():
        root = plant.root(name)
        keys = root / "root" / ".ssh" / "authorized_keys"
        keys.parent.mkdir(mode=0o700, exist_ok=True)
        keys.write_text(key.with_suffix(".pub").read_text())
        keys.chmod(0o600)
        plant.inside(name, *INSTALL, "openssh-server")
        probe = ["ssh", "-i", str(key), "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o",
                 "UserKnownHostsFile=/dev/null", f"root@{address}", "true"]  # fmt: skip
        until(
            lambda probe=probe: not subprocess.run(probe, capture_output=True, check=False).returncode,
            SSH_S,
            f"ssh to {name}",
        )
    ask = plant.root(plant.proxy) / ASK_PATH
    ask.write_text(ASK.format(socket=plant.settings["traffic"]["admin_socket"]))
    ask.chmod(0o755)
    return key


def _everywhere(fleet: Fleet, plant: Plant, name: str) -> bool:
    return all((plant.root(id_) / name.lstrip("/")).exists() for id_ in _machines(fleet, "prod"))


def _files(fleet: Fleet, plant: Plant, folder: Path) -> Path:
    """Where the machines' own files are, as they are now."""
    files = folder / "files"
    for id_ in _machines(fleet, "prod"):
        for name in MANAGED:
            there, here = plant.root(id_) / name.lstrip("/"), files / id_ / name.lstrip("/")
            if there.exists():
                here.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(there, here)
    return files


def _inventory(fleet: Fleet, plant: Plant, key: Path) -> dict[str, object]:
    """Where the machines are, and what HAProxy calls them."""
    reach = {"ansible_user": "root", "ansible_ssh_private_key_file": str(key)}
    slots = {server.addr: server.name for server in plant.runtime.servers("prod")}
    hosts = {
        name: {"ansible_host": address, "slot": slots[address], **reach}
        for name, address in sorted(_machines(fleet, "prod").items())
    }
    proxy = {plant.proxy: {"ansible_host": fleet.addresses()[plant.proxy], **reach}}
    return {"all": {"children": {"prod": {"hosts": hosts}, "proxy": {"hosts": proxy}}}}
