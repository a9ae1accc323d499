"""Fixtures of the functional tests."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Test modules are imported without a package; what they share lies beside them.
sys.path.insert(0, str(Path(__file__).resolve().parent))

import off_disk
from redis_stand import RedisStand
from saltern import redis_link
from traffic_stand import Stand

tmp_path_factory = off_disk.tmp_path_factory


@pytest.fixture(scope="module", autouse=True)
def patient_clients() -> Iterator[None]:
    """The clients that tests and what they call make: a host that is busy is no Redis that is silent."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(redis_link, "DEFAULT_TIMEOUT_S", 10.0)
        patch.setattr(redis_link, "SENTINEL_TIMEOUT_S", 5.0)
        yield


@pytest.fixture
def bare(make_fleet: Callable[..., Any]) -> Any:
    """A fleet without machines."""
    return make_fleet(machines={})


@pytest.fixture
def make_stand(tmp_path: Path) -> Iterator[Callable[..., Stand]]:
    """Make traffic planes with pillar values of one's own; all are ended after the test."""
    stands: list[Stand] = []

    def make(**changes: Any) -> Stand:
        directory = tmp_path / f"stand{len(stands)}"
        directory.mkdir()
        stands.append(Stand(directory, changes))
        return stands[-1]

    yield make
    for stand in stands:
        stand.close()


@pytest.fixture
def stand(make_stand: Callable[..., Stand]) -> Stand:
    """A running traffic plane without any server yet."""
    made = make_stand()
    made.start()
    return made


@pytest.fixture(scope="module")
def shared_redis(
    tmp_path_factory: pytest.TempPathFactory, make_fleet: Callable[..., Any]
) -> Iterator[RedisStand]:
    """One for all tests of a module that leave everything running."""
    stand = RedisStand(tmp_path_factory.mktemp("shared") / "redis", make_fleet)
    stand.start()
    yield stand
    stand.close()


@pytest.fixture
def redis_fleet(shared_redis: RedisStand) -> RedisStand:
    """Three Redis machines under Sentinel, all of them well."""
    shared_redis.settle()
    return shared_redis


@pytest.fixture
def make_redis(tmp_path: Path, make_fleet: Callable[..., Any]) -> Iterator[Callable[..., RedisStand]]:
    """Three Redis machines under Sentinel, with changes to the pillar's `redis`; running, unless told otherwise."""
    stands: list[RedisStand] = []

    def make(start: bool = True, **changes: Any) -> RedisStand:
        stands.append(RedisStand(tmp_path / f"redis{len(stands)}", make_fleet, **changes))
        if start:
            stands[-1].start()
        return stands[-1]

    yield make
    for stand in stands:
        stand.close()
