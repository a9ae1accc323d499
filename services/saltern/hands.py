"""What a roll does to machines: puts releases on disks, says what each shall run, has them apply it, asks them."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

from saltern import artifact, redis_runs
from saltern.errors import SalternError
from saltern.fleet import Fleet
from saltern.jobs import Jobs
from saltern.up import outcome

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

    def stage(self, ids: Sequence[str], release: str, seconds: float, alive: Alive) -> Mapping[str, str]:
        """Put a release on the disks, beside what runs; what went wrong, by machine."""

    def apply(self, ids: Sequence[str], states: str, seconds: float, alive: Alive) -> Mapping[str, str]:
        """Have machines apply states ("": all of theirs) and wait for the end; what went wrong, by machine."""

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

    def stage(self, ids: Sequence[str], release: str, seconds: float, alive: Alive) -> Mapping[str, str]:
        # Fetched, not unpacked: that needs a run of states, whose processor time a machine spends on switching anyway.
        source = f"salt://{_one(artifact.known(self.fleet), release).file}"
        said = self.jobs.call(ids, "cp.cache_file", [source], seconds=seconds, alive=alive, again=True)
        return {id_: f"{source} did not get there" for id_ in ids if not said.get(id_)}

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


def _one(known: Mapping[str, artifact.Artifact], id_: str) -> artifact.Artifact:
    if id_ not in known:
        raise SalternError(f"release {id_!r}: not kept; salt-run rollout.status lists those that are")
    return known[id_]
