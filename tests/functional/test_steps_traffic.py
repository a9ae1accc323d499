"""The progressive steps with a real HAProxy and its controller: what the controller knows better goes before them."""

from __future__ import annotations

import http.client
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from host import PATIENCE, until
from saltern import stepping
from saltern.judge import Thresholds
from saltern.samples import SAMPLES, Recorder
from saltern.stepping import Settings, Stepper
from saltern.steps import Plan
from traffic_stand import Stand

# Steps of two seconds. What a host that is busy with something else may do to latencies is not looked at.
SETTINGS = Settings(
    Plan(shares=(50, 75, 100), step_seconds=2, hold_seconds=600),
    Thresholds().with_values(
        {
            "min_requests": 20,
            "min_samples": 1,
            "tolerance": 100,
            "latency_min_ms": 60_000,
            "error_limit_percent": 20,
        }
    ),
    30,
)


@pytest.fixture
def at_share() -> dict[int, Callable[[], object]]:
    """What is to happen when a share is reached, before the stepper goes on."""
    return {}


@pytest.fixture
def traffic(make_stand: Callable[..., Stand], at_share: dict[int, Callable[[], object]]) -> Iterator[Stand]:
    """A canary and a production server, whose samples are told, and a stepper that looks at them."""
    stand = make_stand(
        canary={"settle_s": 0.2, "error_limit_pct": 30, "error_window_s": 5, "error_min_requests": 10}
    )
    stand.start()
    stand.add("prod1")
    stand.add("staging1", release="r2")
    stand.await_up("prod1", "staging1")
    stand.await_share(30)
    stepper = Stepper(
        stand.client, lambda: SETTINGS, fire=lambda _, data: at_share.pop(data["share"], lambda: None)(),
        alarm=lambda _: None, recorder=Recorder(stand.client, ""),
    )  # fmt: skip
    stop = threading.Event()

    def tell() -> None:
        while not stop.wait(0.2):
            for id_ in ("prod1", "staging1"):
                data = json.dumps({"seconds": 0.2, "cpu": [10.0], "memory": [20.0]})
                stand.client.xadd(SAMPLES, {"machine": id_, "age": "0", "data": data})

    threads = [threading.Thread(target=tell), threading.Thread(target=stepper.run)]
    for thread in threads:
        thread.start()
    yield stand
    stop.set()
    stepper.stop()
    for thread in threads:
        thread.join()


def steps(stand: Stand) -> Any:
    return stepping.look(stand.registry).steps


def start(stand: Stand) -> None:
    stepping.give(stand.registry, SETTINGS.plan, "start", by="test")


@contextmanager
def mode(stand: Stand, id_: str, **values: int) -> Iterator[None]:
    """Have a server answer like this meanwhile."""

    def ask(query: str) -> None:
        link = http.client.HTTPConnection("127.0.0.1", stand.ports[id_], timeout=PATIENCE)
        link.request("GET", f"/mode?{query}")
        assert link.getresponse().status == 200
        link.close()

    ask("&".join(f"{name}={value}" for name, value in values.items()))
    yield
    ask("&".join(f"{name}=200" for name in values))


def test_a_good_release_takes_all_requests(traffic: Stand) -> None:
    start(traffic)
    with traffic.loading(4) as load:
        until(lambda: steps(traffic).phase == "promoted", "promoted")
        traffic.await_share(100)
        before, done = load.count(pool="prod"), load.total
        until(lambda: load.total > done + 200, "traffic going on")
        # What each of the four clients was about to be answered then, and not one more.
        assert load.count(pool="prod") <= before + 4
    assert load.failures == []
    assert load.count(status=200) == load.total


def test_a_canary_that_dies_gets_nothing_rises_not_and_goes_on_when_it_is_back(
    traffic: Stand, at_share: dict[int, Callable[[], object]]
) -> None:
    at_share[75] = lambda: traffic.backends["staging1"].end(signal.SIGKILL)
    start(traffic)
    with traffic.loading(4) as load:
        until(lambda: not traffic.backends["staging1"].running, "the first step passes")
        traffic.await_share(0)
        time.sleep(4)
        # The wish stays; the controller, which knows that there is nobody, gives nothing. Whether the requests that
        # failed on it while it died are too many is the judge's business: they were retried elsewhere.
        found = stepping.look(traffic.registry)
        at, wished = found.steps, found.registry.split.share
        assert traffic.share() == 0
        if at.phase == "stepping":
            assert (at.share, wished) == (75, 75)
            traffic.start_backend("staging1")
            until(lambda: steps(traffic).share == traffic.share() == 100, "it goes on")
        else:
            assert (at.phase, wished) == ("aborted", 0)
            assert "failed" in at.reason
    assert load.failures == []
    assert load.count(status=200) == load.total


def test_the_controllers_own_limit_aborts(traffic: Stand) -> None:
    start(traffic)
    with traffic.loading(4), mode(traffic, "staging1", status=500):
        until(lambda: "canary" in traffic.registry.snapshot().latches, "the canary is turned off")
        until(lambda: steps(traffic).phase == "aborted", "the steps are aborted")
        traffic.await_share(0)
    state = traffic.registry.snapshot()
    assert state.split.share == 0
    # Opening the latch alone brings nothing back.
    traffic.registry.canary_on()
    time.sleep(1)
    assert (traffic.share(), steps(traffic).phase) == (0, "aborted")
