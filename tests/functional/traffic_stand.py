"""The traffic plane on loopback: a real redis-server, a real haproxy with our template, real backends, the
controller.

Used by the functional tests and by the benches. Every daemon is started by this file on a free port or a
socket in a directory of its own, and ended by its process id.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import redis
import yaml
from host import PATIENCE, free_port, until
from redis.backoff import NoBackoff
from redis.retry import Retry
from saltern.haproxy import Runtime, parse_acl, parse_servers
from saltern.registry import Registry

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
HAPROXY = shutil.which("haproxy") or "/usr/sbin/haproxy"


def default_pillar() -> dict[str, Any]:
    """The pillar's ``traffic`` as it is in the repository."""
    return yaml.safe_load((ROOT / "pillar/traffic.sls").read_text())["traffic"]


def render(traffic: Mapping[str, Any]) -> str:
    """Render the HAProxy template as Salt does."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return environment.from_string((ROOT / "salt/proxy/haproxy.cfg.j2").read_text()).render(traffic=traffic)


def merge(into: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Lay nested changes over a dict."""
    for key, value in changes.items():
        into[key] = merge(into[key], value) if isinstance(value, Mapping) else value
    return into


class Process:
    """A daemon this stand started: ended by its own process id, never by name."""

    def __init__(self, arguments: list[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        self.arguments = arguments
        self.log = log
        self.env = {**os.environ, **(env or {})}
        self.popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; its output goes to the log file."""
        with self.log.open("ab") as out:
            self.popen = subprocess.Popen(
                self.arguments, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=self.env
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.popen is not None, f"{self.arguments[0]} was never started"
        return self.popen.pid

    def send(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def end(self, number: int = signal.SIGTERM) -> None:
        """Send it a signal and wait until it is gone."""
        if self.popen is None:
            return
        if self.popen.poll() is None:
            self.popen.send_signal(number)
            try:
                self.popen.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()
        self.popen = None

    @property
    def running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self.popen is not None and self.popen.poll() is None


def redis_process(directory: Path, port: int, *options: str) -> Process:
    """A Redis that keeps nothing, not started yet."""
    arguments = [
        "redis-server",
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--dir",
        str(directory),
    ]
    return Process([*arguments, *options], directory / "redis.log")


def redis_server(directory: Path, *options: str) -> tuple[Process, int]:
    """Start a Redis and wait until it answers; returns the process and its port."""
    directory.mkdir(exist_ok=True)
    port = free_port()
    process = redis_process(directory, port, *options)
    process.start()
    until(lambda: _answers(port), "redis-server answering")
    return process, port


def _answers(port: int) -> bool:
    # As it is now: whoever waits for it looks again soon, and with none of redis-py's own pauses.
    with redis.Redis(port=port, retry=Retry(NoBackoff(), 0)) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False


class Machine:
    """A network namespace with one address of its own, whose packets can be dropped: a machine that dies
    silently.

    Needs root. The addresses are from RFC 2544's range for tests.
    """

    def __init__(self) -> None:
        number = os.getpid() % 16_000 * 4
        self.name = f"saltern-{os.getpid()}"
        net = f"198.18.{number // 256 % 256}.{number % 256}"
        head, _, last = net.rpartition(".")
        self.address = f"{head}.{int(last) + 2}"
        host, peer = f"st{os.getpid()}a", f"st{os.getpid()}b"
        self.inside = ("ip", "netns", "exec", self.name)
        run("ip", "netns", "add", self.name)
        try:
            run("ip", "link", "add", host, "type", "veth", "peer", "name", peer, "netns", self.name)
            run("ip", "addr", "add", f"{head}.{int(last) + 1}/30", "dev", host)
            run("ip", "link", "set", host, "up")
            run("ip", "-n", self.name, "addr", "add", f"{self.address}/30", "dev", peer)
            run("ip", "-n", self.name, "link", "set", peer, "up")
        except subprocess.CalledProcessError:
            self.close()
            raise

    def drop(self) -> None:
        """From now on nothing that is sent to it arrives."""
        rules = "add table inet t; add chain inet t in { type filter hook input priority 0; policy drop; }"
        run(*self.inside, "nft", rules)

    def deliver(self) -> None:
        """Undo ``drop``."""
        run(*self.inside, "nft", "delete table inet t")

    def close(self) -> None:
        """Remove it; its end of the cable goes with it."""
        run("ip", "netns", "del", self.name)


def run(*arguments: str) -> None:
    """Run a command to its end; CalledProcessError carries what it said."""
    subprocess.run(arguments, check=True, capture_output=True)


@dataclass
class Answer:
    """What a client got."""

    status: int
    pool: str
    instance: str
    release: str
    body: str
    headers: Mapping[str, str]


@dataclass
class Load:
    """What a load of clients saw."""

    answers: dict[tuple[int, str, str], int] = field(default_factory=dict)
    """By status, pool and instance."""
    failures: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Requests that got any answer."""
        return sum(self.answers.values())

    def count(self, *, pool: str | None = None, status: int | None = None) -> int:
        """Requests answered by a pool, or with a status."""
        return sum(n for (s, p, _), n in self.answers.items() if pool in (None, p) and status in (None, s))


class Stand:
    """Everything between a client and a product, on one host."""

    def __init__(self, directory: Path, changes: Mapping[str, Any] | None = None) -> None:
        self.dir = directory
        self.state_dir = directory / "traffic"
        self.state_dir.mkdir()
        self.port = free_port()
        self.metrics_port = free_port()
        self.redis_port = free_port()
        self.socket = directory / "admin.sock"
        self.status_file = directory / "controller-status.json"
        self.traffic = merge(
            default_pillar(),
            {
                "listen": {"address": "127.0.0.1", "port": self.port},
                "metrics": {"address": "127.0.0.1", "port": self.metrics_port},
                "admin_socket": str(self.socket),
                "state_dir": str(self.state_dir),
                "unavailable_page": str(ROOT / "salt/proxy/503.http"),
                "user": "",
                "group": "",
                "chroot": "",
                "maxconn": 2000,
                "canary": {"settle_s": 0.2},
                # A server is found to be gone because it refuses, not because this host is slow.
                "check": {"timeout_ms": 5000, "interval_ms": 100, "fast_ms": 50, "down_ms": 50},
                "controller": {"poll_ms": 100},
                "timeout": {"connect_ms": 5000, "unacked_ms": 10_000},
            },
        )
        merge(self.traffic, changes or {})
        self.config_file = directory / "haproxy.cfg"
        self.controller_file = directory / "controller.json"
        self.redis = redis_process(directory, self.redis_port)
        self.haproxy = Process([HAPROXY, "-W", "-f", str(self.config_file)], directory / "haproxy.log")
        self.controller = Process(
            [sys.executable, "-m", "saltern.controller", "--verbose", "--config", str(self.controller_file)],
            directory / "controller.log",
            {"PYTHONPATH": str(ROOT / "services")},
        )
        self.backends: dict[str, Process] = {}
        self.ports: dict[str, int] = {}
        self.client = redis.Redis(port=self.redis_port, decode_responses=True, socket_timeout=PATIENCE)
        self.registry = Registry(self.client)
        self.runtime = Runtime(self.socket, PATIENCE)

    # -- starting and stopping

    def write_files(self) -> None:
        """What Salt lays down: the configuration, the controller's JSON, and empty state files."""
        self.config_file.write_text(render(self.traffic))
        for name, text in (
            ("servers.state", "1\n"),
            ("split.acl", ""),
            ("instances.map", ""),
            ("releases.map", ""),
        ):
            path = self.state_dir / name
            if not path.exists():
                path.write_text(text)
        self.controller_file.write_text(json.dumps(self.controller_config()))

    def controller_config(self) -> dict[str, Any]:
        """The controller's configuration out of the pillar, as the proxy state makes it."""
        limits = ("settle_s", "error_limit_pct", "error_window_s", "error_min_requests")
        return {
            "redis": {"addresses": [f"127.0.0.1:{self.redis_port}"], "timeout_s": 2.0},
            "haproxy": {"socket": str(self.socket), "state_dir": str(self.state_dir), "timeout_ms": 5000},
            "controller": {"status_file": str(self.status_file), **self.traffic["controller"]},
            "canary": {name: self.traffic["canary"][name] for name in limits},
            "drain": self.traffic["drain"],
        }

    def start(self) -> None:
        """Start Redis, HAProxy and the controller."""
        self.write_files()
        self.start_redis()
        self.start_haproxy()
        self.start_controller()

    def start_redis(self) -> None:
        """Start Redis and wait until it answers."""
        self.redis.start()
        until(lambda: _answers(self.redis_port), "redis-server answering")

    def start_haproxy(self) -> None:
        """Start HAProxy and wait until its socket and its port answer."""
        self.haproxy.start()
        until(self._haproxy_answers, f"haproxy answering (see {self.haproxy.log})")

    def _haproxy_answers(self) -> bool:
        with contextlib.suppress(Exception):
            self.runtime.ask(["show info"])
            with socket.create_connection(("127.0.0.1", self.port), PATIENCE):
                return True
        return False

    def start_controller(self) -> None:
        """Start the controller and wait until it has looked at HAProxy."""
        self.status_file.unlink(missing_ok=True)
        self.controller.start()
        until(lambda: self.status_file.exists() or not self.controller.running, "the controller's status")
        assert self.controller.running, self.controller.log.read_text()

    def start_backend(self, id_: str, address: str = "127.0.0.1", inside: tuple[str, ...] = ()) -> int:
        """Start a product process, ``inside`` a network namespace if need be; returns its port, always the
        same.
        """
        port = self.ports.setdefault(id_, free_port())
        process = Process(
            [*inside, sys.executable, "-S", "-E", str(HERE / "traffic_backend.py"), f"{address}:{port}", id_],
            self.dir / f"{id_}.log",
        )
        self.backends[id_] = process
        process.start()
        until(lambda: _listens(address, port), f"{id_} listening")
        return port

    def add(self, id_: str, release: str = "r1", pool: str | None = None) -> None:
        """Start a product process and register it."""
        port = self.start_backend(id_)
        where = pool or ("canary" if id_.startswith("staging") else "prod")
        self.registry.register(id_, "127.0.0.1", port, release, where, by="test")

    def close(self) -> None:
        """End everything that was started."""
        for process in (self.controller, self.haproxy, *self.backends.values(), self.redis):
            process.end(signal.SIGKILL if process in self.backends.values() else signal.SIGTERM)
        self.client.close()

    # -- looking

    def status(self) -> dict[str, Any]:
        """The controller's status file."""
        return json.loads(self.status_file.read_text())

    def await_status(self, condition: Callable[[dict[str, Any]], Any], what: str) -> dict[str, Any]:
        """Wait for a status of the controller that meets a condition, and return it."""
        return until(lambda: (s := self.status()) and condition(s) and s, what)

    def servers(self) -> dict[str, str]:
        """What HAProxy makes of every occupied slot: instance id → ``ready/up`` and the like.

        A production server is what it is in both backends, ``ready/down+ready/up`` while they differ.
        """
        text = (self.runtime.ask([f"show map {self.state_dir}/instances.map"])[0]).splitlines()
        ids = {cells[1]: cells[2] for cells in (row.split(" ") for row in text)}
        seen: dict[str, set[str]] = {}
        for s in self.runtime.servers("prod", "canary"):
            if ids.get(s.name, "-") != "-":
                seen.setdefault(ids[s.name], set()).add(f"{s.admin_state}/{'up' if s.up else 'down'}")
        return {id_: "+".join(sorted(states)) for id_, states in seen.items()}

    def wishes(self, on_disk: bool = False) -> dict[tuple[str, str], str]:
        """What every server is told to be, by HAProxy itself or by what it would start from."""
        servers = (
            parse_servers((self.state_dir / "servers.state").read_text())
            if on_disk
            else self.runtime.servers("prod", "canary")
        )
        return {(s.backend, s.name): s.admin_state for s in servers if s.backend in ("prod", "canary")}

    def share(self) -> int:
        """The share HAProxy draws with."""
        ranges = parse_acl(self.runtime.ask([f"show acl {self.state_dir}/split.acl"])[0])
        return max((int(text.partition(":")[2]) + 1 for text in ranges), default=0)

    def await_servers(self, wanted: Mapping[str, str]) -> None:
        """Wait until HAProxy's servers are these, or fail telling what they are."""
        try:
            until(lambda: self.servers() == wanted, "HAProxy's servers")
        except AssertionError as error:
            raise AssertionError(f"servers are {self.servers()}, not {dict(wanted)}") from error

    def await_share(self, share: int) -> None:
        """Wait until the effective share is this."""
        until(lambda: self.share() == share, f"share {share}")

    def await_up(self, *ids: str) -> None:
        """Wait until these instances take requests."""
        until(lambda: all(self.servers().get(id_) == "ready/up" for id_ in ids), f"{ids} up")

    # -- clients

    def get(self, path: str = "/", headers: Mapping[str, str] | None = None, method: str = "GET") -> Answer:
        """One request on a connection of its own."""
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            return ask(link, path, headers, method)
        finally:
            link.close()

    def load(self, requests: int, clients: int = 8, headers: Mapping[str, str] | None = None) -> Load:
        """Send a number of requests over keep-alive connections and wait for all."""
        with self.loading(clients, headers, requests // clients) as load:
            pass
        return load

    @contextlib.contextmanager
    def loading(
        self, clients: int = 8, headers: Mapping[str, str] | None = None, each: int | None = None
    ) -> Iterator[Load]:
        """Keep keep-alive clients busy while the block runs (or for ``each`` requests a client)."""
        load, lock, stop = Load(), threading.Lock(), threading.Event()

        def client() -> None:
            link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
            done = 0
            while not stop.is_set() and (each is None or done < each):
                done += 1
                try:
                    answer = ask(link, "/", headers)
                except (OSError, http.client.HTTPException) as error:
                    link.close()
                    with lock:
                        load.failures.append(repr(error))
                    continue
                key = (answer.status, answer.pool, answer.instance)
                with lock:
                    load.answers[key] = load.answers.get(key, 0) + 1
            link.close()

        threads = [threading.Thread(target=client) for _ in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield load
        finally:
            if each is None:
                stop.set()
            for thread in threads:
                thread.join()


def ask(
    link: http.client.HTTPConnection,
    path: str = "/",
    headers: Mapping[str, str] | None = None,
    method: str = "GET",
) -> Answer:
    """One request on an open connection."""
    link.request(method, path, headers=dict(headers or {}))
    response = link.getresponse()
    body = response.read().decode()
    got = {name.lower(): value for name, value in response.getheaders()}
    return Answer(
        response.status,
        got.get("x-saltern-pool", ""),
        got.get("x-saltern-instance", ""),
        got.get("x-saltern-release", ""),
        body,
        got,
    )


@contextlib.contextmanager
def dying_server() -> Iterator[tuple[tuple[str, int], list[bytes]]]:
    """A server that reads a request and hangs up without a word: where it listens, and the methods it was asked."""
    got: list[bytes] = []

    class Dying(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            # Whoever hangs up first is no matter.
            with contextlib.suppress(OSError):
                data = self.request.recv(4096)
                if b"/health" in data.split(b"\r\n")[0]:
                    self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                elif data:
                    got.append(data.split(b" ")[0])

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Dying) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        serving.start()
        try:
            yield server.server_address, got
        finally:
            server.shutdown()
            serving.join()


def _listens(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), PATIENCE):
            return True
    except OSError:
        return False
