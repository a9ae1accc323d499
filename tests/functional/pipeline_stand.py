"""A pipeline in a folder: a real git repository with its hooks, a real worker, sandboxes that are mere processes."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Any

from host import PATIENCE, until
from saltern.fleet import REPOSITORY, home
from saltern.local.image import WHEELHOUSE
from saltern.pipeline.records import Build, Records
from saltern.pipeline.settings import Settings
from saltern.pipeline.worker import Worker

BRANCHES = {"production": "prod", "staging": "canary"}
# Builds in a blink: no tools are installed for them.
QUICK = {
    "thing/__init__.py": "answer = 42\n",
    "saltern.toml": "[test]\nenabled = false\n[analyse]\nenabled = false\n",
}
LONGEST = 600.0
"""Seconds a build may take before a test gives up: it installs and runs things. Such tests have a limit above it."""
SERVICES = os.pathsep.join([str(REPOSITORY / "services"), str(REPOSITORY / "services" / "flags" / "src")])


@dataclass
class Pushed:
    """A push under way or done."""

    process: subprocess.Popen[str]

    def ended(self) -> tuple[int, str]:
        """Exit status, and what the pusher saw."""
        said = self.process.communicate(timeout=LONGEST)[0]
        return self.process.returncode, said


class PipelineStand:
    """The folders, and the worker when it is started."""

    def __init__(self, folder: Path, python: str = sys.executable, **changes: Any) -> None:
        self.folder, self.python = folder, python
        self.repository, self.copy = folder / "product.git", folder / "copy"
        (folder / "cache").mkdir()
        (folder / "home").mkdir()
        (folder / "fetched").mkdir()
        wheels = [str(home() / WHEELHOUSE), str(folder / "fetched")]
        self.settings = Settings(
            home=folder / "home", repository=self.repository, sandbox=folder / "none", wheels=wheels, python=python,
            tools=str(REPOSITORY / "services/product/seed/requirements-test.txt"), cache=str(folder / "cache"),
            address="127.0.0.1", port=0, subnet="127.0.0.0/8", token="secret", branches=BRANCHES, free_mib=1,
        )  # fmt: skip
        self.settings = replace(self.settings, **changes)
        self.records = Records(self.settings.home)
        self.records.prepare()
        self.sandboxes: list[subprocess.Popen[bytes]] = []
        self.worker: Worker | None = None
        self._thread: Thread | None = None
        self._make_repository()

    def _make_repository(self) -> None:
        subprocess.run(["git", "init", "-q", "--bare", str(self.repository)], check=True)
        self.config = self.folder / "git.json"
        self.configure()
        for hook in ("pre-receive", "post-receive"):
            path = self.repository / "hooks" / hook
            path.write_text(
                f"#!/bin/sh\nPYTHONPATH={SERVICES} exec {sys.executable} -m saltern.pipeline.hooks {hook} "
                f"--config {self.config}\n"
            )
            path.chmod(0o755)
        subprocess.run(["git", "init", "-q", "-b", "staging", str(self.copy)], check=True)
        self.git("config", "user.name", "Ada")
        self.git("config", "user.email", "ada@fleet.test")
        self.git("remote", "add", "origin", str(self.repository))

    def configure(self, **changes: Any) -> None:
        """What the hooks know."""
        values = {"home": str(self.settings.home), "branches": BRANCHES, "free_mib": 1, "follow_s": LONGEST,
                  "builds_url": "http://ops1:8090/builds", "url": "http://proxy1/", "machine": "ops1"}  # fmt: skip
        self.config.write_text(json.dumps({**values, **changes}))

    # -- a person's side

    def git(self, *arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=self.copy, check=True, capture_output=True, text=True
        ).stdout.strip()

    def commit(self, files: Mapping[str, str], message: str = "A change") -> str:
        """Commit these files; the commit."""
        for name, text in files.items():
            path = self.copy / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self.git("add", "--all")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")

    def push(self, *refs: str) -> Pushed:
        command = ["git", "push", "--no-progress", "origin", *refs]
        who = {**os.environ, "SALTERN_PUSHER": "ada"}
        pipe = subprocess.PIPE
        return Pushed(
            subprocess.Popen(
                command,
                cwd=self.copy,
                env=who,
                text=True,
                stdout=pipe,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        )

    # -- the worker

    def sandbox(self) -> socket.socket:
        """A runner at the other end of a new socket."""
        ours, theirs = socket.socketpair()
        command = [self.python, "-m", "saltern.pipeline.runner"]
        place = {"PYTHONPATH": SERVICES, "PATH": os.environ["PATH"], "TMPDIR": str(self.folder)}
        with theirs:
            self.sandboxes.append(subprocess.Popen(command, stdin=theirs, env=place, start_new_session=True))
        return ours

    def start(self, **options: Any) -> Worker:
        options = {"connect_sandbox": self.sandbox, **options}
        self.worker = Worker(self.settings, **options)
        self._thread = Thread(target=self.worker.run, daemon=True)
        self._thread.start()
        return self.worker

    def stop(self) -> None:
        """End the worker as SIGTERM does."""
        if self.worker and self._thread:
            self.worker.stopping.set()
            self._thread.join(PATIENCE)
            assert not self._thread.is_alive()
        self.worker = None

    def close(self) -> None:
        self.stop()
        for process in self.sandboxes:
            process.kill()
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def builds(self) -> list[Build]:
        return self.records.all()

    def ended(self, count: int = 1) -> list[Build]:
        """The builds, once so many have ended."""
        return until(
            lambda: (found := self.builds()) and sum(b.finished for b in found) >= count and found,
            f"{count} builds have ended",
            LONGEST,
        )
