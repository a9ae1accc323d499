"""The feature flags of the live fleet, for tests that flip them and leave them as they were."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import redis
from fleet_commands import Live, run, wait_for
from openfeature_redis import flagset
from saltern import members
from saltern.fleet import Fleet

BY = {"who": "test", "why": "test"}
# One instance in ten is the least that a request may fall on; so many miss it once in a million runs.
REQUESTS = 120


@dataclass(frozen=True)
class Flags:
    """The flags, and the instances that follow them."""

    live: Live
    client: redis.Redis
    instances: dict[str, str]
    """Address of every instance of the product, by its id."""

    def document(self) -> dict[str, Any]:
        return dict(flagset.read(self.client).document)

    def set_default(self, key: str, variant: str) -> None:
        flagset.set_default(self.client, key, variant, **BY)

    def everywhere(self, path: str, wanted: str, seconds: float = 10) -> None:
        """Wait until every instance, asked by itself, answers with what is wanted, headers included."""
        for name, address in self.instances.items():
            url = f"http://{address}:8080{path}"
            wait_for(
                lambda url=url: wanted in run("curl", "-si", url).stdout, seconds, f"{wanted!r} from {name}"
            )

    def by_the_proxy(self, path: str, pattern: str) -> dict[str, set[str]]:
        """What each instance answered to many requests at the public address, over one connection."""
        urls = "\n".join(f'url = "{self.live.product.rstrip("/")}{path}"' for _ in range(REQUESTS))
        text = run("curl", "-si", "-K", "-", stdin=urls).stdout
        found: dict[str, set[str]] = {}
        for answer in re.split(r"(?m)^(?=HTTP/1\.1 )", text)[1:]:
            instance = re.search(r"(?mi)^x-saltern-instance: (\S+)", answer)
            said = re.search(pattern, answer)
            assert instance and said, answer[:400]
            found.setdefault(instance[1], set()).add(said[1])
        return found


@contextmanager
def kept(live: Live) -> Iterator[Flags]:
    """The flags, which are afterwards what they were, on every instance."""
    where = {each["id"]: each["address"] for each in live.status()["machines"]}
    instances = {name: address for name, address in where.items() if name.startswith(("prod", "staging"))}
    with members.link(Fleet.load(live.state_dir)) as client:
        before = flagset.read(client).document
        try:
            yield Flags(live, client, instances)
        finally:
            # A test may have had Redis away; whoever is primary then takes it.
            wait_for(lambda: _written(client, before), 30, "the flags as they were")
            for address in instances.values():
                wait_for(
                    lambda address=address: _tag(address) == _tag(next(iter(instances.values()))),
                    10,
                    "all are alike",
                )


def _written(client: redis.Redis, document: dict[str, Any]) -> bool:
    try:
        flagset.write(client, document, **BY)
    except redis.RedisError:
        return False
    return True


def _tag(address: str) -> str:
    """What an instance's list and look are marked with: the same on all that have seen the same flags."""
    text = run("curl", "-si", f"http://{address}:8080/api/items").stdout
    found = re.search(r"(?mi)^etag: (\S+)", text)
    return found[1] if found else json.dumps(text)
