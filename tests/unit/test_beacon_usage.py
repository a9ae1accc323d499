"""What a machine uses, read from control groups of every kind."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from saltern import usage
from saltern.usage import MEBIBYTE, cpu, cpu_percent, largest, memory, services_cpu, services_memory

CONTAINER_V2 = {
    "memory.max": f"{400 * MEBIBYTE}\n",
    "memory.current": f"{300 * MEBIBYTE}\n",
    "memory.stat": f"anon 1\ninactive_file {100 * MEBIBYTE}\n",
    "cpu.max": "50000 100000\n",
    "cpu.stat": "usage_usec 2500000\nuser_usec 1\n",
}
# What systemd-nspawn shows on a host with both versions: its own groups, and the whole host's cpuacct.
CONTAINER_HYBRID = {
    "memory/memory.limit_in_bytes": f"{400 * MEBIBYTE}\n",
    "memory/memory.usage_in_bytes": f"{300 * MEBIBYTE}\n",
    "memory/memory.stat": f"cache 5\ninactive_file 7\ntotal_inactive_file {100 * MEBIBYTE}\n",
    "cpu/cpu.cfs_quota_us": "50000\n",
    "cpu/cpu.cfs_period_us": "100000\n",
    "cpuacct/cpuacct.usage": "999000000000\n",
    "unified/cpu.stat": "usage_usec 2500000\nuser_usec 1\n",
}
CONTAINER_V1 = {
    **{k: v for k, v in CONTAINER_HYBRID.items() if "unified" not in k and "cpuacct" not in k},
    "cpu/cpuacct.usage": "2500000000\n",
}


def lay(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return str(root)


@pytest.mark.parametrize("files", [CONTAINER_V2, CONTAINER_HYBRID, CONTAINER_V1], ids=["v2", "hybrid", "v1"])
def test_a_container_sees_its_own_use_and_limits(tmp_path, files):
    root = lay(tmp_path, files)
    assert cpu(root) == (2.5, 0.5)
    assert memory(root) == (200.0, 400.0)


def test_a_container_without_limits_has_the_whole_host_as_its_limit(tmp_path):
    root = lay(tmp_path, {**CONTAINER_V2, "memory.max": "max\n", "cpu.max": "max 100000\n"})
    assert cpu(root) == (2.5, psutil.cpu_count())
    assert memory(root) == (200.0, psutil.virtual_memory().total / MEBIBYTE)


def test_a_limit_beyond_what_there_is_limits_nothing(tmp_path):
    root = lay(tmp_path, {**CONTAINER_V2, "cpu.max": "99900000 100000\n", "memory.max": str(2**62)})
    assert cpu(root)[1] == psutil.cpu_count()
    assert memory(root)[1] == psutil.virtual_memory().total / MEBIBYTE


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"cpu.stat": "usage_usec 1\n"},  # the root of v2 has figures, but no limits
        {
            "memory/memory.limit_in_bytes": "9223372036854771712",
            "cpu/cpu.cfs_quota_us": "-1",
            "unified/cpu.stat": "usage_usec 1\n",
        },
    ],
    ids=["no control groups", "v2", "v1"],
)
def test_a_machine_of_its_own_sees_what_psutil_sees(tmp_path, files):
    root = lay(tmp_path, files)
    used, cpus = cpu(root)
    assert cpus == psutil.cpu_count()
    assert used == pytest.approx(sum(psutil.cpu_times()[:3]), rel=0.5)
    in_use, limit = memory(root)
    assert limit == psutil.virtual_memory().total / MEBIBYTE
    assert 0 < in_use < limit


@pytest.mark.parametrize(
    ("name", "text", "read"),
    [
        ("cpu.stat", "user_usec 1\n", cpu),
        ("cpu.stat", "usage_usec many\n", cpu),
        ("cpu.max", "fast\n", cpu),
        ("memory.current", "", memory),
        ("memory.max", "all\n", memory),
    ],
)
def test_a_file_that_holds_no_number_is_an_error_and_no_zero(tmp_path, name, text, read):
    root = lay(tmp_path, {**CONTAINER_V2, name: text})
    with pytest.raises(ValueError):
        read(root)


def test_a_file_that_went_away_is_an_error(tmp_path):
    root = lay(tmp_path, {k: v for k, v in CONTAINER_V2.items() if k != "memory.current"})
    with pytest.raises(OSError):
        memory(root)


@pytest.mark.parametrize("below", ["", "unified/"])
def test_services_are_seen_one_by_one(tmp_path, below):
    folder = f"{below}system.slice"
    root = lay(
        tmp_path,
        {
            f"{folder}/product.service/cpu.stat": "usage_usec 3000000\n",
            f"{folder}/product.service/cgroup.procs": "11\n12\n13\n",
            f"{folder}/salt-minion.service/cpu.stat": "usage_usec 500000\n",
            f"{folder}/salt-minion.service/memory.current": str(7 * MEBIBYTE),
            f"{folder}/odd.service/cpu.stat": "",
            f"{folder}/odd.service/cgroup.procs": "",
        },
    )
    proc = lay(tmp_path / "proc", {"11/statm": "900 512 256 1 0 1 0\n", "12/statm": "900 300 44 1 0 1 0\n"})
    assert services_cpu(root) == {"product": 3.0, "salt-minion": 0.5}
    # Process 13 has ended; pages of 4 KiB, without what is shared.
    expected = 512 * usage.os.sysconf("SC_PAGE_SIZE") / MEBIBYTE
    assert services_memory(root, proc) == {"product": expected, "salt-minion": 7.0, "odd": 0.0}


def look(at: float, used: float, cpus: float = 1.0, **services: float) -> dict:
    return {
        "at": at,
        "used": used,
        "cpus": cpus,
        "services": {k.replace("_", "-"): v for k, v in services.items()},
    }


@pytest.mark.parametrize(
    ("before", "after", "ignore", "percent"),
    [
        (look(10, 1), look(11, 1.5), (), 50),
        (look(10, 1, 0.5), look(11, 1.5, 0.5), (), 100),
        (look(10, 1, 2), look(12, 3, 2), (), 50),
        (look(10, 1), look(11, 9), (), 100),
        (look(10, 1, salt_minion=1), look(11, 1.9, salt_minion=1.7), ("salt-minion",), 20),
        (look(10, 1), look(11, 1.9, salt_minion=0.9), ("salt-minion",), 0),
        (look(10, 1, salt_minion=5), look(11, 1.9, salt_minion=0.1), ("salt-minion",), 90),
        (look(10, 1), look(11, 1.9), ("salt-minion",), 90),
    ],
)
def test_use_is_a_share_of_the_limit_without_what_does_not_count(before, after, ignore, percent):
    assert cpu_percent(before, after, ignore)["percent"] == pytest.approx(percent)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (look(10, 1), look(10.1, 1)),
        (look(10, 5), look(11, 1)),
        (look(10, 1), look(99, 2)),
        (look(11, 1), look(10, 2)),
    ],
    ids=["too short", "counter anew", "a gap", "backwards"],
)
def test_where_there_is_nothing_to_compare_nothing_is_said(before, after):
    assert cpu_percent(before, after) is None


def test_an_event_names_the_five_that_use_most():
    services = {f"s{n}": float(n) for n in range(10)} | {"idle": 0.2}
    assert largest(services) == {"s9": 9.0, "s8": 8.0, "s7": 7.0, "s6": 6.0, "s5": 5.0}
    assert largest({"idle": 0.99, "some": 1.04}) == {"some": 1.0}
