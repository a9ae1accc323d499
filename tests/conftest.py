"""What tests of several kinds share: fleets that are written down but have no machine running."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from host import folder_in_memory
from saltern import artifact, secrets, workplace
from saltern.fleet import REPOSITORY, Fleet, write_atomically
from saltern.local.cgroup import Limits
from saltern.local.machine import Machine

MACHINES = {
    "proxy1": "10.99.0.10",
    "redis1": "10.99.0.11",
    "redis2": "10.99.0.12",
    "prod1": "10.99.0.13",
    "prod2": "10.99.0.14",
    "staging1": "10.99.0.15",
    "ops1": "10.99.0.16",
}
RELEASES = {
    "agent": artifact.Artifact("a0123456789ab", "1" * 64, "artifacts/a0123456789ab.tar.gz"),
    "prod": artifact.Artifact("r0123456789ab", "2" * 64, "artifacts/r0123456789ab.tar.gz"),
    "canary": artifact.Artifact("r123456789abc", "3" * 64, "artifacts/r123456789abc.tar.gz"),
}
PARTS = {
    "seed": artifact.Artifact("s0123456789ab", "4" * 64, "artifacts/s0123456789ab.tar.gz"),
    "wheels": artifact.Artifact("w0123456789ab", "5" * 64, "artifacts/w0123456789ab.tar.gz"),
}


def write_machine(fleet: Fleet, name: str, address: str, **changes: object) -> Machine:
    """Write a machine into the fleet's inventory, as its driver would."""
    values = {"image": "0" * 12, "profile": "small", "since": 1.0, "made": True, **changes}
    made = Machine(name, address, Limits(384, 1.0), **values)
    write_atomically(fleet.machines_dir / name / "machine.json", made.to_json())
    return made


@pytest.fixture(scope="session")
def make_fleet() -> Iterator[Callable[..., Fleet]]:
    """Write down fleets with machines, secrets and releases; their folders are removed at the end."""
    folders: list[Path] = []

    def make(
        machines: Mapping[str, str] = MACHINES,
        pillar_dir: Path = REPOSITORY / "pillar",
        name: str = "test",
        subnet: str = "10.99.0.0/24",
    ) -> Fleet:
        folders.append(folder_in_memory())
        fleet = Fleet(name, subnet, folders[-1], pillar_dir)
        fleet.save()
        secrets.ensure(fleet)
        artifact.want(fleet, dict(RELEASES))
        workplace.keep_parts(fleet, PARTS)
        for machine, address in machines.items():
            write_machine(fleet, machine, address)
        return fleet

    yield make
    for folder in folders:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def make_machine() -> Callable[..., Machine]:
    """Write a machine into a fleet's inventory."""
    return write_machine


@pytest.fixture
def fleet(make_fleet: Callable[..., Fleet]) -> Fleet:
    """A fleet of its own, with a machine or two of every role."""
    return make_fleet()
