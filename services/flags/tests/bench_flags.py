"""Figures of the flags: how fast a flip is seen, and what an evaluation costs.

    python tests/bench_flags.py [--json] [--flips N] [--evaluations N]

Starts its own primary and replica on free ports. Six processes read from the replica; a seventh flips a flag
on the primary and waits until all six have evaluated the new value. Peers are measured in the same run where
they can be: the Redis GET per evaluation that this replaces, and UnleashClient's evaluation when it is
installed (pip install UnleashClient); the polling interval other systems document is given as what it is, a
constant.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import multiprocessing
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from operator import sub, truediv
from pathlib import Path
from typing import Any

import redis
from openfeature import api
from openfeature.contrib.tools.flagd.core import FlagdCore
from openfeature.evaluation_context import EvaluationContext
from openfeature.event import ProviderEvent
from openfeature.provider import AbstractProvider, Metadata
from openfeature_redis import RedisProvider, flagset

PROCESSES = 6
BY = {"who": "bench", "why": "bench"}
# UnleashClient's documented refresh_interval, in seconds.
UNLEASH_POLL = 15
BATCH = 200

FLAGS = {
    "flip": {"state": "ENABLED", "variants": {"a": "a", "b": "b"}, "defaultVariant": "a"},
    "static": {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "on"},
    "targeting": {
        "state": "ENABLED",
        "variants": {"on": True, "off": False},
        "defaultVariant": "off",
        "targeting": {"if": [{"ends_with": [{"var": "email"}, "@example.com"]}, "on", "off"]},
    },
    "fractional": {
        "state": "ENABLED",
        "variants": {"on": True, "off": False},
        "defaultVariant": "off",
        "targeting": {"fractional": [["on", 10], ["off", 90]]},
    },
}
CONTEXT = EvaluationContext("visitor-17", {"email": "ana@example.com"})


@dataclass(frozen=True)
class Figure:
    """One row of the report. goal: the bound the value must not exceed, None when it only informs."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    met: bool | None = None
    peers: Mapping[str, float] = field(default_factory=dict)
    runs: int = 0


def figure(
    name: str, value: float, unit: str, runs: int, goal: float | None = None, **peers: float
) -> Figure:
    met = None if goal is None else value <= goal
    return Figure(name, round(value, 4), unit, goal, met, {k: round(v, 4) for k, v in peers.items()}, runs)


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@contextlib.contextmanager
def servers() -> Iterator[tuple[int, int]]:
    """A primary and its replica; yields their ports."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        ports: list[int] = []
        for number in range(2):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            extra = ["--replicaof", "127.0.0.1", str(ports[0])] if ports else []
            home = Path(folder) / str(number)
            home.mkdir()
            process = subprocess.Popen(
                ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(home),
                 "--repl-diskless-sync-delay", "0", *extra],
                stdout=subprocess.DEVNULL,
            )  # fmt: skip
            stack.callback(process.wait)
            stack.callback(process.terminate)
            ports.append(port)
            deadline = time.monotonic() + 20
            while not up(port, replica=number == 1):
                if time.monotonic() > deadline:
                    raise RuntimeError(f"redis-server on port {port} did not come up within 20 s")
                time.sleep(0.02)
        yield ports[0], ports[1]


def up(port: int, replica: bool) -> bool:
    try:
        state = redis.Redis(port=port).info("replication")
    except redis.ConnectionError:
        return False
    return not replica or state["master_link_status"] == "up"


class Noting(RedisProvider):
    """Evaluates, through the SDK's client, as soon as a new flag set is in force; notes value and moment."""

    def _emit(self, event: ProviderEvent, **details: Any) -> None:
        if event is ProviderEvent.PROVIDER_CONFIGURATION_CHANGED:
            self.noted = api.get_client().get_string_value("flip", ""), time.monotonic_ns()
        super()._emit(event, **details)


def product(addresses: list[str], pipe: Any) -> None:
    """A process of the product: says (value, moment seen, moment its handler ran) of every change."""
    provider = Noting(addresses)

    def told(_: Any) -> None:
        moment = time.monotonic_ns()
        pipe.send((*provider.noted, moment))

    api.add_handler(ProviderEvent.PROVIDER_CONFIGURATION_CHANGED, told)
    api.set_provider_and_wait(provider)
    pipe.send(api.get_client().get_string_value("flip", ""))
    threading.Event().wait()


class Stamping(redis.Redis):
    """Notes when the write itself is sent; reading and validating come before it."""

    sent = 0

    def execute_command(self, *args: Any, **options: Any) -> Any:
        if args[0] == "EVAL":
            self.sent = time.monotonic_ns()
        return super().execute_command(*args, **options)


@dataclass(frozen=True)
class Flips:
    """Milliseconds from the write being sent: to each process's first evaluation of the new value, to the
    last process's of each flip, to each process's event handler. prepared: from the call of set_default to
    the write being sent, during which the set is read and validated. written: the whole call."""

    seen: list[float]
    seen_by_all: list[float]
    told: list[float]
    prepared: list[float]
    written: list[float]


def flips(primary: int, replica: int, count: int) -> Flips:
    context = multiprocessing.get_context("spawn")
    addresses = [f"127.0.0.1:{primary}", f"127.0.0.1:{replica}"]
    pipes, processes = [], []
    for _ in range(PROCESSES):
        mine, theirs = context.Pipe()
        process = context.Process(target=product, args=(addresses, theirs), daemon=True)
        process.start()
        pipes.append(mine)
        processes.append(process)
    for pipe in pipes:
        if not pipe.poll(30) or pipe.recv() != "a":
            raise RuntimeError("a process did not start with the flag set")
    writer = Stamping(port=primary, decode_responses=True)
    found = Flips([], [], [], [], [])
    for number in range(count):
        wanted = "b" if number % 2 == 0 else "a"
        called = time.monotonic_ns()
        flagset.set_default(writer, "flip", wanted, **BY)
        found.written.append((time.monotonic_ns() - called) / 1e6)
        found.prepared.append((writer.sent - called) / 1e6)
        seen = []
        for pipe in pipes:
            if not pipe.poll(10):
                raise RuntimeError(f"flip {number} was not seen within 10 s")
            value, at, told = pipe.recv()
            if value != wanted:
                raise RuntimeError(f"flip {number} to {wanted!r} was seen as {value!r}")
            seen.append((at - writer.sent) / 1e6)
            found.told.append((told - writer.sent) / 1e6)
        found.seen.extend(seen)
        found.seen_by_all.append(max(seen))
        time.sleep(0.01)
    for process in processes:
        process.terminate()
        process.join()
    return found


class CoreProvider(AbstractProvider):
    """flagd-core's own provider path: what any in-process flagd provider does to answer."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        super().__init__()
        self.core = FlagdCore()
        self.core.set_flags(json.dumps(document))
        self.metadata = Metadata(name="core")

    def get_metadata(self) -> Metadata:
        return self.metadata

    def resolve_boolean_details(
        self, flag_key: str, default_value: bool, evaluation_context: Any = None
    ) -> Any:
        return self.core.resolve_boolean_value(flag_key, default_value, evaluation_context)

    def resolve_string_details(
        self, flag_key: str, default_value: str, evaluation_context: Any = None
    ) -> Any:
        return self.core.resolve_string_value(flag_key, default_value, evaluation_context)

    def resolve_integer_details(
        self, flag_key: str, default_value: int, evaluation_context: Any = None
    ) -> Any:
        return self.core.resolve_integer_value(flag_key, default_value, evaluation_context)

    def resolve_float_details(
        self, flag_key: str, default_value: float, evaluation_context: Any = None
    ) -> Any:
        return self.core.resolve_float_value(flag_key, default_value, evaluation_context)

    def resolve_object_details(
        self, flag_key: str, default_value: Any, evaluation_context: Any = None
    ) -> Any:
        return self.core.resolve_object_value(flag_key, default_value, evaluation_context)


def costs(count: int, *calls: Callable[[], Any]) -> list[list[float]]:
    """Microseconds of each call, round by round, in batches that take turns so a busy moment hits all alike.

    Every round begins with another call, because the one after a slow one finds the processor's caches cold.
    """
    samples: list[list[float]] = [[] for _ in calls]
    for number in range(max(count // BATCH, 5)):
        for offset in range(len(calls)):
            turn = (number + offset * (1 if number % 2 else -1)) % len(calls)
            call = calls[turn]
            start = time.perf_counter_ns()
            for _ in range(BATCH):
                call()
            samples[turn].append((time.perf_counter_ns() - start) / BATCH / 1000)
    return samples


def unleash(folder: Path) -> Any:
    """An UnleashClient that has its flags and never asks its server; None when it is not installed."""
    if importlib.util.find_spec("UnleashClient") is None:
        return None
    from UnleashClient import UnleashClient
    from UnleashClient.cache import FileCache

    rollout = {
        "name": "flexibleRollout",
        "parameters": {"rollout": "10", "stickiness": "default", "groupId": "f"},
    }
    cache = FileCache("bench", directory=str(folder))
    cache.bootstrap_from_dict(
        {
            "version": 2,
            "features": [
                {"name": "static", "enabled": True, "strategies": [{"name": "default", "parameters": {}}]},
                {"name": "fractional", "enabled": True, "strategies": [rollout]},
            ],
        }
    )
    client = UnleashClient(
        "http://127.0.0.1:9/api", "bench", cache=cache, disable_metrics=True, disable_registration=True
    )
    client.initialize_client(fetch_toggles=False)
    return client


def measure(flip_count: int, count: int) -> list[Figure]:
    with servers() as (primary, replica), tempfile.TemporaryDirectory() as folder:
        writer = redis.Redis(port=primary, decode_responses=True)
        flagset.write(writer, {"flags": FLAGS}, **BY)
        if not writer.wait(1, 5000):
            raise RuntimeError("the replica did not take the flag set within 5 s")
        found = flips(primary, replica, flip_count)
        polling = {"unleash_polling_default": UNLEASH_POLL * 1000}
        from_call = [seen + before for seen, before in zip(found.seen_by_all, found.prepared, strict=True)]
        figures = [
            figure("flip_seen_p50", percentile(found.seen, 0.5), "ms", len(found.seen), goal=2.0, **polling),
            figure(
                "flip_seen_p99", percentile(found.seen, 0.99), "ms", len(found.seen), goal=10.0, **polling
            ),
            figure("flip_seen_by_all_p50", percentile(found.seen_by_all, 0.5), "ms", flip_count, goal=2.0),
            figure("flip_seen_by_all_p99", percentile(found.seen_by_all, 0.99), "ms", flip_count, goal=10.0),
            figure("flip_handler_p50", percentile(found.told, 0.5), "ms", len(found.told)),
            figure("flip_handler_p99", percentile(found.told, 0.99), "ms", len(found.told)),
            figure("flip_call_seen_by_all_p50", percentile(from_call, 0.5), "ms", flip_count, goal=2.0),
            figure("flip_call_seen_by_all_p99", percentile(from_call, 0.99), "ms", flip_count, goal=10.0),
            figure("flip_call_p50", percentile(found.written, 0.5), "ms", flip_count),
        ]

        provider = RedisProvider([f"127.0.0.1:{primary}", f"127.0.0.1:{replica}"], resync=60)
        core = CoreProvider(flagset.read(writer).document)
        api.set_provider_and_wait(provider, "ours")
        api.set_provider_and_wait(core, "core")
        ours, theirs = api.get_client("ours"), api.get_client("core")
        old = unleash(Path(folder))
        visitor = {"userId": "visitor-17"}
        for key in ("static", "targeting", "fractional"):
            calls: dict[str, Callable[[], Any]] = {
                "ours": lambda key=key: ours.get_boolean_value(key, False, CONTEXT),
                "flagd_core_path": lambda key=key: theirs.get_boolean_value(key, False, CONTEXT),
                "our_resolve": lambda key=key: provider.resolve_boolean_details(key, False, CONTEXT),
                "core_resolve": lambda key=key: core.core.resolve_boolean_value(key, False, CONTEXT),
                "redis_get": lambda: json.loads(writer.get("saltern:flags")),
            }
            if old is not None and key != "targeting":
                calls["unleash"] = lambda key=key: old.is_enabled(key, visitor)
            rounds = dict(zip(calls, costs(count, *calls.values()), strict=True))
            cost = {name: statistics.median(own) for name, own in rounds.items()}
            shown = {name: cost[name] for name in ("flagd_core_path", "redis_get", "unleash") if name in cost}
            # compared within each round, so that a neighbour's load falls on both sides
            ratio = statistics.median(map(truediv, rounds["ours"], rounds["flagd_core_path"]))
            added = statistics.median(map(sub, rounds["our_resolve"], rounds["core_resolve"]))
            figures += [
                figure(f"evaluate_{key}", cost["ours"], "us", count, **shown),
                figure(f"evaluate_{key}_over_core", ratio, "ratio", count, goal=1.10),
                figure(f"resolve_{key}_added", added, "us", count, goal=2.0),
            ]
        figures.append(
            figure("network_per_evaluation", asked(primary, replica, ours), "commands", 10_000, goal=0.0)
        )
        api.shutdown()
        if old is not None:
            old.destroy()
    return figures


def asked(primary: int, replica: int, client: Any) -> float:
    """Reads that both servers answered for each of 10,000 evaluations."""
    watchers = [redis.Redis(port=port) for port in (primary, replica)]

    def get_calls() -> int:
        stats = [watcher.info("commandstats") for watcher in watchers]
        return sum(
            one.get(f"cmdstat_{name}", {}).get("calls", 0) for one in stats for name in ("get", "mget")
        )

    before = get_calls()
    for _ in range(10_000):
        client.get_boolean_value("static", False, CONTEXT)
    return (get_calls() - before) / 10_000


def machine() -> dict[str, Any]:
    version = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True).stdout
    return {
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "redis": version.split("v=")[1].split()[0],
        "load": os.getloadavg()[0],
    }


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--flips", type=int, default=300, help="how often to flip (default %(default)s)")
    parser.add_argument("--evaluations", type=int, default=20_000, help="of each flag (default %(default)s)")
    options = parser.parse_args(arguments)
    where = machine()
    figures = measure(options.flips, options.evaluations)
    if options.json:
        print(json.dumps({"bench": "flags", "machine": where, "figures": [asdict(one) for one in figures]}))
        return 0
    for one in figures:
        goal = "" if one.goal is None else f"goal {one.goal:g} {'met' if one.met else 'MISSED'}"
        peers = "  ".join(f"{name} {value:g}" for name, value in one.peers.items())
        print(f"{one.name:32} {one.value:10.4g} {one.unit:9} {goal:16} {peers}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
