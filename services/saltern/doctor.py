"""What this machine lacks to run a fleet, each with its remedy."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from saltern import pillar
from saltern.errors import SalternError
from saltern.fleet import DEFAULT_MACHINES, Fleet
from saltern.local import cgroup, image, network

MEMORY_NEEDED_MIB = 3000
# Program → the Debian package that brings it.
PROGRAMS = {
    "systemd-nspawn": "systemd-container",
    "mmdebstrap": "mmdebstrap",
    "nft": "nftables",
    "ip": "iproute2",
    "mount": "mount",
}


@dataclass(frozen=True)
class Finding:
    """One thing looked at: `remedy` is empty where all is well."""

    what: str
    found: str
    remedy: str = ""


def examine(fleet: Fleet) -> Iterator[Finding]:
    """Look at everything `up` depends on."""
    root = os.geteuid() == 0
    yield Finding(
        "user", "root" if root else "not root", "" if root else "run it as root: sudo ./saltern doctor"
    )
    try:
        codename = image.os_release().get("VERSION_CODENAME", "?")
        image.host_sources()
        yield Finding("apt sources", f"this host's own for {codename}")
    except (SalternError, OSError) as error:
        yield Finding(
            "apt sources", str(error), "machines are made of this host's own release; add its apt source"
        )
    for program, package in PROGRAMS.items():
        at = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        yield Finding(program, at or "not installed", "" if at else f"apt-get install {package}")
    yield _cgroups()
    yield _overlay()
    yield _memory()
    free, needed = image.free_mib(fleet.state_dir), image.SPACE_NEEDED_MIB
    yield Finding(
        "disk", f"{free} MiB free for {fleet.state_dir}",
        "" if image.ready() or free >= needed else f"free {needed - free} MiB more, or move SALTERN_HOME",
    )  # fmt: skip
    user = network.clash(fleet, network.links())
    yield Finding(
        "subnet", f"{fleet.subnet} {'is used by ' + user if user else 'is free for ' + fleet.bridge}",
        "choose another with --subnet, such as 10.214.0.0/24" if user else "",
    )  # fmt: skip
    try:
        pillar.load(fleet.pillar_dir)
        yield Finding("pillar", "valid")
    except SalternError as error:
        yield Finding("pillar", str(error), "correct that file")
    yield Finding(
        "image", f"{image.key()} is built" if image.ready() else "not built yet; `./saltern up` builds it"
    )
    yield from _machines(fleet)


def _cgroups() -> Finding:
    kind = "v2" if cgroup.is_v2() else "v1"
    needed = (
        [cgroup.ROOT] if cgroup.is_v2() else [cgroup.ROOT / h for h in ("pids", "memory", "cpu", "systemd")]
    )
    lacking = [str(path) for path in needed if not os.access(path, os.W_OK)]
    if lacking:
        return Finding(
            "control groups", f"{kind}, {lacking[0]} cannot be written", "mount it, or leave the container"
        )
    return Finding("control groups", kind)


def _overlay() -> Finding:
    known = "overlay" in Path("/proc/filesystems").read_text()
    return Finding(
        "overlay", "known" if known else "unknown to this kernel", "" if known else "modprobe overlay"
    )


def _memory() -> Finding:
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) // 1024
    lacks = MEMORY_NEEDED_MIB - free
    return Finding(
        "memory", f"{free} MiB available",
        f"{lacks} MiB more are needed for the default fleet of {len(DEFAULT_MACHINES)}" if lacks > 0 else "",
    )  # fmt: skip


def _machines(fleet: Fleet) -> Iterator[Finding]:
    for name, about in fleet.inventory().items():
        if not about["made"]:
            yield Finding(name, "half-made", "`./saltern up` goes on with it; `salt-cloud -d` clears it")
