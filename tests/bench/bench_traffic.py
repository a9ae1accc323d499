"""How the traffic plane behaves: how fast HAProxy follows the registry, and what drains and deaths cost.

    python tests/bench/bench_traffic.py [--json] [--cycles 1000] [--kills 100]

A real Redis, HAProxy and controller on loopback; the servers are HAProxy processes that answer from memory.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1] / "functional")]
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "services"))

import psutil  # noqa: E402
from bench_proxy import SERVERS  # noqa: E402
from benching import Figure, WrkResult, main, median, percentile, report, wrk  # noqa: E402
from host import free_port, until  # noqa: E402
from saltern.haproxy import Runtime  # noqa: E402
from traffic_stand import HAPROXY, Machine, Process, Stand  # noqa: E402

PRODUCTION = ("prod1", "prod2", "prod3", "prod4", "prod5")
MANY = 200


class Server:
    """A product as fast as it gets: HAProxy answering from memory, maybe inside a network namespace."""

    def __init__(
        self, directory: Path, name: str, address: str = "127.0.0.1", inside: tuple[str, ...] = ()
    ) -> None:
        self.address, self.port = address, free_port()
        file = directory / f"{name}.cfg"
        file.write_text(SERVERS.format(binds=f"    bind {address}:{self.port}"))
        self.process = Process([*inside, HAPROXY, "-f", str(file)], directory / f"{name}.log")
        self.process.start()

    def kill(self) -> None:
        """End it as the kernel does when memory runs out."""
        self.process.end(signal.SIGKILL)

    def start(self) -> None:
        """Start it again."""
        self.process.start()


class Fleet:
    """A running traffic plane with five production servers and a canary."""

    def __init__(self, directory: Path, changes: dict[str, Any] | None = None) -> None:
        directory.mkdir()
        self.dir = directory
        self.stand = Stand(directory, changes)
        self.servers: dict[str, Server] = {}

    def start(self) -> None:
        """Start everything and wait until it serves."""
        self.stand.start()
        for name in (*PRODUCTION, "staging1"):
            self.add(name)
        self.stand.await_up(*self.servers)
        self.stand.await_share(30)

    def add(self, name: str, address: str = "127.0.0.1", inside: tuple[str, ...] = ()) -> Server:
        """Start a server and register it."""
        server = self.servers[name] = Server(self.dir, name, address, inside)
        pool = "canary" if name.startswith("staging") else "prod"
        self.stand.registry.register(name, address, server.port, "r1", pool, by="bench")
        return server

    def canary_up(self) -> bool:
        """Whether HAProxy gives the canary requests."""
        return any(
            s.up and s.admin_state == "ready" for s in self.stand.runtime.servers("canary") if s.name == "c1"
        )

    def close(self) -> None:
        """End everything."""
        for server in self.servers.values():
            server.process.end()
        self.stand.close()


class Load(threading.Thread):
    """wrk in the background."""

    def __init__(self, fleet: Fleet, seconds: float, connections: int = 64) -> None:
        super().__init__()
        self.url = f"http://127.0.0.1:{fleet.stand.port}/"
        self.seconds, self.connections = seconds, connections
        self.result: WrkResult | None = None
        self.start()

    def run(self) -> None:
        self.result = wrk(self.url, self.seconds, self.connections)


def under_load(fleet: Fleet, work: Callable[[], None]) -> tuple[int, int]:
    """Do something while wrk holds 64 keep-alive connections; returns requests and failures."""
    requests = failed = 0
    done = threading.Event()

    def load() -> None:
        nonlocal requests, failed
        while not done.is_set():
            piece = Load(fleet, 5)
            piece.join()
            if piece.result is None:
                raise RuntimeError("wrk did not finish")
            requests += piece.result.requests
            failed += piece.result.failed

    thread = threading.Thread(target=load)
    thread.start()
    try:
        time.sleep(0.5)
        work()
    finally:
        done.set()
        thread.join()
    return requests, failed


def spin(condition: Callable[[], bool], seconds: float = 10.0) -> float:
    """Ask without a pause until it is so; returns the time it took in seconds."""
    started = time.perf_counter()
    while not condition():
        if time.perf_counter() - started > seconds:
            raise TimeoutError("it never happened")
    return time.perf_counter() - started


def write_to_haproxy(fleet: Fleet, writes: int) -> list[float]:
    """Milliseconds from the call that writes to HAProxy drawing with the new share."""
    command = [f"show acl {fleet.stand.state_dir}/split.acl"]
    took = []
    for n in range(writes):
        share = 20 + n % 50
        wanted = f" 0:{share - 1}"
        started = time.perf_counter()
        fleet.stand.registry.set_share(share, by="bench")
        spin(lambda: fleet.stand.runtime.ask(command)[0].endswith(wanted))  # noqa: B023 - done at once
        took.append((time.perf_counter() - started) * 1000)
        time.sleep(0.02 + n % 7 * 0.01)
    return took


def reconcile_many(directory: Path) -> tuple[list[float], float, float]:
    """Milliseconds to fill HAProxy with 200 servers, from nothing; then the controller's memory and idle CPU."""
    stand = Stand(directory, {"slots": {"prod": MANY, "canary": 4}})
    runtime = Runtime(stand.socket)
    took = []
    try:
        stand.start()
        for _ in range(3):
            stand.controller.end()
            stand.haproxy.end()
            for name, text in (("servers.state", "1\n"), ("instances.map", ""), ("releases.map", "")):
                (stand.state_dir / name).write_text(text)
            (stand.state_dir / "controller.json").unlink(missing_ok=True)
            stand.client.flushall()
            stand.start_haproxy()
            stand.start_controller()
            stand.await_status(lambda s: s["registry"]["ok"], "the registry read")
            # Nothing of it is seen until all of it is written: the controller stands still meanwhile.
            stand.controller.send(signal.SIGSTOP)
            for n in range(1, MANY + 1):
                stand.registry.register(
                    f"prod{n}", f"198.18.{n // 250}.{n % 250 + 1}", 8080, "r1", "prod", by="bench"
                )
            stand.controller.send(signal.SIGCONT)
            took.append(
                spin(
                    lambda: (
                        sum(s.admin_state == "ready" for s in runtime.servers("prod", "canary")) == 2 * MANY
                    )
                )
                * 1000
            )
        # Servers nobody answers for: the controller has to look at as many as it can have, all of them down.
        rss = psutil.Process(stand.controller.pid).memory_info().rss / 2**20
        return took, rss, idle_cpu(stand, 5)
    finally:
        stand.close()


def idle_cpu(stand: Stand, seconds: float) -> float:
    """Percent of a core the controller takes when nothing changes."""
    process = psutil.Process(stand.controller.pid)
    before, started = sum(process.cpu_times()[:2]), time.monotonic()
    time.sleep(seconds)
    return (sum(process.cpu_times()[:2]) - before) / (time.monotonic() - started) * 100


def drain_cycles(fleet: Fleet, cycles: int) -> tuple[int, int, float]:
    """Drain every production server in turn and make it ready again, under load; requests, failures,
    cycles/s.
    """
    runtime, registry = fleet.stand.runtime, fleet.stand.registry
    slots = {v: k for k, v in _map(fleet).items()}

    def is_now(name: str, wanted: str) -> bool:
        return all(
            s.admin_state == wanted for s in runtime.servers("prod", "canary") if s.name == slots[name]
        )

    def work() -> None:
        for n in range(cycles):
            name = PRODUCTION[n % len(PRODUCTION)]
            for wanted in ("drain", "ready"):
                registry.want(name, wanted, by="bench")
                until(lambda: is_now(name, wanted), f"{name} {wanted}", 10, 0.001)  # noqa: B023

    started = time.monotonic()
    requests, failed = under_load(fleet, work)
    return requests, failed, cycles / (time.monotonic() - started)


def _map(fleet: Fleet) -> dict[str, str]:
    rows = fleet.stand.runtime.ask([f"show map {fleet.stand.state_dir}/instances.map"])[0].splitlines()
    return {slot: id_ for _, slot, id_ in (row.split(" ") for row in rows) if id_ != "-"}


def canary_kills(fleet: Fleet, kills: int) -> tuple[int, int, list[float]]:
    """Kill the canary's process again and again under load; requests, failures, milliseconds until it is out."""
    out: list[float] = []
    canary = fleet.servers["staging1"]

    def work() -> None:
        for _ in range(kills):
            until(fleet.canary_up, "the canary back", 20, 0.005)
            fleet.stand.await_share(30)
            started = time.perf_counter()
            canary.process.send(signal.SIGKILL)
            spin(lambda: not fleet.canary_up())
            out.append((time.perf_counter() - started) * 1000)
            canary.kill()
            canary.start()

    requests, failed = under_load(fleet, work)
    return requests, failed, out


def silent_deaths(fleet: Fleet, deaths: int) -> tuple[int, int, list[float]]:
    """Drop the canary's packets; requests, failures, milliseconds until HAProxy gives it nothing more."""
    machine = Machine()
    out: list[float] = []
    try:
        fleet.stand.registry.unregister("staging1", by="bench")
        fleet.servers.pop("staging1").kill()
        until(lambda: "c1" not in _map(fleet), "the old canary gone")
        server = fleet.add("staging1", machine.address, machine.inside)

        def work() -> None:
            for _ in range(deaths):
                until(fleet.canary_up, "the canary back", 20, 0.005)
                fleet.stand.await_share(30)
                started = time.perf_counter()
                machine.drop()
                spin(lambda: not fleet.canary_up())
                out.append((time.perf_counter() - started) * 1000)
                machine.deliver()

        requests, failed = under_load(fleet, work)
        server.kill()
    finally:
        machine.close()
    return requests, failed, out


def bench(cycles: int = 1000, kills: int = 100, writes: int = 300, deaths: int = 5) -> dict[str, Any]:
    """Measure the traffic plane; returns the JSON object of a bench."""
    with tempfile.TemporaryDirectory(prefix="saltern-bench-") as directory:
        root = Path(directory)
        (root / "many").mkdir()
        many, rss, many_cpu = reconcile_many(root / "many")
        fleet = Fleet(root / "fleet", {"canary": {"settle_s": 0}})
        try:
            fleet.start()
            cpu = idle_cpu(fleet.stand, 8)
            took = write_to_haproxy(fleet, writes)
            fleet.stand.registry.set_share(30, by="bench")
            drained, drain_failed, speed = drain_cycles(fleet, cycles)
            killed, kill_failed, refused = canary_kills(fleet, kills)
            silent = silent_deaths(fleet, deaths) if os.geteuid() == 0 and deaths else None
        finally:
            fleet.close()
    figures = [
        Figure("write_to_haproxy_p50", round(percentile(took, 50), 2), "ms", "<= 5"),
        Figure("write_to_haproxy_p99", round(percentile(took, 99), 2), "ms", "<= 25"),
        Figure("reconcile_200_ms", round(median(many)), "ms", "<= 300", runs=[round(ms) for ms in many]),
        Figure("controller_rss_mb", round(rss, 1), "MiB", "<= 60"),
        Figure("controller_idle_cpu_pct", round(cpu, 2), "% of a core", "<= 2"),
        Figure("controller_idle_cpu_200_pct", round(many_cpu, 2), "% of a core"),
        Figure("drain_cycles", cycles, "cycles", ">= 1000"),
        Figure("drain_cycles_per_second", round(speed, 1), "1/s"),
        Figure("drain_requests", drained, "requests", ">= 500000"),
        Figure("drain_failed", drain_failed, "requests", "<= 0"),
        Figure("canary_kills", kills, "kills", ">= 100"),
        Figure("canary_kill_requests", killed, "requests"),
        Figure("canary_kill_failed", kill_failed, "requests", "<= 0"),
        Figure("refused_to_production_ms", round(max(refused), 1), "ms", "<= 50"),
    ]
    if silent is not None:
        figures += [
            Figure(
                "silent_to_production_ms",
                round(max(silent[2])),
                "ms",
                "<= 1200",
                runs=[round(ms) for ms in silent[2]],
            ),
            Figure("silent_failed", silent[1], "requests", "<= 0"),
        ]
    return report("traffic", figures)


if __name__ == "__main__":
    main(
        bench,
        cycles=(int, 1000, "drain and ready cycles under load"),
        kills=(int, 100, "times the canary is killed under load"),
        writes=(int, 300, "registry writes that are timed"),
        deaths=(int, 5, "times the canary dies silently under load"),
    )
