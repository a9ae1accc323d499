"""What a machine uses of its processors and memory, and each of its services.

A container's own control group tells its figures, where psutil alone would tell the whole host's; on a machine of its
own psutil is right. Works on cgroup v2, on v1, and on v1 with the unified hierarchy beside it, where a container may
see the host's `cpuacct` and its own everything else. The file is also `salt/_utils/usage.py`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import psutil

CGROUP = "/sys/fs/cgroup"
PROC = "/proc"
MEBIBYTE = 1024 * 1024


def cpu(cgroup: str = CGROUP) -> tuple[float, float]:
    """Processor time used since some start, seconds, and how many processors the machine may use.

    :raises OSError: a file of the control group that is there cannot be read
    :raises ValueError: it holds no number
    """
    root, online = Path(cgroup), float(psutil.cpu_count() or 1)
    if (root / "memory.max").exists():  # v2, and not the root of it: a container
        quota, period = (
            (root / "cpu.max").read_text().split() if (root / "cpu.max").exists() else ("max", "1")
        )
        limit = online if quota == "max" else int(quota) / int(period)
        return _usage(root / "cpu.stat"), min(limit, online)
    if (used := _v1_used(root)) is not None and _v1_contained(root):
        quota_us = int((root / "cpu/cpu.cfs_quota_us").read_text())
        period_us = int((root / "cpu/cpu.cfs_period_us").read_text())
        return used, min(quota_us / period_us, online) if quota_us > 0 else online
    times = psutil.cpu_times()
    # guest time is counted in user time already
    idle = times.idle + getattr(times, "iowait", 0.0)
    counted = sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))
    return counted if counted else sum(times) - idle, online


def _v1_contained(root: Path) -> bool:
    """Whether these v1 groups are a container's: one of its limits is set."""
    quota = root / "cpu/cpu.cfs_quota_us"
    return (quota.exists() and int(quota.read_text()) > 0) or _v1_limit(root) < psutil.virtual_memory().total


def _v1_limit(root: Path) -> float:
    path = root / "memory/memory.limit_in_bytes"
    return int(path.read_text()) if path.exists() else float("inf")


def _v1_used(root: Path) -> float | None:
    if (root / "unified/cpu.stat").exists():
        return _usage(root / "unified/cpu.stat")
    # Mounted by itself, `cpuacct` may be the host's; mounted together with `cpu`, it is as much ours as that.
    joint = root / "cpu/cpuacct.usage"
    return int(joint.read_text()) / 1e9 if joint.exists() else None


def _usage(path: Path) -> float:
    for line in path.read_text().splitlines():
        name, _, value = line.partition(" ")
        if name == "usage_usec":
            return int(value) / 1e6
    raise ValueError(f"{path}: has no usage_usec")


def memory(cgroup: str = CGROUP) -> tuple[float, float]:
    """Memory in use and the most there may be, MiB. What can be dropped at once, old file cache, is not in use.

    :raises OSError: a file of the control group that is there cannot be read
    :raises ValueError: it holds no number
    """
    root = Path(cgroup)
    whole = psutil.virtual_memory()
    if (root / "memory.max").exists():
        text = (root / "memory.max").read_text().strip()
        used, stat, cache = "memory.current", "memory.stat", "inactive_file"
        limit = whole.total if text == "max" else min(int(text), whole.total)
    elif _v1_contained(root) and _v1_limit(root) < float("inf"):
        used, stat, cache = "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"
        limit = min(_v1_limit(root), whole.total)
    else:
        return (whole.total - whole.available) / MEBIBYTE, whole.total / MEBIBYTE
    kept = dict(line.split() for line in (root / stat).read_text().splitlines())
    in_use = max(0, int((root / used).read_text()) - int(kept.get(cache, 0)))
    return in_use / MEBIBYTE, limit / MEBIBYTE


def services_cpu(cgroup: str = CGROUP) -> dict[str, float]:
    """Processor time each systemd service used since it started, seconds, by its name without `.service`."""
    found = {}
    for folder in _services(cgroup):
        try:
            found[_name(folder)] = _usage(folder / "cpu.stat")
        except (OSError, ValueError):
            continue  # it ended while we looked, or this hierarchy does not count processor time
    return found


def services_memory(cgroup: str = CGROUP, proc: str = PROC) -> dict[str, float]:
    """Memory of each systemd service, MiB: as its control group counts it, else what its processes keep resident."""
    found = {}
    for folder in _services(cgroup):
        try:
            found[_name(folder)] = _memory(folder, proc)
        except OSError:
            continue  # it ended while we looked
    return found


def service(name: str, cgroup: str = CGROUP, proc: str = PROC) -> tuple[float, float] | None:
    """One service's processor time since it started, seconds, and its memory, MiB; None when it does not run.

    Where its control group counts no processor time, that of its processes stands in.
    """
    for root in (Path(cgroup), Path(cgroup, "unified"), Path(cgroup, "systemd")):
        folder = root / "system.slice" / f"{name}.service"
        try:
            pids = (folder / "cgroup.procs").read_text().split()
            used = _usage(folder / "cpu.stat") if (folder / "cpu.stat").exists() else _used(pids, proc)
            return (used, _memory(folder, proc)) if pids else None
        except OSError:
            continue  # not in this hierarchy, or it ended while we looked
    return None


def _used(pids: list[str], proc: str) -> float:
    """Processor time of processes and of their children that have ended, seconds."""
    ticks = 0
    for pid in pids:
        # The name in the second field may hold spaces and brackets: what counts comes after the last one.
        fields = Path(proc, pid, "stat").read_text().rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _memory(folder: Path, proc: str) -> float:
    """Memory of one service's control group, MiB.

    :raises OSError: it ended while we looked
    """
    if (folder / "memory.current").exists():
        return int((folder / "memory.current").read_text()) / MEBIBYTE
    pages = 0
    for pid in (folder / "cgroup.procs").read_text().split():
        try:
            resident, shared = map(int, Path(proc, pid, "statm").read_text().split()[1:3])
        except OSError:
            continue  # this process ended while we looked
        pages += resident - shared
    return pages * os.sysconf("SC_PAGE_SIZE") / MEBIBYTE


def _services(cgroup: str) -> list[Path]:
    for root in (Path(cgroup), Path(cgroup, "unified"), Path(cgroup, "systemd")):
        if found := sorted(root.glob("system.slice/*.service")):
            return found
    return []


def _name(folder: Path) -> str:
    return folder.name.removesuffix(".service")


def cpu_percent(before: dict[str, Any], after: dict[str, Any], ignore: Any = ()) -> dict[str, Any] | None:
    """What happened between two looks: ``percent`` of the machine's own limit, and ``services`` by name.

    :param before: ``at`` (monotonic seconds), ``used``, ``cpus``, ``services``; as `cpu` and `services_cpu` tell
    :param ignore: services whose use is not counted
    :return: None when there is nothing to compare: too short, or a counter that started anew
    """
    seconds = after["at"] - before["at"]
    used = after["used"] - before["used"]
    # Under a fifth of a second the kernel's own accounting steps are most of what is seen.
    if not 0.2 <= seconds <= 60 or used < 0 or after["cpus"] <= 0:
        return None
    share = 100 / (seconds * after["cpus"])
    services = {
        name: max(0.0, (total - before["services"].get(name, 0.0)) * share)
        for name, total in after["services"].items()
    }
    percent = used * share - sum(services.get(name, 0.0) for name in ignore)
    return {"percent": min(100.0, max(0.0, percent)), "services": services}


def largest(services: dict[str, float], least: float = 1.0, most: int = 5) -> dict[str, float]:
    """The services that use most, rounded: what an event has room for."""
    ordered = sorted(services.items(), key=lambda each: (-each[1], each[0]))
    return {name: round(value, 1) for name, value in ordered[:most] if value >= least}
