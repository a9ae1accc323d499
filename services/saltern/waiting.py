"""How long a machine's services waited for a processor that its limit allows and the host did not give.

On a host that promised more processors than it has, a machine whose programs are ready all the time may use a fifth of
its limit: what it uses says that all is well. The kernel counts how long each thread was ready and did not run (the
second number of `/proc/<pid>/task/<tid>/schedstat`, see sched-stats.rst of its documentation); used and waited together
are what was wanted. Pressure stall information would be one file to read, but weighs the time by processor, so that a
thread which moves from one to the other seems to wait half as long. A machine of its own needs none of this: what its
hypervisor kept from it is `steal`, which psutil counts as used. The file is also `salt/_utils/waiting.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

CGROUP = "/sys/fs/cgroup"
PROC = "/proc"


def seconds(ignore: Any = (), cgroup: str = CGROUP, proc: str = PROC) -> dict[str, float]:
    """Seconds each thread of the machine's services has waited since it started; not of those that do not count.

    Empty where the machine is no container.
    """
    found: dict[str, float] = {}
    for root in (Path(cgroup), Path(cgroup, "unified")):
        # The root of the hierarchy is the host's and has no events.
        if not (root / "cgroup.events").exists():
            continue
        for folder in root.glob("system.slice/*.service"):
            if folder.name.removesuffix(".service") not in ignore:
                found.update(_threads(folder, Path(proc)))
    return found


def _threads(folder: Path, proc: Path) -> dict[str, float]:
    found = {}
    try:
        for pid in (folder / "cgroup.procs").read_text().split():
            for task in (proc / pid / "task").iterdir():
                found[task.name] = int((task / "schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        pass  # a process or the service ended while we looked, or this kernel does not count
    return found


def percent(before: dict[str, Any], after: dict[str, Any]) -> float:
    """Per cent of the machine's limit that its services waited for between two looks.

    :param before: ``at`` (monotonic seconds), ``waited`` (as `seconds` tells); :param after: and ``cpus``
    """
    available = (after["at"] - before["at"]) * after["cpus"]
    if available <= 0:
        return 0.0
    # A thread that is new has waited since it started; a number may have been used before by another thread.
    waited = sum(max(0.0, now - before["waited"].get(thread, 0.0)) for thread, now in after["waited"].items())
    return 100 * min(waited, available) / available
