"""The controller as a program: how it starts, what it says of itself, how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from host import PATIENCE, until
from saltern import notify
from saltern.controller import read_status
from traffic_stand import ROOT, Stand

pytestmark = pytest.mark.functional


def run(file: Path) -> subprocess.CompletedProcess[str]:
    """Run the controller with a configuration file until it ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "saltern.controller", "--config", str(file)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "services")},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


REDIS = {"redis": {"addresses": ["127.0.0.1:1"]}}
WRONG: list[tuple[str, str, str]] = [
    ("not JSON", "{", "Expecting property name"),
    ("unknown key", json.dumps({**REDIS, "canary": {"settle": 1}}), "canary.settle: unknown; use settle_s"),
    ("no Redis", "{}", "redis: missing"),
    (
        "no directory",
        json.dumps({**REDIS, "haproxy": {"state_dir": "/nowhere"}}),
        "/nowhere is not a directory",
    ),
]


@pytest.mark.parametrize(("what", "text", "message"), WRONG, ids=[row[0] for row in WRONG])
def test_a_wrong_configuration_is_one_clear_line_and_status_two(
    what: str, text: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "controller.json"
    file.write_text(text)
    done = run(file)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert str(file) in done.stderr


def test_a_missing_configuration_is_one_clear_line(tmp_path: Path) -> None:
    done = run(tmp_path / "none.json")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket on which systemd listens for notices."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(PATIENCE)
        yield listener


def test_it_tells_systemd_when_it_is_ready_alive_and_stopping(stand: Stand, systemd: socket.socket) -> None:
    stand.controller.end()
    stand.controller.env.update(NOTIFY_SOCKET=systemd.getsockname(), WATCHDOG_USEC="200000")
    stand.start_controller()
    heard = [systemd.recv(100).decode() for _ in range(4)]
    assert heard[0] == "READY=1"
    assert set(heard[1:]) == {"WATCHDOG=1"}
    stand.controller.send(signal.SIGTERM)
    until(lambda: systemd.recv(100) == b"STOPPING=1", "STOPPING=1")
    until(lambda: not stand.controller.running, "the controller ended")
    assert stand.controller.popen is not None
    assert stand.controller.popen.returncode == 0


def test_it_is_not_ready_before_it_has_seen_haproxy(stand: Stand, systemd: socket.socket) -> None:
    stand.controller.end()
    stand.haproxy.end()
    stand.controller.env.update(NOTIFY_SOCKET=systemd.getsockname())
    stand.start_controller()
    time.sleep(0.7)
    systemd.setblocking(False)
    with pytest.raises(BlockingIOError):
        systemd.recv(100)
    systemd.settimeout(PATIENCE)
    stand.start_haproxy()
    assert systemd.recv(100) == b"READY=1"


def test_without_systemd_nothing_is_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    assert notify.notify("READY=1") is False
    assert notify.watchdog_interval_s() is None
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    assert notify.notify("READY=1") is False


def test_its_status_says_whether_haproxy_equals_the_registry(stand: Stand) -> None:
    stand.add("prod1")
    stand.await_up("prod1")
    status = stand.await_status(lambda s: s["ok"] and s["haproxy"]["revision"] == 1, "all well")
    assert status["registry"] == {"ok": True, "problem": "", "revision": 1}
    assert status["problems"] == []
    assert read_status(stand.status_file)["ok"] is True


STALE: list[tuple[str, Any, str]] = [
    ("missing", None, "does not exist; is saltern-controller running?"),
    ("not JSON", "{", "cannot be read"),
    ("another thing", "[]", "cannot be read"),
    ("old", json.dumps({"ts": 5, "ok": True, "problems": []}), "s ago; is saltern-controller running?"),
]


@pytest.mark.parametrize(("what", "text", "problem"), STALE, ids=[row[0] for row in STALE])
def test_a_status_that_is_no_news_is_not_good_news(
    what: str, text: str | None, problem: str, tmp_path: Path
) -> None:
    file = tmp_path / "status.json"
    if text is not None:
        file.write_text(text)
    status = read_status(file)
    assert status["ok"] is False
    assert problem in status["problems"][0]


def test_too_few_slots_are_reported_by_name(stand: Stand) -> None:
    for n in range(1, 6):
        stand.registry.register(f"staging{n}", "127.0.0.1", 9, "r1", "canary", by="test")
    status = stand.await_status(lambda s: s["problems"] == ["staging5 has no free slot"], "it being reported")
    assert status["ok"] is False
    stand.registry.unregister("staging2", by="test")
    stand.await_status(lambda s: s["ok"], "room for everybody")


def test_a_broken_memory_on_disk_is_set_aside_not_fatal(stand: Stand) -> None:
    stand.add("prod1")
    stand.await_up("prod1")
    stand.controller.end()
    (stand.state_dir / "controller.json").write_text('{"state": {"revision": "x"')
    stand.start_controller()
    stand.await_status(lambda s: s["ok"], "all well")
    assert stand.servers() == {"prod1": "ready/up"}
    json.loads((stand.state_dir / "controller.json").read_text())
