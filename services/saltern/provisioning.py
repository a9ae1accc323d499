"""Making, replacing, resizing and giving up machines: the steps of each slow intent, and the hands that carry them out.

Each step looks first and does only what is missing, so that it can be broken off anywhere, its own middle included, and
be carried out again. What it decided (which names, which sizes) is recorded before the next step acts on it.
"""

from __future__ import annotations

import fcntl
import json
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import redis

from saltern import master
from saltern.alert_store import Alarm
from saltern.errors import SalternError
from saltern.fleet import Fleet, role_of
from saltern.intents import Intent
from saltern.local import machine
from saltern.pillar import POOL_OF_ROLE
from saltern.registry import PREFIX, Registry, State, UnknownInstance
from saltern.scaling import Member, free_names, number_of, youngest_first
from saltern.shell import last_line

ROLE_OF_POOL = {pool: role for role, pool in POOL_OF_ROLE.items()}
OBSERVED = PREFIX + "observed"
"""What the controller says that HAProxy sees; it expires when the controller is silent."""
SIZES = PREFIX + "sizes"
"""Hash: machine → JSON of the memory it was made with (MiB), and when its limit last changed (unix seconds)."""
ABSENT = PREFIX + "absent"
"""Set of machines whose minions do not answer, as a person was told."""
MISSED = PREFIX + "missed"
"""Set of machines that Salt said it misses or sees again, until their minions have been asked."""
WHO = "conductor"
CLOUD_SECONDS = 600.0
PING_SECONDS = 3
POLL_SECONDS = 0.2
FAVOUR = 8.0
"""How many times the processor time of another machine those get together that are being configured: the others keep
enough to answer HAProxy's checks in time."""


class Refused(Exception):
    """An intent that should not be carried out, now that the facts have been looked at again; the text says why."""


class Ended(Exception):
    """An intent that came to a bad end which has been dealt with and told already; the text says why."""


class Interrupted(Exception):
    """The conductor is to stop; the intent stays where it is and is gone on with later."""


@dataclass(frozen=True)
class Machine:
    """A machine as the cloud knows it.

    :ivar made: whether its making was finished
    :ivar since: when it was made, unix seconds; tells a machine from another by the same name
    :ivar memory: MiB
    """

    id: str
    made: bool
    since: float
    memory: int


class World(Protocol):
    """What the conductor can do to machines. Everything raises SalternError when it fails."""

    def machines(self) -> Mapping[str, Machine]:
        """Every machine there is."""

    def create(self, role: str, ids: Sequence[str]) -> None:
        """Make those of these machines that are not made."""

    def destroy(self, id_: str) -> None:
        """End a machine; none by this id is no error."""

    def resize(self, id_: str, memory: int) -> None:
        """Set a machine's memory limit, MiB."""

    def present(self, ids: Sequence[str]) -> set[str]:
        """Those whose minions answer."""

    def configure(self, ids: Sequence[str]) -> None:
        """Have these apply their states, without waiting for the end."""

    def favour(self, ids: Sequence[str], times: float) -> None:
        """Have machines get, together, so many times what one other that shares their processors does; 1.0: no more."""


class SaltCloud:
    """The world through Salt's own commands, run for one fleet."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet

    def machines(self) -> dict[str, Machine]:
        return {
            id_: Machine(id_, about["made"], about["since"], about["memory"])
            for id_, about in self.fleet.inventory().items()
        }

    def create(self, role: str, ids: Sequence[str]) -> None:
        with self._held(ids) as handles:
            missing = [id_ for id_ in ids if not self._made(id_)]
            if not missing:
                return
            side_by_side = ["-P"] if missing[1:] else []
            said = self._cloud(handles, *side_by_side, "-p", role, *missing)
            # salt-cloud may end with status 0 though a machine failed.
            if lacking := [id_ for id_ in missing if not self._made(id_)]:
                raise SalternError(f"salt-cloud -p {role}: {', '.join(lacking)} not made: {said}")

    def destroy(self, id_: str) -> None:
        with self._held([id_]) as handles:
            if id_ not in self.fleet.inventory():
                return
            said = self._cloud(handles, "-d", id_)
            if id_ in self.fleet.inventory():
                raise SalternError(f"salt-cloud -d {id_}: it is still there: {said}")

    def resize(self, id_: str, memory: int) -> None:
        with self._held([id_]) as handles:
            if (about := self.machines().get(id_)) and about.memory == memory:
                return
            said = self._cloud(handles, "-a", "resize", id_, f"memory={memory}")
            about = self.machines().get(id_)
            if about is None or about.memory != memory:
                has = f"has {about.memory} MiB" if about else "is not there"
                raise SalternError(f"salt-cloud -a resize {id_} memory={memory}: it {has}: {said}")

    def present(self, ids: Sequence[str]) -> set[str]:
        if not ids:
            return set()
        # The runner, not `salt test.ping`: it alone takes how long the master waits for those that say nothing.
        waits = (f"timeout={PING_SECONDS}", f"gather_job_timeout={PING_SECONDS}")
        done = self._run(
            "salt-run", "--out=json", "--log-level=quiet", "manage.up", f"tgt={','.join(ids)}", "tgt_type=list", *waits,
            timeout=60,
        )  # fmt: skip
        try:
            answers = json.loads(done.stdout)
        except ValueError as error:
            raise SalternError(f"salt-run manage.up: {last_line(done.stderr or done.stdout)}") from error
        if not isinstance(answers, list):
            raise SalternError(f"salt-run manage.up: answered {answers!r}")
        return set(ids) & {id_ for id_ in answers if isinstance(id_, str)}

    def configure(self, ids: Sequence[str]) -> None:
        done = self._run("salt", "--async", "-L", ",".join(ids), "state.apply", "queue=True", timeout=60)
        if done.returncode:
            raise SalternError(f"salt state.apply: {last_line(done.stderr or done.stdout)}")

    def _made(self, id_: str) -> bool:
        return bool(self.fleet.inventory().get(id_, {}).get("made"))

    def _held(self, ids: Iterable[str]) -> _Held:
        return _Held(self.fleet.state_dir / "locks", sorted(ids))

    def favour(self, ids: Sequence[str], times: float) -> None:
        machine.favour(self.fleet, ids, times)

    def _cloud(self, handles: Sequence[int], *arguments: str) -> str:
        """Run salt-cloud; its last words. It holds the machines' locks itself, until it ends, whoever started it."""
        done = self._run(
            "salt-cloud", "-y", "--log-level=error", *arguments, handles=handles, timeout=CLOUD_SECONDS
        )
        if done.returncode:
            raise SalternError(f"salt-cloud {' '.join(arguments)}: {last_line(done.stderr or done.stdout)}")
        return last_line(done.stderr or done.stdout)

    def _run(
        self, program: str, *arguments: str, timeout: float, handles: Sequence[int] = ()
    ) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                master.command(self.fleet, program, *arguments),
                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False,
                pass_fds=tuple(handles), cwd=self.fleet.state_dir,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise SalternError(
                f"{program} {' '.join(arguments)}: still running after {timeout:g} s"
            ) from error


class _Held:
    """Locks on machines that a program can inherit.

    When the master dies in the middle, the salt-cloud it started may live on. Whoever resumes waits here until that one
    has ended, and then sees what it left, instead of running a second one beside it.
    """

    def __init__(self, folder: Path, ids: Sequence[str]) -> None:
        self._paths = [folder / f"cloud-{id_}" for id_ in ids]
        self._stack = ExitStack()

    def __enter__(self) -> list[int]:
        handles = []
        for path in self._paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = self._stack.enter_context(path.open("w"))
            fcntl.flock(handle, fcntl.LOCK_EX)
            handles.append(handle.fileno())
        return handles

    def __exit__(self, *exc: object) -> None:
        self._stack.close()


# --- the steps


@dataclass(frozen=True)
class Limits:
    """How long steps wait, seconds.

    :ivar serve_s: until a machine that was made serves
    :ivar configure_s: until one that has not registered is told to apply its states (again)
    :ivar drain_s: until the requests of one that is given up are over
    """

    serve_s: float
    configure_s: float
    drain_s: float


@dataclass
class Work:
    """One intent at work: what it is about, what is known so far, and everything a step may use."""

    intent: Intent
    world: World
    registry: Registry
    client: redis.Redis
    limits: Limits
    fire: Callable[[str, Mapping[str, Any]], None]
    alarm: Callable[[Alarm], None]
    stopping: Callable[[], bool]
    facts: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    floor: Callable[[str], int] = lambda pool: 1

    def observed(self) -> Mapping[str, Any] | None:
        """What HAProxy sees; None when the controller says nothing."""
        text = self.client.get(OBSERVED)
        return json.loads(text) if text else None

    def wait(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Poll until `condition`.

        :raises SalternError: not in time
        :raises Interrupted: the conductor is to stop
        """
        end = time.monotonic() + seconds
        while not condition():
            if self.stopping():
                raise Interrupted
            if time.monotonic() > end:
                raise SalternError(f"{what}: not within {seconds:g} s")
            time.sleep(POLL_SECONDS)


Facts = Mapping[str, Any]
Step = tuple[str, Callable[[Work], Facts]]


def members(
    pool: str, machines: Mapping[str, Machine], state: State, observed: Mapping[str, Any] | None
) -> list[Member]:
    """The machines of a pool that are there and are to stay: made or registered, and not drained by anybody."""
    role = ROLE_OF_POOL[pool]
    servers = (observed or {}).get("servers", {})
    found = []
    for id_ in sorted({i for i, m in machines.items() if m.made} | set(state.instances), key=number_of):
        instance = state.instances.get(id_)
        if role_of(id_) != role or (instance and instance.want != "ready"):
            continue
        since = machines[id_].since if id_ in machines else instance.since if instance else 0.0
        serving = instance is not None and servers.get(id_, {}).get("phase") == "ready"
        found.append(Member(id_, since, serving))
    return found


def _members(work: Work, pool: str) -> list[Member]:
    return members(pool, work.world.machines(), work.registry.snapshot(), work.observed())


def choose(work: Work) -> Facts:
    """Decide which machines to make or to give up for the pool to have as many as it should."""
    pool, to = work.intent.pool, int(work.intent.args["to"])
    there = _members(work, pool)
    missing = to - len(there)
    if missing > 0:
        taken = {*work.world.machines(), *work.registry.snapshot().instances}
        # A half-made machine of an earlier attempt is nobody's: its name is taken again.
        taken -= {id_ for id_, machine in work.world.machines().items() if not machine.made}
        return {"add": free_names(ROLE_OF_POOL[pool], taken, missing), "remove": [], "was": len(there)}
    if missing < 0 and to < work.floor(pool) and not work.intent.args.get("force"):
        raise Refused(f"pool {pool} keeps {work.floor(pool)} machines; `force=True` takes more away")
    going = youngest_first(there)[: max(0, min(-missing, len(there) - 1))]
    return {"add": [], "remove": [[m.id, m.since] for m in going], "was": len(there)}


def make(work: Work) -> Facts:
    """Have salt-cloud make the machines that were chosen."""
    names = work.facts["choose"]["add"]
    if names:
        work.world.create(ROLE_OF_POOL[work.intent.pool], names)
    return {"made": names}


def serve(work: Work) -> Facts:
    """Wait until they answer requests."""
    bring_to_service(work, work.facts["choose"]["add"])
    return {"serving": work.facts["choose"]["add"]}


@contextmanager
def favoured(favour: Callable[[Sequence[str], float], None], names: Sequence[str]) -> Iterator[None]:
    """Machines that are at work on a change wait less for the others, where they share processors.

    :param favour: the world's, or a roll's hands'
    """
    favour(names, FAVOUR)
    try:
        yield
    finally:
        favour(names, 1.0)


def bring_to_service(work: Work, names: Sequence[str]) -> None:
    """Wait until machines serve. One whose minion never answered is ended, for the next attempt to make it anew.

    :raises SalternError: some do not serve in time
    """
    if not names:
        return
    work.world.create(role_of(names[0]), names)
    # Those it is to help leave it none.
    with favoured(work.world.favour, names):
        try:
            await_service(work, names)
        except SalternError:
            for id_ in sorted(set(names) - work.world.present(names)):
                work.world.destroy(id_)
            raise


def await_service(work: Work, names: Sequence[str]) -> None:
    """Wait until machines answer requests; one that nobody configured is told to apply its states."""
    began = time.monotonic()
    told: set[str] = set()

    def ready() -> bool:
        servers = (work.observed() or {}).get("servers", {})
        waiting = {id_ for id_ in names if servers.get(id_, {}).get("phase") != "ready"}
        late = waiting - told
        if late and time.monotonic() - began >= work.limits.configure_s:
            # Its start was announced while the master was away: the reflex that configures it did not happen.
            if here := sorted(work.world.present(sorted(late))):
                work.world.configure(here)
            told.update(here)
        return not waiting

    work.wait(ready, work.limits.serve_s, f"{', '.join(names)} to serve")


def drain(work: Work) -> Facts:
    """Send nobody new to the machines that are given up, and wait until their requests are over."""
    names = [id_ for id_, _ in work.facts["choose"]["remove"]]
    for id_ in names:
        try:
            work.registry.want(id_, "drain", limit_s=work.limits.drain_s, by=WHO, cause=work.intent.journal)
        except UnknownInstance:
            continue  # never registered: nobody is sent there

    def idle() -> bool:
        observed = work.observed()
        if observed is None:
            return False  # no data is not good news
        for id_ in names:
            server = observed["servers"].get(id_)
            if id_ in observed.get("kept", {}):
                raise Refused(f"{id_} stays: {observed['kept'][id_]}")
            if server and server["phase"] != "idle":
                return False
        return True

    # The controller cuts what is left at the limit; a few seconds for it to say so.
    work.wait(idle, work.limits.drain_s + 15, f"{', '.join(names)} to drain")
    return {"drained": names}


def give_up(work: Work) -> Facts:
    """End the drained machines and strike them off; never another one that has taken the name since."""
    machines = work.world.machines()
    for id_, since in work.facts["choose"]["remove"]:
        if id_ in machines and machines[id_].since == since:
            work.world.destroy(id_)
        if id_ not in work.world.machines():
            work.registry.unregister(id_, by=WHO, cause=work.intent.journal)
            work.client.hdel(SIZES, id_)
    return {"ended": [id_ for id_, _ in work.facts["choose"]["remove"]]}


def tell_scaled(work: Work) -> Facts:
    """Say on the event bus what was done."""
    add = work.facts["choose"]["add"]
    remove = [id_ for id_, _ in work.facts["choose"]["remove"]]
    for direction, names in (("out", add), ("in", remove)):
        if names:
            _tell(work, f"saltern/scale/{direction}", {"pool": work.intent.pool, "machines": names})
    return {"add": add, "remove": remove}


def undo_scale(work: Work, error: str) -> None:
    """The pool could not be brought there: what never served goes away again, what was not ended serves again."""
    chosen = work.facts.get("choose", {})
    servers = (work.observed() or {}).get("servers", {})
    for id_ in chosen.get("add", ()):
        if servers.get(id_, {}).get("phase") != "ready":
            work.world.destroy(id_)
            work.registry.unregister(id_, by=WHO, cause=work.intent.journal)
    if "drain" not in work.facts:
        for id_, _ in chosen.get("remove", ()):
            try:
                work.registry.want(id_, "ready", by=WHO, cause=work.intent.journal)
            except UnknownInstance:
                continue


def verify_gone(work: Work) -> Facts:
    """Look again whether the machine really is gone: what was decided may be over."""
    id_ = work.intent.args["machine"]
    instance = work.registry.snapshot().instances.get(id_)
    if instance is None or instance.want != "ready":
        raise Refused(f"{id_} is not wanted any more")
    observed = work.observed()
    if observed is None or id_ not in observed["servers"]:
        raise Refused(f"{id_}: HAProxy says nothing of it")
    if observed["servers"][id_]["up"]:
        raise Refused(f"{id_} is back: HAProxy reaches it")
    if work.world.present([id_]):
        raise Refused(f"{id_} is back: its minion answers")
    found = work.world.machines().get(id_)
    return {"machine": id_, "since": found.since if found else None}


def clear_lost(work: Work) -> Facts:
    """End what is left of the machine, unless it is a new one already; nobody is sent to its address."""
    id_, since = work.facts["verify"]["machine"], work.facts["verify"]["since"]
    found = work.world.machines().get(id_)
    if found is not None and found.since == since:
        work.world.destroy(id_)
    if id_ not in work.world.machines():
        work.registry.unregister(id_, by=WHO, cause=work.intent.journal)
        work.client.hdel(SIZES, id_)
    return {"ended": id_}


def make_again(work: Work) -> Facts:
    """Make a machine by the same name; the lost one, should it come back, has a key nobody accepts."""
    id_ = work.facts["verify"]["machine"]
    work.world.create(role_of(id_), [id_])
    return {"made": id_}


def serve_again(work: Work) -> Facts:
    bring_to_service(work, [work.facts["verify"]["machine"]])
    return {"serving": work.facts["verify"]["machine"]}


def tell_healed(work: Work) -> Facts:
    """Say on the event bus that it serves; its alert is over once it is seen to."""
    id_ = work.facts["verify"]["machine"]
    _tell(work, "saltern/scale/healed", {"pool": work.intent.pool, "machines": [id_]})
    return {"machine": id_}


def give_up_healing(work: Work, error: str) -> None:
    """It could not be replaced, and nothing will try again by itself: a person has to know what is left to do."""
    id_ = work.facts.get("verify", {}).get("machine")
    if id_ is None:
        return  # it was not taken away either; whether it is still gone is decided anew
    work.alarm(
        Alarm(
            "MachineLost",
            id_,
            f"{id_} is gone and could not be replaced: {error}",
            severity="critical",
            done=f"ended what was left of {id_}" if "clear" in work.facts else "nothing more",
            undo=f"salt-cloud -p {role_of(id_)} {id_}",
            cause=work.intent.journal,
        )
    )


def measure(work: Work) -> Facts:
    """Find out what memory the machine has, and what it was made with: afterwards that could not be told."""
    id_ = work.intent.args["machine"]
    found = work.world.machines().get(id_)
    if found is None or not found.made:
        raise Refused(f"{id_} is no more")
    return {"from": found.memory, "base": size_of(work.client, found)["base"]}


def size_of(client: redis.Redis, machine: Machine) -> dict[str, Any]:
    """What is kept of a machine's memory: the MiB it was made with, and when its limit last changed (unix seconds)."""
    kept = client.hget(SIZES, machine.id)
    return json.loads(kept) if kept else {"base": machine.memory, "changed": 0.0}


def change_size(work: Work) -> Facts:
    """Give the machine the memory it should have."""
    id_, to, known = work.intent.args["machine"], int(work.intent.args["to"]), work.facts["measure"]
    work.client.hset(SIZES, id_, json.dumps({"base": known["base"], "changed": time.time()}))
    work.world.resize(id_, to)
    return {"machine": id_, "to": to, **known}


def tell_resized(work: Work) -> Facts:
    facts = work.facts["resize"]
    _tell(work, "saltern/scale/up", {"pool": work.intent.pool, **facts})
    grown = facts["to"] > facts["base"]
    work.alarm(
        Alarm(
            "MemoryResized",
            facts["machine"],
            f"{facts['machine']} has {facts['to']} MiB of memory now",
            done=work.intent.args.get("why", ""),
            cause=work.intent.journal,
            firing=grown,
            undo=f"salt-cloud -a resize {facts['machine']} memory={facts['base']}",
        )
    )
    return facts


def look_absent(work: Work) -> Facts:
    """Ask the minions that Salt misses whether they really do not answer, and let a person know of those.

    A person who was told is told as well when it is over: the minion answers, or the machine is no more.
    """
    missed, told = work.client.smembers(MISSED), work.client.smembers(ABSENT)
    there = work.world.machines().keys()
    asked = sorted((missed | told) & there)
    absent = set(asked) - work.world.present(asked)
    for id_ in sorted(absent | told):
        firing = id_ in absent
        says = (
            "'s minion does not answer" if firing else "'s minion answers" if id_ in there else " is no more"
        )
        work.alarm(
            Alarm(
                "MinionAbsent",
                id_,
                id_ + says,
                undo=f"salt-cloud -a start {id_}" if firing else "",
                cause=work.intent.journal,
                firing=firing,
            )
        )
        (work.client.sadd if firing else work.client.srem)(ABSENT, id_)
    if missed:
        work.client.srem(MISSED, *missed)
    return {"absent": sorted(absent), "over": sorted(told - absent)}


def canary_off(work: Work) -> Facts:
    """Latch the canary off."""
    reason = str(work.intent.args["reason"])
    change = work.registry.canary_off(reason, cause=work.intent.cause, by=work.intent.by or WHO)
    return {"reason": reason, "changed": change.changed}


def give_alarm(work: Work) -> Facts:
    """Hand an alarm to whoever takes them."""
    work.alarm(Alarm(**{"cause": work.intent.journal, **work.intent.args}))
    return dict(work.intent.args)


def _tell(work: Work, tag: str, data: Mapping[str, Any]) -> None:
    work.fire(tag, {**data, "intent": work.intent.id, "cause": work.intent.journal})


@dataclass(frozen=True)
class Kind:
    """What an intent of a kind does.

    :ivar priority: lower goes first
    :ivar steps: in order; or what says which is next once the one before is written down. A step named
        ``subject/what#number`` is told of its subject in the journal, others of the pool
    :ivar urgent: not held up by what its pool is at work on
    :ivar undo: called when it is given up; :ivar undone: what has been done then, for a person
    :ivar failed_tag: the event that says that it was given up
    """

    priority: int
    steps: tuple[Step, ...] | Callable[[Work], Iterator[Step]]
    urgent: bool = False
    undo: Callable[[Work, str], None] | None = None
    undone: str = "nothing more"
    failed_tag: str = "saltern/scale/failed"

    def each(self, work: Work) -> Iterator[Step]:
        """The steps, in order."""
        return self.steps(work) if callable(self.steps) else iter(self.steps)


KINDS: Mapping[str, Kind] = {
    "canary.off": Kind(0, (("off", canary_off),), urgent=True),
    "alert": Kind(1, (("alarm", give_alarm),), urgent=True),
    "heal": Kind(
        2,
        (
            ("verify", verify_gone), ("clear", clear_lost), ("make", make_again), ("serve", serve_again),
            ("tell", tell_healed),
        ),
        undo=give_up_healing,
    ),
    "scale": Kind(
        3,
        (
            ("choose", choose), ("make", make), ("serve", serve), ("drain", drain), ("end", give_up),
            ("tell", tell_scaled),
        ),
        undo=undo_scale, undone="what it had begun was taken back",
    ),
    "resize": Kind(4, (("measure", measure), ("resize", change_size), ("tell", tell_resized))),
    "absent": Kind(5, (("look", look_absent),)),
}  # fmt: skip
"""Every kind of intent; deciding which one there is to be is `conductor`'s."""
