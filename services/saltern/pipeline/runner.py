"""What runs inside the sandbox: one build, from the source it is sent to the reports it sends back.

    python3 -m saltern.pipeline.runner        (standard input is a socket to the worker)

systemd starts one for each connection to the build socket, as a user of its own, without a network, with limits on
processor, memory and time. The worker sends one JSON line (`Order`) and a tar of the source; what comes back is a
stream of JSON lines, `file` followed by as many bytes as it says. When the worker hangs up, the build ends.

The artifact is packed, and sent, before any code of the product's tests runs.
"""

from __future__ import annotations

import compileall
import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree import ElementTree

from saltern import artifact
from saltern.errors import SalternError
from saltern.pipeline import project

PREFIX = "r"
NO_TESTS_FOUND = 5
"""pytest's exit status when it collected nothing."""
NO_WHEEL = "No matching distribution found"
"""What pip says of a requirement that no wheel is there for."""


@dataclass(frozen=True)
class Order:
    """What the worker wants built.

    :ivar source_bytes: how long the tar is that follows
    :ivar wheels: folders of the wheels that a lock may name; :ivar tools: lock of pytest, coverage and ruff for
        products that lock none; :ivar cache: folder for what tests need, by its lock's hash
    """

    source_bytes: int
    wheels: Sequence[str]
    tools: str
    cache: str


class Failed(Exception):
    """A build that does not pass; the text says why in one line."""


class Lacking(Exception):
    """A lock, by its name in the repository, names a wheel that is not there."""


class Wire:
    """The socket, as a stream of what there is to tell."""

    def __init__(self, link: socket.socket) -> None:
        self.link = link
        self.over = False
        self._lock = threading.Lock()

    def _send(self, message: Mapping[str, Any], content: bytes = b"") -> None:
        with self._lock:
            self.link.sendall(json.dumps(message).encode() + b"\n" + content)

    def log(self, text: str) -> None:
        self._send({"log": text})

    def stage(self, name: str) -> None:
        self._send({"stage": name})

    def done(self, name: str, seconds: float, words: str) -> None:
        self._send({"done": name, "seconds": round(seconds, 2), "words": words})

    def file(self, name: str, content: bytes, **about: object) -> None:
        self._send({"file": name, "bytes": len(content), **about}, content)

    def result(self, **values: object) -> None:
        self.over = True
        self._send({"result": values})


class Steps:
    """One build: its folders, and each step over them."""

    def __init__(self, wire: Wire, order: Order, home: Path) -> None:
        self.wire, self.order, self.home = wire, order, home
        self.source, self.site = home / "source", home / "site"
        self.project = project.Project()
        self.packages: list[Path] = []
        self.found: dict[str, Any] = {}
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, tar: bytes) -> None:
        """All steps, and the result."""
        stages = (("source", lambda: self.unpack(tar)), ("build", self.build), ("test", self.test),
                  ("analyse", self.analyse))  # fmt: skip
        for name, act in stages:
            self.wire.stage(name)
            began = time.monotonic()
            try:
                words = act()
            except Lacking as lacking:
                self.wire.result(state="lacking", lock=str(lacking))
                return
            except (Failed, SalternError) as error:
                self.wire.log(f"{error}\n")
                self.wire.result(state="failed", stage=name, why=str(error).splitlines()[0], **self.found)
                return
            self.wire.done(name, time.monotonic() - began, words)
        self.wire.result(state="passed", **self.found)

    def unpack(self, tar: bytes) -> str:
        self.source.mkdir()
        done = subprocess.run(
            ["tar", "-x", "--no-same-owner", "-C", str(self.source)],
            input=tar,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise Failed(f"source: tar: {done.stderr.decode(errors='replace').strip()[-200:]}")
        path = self.source / project.FILE
        try:
            self.project = project.read(path.read_text() if path.is_file() else None)
        except UnicodeDecodeError as error:
            raise Failed(f"{project.FILE}: not UTF-8 text") from error
        except project.ProjectError as error:
            for fault in error.faults[1:]:
                self.wire.log(f"{fault}\n")
            more = f" (and {len(error.faults) - 1} more)" if error.faults[1:] else ""
            raise Failed(f"{error.faults[0]}{more}") from error
        self.packages = packages_of(self.source, self.project.packages)
        return f"{sum(1 for p in self.source.rglob('*') if p.is_file())} files"

    def build(self) -> str:
        for command in self.project.commands:
            if status := self._run(command, "build"):
                raise Failed(f"build: {' '.join(command)[:100]}: {ended(status)}")
        lock = self.source / self.project.requirements
        locked = lock if lock.is_file() else None
        with self._lacking(self.project.requirements):
            made, content = artifact.make(
                self.packages, locked, PREFIX, site=self.site, wheels=self._wheels()
            )
        self.wire.file("artifact", content, platform=made.platform)
        return f"release {made.id}, {len(content) // 1024} KiB"

    def test(self) -> str:
        if not self.project.test:
            return "switched off in saltern.toml"
        report, data = self.home / "junit.xml", self.home / "coverage"
        tools = self._tools()
        pytest = [
            "-m",
            "pytest",
            f"--junitxml={report}",
            "-p",
            "no:cacheprovider",
            *self.project.test_arguments,
        ]
        measured = [f"--data-file={data}", f"--source={','.join(map(str, self.packages))}"]
        status = self._run([sys.executable, "-m", "coverage", "run", *measured, *pytest], "test", tools)
        if status == NO_TESTS_FOUND:
            raise Failed(
                "test: no tests were found; write one, or say so: [test] enabled = false in saltern.toml"
            )
        failing = self._read_report(report)
        if status:
            raise Failed(failing or f"test: pytest: {ended(status)}")
        percent = self._coverage(data, tools)
        if percent < self.project.coverage:
            raise Failed(
                f"test: coverage {percent:.1f} % is below {self.project.coverage:g} (saltern.toml: test.coverage)"
            )
        return f"{self.found['tests']['tests']} tests, coverage {percent:.0f} %"

    def _read_report(self, report: Path) -> str:
        """Keep the report and its sums; one line about what failed."""
        if not report.is_file():
            return ""
        self.wire.file("junit.xml", report.read_bytes())
        try:
            self.found["tests"], failed = summary(ElementTree.parse(report).getroot())
        except ElementTree.ParseError:
            return "test: pytest wrote half a report"
        sums = self.found["tests"]
        bad = sums["failures"] + sums["errors"]
        return f"test: {bad} of {sums['tests']} tests failed, first {failed[0]}" if failed else ""

    def _coverage(self, data: Path, tools: Path) -> float:
        report = self.home / "coverage.json"
        command = [sys.executable, "-m", "coverage", "json", "-q", f"--data-file={data}", "-o", str(report)]
        if status := self._run(command, "test", tools):
            raise Failed(f"test: coverage json: {ended(status)}; do the tests import the packages?")
        self.wire.file("coverage.json", report.read_bytes())
        percent = float(json.loads(report.read_text())["totals"]["percent_covered"])
        self.found["coverage"] = round(percent, 1)
        return percent

    def analyse(self) -> str:
        if not self.project.analyse:
            return "switched off in saltern.toml"
        report = self.home / "ruff.json"
        command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--quiet", "--output-format=json",
                   f"--output-file={report}", *self.project.analyse_arguments]  # fmt: skip
        status = self._run(command, "analyse", self._tools())
        if status not in (0, 1) or not report.is_file():
            raise Failed(f"analyse: ruff: {ended(status)}")
        findings = json.loads(report.read_text())
        for each in findings:
            place = os.path.relpath(each["filename"], self.source)
            row = each["location"]["row"]
            self.wire.log(f"{place}:{row}: {each['code'] or 'syntax'} {each['message']}\n")
        self.found["findings"] = len(findings)
        self.wire.file("ruff.json", report.read_bytes())
        if len(findings) > self.project.findings:
            allowed = f"{self.project.findings} allowed (saltern.toml: analyse.findings)"
            raise Failed(f"analyse: {len(findings)} findings, {allowed}")
        return f"{len(findings)} findings"

    def _tools(self) -> Path:
        """A folder with what the tests need; kept, for nothing of it goes into a release."""
        name = self.project.test_requirements
        lock = self.source / name if name else Path(self.order.tools)
        if not lock.is_file():
            raise Failed(f"saltern.toml: test.requirements: {name} is not a file of the repository")
        key = sha256(f"{artifact.SOABI}\0".encode() + lock.read_bytes()).hexdigest()[:16]
        kept = Path(self.order.cache) / key
        if not kept.is_dir():
            half = Path(tempfile.mkdtemp(prefix=".half.", dir=self.order.cache))
            try:
                with self._lacking(name):
                    artifact.install(lock, half, self._wheels())
                for program in (half / "bin").glob("*"):
                    program.chmod(0o755)
                # Once here, so that not every build does it.
                compileall.compile_dir(half, quiet=2)
                half.rename(kept)
            finally:
                shutil.rmtree(half, ignore_errors=True)
        return kept

    def _wheels(self) -> list[Path]:
        return [Path(folder) for folder in self.order.wheels]

    @contextlib.contextmanager
    def _lacking(self, lock: str) -> Iterator[None]:
        """A wheel that is not there is the worker's to fetch: here is no network."""
        try:
            yield
        except SalternError as error:
            if lock and NO_WHEEL in str(error):
                self.wire.log(f"{error}\n")
                raise Lacking(lock) from error
            raise

    def _run(self, command: Sequence[str], stage: str, tools: Path | None = None) -> int:
        """Run a program of the product's to its end, its output into the log.

        :raises Failed: it took too long, or is not there
        """
        parents = [package.parent for package in self.packages]
        paths = dict.fromkeys([self.source, *parents, self.site, *([tools] if tools else [])])
        environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(self.home), "TMPDIR": str(self.home), "CI": "1",
            "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": os.pathsep.join(map(str, paths)),
        }  # fmt: skip
        self.wire.log(f"$ {' '.join(command)}\n")
        try:
            self.process = subprocess.Popen(
                command, cwd=self.source, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise Failed(f"{stage}: {command[0]}: {error.strerror or error}") from error
        try:
            if not self._pump(self.process, time.monotonic() + self.project.timeout_s):
                limit = f"{self.project.timeout_s:g} s (saltern.toml: build.timeout_s)"
                raise Failed(f"{stage}: {Path(command[0]).name}: still running after {limit}; killed")
            return self.process.wait()
        finally:
            self.kill()

    def _pump(self, process: subprocess.Popen[bytes], deadline: float) -> bool:
        """Hand on what a program says until it ends; whether it did in time. What it left behind is not waited for."""
        assert process.stdout is not None
        handle = process.stdout.fileno()
        os.set_blocking(handle, False)
        ended = False
        while time.monotonic() < deadline:
            ready, _, _ = select.select([handle], [], [], 0 if ended else 0.1)
            if ready:
                if text := os.read(handle, 65_536):
                    self.wire.log(text.decode(errors="replace"))
                    continue
                ended = True
                process.wait()
            if ended:
                return True
            ended = process.poll() is not None
        return False

    def kill(self) -> None:
        """End the program that runs, and what it started."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):  # it ended by itself, and left nothing
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()


def packages_of(source: Path, named: Iterable[str]) -> list[Path]:
    """The folders that go into the artifact: those that are named, else every package at the top but tests.

    :raises Failed: one is none, or there is none
    """
    if named := list(named):
        for name in named:
            if not (source / name / "__init__.py").is_file():
                raise Failed(
                    f"saltern.toml: build.packages: {name} is not a Python package; it has no __init__.py"
                )
        return [source / name for name in named]
    found = sorted(
        path.parent
        for path in source.glob("*/__init__.py")
        if path.parent.name not in ("tests", "test", "docs")
    )
    if not found:
        raise Failed(
            "build: no Python package at the top of the repository; name yours in saltern.toml: [build] packages"
        )
    return found


def summary(root: ElementTree.Element) -> tuple[dict[str, int], list[str]]:
    """The sums of a JUnit report, and the names of what failed."""
    suites = [root] if root.tag == "testsuite" else root.findall("testsuite")
    names = ("tests", "failures", "errors", "skipped")
    sums = {name: sum(int(suite.get(name, 0)) for suite in suites) for name in names}
    failed = [
        f"{case.get('classname', '')}::{case.get('name', '')}"
        for suite in suites
        for case in suite.findall("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    return sums, failed


def ended(status: int) -> str:
    """How a program ended, for a person."""
    if status == -signal.SIGKILL:
        return "killed; it took more memory than a build has (pillar/pipeline.sls: limits.memory_mib)"
    return f"ended by signal {-status}" if status < 0 else f"exit status {status}"


def read_exactly(stream: BinaryIO, count: int) -> bytes:
    """:raises EOFError: the other side hung up before"""
    content = stream.read(count)
    if len(content) < count:
        raise EOFError(f"{len(content)} of {count} bytes came")
    return content


def main() -> int:
    """Build what the socket at standard input asks for."""
    link = socket.socket(fileno=os.dup(0))
    # Programs that are started must not find it.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    stream = link.makefile("rb")
    order = Order(**json.loads(stream.readline()))
    tar = read_exactly(stream, order.source_bytes)
    wire = Wire(link)
    with tempfile.TemporaryDirectory(prefix="build-", ignore_cleanup_errors=True) as folder:
        steps = Steps(wire, order, Path(folder))

        def watch() -> None:
            # The worker says nothing more: what can be read is its end.
            stream.read(1)
            steps.kill()
            shutil.rmtree(folder, ignore_errors=True)
            os._exit(0 if wire.over else 1)

        threading.Thread(target=watch, daemon=True).start()
        try:
            steps.run(tar)
        except BrokenPipeError:
            return 1  # nobody wants it any more
    return 0


if __name__ == "__main__":
    sys.exit(main())
