"""Streams of changes: who is told what and when, and when a stream ends. No clock is waited for."""

import threading

import pytest
from product import streams
from product.streams import Streams, Word, leaves

pytestmark = pytest.mark.unit

READY = "UP 2/3; name=prod/p1; node=proxy1; weight=1/5; scur=3/40; qcur=0"
LEAVES = "UP 2/3; name=prod/p1; node=proxy1; weight=0/5; scur=1/40; qcur=0"
BACKUP = "UP; name=canary/p1; node=proxy1; weight=1/1; scur=0/40; qcur=0"


@pytest.mark.parametrize(
    ("words", "left"),
    [
        ({}, False),
        ({"prod/p1": Word(True, 99.0)}, True),
        ({"prod/p1": Word(True, 99.0), "canary/p1": Word(False, 99.9)}, True),
        ({"prod/p1": Word(False, 99.0)}, False),
        # A proxy that says nothing any more is not believed for ever.
        ({"prod/p1": Word(True, 90.0)}, False),
    ],
)
def test_an_instance_leaves_where_a_proxy_sends_it_nobody_new(words, left):
    assert leaves(words, 100.0) is left


@pytest.mark.parametrize(
    "said", [None, "", "UP", "name=; weight=0/1", "weight=0/1; name=p1", "DOWN; weight=x/1"]
)
def test_what_is_no_word_of_haproxys_ends_nothing(said):
    listening = Streams(1)
    listening.heard(said)
    assert next(listening.stream(lambda: "a")) == b"event: change\ndata: a\n\n"


def test_a_stream_tells_each_change_once(monkeypatch):
    monkeypatch.setattr(streams, "LOOK", 0.0)
    said = iter(["a", "a", "b", "b", "b", "c"])
    heard = Streams(1).stream(lambda: next(said))
    assert [next(heard) for _ in range(3)] == [f"event: change\ndata: {it}\n\n".encode() for it in "abc"]


def test_a_silent_stream_is_kept_open_by_a_beat(monkeypatch):
    monkeypatch.setattr(streams, "LOOK", 0.0)
    monkeypatch.setattr(streams, "BEAT", 0.0)
    heard = Streams(1).stream(lambda: "a")
    assert [next(heard), next(heard)] == [b"event: change\ndata: a\n\n", b": still here\n\n"]


def test_there_is_room_again_after_a_stream_that_was_hung_up_on():
    few = Streams(2)
    first, second = few.stream(lambda: "a"), few.stream(lambda: "a")
    assert few.stream(lambda: "a") is None
    next(first)
    first.close()
    assert few.stream(lambda: "a") is not None
    assert few.stream(lambda: "a") is None
    second.close()


def test_without_a_thread_to_spare_there_is_no_stream():
    assert Streams(0).stream(lambda: "a") is None


@pytest.mark.parametrize("end", [lambda streams: streams.heard(LEAVES), Streams.end])
def test_all_streams_end_where_the_instance_leaves_or_the_process_ends(end, monkeypatch):
    monkeypatch.setattr(streams, "LOOK", 3600.0)
    listening = Streams(2)
    listening.heard(READY)
    heard: list[list[bytes]] = [[], []]
    streams_ = [listening.stream(lambda: "a") for _ in heard]
    for got, stream in zip(heard, streams_, strict=True):
        got.append(next(stream))
    threads = [
        threading.Thread(target=got.extend, args=(stream,))
        for got, stream in zip(heard, streams_, strict=True)
    ]
    for thread in threads:
        thread.start()
    end(listening)
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert heard == [[b"event: change\ndata: a\n\n"]] * 2
    assert listening.stream(lambda: "a") is None


def test_an_instance_that_is_back_takes_streams_again():
    listening = Streams(1)
    listening.heard(LEAVES)
    listening.heard(BACKUP)
    assert listening.stream(lambda: "a") is None
    listening.heard(READY)
    assert next(listening.stream(lambda: "a")) == b"event: change\ndata: a\n\n"
