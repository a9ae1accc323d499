"""What a roll does to machines: puts releases on disks, says what each shall run, has them apply it, asks them."""

from __future__ import annotations

import json
import logging
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

from saltern import artifact, bucket, redis_runs
from saltern.errors import SalternError
from saltern.fleet import Fleet
from saltern.jobs import Jobs
from saltern.local import machine
from saltern.shell import last_line
from saltern.up import outcome

log = logging.getLogger("saltern.hands")

ASK_SECONDS = 2.0
LONGEST_ANSWER = 65_536

Alive = Callable[[], None]
"""Called while something takes long; what it raises ends the waiting."""


class Hands(Protocol):
    """What a roll does. Everything raises SalternError when it fails."""

    def known(self) -> Collection[str]:
        """Every release there is."""

    def wanted(self, pool: str) -> str:
        """The release that a pool shall run."""

    def assign(self, changes: Mapping[str, str], drop: Iterable[str] = ()) -> None:
        """Say which release pools and machines shall run, and which machines what their pool does."""

    def look(self, ids: Sequence[str], seconds: float, alive: Alive) -> Mapping[str, Sequence[str]]:
        """The states that are not as they should be, by machine; one that does not say so in time is missing."""

    def stage(
        self, ids: Sequence[str], release: str, last: int, seconds: float, alive: Alive
    ) -> Mapping[str, str]:
        """Put a release on the disks, beside what runs; what went wrong, by machine.

        :param last: how many releases of each pool stay there; older ones make room
        """

    def switch(
        self, ids: Sequence[str], release: str, idle: bool, seconds: float, alive: Alive
    ) -> Mapping[str, str]:
        """Have the product run a release that is assigned, and nothing else; what went wrong, by machine.

        :param idle: whether they are drained, so that nothing is waited for before the old one ends
        """

    def apply(self, ids: Sequence[str], states: str, seconds: float, alive: Alive) -> Mapping[str, str]:
        """Have machines apply states ("": all of theirs) and wait for the end; what went wrong, by machine."""

    def favour(self, ids: Sequence[str], times: float) -> None:
        """Have machines get, together, so many times what one other that shares their processors does; 1.0: no more."""

    def ask(self, address: str, port: int, path: str) -> Any:
        """What an instance itself answers, as JSON."""

    def machines(self) -> Collection[str]:
        """Every machine whose making was finished."""

    def redis_primary(self) -> str:
        """The Redis machine that is primary now."""

    def redis_whole(self) -> str:
        """What is wrong with the Redis machines; empty when nothing is."""


class FleetHands:
    """The hands for one fleet, on its master."""

    def __init__(self, fleet: Fleet, jobs: Jobs) -> None:
        self.fleet = fleet
        self.jobs = jobs

    def known(self) -> Collection[str]:
        return artifact.known(self.fleet).keys()

    def wanted(self, pool: str) -> str:
        found = artifact.releases(self.fleet).get(pool)
        if found is None:
            raise SalternError(f"release of {pool!r}: none was built; `./saltern up` builds it")
        return found.id

    def assign(self, changes: Mapping[str, str], drop: Iterable[str] = ()) -> None:
        known = artifact.known(self.fleet)
        artifact.want(self.fleet, {name: _one(known, id_) for name, id_ in changes.items()}, drop=drop)

    def stage(
        self, ids: Sequence[str], release: str, last: int, seconds: float, alive: Alive
    ) -> Mapping[str, str]:
        bucket.restore(self.fleet, _one(artifact.known(self.fleet), release))
        keep = sorted(artifact.on_disks(self.fleet, last))
        said = self._release("put", ids, release, seconds, alive, keep=keep)
        late = f"{release} was not put on its disk within {seconds:g} s"
        return {id_: _refused(said[id_]) if id_ in said else late for id_ in ids if not _took(said.get(id_))}

    def look(self, ids: Sequence[str], seconds: float, alive: Alive) -> Mapping[str, Sequence[str]]:
        options = {"queue": True, "test": True}
        said = self.jobs.call(ids, "state.apply", [], options, seconds=seconds, alive=alive, again=True)
        return {id_: differing(answer) for id_, answer in said.items()}

    def switch(
        self, ids: Sequence[str], release: str, idle: bool, seconds: float, alive: Alive
    ) -> Mapping[str, str]:
        said = self._release("switch", ids, release, seconds, alive, idle=idle)
        late = f"it was not switched to {release} within {seconds:g} s"
        faults = {id_: late for id_ in ids if id_ not in said}
        if odd := [id_ for id_ in ids if id_ in said and not _took(said[id_])]:
            log.warning("%s: %s; the product's states are applied", ", ".join(odd), _refused(said[odd[0]]))
            faults |= self.apply(odd, "product", seconds, alive)
        return faults

    def _release(
        self, what: str, ids: Sequence[str], release: str, seconds: float, alive: Alive, **more: Any
    ) -> Mapping[str, Any]:
        one = _one(artifact.known(self.fleet), release)
        arguments = [one.id, f"salt://{one.file}", one.sha256, one.platform]
        return self.jobs.call(
            ids, f"release.{what}", arguments, more, seconds=seconds, alive=alive, again=True
        )

    def apply(self, ids: Sequence[str], states: str, seconds: float, alive: Alive) -> Mapping[str, str]:
        names = [states] if states else []
        said = self.jobs.call(
            ids, "state.apply", names, {"queue": True}, seconds=seconds, alive=alive, again=True
        )
        faults = {}
        for id_ in ids:
            if id_ not in said:
                faults[id_] = f"its states were not applied within {seconds:g} s"
            elif found := outcome(said[id_])[1]:
                faults[id_] = found[0]
        return faults

    def favour(self, ids: Sequence[str], times: float) -> None:
        machine.favour(self.fleet, ids, times)

    def ask(self, address: str, port: int, path: str) -> Any:
        url = f"http://{address}:{port}{path}"
        try:
            with urllib.request.urlopen(url, timeout=ASK_SECONDS) as answer:
                return json.loads(answer.read(LONGEST_ANSWER))
        except (OSError, urllib.error.URLError, ValueError) as error:
            raise SalternError(f"{url}: {error}") from error

    def machines(self) -> Collection[str]:
        return [id_ for id_, about in self.fleet.inventory().items() if about["made"]]

    def redis_primary(self) -> str:
        return redis_runs.primary(self.fleet)

    def redis_whole(self) -> str:
        seen = redis_runs.status(self.fleet)["machines"]
        for id_, about in seen.items():
            if about["role"] == "away":
                return f"{id_} is away: {about['why']}"
            if about["role"] == "replica" and about["link"] != "up":
                return f"{id_} does not follow {about['of']}"
        return ""


def differing(returned: object) -> list[str]:
    """The states that would change something or could not, from what a highstate in test mode returned."""
    if not isinstance(returned, dict):
        return outcome(returned)[1]
    return [str(each.get("__id__", "?")) for each in returned.values() if each.get("result") is not True]


def _took(said: object) -> bool:
    """Whether a function of salt/_modules/release.py did what it should."""
    return isinstance(said, Mapping) and "release" in said


def _refused(said: object) -> str:
    return last_line(str(said))


def _one(known: Mapping[str, artifact.Artifact], id_: str) -> artifact.Artifact:
    if id_ not in known:
        raise SalternError(f"release {id_!r}: not kept; salt-run rollout.status lists those that are")
    return known[id_]
