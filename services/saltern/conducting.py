"""Running a fleet's conductor in the master: what the engine `conductor` calls."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, TypeVar

import redis

from saltern import delivery, pillar, secrets
from saltern.alert_store import Alert, AlertStore
from saltern.conductor import Conductor, Settings
from saltern.errors import SalternError
from saltern.fleet import Fleet
from saltern.hands import FleetHands
from saltern.jobs import Jobs, Publish
from saltern.leading import Keeper, Lease
from saltern.members import await_redis, link
from saltern.provisioning import KINDS, Alarm, SaltCloud
from saltern.rolling import Roller
from saltern.rollouts import Settings as RollSettings
from saltern.samples import Recorder
from saltern.stepping import Settings as StepSettings
from saltern.stepping import Stepper

log = logging.getLogger("saltern.conducting")

LISTEN_SECONDS = 0.2


T = TypeVar("T")


class PillarSettings(Generic[T]):
    """What is read of a fleet's pillar, again when a file changes; a pillar that became wrong changes nothing."""

    def __init__(self, folder: Path, read: Callable[[Mapping[str, Any]], T]) -> None:
        self._folder = folder
        self._read = read
        self._stamp: object = None
        self._settings: T | None = None

    def __call__(self) -> T:
        """:raises SalternError: the pillar was never right"""
        stamp = sorted((p.name, p.stat().st_mtime_ns) for p in self._folder.glob("*.sls"))
        if stamp != self._stamp or self._settings is None:
            try:
                self._settings = self._read(pillar.load(self._folder))
            except SalternError as error:
                if self._settings is None:
                    raise
                log.error("the settings stay as they were: %s", error)
            self._stamp = stamp
        return self._settings


def keep(store: AlertStore, about: Alarm) -> None:
    """Make an alarm an alert; one that Redis cannot take is in the master's log and on the bus alone."""
    try:
        if not about.firing:
            store.end(about.name, about.subject, cause=about.cause)
            return
        if about.done or about.undo:
            store.did(about.name, about.subject, about.done, about.undo)
        # Alarms of one kind are one mail: what breaks one machine's making mostly breaks the next one's.
        alert = Alert(about.name, about.subject, about.name, about.severity, about.summary)
        store.fire(alert, cause=about.cause, expires_s=about.expires_s)
    except redis.RedisError as error:
        log.error("%s of %s: not kept, so not mailed: %s", about.name, about.subject, error)


def conduct(
    state_dir: str,
    *,
    listen: Callable[[float], Mapping[str, Any] | None],
    fire: Callable[[str, dict[str, Any]], object],
    publish: Publish,
) -> None:
    """Run the conductor and the canary's steps of the fleet kept in `state_dir`, until the master that started this is
    gone. While another of the fleet's masters leads, this one only hears.

    Alarms are alerts, kept in Redis and mailed from there; they are also put on the bus as ``saltern/alert/firing`` and
    ``resolved``, with the fields of `provisioning.Alarm`.

    :param listen: waits up to so many seconds for an event: tag and data, or None
    :param fire: puts an event on the bus; called from this thread alone
    :param publish: sends a job to minions, called from any thread; what they answer is an event
    :raises leading.Lost: another leads by now; the engine starts again, and hears
    :raises Exception: whatever a worker could not deal with; the master starts the engine again
    """
    fleet = Fleet.load(state_dir)
    master = os.getppid()
    if not await_redis(fleet, lambda: os.getppid() == master):
        return
    client = link(fleet)
    said: queue.SimpleQueue[tuple[str, dict[str, Any]]] = queue.SimpleQueue()

    def say(tag: str, data: Mapping[str, Any]) -> None:
        said.put((tag, dict(data)))

    def alarm(about: Alarm) -> None:
        log.warning("%s: %s", about.name, about.summary)
        keep(AlertStore(client), about)
        say(f"saltern/alert/{'firing' if about.firing else 'resolved'}", asdict(about))

    # An engine that outlived its master must end first: two would both believe to be the only one.
    with fleet.locked("conductor"):
        kept = secrets.load(fleet)["events"]
        jobs = Jobs(publish)
        lease = Lease(client, fleet.gateway)
        keeper = Keeper(lease)
        roller = Roller(
            FleetHands(fleet, jobs),
            PillarSettings(fleet.pillar_dir, lambda pillar: RollSettings.from_pillar(pillar["rollout"])),
        )
        conductor = Conductor(
            client, SaltCloud(fleet), kept,
            PillarSettings(fleet.pillar_dir, lambda pillar: Settings.from_pillar(pillar["scaling"])),
            fire=say, alarm=alarm, kinds={**KINDS, **roller.kinds(), **delivery.kinds(fleet)},
            leads=lease.leads, fence=lease.fence,
        )  # fmt: skip
        recorder = Recorder(client, kept)
        stepper = Stepper(
            client, PillarSettings(fleet.pillar_dir, StepSettings.from_pillar), fire=say, alarm=alarm,
            recorder=recorder,
        )  # fmt: skip
        failed: list[BaseException] = []

        def run(work: Callable[[], None]) -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - raised again below, in the engine's own thread
                failed.append(error)

        listeners = (recorder.hear, jobs.hear, conductor.hear)
        workers = (("conductor", conductor.run), ("steps", stepper.run))
        threads = [
            threading.Thread(target=run, args=(work,), name=name, daemon=True) for name, work in workers
        ]
        keeper.start()
        try:
            # What machines feel is kept meanwhile, the newest of each: a new leader knows it at once.
            while not lease.leads() and keeper.alive() and os.getppid() == master:
                if event := listen(LISTEN_SECONDS):
                    conductor.hear(event["tag"], event["data"])
            if lease.leads():
                for thread in threads:
                    thread.start()
            while all(t.is_alive() for t in threads) and keeper.alive() and os.getppid() == master:
                event = listen(LISTEN_SECONDS)
                if event:
                    # The first that it is for takes it.
                    any(hear(event["tag"], event["data"]) for hear in listeners)
                while not said.empty():
                    fire(*said.get())
        finally:
            conductor.stop()
            stepper.stop()
            keeper.stop()
        if keeper.lost:
            failed.append(keeper.lost)
        if failed:
            raise failed[0]
