"""The proxy's controller: keeps HAProxy equal to the registry, and tells everybody what HAProxy sees.

    python3 -m saltern.controller --config /etc/saltern/controller.json

Three threads, each with one job. The *watcher* reads the registry, on notice and every ``resync_s``. The
*loop* looks at HAProxy every ``poll_ms``, more often while servers are on their way, and whenever there is
news; it decides (``reconcile.plan``, ``canary.decide``), acts, and reads back. The *reporter* writes to Redis
what has to be known elsewhere. The loop never waits for Redis: without it the controller goes on with the
last state it knew, which it keeps on disk, and reports later what it had to do.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import redis

from . import canary, daemon, notify, orders, reconcile
from .haproxy import (
    HAProxyError,
    Rejected,
    Runtime,
    Session,
    Stat,
    parse_acl,
    parse_info,
    parse_map,
    parse_servers,
    parse_sessions,
    parse_stat,
)
from .observed import OBSERVED, OBSERVED_TTL_S, WINDOWS, WINDOWS_LENGTH
from .redis_link import ConfigError, connect
from .registry import Instance, Latch, Registry, RegistryError, Split, State, check_id

log = logging.getLogger("saltern.controller")

WHO = "controller"
STATUS_EVERY_S = 1.0
STATUS_STALE_S = 5.0
SOON_S = 0.05
"""Between two looks while somebody may be waiting for servers to get where they were sent just now ..."""
JUST_NOW_S = 5.0
"""... and how long that is."""
_ROUNDS = 5
"""Plans one step may carry out: an idle server that leaves needs three, and one more to see that it is gone.
"""


# --- configuration


@dataclass(frozen=True)
class Config:
    """The controller's configuration; see ``parse_config`` for the JSON."""

    redis: Mapping[str, Any]
    """The parts ``redis_link.connect`` reads."""
    socket: str = "/run/haproxy/admin.sock"
    state_dir: str = "/var/lib/saltern/traffic"
    status_file: str = "/run/saltern/controller.json"
    socket_timeout_s: float = 1.0
    poll_s: float = 0.3
    resync_s: float = 2.0
    window_s: float = 1.0
    drain_limit_s: float = 60.0
    canary: canary.Limits = field(default_factory=canary.Limits)


_SECTIONS: Mapping[str, Mapping[str, tuple[type, float, float]]] = {
    "haproxy": {"socket": (str, 0, 0), "state_dir": (str, 0, 0), "timeout_ms": (float, 10, 60_000)},
    "controller": {"status_file": (str, 0, 0), "poll_ms": (float, 20, 60_000), "resync_s": (float, 0.1, 60)},
    "canary": {
        "settle_s": (float, 0, 3600),
        "error_limit_pct": (float, 0, 100),
        "error_window_s": (float, 1, 3600),
        "error_min_requests": (int, 1, 1_000_000),
    },
    "drain": {"limit_s": (float, 0, 86_400)},
}


def parse_config(document: Any) -> Config:
    """Make a Config of the JSON document::

        {"redis": {...}, "sentinel": {...},
         "haproxy": {"socket": "/run/haproxy/admin.sock", "state_dir": "/var/lib/saltern/traffic",
         "timeout_ms": 1000}, "controller": {"status_file": "/run/saltern/controller.json", "poll_ms": 300,
         "resync_s": 2}, "canary": {"settle_s": 10, "error_limit_pct": 5, "error_window_s": 10,
         "error_min_requests": 50}, "drain": {"limit_s": 60}}

    Everything but ``redis`` may be left out. Raises ConfigError on an unknown key or a value out of range.
    """
    if not isinstance(document, dict):
        raise ConfigError("controller: the configuration is not a JSON object")
    values: dict[str, dict[str, Any]] = {}
    for name, section in document.items():
        if name in ("redis", "sentinel"):
            continue
        if name not in _SECTIONS or not isinstance(section, dict):
            raise ConfigError(f"{name}: not a section; use redis, sentinel, {', '.join(_SECTIONS)}")
        values[name] = {key: _checked(name, key, value) for key, value in section.items()}
    haproxy, own = values.get("haproxy", {}), values.get("controller", {})
    default = Config(redis={})
    link = {name: document[name] for name in ("redis", "sentinel") if name in document}
    connect(link).close()
    return Config(
        redis=link,
        socket=haproxy.get("socket", default.socket),
        state_dir=haproxy.get("state_dir", default.state_dir),
        socket_timeout_s=haproxy.get("timeout_ms", default.socket_timeout_s * 1000) / 1000,
        status_file=own.get("status_file", default.status_file),
        poll_s=own.get("poll_ms", default.poll_s * 1000) / 1000,
        resync_s=own.get("resync_s", default.resync_s),
        drain_limit_s=values.get("drain", {}).get("limit_s", default.drain_limit_s),
        canary=canary.Limits(**values.get("canary", {})),
    )


def _checked(section: str, key: str, value: Any) -> Any:
    known = _SECTIONS[section]
    if key not in known:
        raise ConfigError(f"{section}.{key}: unknown; use {', '.join(known)}")
    kind, low, high = known[key]
    if kind is str:
        if not isinstance(value, str) or not value.startswith("/"):
            raise ConfigError(f"{section}.{key}: {value!r} is not an absolute path")
        return value
    if (
        isinstance(value, bool)
        or not isinstance(value, int if kind is int else int | float)
        or not low <= value <= high
    ):
        raise ConfigError(f"{section}.{key}: {value!r} is not a number between {low:g} and {high:g}")
    return value


# --- what is looked at


@dataclass(frozen=True)
class Look:
    """One complete look at HAProxy."""

    at: float
    """Unix seconds."""
    pid: str
    observed: reconcile.Observed
    stats: Mapping[tuple[str, str], Stat]
    """Of occupied slots, by (backend, slot)."""
    servers_text: str
    """``show servers state`` as it came: what HAProxy starts from when it is restarted."""


class Proxy:
    """HAProxy as the controller uses it."""

    def __init__(self, runtime: Runtime, map_dir: str) -> None:
        self.runtime = runtime
        self.map_dir = map_dir
        self._commands = [
            "show servers state",
            f"show acl {map_dir}/split.acl",
            *(f"show map {map_dir}/{name}.map" for name in reconcile.MAPS),
            "show stat prod 4 -1",
            "show stat canary 4 -1",
            "show info",
        ]

    def look(self, now: float) -> Look:
        """Read everything in one call. Raises HAProxyError."""
        state, split, instances, releases, prod, canary_, info = self.runtime.ask(self._commands)
        servers = {(s.backend, s.name): s for s in parse_servers(state) if s.backend in ("prod", "canary")}
        maps = {"instances": parse_map(instances), "releases": parse_map(releases)}
        # An unoccupied slot may still be serving the requests it had; all that are not in maintenance are
        # read too.
        wanted = frozenset(
            key
            for key, s in servers.items()
            if maps["instances"].get(key[1], reconcile.FREE) != reconcile.FREE or s.admin_state != "maint"
        )
        stats = {(s.backend, s.name): s for reply in (prod, canary_) for s in parse_stat(reply, wanted)}
        sessions: dict[str, int] = {}
        for (_, slot), stat in stats.items():
            sessions[slot] = sessions.get(slot, 0) + stat.sessions + stat.queued
        observed = reconcile.Observed(
            servers=MappingProxyType(servers),
            maps=MappingProxyType(maps),
            split=parse_acl(split),
            sessions=MappingProxyType({slot: n for slot, n in sessions.items() if n}),
        )
        return Look(now, parse_info(info)["Pid"], observed, MappingProxyType(stats), state + "\n")

    def change(self, commands: tuple[str, ...]) -> list[Rejected]:
        """Send a plan's commands."""
        return self.runtime.change(commands)

    def sessions(self, slots: set[str]) -> list[Session]:
        """The open requests of some slots."""
        return [s for s in parse_sessions(self.runtime.ask(["show sess"])[0]) if s.server in slots]


_COUNTERS = (
    "http_1xx",
    "http_2xx",
    "http_3xx",
    "http_4xx",
    "http_5xx",
    "connect_errors",
    "response_errors",
    "redispatches",
)


def difference(new: Look, old: Look | None) -> Mapping[str, Mapping[str, int]] | None:
    """What each slot did between two looks, by counter; None when HAProxy was restarted in between."""
    if old is None or old.pid != new.pid:
        return None
    deltas: dict[str, dict[str, int]] = {}
    for key, stat in new.stats.items():
        before = old.stats.get(key)
        mine = deltas.setdefault(key[1], dict.fromkeys(_COUNTERS, 0))
        for name in _COUNTERS:
            mine[name] += getattr(stat, name) - (getattr(before, name) if before is not None else 0)
    return deltas


def errors_of(delta: Mapping[str, int]) -> tuple[int, int]:
    """Requests and failed requests of one slot.

    A failure counts even if no client saw it: HAProxy counts it as a redispatch from this server when another
    one answered, and as a connection or response error when that was the last attempt.
    """
    answered = sum(delta[name] for name in ("http_1xx", "http_2xx", "http_3xx", "http_4xx", "http_5xx"))
    failed = delta["connect_errors"] + delta["response_errors"] + delta["redispatches"]
    return answered + failed, delta["http_5xx"] + failed


# --- what is kept on disk


def write_atomically(path: Path, text: str) -> None:
    """Replace a file so that a reader, or a crash, finds the old text or the new, never half of one."""
    partial = path.with_name(f".{path.name}.new")
    with partial.open("w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(path)


def state_to_json(state: State) -> dict[str, Any]:
    """A State as plain JSON values."""
    return {
        "revision": state.revision,
        "instances": {id_: asdict(instance) for id_, instance in state.instances.items()},
        "split": asdict(state.split),
        "latches": {name: asdict(latch) for name, latch in state.latches.items()},
        "forced": sorted(state.forced),
        "rejected": dict(state.rejected),
    }


def state_from_json(document: Mapping[str, Any]) -> State:
    """The State that ``state_to_json`` wrote. Raises KeyError or TypeError on anything else."""
    return State(
        revision=document["revision"],
        instances=MappingProxyType(
            {check_id(id_): Instance(**i) for id_, i in document["instances"].items()}
        ),
        split=Split(**document["split"]),
        latches=MappingProxyType(
            {name: _latch_from_json(latch) for name, latch in document["latches"].items()}
        ),
        forced=frozenset(document["forced"]),
        rejected=MappingProxyType(dict(document["rejected"])),
    )


def _latch_from_json(document: Mapping[str, Any]) -> Latch:
    return Latch(**{**document, "releases": tuple(document["releases"])})


@dataclass(frozen=True)
class Report:
    """Something Redis has to be told, however long it takes."""

    kind: str
    subject: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    cause: str = ""


# --- the threads


class Watcher(threading.Thread):
    """Reads the registry whenever it changes, and every ``resync_s`` whether it says so or not."""

    def __init__(self, config: Config, deliver: Callable[[State], None], wake: threading.Event) -> None:
        super().__init__(name="watcher", daemon=True)
        self.config = config
        self.deliver = deliver
        self.wake = wake
        self.stop = threading.Event()
        self.problem = "not connected yet"
        """Empty while the registry can be read."""

    def run(self) -> None:
        delay = 0.1
        while not self.stop.is_set():
            try:
                self._watch()
            except (redis.RedisError, RegistryError, OSError) as error:
                text = f"{type(error).__name__}: {error}"
                if not self.problem:
                    log.warning("the registry cannot be read, going on with what is known: %s", text)
                    delay = 0.1
                self.problem = text
                self.wake.set()
            self.stop.wait(delay)
            delay = min(delay * 2, self.config.resync_s)

    def _watch(self) -> None:
        client = connect(self.config.redis)
        pubsub = client.pubsub(ignore_subscribe_messages=True)
        try:
            registry = Registry(client)
            pubsub.subscribe("saltern:revision")
            noticed, last = False, -1
            while not self.stop.is_set():
                state = registry.snapshot()
                if self.problem:
                    log.info("the registry is read at revision %d", state.revision)
                    self.problem = ""
                missed = state.revision != last and not noticed and last != -1
                last = state.revision
                self.deliver(state)
                if missed:
                    # A change came without its notice: the subscription may hang on a machine that is gone.
                    pubsub.reset()
                    pubsub.subscribe("saltern:revision")
                noticed = self._await(pubsub)
        finally:
            pubsub.close()
            client.close()

    def _await(self, pubsub: Any) -> bool:
        """Wait for a notice, or ``resync_s``. A burst of notices is one notice."""
        deadline = time.monotonic() + self.config.resync_s
        while not self.stop.is_set():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if pubsub.get_message(timeout=min(left, 0.5)) is not None:
                while pubsub.get_message(timeout=0) is not None:
                    pass
                return True
        return False


class Reporter(threading.Thread):
    """Writes to Redis: what HAProxy sees (the newest), windows (the last minutes), reports (all)."""

    def __init__(self, config: Config, reported: Callable[[Report, int], None]) -> None:
        super().__init__(name="reporter", daemon=True)
        self.config = config
        self.reported = reported
        self.stop = threading.Event()
        self.lock = threading.Lock()
        self.news = threading.Event()
        self.observed = ""
        self.windows: deque[str] = deque(maxlen=300)
        self.reports: deque[Report] = deque()

    def publish(self, observed: str, window: str | None) -> None:
        """Hand over what is seen now, and a finished window if there is one."""
        with self.lock:
            self.observed = observed
            if window is not None:
                self.windows.append(window)
        self.news.set()

    def report(self, report: Report) -> None:
        """Hand over something that must not be lost."""
        with self.lock:
            self.reports.append(report)
        self.news.set()

    def pending(self) -> list[Report]:
        """Reports not yet written, oldest first."""
        with self.lock:
            return list(self.reports)

    def run(self) -> None:
        client = connect(self.config.redis)
        registry = Registry(client)
        problem = ""
        while not self.stop.is_set():
            self.news.wait()
            self.news.clear()
            try:
                self._write(client, registry)
                problem = ""
            except (redis.RedisError, OSError) as error:
                text = f"{type(error).__name__}: {error}"
                if text != problem:
                    log.warning("what is seen cannot be published, keeping it: %s", text)
                problem = text
                self.stop.wait(0.5)
                self.news.set()
        client.close()

    def _write(self, client: redis.Redis, registry: Registry) -> None:
        while report := next(iter(self.pending()), None):
            revision = 0
            try:
                if report.kind == "canary.off":
                    change = registry.canary_off(report.fields["reason"], cause=report.cause, by=WHO)
                    revision = change.revision
                else:
                    registry.note(report.kind, report.subject, report.fields, by=WHO, cause=report.cause)
            except RegistryError as error:
                log.error("a report is refused and dropped: %s", error)
            with self.lock:
                self.reports.popleft()
            self.reported(report, revision)
        with self.lock:
            observed, self.observed = self.observed, ""
            windows = list(self.windows)
        if not observed and not windows:
            return
        pipe = client.pipeline(transaction=False)
        if observed:
            pipe.set(OBSERVED, observed, ex=OBSERVED_TTL_S)
        for window in windows:
            pipe.xadd(WINDOWS, {"data": window}, maxlen=WINDOWS_LENGTH, approximate=True)
        pipe.execute()
        with self.lock:
            for _ in windows:
                if self.windows:
                    self.windows.popleft()


def next_look_s(poll_s: float, phases: Iterable[str], revised_s: float) -> float:
    """Seconds from one look at HAProxy to the next.

    :param poll_s: when there is nothing to wait for
    :param phases: where the servers are
    :param revised_s: since what is wanted changed
    """
    moving = revised_s < JUST_NOW_S and not {"draining", "leaving", "down"}.isdisjoint(phases)
    return min(poll_s, SOON_S) if moving else poll_s


class Controller:
    """One proxy's controller. ``run`` until ``stop``; ``status`` from any thread."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.dir = Path(config.state_dir)
        self.proxy = Proxy(Runtime(config.socket, config.socket_timeout_s), config.state_dir)
        self.wake = threading.Event()
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self.state: State | None = None
        self.floor = State()
        self.memory = canary.Memory()
        self.drains: Mapping[str, float] = {}
        self.reporter = Reporter(config, self._reported)
        self._latch_revision: int | None = None
        self._started = time.time()
        self._look: Look | None = None
        self._window_from: Look | None = None
        self._told: object = None
        self._saved: object = None
        self._status_text = ""
        self._status_at = 0.0
        self._files: dict[str, object] = {}
        self._cut: set[tuple[str, float]] = set()
        self._last_plan = reconcile.Plan()
        self._decision: canary.Decision | None = None
        self._applied_revision = 0
        self._revised = float("-inf")
        self._haproxy_problem = "not looked at yet"
        self._rejections: tuple[str, ...] = ()
        self._diverged = False
        self._orders = self.dir / "orders"
        self._taken: tuple[orders.Order, ...] = ()
        self._load()
        self.watcher = Watcher(config, self._deliver, self.wake)

    # -- from the other threads

    def _deliver(self, state: State) -> None:
        with self.lock:
            merged = reconcile.remember(self.floor, state)
            if state.revision >= self.floor.revision:
                self.floor = state
            elif (
                "canary" in self.floor.latches and "canary" not in state.latches and self.memory.latch is None
            ):
                # A registry that forgot the latch gets it back, once: forgetting is not a decision.
                self._latch(replace(self.floor.latches["canary"], by=WHO))
                self.floor = replace(self.floor, latches=MappingProxyType({}))
            changed = merged != self.state
            self.state = merged
        if changed:
            self.wake.set()

    def _reported(self, report: Report, revision: int) -> None:
        if report.kind == "canary.off":
            with self.lock:
                self._latch_revision = revision
        self.wake.set()

    # -- the loop

    def run(self) -> None:
        """Work until ``stop`` is called."""
        self.watcher.start()
        self.reporter.start()
        beat = notify.watchdog_interval_s()
        ready = False
        next_beat = 0.0
        while not self.stopping.is_set():
            started = time.monotonic()
            self.wake.clear()
            self.step()
            if not ready and not self._haproxy_problem:
                ready = notify.notify("READY=1") or True
            if beat is not None and started >= next_beat:
                notify.notify("WATCHDOG=1")
                next_beat = started + beat
            now = time.monotonic()
            pause = next_look_s(self.config.poll_s, self._last_plan.phases.values(), now - self._revised)
            self.wake.wait(max(0.0, pause - (now - started)))
        notify.notify("STOPPING=1")

    def stop(self) -> None:
        """End ``run`` after the step it is in."""
        self.stopping.set()
        self.watcher.stop.set()
        self.reporter.stop.set()
        self.wake.set()

    def step(self) -> None:
        """Look, decide, act, read back; then keep and publish what was seen."""
        with self.lock:
            state = self.state
        try:
            look = self.proxy.look(time.time())
            previous, self._look = self._look, look
            if previous is not None and previous.pid != look.pid:
                self._files.clear()
            if state is not None:
                look = self._converge(state, look, previous)
                self._look = look
            if self._haproxy_problem:
                log.info("HAProxy answers, process %s", look.pid)
            self._haproxy_problem = ""
            self._keep(look)
            self._publish(look)
        except HAProxyError as error:
            if str(error) != self._haproxy_problem:
                log.warning("%s", error)
            self._haproxy_problem = str(error)
        self._save()
        self._write_status()

    def _take_orders(self) -> None:
        """Take in what was ordered on this machine while Redis was away: it latches, and is reported later."""
        for order in orders.waiting(self._orders):
            with self.lock:
                self._latch(Latch(order.reason, order.cause, order.by, order.at))
            fields = {"who": order.by, "reason": order.reason, **order.details}
            self.reporter.report(Report("admin.write", order.what or "order", fields, order.cause))
            self._taken = (*self._taken, order)

    def _converge(self, state: State, look: Look, previous: Look | None) -> Look:
        self._take_orders()
        decision = self._decide(state, look, previous)
        self._decision = decision
        rejections: list[Rejected] = []
        done: tuple[str, ...] = ()
        self._diverged = False
        for _ in range(_ROUNDS):
            plan = reconcile.plan(
                state,
                look.observed,
                share=decision.share,
                map_dir=self.proxy.map_dir,
                now=look.at,
                drains=self.drains,
                drain_limit_s=self.config.drain_limit_s,
            )
            self.drains = plan.drains
            self._note_changes(plan)
            self._last_plan = plan
            if not plan.commands:
                break
            if plan.commands == done and not plan.cuts:
                self._diverged = True
                break
            if plan.cuts:
                self._report_cuts(plan, look)
            log.debug("%d commands, first %s", len(plan.commands), plan.commands[0])
            rejections += self.proxy.change(plan.commands)
            done = plan.commands
            look = self.proxy.look(time.time())
        texts = tuple(str(rejection) for rejection in rejections)
        if texts != self._rejections:
            for text in texts:
                log.error("%s", text)
        self._rejections = texts
        if state.revision != self._applied_revision:
            self._applied_revision = state.revision
            self._revised = time.monotonic()
        return look

    def _decide(self, state: State, look: Look, previous: Look | None) -> canary.Decision:
        with self.lock:
            if self._latch_revision is not None and state.revision >= self._latch_revision:
                self.memory = replace(self.memory, latch=None)
                self._latch_revision = None
            memory = self.memory
        deltas = difference(look, previous)
        sample = None
        if deltas is not None:
            mine = [errors_of(delta) for slot, delta in deltas.items() if slot.startswith("c")]
            sample = canary.Sample(look.at, sum(r for r, _ in mine), sum(e for _, e in mine))
        downs = {slot: stat.downs for (_, slot), stat in look.stats.items() if slot.startswith("c")}
        if previous is not None and previous.pid != look.pid:
            memory = replace(memory, downs={})
        decision = canary.decide(state, look.observed, downs, sample, memory, self.config.canary, look.at)
        with self.lock:
            self.memory = decision.memory
            if decision.broke:
                self._latch(Latch(reason=decision.broke, by=WHO, since=look.at))
        old = self._decision
        if old is None or (old.share, old.reason) != (decision.share, decision.reason):
            log.info("the canary gets %d %%: %s", decision.share, decision.reason)
        return decision

    def _latch(self, latch: Latch) -> None:
        """Turn the canary off here at once, and in the registry as soon as it answers. Holds the lock."""
        self.memory = replace(self.memory, latch=latch)
        self.reporter.report(Report("canary.off", "canary", {"reason": latch.reason}, latch.cause))

    def _note_changes(self, plan: reconcile.Plan) -> None:
        for id_, reason in plan.kept.items():
            if id_ not in self._last_plan.kept:
                log.warning("%s is kept: %s", id_, reason)
        for id_ in set(plan.unplaced) - set(self._last_plan.unplaced):
            log.error(
                "%s has no slot: every slot of its pool is taken; raise traffic.slots in the pillar", id_
            )

    def _report_cuts(self, plan: reconcile.Plan, look: Look) -> None:
        slots = {cut.slot for cut in plan.cuts}
        sessions = self.proxy.sessions(slots)
        for cut in plan.cuts:
            key = (cut.slot, plan.drains.get(cut.slot, 0.0))
            if key in self._cut:
                continue
            self._cut.add(key)
            who = [{"source": s.source, "age_s": s.age_s} for s in sessions if s.server == cut.slot]
            log.warning("%s: %d requests open after the drain's limit are cut", cut.instance, cut.sessions)
            took = round(look.at - plan.drains.get(cut.slot, look.at), 1)
            fields = {"sessions": cut.sessions, "after_s": took, "requests": who[:50]}
            self.reporter.report(Report("drain.cut", cut.instance, fields))
        self._cut = {key for key in self._cut if key[0] in self.drains}

    # -- what is kept and told

    def _keep(self, look: Look) -> None:
        """Keep on disk what HAProxy needs to start without anybody's help."""
        servers = tuple(
            sorted((*key, s.addr, s.port, s.op, s.admin) for key, s in look.observed.servers.items())
        )
        self._keep_file("servers.state", servers, lambda: look.servers_text)
        split = look.observed.split
        self._keep_file("split.acl", split, lambda: "".join(f"{entry}\n" for entry in sorted(split)))
        for name, entries in look.observed.maps.items():
            self._keep_file(
                f"{name}.map",
                dict(entries),
                lambda e=entries: "".join(f"{k} {v}\n" for k, v in sorted(e.items())),
            )

    def _keep_file(self, name: str, value: object, text: Callable[[], str]) -> None:
        if self._files.get(name) != value:
            write_atomically(self.dir / name, text())
            self._files[name] = value

    def _save(self) -> None:
        """Keep on disk what the next controller has to know; an order's own file goes only after that."""
        self._save_state()
        orders.done(self._orders, self._taken)
        self._taken = ()

    def _save_state(self) -> None:
        with self.lock:
            floor, since, latch = self.floor, self.memory.healthy_since, self.memory.latch
        reports = self.reporter.pending()
        values = (floor, since, latch, dict(self.drains), reports)
        if values == self._saved:
            return
        document = {
            "state": state_to_json(floor),
            "healthy_since": since,
            "latch": asdict(latch) if latch else None,
            "drains": dict(self.drains),
            "reports": [asdict(report) for report in reports],
        }
        write_atomically(self.dir / "controller.json", json.dumps(document, sort_keys=True, indent=1))
        self._saved = values

    def _load(self) -> None:
        path = self.dir / "controller.json"
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            self.floor = state_from_json(document["state"])
            latch = document["latch"]
            self.memory = canary.Memory(
                healthy_since=document["healthy_since"],
                latch=_latch_from_json(latch) if latch else None,
            )
            self.drains = document["drains"]
            for report in document["reports"]:
                self.reporter.report(Report(**report))
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError) as error:
            log.error("%s cannot be read and is ignored: %s", path, error)
            return
        if self.floor.revision:
            self.state = self.floor

    def _publish(self, look: Look) -> None:
        """Tell what is seen: at once when a state changed, with a finished window otherwise."""
        seen = self._observed(look)
        servers = {id_: (s["up"], s["admin"], s["phase"]) for id_, s in seen["servers"].items()}
        told = (servers, seen["share"], seen["share_reason"], seen["kept"], seen["unplaced"])
        first = self._window_from
        window = None
        if first is None or first.pid != look.pid:
            self._window_from = look
        elif look.at - first.at >= self.config.window_s:
            window = json.dumps(self._window(look, first))
            self._window_from = look
        if window is not None or told != self._told:
            self._told = told
            self.reporter.publish(json.dumps(seen), window)

    def _names(self, look: Look) -> Mapping[str, str]:
        return {s: id_ for s, id_ in look.observed.maps["instances"].items() if id_ != reconcile.FREE}

    def _observed(self, look: Look) -> dict[str, Any]:
        servers: dict[str, Any] = {}
        for slot, id_ in self._names(look).items():
            pool = "canary" if slot.startswith("c") else "prod"
            server = look.observed.servers.get((pool, slot))
            stat = look.stats.get((pool, slot))
            if server is None or stat is None:
                continue
            servers[id_] = {
                "slot": slot,
                "pool": pool,
                "release": look.observed.maps["releases"].get(slot, ""),
                "addr": server.addr,
                "port": server.port,
                "up": server.up,
                "admin": server.admin_state,
                "phase": self._last_plan.phases.get(id_, "leaving"),
                "check": stat.check,
                "sessions": look.observed.sessions.get(slot, 0),
                "response_ms": stat.response_ms,
                "since_s": stat.last_change_s,
            }
        decision = self._decision
        return {
            "ts": look.at,
            "revision": self._applied_revision,
            "share": decision.share if decision else 0,
            "share_reason": decision.reason if decision else "the registry was never read",
            "servers": servers,
            "kept": dict(self._last_plan.kept),
            "unplaced": list(self._last_plan.unplaced),
        }

    def _window(self, look: Look, first: Look) -> dict[str, Any]:
        deltas = difference(look, first) or {}
        seconds = look.at - first.at
        servers: dict[str, Any] = {}
        pools = {
            pool: {"requests": 0, "errors": 0, "http_5xx": 0, "redispatches": 0, "sessions": 0}
            for pool in ("prod", "canary")
        }
        timed: dict[str, list[tuple[int, int]]] = {"prod": [], "canary": []}
        for slot, id_ in self._names(look).items():
            delta = deltas.get(slot)
            pool = "canary" if slot.startswith("c") else "prod"
            stat = look.stats.get((pool, slot))
            if delta is None or stat is None:
                continue
            requests, errors = errors_of(delta)
            row = {
                "requests": requests,
                "errors": errors,
                "http_5xx": delta["http_5xx"],
                "redispatches": delta["redispatches"],
                "sessions": look.observed.sessions.get(slot, 0),
            }
            for name, value in row.items():
                pools[pool][name] += value
            if requests:
                timed[pool].append((requests, stat.response_ms))
            release = look.observed.maps["releases"].get(slot, "")
            servers[id_] = {"pool": pool, "release": release, **row, "response_ms": stat.response_ms}
        told: dict[str, Any] = {}
        for pool, row in pools.items():
            weight = sum(n for n, _ in timed[pool])
            mean = round(sum(n * ms for n, ms in timed[pool]) / weight, 2) if weight else None
            told[pool] = {**row, "response_ms": mean}
        decision = self._decision
        return {
            "ts": round(look.at, 3),
            "seconds": round(seconds, 3),
            "share": decision.share if decision else 0,
            "pools": told,
            "servers": servers,
        }

    def status(self) -> dict[str, Any]:
        """How the controller is, for the admin API's /health: ``ok`` is true while HAProxy equals the
        registry.
        """
        with self.lock:
            state, registry = self.state, self.watcher.problem
        haproxy = self._haproxy_problem
        decision = self._decision
        problems = [text for text in (haproxy, *self._rejections) if text]
        if self._diverged:
            problems.append("HAProxy did not take on the wanted state; trying again")
        problems += [f"{id_} has no free slot" for id_ in self._last_plan.unplaced]
        return {
            "ts": time.time(),
            "started": self._started,
            "ok": not problems and not registry and state is not None,
            "registry": {"ok": not registry, "problem": registry, "revision": state.revision if state else 0},
            "haproxy": {"ok": not haproxy, "problem": haproxy, "revision": self._applied_revision},
            "share": decision.share if decision else None,
            "share_reason": decision.reason if decision else "",
            "kept": dict(self._last_plan.kept),
            "problems": problems,
            "reports_waiting": len(self.reporter.pending()),
        }

    def _write_status(self) -> None:
        """Write the status file when something changed, and every second to show that somebody is there."""
        status = self.status()
        text = json.dumps({**status, "ts": 0})
        if text == self._status_text and 0 <= status["ts"] - self._status_at < STATUS_EVERY_S:
            return
        path = Path(self.config.status_file)
        partial = path.with_name(f".{path.name}.new")
        partial.write_text(json.dumps(status))
        partial.replace(path)
        self._status_text, self._status_at = text, status["ts"]


def read_status(path: str | Path) -> dict[str, Any]:
    """The status a controller on this machine last wrote; ``ok`` is false when it is missing or stale.

    For the admin API's /health, which runs in a process of its own.
    """
    try:
        status = json.loads(Path(path).read_text(encoding="utf-8"))
        age = time.time() - status["ts"]
    except FileNotFoundError:
        return {"ok": False, "problems": [f"{path} does not exist; is saltern-controller running?"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        return {"ok": False, "problems": [f"{path} cannot be read: {error}"]}
    if age > STATUS_STALE_S:
        stale = f"the controller last wrote its status {age:.0f} s ago; is saltern-controller running?"
        return {**status, "ok": False, "problems": [stale, *status.get("problems", [])]}
    return status


def main(arguments: list[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT. Exit status 2 when the configuration is unusable."""

    def begin(values: Mapping[str, Any]) -> Callable[[], None]:
        config = parse_config(values)
        for directory in (Path(config.state_dir), Path(config.status_file).parent):
            if not directory.is_dir():
                raise ConfigError(
                    f"controller: {directory} is not a directory; make it, writable for the controller"
                )
        controller = Controller(config)
        daemon.on_stop(controller.stop)
        return controller.run

    about = "Keeps HAProxy equal to the registry."
    return daemon.start("saltern.controller", about, begin, arguments, details="every batch of commands")


if __name__ == "__main__":
    sys.exit(main())
