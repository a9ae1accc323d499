"""One local machine: made, started, stopped, resized, destroyed.

A machine is an overlay on the image, booted by systemd-nspawn in its own network and control groups. Its folder
under the fleet's state folder holds `machine.json` (what it is), `upper` (what it changed) and `console.log`.
"""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from saltern.errors import SalternError
from saltern.fleet import LOCAL, Fleet, role_of, write_atomically
from saltern.local import cgroup, image, network
from saltern.local.cgroup import Limits
from saltern.shell import last_line, run

SPACE_NEEDED_MIB = 300
STOP_SECONDS = 20.0
BOOT_SECONDS = 15.0
# A file that must sort before Debian's own 80-container-host0.network, or DHCP wins.
NETWORK_FILE = "etc/systemd/network/10-saltern.network"


@dataclass(frozen=True)
class Machine:
    """What a machine is, as its `machine.json` has it.

    :ivar made: whether its making was finished; a machine that is not made is cleared away by the next create
    """

    id: str
    address: str
    limits: Limits
    image: str
    profile: str
    since: float
    made: bool

    def to_json(self) -> str:
        values = {
            "id": self.id, "address": self.address, "memory": self.limits.memory, "cpus": self.limits.cpus,
            "image": self.image, "profile": self.profile, "since": self.since, "made": self.made,
        }  # fmt: skip
        return json.dumps(values, indent=1) + "\n"

    @classmethod
    def from_dict(cls, values: Mapping) -> Machine:
        return cls(
            values["id"], values["address"], Limits(values["memory"], values["cpus"]), values["image"],
            values["profile"], values["since"], values["made"],
        )  # fmt: skip


def folder(fleet: Fleet, name: str) -> Path:
    """The folder of a machine.

    :raises SalternError: the id is no role's; it could lead anywhere
    """
    role_of(name)
    return fleet.machines_dir / name


def group(fleet: Fleet, name: str) -> str:
    return f"{fleet.cgroup}/{name}"


def load(fleet: Fleet, name: str) -> Machine:
    """The machine called `name`.

    :raises SalternError: there is none
    """
    values = fleet.inventory().get(name)
    if values is None:
        raise SalternError(
            f"machine {name!r}: fleet {fleet.name} has none by this name; `salt-cloud -Q` lists them"
        )
    return Machine.from_dict(values)


def host_name(machine: Machine) -> str:
    """What the machine is called on the host: its address in hex, so that its interface there, `vb-` and this, is
    never shortened and is no other fleet's, whose subnet is another.
    """
    return f"m{int(ipaddress.IPv4Address(machine.address)):08x}"


def is_running(fleet: Fleet, name: str) -> bool:
    return bool(cgroup.processes(group(fleet, name)))


def create(
    fleet: Fleet, name: str, limits: Limits, profile: str, files: Mapping[str, tuple[str, int]]
) -> Machine:
    """Make a machine and boot it. One that died half-made is cleared away first.

    :param files: path inside the machine → (content, mode), written before it boots
    :raises SalternError: the name is taken or no role's, the disk or the subnet is full, the image is missing
    """
    role_of(name)
    if not image.ready():
        raise SalternError("image: not built yet; `./saltern up` builds it")
    if (free := image.free_mib(fleet.state_dir)) < SPACE_NEEDED_MIB:
        raise SalternError(
            f"disk: {free} MiB free for {fleet.state_dir}, and a machine needs {SPACE_NEEDED_MIB}; free some"
        )
    with fleet.locked(f"machine-{name}"):
        found = fleet.inventory().get(name)
        if found and found["made"]:
            raise SalternError(
                f"machine {name}: there is one already; `salt-cloud -d {name}` first, or take another name"
            )
        address = found["address"] if found else None
        _clear(fleet, name)
        machine = _reserve(fleet, name, limits, profile, address)
        try:
            _lay(fleet, machine, files)
            _boot(fleet, machine)
        except BaseException:
            _clear(fleet, name)
            raise
        return _keep(fleet, machine, made=True)


def reserve(fleet: Fleet, name: str) -> Machine:
    """Fix the address of a machine that is yet to be made, so that others can be told it. Harmless if it is made.

    :raises SalternError: the id is no role's, or the subnet is full
    """
    role_of(name)
    with fleet.locked(f"machine-{name}"):
        if found := fleet.inventory().get(name):
            return Machine.from_dict(found)
        return _reserve(fleet, name, Limits(128, 1), "", None)


def _reserve(fleet: Fleet, name: str, limits: Limits, profile: str, address: str | None) -> Machine:
    """Take a free address, or keep the one it had; the machine's file on disk is the reservation."""
    with fleet.locked("addresses"):
        taken = set(fleet.addresses().values())
        if address is None or address in taken:
            address = network.free_address(fleet, taken)
        machine = Machine(name, address, limits, image.key(), profile, round(time.time(), 3), made=False)
        return _keep(fleet, machine, made=False)


def _keep(fleet: Fleet, machine: Machine, **changes: object) -> Machine:
    machine = Machine(**{**machine.__dict__, **changes})
    write_atomically(folder(fleet, machine.id) / "machine.json", machine.to_json())
    return machine


def _mount(fleet: Fleet, machine: Machine) -> Path:
    home = folder(fleet, machine.id)
    root = home / "root"
    for each in (home / "upper", home / "work", root):
        each.mkdir(parents=True, exist_ok=True)
    if not os.path.ismount(root):
        lower = image.images() / machine.image / "root"
        if not lower.exists():
            raise SalternError(
                f"machine {machine.id}: its image {machine.image} is gone; destroy and create it"
            )
        options = f"lowerdir={lower},upperdir={home / 'upper'},workdir={home / 'work'}"
        run(["mount", "-t", "overlay", "overlay", "-o", options, str(root)])
    return root


def _lay(fleet: Fleet, machine: Machine, files: Mapping[str, tuple[str, int]]) -> None:
    root = _mount(fleet, machine)
    own = {
        NETWORK_FILE: (
            f"[Match]\nName=host0\n[Network]\nAddress={machine.address}/{fleet.network.prefixlen}\n"
            f"Gateway={fleet.gateway}\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n",
            0o644,
        ),
        "etc/hostname": (f"{machine.id}\n", 0o644),
        "etc/hosts": (f"127.0.0.1 localhost\n{machine.address} {machine.id}\n", 0o644),
    }
    for path, (text, mode) in {**own, **files}.items():
        write_atomically(root / path.lstrip("/"), text, mode)
    resolver = Path("/run/systemd/resolve/resolv.conf")  # where the host's resolver is its own loopback
    shutil.copy(resolver if resolver.exists() else "/etc/resolv.conf", root / "etc/resolv.conf")


def _boot(fleet: Fleet, machine: Machine) -> None:
    home = folder(fleet, machine.id)
    command = [
        "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--settings=no", "--link-journal=no",
        "--resolv-conf=off", "--timezone=off", "--console=pipe", f"--machine={host_name(machine)}",
        f"--hostname={machine.id}", f"--directory={home / 'root'}", f"--network-bridge={fleet.bridge}",
        "--boot",
    ]  # fmt: skip

    _drop_link(machine)
    leader = cgroup.popen(group(fleet, machine.id), machine.limits, command, home / "console.log")
    # The machine is up once its own init runs; the program that boots it says what is wrong by ending.
    end = time.monotonic() + BOOT_SECONDS
    while _process(fleet, machine.id, "systemd") is None:
        if leader.poll() is not None or time.monotonic() > end:
            raise SalternError(f"machine {machine.id}: did not boot: {last_words(fleet, machine.id)}")
        time.sleep(0.02)


def _drop_link(machine: Machine) -> None:
    """Remove what a machine that ended left of its network: the kernel takes its time, the next one cannot wait."""
    network.delete_link(f"vb-{host_name(machine)}")


def last_words(fleet: Fleet, name: str) -> str:
    """The last line on a machine's console that says what happened, and where the rest is."""
    path = folder(fleet, name) / "console.log"
    text = path.read_text(errors="replace") if path.exists() else ""
    # nspawn's own farewell after a failure; the line before it is the reason.
    lines = [line for line in text.splitlines() if "we can't allow that" not in line]
    return f"{last_line(chr(10).join(lines))} (all of it: {path})"


def start(fleet: Fleet, name: str) -> None:
    """Boot a stopped machine; one that runs is left alone.

    :raises SalternError: there is none, or it does not boot
    """
    with fleet.locked(f"machine-{name}"):
        machine = load(fleet, name)
        if not is_running(fleet, name):
            _mount(fleet, machine)
            _boot(fleet, machine)


def favour(fleet: Fleet, names: Iterable[str], times: float) -> None:
    """Have machines get, all together, so many times the processor time of one beside them that is as busy, where
    processors are short: as if they had their own. Once (1.0) is like all others. Those that do not run are left alone,
    and so are those elsewhere.

    :raises SalternError: the host does not let us
    """
    names = [*names] if fleet.cloud == LOCAL else []
    for name in names:
        with fleet.locked(f"machine-{name}"):
            if is_running(fleet, name):
                cgroup.prefer(group(fleet, name), max(1.0, times / len(names)))


def stop(fleet: Fleet, name: str, *, orderly: bool = True) -> None:
    """Shut a machine down: by its own init where `orderly`, else, or after 20 s, at once.

    :raises SalternError: there is none
    """
    with fleet.locked(f"machine-{name}"):
        load(fleet, name)
        if orderly and (leader := _process(fleet, name, "systemd-nspawn")):
            os.kill(leader, signal.SIGTERM)
            end = time.monotonic() + STOP_SECONDS
            while is_running(fleet, name) and time.monotonic() < end:
                time.sleep(0.05)
        cgroup.kill(group(fleet, name))
        cgroup.remove(group(fleet, name))


def _process(fleet: Fleet, name: str, program: str) -> int | None:
    """The first process of the machine that runs `program`: `systemd-nspawn` boots it, `systemd` is its init."""
    for pid in cgroup.processes(group(fleet, name)):
        try:
            if Path(f"/proc/{pid}/comm").read_text().strip() == program:
                return pid
        except (FileNotFoundError, ProcessLookupError):
            continue
    return None


def destroy(fleet: Fleet, name: str) -> None:
    """End the machine and remove all that was its own; one that died half-made as well.

    :raises SalternError: there is none
    """
    with fleet.locked(f"machine-{name}"):
        if not folder(fleet, name).exists():
            load(fleet, name)
        _clear(fleet, name)


def _clear(fleet: Fleet, name: str) -> None:
    cgroup.kill(group(fleet, name))
    cgroup.remove(group(fleet, name))
    home = folder(fleet, name)
    if found := fleet.inventory().get(name):
        _drop_link(Machine.from_dict(found))
    end = time.monotonic() + 5
    while os.path.ismount(home / "root"):
        try:
            run(["umount", str(home / "root")])
        except SalternError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
    if home.exists():
        # The reservation goes last: until then nobody else takes the address.
        for child in home.iterdir():
            if child.name != "machine.json":
                shutil.rmtree(child) if child.is_dir() else child.unlink()
        shutil.rmtree(home)


def resize(fleet: Fleet, name: str, memory: int | None = None, cpus: float | None = None) -> Machine:
    """Change a machine's limits while it runs.

    :param memory: MiB, or None to leave it
    :param cpus: processors, or None to leave it
    :raises SalternError: there is none, the limits are not valid or the kernel refuses them
    """
    with fleet.locked(f"machine-{name}"):
        machine = load(fleet, name)
        limits = Limits(
            machine.limits.memory if memory is None else memory, machine.limits.cpus if cpus is None else cpus
        )
        if is_running(fleet, name):
            cgroup.limit(group(fleet, name), limits)
        return _keep(fleet, machine, limits=limits)


def describe(fleet: Fleet) -> dict[str, dict]:
    """Every machine with what a person asks for: its state, address, limits and use."""
    answer = {}
    for name, values in fleet.inventory().items():
        running = is_running(fleet, name)
        state = "running" if running else "stopped"
        answer[name] = {
            **values,
            "state": state if values["made"] else "half-made",
            "usage": cgroup.usage(group(fleet, name)) if running else None,
        }
    return answer
