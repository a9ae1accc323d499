"""How long a machine's programs waited for a processor that its limit allows and the host did not give.

On a host that promised more processors than it has, a machine whose programs are ready all the time may use a fifth of
its limit: what it uses says that all is well. The kernel counts the time in which something was ready and did not run
(pressure stall information, `Documentation/accounting/psi.rst`, the line `some`). Where one program waits at least one
processor was lacking, so that time counts as use of one. A machine of its own needs none of this: what its hypervisor
kept from it is `steal`, which psutil counts as used. The file is also `salt/_utils/waiting.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

CGROUP = "/sys/fs/cgroup"


def seconds(ignore: Any = (), cgroup: str = CGROUP) -> tuple[float, float]:
    """Seconds something waited since some start: in the machine, and in the services that are not to count.

    Zero where it is not counted: no container, or a kernel without pressure stall information.
    """
    for root in (Path(cgroup), Path(cgroup, "unified")):
        # The root of the hierarchy is the host's and has no events.
        if (root / "cgroup.events").exists() and (found := _some(root / "cpu.pressure")) is not None:
            services = (_some(root / f"system.slice/{name}.service/cpu.pressure") for name in ignore)
            return found, sum(each or 0.0 for each in services)
    return 0.0, 0.0


def _some(path: Path) -> float | None:
    try:
        text = path.read_text()
    except OSError:
        return None  # not counted, or the service ended while we looked
    for line in text.splitlines():
        if line.startswith("some "):
            return int(line.rpartition("total=")[2]) / 1e6
    return None


def percent(before: dict[str, Any], after: dict[str, Any]) -> float:
    """Per cent of the machine's limit that was lacking between two looks.

    :param before: ``at`` (monotonic seconds), ``waited`` (as `seconds` tells); :param after: and ``cpus``
    """
    passed = after["at"] - before["at"]
    machine, ignored = (new - old for new, old in zip(after["waited"], before["waited"], strict=True))
    # A service that was started anew counts from zero.
    lacking = max(0.0, min(machine, passed) - max(0.0, ignored))
    return 100 * lacking / (passed * after["cpus"]) if passed > 0 and after["cpus"] > 0 else 0.0
