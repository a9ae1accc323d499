"""The dashboard as a process of its own over a real Redis, and a small fleet written into it."""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from admin_stand import OURS, Reply
from host import PATIENCE, free_port, until
from openfeature_redis import flagset
from saltern.alert_store import Alert, AlertStore
from saltern.dashboard_view import merge
from saltern.intents import Intent, Queue
from saltern.observed import OBSERVED, WINDOWS
from saltern.pipeline.records import Build, Records
from saltern.pipeline.settings import Settings
from saltern.pipeline.web import serving
from saltern.pipeline.worker import Worker
from saltern.registry import FELT, Registry
from saltern.samples import SAMPLES
from traffic_stand import Process

HOSTS = {"proxy1": "127.0.0.10", "redis1": "127.0.0.1", "redis2": "127.0.0.12", "ops1": "127.0.0.20"}
MACHINES = {
    "prod1": ("prod", "r1"), "prod2": ("prod", "r1"), "prod3": ("prod", "r1"), "staging1": ("canary", "r2"),
}  # fmt: skip


class DashboardStand:
    """One dashboard on a free port."""

    def __init__(
        self, directory: Path, redis_port: int, admin_port: int = 1, changes: Mapping[str, Any] | None = None
    ) -> None:
        self.port = free_port()
        self.file = directory / "dashboard.json"
        self.document: dict[str, Any] = {
            "redis": {"addresses": [f"127.0.0.1:{redis_port}"], "timeout_s": 10},
            "admin": f"http://127.0.0.1:{admin_port}",
            "fleet": "test", "machine": "ops1", "hosts": HOSTS,
            "listen": {"address": "127.0.0.1", "port": self.port},
            **(changes or {}),
        }  # fmt: skip
        self.process = Process(
            [sys.executable, "-m", "saltern.dashboard", "--config", str(self.file)],
            directory / "dashboard.log",
            {"PYTHONPATH": os.pathsep.join(map(str, [*OURS, os.environ.get("PYTHONPATH", "")]))},
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> DashboardStand:
        """Start it and wait until it has looked at Redis."""
        self.file.write_text(json.dumps(self.document))
        self.process.start()
        try:
            until(self._answers, f"the dashboard answering (see {self.process.log})")
        except BaseException:
            self.process.end()
            raise
        return self

    def _answers(self) -> bool:
        assert self.process.running, self.process.log.read_text()
        try:
            return self.ask("GET", "/health").status == 200
        except OSError:
            return False

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """One request; ``body`` is sent as JSON."""
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        sent = dict(headers or {})
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
        try:
            link.request(method, path, None if body is None else json.dumps(body).encode(), sent)
            answer = link.getresponse()
            return Reply(
                answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read().decode()
            )
        finally:
            link.close()

    def picture(self) -> dict[str, Any]:
        return self.ask("GET", "/state").data


# What pytest and coverage.py write, shortened.
JUNIT = (
    '<?xml version="1.0" encoding="utf-8"?><testsuites><testsuite name="pytest" errors="0" failures="1" skipped="1" '
    'tests="3"><testcase classname="tests.test_items" name="test_adds" time="0.250" />'
    '<testcase classname="tests.test_items" name="test_long" time="1.500"><failure message="assert 1 == 2">why'
    '</failure></testcase><testcase classname="tests.test_page" name="test_dark" time="0.001"><skipped /></testcase>'
    "</testsuite></testsuites>"
)
COVERAGE = json.dumps({
    "totals": {"percent_covered": 81.25},
    "files": {
        "product/app.py": {"summary": {"percent_covered": 92.5, "missing_lines": 6}},
        "product/items.py": {"summary": {"percent_covered": 40.0, "missing_lines": 30}},
    },
})  # fmt: skip
BUILDS = (
    Build(
        "20261121-071523-ab12cd3", "refs/heads/staging", "ab12cd3" + "0" * 33, "Ana <ana@example.org>", "ana",
        "Say who made it", 1_795_245_323.0, "passed", "passed", began=1_795_245_324.0, ended=1_795_245_333.5,
        target="canary", release="r2709ee1d8651", coverage=81.3, tests={"tests": 3, "failures": 1}, findings=0,
        stages=({"name": "build", "seconds": 1.2, "words": "release r2709ee1d8651"},), serving="serves on staging1",
    ),
    Build(
        "20261121-081523-ffffff0", "refs/heads/<b>odd</b>", "ffffff0" + "0" * 33, "Jo <jo@example.org>", "jo",
        "<script>alert(1)</script>", 1_795_248_923.0, "failed", "test", "tests failed", began=1_795_248_924.0,
        ended=1_795_248_930.0,
    ),
)  # fmt: skip


@contextmanager
def builds_served(folder: Path) -> Iterator[str]:
    """The pipeline's own pages over two builds that it once made; its address."""
    config = Settings(
        home=folder / "pipeline", repository=folder, sandbox=folder / "sandbox", wheels=(), tools="", cache="",
        address="127.0.0.1", port=0, subnet="10.99.0.0/24", token="secret",
    )  # fmt: skip
    records = Records(config.home)
    config.home.mkdir()
    records.prepare()
    for build in BUILDS:
        records.save(build)
        records.say(build.id, f"== build\nof {build.subject}\n")
    (records.folder(BUILDS[0].id) / "junit.xml").write_text(JUNIT)
    (records.folder(BUILDS[0].id) / "coverage.json").write_text(COVERAGE)
    worker = Worker(config, connect_sandbox=socket.socket)
    worker.prepare()
    with serving(worker) as port:
        yield f"http://127.0.0.1:{port}"


class Viewer:
    """A page that listens, without the page."""

    def __init__(self, port: int, seconds: float = PATIENCE, host: str = "127.0.0.1") -> None:
        self._link = http.client.HTTPConnection(host, port, timeout=seconds)
        self._link.request("GET", "/events")
        self.answer = self._link.getresponse()
        self.picture: Any = {}
        self.ids: list[str] = []
        self.kinds: list[str] = []

    def __enter__(self) -> Viewer:
        return self

    def __exit__(self, *exc: object) -> None:
        self._link.close()

    def events(self) -> Iterator[tuple[str, Any]]:
        """What it is told, as it comes: kind and data; the picture follows."""
        told: dict[str, str] = {}
        while line := self.answer.readline().decode():
            name, _, value = line.rstrip("\n").partition(": ")
            if name:
                told[name] = value
                continue
            if "event" in told:
                data = json.loads(told["data"])
                self.kinds.append(told["event"])
                if "id" in told:
                    self.ids.append(told["id"])
                if told["event"] == "state":
                    self.picture = data
                elif told["event"] == "patch":
                    self.picture = merge(self.picture, data)
                yield told["event"], data
            told = {}

    def until(self, true: Any, what: str, seconds: float = PATIENCE) -> Any:
        """Listen until something of the picture is true."""
        end = time.monotonic() + seconds
        for _ in self.events():
            if found := true(self.picture):
                return found
            assert time.monotonic() < end, f"{what} was not seen in {seconds:g} s: {str(self.picture)[:900]}"
        raise AssertionError(f"the connection ended before {what}")


class Painter:
    """Writes a small fleet into Redis as the real parts do, and goes on doing so."""

    def __init__(self, client: redis.Redis, machines: Mapping[str, tuple[str, str]] = MACHINES) -> None:
        self.client, self.machines = client, dict(machines)
        self.registry = Registry(client)
        self.down: set[str] = set()

    def begin(self) -> None:
        """Desired state, flags, an alert, an intent at work."""
        for at, (id_, (pool, release)) in enumerate(self.machines.items()):
            self.registry.register(id_, f"10.0.{at // 200}.{at % 200 + 1}", 8080, release, pool, by="salt")
        self.registry.set_share(30, by="salt")
        flags = {
            "disable_set": {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "off"},
            "font_color": {"state": "ENABLED", "variants": {"default": "", "red": "#f00"}, "defaultVariant": "default"},
        }  # fmt: skip
        flagset.write(self.client, {"flags": flags}, who="test", why="test")
        AlertStore(self.client).fire(
            Alert("CpuHigh", "staging1", "CpuHigh", "warning", "CPU of staging1 is high", "93 %", "50 %"),
            cause="salt/beacon/staging1/cpu/high 1795220681000000000",
        )
        queue = Queue(self.client)
        queue.prepare()
        id_, _ = queue.put(Intent("scale", "prod", {"to": 4}, cause="saltern/scale/prod1/out", by="prod1"))
        queue.begin(id_)
        queue.record(id_, "made:prod4", {"address": "10.0.0.9"}, "machine.made", "prod4", {"seconds": 1.2})
        now = self.client.time()[0]
        for key, high, percent in (
            ("staging1/cpu", True, 93.0), ("ops1/cpu", False, 4.0), ("ops1/memory", False, 31.0),
            ("proxy1/cpu", False, 7.0),
        ):  # fmt: skip
            felt = {"high": high, "percent": percent, "since": now, "at": now, "counter": "1"}
            self.client.hset(FELT, key, json.dumps(felt))

    def second(self, requests: int = 100, errors: int = 0, ago_s: float = 0.0) -> None:
        """What one second brings: what HAProxy sees, its counts, and the machines' samples."""
        seconds, micros = self.client.time()
        now = seconds + micros / 1e6 - ago_s
        split = {"prod": requests - requests * 30 // 100, "canary": requests * 30 // 100}
        # Tests change them meanwhile, in another thread.
        machines = dict(self.machines)
        pools = {pool: [id_ for id_, (of, _) in machines.items() if of == pool] for pool in split}
        servers, counted = {}, {}
        for at, (id_, (pool, release)) in enumerate(machines.items()):
            up = id_ not in self.down
            servers[id_] = {
                "slot": f"s{at}", "pool": pool, "release": release, "addr": "10.0.0.1", "port": 8080, "up": up,
                "admin": "ready", "phase": "ready" if up else "down", "check": "L7OK" if up else "L4CON",
                "sessions": at % 3, "response_ms": 3 + at % 4, "since_s": 10,
            }  # fmt: skip
            share = split[pool] // max(1, len(pools[pool]))
            counted[id_] = {"pool": pool, "release": release, "requests": share}
        rows = {
            pool: {
                "requests": split[pool], "errors": errors if pool == "canary" else 0, "http_5xx": 0, "redispatches": 0,
                "sessions": 1, "response_ms": 4.0 if pool == "prod" else 4.2,
            }
            for pool in split
        }  # fmt: skip
        window = {"ts": now, "seconds": 1.0, "share": 30, "pools": rows, "servers": counted}
        entry = "*" if not ago_s else f"{int(now * 1000)}-0"
        self.client.xadd(WINDOWS, {"data": json.dumps(window)}, id=entry)
        for at, id_ in enumerate(machines):
            batch = {"seconds": 1.0, "cpu": [20.0 + at % 5], "memory": [30.0 + at % 7]}
            fields = {"machine": id_, "age": "0.010", "data": json.dumps(batch)}
            self.client.xadd(SAMPLES, fields, id="*" if not ago_s else f"{int(now * 1000)}-{at + 1}")
        seen = {
            "ts": now, "revision": int(self.client.get("saltern:revision") or 0), "share": 30,
            "share_reason": "as the registry says", "servers": servers, "kept": {}, "unplaced": [],
        }  # fmt: skip
        # It is gone by itself, as the controller's word is; not because this host was slow for some seconds.
        self.client.set(OBSERVED, json.dumps(seen), ex=600)
