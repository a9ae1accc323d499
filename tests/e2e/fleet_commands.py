"""What a person does at the command line of a fleet, for the tests to do."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
# Two runs of these tests on one host need two names and two subnets.
NAME = os.environ.get("SALTERN_E2E_FLEET", "e2e")
SUBNET = os.environ.get("SALTERN_E2E_SUBNET", "10.231.77.0/24")
SLOW_HOST = 4
"""How many times longer than usual a busy host may take. Waiting for what comes costs nothing; how long it took is for
the benches."""


def run(
    *command: str,
    timeout: float = 300,
    env: dict[str, str] | None = None,
    cwd: Path = REPOSITORY,
    stdin: str | None = None,
):
    """Run a command to its end; input and output are text."""
    return subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        cwd=cwd,
        env={**os.environ, **(env or {})},
    )


def saltern(*arguments: str, timeout: float = 600, env: dict[str, str] | None = None):
    """Run `./saltern`."""
    return run("./saltern", *arguments, timeout=timeout, env=env)


def wait_for(condition: Callable[[], object], seconds: float, what: str) -> object:
    """Poll until `condition` answers something true; fail with `what` at the deadline.

    :param seconds: how long it may take on a host with nothing else to do
    """
    end = time.monotonic() + seconds * SLOW_HOST
    while not (answer := condition()):
        assert time.monotonic() < end, f"not within {seconds * SLOW_HOST:g} s: {what}"
        time.sleep(0.05)
    return answer


@dataclass(frozen=True)
class Live:
    """The running fleet, as a person at the command line has it."""

    name: str
    state_dir: Path
    product: str
    workplace: Path

    def salt(self, program: str, *arguments: str, timeout: float = 400):
        """One of Salt's own commands, typed with no flags in a folder that has the Saltfile and its link."""
        return run(str(REPOSITORY / ".venv/bin" / program), *arguments, timeout=timeout, cwd=self.workplace)

    def answer(self, *arguments: str, timeout: float = 400) -> dict:
        """What `salt ... --out=json --static` answers."""
        done = self.salt("salt", "--out=json", "--static", "--timeout=30", *arguments, timeout=timeout)
        return json.loads(done.stdout)

    def status(self) -> dict:
        done = saltern("status", "--fleet", self.name, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def group(self, machine: str) -> str:
        return f"saltern-{self.name}/{machine}"

    def headers(self, path: str = "version") -> dict[str, str]:
        """The headers of one answer from the public address, lower case."""
        done = run("curl", "-s", "-o", "/dev/null", "-D", "-", "--max-time", "30", f"{self.product}{path}")
        lines = [line.partition(":") for line in done.stdout.splitlines()]
        return {key.lower(): value.strip() for key, _, value in lines if value} | {
            ":status": done.stdout[9:12]
        }

    def instances_seen(self, requests: int = 40) -> set[str]:
        return {self.headers().get("x-saltern-instance", "") for _ in range(requests)}
