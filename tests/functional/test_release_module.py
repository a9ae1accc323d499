"""salt/_modules/release.py on a real disk, with artifacts as they are made, and a systemctl that notes its calls."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from salt.exceptions import CommandExecutionError
from saltern import artifact
from saltern.fleet import REPOSITORY

# Answers as systemctl does, of a unit that runs, or that was started too often and must be forgiven first.
SYSTEMCTL = """#!/bin/sh
echo "$*" >>{folder}/calls
case "$1" in
  show) cat {folder}/pid 2>/dev/null ;;
  reset-failed) rm -f {folder}/limit ;;
  restart) if [ -e {folder}/limit ]; then echo "start of the service was attempted too often" >&2; exit 1; fi ;;
esac
"""


class Machine:
    """A machine's disk and what Salt gives a module."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.root = folder / "product"
        self.states: list[list[dict]] = []
        tool = folder / "bin" / "systemctl"
        tool.parent.mkdir()
        tool.write_text(SYSTEMCTL.format(folder=folder))
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
        self.module = self.load()

    def load(self) -> ModuleType:
        spec = importlib.util.spec_from_file_location("release", REPOSITORY / "salt/_modules/release.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.ROOT = self.root
        module.PYTHON = sys.executable
        module.__salt__ = {
            "cp.cache_file": self.fetch, "saltutil.is_running": lambda name: self.states.pop(0) if self.states else [],
        }  # fmt: skip
        return module

    def fetch(self, source: str) -> str:
        served = self.folder / source.removeprefix("salt://")
        if not served.exists():
            return ""
        return shutil.copy(served, self.folder / f"cached-{served.name}")

    def make(self, code: str = "X = 1\n") -> tuple[str, str, str, str]:
        """An artifact that the master serves, as the functions take one."""
        content = artifact.archive({"app/__init__.py": b"", "app/code.py": code.encode()})
        made = artifact.described(content, "r", "any")
        (self.folder / made.id).write_bytes(content)
        return made.id, f"salt://{made.id}", made.sha256, made.platform

    def calls(self, name: str) -> int:
        path = self.folder / "calls"
        return path.read_text().split().count(name) if path.exists() else 0

    def current(self) -> str:
        return (self.root / "current").resolve().name

    def disk(self) -> set[str]:
        return {path.name for path in (self.root / "releases").iterdir()}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_a_release_is_put_once_whole_compiled_and_readable_and_the_fetched_file_is_given_up(machine):
    one = machine.make()
    assert machine.module.put(*one) == {"release": one[0], "put": True, "gone": []}
    home = machine.root / "releases" / one[0]
    assert (home / "RELEASE").exists() and stat.S_IMODE(home.stat().st_mode) == 0o755
    (compiled,) = home.rglob("code.*.pyc")
    assert str(home / "app/code.py").encode() in compiled.read_bytes()
    done = subprocess.run(
        [sys.executable, "-v", "-c", "import app.code"], env={"PYTHONPATH": str(home)}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert (
        "code object from" in done.stderr
        and "code object from '" + str(home / "app/code.py") not in done.stderr
    )
    assert machine.module.put(*one) == {"release": one[0], "put": False, "gone": []}
    assert not list(machine.folder.glob("cached-*"))


def test_what_is_the_same_as_in_the_release_that_runs_is_not_compiled_again(machine):
    # Of the same size and, as all that is packed, of the same time: only the bytes tell.
    one, two = machine.make("X = 1\n"), machine.make("X = 2\n")
    machine.module.switch(*one)
    machine.module.put(*two)
    old, new = (machine.root / "releases" / each[0] for each in (one, two))
    same, changed = (
        [next(home.rglob(f"{stem}.*.pyc")) for home in (old, new)] for stem in ("__init__", "code")
    )
    assert same[0].samefile(same[1]) and not changed[0].samefile(changed[1])
    said = subprocess.run(
        [sys.executable, "-B", "-v", "-c", "import app.code; print(app.code.X)"],
        env={"PYTHONPATH": str(new)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout.split() == ["2"]
    assert said.stderr.count(f"# code object from '{new}/app/__pycache__") == 2


def test_half_a_release_is_put_again(machine):
    one = machine.make()
    half = machine.root / "releases" / one[0]
    half.mkdir(parents=True)
    (half / "left").write_text("")
    machine.module.put(*one)
    assert not (half / "left").exists() and (half / "RELEASE").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda id_, source, sha, platform: (id_, source, "0" * 64, platform), "its sha256 is"),
        (lambda id_, source, sha, platform: (id_, source, sha, "cpython-27-vax"), "is for cpython-27-vax, and this"),
        (lambda id_, source, sha, platform: (id_, "salt://nothing", sha, platform), "salt://nothing did not get there"),
        (lambda id_, source, sha, platform: ("../r1", source, sha, platform), "not a release id"),
        (lambda id_, source, sha, platform: ("r1\n", source, sha, platform), "not a release id"),
    ],
)  # fmt: skip
def test_what_is_not_right_is_refused_in_one_line_and_nothing_of_it_stays(
    machine, change: Callable, words: str
):
    one, two = machine.make(), machine.make("X = 2\n")
    machine.module.switch(*one)
    for function in (machine.module.put, machine.module.switch):
        with pytest.raises(CommandExecutionError) as refused:
            function(*change(*two))
        assert words in str(refused.value) and "\n" not in str(refused.value)
    assert (machine.disk(), machine.current()) == ({one[0]}, one[0])
    assert machine.calls("restart") == 1 and not list(machine.folder.glob("cached-*"))


@pytest.mark.parametrize("name", ["../../out", "/tmp/out", "app/../../out"])
def test_an_artifact_that_reaches_out_of_its_folder_is_refused(machine, name):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as made:
        entry = tarfile.TarInfo(name)
        entry.size = 1
        made.addfile(entry, io.BytesIO(b"x"))
    (machine.folder / "r7").write_bytes(raw.getvalue())
    with pytest.raises(CommandExecutionError, match="only files below its own folder"):
        machine.module.put("r7", "salt://r7", hashlib.sha256(raw.getvalue()).hexdigest())
    assert machine.disk() == set()


def test_switching_puts_what_is_missing_points_to_it_and_starts_the_product_anew(machine):
    one, two = machine.make(), machine.make("X = 2\n")
    assert machine.module.switch(*one) == {"release": one[0], "was": "", "started": True}
    assert machine.module.switch(*two) == {"release": two[0], "was": one[0], "started": True}
    assert (machine.current(), machine.calls("restart")) == (two[0], 2)
    assert (machine.root / "current").is_symlink()


def test_a_product_that_runs_it_already_is_left_alone_and_one_that_does_not_is_started(machine):
    one = machine.make()
    machine.module.switch(*one)
    for release, starts in ((one[0], False), ("r2", True)):
        with subprocess.Popen(["sleep", "600"], env={"PRODUCT_RELEASE": release}) as product:
            try:
                (machine.folder / "pid").write_text(f"{product.pid}\n")
                assert machine.module.switch(*one)["started"] is starts
            finally:
                product.kill()
    (machine.folder / "pid").write_text("0\n")
    assert machine.module.switch(*one)["started"] is True


def test_a_product_that_nobody_uses_is_ended_at_once_and_any_other_when_it_is_done(machine):
    one, two = machine.make(), machine.make("X = 2\n")
    machine.module.switch(*one)
    assert machine.calls("--signal=SIGQUIT") == 0
    machine.module.switch(*two, idle=True)
    calls = (machine.folder / "calls").read_text().splitlines()
    assert calls[-2:] == ["kill --kill-who=main --signal=SIGQUIT product", "restart product"]


def test_a_product_that_was_started_too_often_is_forgiven(machine):
    one = machine.make()
    (machine.folder / "limit").touch()
    assert machine.module.switch(*one)["started"] is True
    assert machine.calls("reset-failed") == 1


def test_states_under_way_are_waited_for_and_not_for_ever(machine, monkeypatch):
    one, run = machine.make(), [{"fun": "state.apply"}]
    machine.states = [run, run]
    machine.module.switch(*one)
    assert machine.states == []
    monkeypatch.setattr(machine.module, "STATES_S", 0.0)
    two = machine.make("X = 2\n")
    machine.states = [run] * 50
    with pytest.raises(CommandExecutionError, match=r"state\.apply is still under way"):
        machine.module.switch(*two)
    assert machine.current() == one[0]


def test_two_at_once_each_end_with_a_whole_release(machine):
    releases = [machine.make(f"X = {n}\n") for n in range(2)]
    threads = [
        threading.Thread(target=machine.load().switch, args=release) for release in releases for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert machine.disk() == {release[0] for release in releases}
    assert machine.current() in machine.disk()


def test_old_releases_go_and_what_runs_stays_whoever_says_otherwise(machine):
    releases = [machine.make(f"X = {n}\n") for n in range(4)]
    for release in releases:
        machine.module.switch(*release)
    names = [release[0] for release in releases]
    said = machine.module.collect([names[1], "r123456789abc"])
    assert said == {"kept": sorted([names[1], names[3]]), "gone": sorted([names[0], names[2]])}
    assert machine.disk() == {names[1], names[3]}
    assert machine.module.collect([]) == {"kept": [names[3]], "gone": [names[1]]}
    with pytest.raises(CommandExecutionError, match="not a release id"):
        machine.module.collect(["../.."])


def test_what_is_put_makes_room_first_and_gives_up_neither_itself_nor_what_runs(machine):
    releases = [machine.make(f"X = {n}\n") for n in range(4)]
    old, kept, running, new = (release[0] for release in releases)
    for release in releases[:3]:
        machine.module.switch(*release)
    said = machine.module.put(*releases[3], keep=[kept])
    assert said == {"release": new, "put": True, "gone": [old]}
    assert machine.disk() == {kept, running, new}
    assert machine.module.put(*releases[3], keep=[])["gone"] == [kept]


def test_a_machine_that_has_none_collects_nothing(machine):
    assert machine.module.collect(["r1"]) == {"kept": [], "gone": []}
