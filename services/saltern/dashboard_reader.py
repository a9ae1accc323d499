"""One reader for all viewers: it looks at Redis a few times a second, makes the picture, and hands out what changed.

Nothing is written anywhere. What cannot be read keeps its last known value, and the picture says so.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import redis
from openfeature_redis import flagset

from saltern import dashboard_builds, flag_edits, intents, journal, samples, steps, windows
from saltern.alert_store import AlertStore
from saltern.alertmanager import Alertmanager
from saltern.dashboard_builds import Builds
from saltern.dashboard_view import (
    SECONDS_SHOWN,
    Usage,
    World,
    diff,
    document,
    intents_named,
    natural,
    short,
)
from saltern.errors import SalternError
from saltern.intents import INTENT, QUEUE, Intent, IntentError
from saltern.judge import JudgeError, Thresholds, Verdict, Window, judge
from saltern.observed import OBSERVED, OBSERVED_TTL_S, WINDOWS
from saltern.registry import FELT, JOURNAL, REVISION, STEPS, Registry, RegistryError
from saltern.samples import SAMPLES, Batch

log = logging.getLogger("saltern.dashboard")

LOOK_S = 0.25
"""Between two looks: with the time a look takes, how long the page may be behind the world."""
RESYNC_S = 2.0
"""What is read only when its revision changes is read again after this all the same."""
SLOW_S = 1.0
"""Between two looks at what is costlier to ask and matters less by the second: alerts, Redis' own links."""
JUDGE_S = 5.0
LINES_KEPT = 300
EVENTS_KEPT = 64
MOST_AT_ONCE = 200
"""Entries of a stream that are read at one look."""
_ENDED_SHOWN = 20


class Hub:
    """The picture as it is now, and its last changes, for any number of viewers."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._events: deque[tuple[int, bytes]] = deque(maxlen=EVENTS_KEPT)
        self._document: dict[str, Any] = {}
        self._boot = f"{time.time_ns():x}"
        self.number = 0
        self.closed = False
        self.viewers = 0

    @property
    def document(self) -> dict[str, Any]:
        """The picture; nobody may change it."""
        with self._changed:
            return self._document

    def publish(self, picture: dict[str, Any]) -> bool:
        """Take the picture as it is now; whether anything changed."""
        patch = diff(self._document, picture)
        if not patch:
            return False
        with self._changed:
            self._document = picture
            self.number += 1
            self._events.append((self.number, self._event("patch", patch)))
            self._changed.notify_all()
        return True

    def state(self) -> tuple[int, bytes]:
        """The whole picture as an event, and its number."""
        with self._changed:
            return self.number, self._event("state", self._document)

    def after(self, number: int, wait_s: float) -> tuple[int, bytes]:
        """What came after an event: patches, the whole picture if those are forgotten, or nothing within `wait_s`."""
        with self._changed:
            self._changed.wait_for(lambda: self.number > number or self.closed, wait_s)
            if self.number == number:
                return number, b""
            missed = [event for at, event in self._events if at > number]
            if len(missed) == self.number - number:
                return self.number, b"".join(missed)
            return self.number, self._event("state", self._document)

    def close(self) -> None:
        """Let every viewer go."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def _event(self, kind: str, data: Mapping[str, Any]) -> bytes:
        text = json.dumps(data, separators=(",", ":"))
        return f"id: {self._boot}.{self.number}\nevent: {kind}\ndata: {text}\n\n".encode()


class Reader:
    """Reads the world.

    :param version: of the page's files
    :param itself: the machine this runs on
    :param hosts: machines that serve no product: id → address
    :param judge_s: seconds of traffic that are judged
    :param alertmanager: who is asked for silences; None is nobody
    :param builds: who is asked for builds; None is nobody
    """

    def __init__(
        self,
        client: redis.Redis,
        *,
        fleet: str = "",
        version: str = "",
        itself: str = "",
        hosts: Mapping[str, str] | None = None,
        thresholds: Thresholds | None = None,
        shares: tuple[int, ...] = (),
        judge_s: float = 300.0,
        alertmanager: Alertmanager | None = None,
        builds: Builds | None = None,
    ) -> None:
        self.client, self.registry, self.alerts = client, Registry(client), AlertStore(client)
        self.thresholds, self.judge_s = thresholds or Thresholds(), judge_s
        self.alertmanager, self.builds = alertmanager, builds
        self.world = World(
            0.0, fleet=fleet, version=version, hosts=dict(hosts or {}), itself=itself, shares=shares
        )
        self._seconds: deque[windows.Second] = deque(maxlen=max(SECONDS_SHOWN, int(judge_s)))
        self._batches: deque[Batch] = deque()
        self._lines: deque[journal.Line] = deque(maxlen=LINES_KEPT)
        self._after = {WINDOWS: "", SAMPLES: "", JOURNAL: ""}
        self._texts: dict[str, str | None] = {}
        self._seen_at = float("-inf")
        self._read_at = self._slow_at = self._judged_at = float("-inf")
        self._problems: dict[str, str] = {}
        self._silences: tuple[Mapping[str, Any], ...] = ()
        self._silence_problem = ""
        self._builds: Mapping[str, Mapping[str, Any]] = {}
        self._build_problem = ""

    @property
    def well(self) -> bool:
        """Whether Redis answered at the last look, and there was one."""
        return self.world.at > 0 and "redis" not in self._problems

    def look(self) -> World:
        """The world now. What cannot be read stays as it was, and is a problem."""
        try:
            self._look()
            self._problems.pop("redis", None)
        except redis.RedisError as error:
            self._trouble("redis", f"Redis does not answer, so this is how it was: {error}")
            # Its clock cannot be asked; ours goes on from there.
            self.world = replace(self.world, at=time.time(), links={})
        if time.monotonic() - self._seen_at > OBSERVED_TTL_S:
            self.world = replace(self.world, seen=None)
        if time.monotonic() - self._judged_at >= JUDGE_S:
            self._judged_at = time.monotonic()
            self.world = replace(self.world, judged=self._judge())
        problems = [*self._problems.values(), *filter(None, (self._silence_problem, self._build_problem))]
        self.world = replace(
            self.world, seconds=tuple(self._seconds), lines=tuple(self._lines), problems=tuple(problems),
            silences=self._silences, builds=self._builds,
        )  # fmt: skip
        return self.world

    def _look(self) -> None:
        pipe = self.client.pipeline(transaction=False)
        pipe.time()
        pipe.mget([REVISION, OBSERVED, flagset.NAMES.document])
        pipe.hgetall(FELT)
        pipe.hget(STEPS, "state")
        pipe.xrange(QUEUE, count=MOST_AT_ONCE)
        for stream in (WINDOWS, SAMPLES, JOURNAL):
            if after := self._after[stream]:
                pipe.xrange(stream, min=f"({after}", count=MOST_AT_ONCE)
            else:
                pipe.xrevrange(stream, count=self._first(stream))
        (now, micros), (revision, seen, flags), felt, state, queued, *streams = pipe.execute()
        found: dict[str, Any] = {"at": now + micros / 1e6}
        for stream, entries in zip((WINDOWS, SAMPLES, JOURNAL), streams, strict=True):
            self._take(stream, entries if self._after[stream] else entries[::-1])
        if seen is not None:
            self._seen_at = time.monotonic()
        if self._new("observed", seen):
            found["seen"] = self._parsed("observed", seen, _observed)
        if self._new("flags", flags):
            found["flags"] = self._parsed("flags", flags, _flags) or {}
        if self._new("steps", state):
            found["steps"] = self._parsed("steps", state, steps.State.from_json) or steps.State()
        for name in [each for each in self._problems if each.startswith("felt ")]:
            if name.removeprefix("felt ") not in felt:
                del self._problems[name]
        found["felt"] = {
            key: each for key, text in felt.items() if (each := self._parsed(f"felt {key}", text, _felt))
        }
        found["usage"] = self._usage()
        late = time.monotonic() - self._read_at >= RESYNC_S
        if self._new("revision", revision) or late:
            self._read_at = time.monotonic()
            try:
                found["state"] = self.registry.snapshot()
                self._problems.pop("registry", None)
            except RegistryError as error:
                self._trouble("registry", str(error))
        found["intents"] = self._intents([id_ for id_, _ in queued], found["at"])
        if time.monotonic() - self._slow_at >= SLOW_S:
            self._slow_at = time.monotonic()
            found["alerts"] = tuple(self.alerts.all())
            found["links"] = self._links()
        self.world = replace(self.world, **found)

    def _first(self, stream: str) -> int:
        """How much of the past is read at the first look."""
        if stream == WINDOWS:
            return self._seconds.maxlen or SECONDS_SHOWN
        return LINES_KEPT if stream == JOURNAL else MOST_AT_ONCE

    def _take(self, stream: str, entries: list[tuple[str, dict[str, str]]]) -> None:
        for id_, fields in entries:
            self._after[stream] = id_
            if stream == JOURNAL:
                self._lines.append(journal.parse(id_, fields))
            elif stream == WINDOWS:
                try:
                    self._seconds.append(windows.parse(id_, fields))
                    self._problems.pop("windows", None)
                except JudgeError as error:
                    self._trouble("windows", str(error))
            elif (batch := samples.parse(id_, fields)) is not None:
                self._batches.append(batch)
        newest = self._batches[-1].ended if self._batches else 0.0
        while self._batches and self._batches[0].ended < newest - self.judge_s - 60:
            self._batches.popleft()

    def _new(self, name: str, text: str | None) -> bool:
        """Whether a text is another one than at the last look."""
        if name in self._texts and self._texts[name] == text:
            return False
        self._texts[name] = text
        return True

    def _parsed(self, name: str, text: str | None, parse: Callable[[str], Any]) -> Any:
        """What a text says; None, and a problem, when it says nothing that can be read."""
        try:
            found = None if text is None else parse(text)
            self._problems.pop(name, None)
            return found
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._trouble(name, f"{name}: what Redis holds cannot be read ({short(error, 120)})")
            return None

    def _usage(self) -> dict[str, Usage]:
        return {b.machine: Usage(b.ended, b.cpu[-1], b.memory[-1]) for b in self._batches}

    def _intents(self, queued: list[str], now: float) -> tuple[Intent, ...]:
        ended = intents_named(self._lines, now)[-_ENDED_SHOWN:]
        ids = list(dict.fromkeys([*queued, *ended]))
        if not ids:
            return ()
        pipe = self.client.pipeline(transaction=False)
        for id_ in ids:
            pipe.hgetall(INTENT + id_)
        found = []
        for id_, stored in zip(ids, pipe.execute(), strict=True):
            if not stored:
                continue
            try:
                found.append(intents.parse(id_, stored))
                self._problems.pop("intents", None)
            except IntentError as error:
                self._trouble("intents", str(error))
        return tuple(found)

    def _links(self) -> dict[str, str]:
        """The Redis machines that are in touch, as the primary itself tells."""
        info = self.client.info("replication")
        replicas = [
            each for name, each in info.items() if name.startswith("slave") and isinstance(each, dict)
        ]
        lag = {
            str(each["ip"]): f"replica, {each.get('lag', '?')} s behind"
            for each in replicas
            if each.get("state") == "online"
        }
        machines = {id_: at for id_, at in self.world.hosts.items() if id_.startswith("redis")}
        silent = [id_ for id_, address in machines.items() if address not in lag]
        found = {id_: lag[address] for id_, address in machines.items() if address in lag}
        primary = self.client.connection_pool.get_connection()
        try:
            host = str(getattr(primary, "host", ""))
        finally:
            self.client.connection_pool.release(primary)
        found |= {id_: "primary" for id_ in silent if machines[id_] == host}
        return dict(sorted(found.items(), key=lambda item: natural(item[0])))

    def _judge(self) -> tuple[Verdict, Window, Window] | None:
        """The judge's verdict on the last seconds; None when there is no canary to judge."""
        since = self.world.at - self.judge_s
        used = windows.of_one_canary([second for second in self._seconds if second.at > since])
        if not used:
            return None
        try:
            canary, production = windows.pair(used, samples.hosts(used, self._batches))
            self._problems.pop("judge", None)
            return judge(canary, production, self.thresholds), canary, production
        except JudgeError as error:
            self._trouble("judge", str(error))
            return None

    def ask_silences(self) -> None:
        """Ask Alertmanager, which may take its time: for a thread of its own."""
        if self.alertmanager is None:
            return
        try:
            self._silences, self._silence_problem = tuple(self.alertmanager.silences()), ""
        except (SalternError, ValueError, TypeError, KeyError) as error:
            self._silences, self._silence_problem = (), f"silences are not known: {short(error, 160)}"

    def ask_builds(self) -> None:
        """Ask the pipeline, which may take its time: for a thread of its own."""
        if self.builds is None:
            return
        try:
            self._builds = {str(each["id"]): dashboard_builds.shown(each) for each in self.builds.last()}
            self._build_problem = ""
        except (SalternError, ValueError, TypeError, KeyError, AttributeError) as error:
            self._build_problem = f"builds are shown as they were: {short(error, 160)}"

    def _trouble(self, what: str, words: str) -> None:
        if self._problems.get(what) != words:
            log.warning("%s", words)
        self._problems[what] = words


def _observed(text: str) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found["servers"], dict) or not isinstance(found["ts"], int | float):
        raise ValueError("it has no servers, or no time")
    return found


def _felt(text: str) -> dict[str, Any]:
    found = json.loads(text)
    return {"high": bool(found["high"]), "percent": float(found["percent"]), "at": float(found["at"])}


def _flags(text: str) -> dict[str, Any]:
    return flag_edits.glance(flagset.Stored(text, json.loads(text), 0))["flags"]


def run(reader: Reader, hub: Hub, took: Callable[[float], None] = lambda _: None) -> None:
    """Look and publish until the hub is closed.

    :param took: told how many seconds each look took
    """
    trouble = ""
    while not hub.closed:
        began = time.monotonic()
        try:
            hub.publish(document(reader.look()))
            trouble = ""
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            # Somebody wrote into Redis what nobody of ours writes. The page stays, and says so.
            words = f"what Redis holds cannot be shown, so this is how it was: {short(repr(error), 160)}"
            if words != trouble:
                log.exception("%s", words)
            trouble = words
            hub.publish({**hub.document, "problems": [words]})
        spent = time.monotonic() - began
        took(spent)
        time.sleep(max(LOOK_S - spent, LOOK_S / 5))
