"""Samples on their way from the bus into Redis: proven, once, bounded, and not lost with Redis for a while."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from saltern import samples, secrets, signing
from saltern.samples import SAMPLES, Batch, Recorder, read
from traffic_stand import redis_server

SECRET = "5a" * 32
VALUES = {"seconds": 2.0, "cpu": [1.0, 2.0], "memory": [30.0, 31.0]}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    process, port = redis_server(tmp_path_factory.mktemp("redis"))
    with redis.Redis(port=port, decode_responses=True) as client:
        yield client
    process.end()


class Clock:
    """Seconds since some start, as the test has them."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def recorder(client: redis.Redis, clock: Clock) -> Recorder:
    client.flushall()
    return Recorder(client, SECRET, clock)


def event(
    machine: str = "prod1", values: dict[str, Any] = VALUES, counter: int | None = None, **changes: Any
):
    """What the beacon sends, as it stands on the bus."""
    tag = f"salt/beacon/{machine}/samples/taken"
    signed = signing.sign(secrets.event_key(SECRET, machine), machine, tag, values, counter)
    return tag, {"id": machine, **signed, **changes}


def kept(client: redis.Redis) -> list[Batch]:
    now, _ = client.time()
    return read(client, now - 60, now + 60)


def test_a_batch_is_kept_with_the_time_it_was_heard(
    client: redis.Redis, recorder: Recorder, clock: Clock
) -> None:
    assert recorder.hear(*event())
    clock.now += 1.5
    assert recorder.write() == 1
    (batch,) = kept(client)
    assert (batch.machine, batch.seconds, batch.cpu, batch.memory) == ("prod1", 2.0, (1.0, 2.0), (30.0, 31.0))
    seconds, micros = client.time()
    assert 1.4 <= seconds + micros / 1e6 - batch.ended < 30


@pytest.mark.parametrize(
    ("tag", "data"),
    [
        event(signature="0" * 64),
        event(id="prod2"),
        ("salt/beacon/prod2/samples/taken", event()[1]),
        event(values={"seconds": 2.0, "cpu": [1.0, 900.0], "memory": [1.0, 1.0]}),
        event(values={"percent": 5}),
        event(counter=-1),
        ("salt/beacon/prod1/cpu/high", event()[1]),
        ("salt/beacon/prod1/samples/taken\n", event()[1]),
        ("salt/beacon/prod1/samples/taken", {}),
    ],
)
def test_what_is_not_proven_or_no_batch_is_not_kept(
    client: redis.Redis, recorder: Recorder, tag: str, data: dict
) -> None:
    assert not recorder.hear(tag, data)
    assert recorder.write() == 0
    assert kept(client) == []


def test_an_event_counts_once_also_after_a_restart(client: redis.Redis, recorder: Recorder) -> None:
    said = event()
    assert recorder.hear(*said)
    assert recorder.write() == 1
    again = Recorder(client, SECRET)
    assert again.hear(*said)
    assert again.write() == 0
    assert len(kept(client)) == 1


def test_a_machine_that_floods_the_bus_is_not_believed_more_often(
    client: redis.Redis, recorder: Recorder, clock: Clock
) -> None:
    heard = 0
    for number in range(100):
        clock.now += 0.01
        heard += recorder.hear(*event(counter=number + 1))
        assert recorder.hear(*event(f"prod{number + 2}", counter=1)), "others are heard"
    assert heard == 2
    assert recorder.write() == 102


def test_what_is_old_goes(client: redis.Redis, recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    old = round((time.time() - samples.KEPT_S - 60) * 1000)
    for number in range(500):
        client.xadd(SAMPLES, {"machine": "prod1"}, id=f"{old}-{number + 1}")
    recorder.hear(*event())
    recorder.write()
    assert client.xlen(SAMPLES) < 300


def test_while_redis_is_away_batches_wait(tmp_path: Path, clock: Clock) -> None:
    process, port = redis_server(tmp_path / "redis")
    client = redis.Redis(port=port, decode_responses=True, retry=Retry(NoBackoff(), 0))
    recorder = Recorder(client, SECRET, clock)
    process.end()
    for number in (1, 2, 3):
        clock.now += 10
        assert recorder.hear(*event(counter=number))
    with pytest.raises(redis.RedisError):
        recorder.write()
    process.start()
    try:
        while True:
            try:
                assert recorder.write() == 3
                break
            except redis.ConnectionError:
                time.sleep(0.01)
        ended = [batch.ended for batch in kept(client)]
        # As far apart as they were heard.
        assert [round(b - a) for a, b in pairwise(ended)] == [10, 10]
    finally:
        process.end()


def test_an_entry_that_is_no_batch_is_left_out_and_said(
    client: redis.Redis, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    for fields in ({"machine": "prod1"}, {"machine": "prod1", "age": "x", "data": "{}"}, {"data": "{"}):
        client.xadd(SAMPLES, fields)
    recorder.hear(*event())
    recorder.write()
    assert [batch.machine for batch in kept(client)] == ["prod1"]
    assert len([r for r in caplog.records if "is no batch" in r.getMessage()]) == 3
