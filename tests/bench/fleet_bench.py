"""What the benches of a whole fleet share: one of their own, made through `./saltern` and taken down at the end."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "services"), str(REPOSITORY / "tests" / "e2e")]

from fleet_commands import Live, saltern  # noqa: E402

NAME, SUBNET = "bench", "10.231.80.0/24"


def timed(*arguments: str) -> float:
    """Seconds that a `./saltern` command takes.

    :raises RuntimeError: it failed
    """
    began = time.monotonic()
    done = saltern(*arguments, timeout=1200)
    if done.returncode:
        raise RuntimeError(f"./saltern {' '.join(arguments)}: {done.stderr.strip().splitlines()[-1:]}")
    return time.monotonic() - began


def up(pillar: Path | None = None) -> float:
    """:param pillar: the folder it serves; None is the repository's"""
    served = ("--pillar", str(pillar)) if pillar else ()
    return timed("up", "--fleet", NAME, "--subnet", SUBNET, *served)


def down() -> float:
    return timed("down", "--fleet", NAME)


def live() -> Live:
    """The fleet that is up."""
    status = json.loads(saltern("status", "--fleet", NAME, "--json").stdout)
    state_dir = Path(status["state_dir"])
    workplace = state_dir / "workplace"
    if not workplace.exists():
        workplace.mkdir()
        (workplace / "Saltfile").write_text((REPOSITORY / "Saltfile").read_text())
        (workplace / ".saltern").symlink_to(state_dir)
    return Live(NAME, state_dir, status["urls"]["product"], workplace)


@contextmanager
def fleet(pillar: Path | None = None) -> Iterator[Live]:
    """The default fleet for the length of a bench."""
    up(pillar)
    try:
        yield live()
    finally:
        down()


def proportional_set_mib(group: str) -> float:
    """Resident memory of all processes of a control group, MiB, each shared page counted once in all (PSS)."""
    from saltern.local import cgroup

    total = 0
    for pid in cgroup.processes(group):
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return total / 1024
