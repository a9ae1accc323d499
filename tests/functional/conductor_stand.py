"""A conductor on a real Redis, with a cloud that is kept in memory and outlives every crash of the conductor."""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import redis
import yaml
from host import PATIENCE, folder_in_memory, until
from redis.backoff import NoBackoff
from redis.retry import Retry
from saltern import secrets, signing
from saltern.conductor import Conductor, Settings
from saltern.errors import SalternError
from saltern.fleet import REPOSITORY, role_of
from saltern.pillar import POOL_OF_ROLE
from saltern.provisioning import KINDS, OBSERVED, Alarm, Kind, Machine
from saltern.registry import Registry

SECRET = "5a" * 32
FAST: Mapping[str, Any] = {
    "pools": {"prod": {"min": 1, "warmup_s": 0}},
    "healing": {"grace_s": 20},
    "conductor": {"retry_s": 0.01, "retry_max_s": 0.02, "attempts": 3, "serve_s": PATIENCE, "drain_s": 1},
}


class Crash(BaseException):
    """The conductor's process ends here, as kill -9 would end it."""


class Server:
    """A redis-server on a socket of its own; `kill` and `start` lose nothing it has confirmed, `close` all of it."""

    def __init__(self) -> None:
        self.folder = folder_in_memory()
        self.path = str(self.folder / "redis.sock")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = shutil.which("redis-server") or "redis-server"
        self.process = subprocess.Popen(
            [program, "--port", "0", "--unixsocket", self.path, "--dir", str(self.folder), "--save", "",
             "--appendonly", "yes", "--appendfsync", "always",
             "--hz", "500"],  # as often it sees that somebody has waited long enough for something new
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        until(self._answers, "redis-server to answer")

    def _answers(self) -> bool:
        try:
            return bool(self.client().ping())
        except redis.RedisError:
            return False

    def client(self) -> redis.Redis:
        retry = Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))
        return redis.Redis(
            unix_socket_path=self.path, decode_responses=True, socket_timeout=PATIENCE, retry=retry
        )

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        if self.process is not None:
            self.kill()
        shutil.rmtree(self.folder)


class Cloud:
    """Machines that boot, register and are found healthy at once. `did` lists what really happened to them.

    `fails` makes a call fail so many times; `crashes` ends the conductor in a call, "before", "half" or "after" it did
    its work.
    """

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.registry = Registry(client)
        self.there: dict[str, Machine] = {}
        self.dead: set[str] = set()
        self.favoured: set[str] = set()
        self.silent: set[str] = set()
        self.did: list[tuple[str, str]] = []
        self.fails: dict[str, int] = {}
        self.crashes: dict[str, str] = {}
        self.births = 0
        self.watching = True

    def add(self, *ids: str, memory: int = 384, since: float = 0.0) -> None:
        """Machines that have been there all along."""
        for id_ in ids:
            self.births += 1
            self.there[id_] = Machine(id_, True, since or self.births, memory)
            self._register(id_)
        self.observe()

    def _register(self, id_: str) -> None:
        if pool := POOL_OF_ROLE.get(role_of(id_)):
            self.registry.register(id_, f"10.99.0.{10 + self.births}", 8080, "r1", pool, by=id_)

    def observe(self) -> None:
        """Say what HAProxy sees, as its controller does all the time."""
        if not self.watching:
            return
        servers = {}
        for id_, instance in self.registry.snapshot().instances.items():
            up = id_ in self.there and id_ not in self.dead
            phase = {"ready": "ready" if up else "down", "drain": "idle", "maint": "maint"}[instance.want]
            servers[id_] = {"up": up, "phase": phase}
        self.client.set(OBSERVED, json.dumps({"servers": servers, "kept": {}}))

    def die(self, *ids: str) -> None:
        """Machines that are switched off without a word."""
        self.dead.update(ids)
        self.observe()

    def _call(self, name: str, half: Callable[[], None], work: Callable[[], None]) -> None:
        crash = self.crashes.pop(name, "")
        if crash == "before":
            raise Crash(name)
        if self.fails.get(name, 0) > 0:
            self.fails[name] -= 1
            raise SalternError(f"salt-cloud: {name} does not work today")
        half()
        if crash == "half":
            raise Crash(name)
        work()
        if crash == "after":
            raise Crash(name)

    def machines(self) -> dict[str, Machine]:
        return dict(self.there)

    def create(self, role: str, ids: Sequence[str]) -> None:
        def half() -> None:
            for id_ in ids:
                if not (id_ in self.there and self.there[id_].made):
                    self.births += 1
                    self.there[id_] = Machine(id_, False, self.births, 384)

        def work() -> None:
            for id_ in ids:
                if not self.there[id_].made:
                    self.there[id_] = replace(self.there[id_], made=True)
                    self.dead.discard(id_)
                    self.did.append(("create", id_))
                    self._register(id_)
            self.observe()

        self._call("create", half, work)

    def destroy(self, id_: str) -> None:
        def work() -> None:
            if self.there.pop(id_, None):
                self.did.append(("destroy", id_))
            self.observe()

        self._call("destroy", lambda: None, work)

    def resize(self, id_: str, memory: int) -> None:
        def work() -> None:
            if self.there[id_].memory != memory:
                self.there[id_] = replace(self.there[id_], memory=memory)
                self.did.append(("resize", f"{id_}={memory}"))

        self._call("resize", lambda: None, work)

    def present(self, ids: Sequence[str]) -> set[str]:
        return {id_ for id_ in ids if id_ in self.there and id_ not in self.dead | self.silent}

    def configure(self, ids: Sequence[str]) -> None:
        for id_ in ids:
            self.did.append(("configure", id_))
            self._register(id_)
        self.observe()

    def favour(self, ids: Sequence[str], times: float) -> None:
        self.favoured = self.favoured | {*ids} if times > 1 else self.favoured - {*ids}


class Stand:
    """One fleet's Redis and cloud, and conductors one after the other."""

    def __init__(self, client: redis.Redis, changes: Mapping[str, Any] = FAST) -> None:
        self.client = client
        self.cloud = Cloud(client)
        self.alarms: list[Alarm] = []
        self.fired: list[tuple[str, dict[str, Any]]] = []
        self.ahead = 0.0
        self.counter = 0
        self.values = yaml.safe_load((REPOSITORY / "pillar/scaling.sls").read_text())["scaling"]
        self.change(FAST)
        self.change(changes)
        self.conductors: list[Conductor] = []

    def change(self, changes: Mapping[str, Any]) -> None:
        """Lay changes over the pillar."""

        def merge(into: dict[str, Any], new: Mapping[str, Any]) -> None:
            for key, value in new.items():
                if isinstance(value, Mapping) and isinstance(into.get(key), dict):
                    merge(into[key], value)
                else:
                    into[key] = copy.deepcopy(value)

        merge(self.values, changes)

    def now(self) -> float:
        return time.time() + self.ahead

    def begin(
        self, hook: Callable[[str], None] = lambda point: None, kinds: Mapping[str, Kind] = KINDS
    ) -> Conductor:
        """A conductor that knows nothing but what is in Redis."""
        conductor = Conductor(
            self.client, self.cloud, SECRET, lambda: Settings.from_pillar(self.values),
            fire=lambda tag, data: self.fired.append((tag, dict(data))), alarm=self.alarms.append, kinds=kinds,
            now=self.now, hook=hook,
        )  # fmt: skip
        self.conductors.append(conductor)
        return conductor

    def work(self, conductor: Conductor, done: Callable[[], Any], what: str) -> Any:
        """Let it work until something is so."""

        def one_round() -> Any:
            if value := done():
                return value
            conductor.step(5)
            with contextlib.suppress(redis.RedisError):
                self.cloud.observe()
            return None

        return until(one_round, what, pause=0)

    def settle(self, conductor: Conductor) -> None:
        """Let it work until nothing is queued."""
        self.work(conductor, lambda: not self.client.xlen("saltern:queue"), "the queue to be empty")
        self.join()

    def join(self) -> None:
        """Wait for the workers that are at it."""
        for thread in threading.enumerate():
            if thread.name.startswith("conductor "):
                thread.join(PATIENCE)
                assert not thread.is_alive(), f"{thread.name} does not end"

    def close(self) -> None:
        """End every conductor and its workers: what they write belongs to no other test."""
        for conductor in self.conductors:
            conductor.stop()
        self.join()

    def edge(
        self, machine: str, metric: str, level: str, percent: float, counter: int | None = None
    ) -> tuple[str, dict]:
        """A signed edge, as it stands on the bus."""
        self.counter += 1
        tag = f"salt/beacon/{machine}/{metric}/{level}"
        signed = signing.sign(
            secrets.event_key(SECRET, machine), machine, tag, {"percent": percent}, counter or self.counter
        )
        return tag, {"id": machine, **signed}

    def journal(self, *kinds: str) -> list[dict[str, str]]:
        return [
            fields
            for _, fields in self.client.xrange("saltern:journal")
            if not kinds or fields["kind"] in kinds
        ]
