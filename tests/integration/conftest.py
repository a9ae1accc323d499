"""A real Salt master with a fleet's settings, real minions, and a real Redis with the fleet's users, all on loopback.

The minions run on this host, as whoever runs the tests. So nothing here applies a state that changes a system: `test`
is the minions' default, and the reaction that configures a machine when it comes up is left out of the master's.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import off_disk
import pytest
import redis
import yaml
from host import PATIENCE, folder_in_memory, free_port, until
from redis.backoff import NoBackoff
from redis.retry import Retry
from saltern import master as salt_master
from saltern import pillar, secrets
from saltern.fleet import REPOSITORY, Fleet

tmp_path_factory = off_disk.tmp_path_factory

LONGEST = 280.0
"""Seconds that Salt's own programs may take to start, or to do something: longer than anything they are asked for."""
RUN = re.compile(r"salt/run/[0-9]+/(new|ret)\Z")
"""What the master says when a runner begins and when it has ended."""
IDS = ("proxy1", "redis1", "prod1", "staging1", "ops1")
ADDRESSES = {
    "proxy1": "10.99.0.10",
    "redis1": "127.0.0.1",
    "redis2": "10.99.0.12",
    "prod1": "10.99.0.13",
    "staging1": "10.99.0.15",
    "ops1": "10.99.0.16",
}


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    """A folder with a short name: sockets lie in it."""
    folder = folder_in_memory("salt-")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def shipped_pillar(home: Path) -> Path:
    """The repository's pillar with paths and a port that are free on this host, which nobody feels the load of.

    `beacons.disable` would not do: a minion looks at what the pillar says alone.
    """
    folder = shutil.copytree(REPOSITORY / "pillar", home / "pillar")
    for name, changes in {
        "redis": {"port": free_port()},
        "beacons": {"enabled": False},
        "traffic": {
            "state_dir": str(home / "traffic"),
            "unavailable_page": str(home / "errors" / "503.http"),
            "admin_socket": str(home / "admin.sock"),
        },
    }.items():
        values = yaml.safe_load((folder / f"{name}.sls").read_text())
        values[name].update(changes)
        (folder / f"{name}.sls").write_text(yaml.safe_dump(values))
    return folder


@pytest.fixture(scope="session")
def fleet(make_fleet: Callable[..., Fleet], shipped_pillar: Path) -> Fleet:
    """The fleet the master serves; its Redis is on loopback."""
    return make_fleet(ADDRESSES, pillar_dir=shipped_pillar)


@pytest.fixture(scope="session")
def told(fleet: Fleet) -> Callable[[str], dict[str, Any]]:
    """The whole pillar of one machine: all but what is the master's alone."""

    def of_machine(minion: str) -> dict[str, Any]:
        values = {**pillar.load(fleet.pillar_dir), **pillar.for_machine(fleet, minion)}
        del values["clouds"]
        return values

    return of_machine


@dataclass
class RedisServer:
    """A real redis-server with the fleet's users."""

    folder: Path
    port: int
    passwords: dict[str, str]
    process: subprocess.Popen | None = None
    clients: dict[str, redis.Redis] = field(default_factory=dict)

    def start(self) -> None:
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", "",
             "--aclfile", str(self.folder / "users.acl")],
            stdout=(self.folder / "log").open("ab"),
        )  # fmt: skip
        until(self.answers, "an answer from Redis")

    def answers(self) -> bool:
        try:
            return self.user("admin").ping()
        except redis.ConnectionError:
            return False

    def stop(self) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait()
            self.process = None

    def user(self, name: str) -> redis.Redis:
        """A client that has logged in as one of the fleet's users."""
        if name not in self.clients:
            self.clients[name] = redis.Redis(
                port=self.port,
                username=name,
                password=self.passwords[name],
                decode_responses=True,
                socket_timeout=PATIENCE,
                retry=Retry(NoBackoff(), 1),
            )
        return self.clients[name]


@pytest.fixture(scope="session")
def redis_server(fleet: Fleet, told: Callable[[str], dict[str, Any]], home: Path) -> Iterator[RedisServer]:
    """The fleet's Redis: what `redis1` would be."""
    folder = home / "redis"
    folder.mkdir()
    values = told("redis1")
    template = (REPOSITORY / "salt" / "redis" / "users.acl.j2").read_text()
    (folder / "users.acl").write_text(jinja2.Template(template).render(pillar=values) + "\n")
    server = RedisServer(folder, values["redis"]["port"], secrets.load(fleet)["redis"])
    server.start()
    yield server
    server.stop()


@pytest.fixture
def registry_empty(redis_server: RedisServer) -> redis.Redis:
    """A client that may do anything, on a Redis that holds nothing."""
    client = redis_server.user("admin")
    client.flushall()
    return client


@pytest.fixture(scope="session")
def salt_factories_config(home: Path) -> dict[str, Any]:
    """Where the daemons live; the master imports `saltern` from this checkout."""
    ours = [str(REPOSITORY / "services"), str(REPOSITORY / "services" / "flags" / "src")]
    path = os.pathsep.join([*ours, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {
        "root_dir": home / "salt",
        "environ": {**os.environ, "PYTHONPATH": path},
        "start_timeout": LONGEST,
    }


def master_settings(fleet: Fleet) -> dict[str, Any]:
    """What etc/master says that is not a path or port of the daemon's own."""
    settings = yaml.safe_load(salt_master.configuration(fleet)["master"])
    names = (
        "file_roots", "pillar_roots", "ext_pillar", "ext_pillar_first", "module_dirs", "saltern_state_dir",
        "open_mode", "allow_minion_key_revoke", "file_recv", "publish_signing_algorithm", "reactor",
    )  # fmt: skip
    chosen = {name: settings[name] for name in names}
    # A minion that comes up here must not become a proxy or a Redis: it is this host.
    chosen["reactor"] = [each for each in chosen["reactor"] if "salt/minion/*/start" not in each]
    assert len(chosen["reactor"]) == len(settings["reactor"]) - 1
    # The quick reflexes alone: there is no cloud here for the conductor.
    chosen["engines"] = [each for each in settings["engines"] if "reflex" in each]
    assert len(chosen["engines"]) == 1
    return chosen


@pytest.fixture(scope="session")
def salt(salt_factories: Any, fleet: Fleet, redis_server: RedisServer) -> Iterator[Any]:
    """The running master."""
    overrides = {
        **master_settings(fleet),
        "auto_accept": True,  # in a fleet, salt-cloud accepts the key of the machine it makes
        "peer": {".*": None},  # the factory grants test.*
        "worker_threads": 3,
        # How long `salt` waits for minions: for those that are slow, too.
        "timeout": 60,
        "gather_job_timeout": 60,
        "log_level_logfile": "warning",
    }
    daemon = salt_factories.salt_master_daemon("master", overrides=overrides)
    with daemon.started():
        yield daemon


@dataclass(frozen=True)
class Fleetlike:
    """The master with its minions: functions are called on real minions, without a command line in between."""

    master: Any
    client: Any
    fleet: Fleet

    def call(self, minion: str, function: str, *arguments: object, **keywords: object) -> Any:
        """What a function answers on a minion."""
        answer = self.client.cmd(minion, function, arg=arguments, kwarg=keywords, timeout=PATIENCE)
        assert minion in answer, f"{minion} did not answer {function}"
        return answer[minion]

    def says(self, minion: str, tag: str, data: object) -> None:
        """Have a minion send an event."""
        assert self.call(minion, "event.send", tag, data) is True


@pytest.fixture(scope="session")
def minions(salt: Any, fleet: Fleet) -> Iterator[Fleetlike]:
    """The running minions."""
    from salt.client import LocalClient

    overrides = {
        "loop_interval": 1,
        "test": True,
        "enable_fqdns_grains": False,
        "enable_gpu_grains": False,
        "autoload_dynamic_modules": False,
        "log_level_logfile": "warning",
        "keysize": 2048,
    }
    daemons = [salt.salt_minion_daemon(name, overrides=dict(overrides)) for name in IDS]
    try:
        with ThreadPoolExecutor(len(daemons)) as pool:
            list(pool.map(lambda daemon: daemon.start(), daemons))
        yield Fleetlike(salt, LocalClient(mopts=salt.config.copy()), fleet)
    finally:
        with ThreadPoolExecutor(len(daemons)) as pool:
            list(pool.map(lambda daemon: daemon.terminate(), daemons))


def hear(source: Any) -> None:
    """Wait until a listener hears what is said: the master says nothing to a connection it has not seen yet."""
    said = f"saltern/test/{time.monotonic_ns()}"

    def heard() -> bool:
        source.fire_event({}, said)
        return source.get_event(wait=0.5, tag=said) is not None

    until(heard, "the bus")


@pytest.fixture(scope="session")
def await_bus() -> Callable[[Any], None]:
    """Wait until a listener hears what is said."""
    return hear


@dataclass
class Bus:
    """The master's event bus, as it goes by."""

    source: Any
    seen: list[tuple[str, dict]] = field(default_factory=list)

    def wait_for(
        self, wanted: Callable[[str, dict], bool], count: int = 1, seconds: float = PATIENCE
    ) -> list[dict]:
        """The next `count` events that are wanted.

        :raises AssertionError: they did not come in time; with what did come
        """
        found: list[dict] = []
        end = time.monotonic() + seconds
        while len(found) < count:
            assert time.monotonic() < end, (
                f"{len(found)} of {count} events; there were {[t for t, _ in self.seen]}"
            )
            event = self.source.get_event(wait=0.5, full=True)
            if event:
                self.seen.append((event["tag"], event["data"]))
                if wanted(event["tag"], event["data"]):
                    found.append(event["data"])
        return found

    def settle(self) -> None:
        """Wait until all that was said is reacted to, so that no reaction falls into the next test."""
        last = f"saltern/instance/nobody{time.monotonic_ns()}/present"
        self.source.fire_event({"id": "nobody", "data": {}}, last)
        self.wait_for(lambda tag, data: tag.endswith("/ret") and last in str(data.get("fun_args")))
        new = {tag[: -len("/new")] for tag, _ in self.seen if RUN.match(tag) and tag.endswith("/new")}
        over = {tag[: -len("/ret")] for tag, _ in self.seen if RUN.match(tag) and tag.endswith("/ret")}
        for run in new - over:
            self.wait_for(lambda tag, data, run=run: tag == f"{run}/ret")

    def reactions(self, count: int = 1, runner: str | None = "registry") -> list[dict]:
        """What the next `count` functions of a runner, or of any, that a reactor called have answered."""
        prefix = f"runner.{runner}." if runner else "runner."
        return self.wait_for(
            lambda tag, data: tag.endswith("/ret") and data.get("fun", "").startswith(prefix), count
        )


@pytest.fixture
def bus(salt: Any) -> Iterator[Bus]:
    """The master's event bus, listened to from now on."""
    from salt.utils.event import get_event

    with get_event("master", sock_dir=salt.config["sock_dir"], opts=dict(salt.config), listen=True) as source:
        hear(source)
        bus = Bus(source)
        yield bus
        bus.settle()


@pytest.fixture(scope="session")
def workplace(salt: Any, fleet: Fleet, home: Path) -> Path:
    """A checkout as far as Salt's commands see it: the Saltfile, and the link to the fleet's state folder."""
    place = home / "checkout"
    place.mkdir()
    shutil.copy(REPOSITORY / "Saltfile", place)
    for name, text in salt_master.configuration(fleet).items():
        path = fleet.etc / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    shutil.copy(salt.config["conf_file"], fleet.etc / "master")
    (place / ".saltern").symlink_to(fleet.state_dir)
    return place


@pytest.fixture(scope="session")
def run_in(
    workplace: Path, salt_factories_config: dict[str, Any]
) -> Callable[..., subprocess.CompletedProcess]:
    """Run one of Salt's commands from the checkout, with no flags that say where the fleet is."""

    def run(program: str, *arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [salt_master.program(program), *arguments], cwd=workplace, env=salt_factories_config["environ"],
            capture_output=True, text=True, timeout=LONGEST, check=False,
        )  # fmt: skip

    return run
