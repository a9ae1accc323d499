"""Three real Redis servers with Sentinels, from the states' own templates, each on a loopback address of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jinja2
import redis
import yaml
from host import PATIENCE, free_port
from saltern import certificates, pillar, redis_start, secrets
from saltern.fleet import REPOSITORY, Fleet
from saltern.redis_link import connect, watchers
from saltern.topology import SERVICE, access

STATES = REPOSITORY / "salt" / "redis"
NODES = {"redis1": "127.99.0.11", "redis2": "127.99.0.12", "redis3": "127.99.0.13"}


def until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
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


def render(template: str, told: dict[str, Any]) -> str:
    """A template as Salt renders it."""
    environment = jinja2.Environment(extensions=["jinja2.ext.do"], keep_trailing_newline=True)
    environment.filters["json"] = lambda value, indent=None: json.dumps(value, indent=indent)
    return environment.from_string((STATES / template).read_text()).render(pillar=told)


CALM = {"down_after_ms": 5000, "failover_timeout_ms": 6000}
"""A pillar's `sentinel` with which a primary may be away for a moment, on a slow host too, with nobody elected."""


class Node:
    """One Redis machine: its files below a folder, its Redis and its Sentinel as processes of the test."""

    def __init__(self, stand: RedisStand, name: str, folder: Path) -> None:
        self.stand, self.name, self.folder = stand, name, folder
        self.address = NODES[name]
        self.processes: dict[str, subprocess.Popen] = {}
        for each in ("etc/tls", "redis", "sentinel"):
            (folder / each).mkdir(parents=True)
        self.configure()

    def configure(self) -> None:
        """Do what the state does: write Salt's files, and no others."""
        told = self.stand.told(self.name)
        for name in ("redis.conf", "sentinel.conf", "users.acl", "sentinel-users.acl", "start.json"):
            text = render(f"{name}.j2", told)
            for old, new in (
                ("/etc/redis", "etc"),
                ("/var/lib/redis-sentinel", "sentinel"),
                ("/var/lib/redis", "redis"),
            ):
                text = text.replace(old, str(self.folder / new))
            # On one host only one of them can have 127.0.0.1.
            text = text.replace(f"bind {self.address} 127.0.0.1", f"bind {self.address}")
            (self.folder / "etc" / name).write_text(text)
        for name, secret in (("ca.crt", "ca"), ("server.crt", "certificate"), ("server.key", "key")):
            if tls := told["secrets"].get("tls"):
                (self.folder / "etc" / "tls" / name).write_text(tls[secret])

    def start(self, what: str = "redis") -> None:
        """Start Redis or Sentinel as its unit does."""
        config = json.loads((self.folder / "etc" / "start.json").read_text())
        (redis_start.start_redis if what == "redis" else redis_start.start_sentinel)(config)
        mode = ["--sentinel"] if what == "sentinel" else []
        with (self.folder / f"{what}.log").open("ab") as log:
            self.processes[what] = subprocess.Popen(
                ["redis-server", str(self.folder / what / f"{what}.conf"), *mode, "--supervised", "no"],
                stdout=log, stderr=log,
            )  # fmt: skip
        client = self.admin() if what == "redis" else self.sentinel()
        until(client.ping, f"{what} of {self.name} answering")

    def signal(self, number: int, what: str = "redis") -> None:
        os.kill(self.processes[what].pid, number)

    def stop(self) -> None:
        """Stop Redis as its unit does."""
        process = self.processes["redis"]
        process.terminate()
        assert process.wait(PATIENCE) == 0
        del self.processes["redis"]
        (self.folder / "redis" / redis_start.ORDERLY).touch()

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

    def admin(self) -> redis.Redis:
        """A client of this very Redis."""
        address = f"{self.address}:{self.stand.settings['port']}"
        return connect({"redis": {**self.stand.config("admin")["redis"], "addresses": [address]}})

    def sentinel(self, **login: str) -> redis.Redis:
        """A client of this very Sentinel."""
        config = self.stand.config("admin")
        address = f"{self.address}:{self.stand.settings['sentinel']['port']}"
        config["sentinel"] = {**config["sentinel"], "addresses": [address], **login}
        (client,) = watchers(config).sentinels
        return client


class RedisStand:
    """A fleet's Redis machines. `changes` are made to the pillar's `redis`."""

    def __init__(self, folder: Path, make_fleet: Callable[..., Fleet], **changes: Any) -> None:
        pillar_dir = shutil.copytree(REPOSITORY / "pillar", folder / "pillar")  # makes the folder, too
        settings = yaml.safe_load((pillar_dir / "redis.sls").read_text())
        settings["redis"].update(changes, port=free_port())
        settings["redis"]["sentinel"]["port"] = free_port()
        (pillar_dir / "redis.sls").write_text(yaml.safe_dump(settings))
        self.fleet = make_fleet(NODES, pillar_dir=pillar_dir)
        self.kept = secrets.load(self.fleet)
        self.settings = settings["redis"]
        self.nodes = {name: Node(self, name, folder / name) for name in NODES}

    def told(self, name: str) -> dict[str, Any]:
        return {**pillar.load(self.fleet.pillar_dir), **pillar.for_machine(self.fleet, name)}

    def change(self, **changes: Any) -> None:
        """Change the pillar's `redis`, and write the files that come of it."""
        path = self.fleet.pillar_dir / "redis.sls"
        self.settings = {**self.settings, **changes}
        path.write_text(yaml.safe_dump({"redis": self.settings}))
        for node in self.nodes.values():
            node.configure()

    def config(self, user: str) -> dict[str, Any]:
        """How a user reaches Redis."""
        found = pillar.redis_topology(self.fleet, self.settings)
        ca = certificates.authority(self.kept["tls"]) if self.settings["tls"] else ""
        return access(found, self.settings, user, self.kept, ca)

    def client(self, user: str = "admin") -> redis.Redis:
        """A client through Sentinel."""
        return connect(self.config(user))

    def start(self) -> None:
        """Start everything, and wait until the Sentinels know all there is to know."""
        for what in ("redis", "sentinel"):
            for node in self.nodes.values():
                node.start(what)
        self.settle()

    def boot(self) -> None:
        """Start everything at once, as machines do when power is back."""
        with ThreadPoolExecutor() as pool:
            started = [
                pool.submit(node.start, what)
                for node in self.nodes.values()
                for what in ("redis", "sentinel")
            ]
            for each in started:
                each.result()

    def settle(self) -> None:
        """Wait until every Sentinel sees every machine well, and the primary takes writes."""
        until(lambda: all(self.sees_all(node) for node in self.nodes.values()), "the Sentinels agreeing")
        until(lambda: self.client().set("settled", "1"), "the primary taking writes")

    def sees_all(self, node: Node) -> bool:
        state, replicas = node.sentinel().sentinel_master(SERVICE), node.sentinel().sentinel_slaves(SERVICE)
        return (
            state["num-other-sentinels"] == len(replicas) == len(self.nodes) - 1
            and not any(each["is_sdown"] or each["is_disconnected"] for each in [state, *replicas])
            # Sentinel looks only every ten seconds how a replica's link is; the replica itself knows.
            and node.admin().info("replication").get("master_link_status", "up") == "up"
        )

    def primary(self) -> Node:
        """Whom most Sentinels that answer call the primary."""
        names = [self.said_by(node) for node in self.nodes.values() if "sentinel" in node.processes]
        return self.nodes[max(set(names), key=names.count)]

    def said_by(self, node: Node) -> str:
        address = node.sentinel().sentinel_get_master_addr_by_name(SERVICE)[0]
        return next(name for name, at in NODES.items() if at == address)

    def replicas(self) -> list[Node]:
        primary = self.primary()
        return [node for node in self.nodes.values() if node is not primary]

    def close(self) -> None:
        for node in self.nodes.values():
            for what in node.processes:
                node.signal(signal.SIGCONT, what)
            node.end()
