"""The quick reflexes, straight from the event bus: what the engine `reflex` runs beside the reactor.

The stock reactor takes some 25 ms for a reaction and manages about 34 a second, so in a storm what matters would wait
for what does not. Here the canary goes off first, whatever else is said; of the alerts only the newest that a machine
says about one of its resources is written, so a storm is as large as the fleet. Nothing is lost by that: an alert is a
state, not a count. The reactor turns the canary off too (`reactor/canary_off.sls`), whichever is first: an event counts
once for both. Of several masters each has these reflexes, for the same reason, and none waits for a leader.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import redis

from saltern import events, reflexes, rejections
from saltern.errors import SalternError
from saltern.events import Event, Rejected, Repeated
from saltern.fleet import Fleet
from saltern.members import await_redis
from saltern.reflexes import Pressure
from saltern.registry import RegistryError

log = logging.getLogger("saltern.reacting")

TAG = re.compile(r"salt/beacon/[^/]+/(cpu|memory)/(high|ok|blind)\Z")
LISTEN_SECONDS = 0.2
GATHER_SECONDS = 0.1
"""Quiet before alerts are written: HAProxy has been told of the canary by then, and a storm has been heard."""
STORM_SECONDS = 1.0
"""But not longer than this."""
AGAIN_SECONDS = 1.0
"""Until what could not be written is tried again."""
MOST_REJECTED = 100
"""Senders whose rejected events are kept until they can be reported: forged ids are many."""
CANARY_ROLES = ("staging", "proxy")
"""Whose pressure may turn the canary off (the pillar's `alerts:canary_off` says whose does)."""
NICE = -10
"""This process before all others of the master: in a storm they all want the processor."""
SWITCH_SECONDS = 0.0005
"""How long one thread may keep the others waiting: Python's own 5 ms would be a fifth of the time there is."""


@dataclass(frozen=True)
class Said:
    """A proven event and its meaning.

    :ivar tried: whether writing it was begun before, so that it may have counted
    :ivar direct: whether Alertmanager was told itself, for want of Redis
    """

    event: Event
    pressure: Pressure
    tried: bool = False
    direct: bool = False

    @property
    def key(self) -> tuple[str, str, bool]:
        """What only the newest is kept of: being blind neither begins nor ends a pressure."""
        return self.pressure.machine, self.pressure.resource, self.pressure.edge == "blind"


class Reflexes:
    """One fleet's quick reflexes. `hear` from any thread; `run`, or `step` over and over, in one.

    :param hook: called with what is about to be done; tests break off there
    """

    def __init__(self, fleet: Fleet, hook: Callable[[str], None] = lambda point: None) -> None:
        self.fleet = fleet
        self.hook = hook
        self._secret = reflexes.means(fleet).secret
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._call = threading.Event()
        self._heard_at = 0.0
        self._stopping = False
        self._urgent: dict[tuple[str, str, bool], Said] = {}
        self._edges: dict[tuple[str, str, bool], Said] = {}
        self._rejected: dict[str, tuple[str, object, str]] = {}
        self._resume = 0.0
        self._quiet: dict[str, float] = {}
        self._done: dict[tuple[str, str, bool], str] = {}
        self._problem = ""

    # -- from the bus

    def hear(self, tag: str, data: Mapping[str, Any]) -> bool:
        """Take an event from the bus; whether it is a pressure that is believed. Never waits."""
        if not TAG.match(tag):
            return False
        sender = data.get("id")
        try:
            event = events.authenticate(self._secret, tag, sender, data, time.time_ns())
            pressure = reflexes.understand(event)
        except Rejected as rejected:
            self._reject(tag, sender, str(rejected))
            return False
        said = Said(event, pressure)
        self._keep(self._edges, said)
        self._heard_at = time.monotonic()
        self._wake.set()
        if pressure.edge == "high" and pressure.role in CANARY_ROLES:
            self._keep(self._urgent, said)
            self._call.set()
        return True

    def _keep(self, kept: dict[tuple[str, str, bool], Said], said: Said) -> None:
        """Keep what is said, unless something newer is kept already."""
        with self._lock:
            other = kept.get(said.key)
            if other is None or other.event.counter < said.event.counter:
                kept[said.key] = said

    def _reject(self, tag: str, sender: object, why: str) -> None:
        with self._lock:
            name = rejections.printable(sender, 20)
            if name in self._rejected or len(self._rejected) < MOST_REJECTED:
                self._rejected[name] = (tag, sender, why)
        self._wake.set()

    # -- the loop

    def run(self) -> None:
        """Work until `stop`."""
        while not self._stopping:
            self.step(LISTEN_SECONDS)

    def stop(self) -> None:
        """End `run` soon."""
        self._stopping = True
        self._wake.set()
        self._call.set()

    def step(self, seconds: float) -> None:
        """One round: wait up to so long for news, then do all there is to do, the canary first."""
        if not self._wake.wait(seconds) and not self._edges and not self._rejected:
            return
        self._wake.clear()
        self._turn_off()
        end = time.monotonic() + STORM_SECONDS
        while not self._stopping and time.monotonic() < end:
            if self._call.wait(GATHER_SECONDS):
                self._turn_off()
            elif time.monotonic() - self._heard_at >= GATHER_SECONDS:
                break
        self._tell()

    def _turn_off(self) -> None:
        """Turn the canary off for whatever is reason enough."""
        self._call.clear()
        with self._lock:
            urgent = list(self._urgent.values())
            self._urgent.clear()
        for said in urgent:
            try:
                has = reflexes.means(self.fleet)
                if reason := reflexes.canary_reason(said.pressure, has.settings["canary_off"]):
                    self.hook("canary_off")
                    answer = reflexes.turn_off(has, said.event, said.pressure, reason)
                    if answer.get("changed", True):
                        self._done[said.key] = reflexes.done_words(reason)
            except Repeated:
                continue  # the reactor was quicker
            except Rejected as rejected:
                self._reject(said.event.tag, said.event.machine, str(rejected))
            except (redis.RedisError, RegistryError, SalternError) as error:
                # The machine says so again for as long as it lasts, and the reactor tries as well.
                log.error("the canary is not off: %s", error)

    def _tell(self) -> None:
        """Write all alerts that are due; before each, look whether the canary has to go off."""
        now = time.monotonic()
        if now < self._resume:
            return
        with self._lock:
            rejected = dict(self._rejected)
            due = [
                said for said in self._edges.values() if self._quiet.get(said.pressure.machine, 0.0) <= now
            ]
            self._rejected.clear()
            for said in due:
                del self._edges[said.key]
        due.sort(key=lambda said: said.event.counter)
        try:
            has = reflexes.means(self.fleet)
            options = has.settings
            for sender in list(rejected):
                rejections.report(has.client, *rejected[sender], options["rejected_s"])
                del rejected[sender]
            while due:
                self._turn_off()
                said, due[0] = due[0], replace(due[0], tried=True)
                self._tell_one(has, options, said)
                due.pop(0)
            self._problem = ""
        except (redis.RedisError, SalternError) as error:
            with self._lock:
                self._rejected = {**rejected, **self._rejected}
            self._put_off(due, str(error))

    def _tell_one(self, has: reflexes.Means, options: Mapping[str, Any], said: Said) -> None:
        """Write one alert, unless its machine says too much: then it waits, and only the newest is written.

        :raises redis.RedisError: Redis does not answer
        """
        try:
            events.within(has.client, said.event, reflexes.rate(options))
        except Rejected as rejected:
            self._reject(said.event.tag, said.event.machine, str(rejected))
            self._quiet[said.pressure.machine] = time.monotonic() + 60 / options["rate"]["per_minute"]
            self._keep(self._edges, said)
            return
        try:
            events.once(has.client, said.event, reflexes.ALERT, several=bool(self.fleet.peers))
        except Repeated:
            if not said.tried:
                return
        except Rejected as rejected:
            self._reject(said.event.tag, said.event.machine, str(rejected))
            return
        self.hook("alert")
        reflexes.tell(has, said.event, said.pressure, options["keep_s"])

    def _put_off(self, due: list[Said], error: str) -> None:
        """Redis is away: tell Alertmanager itself what is new, and write all of it when Redis is back."""
        reflexes.let_go(self.fleet)
        self._resume = time.monotonic() + AGAIN_SECONDS
        fresh = [
            said for said in due
            if not said.direct and time.time_ns() - said.event.counter <= events.FRESH_NS
        ]  # fmt: skip
        try:
            if fresh:
                reflexes.tell_alertmanager(
                    self.fleet, [(said.pressure, self._done.get(said.key, "")) for said in fresh]
                )
            told = True
        except SalternError as second:
            error, told = f"{error}; {second}", False
        for said in due:
            self._keep(self._edges, replace(said, direct=said.direct or (told and said in fresh)))
        if error != self._problem:
            log.error("alerts wait for Redis: %s", error)
        self._problem = error


def react(state_dir: str, *, listen: Callable[[float], Mapping[str, Any] | None]) -> None:
    """Run the quick reflexes of the fleet kept in `state_dir`, until the master that started this is gone.

    :param listen: waits up to so many seconds for an event: tag and data, or None
    :raises Exception: whatever could not be dealt with; the master starts the engine again
    """
    fleet = Fleet.load(state_dir)
    master = os.getppid()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        os.nice(NICE)
    except PermissionError:
        log.info("this master may not raise a priority; in a storm the reflexes take their turn")
    # An engine that outlived its master must end first.
    with fleet.locked("reflex"):
        if not await_redis(fleet, lambda: os.getppid() == master):
            return
        quick = Reflexes(fleet)
        failed: list[BaseException] = []

        def run() -> None:
            try:
                quick.run()
            except BaseException as error:  # noqa: BLE001 - raised again below, in the engine's own thread
                failed.append(error)

        thread = threading.Thread(target=run, name="reflex", daemon=True)
        thread.start()
        try:
            while thread.is_alive() and os.getppid() == master:
                if event := listen(LISTEN_SECONDS):
                    quick.hear(event["tag"], event["data"])
        finally:
            quick.stop()
        if failed:
            raise failed[0]
