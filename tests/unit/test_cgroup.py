"""Control groups of machines on cgroup v1 and v2, on a tree of files that stands in for the kernel's."""

from __future__ import annotations

import pytest
from saltern.errors import SalternError
from saltern.local import cgroup
from saltern.local.cgroup import Limits

GROUP = "saltern-test/prod1"


@pytest.fixture
def v2(tmp_path):
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    return tmp_path


@pytest.fixture
def v1(tmp_path):
    for name in ("pids", "memory", "cpu", "systemd", "blkio"):
        (tmp_path / name).mkdir()
    return tmp_path


def files(root) -> dict[str, str]:
    return {path.relative_to(root).as_posix(): path.read_text() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("limits", "v2", "writes"),
    [
        (
            Limits(384, 1),
            True,
            [
                ("", "memory.max", "402653184"),
                ("", "memory.swap.max", "0"),
                ("", "cpu.max", "100000 100000"),
                ("", "pids.max", "2048"),
            ],
        ),
        (
            Limits(384, 1),
            False,
            [
                ("memory", "memory.limit_in_bytes", "402653184"),
                ("cpu", "cpu.cfs_period_us", "100000"),
                ("cpu", "cpu.cfs_quota_us", "100000"),
                ("pids", "pids.max", "2048"),
            ],
        ),
        (Limits(128, 0.05), False, [("cpu", "cpu.cfs_quota_us", "5000")]),
        (Limits(1024 * 1024, 2.5), True, [("", "memory.max", str(2**40)), ("", "cpu.max", "250000 100000")]),
    ],
)
def test_limits_become_these_writes(limits, v2, writes):
    named = {file for _, file, _ in writes}
    assert [write for write in cgroup.settings(limits, v2=v2) if write[1] in named] == writes


@pytest.mark.parametrize(
    ("memory", "cpus", "words"),
    [
        (127, 1, "memory 127: not between 128 and 1048576 MiB"),
        (1048577, 1, "memory 1048577: not between"),
        (-1, 1, "memory -1"),
        (384, 0, "cpus 0: not between 0.05 and 1024 processors"),
        (384, 1025, "cpus 1025: not between"),
        (384, float("nan"), "cpus nan"),
        (384, float("inf"), "cpus inf"),
    ],
)
def test_limits_no_machine_can_live_in_are_refused(memory, cpus, words):
    with pytest.raises(SalternError, match=words):
        Limits(memory, cpus)


def test_on_v2_a_group_gets_its_controllers_from_above_and_its_limits(v2):
    entries = cgroup.make(GROUP, Limits(384, 1), v2)
    assert entries == [v2 / GROUP / "cgroup.procs"]
    written = files(v2)
    assert written["cgroup.subtree_control"] == "+memory +cpu +pids"
    assert written["saltern-test/cgroup.subtree_control"] == "+memory +cpu +pids"
    assert written[f"{GROUP}/memory.max"] == "402653184"
    assert written[f"{GROUP}/cpu.max"] == "100000 100000"
    # This kernel counts no swap: there is no file to write to.
    assert f"{GROUP}/memory.swap.max" not in written


def test_on_v2_swap_is_forbidden_where_the_kernel_counts_it(v2):
    (v2 / GROUP).mkdir(parents=True)
    (v2 / GROUP / "memory.swap.max").write_text("max")
    cgroup.make(GROUP, Limits(384, 1), v2)
    assert files(v2)[f"{GROUP}/memory.swap.max"] == "0"


def test_on_v1_a_group_is_made_in_every_hierarchy_that_is_there(v1):
    entries = cgroup.make(GROUP, Limits(384, 0.5), v1)
    assert entries == [v1 / each / GROUP / "cgroup.procs" for each in ("pids", "memory", "cpu", "systemd")]
    assert files(v1) == {
        f"memory/{GROUP}/memory.limit_in_bytes": "402653184",
        f"cpu/{GROUP}/cpu.cfs_period_us": "100000",
        f"cpu/{GROUP}/cpu.cfs_quota_us": "50000",
        f"pids/{GROUP}/pids.max": "2048",
    }


def test_a_group_without_limits_only_gathers_processes(v1):
    cgroup.make("saltern-test/_master", None, v1)
    assert files(v1) == {}
    assert (v1 / "pids" / "saltern-test" / "_master").is_dir()


def test_a_host_that_lets_no_groups_be_made_is_named(v1):
    (v1 / "memory" / "saltern-test").write_text("in the way")
    with pytest.raises(SalternError, match=f"cgroup {GROUP}: .*machines need writable control groups"):
        cgroup.make(GROUP, Limits(384, 1), v1)


def test_a_limit_the_kernel_refuses_is_named(v1):
    cgroup.make(GROUP, None, v1)
    (v1 / "memory" / GROUP / "memory.limit_in_bytes").mkdir()
    with pytest.raises(SalternError, match=rf"{GROUP}: memory\.limit_in_bytes = 402653184: Is a directory"):
        cgroup.limit(GROUP, Limits(384, 1), v1)


def test_processes_of_groups_below_count_too(v1):
    below = v1 / "pids" / GROUP / "init.scope"
    below.mkdir(parents=True)
    (v1 / "pids" / GROUP / "cgroup.procs").write_text("30\n10\n")
    (below / "cgroup.procs").write_text("20\n10\n")
    assert cgroup.processes(GROUP, v1) == [10, 20, 30]
    assert cgroup.processes("saltern-test/prod2", v1) == []


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_a_group_is_removed_with_all_below_and_removing_it_again_is_nothing(kind, request):
    root = request.getfixturevalue(kind)
    for folder in cgroup.folders(GROUP, root):
        (folder / "system.slice" / "redis.service").mkdir(parents=True)
    cgroup.remove("saltern-test", root=root)
    cgroup.remove("saltern-test", root=root)
    assert not any("saltern" in path.name for path in root.rglob("*"))


def test_a_group_the_kernel_keeps_is_named(v2):
    cgroup.make(GROUP, None, v2)
    (v2 / GROUP / "cgroup.procs").write_text("")
    with pytest.raises(SalternError, match=r"prod1: cannot be removed: Directory not empty"):
        cgroup.remove(GROUP, deadline=0.05, root=v2)


def test_what_a_machine_uses_is_read_in_mebibytes_and_seconds(v1, tmp_path):
    (v1 / "memory" / GROUP).mkdir(parents=True)
    (v1 / "memory" / GROUP / "memory.usage_in_bytes").write_text(f"{64 * 2**20}\n")
    assert cgroup.usage(GROUP, v1) == {"memory": 64.0}
    (tmp_path / "cgroup.controllers").write_text("")
    (tmp_path / GROUP).mkdir(parents=True)
    (tmp_path / GROUP / "memory.current").write_text(f"{96 * 2**20}\n")
    (tmp_path / GROUP / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\n")
    assert cgroup.usage(GROUP, tmp_path) == {"memory": 96.0, "cpu_seconds": 2.5}


def test_a_group_is_preferred_by_its_weight(v2, tmp_path_factory):
    root = tmp_path_factory.mktemp("other")
    (root / "cpu" / GROUP).mkdir(parents=True)
    cgroup.prefer(GROUP, 4, root)
    assert (root / "cpu" / GROUP / "cpu.shares").read_text() == "4096"
    (v2 / GROUP).mkdir(parents=True)
    cgroup.prefer(GROUP, 4, v2)
    assert (v2 / GROUP / "cpu.weight").read_text() == "400"
    with pytest.raises(
        SalternError, match=r"saltern-test/none: saltern-test/none/cpu\.weight cannot be written"
    ):
        cgroup.prefer("saltern-test/none", 4, v2)
