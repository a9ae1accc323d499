"""Rolls on a real Redis and a real conductor, over machines in memory that outlive every crash of the conductor."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import redis
import yaml
from conductor_stand import Cloud, Crash, Stand
from saltern import rollouts
from saltern.conductor import Conductor
from saltern.errors import SalternError
from saltern.fleet import REPOSITORY
from saltern.intents import Intent, Queue
from saltern.observed import OBSERVED, WINDOWS
from saltern.pillar import POOL_OF_ROLE
from saltern.provisioning import KINDS
from saltern.rolling import Roller

QUICK: Mapping[str, Any] = {
    "min_healthy_s": 0.02, "steady_s": 0.02, "drain_s": 1, "apply_s": 5, "serve_s": 0.3,
    "gates": {"alerts": ["MachineLost"], "roles": ["prod"], "wait_s": 0.3, "errors_percent": 1.0, "errors_min": 5},
    "rollback": {"batch": "40%", "max_unavailable": "40%", "min_healthy_s": 0.02, "steady_s": 0.02},
}  # fmt: skip


class Proxy(Cloud):
    """Machines behind a proxy that follows the registry at once."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client)
        self.most_out = 0
        self.stuck: set[str] = set()
        self.late: dict[str, int] = {}
        """Machines that are well and answer the proxy's checks too late, at so many looks from now on."""

    def observe(self) -> None:
        if not self.watching:
            return
        state = self.registry.snapshot()
        servers = {}
        for id_, instance in state.instances.items():
            if late := self.late.get(id_, 0) > 0:
                self.late[id_] -= 1
            up = id_ in self.there and id_ not in self.dead and not late
            away = "draining" if id_ in self.stuck else "idle"
            phase = {"ready": "ready" if up else "down", "drain": away, "maint": "maint"}[instance.want]
            servers[id_] = {
                "up": up, "phase": phase, "release": instance.release, "sessions": int(id_ in self.stuck),
                "since_s": 0 if late else 100_000, "pool": instance.pool,
                "check": "L7OK" if up else "L7TOUT" if late else "L4CON",
            }  # fmt: skip
        out = Counter(servers[id_]["pool"] for id_ in servers if servers[id_]["phase"] != "ready")
        self.most_out = max(self.most_out, out["prod"])
        told = {"servers": servers, "kept": {}, "revision": state.revision}
        self.client.set(OBSERVED, json.dumps(told))

    def idle(self, id_: str) -> bool:
        """Whether nothing is sent there any more."""
        there = self.registry.snapshot().instances.get(id_)
        return there is None or (there.want == "drain" and id_ not in self.stuck)

    def errors(self, requests: int, http_5xx: int) -> None:
        """What clients of production saw in a second."""
        row = {"requests": requests, "errors": http_5xx, "http_5xx": http_5xx}
        self.client.xadd(WINDOWS, {"data": json.dumps({"pools": {"prod": row, "canary": row}})})


class Machines:
    """What a roll does, done in memory. `sick` are releases that do not answer, by machine or on every one ("")."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.releases = ["r1", "r2", "r3"]
        self.table = {"prod": "r1", "canary": "r1"}
        self.disks: dict[str, set[str]] = {}
        self.runs: dict[str, str] = {}
        self.born: dict[str, int] = {}
        self.applied: list[tuple[tuple[str, ...], str]] = []
        self.differs: dict[str, list[str]] = {}
        """What of a machine is not as its states say, besides the release."""
        self.deaf: set[str] = set()
        self.looked: set[str] = set()
        self.favoured: list[str] = []
        self.hurried: list[str] = []
        """Whose product was ended at once although it was not idle."""
        self.sick: set[tuple[str, str]] = set()
        self.faults: dict[tuple[str, str], str] = {}
        self.crashes: dict[str, str] = {}
        self.when_applied: Callable[[str], None] = lambda id_: None
        self.slow = False
        """Whether states are still being applied when whoever waits for them is called away."""
        self.under_way: list[tuple[str, str]] = []

    def known(self) -> list[str]:
        return self.releases

    def wanted(self, pool: str) -> str:
        return self.table[pool]

    def of(self, id_: str) -> str:
        """What a machine shall run."""
        return self.table.get(id_, self.table[POOL_OF_ROLE[id_.rstrip("0123456789")]])

    def assign(self, changes: Mapping[str, str], drop: Iterable[str] = ()) -> None:
        assert set(changes.values()) <= {*self.releases}
        with self._crashing("assign"):
            gone = set(drop)
            self.table = {name: id_ for name, id_ in self.table.items() if name not in gone} | dict(changes)

    def stage(
        self, ids: Sequence[str], release: str, last: int, seconds: float, alive: Callable[[], None]
    ) -> dict[str, str]:
        with self._crashing("stage"):
            for id_ in ids:
                self.disks.setdefault(id_, set()).add(release)
        alive()
        return {id_: self.faults[id_, "stage"] for id_ in ids if (id_, "stage") in self.faults}

    def favour(self, ids: Sequence[str], times: float) -> None:
        if times > 1:
            self.favoured += [*ids]
        else:
            for id_ in ids:
                self.favoured.remove(id_)

    def look(self, ids: Sequence[str], seconds: float, alive: Callable[[], None]) -> dict[str, list[str]]:
        with self._crashing("look"):
            self.looked |= {*ids}
            return {id_: self.differs.get(id_, []) for id_ in ids if id_ not in self.deaf}

    def switch(
        self, ids: Sequence[str], release: str, idle: bool, seconds: float, alive: Callable[[], None]
    ) -> dict[str, str]:
        self.hurried += [id_ for id_ in ids if idle and not self.proxy.idle(id_)]
        assert {self.of(id_) for id_ in ids} == {release}, "it is assigned before"
        return self._change(ids, "switch", alive)

    def apply(
        self, ids: Sequence[str], states: str, seconds: float, alive: Callable[[], None]
    ) -> dict[str, str]:
        for id_ in ids:
            self.differs.pop(id_, None)
        return self._change(ids, states, alive)

    def _change(self, ids: Sequence[str], states: str, alive: Callable[[], None]) -> dict[str, str]:
        faults = {}
        if self.slow:
            self.slow = False
            self.under_way = [(id_, self.of(id_)) for id_ in ids]
            self.when_applied(ids[0])
            alive()
        # Runs of states wait for each other.
        self.finish()
        with self._crashing("switch" if states == "switch" else "apply"):
            self.applied.append((tuple(ids), states))
            for id_ in ids:
                self.when_applied(id_)
                # It may be told by the registry only of what it is not told to keep.
                if fault := self.faults.get((id_, self.of(id_))) if id_ in self.runs else None:
                    faults[id_] = fault
                elif id_ in self.runs:
                    self.runs[id_] = self.of(id_)
                    # A machine that is only switched tells nobody.
                    if states != "switch":
                        there = self.proxy.registry.snapshot().instances[id_]
                        self.proxy.registry.register(
                            id_, there.addr, there.port, self.of(id_), there.pool, by=id_
                        )
        alive()
        return faults

    def finish(self) -> None:
        """What is still under way comes to its end."""
        for id_, release in self.under_way:
            self.runs[id_] = release
            there = self.proxy.registry.snapshot().instances[id_]
            self.proxy.registry.register(id_, there.addr, there.port, release, there.pool, by=id_)
        self.under_way = []

    @contextlib.contextmanager
    def _crashing(self, name: str) -> Any:
        when = self.crashes.pop(name, "")
        if when == "before":
            raise Crash(name)
        yield
        if when == "after":
            raise Crash(name)

    def ask(self, address: str, port: int, path: str) -> Any:
        there = self.proxy.registry.snapshot().instances
        id_ = next(i.id for i in there.values() if i.addr == address)
        if {(id_, self.runs[id_]), ("", self.runs[id_])} & self.sick or id_ in self.proxy.dead:
            raise SalternError(f"http://{address}:{port}{path}: refused")
        return {"release": self.runs[id_], "started": self.born.get(id_, 0)}

    def machines(self) -> list[str]:
        return [*self.proxy.there]

    def redis_primary(self) -> str:
        return "redis2"

    def redis_whole(self) -> str:
        return ""


class Rolls(Stand):
    """A fleet of production machines, its conductor, and what is rolled."""

    def __init__(self, client: redis.Redis, *machines: str) -> None:
        super().__init__(client)
        self.cloud: Proxy = Proxy(client)
        self.hands = Machines(self.cloud)
        self.numbers = yaml.safe_load((REPOSITORY / "pillar/rollout.sls").read_text())["rollout"] | dict(
            QUICK
        )
        self.change(
            {"pools": {"prod": {"auto": False}}, "healing": {"auto": False}, "memory": {"auto": False}}
        )
        for id_ in machines or ("prod1", "prod2", "prod3"):
            self.add(id_)

    def add(self, id_: str) -> None:
        self.cloud.add(id_)
        if id_.rstrip("0123456789") in POOL_OF_ROLE:
            self.hands.runs[id_] = "r1"

    def start(self, hook: Callable[[str], None] = lambda point: None) -> Conductor:
        roller = Roller(self.hands, lambda: rollouts.Settings.from_pillar(self.numbers))
        return self.begin(hook, {**KINDS, **roller.kinds()})

    def ask_for(self, release: str = "r2", pool: str = "prod", **options: Any) -> str:
        args = {"release": release, "options": options}
        return Queue(self.client, "jo").put(
            Intent(rollouts.KIND_OF_POOL[pool], pool, args, cause="saltern/build/passed", by="jo")
        )[0]

    def intent(self, id_: str) -> Intent:
        found = Queue(self.client).load(id_)
        assert found is not None
        return found

    def tags(self) -> list[str]:
        return [tag.rpartition("/")[2] for tag, _ in self.fired if tag.startswith("saltern/deploy/")]

    def alarmed(self) -> list[tuple[str, bool]]:
        return [(a.name, a.firing) for a in self.alarms if a.name.startswith(("Deploy", "Intent"))]

    def expect(self, release: str, *, most_out: int = 1, **own: str) -> None:
        """All serve and run what the fleet wishes, which is this release but for those that are named."""
        state = self.cloud.registry.snapshot()
        prod = {id_: i for id_, i in state.instances.items() if i.pool == "prod"}
        assert {id_: i.want for id_, i in prod.items()} == dict.fromkeys(prod, "ready")
        assert {id_: self.hands.runs[id_] for id_ in prod} == {**dict.fromkeys(prod, release), **own}
        assert {id_: i.release for id_, i in prod.items()} == {id_: self.hands.runs[id_] for id_ in prod}
        assert {id_: self.hands.of(id_) for id_ in prod} == {id_: self.hands.runs[id_] for id_ in prod}
        assert self.cloud.most_out <= most_out
        assert self.hands.hurried == []
        assert self.client.xlen("saltern:queue") == 0
