"""Three real Redis servers with Sentinels, from the states' own templates, each on a loopback address of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import redis
import yaml
from redis.backoff import NoBackoff
from redis.retry import Retry
from saltern import certificates, pillar, redis_start, secrets
from saltern.fleet import REPOSITORY, Fleet
from saltern.redis_link import connect, watchers
from saltern.topology import access

STATES = REPOSITORY / "salt" / "redis"
NODES = {"redis1": "127.99.0.11", "redis2": "127.99.0.12", "redis3": "127.99.0.13"}


def until(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    """Wait for a condition and return its value; what Redis or Sentinel refuse meanwhile is waited for, too.

    :raises AssertionError: it did not come true in time
    """
    end, trouble = time.monotonic() + seconds, ""
    while True:
        try:
            if value := condition():
                return value
        except redis.RedisError as error:
            trouble = f" ({error})"
        assert time.monotonic() < end, f"{what} did not happen within {seconds:g} s{trouble}"
        time.sleep(0.05)


def free_port() -> int:
    """A TCP port that nobody listens on at any of the nodes' addresses."""
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        return probe.getsockname()[1]


def render(template: str, told: dict[str, Any]) -> str:
    """A template as Salt renders it."""
    environment = jinja2.Environment(extensions=["jinja2.ext.do"], keep_trailing_newline=True)
    environment.filters["json"] = lambda value, indent=None: json.dumps(value, indent=indent)
    return environment.from_string((STATES / template).read_text()).render(pillar=told)


class Node:
    """One Redis machine: its files below a folder, its Redis and its Sentinel as processes of the test."""

    def __init__(self, folder: Path, told: dict[str, Any]) -> None:
        self.folder, self.told = folder, told
        self.address, self.port = told["machine"]["address"], told["redis"]["port"]
        self.processes: dict[str, subprocess.Popen] = {}
        for each in ("etc/tls", "redis", "sentinel"):
            (folder / each).mkdir(parents=True)
        self.configure(told)

    def configure(self, told: dict[str, Any]) -> None:
        """Do what the state does: write Salt's files, and no others."""
        self.told = told
        for name in ("redis.conf", "sentinel.conf", "users.acl", "sentinel-users.acl", "start.json"):
            text = render(f"{name}.j2", told)
            for old, new in (
                ("/etc/redis", self.folder / "etc"), ("/var/lib/redis-sentinel", self.folder / "sentinel"),
                ("/var/lib/redis", self.folder / "redis"),
            ):  # fmt: skip
                text = text.replace(old, str(new))
            # On one host only one of them can have 127.0.0.1.
            (self.folder / "etc" / name).write_text(
                text.replace(f"bind {self.address} 127.0.0.1", f"bind {self.address}")
            )
        for name, secret in (("ca.crt", "ca"), ("server.crt", "certificate"), ("server.key", "key")):
            if tls := told["secrets"].get("tls"):
                (self.folder / "etc" / "tls" / name).write_text(tls[secret])

    @property
    def start_file(self) -> dict[str, Any]:
        return json.loads((self.folder / "etc" / "start.json").read_text())

    def start(self, what: str = "redis") -> None:
        """Start Redis or Sentinel as its unit does."""
        if what == "redis":
            redis_start.start_redis(self.start_file)
        else:
            redis_start.start_sentinel(self.start_file)
        file = self.folder / what / f"{what}.conf"
        mode = ["--sentinel"] if what == "sentinel" else []
        with (self.folder / f"{what}.log").open("ab") as log:
            self.processes[what] = subprocess.Popen(
                ["redis-server", str(file), *mode, "--supervised", "no"], stdout=log, stderr=log
            )
        until(
            lambda: self.admin(what).ping() if what == "redis" else self.sentinel().ping(), f"{what} answers"
        )

    def signal(self, number: int, *what: str) -> None:
        for each in what or ("redis",):
            os.kill(self.processes[each].pid, number)

    def end(self, *what: str) -> None:
        """End processes at once, as kill -9 does."""
        for each in what or tuple(self.processes):
            if process := self.processes.pop(each, None):
                process.kill()
                process.wait()

    def wipe(self) -> None:
        """Lose the disk that Redis has its data on."""
        shutil.rmtree(self.folder / "redis")
        (self.folder / "redis").mkdir()

    def admin(self, what: str = "redis") -> redis.Redis:
        """A client of this very Redis, for looking at it."""
        kept = self.stand.kept
        config = {
            "redis": {**self.stand.config("admin")["redis"], "addresses": [f"{self.address}:{self.port}"]}
        }
        assert kept and what == "redis"
        return connect(config)

    def sentinel(self) -> redis.Redis:
        """A client of this very Sentinel."""
        config = self.stand.config("admin")
        port = self.told["redis"]["sentinel"]["port"]
        config["sentinel"] = {**config["sentinel"], "addresses": [f"{self.address}:{port}"]}
        (client,) = watchers(config).sentinels
        return client

    stand: RedisStand


class RedisStand:
    """A fleet's Redis machines. `changes` are made to the pillar's `redis`."""

    def __init__(self, folder: Path, make_fleet: Callable[..., Fleet], **changes: Any) -> None:
        pillar_dir = shutil.copytree(REPOSITORY / "pillar", folder / "pillar")
        settings = yaml.safe_load((pillar_dir / "redis.sls").read_text())
        settings["redis"].update(changes, port=free_port())
        settings["redis"]["sentinel"]["port"] = free_port()
        (pillar_dir / "redis.sls").write_text(yaml.safe_dump(settings))
        self.fleet = make_fleet(NODES, pillar_dir=pillar_dir)
        self.kept = secrets.load(self.fleet)
        self.nodes: dict[str, Node] = {}
        for name in NODES:
            self.nodes[name] = Node(folder / name, self.told(name))
            self.nodes[name].stand = self
        self.settings = settings["redis"]

    def told(self, name: str) -> dict[str, Any]:
        return {**pillar.load(self.fleet.pillar_dir), **pillar.for_machine(self.fleet, name)}

    def config(self, user: str) -> dict[str, Any]:
        """How a user reaches Redis."""
        settings = pillar.load(self.fleet.pillar_dir)["redis"]
        found = pillar.redis_topology(self.fleet, settings)
        ca = certificates.authority(self.kept["tls"]) if settings["tls"] else ""
        return access(found, settings, user, self.kept, ca)

    def client(self, user: str = "admin") -> redis.Redis:
        """A client through Sentinel."""
        return connect(self.config(user))

    def start(self) -> None:
        """Start everything, and wait until the Sentinels know all there is to know."""
        for node in self.nodes.values():
            node.start()
        for node in self.nodes.values():
            node.start("sentinel")
        self.settle()

    def settle(self) -> None:
        """Wait until every Sentinel sees every machine well, and the primary takes writes."""
        until(lambda: all(self.sees_all(node) for node in self.nodes.values()), "the Sentinels agreeing")
        until(lambda: self.client().set("settled", "1"), "the primary taking writes")

    def sees_all(self, node: Node) -> bool:
        service = self.told("redis1")["fleet"]["redis"]["service"]
        state = node.sentinel().sentinel_master(service)
        replicas = node.sentinel().sentinel_slaves(service)
        others = len(self.nodes) - 1
        return (
            state["num-other-sentinels"] == others
            and len(replicas) == others
            and not any(each["is_sdown"] or each["is_disconnected"] for each in replicas)
            and all(each["master-link-status"] == "ok" for each in replicas)
            and not state["is_sdown"]
        )

    def primary(self) -> Node:
        """Whom most Sentinels that answer call the primary."""
        names = [self.said_by(node) for node in self.nodes.values() if "sentinel" in node.processes]
        return self.nodes[max(set(names), key=names.count)]

    def said_by(self, node: Node) -> str:
        address = node.sentinel().sentinel_get_master_addr_by_name("saltern")[0]
        return next(name for name, at in NODES.items() if at == address)

    def name(self, node: Node) -> str:
        return next(name for name, each in self.nodes.items() if each is node)

    def replicas(self) -> list[Node]:
        primary = self.primary()
        return [node for node in self.nodes.values() if node is not primary]

    def close(self) -> None:
        for node in self.nodes.values():
            for what in node.processes:
                node.signal(signal.SIGCONT, what)
            node.end()


def patient(client: redis.Redis) -> redis.Redis:
    """The same client without a second try, for counting what fails."""
    client.set_retry(Retry(NoBackoff(), 0))
    return client
