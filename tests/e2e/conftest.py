"""What end-to-end tests look at the shared fleet with."""

from __future__ import annotations

import pytest
from fleet_commands import Live
from fleet_hands import Plant
from saltern import members
from saltern.fleet import Fleet
from saltern.registry import Registry


@pytest.fixture(scope="module")
def fleet(live: Live) -> Fleet:
    """The running fleet, as Saltern's own programs find it."""
    return Fleet.load(live.state_dir)


@pytest.fixture(scope="module")
def registry(fleet: Fleet) -> Registry:
    """For looking, more often than a runner can."""
    return Registry(members.link(fleet))


@pytest.fixture(scope="module")
def plant(fleet: Fleet) -> Plant:
    """All that is told of the fleet, and what gives it reason to."""
    return Plant(fleet)
