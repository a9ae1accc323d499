"""Events that proved nothing: each kind is journalled and raises an alert, however many of it there are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import redis

from saltern.alert_store import Alert, AlertStore
from saltern.events import Rejected, Repeated
from saltern.fleet import MACHINE_ID

NAME = "EventRejected"
EXPIRES_S = 600.0
"""How long the alert stays after the last rejected event, unless the pillar says otherwise."""


def printable(value: object, length: int) -> str:
    """Somebody's words as one short printable line."""
    return "".join(c if c.isprintable() else "?" for c in str(value))[:length]


def alert_of(tag: object, minion_id: object, error: str) -> Alert:
    """The alert for a rejected event. Who sent it is not known; whom it names is."""
    known = isinstance(minion_id, str) and MACHINE_ID.match(minion_id)
    return Alert(
        NAME,
        minion_id if known else "unknown",
        "rejected events",
        "critical",
        f"events that name {minion_id if known else 'no machine of the fleet'} were rejected",
        value=printable(tag, 100),
        details=printable(error, 300),
    )


def report(
    client: redis.Redis, tag: object, minion_id: object, why: str, expires_s: float = EXPIRES_S
) -> None:
    """Journal a rejected event and raise its alert; only once while that alert fires, so that a flood of forged events
    is no flood of lines.

    :raises redis.RedisError: Redis does not answer
    """
    AlertStore(client).fire(alert_of(tag, minion_id, why), expires_s=expires_s)


@contextmanager
def reported(
    client: redis.Redis, tag: object, minion_id: object, expires_s: float = EXPIRES_S
) -> Iterator[None]:
    """Report whatever is rejected inside; what is only said twice is not.

    The error goes on to the caller. A Redis that does not answer leaves it in the master's log alone.
    """
    try:
        yield
    except Repeated:
        raise
    except Rejected as error:
        try:
            report(client, tag, minion_id, str(error), expires_s)
        except redis.RedisError as trouble:
            raise Rejected(f"{error} (and the journal cannot be written: {trouble})") from error
        raise
