"""`saltern join`, `leave` and `move-machines`: machines become the fleet's, and find its master, over ssh.

It gets what a rented machine's user data brings, file by file, and runs the same script: the same locked minion, its
key accepted beforehand, and the master's key, so that it believes no other.
"""

from __future__ import annotations

import io
import ipaddress
import json
import shlex
import subprocess
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import yaml

from saltern import master
from saltern.clouds import userdata
from saltern.errors import SalternError
from saltern.fleet import REPOSITORY, Fleet, home, role_of, write_atomically
from saltern.local import image
from saltern.shell import last_line, run

JOINED = "joined"
KEY_BITS = 2048
CONNECT_SECONDS = 15
JOIN_SECONDS = 1800.0
ANSWER_SECONDS = 180.0
MOVED_AT_ONCE = 8
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Host:
    """A machine to be reached by ssh. :ivar user: root, or one who may sudo without a password; :ivar key: a file"""

    address: str
    user: str = "root"
    port: int = 22
    key: str = ""
    known_hosts: str = ""

    def command(self, *words: str) -> list[str]:
        """An ssh command line that runs `words` there as root, and asks nothing."""
        options = [
            "-o",
            "BatchMode=yes",
            "-o",
            f"ConnectTimeout={CONNECT_SECONDS}",
            "-o",
            "ServerAliveInterval=15",
        ]
        # Whoever answers first under an address is remembered; another who answers later is refused.
        options += ["-o", "StrictHostKeyChecking=accept-new"]
        if self.known_hosts:
            options += ["-o", f"UserKnownHostsFile={self.known_hosts}"]
        if self.key:
            options += ["-i", self.key, "-o", "IdentitiesOnly=yes"]
        there = words if self.user == "root" else ("sudo", "-n", *words)
        return ["ssh", *options, "-p", str(self.port), f"{self.user}@{self.address}", "--", shlex.join(there)]

    def run(self, *words: str, stdin: bytes = b"", timeout: float = 60) -> str:
        """Run a command there as root; what it printed.

        :raises SalternError: the machine is not reached, or the command fails; with the last thing it said
        """
        try:
            done = subprocess.run(
                self.command(*words), input=stdin, capture_output=True, timeout=timeout, check=False
            )
        except FileNotFoundError as error:
            raise SalternError("ssh: not installed; `apt-get install openssh-client`") from error
        except subprocess.TimeoutExpired as error:
            raise SalternError(
                f"{self.address}: {words[0]}: still running after {timeout:g} s; ended"
            ) from error
        said = done.stderr.decode(errors="replace")
        if done.returncode:
            raise SalternError(f"{self.user}@{self.address}: {words[0]}: {last_line(said)}")
        return done.stdout.decode(errors="replace")


def refusal(
    fleet: Fleet, name: str, address: str, here: Mapping[str, str], there: Mapping[str, str]
) -> str | None:
    """Why a machine cannot join, or None.

    :param here: this master's os-release; :param there: the machine's
    """
    known = fleet.inventory()
    if name in known:
        return f"machine {name}: there is one already, at {known[name]['address']}; take another name"
    if owner := next((who for who, about in known.items() if about["address"] == address), None):
        return f"address {address}: it is {owner}'s already"
    try:
        reached = ipaddress.IPv4Address(address) in fleet.network
    except ValueError:
        return f"address {address!r}: not an IPv4 address; say the one that the fleet reaches it at"
    if not reached:
        return (
            f"address {address}: not in {fleet.subnet}, and the master's firewall lets no other machine in; "
            "`install-master --subnet` with a network that has both"
        )
    release = [(about.get("ID"), about.get("VERSION_ID")) for about in (here, there)]
    if release[0] != release[1]:
        return (
            f"{address}: runs {' '.join(map(str, release[1]))}, and this master {' '.join(map(str, release[0]))}; what "
            "is installed is checked against what the master has, so both must be the same"
        )
    return None


def packed(files: Mapping[str, tuple[str, int]]) -> bytes:
    """Files by absolute path as a tar, to be unpacked at /; root's, whoever packs them."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for path, (text, mode) in files.items():
            about = tarfile.TarInfo(path.lstrip("/"))
            data = text.encode()
            about.size, about.mode, about.mtime = len(data), mode, int(time.time())
            tar.addfile(about, io.BytesIO(data))
    return out.getvalue()


def join(fleet: Fleet, name: str, host: Host, tell: Tell) -> None:
    """Make a machine one of the fleet's.

    :raises SalternError: it cannot be, or did not come; the master knows nothing of it then
    """
    role_of(name)
    there = image.parse_os_release(host.run("cat", "/etc/os-release"))
    if words := refusal(fleet, name, host.address, image.os_release(), there):
        raise SalternError(words)
    if not master.answers(fleet):
        raise SalternError(f"the Salt master does not answer at {fleet.gateway}; start it first")
    with fleet.locked(f"machine-{name}"):
        about = {"id": name, "address": host.address, "memory": _memory(host), "cpus": _cpus(host), "image": "",
                 "profile": JOINED, "since": round(time.time(), 3), "made": False}  # fmt: skip
        kept = fleet.machines_dir / name / "machine.json"
        accepted = fleet.pki / "master" / "minions" / name
        try:
            private, public = new_key()
            write_atomically(kept, json.dumps(about, indent=1) + "\n")
            write_atomically(accepted, public)
            tell(f"{host.address}: files, packages, the minion")
            files = packed(_files(fleet, name, private, public))
            host.run("tar", "-xzp", "--no-same-owner", "-C", "/", "-f", "-", stdin=files)
            host.run("sh", "-c", f"echo {name} >/etc/hostname && hostname {name}")
            host.run(userdata.JOIN_PATH, timeout=JOIN_SECONDS)
            # It may have been a minion already, of another master.
            host.run("systemctl", "restart", "salt-minion")
            tell(f"waiting for {name} to answer")
            _await(fleet, name)
            write_atomically(kept, json.dumps({**about, "made": True}, indent=1) + "\n")
        except BaseException:
            accepted.unlink(missing_ok=True)
            kept.unlink(missing_ok=True)
            if kept.parent.is_dir():
                kept.parent.rmdir()
            raise


def _files(fleet: Fleet, name: str, private: str, public: str) -> dict[str, tuple[str, int]]:
    config = yaml.safe_load((fleet.etc / "cloud").read_text())["minion"] | {"id": name}
    lock = (REPOSITORY / "requirements" / "machine.txt").read_text()
    minion = userdata.Minion(
        name, yaml.safe_dump(config), private, public, (fleet.pki / "master" / "master.pub").read_text()
    )
    return userdata.files(minion, userdata.pruned(lock, userdata.held_wheels(home() / image.WHEELHOUSE)))


def new_key() -> tuple[str, str]:
    """A new minion's keys, PEM: private, public. Of as many bits as salt-cloud makes them (etc/cloud)."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private.decode(), public.decode()


def _memory(host: Host) -> int:
    lines = dict(line.split(":", 1) for line in host.run("cat", "/proc/meminfo").splitlines())
    return int(lines["MemTotal"].split()[0]) // 1024


def _cpus(host: Host) -> int:
    return int(host.run("nproc"))


def _await(fleet: Fleet, name: str) -> None:
    end = time.monotonic() + ANSWER_SECONDS
    ping = master.command(fleet, "salt", "--out=json", "--static", "-t", "5", "-L", name, "test.ping")
    while True:
        done = subprocess.run(ping, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode == 0 and f'"{name}": true' in done.stdout:
            return
        if time.monotonic() > end:
            raise SalternError(
                f"{name}: no answer in {ANSWER_SECONDS:g} s; `journalctl -u salt-minion` there says why, such as that "
                f"{fleet.master} is not reached"
            )


# What is in minion.d goes over what the machine was told at first; the list is what the machine's states look after.
MOVE = """set -eu
mkdir -p /etc/salt/minion.d /etc/saltern
printf '%s\\n' "$@" >/etc/saltern/masters
printf 'master:\\n' >/etc/salt/minion.d/.masters.conf
printf -- '- %s\\n' "$@" >>/etc/salt/minion.d/.masters.conf
mv /etc/salt/minion.d/.masters.conf /etc/salt/minion.d/masters.conf
systemctl restart salt-minion
"""


def move(fleet: Fleet, hosts: Mapping[str, Host], tell: Tell) -> dict[str, str]:
    """Tell machines, over ssh, where the fleet's master is now; what went wrong, by machine.

    :param hosts: how each machine is reached
    """

    # In the order that the machine's states have them.
    masters = sorted(fleet.masters)

    def one(name: str) -> str:
        try:
            hosts[name].run("sh", "-c", MOVE, "sh", *masters)
        except SalternError as error:
            return str(error)
        tell(f"{name}: goes to {', '.join(masters)}")
        return ""

    with ThreadPoolExecutor(MOVED_AT_ONCE) as pool:
        faults = dict(zip(hosts, pool.map(one, hosts), strict=True))
    return {name: fault for name, fault in faults.items() if fault}


def leave(fleet: Fleet, name: str, tell: Tell) -> None:
    """Let a machine that joined go: its key is taken back, nobody is sent there. The machine itself is left as it is.

    :raises SalternError: it is not one that joined
    """
    role_of(name)
    about = fleet.inventory().get(name)
    if about is None or about["profile"] != JOINED:
        raise SalternError(
            f"machine {name}: not one that joined over ssh; `salt-cloud -d {name}` ends one that was made"
        )
    with fleet.locked(f"machine-{name}"):
        (fleet.pki / "master" / "minions" / name).unlink(missing_ok=True)
        (fleet.machines_dir / name / "machine.json").unlink()
        (fleet.machines_dir / name).rmdir()
    tell(f"{name}: its key is taken back")
    # What a machine's end does: it gets no more requests.
    told: Sequence[str] = ("event.send", f"salt/cloud/{name}/destroyed", f"data={{'name': '{name}'}}")
    run(master.command(fleet, "salt-run", *told), timeout=120)
