"""How long a machine's services waited for a processor, read from control groups of every kind."""

from __future__ import annotations

from pathlib import Path

import pytest
from saltern.waiting import percent, seconds

SERVICES = {
    "system.slice/product.service/cgroup.procs": "10\n20\n",
    "system.slice/salt-minion.service/cgroup.procs": "30\n",
    "system.slice/ended.service/cgroup.procs": "77\n",
}
THREADS = {
    "10/task/10/schedstat": "900 2500000000 5\n",
    "10/task/11/schedstat": "900 500000000 5\n",
    "20/task/20/schedstat": "0 0 0\n",
    "30/task/30/schedstat": "1 9000000000 1\n",
}
WAITED = {"10": 2.5, "11": 0.5, "20": 0.0}


def lay(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return str(root)


@pytest.mark.parametrize(
    ("groups", "threads", "found"),
    [
        ({"cgroup.events": "", **SERVICES}, THREADS, WAITED),
        (
            {f"unified/{name}": text for name, text in {"cgroup.events": "", **SERVICES}.items()},
            THREADS,
            WAITED,
        ),
        # The host's own root, no service, and a kernel that does not count.
        (SERVICES, THREADS, {}),
        ({"cgroup.events": ""}, THREADS, {}),
        ({"cgroup.events": "", **SERVICES}, {"10/task/10/schedstat": ""}, {}),
        ({"cgroup.events": "", **SERVICES}, {"10/task/10/stat": "", "20/task/20/stat": ""}, {}),
    ],
)
def test_waiting_is_read_where_the_kernel_counts_it(tmp_path: Path, groups, threads, found):
    cgroup, proc = lay(tmp_path / "cgroup", groups), lay(tmp_path / "proc", threads)
    assert seconds(["salt-minion"], cgroup, proc) == found


@pytest.mark.parametrize(
    ("passed", "before", "after", "cpus", "waited"),
    [
        (1.0, {}, {}, 1, 0),
        (1.0, {"1": 7.0}, {"1": 7.6}, 1, 60),
        (2.0, {"1": 7.0}, {"1": 7.6}, 1, 30),
        (1.0, {"1": 7.0}, {"1": 7.6}, 2, 30),
        (1.0, {"1": 7.0, "2": 0.0}, {"1": 7.6, "2": 0.1}, 1, 70),
        # A thread that is new, one that is over, and one whose number another one had.
        (1.0, {}, {"1": 0.2}, 1, 20),
        (1.0, {"1": 7.0}, {}, 1, 0),
        (1.0, {"1": 7.0}, {"1": 0.3}, 1, 0),
        # Many threads may wait for more than there can be.
        (1.0, {"1": 7.0}, {"1": 9.0}, 1, 100),
        (0.0, {"1": 7.0}, {"1": 7.6}, 1, 0),
    ],
)
def test_what_was_waited_for_is_a_share_of_the_limit(passed, before, after, cpus, waited):
    first = {"at": 100.0, "waited": before}
    assert percent(first, {"at": 100.0 + passed, "waited": after, "cpus": cpus}) == pytest.approx(waited)
