"""Many machines made at once against a fake cloud that fails: what came up, what did not, what is left over."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from cloud_fakes import Fake, QuickClock
from cloud_stand import make_cloud
from saltern.clouds import ledger
from saltern.clouds.cloud import Wanted
from saltern.errors import SalternError
from saltern.fleet import Fleet


@dataclass(frozen=True)
class Outcome:
    """What making machines came to.

    :ivar up: the addresses of those that were made, by name
    :ivar failed: why the others were not
    :ivar orphans: what the cloud has and nobody wants: no machine's, or a second one by a name
    :ivar noted: names that are still written down as begun
    :ivar requests: to the cloud, by kind
    :ivar wrong: how many of them went wrong, by how
    :ivar waited: seconds each machine's maker slept, on a clock that does not wait; in the order of the names
    :ivar seconds: real ones, for all together
    """

    up: Mapping[str, str]
    failed: Mapping[str, str]
    orphans: Sequence[str]
    noted: Sequence[str]
    requests: Mapping[str, int]
    wrong: Mapping[str, int]
    waited: Sequence[float]
    seconds: float


def storm(fake: Fake, given: Mapping[str, Any], fleet: Fleet, names: Sequence[str]) -> Outcome:
    """Make machines by these names side by side."""

    def make(name: str) -> tuple[str, str | None, str, float]:
        clock = QuickClock()
        try:
            cloud = make_cloud(given, fleet, fake.port, clock)
            set_ = cloud.settings
            node = cloud.create(
                Wanted(name, set_.size("small"), set_.image, set_.location, "#cloud-config\n{}\n")
            )
            return name, node.address, "", clock.slept
        except SalternError as error:
            return name, None, str(error), clock.slept

    began = time.perf_counter()
    with ThreadPoolExecutor(len(names)) as pool:
        made = list(pool.map(make, names))
    up = {name: address for name, address, _, _ in made if address}
    there = Counter(fake.names())
    return Outcome(
        up=up,
        failed={name: why for name, address, why, _ in made if not address},
        orphans=sorted((there - Counter(list(up))).elements()),
        noted=[entry.name for entry in ledger.entries(fleet) if not entry.made],
        requests=dict(fake.requests),
        wrong=dict(fake.failed),
        waited=[slept for *_, slept in made],
        seconds=time.perf_counter() - began,
    )
