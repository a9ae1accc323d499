"""Fixtures of the functional tests."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Test modules are imported without a package; what they share lies beside them.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from traffic_stand import Stand


@pytest.fixture
def make_stand(tmp_path: Path) -> Iterator[Callable[..., Stand]]:
    """Make traffic planes with pillar values of one's own; all are ended after the test."""
    stands: list[Stand] = []

    def make(**changes: Any) -> Stand:
        directory = tmp_path / f"stand{len(stands)}"
        directory.mkdir()
        stands.append(Stand(directory, changes))
        return stands[-1]

    yield make
    for stand in stands:
        stand.close()


@pytest.fixture
def stand(make_stand: Callable[..., Stand]) -> Stand:
    """A running traffic plane without any server yet."""
    made = make_stand()
    made.start()
    return made
