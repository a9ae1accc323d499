"""Samples of what the product uses: gathered by a beacon, believed by the master, laid over controller seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from saltern.judge import Host
from saltern.samples import Batch, checked, hosts
from saltern.sampling import add, settings
from saltern.usage import MEBIBYTE, service
from saltern.windows import Second, parse

pytestmark = pytest.mark.unit

# --- settings


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ([], {"service": "product", "batch": 10}),
        ([{"batch": 2}, {"service": "shop"}], {"service": "shop", "batch": 2}),
        ([{"_beacon_name": "samples"}, {"interval": 1}], {"service": "product", "batch": 10}),
    ],
)
def test_settings_are_the_defaults_and_what_is_given(config: list, wanted: dict) -> None:
    assert settings(config) == wanted


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"batch": 2}, "not a list of settings"),
        ([{"batch": 0}], "batch: 0 is not a number of samples from 1 to 60"),
        ([{"batch": 61}], "batch: 61"),
        ([{"batch": True}], "batch: True"),
        ([{"batch": "ten"}], "batch: 'ten'"),
        ([{"service": ""}], "service: '' is not the name"),
        ([{"service": "../../x"}], "service: '../../x'"),
        ([{"service": 5}], "service: 5"),
    ],
)
def test_a_setting_that_is_wrong_is_named(config: Any, words: str) -> None:
    with pytest.raises(ValueError, match="^" + words.replace("(", r"\(").replace(".", r"\.")):
        settings(config)


# --- gathering


def seen(
    at: float, used: float, mib: float = 50.0, cpus: float = 0.5, limit: float = 400.0
) -> dict[str, float]:
    return {"at": at, "used": used, "mib": mib, "cpus": cpus, "limit": limit}


def told(looks: list[dict[str, float] | None], batch: int) -> list[dict[str, Any]]:
    memory: dict[str, Any] = {}
    return [each for look in looks if (each := add(memory, look, batch))]


def test_a_full_batch_is_told_in_per_cent_of_the_machines_limits() -> None:
    looks = [seen(0, 0), seen(1, 0.1), seen(2, 0.15, mib=60), seen(3, 0.15), seen(4, 0.4)]
    assert told(looks, 2) == [
        {"seconds": 2, "cpu": [20.0, 10.0], "memory": [12.5, 15.0]},
        {"seconds": 2, "cpu": [0.0, 50.0], "memory": [12.5, 12.5]},
    ]


@pytest.mark.parametrize(
    "gap",
    [
        [None],
        [seen(1.5, 0.01)],  # the service was started anew
        [seen(60, 3)],  # the minion was busy for a minute
        [seen(1.05, 0.6)],  # two ticks at once
        [seen(2, 0.6, cpus=0)],
        [seen(2, 0.6, limit=0)],
    ],
    ids=["gone", "restarted", "late", "too soon", "no processor", "no memory"],
)
def test_a_gap_ends_a_batch_and_begins_another(gap: list) -> None:
    end = (gap[-1] or seen(2, 0))["at"]
    used = (gap[-1] or seen(2, 0))["used"]
    after = [seen(end + n, used + 1 + 0.05 * n) for n in (1, 2, 3)]
    (batch,) = told([seen(0, 0.5), seen(1, 0.55), *gap, *after], 2)
    assert batch["seconds"] == 2
    assert len(batch["cpu"]) == 2


@given(
    st.lists(st.tuples(st.floats(0.2, 5), st.floats(0, 3), st.floats(0, 500)), max_size=80),
    st.integers(1, 60),
)
def test_what_is_told_is_always_believed(steps: list[tuple[float, float, float]], batch: int) -> None:
    looks, at, used = [seen(0, 0)], 0.0, 0.0
    for seconds, more, mib in steps:
        at, used = at + seconds, used + more
        looks.append(seen(at, used, mib))
    for each in told(looks, batch):
        assert checked(json.loads(json.dumps(each))) == each
        assert len(each["cpu"]) == batch


# --- one service's use


def lay(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return str(root)


PROC = {
    "7/stat": "7 (gunicorn: (x) y) S 1 7 7 0 -1 4194560 1 2 3 4 100 50 20 30 20 0 1 0\n",
    "7/statm": "9000 600 100 1 0 1 0\n",
    "8/stat": "8 (python3) S 1 7 7 0 -1 4194560 1 2 3 4 300 0 0 0 20 0 1 0\n",
    "8/statm": "9000 400 100 1 0 1 0\n",
}


@pytest.mark.parametrize(
    ("files", "used", "mib"),
    [
        (
            {"system.slice/product.service/cgroup.procs": "7\n8\n",
             "system.slice/product.service/cpu.stat": "usage_usec 2500000\n",
             "system.slice/product.service/memory.current": str(40 * MEBIBYTE)}, 2.5, 40.0,
        ),
        (
            {"unified/system.slice/product.service/cgroup.procs": "7\n8\n",
             "unified/system.slice/product.service/cpu.stat": "usage_usec 2500000\n"}, 2.5, 3.125,
        ),
        ({"systemd/system.slice/product.service/cgroup.procs": "7\n8\n"}, 5.0, 3.125),
    ],
    ids=["v2", "hybrid", "v1"],
)  # fmt: skip
def test_a_service_is_measured_whatever_the_control_groups_count(
    tmp_path: Path, files: dict[str, str], used: float, mib: float
) -> None:
    lay(tmp_path / "proc", PROC)
    assert service("product", lay(tmp_path / "cgroup", files), str(tmp_path / "proc")) == (used, mib)


def test_a_service_that_does_not_run_has_no_use(tmp_path: Path) -> None:
    root = lay(
        tmp_path, {"system.slice/product.service/cgroup.procs": "", "system.slice/other.service/x": ""}
    )
    assert service("product", root) is None
    assert service("other", root) is None
    assert service("nosuch", root) is None


# --- what the master believes

GOOD = {"seconds": 2.0, "cpu": [1.0, 2], "memory": [3.0, 4.0]}


@pytest.mark.parametrize(
    "change",
    [
        {"cpu": [1.0]}, {"cpu": []}, {"cpu": [1.0, -1]}, {"cpu": [1.0, 101]}, {"cpu": [1.0, float("nan")]},
        {"cpu": [1.0, True]}, {"cpu": [1.0, "2"]}, {"cpu": "12"}, {"cpu": None}, {"memory": {"a": 1}},
        {"cpu": [1.0] * 61, "memory": [1.0] * 61, "seconds": 61}, {"seconds": 0}, {"seconds": 1e9},
        {"seconds": True}, {"seconds": None}, {"more": 1},
    ],
)  # fmt: skip
def test_values_the_beacon_never_sends_are_refused(change: dict[str, Any]) -> None:
    assert checked(GOOD) == GOOD
    with pytest.raises(ValueError, match=r"^samples: "):
        checked({**GOOD, **change})


# --- laid over the controller's seconds


def second(at: float, share: int = 30, **machines: int) -> Second:
    servers = {
        id_: {
            "pool": "canary" if id_.startswith("staging") else "prod",
            "release": "r1",
            "requests": requests,
        }
        for id_, requests in (machines or {"prod1": 7, "staging1": 3}).items()
    }
    row = {"requests": 1, "errors": 0, "response_ms": 1.0}
    data = {
        "ts": at + 500,
        "seconds": 1.0,
        "share": share,
        "pools": {"prod": row, "canary": row},
        "servers": servers,
    }
    return parse(f"{round(at * 1000)}-0", {"data": json.dumps(data)})


def batch(machine: str, ended: float, *cpu: float) -> Batch:
    return Batch(machine, ended, float(len(cpu)), cpu, tuple(each + 50 for each in cpu))


def test_a_batch_is_of_even_steps_up_to_its_end() -> None:
    assert Batch("prod1", 100.0, 4.0, (1.0, 2.0), (1.0, 2.0)).times() == [98.0, 100.0]


@pytest.mark.parametrize(
    ("entries", "batches", "canary", "prod"),
    [
        ([second(11), second(12)], [batch("staging1", 11.5, 1, 2), batch("prod1", 12, 3)], (1, 2), (3,)),
        # Before, after, and between seconds that count.
        ([second(11), second(14)], [batch("staging1", 15.5, 1, 2, 3, 4, 5, 6, 7)], (2, 5), ()),
        # In the order of time, whatever the order of arrival.
        ([second(11), second(12)], [batch("staging1", 12, 2), batch("staging1", 11, 1)], (1, 2), ()),
        # Nothing of a machine that is not known as a server, or of one that served nothing.
        ([second(11, prod1=0, staging1=3, prod2=4)], [batch("prod1", 11, 9), batch("ops1", 11, 9)], (), ()),
    ],
)
def test_samples_count_in_the_seconds_that_are_judged(
    entries: list[Second], batches: list[Batch], canary: tuple, prod: tuple
) -> None:
    found = hosts(entries, batches)
    (staging,) = found["canary"]
    assert staging == Host("staging1", canary, tuple(each + 50 for each in canary))
    assert [host.cpu_percent for host in found["prod"]] == [prod]


def test_a_machine_that_served_and_told_nothing_is_there_without_samples() -> None:
    found = hosts([second(11)], [])
    assert found == {"canary": [Host("staging1")], "prod": [Host("prod1")]}


def test_without_seconds_there_are_no_machines() -> None:
    assert hosts([], [batch("prod1", 11, 1)]) == {"canary": [], "prod": []}
