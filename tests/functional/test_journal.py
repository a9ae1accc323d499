"""The journal in a real Redis: followed while it is written, and asked why."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from host import PATIENCE, free_port, until
from redis.backoff import NoBackoff
from redis.retry import Retry
from saltern import journal
from saltern.errors import SalternError
from saltern.registry import Registry
from traffic_stand import redis_process

pytestmark = pytest.mark.functional


@pytest.fixture
def client(tmp_path: Path) -> Iterator[redis.Redis]:
    port = free_port()
    process = redis_process(tmp_path, port)
    process.start()
    made = redis.Redis(port=port, decode_responses=True, retry=Retry(NoBackoff(), 0))

    def answers() -> bool:
        try:
            return bool(made.ping())
        except redis.ConnectionError:
            return False

    until(answers, "redis-server answering")
    yield made
    process.end()


def test_why_tells_what_led_to_it_and_what_came_of_it(client: redis.Redis) -> None:
    registry = Registry(client)
    registry.register("staging1", "10.0.0.9", 8080, "r1", "canary", by="staging1")
    first = registry.note(
        "canary.judged", "canary", {"verdict": "fail"}, by="judge", cause="saltern/canary/judged"
    )
    off = registry.canary_off("judged bad", by="judge", cause=first)
    registry.note("alert.firing", "canary", {"alert": "canary_off"}, by="alerts", cause=off.journal)
    found = journal.why(client, "canary off")
    assert [row["what"].split(" ")[0] for row in found["chain"]] == [
        "saltern/canary/judged", "canary.judged", "canary.off",
    ]  # fmt: skip
    assert found["chain"][-1]["after_ms"] >= 0
    assert [row["what"] for row in found["effects"]] == ["alert.firing canary alert=canary_off"]
    assert journal.why(client, off.journal)["chain"] == found["chain"]
    with pytest.raises(SalternError, match="nothing in the journal answers 'prod9 exists'"):
        journal.why(client, "prod9 exists")


def test_the_tail_goes_back_further_than_one_piece(client: redis.Redis) -> None:
    registry = Registry(client)
    registry.note("old.one", "x", {}, by="test")
    for n in range(1100):
        registry.note("new.one", "x", {"n": n}, by="test")
    assert [row["what"] for row in journal.shown(client, 5, kind="old")] == ["old.one x"]
    assert [row["what"] for row in journal.shown(client, 2)] == ["new.one x n=1098", "new.one x n=1099"]
    for count in (0, 1001, True, "many"):
        with pytest.raises(SalternError, match="count"):
            journal.shown(client, count)


def test_new_lines_are_followed(client: redis.Redis) -> None:
    registry = Registry(client)
    registry.note("canary.test", "canary", {}, by="before")
    seen: list[str] = []

    def hear(line: str) -> None:
        seen.append(line)
        if "by last" in line:
            raise KeyboardInterrupt

    thread = threading.Thread(target=journal.shown, args=(client, 5, "canary"), kwargs={"follow": hear})
    thread.start()
    until(lambda: len(seen) == 1, "what was there already")
    registry.note("other.test", "x", {}, by="nobody")
    registry.note("canary.test", "canary", {}, by="last")
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert [line.rpartition("by ")[2] for line in seen] == ["before", "last"]
