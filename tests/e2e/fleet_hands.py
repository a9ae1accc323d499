"""Hands in a running fleet: those of `./saltern demo`, and what only tests need: its event bus."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fleet_commands import SLOW_HOST
from saltern import secrets, signing
from saltern.demo import plant
from saltern.demo.plant import BURNER, ROUTE, Plant, changed_product, felt, text_of, until
from saltern.fleet import Fleet

__all__ = [
    "BURNER",
    "ROUTE",
    "Plant",
    "bus",
    "changed_product",
    "felt",
    "reactions",
    "said",
    "text_of",
    "until",
]

# On a host that is busy with other tests everything takes longer.
plant.PATIENCE = SLOW_HOST


@contextmanager
def bus(fleet: Fleet) -> Iterator[Any]:
    """The master's event bus, to send on."""
    import salt.config
    import salt.utils.event

    options = salt.config.master_config(str(fleet.etc / "master"))
    with salt.utils.event.get_event(
        "master", opts=options, sock_dir=options["sock_dir"], listen=False
    ) as event:
        event.fire_event({}, "saltern/hands")  # the first one opens the connection
        yield event


@contextmanager
def reactions(fleet: Fleet, function: str) -> Iterator[Callable[[float], dict[str, Any]]]:
    """What a function that reactors call answers from now on: each call waits so many seconds for the next answer."""
    import salt.config
    import salt.utils.event

    options = salt.config.master_config(str(fleet.etc / "master"))
    with salt.utils.event.get_event(
        "master", opts=options, sock_dir=options["sock_dir"], listen=True
    ) as source:
        source.get_event(wait=0.2, full=True)  # connects

        def heard(seconds: float) -> dict[str, Any]:
            end = time.monotonic() + seconds * SLOW_HOST
            while (left := end - time.monotonic()) > 0:
                event = source.get_event(wait=left, full=True)
                if event and event["tag"].endswith("/ret") and event["data"].get("fun") == function:
                    return event["data"]
            raise RuntimeError(f"{function} did not answer within {seconds * SLOW_HOST:g} s")

        yield heard


def said(
    fleet: Fleet, machine: str, what: str, values: Mapping[str, Any], by: str = ""
) -> tuple[dict[str, Any], str]:
    """A beacon's event: data and tag. The machine signs it, or another one does."""
    tag = f"salt/beacon/{machine}/{what}"
    key = secrets.event_key(secrets.load(fleet)["events"], by or machine)
    return {**signing.sign(key, machine, tag, dict(values)), "id": machine}, tag
