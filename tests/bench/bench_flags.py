"""How fast a flip of a flag is seen by the product, and what an evaluation costs.

A primary and a replica, and six products as they run on machines, gunicorn and all, each over a state folder of its
own. They read the flags from the replica; the bench flips one on the primary and waits until each of the six workers
has answered the new value through the OpenFeature client. Peers are measured in the same run: the Redis GET per
evaluation that this replaces, flagd-core's own path, and UnleashClient's local evaluation. How often UnleashClient
asks its server by default is its own constant.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import sub, truediv
from pathlib import Path
from typing import Any

from benching import Figure, main, percentile, report

REPOSITORY = Path(__file__).resolve().parents[2]
PEER = Path(__file__).resolve().parent / "unleash"
SERVICES = [REPOSITORY / "services" / each for each in ("", "product", "flags/src")]
sys.path[:0] = map(str, SERVICES)

import redis  # noqa: E402
from openfeature import api  # noqa: E402
from openfeature.contrib.tools.flagd.core import FlagdCore  # noqa: E402
from openfeature.evaluation_context import EvaluationContext  # noqa: E402
from openfeature.provider import AbstractProvider, Metadata  # noqa: E402
from openfeature_redis import RedisProvider, flagset  # noqa: E402

PRODUCTS = 6
BY = {"who": "bench", "why": "bench"}
TITLES = ("Tide", "Ebb")
BATCH = 200
PATIENCE_S = 60.0

SWITCH = {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "off"}
FLAGS = {
    "site_title": {
        "state": "ENABLED",
        "variants": {name: name for name in TITLES},
        "defaultVariant": TITLES[1],
    },
    "static": {**SWITCH, "defaultVariant": "on"},
    "targeting": {
        **SWITCH,
        "targeting": {"if": [{"ends_with": [{"var": "email"}, "@example.com"]}, "on", "off"]},
    },
    "fractional": {**SWITCH, "targeting": {"fractional": [["on", 10], ["off", 90]]}},
}
CONTEXT = EvaluationContext("visitor-17", {"email": "ana@example.com"})


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


@contextlib.contextmanager
def products(ports: Sequence[int], folder: Path, notes: Path) -> Iterator[list[int]]:
    """Six products over these servers; yields the ports they serve on."""
    with contextlib.ExitStack() as stack:
        serving = []
        for number in range(PRODUCTS):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                serving.append(probe.getsockname()[1])
            home = folder / f"prod{number + 1}"
            home.mkdir()
            config = {
                "redis": {"addresses": [f"127.0.0.1:{port}" for port in ports]},
                "instance": home.name,
                "pool": "prod",
                "state_dir": str(home),
            }
            (home / "config.json").write_text(json.dumps(config))
            environment = {
                **os.environ,
                "PYTHONPATH": os.pathsep.join(map(str, [*SERVICES, Path(__file__).parent])),
                "PRODUCT_CONFIG": str(home / "config.json"),
                "PRODUCT_BIND": f"127.0.0.1:{serving[-1]}",
                "BENCH_SOCKET": str(notes),
            }
            process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "-c", "python:product_worker", "product.app:application"],
                env=environment, cwd=home, stdout=(home / "log").open("wb"), stderr=subprocess.STDOUT,
            )  # fmt: skip
            stack.callback(process.wait)
            stack.callback(process.terminate)
        deadline = time.monotonic() + PATIENCE_S
        while not all(map(ready, serving)):
            if time.monotonic() > deadline:
                raise RuntimeError(f"the products are not ready within {PATIENCE_S:g} s; see {folder}")
            time.sleep(0.1)
        yield serving


def ready(port: int) -> bool:
    try:
        return '"flags": "READY"' in get(http.client.HTTPConnection("127.0.0.1", port, timeout=5), "/health")
    except OSError:
        return False


def get(connection: http.client.HTTPConnection, path: str) -> str:
    connection.request("GET", path)
    return connection.getresponse().read().decode()


class Stamping(redis.Redis):
    """Notes when the write itself is sent; reading and validating come before it."""

    sent = 0

    def execute_command(self, *args: Any, **options: Any) -> Any:
        if args[0] == "EVAL":
            self.sent = time.monotonic_ns()
        return super().execute_command(*args, **options)


@dataclass(frozen=True)
class Flips:
    """Milliseconds from the write being sent: to each worker's first evaluation of the new value, and to the last
    worker's of each flip; from the call of set_default, which reads and validates first, to that; and from the write
    to all six having answered a request with the new title, asked one after the other."""

    seen: list[float]
    seen_by_all: list[float]
    called_to_seen: list[float]
    served_by_all: list[float]


def flips(primary: int, replica: int, folder: Path, count: int) -> Flips:
    """Flip the title so many times."""
    found = Flips([], [], [], [])
    path = folder / "notes"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notes:
        notes.bind(str(path))
        notes.settimeout(10)
        with products([primary, replica], folder, path) as ports:
            while select.select([notes], [], [], 0)[0]:  # what the workers said of the set they started with
                notes.recv(200)
            links = [http.client.HTTPConnection("127.0.0.1", port, timeout=10) for port in ports]
            with Stamping(port=primary, decode_responses=True) as writer:
                for number in range(count):
                    _flip(writer, notes, links, TITLES[number % 2], found)
                    time.sleep(0.01)
    return found


def _flip(
    writer: Stamping,
    notes: socket.socket,
    links: Sequence[http.client.HTTPConnection],
    wanted: str,
    found: Flips,
) -> None:
    called = time.monotonic_ns()
    flagset.set_default(writer, "site_title", wanted, **BY)
    seen: dict[str, float] = {}
    while len(seen) < PRODUCTS:
        moment, who, value = notes.recv(200).decode().split(" ", 2)
        if value != wanted or who in seen:
            raise RuntimeError(f"{who} saw {value!r} where {wanted!r} was to be seen once")
        seen[who] = (int(moment) - writer.sent) / 1e6
    found.seen.extend(seen.values())
    found.seen_by_all.append(max(seen.values()))
    found.called_to_seen.append(max(seen.values()) + (writer.sent - called) / 1e6)
    for link in links:
        if f"<h1>{wanted}</h1>" not in get(link, "/"):
            raise RuntimeError(f"{link.port} served an old title after its worker had seen {wanted!r}")
    found.served_by_all.append((time.monotonic_ns() - writer.sent) / 1e6)


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


@dataclass(frozen=True)
class Unleash:
    """What an UnleashClient costs: microseconds an evaluation, by flag; and its default polling interval, ms."""

    us: Mapping[str, float]
    poll_ms: float | None


def unleash(folder: Path, count: int) -> Unleash:
    """Measure UnleashClient in a virtual environment of its own, made at the first run: its requirements are not ours.

    Where it cannot be installed (its native part has no wheel for every Python), the bench says so and goes on.
    """
    python = PEER / ".venv" / "bin" / "python"
    stamp = PEER / ".venv" / "complete"
    try:
        if not stamp.exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(PEER / ".venv")], check=True)
            subprocess.run(
                [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--require-hashes",
                 "--only-binary", ":all:", "-r", str(PEER / "requirements.txt")],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            stamp.touch()
    except subprocess.CalledProcessError as error:
        print(
            f"UnleashClient is not measured: {(error.stderr or str(error)).strip().splitlines()[-1]}",
            file=sys.stderr,
        )
        return Unleash({}, None)
    command = [str(python), str(PEER / "peer.py"), str(count), str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    return Unleash(found["us"], found["poll_s"] * 1000.0)


def seen_figures(found: Flips, peer: Unleash) -> list[Figure]:
    """How fast flips were seen."""
    polling = {} if peer.poll_ms is None else {"unleash_polling_default": peer.poll_ms}
    figures = []
    for name, values, goals in (
        ("flip_seen", found.seen, ("<= 2", "<= 10")),
        ("flip_seen_by_all", found.seen_by_all, ("<= 2", "<= 10")),
        ("flip_call_seen_by_all", found.called_to_seen, (None, None)),
        ("flip_served_by_all", found.served_by_all, (None, None)),
    ):
        for percent, goal in zip((50, 99), goals, strict=True):
            value = round(percentile(values, percent), 4)
            figures.append(Figure(f"{name}_p{percent}", value, "ms", goal, polling, len(values)))
    return figures


def evaluation_figures(primary: int, replica: int, count: int, peer: Unleash) -> list[Figure]:
    """What an evaluation costs, beside others'."""
    writer = redis.Redis(port=primary, decode_responses=True)
    provider = RedisProvider([f"127.0.0.1:{primary}", f"127.0.0.1:{replica}"], resync=60)
    core = CoreProvider(flagset.read(writer).document)
    api.set_provider_and_wait(provider, "ours")
    api.set_provider_and_wait(core, "core")
    ours, theirs = api.get_client("ours"), api.get_client("core")
    figures = []
    for key in ("static", "targeting", "fractional"):
        calls: dict[str, Callable[[], Any]] = {
            "ours": lambda key=key: ours.get_boolean_value(key, False, CONTEXT),
            "flagd_core_path": lambda key=key: theirs.get_boolean_value(key, False, CONTEXT),
            "our_resolve": lambda key=key: provider.resolve_boolean_details(key, False, CONTEXT),
            "core_resolve": lambda key=key: core.core.resolve_boolean_value(key, False, CONTEXT),
            "redis_get": lambda: json.loads(writer.get("saltern:flags") or ""),
        }
        rounds = dict(zip(calls, costs(count, *calls.values()), strict=True))
        cost = {name: round(statistics.median(own), 3) for name, own in rounds.items()}
        shown = {name: cost[name] for name in ("flagd_core_path", "redis_get")}
        if key in peer.us:
            shown["unleash"] = peer.us[key]
        # compared within each round, so that a neighbour's load falls on both sides
        ratio = statistics.median(map(truediv, rounds["ours"], rounds["flagd_core_path"]))
        added = statistics.median(map(sub, rounds["our_resolve"], rounds["core_resolve"]))
        figures += [
            Figure(f"evaluate_{key}", cost["ours"], "us", None, shown, count),
            Figure(f"evaluate_{key}_over_core", round(ratio, 4), "ratio", "<= 1.1", {}, count),
            Figure(f"resolve_{key}_added", round(added, 4), "us", "<= 2", {}, count),
        ]
    figures.append(
        Figure("network_per_evaluation", asked(primary, replica, ours), "commands", "<= 0", {}, 10_000)
    )
    api.shutdown()
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


def bench(flip_count: int, evaluations: int, peers: int) -> dict[str, Any]:
    """How fast a flip of a flag is seen by six products, and what an evaluation costs."""
    with servers() as (primary, replica), tempfile.TemporaryDirectory() as folder:
        with redis.Redis(port=primary, decode_responses=True) as writer:
            flagset.write(writer, {"flags": FLAGS}, confirm=flagset.Confirm(1, 5), **BY)
        peer = unleash(Path(folder), evaluations) if peers else Unleash({}, None)
        figures = seen_figures(flips(primary, replica, Path(folder), flip_count), peer)
        figures += evaluation_figures(primary, replica, evaluations, peer)
    return report("flags", figures)


if __name__ == "__main__":
    main(
        bench,
        flip_count=(int, 300, "how often to flip"),
        evaluations=(int, 20_000, "evaluations of each flag"),
        peers=(int, 1, "0 leaves out UnleashClient, which is installed at the first run"),
    )
