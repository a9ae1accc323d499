"""Where flags are read from: plain addresses, or the replicas that Sentinel knows."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from openfeature_redis.wire import Address, Connection, Login, Lost, Refused

# Redis pings its replicas every 10 s (repl-ping-replica-period) unless told otherwise, so a replica that has
# heard nothing for longer than that plus slack is cut off, whatever its link status says.
SILENCE_LIMIT = 15


@dataclass(frozen=True)
class Source:
    """Servers and how to enter them.

    addresses: the Redis servers, the primary first; with `service` set, the Sentinels instead.
    service: the name Sentinel knows the primary by; None without Sentinel.
    timeout: seconds for connecting and for every answer.
    """

    addresses: Sequence[Address]
    login: Login = field(default_factory=Login)
    service: str | None = None
    sentinel_login: Login = field(default_factory=Login)
    timeout: float = 1.0

    def __post_init__(self) -> None:
        if not self.addresses:
            raise ValueError("addresses is empty; give at least one host:port of Redis (or of Sentinel)")
        if not self.timeout > 0:
            raise ValueError(f"timeout {self.timeout!r} is not a number of seconds above 0")


@dataclass(frozen=True)
class Known:
    """What Sentinel says: the primary (None when it names none), replicas it trusts, replicas it does not."""

    primary: Address | None
    healthy: Sequence[Address]
    doubtful: Sequence[Address]


def preference(known: Known, shuffle: Callable[[list[Address]], None]) -> list[Address]:
    """Replicas first, in an order of chance so that readers spread; the primary; then the doubtful ones."""
    healthy = [address for address in known.healthy if address != known.primary]
    shuffle(healthy)
    primary = [known.primary] if known.primary else []
    doubtful = [address for address in known.doubtful if address not in healthy + primary]
    return healthy + primary + doubtful


def candidates(source: Source) -> list[Address]:
    """Addresses to read from, best first. Asks a Sentinel if there is one; raises Lost when none answers."""
    if source.service is None:
        first, *others = source.addresses
        return preference(Known(first, others, ()), random.shuffle)
    reasons = []
    sentinels = list(source.addresses)
    random.shuffle(sentinels)
    for sentinel in sentinels:
        try:
            return preference(_ask(sentinel, source), random.shuffle)
        except (OSError, Refused) as error:
            reasons.append(f"{sentinel}: {error}")
    raise Lost(f"no Sentinel answered for {source.service!r} ({'; '.join(reasons)})")


def _ask(sentinel: Address, source: Source) -> Known:
    assert source.service is not None
    connection = Connection(sentinel, source.sentinel_login.tls, source.timeout)
    try:
        connection.enter(source.sentinel_login)
        primary, replicas = connection.call(
            ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", source.service], ["SENTINEL", "REPLICAS", source.service]
        )
    finally:
        connection.close()
    return read_sentinel(primary, replicas)


def read_sentinel(primary: Sequence[bytes] | None, replicas: Sequence[Any]) -> Known:
    """Sort out Sentinel's two answers. Replicas come as maps in RESP3 and as flat lists in RESP2."""
    healthy: list[Address] = []
    doubtful: list[Address] = []
    for raw in replicas:
        pairs = raw.items() if isinstance(raw, Mapping) else zip(raw[::2], raw[1::2], strict=True)
        fields = {key.decode(): value.decode() for key, value in pairs}
        address = Address(fields["ip"], int(fields["port"]))
        down = {"s_down", "o_down", "disconnected"} & set(fields["flags"].split(","))
        cut_off = fields.get("master-link-status", "ok") != "ok"
        (doubtful if down or cut_off else healthy).append(address)
    return Known(Address(primary[0].decode(), int(primary[1])) if primary else None, healthy, doubtful)


def cut_off(info: str) -> str | None:
    """Why the server that gave this `INFO replication` may lag for good; None when it is fit to be read."""
    fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    if fields.get("role") == "master":
        return None
    if fields.get("master_link_status") != "up":
        return "it has lost its primary"
    silence = int(fields.get("master_last_io_seconds_ago", "0"))
    if silence > SILENCE_LIMIT:
        return f"it has heard nothing from its primary for {silence} s"
    return None
