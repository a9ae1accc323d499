"""Counters of events in a real Redis: each event counts once, whoever delivers it how often and when."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from host import folder_in_memory
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.backoff import ConstantBackoff
from redis.retry import Retry
from saltern.events import Event, Rejected, once

TAG = "saltern/instance/prod1/present"


@pytest.fixture(scope="module")
def server() -> Iterator[redis.Redis]:
    """A Redis of our own, on a socket."""
    folder = folder_in_memory("redis-")
    process = subprocess.Popen(
        [
            "redis-server",
            "--port",
            "0",
            "--unixsocket",
            str(folder / "s"),
            "--save",
            "",
            "--dir",
            str(folder),
        ],
        stdout=subprocess.DEVNULL,
    )
    patient = Retry(ConstantBackoff(0.05), 200, supported_errors=(redis.ConnectionError,))
    client = redis.Redis(unix_socket_path=str(folder / "s"), decode_responses=True, retry=patient)
    client.ping()
    yield client
    client.close()
    process.terminate()
    process.wait()
    shutil.rmtree(folder)


@pytest.fixture
def counters(server: redis.Redis) -> redis.Redis:
    """A Redis that has counted nothing."""
    server.flushall()
    return server


def passes(counters: redis.Redis, counter: int, machine: str = "prod1", tag: str = TAG) -> bool:
    try:
        once(counters, Event(machine, tag, {}, counter))
    except Rejected as rejected:
        assert f"counter {counter} was used before" in str(rejected)
        return False
    return True


@pytest.mark.parametrize(
    ("counted", "passed"),
    [
        ([1, 2, 3], [True, True, True]),
        ([1, 1, 1], [True, False, False]),
        ([3, 2, 4], [True, False, True]),
        ([9, 10], [True, True]),  # as text, 10 comes before 9
        ([99, 100, 99], [True, True, False]),
        ([2**53, 2**53 + 1, 2**53], [True, True, False]),  # where a Lua number stops counting one by one
        ([10**18, 10**18 + 1], [True, True]),
        ([10**30, 10**18], [True, False]),
    ],
)
def test_a_counter_only_ever_grows(counters, counted, passed):
    assert [passes(counters, counter) for counter in counted] == passed


def test_every_machine_and_every_kind_of_event_counts_for_itself(counters):
    assert passes(counters, 5)
    assert passes(counters, 5, machine="prod2")
    assert passes(counters, 5, tag="saltern/other/prod1/said")
    assert not passes(counters, 5)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 10**20), max_size=12))
def test_exactly_those_pass_that_are_above_all_before_them(server, sequence):
    server.flushall()
    highest = 0
    for counter in sequence:
        assert passes(server, counter) == (counter > highest)
        highest = max(highest, counter)


def test_of_one_event_delivered_many_times_at_once_one_passes(counters):
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda _: passes(counters, 7), range(64))) == 1
