"""What rolling a release over five machines costs under load, and how fast it is taken back.

    ./saltern bench delivery --json

A whole fleet of its own, with the shipped numbers of pillar/rollout.sls but for the seconds a sick machine is given
(`serve_s`, which is waited for on purpose). What scales by itself is off: a loaded fleet would grow meanwhile. A client
checks every body all the time, and streams of changes stay open, at first at least one on each machine. All is measured
twice, without more load and with 64 keep-alive connections of wrk, which take all that two processors have. Where the
time goes is told step by step. Last, Ansible rolls the same over the same machines (see ansible_peer).
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ansible_roll
from benching import Figure, main, median, parse_wrk, report
from fleet_bench import REPOSITORY, Live
from fleet_bench import fleet as own_fleet
from fleet_hands import Plant, changed_product, until
from saltern import artifact, members, rollouts
from saltern.fleet import Fleet, home
from saltern.intents import Intent, Queue
from saltern.registry import Registry

SICK_ON_PROD1 = '        if settings.instance == "prod1":\n            raise RuntimeError("a defect")\n'
CHANGES = {
    "rollout.sls": [("serve_s: 30", "serve_s: 6")],
    "scaling.sls": [("auto: true", "auto: false")],
    "beacons.sls": [("high: 50", "high: 100")],
}
LONGEST_S = 400.0


def pillar_of(folder: Path) -> Path:
    """The shipped pillar with these changes."""
    shutil.copytree(REPOSITORY / "pillar", folder)
    for name, changes in CHANGES.items():
        text = (folder / name).read_text()
        for old, new in changes:
            if old not in text:
                raise RuntimeError(f"{name} has no {old!r}")
            text = text.replace(old, new)
        (folder / name).write_text(text)
    return folder


def build(fleet: Fleet, folder: Path, lines: str = "") -> str:
    """A release of the product like no other, with some lines changed; its id."""
    made = changed_product(fleet, folder, lines)
    artifact.keep(fleet, made)
    return made.id


class Checker(threading.Thread):
    """Asks over one connection after the other which release answers, and checks every answer whole."""

    def __init__(self, live: Live, releases: set[str]) -> None:
        super().__init__(daemon=True)
        self.host = live.product.split("/")[2]
        self.releases = releases
        self.answers = 0
        self.wrong: list[str] = []
        self.ended = threading.Event()
        self.start()

    def run(self) -> None:
        connection = http.client.HTTPConnection(self.host, timeout=10)
        while not self.ended.is_set():
            try:
                connection.request("GET", "/version")
                answer = connection.getresponse()
                body = json.loads(answer.read())
                said = (answer.status, body["release"], body["instance"])
                header = answer.getheader("X-Saltern-Instance")
                if said[0] != 200 or said[1] not in self.releases or said[2] != header:
                    self.wrong.append(f"{said}, {header}")
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                self.wrong.append(repr(error))
                connection.close()
            self.answers += 1


class Listener(threading.Thread):
    """Keeps a stream of changes open, and comes back when it ends; one that breaks off instead is wrong."""

    def __init__(self, live: Live) -> None:
        super().__init__(daemon=True)
        self.host = live.product.split("/")[2]
        self.machine = ""
        self.streams = 0
        self.wrong: list[str] = []
        self.ended = threading.Event()
        self.start()

    def run(self) -> None:
        while not self.ended.is_set():
            # Longer than a stream is ever silent.
            with contextlib.closing(http.client.HTTPConnection(self.host, timeout=15)) as connection:
                try:
                    self._listen(connection)
                except (OSError, http.client.HTTPException, ValueError) as error:
                    self.wrong.append(f"stream of {self.machine}: {error!r}")

    def _listen(self, connection: http.client.HTTPConnection) -> None:
        connection.request("GET", "/api/changes")
        answer = connection.getresponse()
        if answer.status == 204:
            self.ended.wait(0.05)  # that machine leaves just now, or has as many as it takes
            return
        if answer.status != 200:
            raise ValueError(f"it was answered with {answer.status}")
        self.machine = answer.getheader("X-Saltern-Instance", "")
        self.streams += 1
        while not self.ended.is_set() and answer.readline():
            pass


def listening(live: Live, machines: Iterable[str]) -> list[Listener]:
    """Streams, at least one on each machine."""
    listeners: list[Listener] = []
    missing = set(machines)
    while missing:
        listeners.append(Listener(live))
        missing.discard(until(lambda: listeners[-1].machine, 60, "a stream is open"))
        if len(listeners) > 100:
            raise RuntimeError(f"no stream on {', '.join(sorted(missing))}")
    return listeners


class Load:
    """wrk, until it is ended."""

    def __init__(self, live: Live, connections: int) -> None:
        url = f"{live.product.rstrip('/')}:80/version"
        command = ["wrk", "-t1", f"-c{connections}", "-d3600s", "--timeout", "10s", url]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def end(self) -> tuple[int, int]:
        """Requests there were, and those that failed."""
        self.process.send_signal(signal.SIGINT)
        said, _ = self.process.communicate(timeout=30)
        found = parse_wrk(said)
        return found.requests, found.failed


def rolled(fleet: Fleet, registry: Registry, release: str, **options: Any) -> tuple[float, Intent]:
    """Roll a release over production; seconds from asking to the end, and the intent."""
    queue = Queue(registry.client)
    began = time.monotonic()
    id_ = rollouts.request(fleet, "prod", release, by="bench", **options)

    def ended() -> Intent | None:
        found = queue.load(id_)
        return found if found and found.state not in rollouts.UNFINISHED else None

    intent = until(ended, LONGEST_S, "the roll ends")
    print(f"{release} {options}: {intent.state} {intent.error}", file=sys.stderr)
    return time.monotonic() - began, intent


def good(done: tuple[float, Intent]) -> float:
    """The seconds of a roll that went well."""
    if done[1].state != "done":
        raise RuntimeError(f"the roll failed: {done[1].error}")
    return done[0]


def taken_back(intent: Intent, release: str) -> float:
    """Seconds from the decision that a machine goes back until it serves the old release again."""
    return float(intent.steps["prod1/back#1"]["at"]) - float(intent.steps[f"{release}/fail"]["at"])


@dataclass(frozen=True)
class Rounds:
    """Rolls of five machines forth and back again, and rolls that the first machine fails: seconds and intents."""

    forth_s: list[float]
    back_s: list[float]
    one_s: list[float]
    forth: list[Intent]
    back: list[Intent]

    @classmethod
    def of(cls, fleet: Fleet, registry: Registry, old: str, pairs: Sequence[tuple[str, str]]) -> Rounds:
        """Roll to a release that no machine has seen, and back; and to one that is sick on prod1. So often as there are
        pairs of them.
        """
        forth, back, one = [], [], []
        for new, sick in pairs:
            forth.append(rolled(fleet, registry, new))
            good(forth[-1])
            back.append(rolled(fleet, registry, old, rollback=True))
            good(back[-1])
            one.append(taken_back(rolled(fleet, registry, sick, order="id")[1], sick))
        return cls(
            [round(seconds, 1) for seconds, _ in forth], [round(seconds, 1) for seconds, _ in back],
            [round(seconds, 2) for seconds in one], [intent for _, intent in forth], [intent for _, intent in back],
        )  # fmt: skip


def shares(intents: Iterable[Intent]) -> dict[str, float]:
    """Seconds of a roll by what they were spent on, the mean over rolls; what a step took is from the one before it."""
    spent: dict[str, float] = defaultdict(float)
    rolls = [intent.steps for intent in intents]
    for steps in rolls:
        ends = sorted((float(known["at"]), name) for name, known in steps.items() if "at" in known)
        for (before, _), (at, name) in itertools.pairwise(ends):
            spent[rollouts.parts(name)[1]] += at - before
    return {
        what: round(seconds / len(rolls), 2)
        for what, seconds in spent.items()
        if seconds / len(rolls) >= 0.05
    }


def bench(rolls: int = 3, connections: int = 64, ansible: int = 1) -> dict[str, Any]:
    """Measure rolls over five machines under load; returns the JSON object of a bench."""
    with tempfile.TemporaryDirectory(prefix="saltern-bench-") as place:
        folder = Path(place)
        with own_fleet(pillar_of(folder / "pillar")) as live:
            fleet = Fleet.load(home() / live.name)
            registry = Registry(members.link(fleet))
            old = artifact.releases(fleet)["prod"].id
            pairs = [(build(fleet, folder), build(fleet, folder, SICK_ON_PROD1)) for _ in range(2 * rolls)]
            listeners = listening(live, registry.snapshot().instances)
            checker = Checker(live, {old, *(release for pair in pairs for release in pair)})
            calm = Rounds.of(fleet, registry, old, pairs[:rolls])
            load = Load(live, connections)
            time.sleep(3)
            loaded = Rounds.of(fleet, registry, old, pairs[rolls:])
            requests, failed = load.end()
            for client in (checker, *listeners):
                client.ended.set()
            for client in (checker, *listeners):
                client.join()
            peer, peer_failed = (
                beside(live, fleet, (pairs[0][0], old), connections, folder) if ansible else ({}, 0)
            )
    wrong = [words for client in (checker, *listeners) for words in client.wrong]
    for words in wrong[:9]:
        print(words, file=sys.stderr)
    for name, rounds in (("quiet", calm), ("loaded", loaded)):
        print(f"a {name} roll spends {shares(rounds.forth)} s", file=sys.stderr)
        print(f"a {name} rollback spends {shares(rounds.back)} s", file=sys.stderr)
    faster = (
        [
            Figure(
                "times_faster_than_ansible",
                round(peer["ansible"] / median(loaded.forth_s), 1),
                "times",
                ">= 2",
            ),
            Figure("failed_by_ansible", peer_failed, "requests"),
        ]
        if peer
        else []
    )
    return report(
        "delivery",
        [
            Figure("roll_five_s", median(loaded.forth_s), "s", "<= 40", peer, loaded.forth_s),
            Figure("rollback_five_s", median(calm.back_s), "s", "<= 15", runs=calm.back_s),
            Figure("rollback_one_s", median(calm.one_s), "s", "<= 2", runs=calm.one_s),
            Figure("roll_five_without_load_s", median(calm.forth_s), "s", "<= 40", runs=calm.forth_s),
            Figure("rollback_five_under_load_s", median(loaded.back_s), "s", "<= 15", runs=loaded.back_s),
            Figure("rollback_one_under_load_s", median(loaded.one_s), "s", "<= 2", runs=loaded.one_s),
            Figure("requests", requests + checker.answers, "requests", ">= 100000"),
            Figure("failed", failed + len(wrong), "requests", "<= 0"),
            Figure("streams", sum(each.streams for each in listeners), "streams"),
            Figure("bodies_checked", checker.answers, "requests"),
            *faster,
        ],
    )


def beside(
    live: Live, fleet: Fleet, releases: tuple[str, str], connections: int, folder: Path
) -> tuple[dict[str, float], int]:
    """The same roll by Ansible under the same load, and one of the release alone: seconds by peer, and requests that
    failed.
    """
    if not ansible_roll.install():
        return {}, 0
    plant = Plant(fleet)
    key = ansible_roll.open_ssh(plant, folder)
    load = Load(live, connections)
    time.sleep(3)
    try:
        rolls = [
            ansible_roll.rolled(fleet, plant, release, folder, key, whole)
            for release, whole in zip(releases, (True, False), strict=True)
        ]
    finally:
        _, failed = load.end()
    return dict(
        zip(("ansible", "ansible_release_alone"), (round(each, 1) for each in rolls), strict=True)
    ), failed


if __name__ == "__main__":
    main(
        bench,
        rolls=(int, 3, "times a release is rolled out and back"),
        connections=(int, 64, "of wrk, keep-alive"),
        ansible=(int, 1, "1: the same roll by Ansible beside; 0: without"),
    )
