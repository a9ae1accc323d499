"""The host's kernel settings: raised for the first fleet, put back by the last, never lowered."""

from __future__ import annotations

from pathlib import Path

import pytest
from saltern.fleet import Fleet
from saltern.local import kernel


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host's /proc/sys as it is before any fleet."""
    root = tmp_path / "sys"
    for setting, value in (("net/ipv4/ip_forward", "0"), ("fs/inotify/max_user_instances", "128")):
        (root / setting).parent.mkdir(parents=True)
        (root / setting).write_text(value + "\n")
    monkeypatch.setattr(kernel, "SYSCTL", root)
    monkeypatch.setenv("SALTERN_HOME", str(tmp_path / "home"))
    return root


def _values(host: Path) -> list[int]:
    return [int((host / setting).read_text()) for setting in kernel.LEAST]


def _fleet(name: str) -> Fleet:
    return Fleet(name, "10.213.0.0/24", Path("/var/lib/saltern") / name)


def test_the_last_of_two_fleets_puts_back_what_the_first_found(host: Path) -> None:
    kernel.need(_fleet("one"))
    kernel.need(_fleet("two"))
    kernel.need(_fleet("two"))
    assert _values(host) == [1, 2048]
    kernel.release(_fleet("two"))
    assert _values(host) == [1, 2048]
    kernel.release(_fleet("one"))
    assert _values(host) == [0, 128]
    assert not (kernel.home() / "kernel.json").exists()


def test_what_is_high_enough_stays(host: Path) -> None:
    (host / "fs/inotify/max_user_instances").write_text("8192")
    kernel.need(_fleet("one"))
    assert _values(host) == [1, 8192]
    kernel.release(_fleet("one"))
    assert _values(host) == [0, 8192]


def test_a_fleet_that_never_was_changes_nothing(host: Path) -> None:
    kernel.release(_fleet("one"))
    assert _values(host) == [0, 128]
