"""How long a machine waited for a processor, read from control groups of every kind."""

from __future__ import annotations

from pathlib import Path

import pytest
from saltern.waiting import percent, seconds


def pressure(some_us: int) -> str:
    return f"some avg10=1.00 avg60=2.00 avg300=3.00 total={some_us}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n"


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"cgroup.events": "", "cpu.pressure": pressure(2_500_000)}, (2.5, 0.0)),
        ({"unified/cgroup.events": "", "unified/cpu.pressure": pressure(2_500_000)}, (2.5, 0.0)),
        (
            {
                "cgroup.events": "",
                "cpu.pressure": pressure(2_500_000),
                "system.slice/salt-minion.service/cpu.pressure": pressure(500_000),
                "system.slice/product.service/cpu.pressure": pressure(900_000),
            },
            (2.5, 0.5),
        ),
        # The host's own root, a kernel that does not count, and nothing at all.
        ({"cpu.pressure": pressure(2_500_000)}, (0.0, 0.0)),
        ({"cgroup.events": ""}, (0.0, 0.0)),
        ({"cgroup.events": "", "cpu.pressure": ""}, (0.0, 0.0)),
        ({}, (0.0, 0.0)),
    ],
)
def test_waiting_is_read_where_the_kernel_counts_it(tmp_path: Path, files, found):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert seconds(["salt-minion"], str(tmp_path)) == found


@pytest.mark.parametrize(
    ("passed", "machine", "ignored", "cpus", "lacking"),
    [
        (1.0, 0.0, 0.0, 1, 0),
        (1.0, 0.6, 0.0, 1, 60),
        (2.0, 0.6, 0.0, 1, 30),
        # One processor was lacking, of two.
        (1.0, 0.6, 0.0, 2, 30),
        # What does not count may have waited all of that.
        (1.0, 0.6, 0.5, 1, 10),
        (1.0, 0.6, 0.7, 1, 0),
        # A service that was started anew, a counter that was, and a look at a time that stands still.
        (1.0, 0.6, -9.0, 1, 60),
        (1.0, -5.0, 0.0, 1, 0),
        (0.0, 0.6, 0.0, 1, 0),
        (1.0, 1.7, 0.0, 1, 100),
    ],
)
def test_what_was_lacking_is_a_share_of_the_limit(passed, machine, ignored, cpus, lacking):
    before = {"at": 100.0, "waited": (10.0, 10.0)}
    after = {"at": 100.0 + passed, "waited": (10.0 + machine, 10.0 + ignored), "cpus": cpus}
    assert percent(before, after) == pytest.approx(lacking)
