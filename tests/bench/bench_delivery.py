"""What rolling a release over five machines costs under load, and how fast it is taken back.

    ./saltern bench delivery --json

A whole fleet of its own, with the shipped numbers of pillar/rollout.sls but for the seconds a sick machine is given
(`serve_s`, which is waited for on purpose). What scales by itself is off: a loaded fleet would grow meanwhile. 64
keep-alive connections of wrk load it all the time, and a client beside checks every body. Left out: a WebSocket or long
poll a machine, which the sample product has not; and the same roll by Ansible, for which the machines would need sshd.
"""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benching import Figure, main, median, parse_wrk, report
from fleet_bench import REPOSITORY, Live
from fleet_bench import fleet as own_fleet
from fleet_hands import changed_product, until
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
    """A release of the product with a line changed; its id."""
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


def bench(rolls: int = 3, connections: int = 64) -> dict[str, Any]:
    """Measure rolls over five machines under load; returns the JSON object of a bench."""
    with tempfile.TemporaryDirectory(prefix="saltern-bench-") as place:
        folder = Path(place)
        with own_fleet(pillar_of(folder / "pillar")) as live:
            fleet = Fleet.load(home() / live.name)
            registry = Registry(members.link(fleet))
            old = artifact.releases(fleet)["prod"].id
            new, sick = build(fleet, folder), build(fleet, folder, SICK_ON_PROD1)
            checker, load = Checker(live, {old, new, sick}), Load(live, connections)
            time.sleep(3)
            forth, back, one = [], [], []
            for _ in range(rolls):
                forth.append(good(rolled(fleet, registry, new)))
                back.append(good(rolled(fleet, registry, old, rollback=True)))
                one.append(taken_back(rolled(fleet, registry, sick, order="id")[1], sick))
            requests, failed = load.end()
            checker.ended.set()
            checker.join()
    for words in checker.wrong[:5]:
        print(words, file=sys.stderr)
    return report(
        "delivery",
        [
            Figure("roll_five_s", round(median(forth), 1), "s", "<= 40", runs=[round(s, 1) for s in forth]),
            Figure("rollback_five_s", round(median(back), 1), "s", "<= 15", runs=[round(s, 1) for s in back]),
            Figure("rollback_one_s", round(median(one), 2), "s", "<= 2", runs=[round(s, 2) for s in one]),
            Figure("requests", requests + checker.answers, "requests", ">= 100000"),
            Figure("failed", failed + len(checker.wrong), "requests", "<= 0"),
            Figure("bodies_checked", checker.answers, "requests"),
        ],
    )


if __name__ == "__main__":
    main(
        bench,
        rolls=(int, 3, "times a release is rolled out and back"),
        connections=(int, 64, "of wrk, keep-alive"),
    )
