"""What the demo does to the fleet, and what it measures. Each step leaves to `Scene.after` what takes it back."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import redis

from saltern import (
    artifact,
    canary_runs,
    flag_runs,
    journal,
    master,
    members,
    redis_runs,
    rollout_runs,
    rollouts,
    scale_runs,
)
from saltern.demo.losses import Writer, process, well
from saltern.demo.plant import ROUTE, Plant, changed_product, felt, until
from saltern.demo.results import Outcome, Step
from saltern.demo.visitors import Tally, Visitors, count, visitors
from saltern.errors import SalternError
from saltern.fleet import role_of
from saltern.intents import Queue
from saltern.local import cgroup
from saltern.shell import run

BY = "demo"
LONGEST_S = 180.0
"""How long anything is waited for. Nothing takes a tenth of it where the goals are met."""
SWEPT_S = 35
"""Seconds within which Alertmanager forgets a group of alerts that are all over."""
KEY = "product:demo"


class Scene:
    """A fleet on which steps are shown, and what is told of them."""

    def __init__(self, plant: Plant, stack: ExitStack, tell: Callable[[str, str], None]) -> None:
        self.plant, self.stack, self._tell = plant, stack, tell
        self.fleet = plant.fleet
        self.host = self.fleet.addresses()[plant.proxy]
        self.notes: list[tuple[str, str]] = []

    def did(self, words: str) -> None:
        self._note("did", words)

    def saw(self, words: str) -> None:
        self._note("saw", words)

    def _note(self, kind: str, words: str) -> None:
        self.notes.append((kind, words))
        self._tell(kind, words)

    def after(self, undo: Callable[[], Any]) -> None:
        """Do this when the step is over, however it ends; what was said last is done first."""
        self.stack.callback(undo)

    def of_role(self, role: str) -> list[str]:
        """Machines of a role, the lowest number first."""
        names = (name for name in self.fleet.inventory() if role_of(name) == role)
        return sorted(names, key=lambda name: int(name.removeprefix(role)))

    @contextmanager
    def visited(self, **options: Any) -> Iterator[Visitors]:
        """The product in use, for a while and from before on."""
        with visitors(self.host, **options) as found:
            until(lambda: found.tally.requests > 50, LONGEST_S, "the product is in use")
            yield found

    def setting(self, machines: str = "", **changes: Any) -> None:
        """Other values in the pillar until the step is over."""
        self.stack.enter_context(self.plant.set(machines, **changes))

    def canary_on(self) -> None:
        """The canary takes requests; it is turned off again if it was."""
        latch = self.plant.registry.snapshot().latches.get("canary")
        if latch is not None:
            self.after(lambda: canary_runs.off(self.fleet, latch.reason, by=latch.by))
        self.plant.canary_on(LONGEST_S)

    def over(self, name: str, *machines: str) -> None:
        """When the step is over, wait until these alerts are."""
        for machine in machines:
            self.after(
                lambda m=machine: until(
                    lambda: not self.plant.alert(name, m), LONGEST_S, f"{name} of {m} is over"
                )
            )

    def burning(self, *machines: str) -> list[Path]:
        """Load one processor of each until the step is over; the files that say since when."""
        self.over("CpuHigh", *machines)
        for machine in machines:
            self.after(lambda m=machine: self.plant.stop_unit(m))
        return [self.plant.start_burning(machine) for machine in machines]

    def quiet(self) -> None:
        """Wait until nothing is queued."""
        queue = Queue(self.plant.registry.client)
        until(lambda: not queue.unfinished(), LONGEST_S, "nothing is queued", 0.2)

    def ended(self, id_: str) -> None:
        """Wait until an intent is carried out.

        :raises SalternError: it failed
        """
        queue = Queue(self.plant.registry.client)

        def there() -> Any:
            found = queue.load(id_)
            return found if found and found.state not in rollouts.UNFINISHED else None

        intent = until(there, LONGEST_S, "the roll ends")
        if intent.state != "done":
            raise SalternError(f"{intent.kind} {intent.pool}: {intent.state}: {intent.error}")

    def told(self, question: str) -> None:
        """What the journal says led to something."""
        for link in journal.why(self.plant.registry.client, question)["chain"]:
            after = f" after {link['after_ms']} ms" if link["after_ms"] is not None else ""
            self.saw(f"journal: {link['what']}{after}")


def traffic_split(scene: Scene) -> Outcome:
    scene.canary_on()
    was = scene.plant.registry.snapshot().split.share
    scene.after(lambda: until(lambda: scene.plant.share() == was, LONGEST_S, f"{was} per cent again"))
    scene.after(lambda: canary_runs.share(scene.fleet, was, by=BY))
    off, failed = [], 0
    for share in dict.fromkeys((was, 60, 10)):
        canary_runs.share(scene.fleet, share, by=BY)
        until(
            lambda share=share: scene.plant.share() == share, LONGEST_S, f"{share} per cent at HAProxy", 0.005
        )
        tally = count(scene.host, REQUESTS)
        seen = 100 * tally.pools["canary"] / REQUESTS
        off.append(abs(seen - share))
        failed += tally.failed
        scene.did(f"canary.share {share}, then {REQUESTS:,} requests")
        scene.saw(f"{seen:.1f} % of them answered by the canary, {tally.failed} failed")
    return Outcome(round(max(off), 2), _none_failed(failed))


REQUESTS = 2000


def _none_failed(failed: int) -> list[str]:
    return [f"{failed:,} requests failed"] if failed else []


def feature_flag(scene: Scene) -> Outcome:
    before = flag_runs.get(scene.fleet, "site_title")
    scene.after(
        lambda: flag_runs.change(scene.fleet, "site_title", definition=before, why="the demo is over", by=BY)
    )
    addresses = [
        scene.fleet.addresses()[name] for name in (*scene.of_role("prod"), *scene.of_role("staging"))
    ]
    links = [http.client.HTTPConnection(address, PRODUCT_PORT, timeout=10) for address in addresses]
    for link in links:
        scene.after(link.close)

    def shows(link: http.client.HTTPConnection, title: str) -> bool:
        link.request("GET", "/")
        return f"<h1>{title}</h1>" in link.getresponse().read().decode()

    times = []
    for number in range(FLIPS):
        title = f"Demo {number + 1}"
        began = time.monotonic()
        flag_runs.change(scene.fleet, "site_title", value=title, why="the demo flips it", by=BY)
        for link in links:
            until(
                lambda link=link, title=title: shows(link, title), LONGEST_S, f"{title!r} everywhere", 0.001
            )
        times.append((time.monotonic() - began) * 1000)
    scene.did(
        f"flags.set site_title, {FLIPS} times, each time asking all {len(links)} instances for their page"
    )
    scene.saw(
        f"the new title on every page after {min(times):.0f} to {max(times):.0f} ms, reading the page included"
    )
    return Outcome(round(statistics.median(times), 1))


FLIPS = 10
PRODUCT_PORT = 8080


def canary_off(scene: Scene) -> Outcome:
    (canary, *_) = scene.of_role("staging")
    scene.canary_on()
    scene.after(lambda: scene.plant.canary_on(LONGEST_S))
    scene.setting(canary, beacons={"cpu": felt("staging")})
    with scene.visited() as seen:
        (path,) = scene.burning(canary)
        seconds = scene.plant.gone(LONGEST_S) - float(path.read_text())
        before = seen.tally
        time.sleep(2)
        after = seen.tally
    # What HAProxy had given to the canary by then may be answered yet.
    late = after.pools["canary"] - before.pools["canary"]
    scene.did(f"loaded one processor of {canary} while visitors use the product")
    scene.saw(f"its share is 0 after {seconds:.1f} s; {late} answers of it in the 2 s after; {after.text()}")
    until(lambda: scene.plant.journal("canary.off", time.time() - 60), LONGEST_S, "the journal's line")
    scene.told("canary off")
    return Outcome(round(seconds, 2), _none_failed(after.failed))


def alert_mail(scene: Scene) -> Outcome:
    primary = redis_runs.primary(scene.fleet)
    machine = next((name for name in scene.of_role("redis") if name != primary), primary)
    interval = scene.plant.settings["ops"]["group_interval"] + SWEPT_S
    until(
        lambda: not scene.plant.arrived(time.time() - interval, "CPU of redis"),
        LONGEST_S + interval,
        "Alertmanager has forgotten the last mail of this kind",
        1,
    )
    began = time.time()
    scene.setting(machine, beacons={"cpu": felt("redis")})
    scene.burning(machine)
    summary = f"CPU of {machine} is high"
    ((arrived, mail), *_) = until(
        lambda: scene.plant.arrived(began, summary), LONGEST_S, f"the mail about {machine}", 0.02
    )
    (line, *_) = scene.plant.journal("alert.firing", began, subject=machine, alert="CpuHigh")
    said = journal.origin(line["cause"]).at
    if said is None:
        raise RuntimeError(f"the alert about {machine} names no event of its own: {line['cause']!r}")
    scene.did(f"loaded one processor of {machine}")
    scene.saw(f"mail {mail['Subject']!r}, {arrived - said:.2f} s after {machine} said so")
    return Outcome(round(arrived - said, 2))


@contextmanager
def _release(scene: Scene, lines: str = "", after: str = ROUTE) -> Iterator[str]:
    """A release of the product that is like no other, while it is needed."""
    with tempfile.TemporaryDirectory() as folder:
        made = changed_product(scene.fleet, Path(folder), lines, after)
    known = set(artifact.known(scene.fleet))
    try:
        artifact.keep(scene.fleet, made, branch=BY)
        yield made.id
    finally:
        if made.id not in known:
            artifact.forget(scene.fleet, made.id)


def _goes_back(scene: Scene, target: str) -> str:
    """Have a pool run what it ran, when the step is over; which release that is."""
    was = artifact.releases(scene.fleet)[target].id

    def runs() -> set[str]:
        there = scene.plant.registry.snapshot().instances.values()
        return {instance.release for instance in there if instance.pool == target}

    def back() -> None:
        going = any(
            intent.pool == target and intent.state in rollouts.UNFINISHED
            for intent in rollouts.rolls(scene.plant.registry.client)
        )
        if going or artifact.releases(scene.fleet)[target].id != was or runs() != {was}:
            rollout_runs.rollback(
                scene.fleet, was, target=target, reason="the demo is over", by=BY, wait=LONGEST_S
            )

    scene.after(back)
    # A deploy that failed is a person's to look at; this one was ours.
    scene.after(lambda: scene.plant.alerts.end("DeployFailed", target))
    return was


def canary_judge(scene: Scene) -> Outcome:
    scene.canary_on()
    share = scene.plant.registry.snapshot().split.share
    scene.after(lambda: canary_runs.share(scene.fleet, share, by=BY))
    scene.after(lambda: scene.plant.canary_on(LONGEST_S))
    release = scene.stack.enter_context(_release(scene, FAILS, LIST))
    was = _goes_back(scene, "canary")
    canary_runs.share(scene.fleet, 50, by=BY)

    def judged(seconds: float) -> Mapping[str, Any]:
        return canary_runs.judge(scene.fleet, max(1, round(seconds)))

    with scene.visited(path=LIST_PATH):
        began = time.time()
        time.sleep(GOOD_S)
        well_done = judged(time.time() - began)
    scene.did(f"judged release {was} on {GOOD_S} s of traffic at 50 %")
    scene.saw(f"{well_done['verdict']}: {well_done['reason']}")
    scene.ended(rollouts.request(scene.fleet, "canary", release, by=BY))
    scene.plant.canary_on(LONGEST_S)
    scene.did(f"gave the canary release {release}, which fails to show the list of the demo once in 33 times")
    with scene.visited(path=LIST_PATH):
        # The controller's own limit, for what is much worse than this, counts over as long.
        time.sleep(10)
    with scene.visited(path=f"{LIST_PATH}?{BY}"):
        began = time.time()

        def failed() -> Mapping[str, Any] | None:
            try:
                found = judged(time.time() - began)
            except SalternError:
                return None  # it has nothing to judge by yet
            return found if found["verdict"] == "fail" else None

        sick = until(failed, LONGEST_S, "the judge fails it", 0.5)
    requests = sick["window"]["canary"]["requests"]
    scene.saw(f"{sick['verdict']} after {time.time() - began:.0f} s: {sick['reason']}")
    broken = ["the release that production runs was judged to fail"] if well_done["verdict"] == "fail" else []
    return Outcome(requests, broken)


GOOD_S = 32
"""Long enough for the judge to have the samples it asks for."""
LIST_PATH, LIST = "/api/items", "    def show_all() -> HTTPResponse:\n"
FAILS = (
    "        import random\n\n"
    f"        if request.query_string == {BY!r} and random.random() < 0.03:\n"
    '            raise RuntimeError("a defect for the judge to find")\n'
)


def rolling_update(scene: Scene) -> Outcome:
    names = scene.of_role("prod")
    release = scene.stack.enter_context(_release(scene))
    was = _goes_back(scene, "prod")
    with scene.visited() as seen:
        began = time.monotonic()
        scene.ended(rollouts.request(scene.fleet, "prod", release, by=BY))
        seconds = time.monotonic() - began
        scene.did(f"rollout.start {release}: drained, changed and watched {len(names)} machines one by one")
        scene.saw(f"all of them run it after {seconds:.1f} s; {seen.tally.text()}")
        began = time.monotonic()
        rollout_runs.rollback(scene.fleet, was, target="prod", reason="the demo", by=BY, wait=LONGEST_S)
        scene.did(f"rollout.rollback {was}")
        tally = seen.end()
        scene.saw(f"back after {time.monotonic() - began:.1f} s; {tally.text()}")
    return Outcome(round(seconds, 1), _none_failed(tally.failed))


def _extra_goes(scene: Scene) -> list[str]:
    """Give up what production has more than now, when the step is over; what it has now."""
    names = scene.of_role("prod")

    def back() -> None:
        scene.quiet()
        if (extra := len(scene.of_role("prod")) - len(names)) > 0:
            scale_runs.in_(scene.fleet, "prod", extra, force=True, wait=LONGEST_S, by=BY)

    scene.after(back)
    return names


def scale_out(scene: Scene) -> Outcome:
    names = _extra_goes(scene)
    pool = {
        "auto": True, "min": len(names), "max": len(names) + 1, "warmup_s": 1, "targets": {"cpu": 45, "proxy_cpu": 90},
        "out": {"window_s": 0, "cooldown_s": 5, "steps": [{"machines": 1, "period_s": 5}]},
        "in": {"window_s": 3600, "cooldown_s": 3600, "steps": []},
    }  # fmt: skip
    began = time.time()
    scene.setting(
        ",".join(names),
        beacons={"cpu": felt("prod", ignore=["salt-minion"])},
        scaling={"pools": {"prod": pool}},
    )
    paths = scene.burning(*names)
    (line, *_) = until(lambda: scene.plant.journal("scale.choose", began), LONGEST_S, "it is decided to grow")
    (new, *_) = line["fields"]["add"]
    until(lambda: new in scene.plant.serving(), LONGEST_S, f"{new} serves", 0.02)
    served = time.time()
    since = min(float(path.read_text()) for path in paths)
    decided = int(line["id"].partition("-")[0]) / 1000 - since
    scene.did(f"loaded one processor of each of {', '.join(names)}")
    scene.saw(
        f"decided to make {new} after {decided:.1f} s; it answers visitors after {served - since:.1f} s"
    )
    return Outcome(round(served - since, 1))


def scale_in(scene: Scene) -> Outcome:
    names = _extra_goes(scene)
    scene.setting(",".join(names), beacons={"cpu": felt("prod", waiting=False)})
    made = scale_runs.out(scene.fleet, "prod", 1, wait=LONGEST_S, by=BY)
    new = next(name for name in scene.of_role("prod") if name not in names)
    until(lambda: new in scene.plant.serving(), LONGEST_S, f"{new} serves")
    scene.did(f"scale.out prod: {new} serves ({made['state']}); now it is quiet")
    began = time.time()
    pool = {
        "auto": True, "min": len(names), "max": len(names) + 1, "warmup_s": 1, "targets": {"cpu": 45, "proxy_cpu": 90},
        "in": {"window_s": 1, "cooldown_s": 1, "steps": [{"machines": 1, "period_s": 5}]},
    }  # fmt: skip
    with scene.visited(number=2, pause_s=0.05) as seen:
        scene.setting(scaling={"pools": {"prod": pool}})
        until(lambda: new not in scene.fleet.inventory(), LONGEST_S, f"{new} is given up", 0.2)
        time.sleep(2)
        tally = seen.end()
    (drained,) = scene.plant.journal("scale.drain", began)
    (ended,) = scene.plant.journal("scale.end", began)
    took = (int(ended["id"].partition("-")[0]) - int(drained["id"].partition("-")[0])) / 1000
    scene.saw(f"{new} drained first and ended {took:.1f} s after; {tally.text()}")
    return Outcome(tally.failed)


def scale_up(scene: Scene) -> Outcome:
    (machine, *_) = scene.of_role("prod")[-1:]

    def memory() -> int:
        return scene.fleet.inventory()[machine]["memory"]

    base, began = memory(), time.time()
    scene.over("MemoryResized", machine)
    scene.over("MemoryHigh", machine)
    # Given back before what the fleet does by itself is switched off again.
    scene.setting(
        machine,
        beacons={"memory": felt("prod")},
        scaling={"memory": {"auto": True, "low_s": 1, "cooldown_s": 5, "max_mib": 2 * base}},
    )

    def back() -> None:
        until(lambda: memory() == base, LONGEST_S, f"{machine} has {base} MiB again")

    scene.after(back)
    scene.after(lambda: scene.plant.stop_unit(machine))
    hog = f"x = bytearray(b'x') * ({base * 6 // 10} * 2**20)\nimport time\ntime.sleep(600)"
    burned = time.time()
    scene.plant.run_unit(machine, "/usr/bin/python3", "-c", hog)
    until(lambda: memory() == 2 * base, LONGEST_S, f"{machine} has twice the memory", 0.01)
    seconds = time.time() - burned
    scene.did(f"used {base * 6 // 10} of the {base} MiB of {machine}")
    scene.saw(f"its limit is {2 * base} MiB after {seconds:.1f} s, with nothing restarted")
    scene.plant.stop_unit(machine)
    back()
    scene.quiet()
    lines = scene.plant.journal("resize.resize", began)
    scene.did(f"gave the memory back: {machine} has {base} MiB again")
    broken = (
        []
        if [line["fields"]["to"] for line in lines] == [2 * base, base]
        else [f"it was resized otherwise: {lines}"]
    )
    return Outcome(round(seconds, 1), broken)


def self_healing(scene: Scene) -> Outcome:
    machine = scene.of_role("prod")[len(scene.of_role("prod")) // 2]

    def made() -> float:
        return scene.fleet.inventory().get(machine, {}).get("since", 0.0)

    old, began = made(), time.time()

    def back() -> None:
        """Should it not have been made anew: start it."""
        scene.quiet()
        if machine not in scene.plant.serving():
            run(
                master.command(scene.fleet, "salt-cloud", "-y", "-a", "start", machine),
                timeout=LONGEST_S,
                alone=True,
            )
            until(lambda: machine in scene.plant.serving(), LONGEST_S, f"{machine} serves")

    scene.over("MachineLost", machine)
    scene.after(back)
    scene.setting(scaling={"healing": {"auto": True}})
    with scene.visited() as seen:
        killed = time.time()
        cgroup.kill(f"{scene.fleet.cgroup}/{machine}")
        until(lambda: made() not in (old, 0.0), LONGEST_S, f"a new {machine}")
        created = time.time() - killed
        until(lambda: machine in scene.plant.serving(), LONGEST_S, f"{machine} serves", 0.02)
        seconds = time.time() - killed
        tally = seen.end()
    grace = scene.plant.settings["scaling"]["healing"]["grace_s"]
    scene.did(f"killed every process of {machine} at once, under load")
    scene.saw(f"{tally.text()}")
    scene.saw(
        f"a new {machine} after {created:.1f} s, {grace} of them to be sure; it serves after {seconds:.1f} s"
    )
    scene.quiet()
    times = len(scene.plant.journal("heal.make", began))
    return Outcome(round(seconds, 1), [*_none_failed(tally.failed), *_once(times)])


def _once(times: int) -> list[str]:
    return [] if times == 1 else [f"made anew {times} times"]


def redis_failover(scene: Scene) -> Outcome:
    def all_well() -> bool:
        with contextlib.suppress(redis.RedisError):
            return well(scene.fleet)
        return False

    writers = [Writer(scene.fleet, wait, KEY, 0.002) for wait in (True, False)]

    def clear() -> None:
        until(all_well, LONGEST_S, "all Redis machines are well", 0.2)
        members.link(scene.fleet).delete(*(writer.name for writer in writers))

    scene.after(clear)
    clear()
    stop = threading.Event()
    threads = [threading.Thread(target=writer.run, args=(stop,), daemon=True) for writer in writers]
    was = redis_runs.primary(scene.fleet)
    with scene.visited(path="/api/items") as seen:
        for thread in threads:
            thread.start()
        try:
            until(lambda: min(len(w.answered) for w in writers) > 100, LONGEST_S, "writers at work")
            lost_at = time.monotonic()
            os.kill(process(scene.fleet, was), signal.SIGKILL)
            until(lambda: all(w.moments[-1] > lost_at + 1 for w in writers), LONGEST_S, "writes again")
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        tally = seen.end()
    until(all_well, LONGEST_S, f"{was} follows", 0.2)
    pause, (confirmed, unconfirmed) = writers[0].pause(lost_at), (writer.lost() for writer in writers)
    scene.did(f"killed Redis on {was}, the primary, while two wrote to it and visitors read the list")
    scene.saw(
        f"{redis_runs.primary(scene.fleet)} is primary; the next write {pause:.2f} s after the last; {tally.text()}"
    )
    scene.saw(
        f"{confirmed} of {len(writers[0].answered):,} writes confirmed by WAIT lost, {unconfirmed} of "
        f"{len(writers[1].answered):,} without; {was} follows now, and who is primary stays Sentinel's to say"
    )
    broken = [f"{confirmed} confirmed writes lost"] if confirmed else []
    return Outcome(round(pause, 2), [*broken, *_none_failed(tally.failed)])


def master_down(scene: Scene) -> Outcome:
    names = scene.of_role("prod")

    def back() -> None:
        master.start(scene.fleet)

        def all_answer() -> bool:
            ask = master.command(scene.fleet, "salt-run", "--out=json", "manage.up", "timeout=5")
            return set(json.loads(run(ask, timeout=LONGEST_S, alone=True))) >= set(scene.fleet.inventory())

        until(all_answer, LONGEST_S, "every machine answers the master", 0.5)

    scene.after(back)
    split = scene.plant.share()
    with scene.visited() as seen:
        master.stop(scene.fleet)
        scene.did("stopped the Salt master")
        time.sleep(3)
        with contextlib.suppress(RuntimeError):
            scene.plant.inside(names[0], "systemctl", "kill", "-s", "KILL", "product")
        scene.did(f"killed the product on {names[0]} meanwhile")
        time.sleep(5)
        until(lambda: names[0] in scene.plant.serving(), LONGEST_S, f"{names[0]} serves again")
        tally: Tally = seen.end()
    scene.saw(f"{tally.text()}; {100 * tally.pools['canary'] / tally.requests:.0f} % of them to the canary")
    broken = [] if scene.plant.share() == split else [f"the share was {split}, and is {scene.plant.share()}"]
    return Outcome(tally.failed, broken)


SHOWN: tuple[tuple[Step, Callable[[Scene], Outcome]], ...] = (
    (
        Step(
            "traffic-split",
            "The canary gets the share of the requests that was asked for, and the share moves while requests run.",
            "furthest from the share, of three shares",
            "points",
            # 4.1 standard deviations of 2,000 draws at 60 %: once in 20,000 by chance.
            "<= 4.5",
            {"prod": 1, "staging": 1},
            calm=False,
        ),
        traffic_split,
    ),
    (
        Step(
            "feature-flag",
            "A flag flips in every instance at once, with nothing restarted.",
            "from the command to the new page of every instance, median",
            "ms",
            "<= 100",
            {"prod": 1},
            calm=False,
        ),
        feature_flag,
    ),
    (
        Step(
            "canary-off",
            "A canary under load is felt, and gets no more requests.",
            "from the load's beginning to share 0 at HAProxy",
            "s",
            "<= 3.2",
            {"prod": 1, "staging": 1},
        ),
        canary_off,
    ),
    (
        Step(
            "alert-mail",
            "A person gets mail: what, where, since when, what was done, how to undo it.",
            "from the machine's event to the mail in the mailbox",
            "s",
            "<= 1.5",
            {"redis": 1, "ops": 1},
        ),
        alert_mail,
    ),
    (
        Step(
            "canary-judge",
            "The judge compares canary and production, leaves a good release alone and fails a bad one.",
            "of the canary until it was failed; a full window is 500",
            "requests",
            "<= 700",
            {"prod": 1, "staging": 1},
        ),
        canary_judge,
    ),
    (
        Step(
            "rolling-update",
            "A release goes over production machine by machine under load, and back, and no request fails.",
            "from asking to the last machine",
            "s",
            "<= 40",
            {"prod": 2},
        ),
        rolling_update,
    ),
    (
        Step(
            "scale-out",
            "Overloaded production grows by a machine.",
            "from the load's beginning until the new machine serves",
            "s",
            "<= 20",
            {"prod": 2},
        ),
        scale_out,
    ),
    (
        Step(
            "scale-in",
            "Quiet production gives up its youngest machine, which is drained first.",
            "failed",
            "requests",
            "<= 0",
            {"prod": 2},
        ),
        scale_in,
    ),
    (
        Step(
            "scale-up",
            "A machine short of memory gets twice as much while it runs, and gives it back.",
            "from the use's beginning to the new limit",
            "s",
            "<= 10",
            {"prod": 1},
        ),
        scale_up,
    ),
    (
        Step(
            "self-healing",
            "A machine that was killed is made anew by itself, and no request fails.",
            "from its death until the new one serves",
            "s",
            "<= 60",
            {"prod": 3},
        ),
        self_healing,
    ),
    (
        Step(
            "redis-failover",
            "Redis' primary dies, another is elected; no confirmed write is lost, and the list can be read meanwhile.",
            "without a write",
            "s",
            "<= 3",
            {"redis": 3},
        ),
        redis_failover,
    ),
    (
        Step(
            "master-down",
            "Traffic, health checks and the split go on with no Salt master.",
            "failed",
            "requests",
            "<= 0",
            {"prod": 2},
        ),
        master_down,
    ),
)
"""Every step, in the order of the tour, and what shows it."""
