"""Real Redis servers and Sentinels for the tests, on free ports or sockets in temporary folders."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import redis
from openfeature import api
from openfeature.event import EventDetails, ProviderEvent
from openfeature_redis import RedisProvider

DEADLINE = 120.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition: Callable[[], Any], what: str = "the condition", deadline: float = DEADLINE) -> Any:
    """Poll until the condition is true and return its value; fail with `what` when the deadline passes."""
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.005)
    pytest.fail(f"{what} did not come true within {deadline:g} s")


class Server:
    """One redis-server (or sentinel) process that can be killed, frozen and started again."""

    def __init__(self, folder: Path, *options: str, sentinel: str | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None
        self.configuration = folder / "sentinel.conf"
        if sentinel is not None:
            self.configuration.write_text(f"port {self.port}\nbind 127.0.0.1\ndir {folder}\n{sentinel}\n")
        self.is_sentinel = sentinel is not None
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        if self.is_sentinel:
            command = ["redis-server", str(self.configuration), "--sentinel"]
        else:
            command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
                       "--dir", str(self.folder), "--enable-debug-command", "yes",
                       "--repl-diskless-sync-delay", "0", *self.options]  # fmt: skip
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until(self.answers, f"redis-server on port {self.port}")

    def answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.AuthenticationError:
            return True
        except (redis.ConnectionError, redis.TimeoutError):
            return False

    def client(self, **options: Any) -> redis.Redis:
        return redis.Redis(port=self.port, decode_responses=True, socket_timeout=DEADLINE, **options)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def freeze(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGCONT)


class Events:
    """What the SDK told handlers, in order of arrival."""

    def __init__(self) -> None:
        self.seen: list[tuple[ProviderEvent, EventDetails]] = []
        for event in ProviderEvent:
            api.add_handler(event, lambda details, event=event: self._note(event, details))

    def _note(self, event: ProviderEvent, details: EventDetails) -> None:
        if details.provider_name == "redis":
            self.seen.append((event, details))

    def names(self) -> list[str]:
        return [event.name.removeprefix("PROVIDER_") for event, _ in self.seen]

    def last(self, name: str) -> EventDetails:
        return next(d for e, d in reversed(self.seen) if e.name == f"PROVIDER_{name}")


class LossyWire:
    """A TCP forwarder that can swallow Redis' change announcements, or everything."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.deaf = False
        self.swallowed = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
                self._sockets += [near, far]
                threading.Thread(target=self._pump, args=(near, far), daemon=True).start()
                threading.Thread(target=self._pump, args=(far, near), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(65536):
                if self.deaf and chunk.startswith(b">"):
                    self.swallowed += 1
                    continue
                sink.sendall(chunk)

    def close(self) -> None:
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@pytest.fixture
def until() -> Callable[..., Any]:
    return wait_until


@pytest.fixture
def start_redis(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start as many servers as a test wants; all are killed afterwards."""
    started: list[Server] = []

    def start(*options: str, sentinel: str | None = None) -> Server:
        server = Server(tmp_path / f"redis{len(started)}", *options, sentinel=sentinel)
        started.append(server)
        return server

    yield start
    for server in started:
        server.kill()


@pytest.fixture
def server(start_redis: Callable[..., Server]) -> Server:
    return start_redis()


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    one = Server(tmp_path_factory.mktemp("redis"))
    yield one
    one.kill()


@pytest.fixture(scope="module")
def provider_for(shared_server: Server) -> Iterator[Callable[[Mapping[str, Any]], RedisProvider]]:
    """Put a flag set into the shared server and answer with the provider once it has it.

    The provider is registered with the SDK under the domain `shared`.
    """
    client = shared_server.client()
    client.set("saltern:flags", '{"flags": {}}')
    provider = RedisProvider(shared_server.address)
    api.set_provider_and_wait(provider, "shared")

    def put(document: Mapping[str, Any]) -> RedisProvider:
        text = json.dumps(document)
        client.set("saltern:flags", text)
        wait_until(lambda: provider._held.document == text, "the provider reading the flag set")
        return provider

    yield put
    api.shutdown()


@pytest.fixture
def lossy_wire() -> Iterator[Callable[[int], LossyWire]]:
    wires: list[LossyWire] = []

    def make(port: int) -> LossyWire:
        wires.append(LossyWire(port))
        return wires[-1]

    yield make
    for wire in wires:
        wire.close()


@pytest.fixture
def events() -> Iterator[Events]:
    """Starts with no provider at all and leaves none behind."""
    api.shutdown()
    yield Events()
    api.shutdown()


@pytest.fixture
def flag_set() -> Callable[..., str]:
    """A flag set with one integer flag `level`, as JSON text."""

    def make(value: int, **more: Any) -> str:
        flag = {"state": "ENABLED", "variants": {"it": value}, "defaultVariant": "it"}
        return json.dumps({"flags": {"level": flag}, **more})

    return make
