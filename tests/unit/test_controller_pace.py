"""How often a controller looks at HAProxy."""

from __future__ import annotations

import pytest
from saltern import controller


@pytest.mark.parametrize(
    ("phases", "revised_s", "pause"),
    [
        (["ready", "ready"], 0.0, 0.3),
        (["ready", "draining"], 0.0, 0.05),
        (["ready", "leaving"], 4.9, 0.05),
        (["down"], 1.0, 0.05),
        (["idle", "maint", "kept"], 1.0, 0.3),
        (["ready", "draining"], 5.0, 0.3),
        (["down"], float("inf"), 0.3),
        ([], 0.0, 0.3),
    ],
)
def test_it_looks_more_often_while_somebody_may_be_waiting_for_servers(phases, revised_s, pause):
    assert controller.next_look_s(0.3, phases, revised_s) == pause


def test_it_never_looks_less_often_than_it_was_told():
    assert controller.next_look_s(0.02, ["draining"], 0.0) == 0.02
