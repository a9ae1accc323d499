"""Who leads: what a master makes of what Redis says of the lease."""

from __future__ import annotations

import pytest
from saltern.leading import LEASE_S, MARGIN_S, Answer, Held, Lost, heard

A, B = "10.0.0.1", "10.0.0.2"
NOW = 1000.0
USABLE = LEASE_S - MARGIN_S


@pytest.mark.parametrize(
    ("held", "answer", "then"),
    [
        (Held(), Answer(A, 1), Held(1, NOW + USABLE, A)),
        (Held(), Answer(B, 1), Held(0, 0.0, B)),
        (Held(leader=B), Answer(B, 1), Held(0, 0.0, B)),
        (Held(leader=B), Answer(A, 2), Held(2, NOW + USABLE, A)),
        (Held(2, NOW + 1, A), Answer(A, 2), Held(2, NOW + USABLE, A)),
        # Redis was away for longer than the lease, and nobody led in between.
        (Held(2, NOW - 100, A), Answer(A, 2), Held(2, NOW + USABLE, A)),
        (Held(2, NOW - 100, A), Answer(A, 3), Held(3, NOW + USABLE, A)),
    ],
)
def test_a_master_leads_while_the_lease_is_its_own_and_knows_who_does_else(held, answer, then):
    assert heard(held, A, answer, NOW) == then


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(B, 3), "10.0.0.2 leads (lease 3 after 2)"),
        (Answer(A, 4), "another led since (lease 4 after 2)"),
        (Answer(A, 1), "another led since (lease 1 after 2)"),
    ],
)
def test_a_leader_whose_lease_is_another_one_starts_afresh(answer, words):
    with pytest.raises(Lost) as lost:
        heard(Held(2, NOW + 5, A), A, answer, NOW)
    assert str(lost.value) == words


@pytest.mark.parametrize(
    ("held", "after", "leads"),
    [
        (Held(), 0, False),
        (Held(leader=B), 0, False),
        (Held(1, NOW + USABLE, A), 0, True),
        (Held(1, NOW + USABLE, A), USABLE - 0.001, True),
        (Held(1, NOW + USABLE, A), USABLE, False),
    ],
)
def test_a_holder_stops_before_the_lease_is_anothers(held, after, leads):
    assert held.leads(NOW + after) is leads
    assert after <= LEASE_S - MARGIN_S
