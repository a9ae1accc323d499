"""Control groups of the machines: one group a machine, on cgroup v1, v2 and the mix of both.

A machine's leader is put into its group before it starts, so that the limits hold from the first instruction and
every process of the machine can be found, and ended, through the group alone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from saltern.errors import SalternError

ROOT = Path("/sys/fs/cgroup")
CPU_PERIOD_US = 100_000
MEBIBYTE = 1024 * 1024
# Hierarchies of cgroup v1 that a machine gets a group in; the first counts and ends its processes, because a
# machine cannot make groups of its own there.
V1_HIERARCHIES = ("pids", "memory", "cpu", "systemd", "unified")
TASKS_MAX = 2048


@dataclass(frozen=True)
class Limits:
    """What a machine may use.

    :ivar memory: MiB
    :ivar cpus: processors, fractions allowed
    """

    memory: int
    cpus: float

    def __post_init__(self) -> None:
        if not 128 <= self.memory <= 1024 * 1024:
            raise SalternError(f"memory {self.memory}: not between 128 and 1048576 MiB")
        if not 0.05 <= self.cpus <= 1024:
            raise SalternError(f"cpus {self.cpus:g}: not between 0.05 and 1024 processors")


def is_v2(root: Path = ROOT) -> bool:
    """Whether the host has only the unified hierarchy."""
    return (root / "cgroup.controllers").exists()


def settings(limits: Limits, *, v2: bool) -> list[tuple[str, str, str]]:
    """The (hierarchy, file, value) writes that make `limits` hold; the hierarchy is empty on cgroup v2."""
    quota = round(limits.cpus * CPU_PERIOD_US)
    if v2:
        return [
            ("", "memory.max", str(limits.memory * MEBIBYTE)),
            ("", "memory.swap.max", "0"),
            ("", "cpu.max", f"{quota} {CPU_PERIOD_US}"),
            ("", "pids.max", str(TASKS_MAX)),
        ]
    return [
        ("memory", "memory.limit_in_bytes", str(limits.memory * MEBIBYTE)),
        ("cpu", "cpu.cfs_period_us", str(CPU_PERIOD_US)),
        ("cpu", "cpu.cfs_quota_us", str(quota)),
        ("pids", "pids.max", str(TASKS_MAX)),
    ]


def folders(group: str, root: Path = ROOT) -> list[Path]:
    """The folders of `group` (`<fleet>/<machine>` or `<fleet>`), the counting one first."""
    if is_v2(root):
        return [root / group]
    return [root / hierarchy / group for hierarchy in V1_HIERARCHIES if (root / hierarchy).is_dir()]


def make(group: str, limits: Limits | None, root: Path = ROOT) -> list[Path]:
    """Make the group, with limits if given; return the `cgroup.procs` files a process must enter.

    :raises SalternError: the host does not let us
    """
    try:
        if is_v2(root):
            for parent in (root, root / group.split("/")[0]):
                parent.mkdir(exist_ok=True)
                (parent / "cgroup.subtree_control").write_text("+memory +cpu +pids")
        for folder in folders(group, root):
            folder.mkdir(parents=True, exist_ok=True)
        if limits:
            limit(group, limits, root)
    except OSError as error:
        raise SalternError(
            f"cgroup {group}: {error}; machines need writable control groups for memory, cpu and pids"
        ) from error
    return [folder / "cgroup.procs" for folder in folders(group, root)]


def popen(
    group: str, limits: Limits | None, command: list[str], console: Path, root: Path = ROOT
) -> subprocess.Popen:
    """Start a program as the first of its group and of a session of its own.

    :param console: the file that gets what it prints, at its end
    :raises SalternError: the group cannot be made
    """
    entries = make(group, limits, root)

    def enter() -> None:
        for entry in entries:
            entry.write_text(str(os.getpid()))

    with console.open("ab") as out:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd="/",
            start_new_session=True, preexec_fn=enter,
        )  # fmt: skip


def limit(group: str, limits: Limits, root: Path = ROOT) -> None:
    """Change the limits of a living group.

    :raises SalternError: a limit could not be set, for instance because more memory is in use
    """
    for hierarchy, file, value in settings(limits, v2=is_v2(root)):
        path = root / hierarchy / group / file
        if not path.exists() and file == "memory.swap.max":
            continue  # kernels without swap accounting
        try:
            path.write_text(value)
        except OSError as error:
            raise SalternError(f"{group}: {file} = {value}: {error.strerror}") from error


def prefer(group: str, times: float, root: Path = ROOT) -> None:
    """Give a living group so many times the processor time that a group beside it gets which wants as much.

    :raises SalternError: the host does not let us
    """
    file, value = (f"{group}/cpu.weight", 100) if is_v2(root) else (f"cpu/{group}/cpu.shares", 1024)
    try:
        (root / file).write_text(str(round(value * times)))
    except OSError as error:
        raise SalternError(f"{group}: {file} cannot be written: {error.strerror}") from error


def processes(group: str, root: Path = ROOT) -> list[int]:
    """Every process of the group and the groups below it."""
    found: set[int] = set()
    for folder in folders(group, root)[:1]:
        for path in folder.rglob("cgroup.procs"):
            try:
                found.update(int(pid) for pid in path.read_text().split())
            except OSError:
                continue  # the group went away while we read
    return sorted(found)


def kill(group: str, deadline: float = 10.0, root: Path = ROOT) -> None:
    """End every process of the group, and wait until none is left.

    :param deadline: seconds to wait
    :raises SalternError: some are still there
    """
    end = time.monotonic() + deadline
    while alive := processes(group, root):
        for pid in alive:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if time.monotonic() > end:
            raise SalternError(f"{group}: processes {alive} do not end")
        time.sleep(0.02)


def remove(group: str, deadline: float = 5.0, root: Path = ROOT) -> None:
    """Remove the empty group and those below it.

    :raises SalternError: the kernel keeps it
    """
    for folder in folders(group, root):
        end = time.monotonic() + deadline
        while folder.exists():
            try:
                for below in sorted(folder.rglob("*/"), key=lambda p: len(p.parts), reverse=True):
                    below.rmdir()
                folder.rmdir()
            except FileNotFoundError:
                continue
            except OSError as error:
                if time.monotonic() > end:
                    raise SalternError(f"{folder}: cannot be removed: {error.strerror}") from error
                time.sleep(0.02)


def usage(group: str, root: Path = ROOT) -> dict[str, float]:
    """Memory in use, MiB, and processor time used, seconds."""
    if is_v2(root):
        folder = root / group
        cpu = dict(line.split() for line in (folder / "cpu.stat").read_text().splitlines())
        return {
            "memory": int((folder / "memory.current").read_text()) / MEBIBYTE,
            "cpu_seconds": int(cpu["usage_usec"]) / 1e6,
        }
    memory = int((root / "memory" / group / "memory.usage_in_bytes").read_text())
    return {"memory": memory / MEBIBYTE}
