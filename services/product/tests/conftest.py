"""Real daemons for the product's tests: each on a free port, in its own folder, ended by its own handle."""

import http.client
import io
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

import psutil
import pytest
import redis
from openfeature_redis import flagset
from product.config import Config, RedisSettings
from product.flags import Flags
from product.store import Store

HERE = Path(__file__).parent
# OpenFeature keeps its providers by domain for the whole process.
DOMAINS = itertools.count()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition: Callable[[], object], seconds: float = 120.0) -> object:
    """Poll until ``condition`` is true and answer what it said.

    Raises:
        AssertionError: it was still false after ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if said := condition():
            return said
        time.sleep(0.01)
    raise AssertionError(f"still not so after {seconds} s: {condition}")


class RedisServer:
    """A redis-server with an append-only file, so that it has its data again after a restart."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.client = redis.Redis(port=self.port, decode_responses=True, socket_timeout=120)

    @property
    def settings(self) -> RedisSettings:
        return RedisSettings((("127.0.0.1", self.port),))

    def start(self) -> None:
        arguments = {"port": self.port, "bind": "127.0.0.1", "dir": self.folder, "appendonly": "yes"}
        arguments |= {"appendfsync": "always", "save": "", "logfile": self.folder / "redis.log"}
        command = ["redis-server"]
        for name, value in arguments.items():
            command += [f"--{name}", str(value)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_until(self.answers)

    def answers(self) -> bool:
        try:
            return self.client.ping()
        except redis.ConnectionError:
            return False

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def pause(self) -> None:
        """Make it hang: its port still takes connections, nothing answers."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def redis_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def redis_server(redis_daemon: RedisServer) -> RedisServer:
    """An empty Redis that is up, whatever the test before did to it."""
    if redis_daemon.process is None:
        redis_daemon.start()
    redis_daemon.resume()
    redis_daemon.client.flushall()
    redis_daemon.client.config_set("min-replicas-to-write", 0)
    return redis_daemon


@pytest.fixture
def make_store(redis_server: RedisServer, tmp_path: Path) -> Iterator[Callable[..., Store]]:
    """Makes started stores over the test's Redis, each as if on a machine of its own."""
    stores: list[Store] = []

    def make(name: str = "state", settings: RedisSettings | None = None) -> Store:
        store = Store(settings or redis_server.settings, tmp_path / name)
        store.start()
        stores.append(store)
        return store

    yield make
    for store in stores:
        store.close()


@pytest.fixture
def make_flags(redis_server: RedisServer, tmp_path: Path) -> Iterator[Callable[..., Flags]]:
    """Makes started flags over the test's Redis, each as if on a machine of its own."""
    made: list[Flags] = []

    def make(name: str = "state") -> Flags:
        servers = redis_server.settings
        config = Config(servers, servers, "prod1", "prod", tmp_path / name, "r1")
        flags = Flags(config, domain=f"test-{next(DOMAINS)}")
        flags.start()
        made.append(flags)
        return flags

    yield make
    for flags in made:
        flags.close()


@pytest.fixture
def set_flags(redis_server: RedisServer) -> Callable[..., None]:
    """Write flags whose default variant has the value given; a whole definition is written as it is."""

    def write(**values: object) -> None:
        document = {
            "flags": {
                key: value
                if isinstance(value, dict)
                else {"state": "ENABLED", "variants": {"set": value}, "defaultVariant": "set"}
                for key, value in values.items()
            }
        }
        flagset.write(redis_server.client, document, who="test", why="test")

    return write


@dataclass
class Answer:
    """What came back over HTTP."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


class Caller:
    """Calls a WSGI application in this process."""

    def __init__(self, application: Callable) -> None:
        self.application = application

    def __call__(
        self, method: str, path: str, body: bytes = b"", kind: str = "application/json", **headers: str
    ) -> Answer:
        path, _, query = path.partition("?")
        environ = {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": kind,
            "CONTENT_LENGTH": str(len(body)),
            "SERVER_NAME": "list.example",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": sys.stderr,
        }
        environ |= {f"HTTP_{name.upper()}": value for name, value in headers.items()}
        started: list = []
        chunks = self.application(
            environ, lambda status, headers, exc_info=None: started.extend((status, headers))
        )
        return Answer(int(started[0].split()[0]), dict(started[1]), b"".join(chunks))

    def form(self, path: str, **fields: object) -> Answer:
        return self("POST", path, urlencode(fields).encode(), "application/x-www-form-urlencoded")

    def send(self, method: str, path: str, document: object, **headers: str) -> Answer:
        return self(method, path, json.dumps(document).encode(), **headers)


@dataclass
class Product:
    """The product as it runs on a machine: a gunicorn master and its worker."""

    folder: Path
    redis_port: int
    instance: str = "prod1"
    pool: str = "prod"
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE.parents[1] / "flags" / "src")]),
            "PRODUCT_CONFIG": str(self.folder / "config.json"),
            "PRODUCT_RELEASE": "r1",
            "PRODUCT_BIND": f"127.0.0.1:{self.port}",
        }

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        (self.folder / "config.json").write_text(
            json.dumps(
                {
                    "redis": {"addresses": [f"127.0.0.1:{self.redis_port}"]},
                    "instance": self.instance,
                    "pool": self.pool,
                    "state_dir": str(self.folder / "state"),
                }
            )
        )
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                GUNICORN, env=self.environment(), cwd=self.folder, stdout=log, stderr=subprocess.STDOUT
            )
        wait_until(self.serves)

    def serves(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"the product ended with {self.process.returncode}:\n{self.log}")
        try:
            return self("GET", "/version").status == 200
        except OSError:
            return False

    def worker(self) -> psutil.Process:
        return psutil.Process(self.process.pid).children()[0]

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)

    def __call__(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        connection = self.connect()
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def add(self, title: str) -> Answer:
        return self(
            "POST", "/api/items", json.dumps({"title": title}), **{"Content-Type": "application/json"}
        )

    def titles(self) -> list[str]:
        return [item["title"] for item in self("GET", "/api/items").json["items"]]

    def terminate(self) -> None:
        self.process.terminate()

    def end(self) -> None:
        if self.process and self.process.poll() is None:
            # Listed first: once the master is gone its worker is nobody's child, and serves on for a moment.
            workers = psutil.Process(self.process.pid).children()
            self.process.kill()
            for worker in workers:
                worker.kill()
            psutil.wait_procs(workers)
            self.process.wait()


GUNICORN = [
    sys.executable,
    "-m",
    "gunicorn",
    "-c",
    "python:product.gunicorn_conf",
    "product.app:application",
]


@pytest.fixture
def make_product(redis_server: RedisServer, tmp_path: Path) -> Iterator[Callable[..., Product]]:
    """Starts product processes over the test's Redis."""
    products: list[Product] = []

    def make(instance: str = "prod1", pool: str = "prod") -> Product:
        product = Product(tmp_path / instance, redis_server.port, instance, pool)
        products.append(product)
        product.start()
        return product

    yield make
    for product in products:
        product.end()


@pytest.fixture
def poll() -> Callable[..., object]:
    """``wait_until``, for tests."""
    return wait_until


@pytest.fixture
def caller() -> type[Caller]:
    """The class that calls a WSGI application."""
    return Caller
