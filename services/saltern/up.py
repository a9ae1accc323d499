"""`./saltern up` and `down`: from nothing to a running fleet, and back."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from saltern import artifact, master, members, pillar, secrets, workplace
from saltern.errors import SalternError
from saltern.fleet import DEFAULT_MACHINES, MACHINE_ID, REPOSITORY, Fleet, role_of
from saltern.local import cgroup, image, kernel, machine, network
from saltern.shell import last_line
from saltern.workplace import FLAGS, PRODUCT

AGENT = (REPOSITORY / "services" / "saltern", FLAGS)
READY_SECONDS = 180.0
# The order of a machine's stages; "failed" may follow any of them.
STAGES = ("waiting", "booted", "connected", "configuring", "ready")


@dataclass
class Progress:
    """What `up` is doing, for whoever draws it: one word a machine, one line for the whole."""

    machines: dict[str, str] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    changed: dict[str, int] = field(default_factory=dict)
    tell: Callable[[str], None] = lambda _: None
    draw: Callable[[], None] = lambda: None

    def stage(self, name: str, stage: str) -> None:
        """A machine has come as far as `stage`; it never goes back, except to be configured again."""
        self.machines[name] = stage
        self.draw()


def up(fleet: Fleet, progress: Progress, machines: Iterable[str] = DEFAULT_MACHINES) -> None:
    """Bring the fleet to what it should be, from wherever it is.

    Every step looks first and does only what is missing, so it can be interrupted anywhere and run again.

    :raises SalternError: a step failed; what was done stays, and the next `up` goes on from there
    """
    wanted = tuple(dict.fromkeys(machines))
    _preflight(fleet, wanted)
    fleet.save()
    with fleet.locked("up", wait=False):
        fleet.mean(wanted)
        secrets.ensure(fleet)
        progress.tell("network")
        kernel.need(fleet)
        network.up(fleet)
        if not image.ready():
            image.build(lambda words: progress.tell(f"image: {words}"))
        progress.tell("release artifacts")
        build_releases(fleet)
        configured = master.configure(fleet)
        master.link(fleet)
        progress.tell("Salt master")
        if configured and master.is_running(fleet):
            master.stop(fleet)
        master.start(fleet)
        _machines(fleet, wanted, progress)
        if any(role_of(name) == "redis" for name in wanted):
            members.begin(fleet)


def _preflight(fleet: Fleet, wanted: Iterable[str]) -> None:
    """Everything that can be refused is refused here, before anything is made.

    :raises SalternError: a wrong pillar value, an id of no role, a subnet in use, too little disk
    """
    pillar.load(fleet.pillar_dir)
    for name in wanted:
        role_of(name)
    if user := network.clash(fleet, network.links()):
        raise SalternError(
            f"subnet {fleet.subnet}: already used by {user}; choose another with --subnet, such as 10.214.0.0/24"
        )
    if not image.ready():
        image.check_space()


def build_releases(fleet: Fleet) -> None:
    """Make the artifacts the fleet starts with; a pool that has a release keeps it."""
    agent = artifact.build(fleet, AGENT, REPOSITORY / "requirements" / "agent.txt", "a")
    kept = artifact.releases(fleet)
    changes = {"agent": agent}
    workplace.build_parts(fleet)
    if missing := [pool for pool in artifact.POOLS if pool not in kept]:
        product = artifact.build(fleet, (PRODUCT / "product", FLAGS), PRODUCT / "requirements.txt", "r")
        changes |= dict.fromkeys(missing, product)
    artifact.want(fleet, changes)


def _machines(fleet: Fleet, wanted: tuple[str, ...], progress: Progress) -> None:
    """Make the machines that are missing, start those that stopped, and have every one configured."""
    known = fleet.inventory()
    made = [name for name in wanted if known.get(name, {}).get("made")]
    missing = [name for name in wanted if name not in made]
    for name in wanted:
        progress.stage(name, "waiting")
    stopped = [name for name in made if not machine.is_running(fleet, name)]
    running = [name for name in made if name not in stopped]
    # Every machine is told the others' addresses: all are fixed before the first boots.
    for name in missing:
        machine.reserve(fleet, name)
    with _Watch(fleet) as watch, _creating(fleet, missing) as creating:
        for name in stopped:
            machine.start(fleet, name)
        for name in made:
            progress.stage(name, "booted")
        if running:
            _apply(fleet, running)
            for name in running:
                progress.stage(name, "configuring")
        progress.tell(f"machines: {len(missing)} to make, {len(stopped)} to start, {len(running)} to check")
        _follow(fleet, wanted, progress, watch, creating)
        if failed := _not_ready(wanted, progress):
            progress.tell(f"once more: {', '.join(failed)}")
            again = [name for name in failed if machine.is_running(fleet, name)]
            for name in failed:
                machine.start(fleet, name)
                progress.stage(name, "configuring" if name in again else "booted")
            if again:
                _apply(fleet, again)
            _follow(fleet, failed, progress, watch, None)
    if failed := _not_ready(wanted, progress):
        first = failed[0]
        why = progress.faults.get(
            first, f"no answer in {READY_SECONDS:g} s; {machine.last_words(fleet, first)}"
        )
        more = f" (and {len(failed) - 1} more: {', '.join(failed[1:])})" if failed[1:] else ""
        raise SalternError(f"{first}: {why}{more}; `./saltern up` goes on from here")


def _not_ready(names: Iterable[str], progress: Progress) -> list[str]:
    return [name for name in names if progress.machines[name] != "ready"]


@contextmanager
def _creating(fleet: Fleet, names: list[str]) -> Iterator[subprocess.Popen | None]:
    """Have salt-cloud make these machines, side by side; it ends with us if we are broken off."""
    if not names:
        yield None
        return
    by_role: dict[str, list[str]] = {}
    for name in names:
        by_role.setdefault(role_of(name), []).append(name)
    path = fleet.state_dir / "run" / "missing.map"
    path.write_text(json.dumps(by_role))
    with (fleet.state_dir / "log" / "create.log").open("w") as log:
        # Out of reach of Ctrl-C: its worker processes would end at that, and it would wait for them for ever.
        process = subprocess.Popen(
            master.command(fleet, "salt-cloud", "--log-level=warning", "-y", "-P", "-m", str(path)),
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    except BaseException:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise


def _apply(fleet: Fleet, names: list[str]) -> str:
    """Have machines take on their roles; the job's id."""
    done = subprocess.run(
        master.command(fleet, "salt", "--async", "-L", ",".join(names), "state.apply", "queue=True"),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SalternError(f"salt state.apply: {last_line(done.stderr or done.stdout)}")
    return last_line(done.stdout).split()[-1]


class _Watch:
    """The event bus, read by a thread of its own so that a deadline can be kept."""

    def __init__(self, fleet: Fleet) -> None:
        self._events = master.events(fleet)
        self.queue: queue.Queue[tuple[str, dict]] = queue.Queue()

    def __enter__(self) -> _Watch:
        stream = self._events.__enter__()
        self._thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()
        return self

    def _read(self, stream: Iterable[tuple[str, dict]]) -> None:
        for event in stream:
            self.queue.put(event)

    def next(self, seconds: float) -> tuple[str, dict] | None:
        """The next event, or None if there is none for so long."""
        try:
            return self.queue.get(timeout=seconds)
        except queue.Empty:
            return None

    def __exit__(self, *exc: object) -> None:
        self._events.__exit__(None, None, None)


def understand(tag: str, data: Mapping) -> tuple[str, str, object] | None:
    """What an event says about a machine: (machine, stage, details), or None.

    >>> understand("salt/minion/prod1/start", {"id": "prod1"})
    ('prod1', 'connected', None)
    """
    parts = tag.split("/")
    if parts[:2] == ["salt", "cloud"] and parts[3:] == ["created"]:
        return parts[2], "booted", None
    if parts[:2] == ["salt", "minion"] and parts[3:] == ["start"]:
        return parts[2], "connected", None
    if parts[:2] == ["salt", "job"] and data.get("fun") in ("state.apply", "state.highstate"):
        if parts[3:] == ["new"]:
            return ",".join(data.get("minions", [])), "configuring", None
        if parts[3:4] == ["ret"] and len(parts) == 5:
            return parts[4], "returned", data.get("return")
    return None


def outcome(returned: object) -> tuple[int, list[str]]:
    """How many states changed something, and what went wrong, from what a highstate returned."""
    if not isinstance(returned, dict):
        words = returned if isinstance(returned, list) else [returned or ""]
        return 0, [last_line(str(word)) for word in words if word] or ["the highstate returned nothing"]
    results = [r for r in returned.values() if isinstance(r, dict)]
    faults = [
        f"{r.get('__id__', '?')}: {last_line(str(r.get('comment')))}"
        for r in sorted(results, key=lambda r: r.get("__run_num__", 0))
        if r.get("result") is False
    ]
    # A requisite that failed is a consequence, not a cause.
    causes = [fault for fault in faults if "One or more requisite failed" not in fault]
    return sum(bool(r.get("changes")) for r in results), causes or faults


def _follow(
    fleet: Fleet, names: Iterable[str], progress: Progress, watch: _Watch, creating: subprocess.Popen | None
) -> None:
    """Read events until every machine has answered its highstate, or the deadline."""
    pending = set(names)
    end = time.monotonic() + READY_SECONDS
    while pending and time.monotonic() < end:
        if creating and creating.poll() is not None:
            _check_made(fleet, names, creating.returncode)
            creating = None
        try:
            event = understand(*watch.queue.get(timeout=0.5))
        except queue.Empty:
            progress.draw()
            for name in pending:
                if progress.machines[name] != "waiting" and not machine.is_running(fleet, name):
                    progress.faults[name] = f"it ended: {machine.last_words(fleet, name)}"
                    progress.stage(name, "failed")
            pending -= {name for name in pending if progress.machines[name] == "failed"}
            continue
        if event is None:
            continue
        who, stage, details = event
        for name in set(who.split(",")) & pending:
            if stage == "returned":
                changed, faults = outcome(details)
                progress.changed[name] = changed
                if faults:
                    progress.faults[name] = faults[0]
                progress.stage(name, "failed" if faults else "ready")
                pending.discard(name)
            elif STAGES.index(stage) > STAGES.index(progress.machines[name]):
                progress.stage(name, stage)


def _check_made(fleet: Fleet, names: Iterable[str], status: int) -> None:
    """salt-cloud has ended: every machine must be there now.

    :raises SalternError: one is not; with salt-cloud's own words
    """
    known = fleet.inventory()
    lacking = [name for name in names if not known.get(name, {}).get("made")]
    if status or lacking:
        log = fleet.state_dir / "log" / "create.log"
        errors = re.findall(r"Error:\s*(\S.*)|\[ERROR\s*\]\s*(.+)", log.read_text())
        words = "".join(errors[-1]) if errors else f"exit status {status}"
        raise SalternError(
            f"salt-cloud: {', '.join(lacking) or 'all'} not made: {words} (all of it: {log}); "
            "`./saltern up` goes on from here"
        )


def down(fleet: Fleet, *, purge: bool = False, tell: Callable[[str], None] = lambda _: None) -> None:
    """End everything that is the fleet's and remove every trace of it from this host.

    :param purge: remove the image too, if no other fleet runs on it
    :raises SalternError: something does not go away
    """
    tell("Salt master")
    master.stop(fleet)
    # Looked at again when all are gone: a salt-cloud that somebody started may have been making one meanwhile.
    while names := sorted(path.name for path in fleet.machines_dir.glob("*") if MACHINE_ID.match(path.name)):
        for name in names:
            tell(name)
            machine.destroy(fleet, name)
    cgroup.kill(fleet.cgroup)
    cgroup.remove(fleet.cgroup)
    tell("network")
    network.down(fleet)
    kernel.release(fleet)
    master.unlink(fleet)
    if fleet.state_dir.exists():
        master.remove(fleet)
    if purge:
        tell("image")
        image.purge()
