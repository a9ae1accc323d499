"""Leads through the demo: looks whether the fleet is at rest, shows the chosen steps, and leaves all as it was."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from subprocess import SubprocessError
from types import FrameType
from typing import Any, Protocol

import redis

from saltern import artifact, master, stepping
from saltern.demo.plant import Plant, until
from saltern.demo.results import Result, Step
from saltern.demo.steps import BY, SHOWN, Scene
from saltern.errors import SalternError
from saltern.fleet import Fleet, role_of
from saltern.intents import Queue
from saltern.runners import EXPECTED
from saltern.steps import PAUSED, PROMOTED, STEPPING

REST_S = 300.0
"""How long a fleet may take to come to rest: one that was just made is busy for a while."""
FAILURES = (*EXPECTED, RuntimeError, OSError, ValueError, LookupError, HTTPException, SubprocessError)
"""What a step may come upon in a world that does not do what it should; the tour goes on to the next."""
CALM: dict[str, dict[str, Any]] = {
    # Never: an hour of samples.
    "beacons": {"cpu": [{"high": 100}, {"for": 3600}], "memory": [{"high": 100}, {"for": 3600}]},
    "scaling": {
        "pools": {"prod": {"auto": False}},
        "memory": {"auto": False},
        "healing": {"auto": False},
    },
}
"""With which nothing happens by itself but what a step is about: the load of one step shall not set off another."""


class Telling(Protocol):
    """Who is told how it goes."""

    def begins(self, fleet: str, machines: int, steps: Sequence[Step]) -> None: ...
    def step(self, step: Step) -> None: ...
    def note(self, kind: str, words: str) -> None: ...
    def ended(self, result: Result) -> None: ...
    def say(self, words: str) -> None: ...


class Interrupts:
    """Ctrl-C, and the other ways to be told to stop: the first one stops the tour, and none stops its putting back."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._held, self._stopped = say, 0, False

    def _told(self, number: int, frame: FrameType | None) -> None:
        first, self._stopped = not self._stopped, True
        self._say("stopping; the fleet is being put back as it was, which may take a minute")
        if first and not self._held:
            raise KeyboardInterrupt

    def hold(self) -> None:
        """From now on whoever stops us has to wait."""
        self._held += 1

    def release(self) -> None:
        """Not any more; what came meanwhile counts now.

        :raises KeyboardInterrupt: we were told to stop
        """
        self._held -= 1
        if self._stopped and not self._held:
            raise KeyboardInterrupt

    @contextmanager
    def caught(self) -> Iterator[Interrupts]:
        """Signals come here while the context lasts."""
        before = {number: signal.signal(number, self._told) for number in self.SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@dataclass(frozen=True)
class Found:
    """A fleet as far as the demo could leave it otherwise."""

    machines: dict[str, Any]
    split: int
    latched: bool
    instances: dict[str, tuple[str, str]]
    releases: dict[str, str]

    @classmethod
    def of(cls, plant: Plant) -> Found:
        state = plant.registry.snapshot()
        return cls(
            {name: about["memory"] for name, about in plant.fleet.inventory().items()},
            state.split.share,
            "canary" in state.latches,
            {id_: (each.want, each.release) for id_, each in state.instances.items()},
            {name: each.id for name, each in artifact.releases(plant.fleet).items()},
        )

    def differs(self, now: Found) -> list[str]:
        """What is not as it was, one line each."""
        return [
            f"{name}: was {before}, is {after}"
            for name, before in vars(self).items()
            if (after := getattr(now, name)) != before
        ]


def ready(fleet: Fleet) -> Plant:
    """The fleet's hands, once it is up and nothing is under way.

    :raises SalternError: it is not
    """
    fleet = Fleet.load(fleet.state_dir)
    remedy = f"`./saltern up --fleet {fleet.name}` brings it up"
    roles = {role_of(name) for name in fleet.inventory()}
    if missing := {"proxy", "redis", "prod"} - roles:
        raise SalternError(f"fleet {fleet.name}: has no {' and no '.join(sorted(missing))} machine; {remedy}")
    if not master.answers(fleet):
        raise SalternError(f"fleet {fleet.name}: its Salt master does not answer; {remedy}")
    try:
        plant = Plant(fleet, BY)
        plant.registry.snapshot()
    except (redis.RedisError, RuntimeError) as error:
        raise SalternError(f"fleet {fleet.name}: is not up ({error}); {remedy}") from error
    return plant


def rest(plant: Plant, say: Callable[[str], None], seconds: float = REST_S) -> None:
    """Wait until every instance serves, nothing fires and nothing is under way.

    :param say: told what is waited for
    :raises SalternError: not in time; what it is
    """
    queue = Queue(plant.registry.client)

    def unrest() -> str:
        state = plant.registry.snapshot()
        if away := sorted(state.instances.keys() - plant.serving()):
            return f"{', '.join(away)} gets no requests (salt-run fleet.status)"
        if going := queue.unfinished():
            return f"{going[0].kind} {going[0].pool} is under way (salt-run scale.status, rollout.status)"
        if stepping.look(plant.registry).steps.phase in (STEPPING, PAUSED, PROMOTED):
            return "a release is on its way by steps (salt-run canary.status)"
        firing = [a for a in plant.alerts.all() if a.severity != "info" and a.at(time.time()).firing]
        return f"{firing[0].name} of {firing[0].subject} fires (salt-run alert.list)" if firing else ""

    if words := unrest():
        say(f"waits until the fleet is at rest: {words}")
    try:
        until(lambda: not unrest(), seconds, "rest", 0.2)
    except RuntimeError as error:
        raise SalternError(f"fleet {plant.fleet.name}: the demo needs it at rest, and {unrest()}") from error


def lead(fleet: Fleet, chosen: Sequence[Step], tell: Telling, results: list[Result]) -> None:
    """Show the chosen steps; what they came to is added to `results`, one by one.

    :raises SalternError: the fleet is not up, not at rest, another demo is under way, or it is not as it was found
    :raises KeyboardInterrupt: somebody stopped it; the fleet is as it was
    """
    plant = ready(fleet)
    shows = dict(zip((step.name for step, _ in SHOWN), (show for _, show in SHOWN), strict=True))
    with plant.fleet.locked("demo", wait=False), Interrupts(tell.say).caught() as interrupts:
        for path in plant.put_back():
            tell.say(f"{path}: put back what a demo that was killed had changed")
        names = list(plant.fleet.inventory())
        tell.begins(plant.fleet.name, len(names), chosen)
        rest(plant, tell.say)
        found = Found.of(plant)
        stack = ExitStack()
        try:
            try:
                if any(step.calm for step in chosen):
                    tell.say("what the fleet does by itself waits, but for what a step is about")
                    stack.enter_context(_calm(plant))
                numbers = Counter(map(role_of, names))
                for step in chosen:
                    if lacks := step.lacks(numbers):
                        results.append(Result(step, skipped=lacks))
                    else:
                        _show(step, shows[step.name], plant, tell, interrupts, results)
                    tell.ended(results[-1])
            finally:
                interrupts.hold()
        finally:
            stack.close()
            # A new connection: who is primary may have changed.
            if left := found.differs(Found.of(Plant(plant.fleet, BY))):
                raise SalternError(f"fleet {plant.fleet.name}: not as it was found: {'; '.join(left)}")
            tell.say("the fleet is as it was found")
        interrupts.release()


@contextmanager
def _calm(plant: Plant) -> Iterator[None]:
    """Nothing happens by itself; machines that are made meanwhile are told in the end, too."""
    try:
        with plant.set(**CALM):
            plant.configure()
            yield
    finally:
        plant.configure()


def _show(
    step: Step,
    show: Callable[[Scene], Any],
    plant: Plant,
    tell: Telling,
    interrupts: Interrupts,
    results: list[Result],
) -> None:
    """Show one step and put back what it did, however it ends."""
    tell.step(step)
    began = time.monotonic()
    broken: list[str] = []
    figure, ended = None, False
    stack = ExitStack()
    # A hand of its own: a step before may have had another Redis become primary.
    scene = Scene(Plant(plant.fleet, BY), stack, tell.note)
    try:
        try:
            outcome = show(scene)
            figure, broken, ended = outcome.figure, list(outcome.broken), True
        except FAILURES as error:
            broken.append(str(error) or type(error).__name__)
            ended = True
        finally:
            interrupts.hold()
    finally:
        try:
            stack.close()
        except FAILURES as error:
            broken.append(f"not put back: {error}")
        if ended:
            took = time.monotonic() - began
            results.append(Result(step, figure, tuple(scene.notes), tuple(broken), "", took))
    interrupts.release()
