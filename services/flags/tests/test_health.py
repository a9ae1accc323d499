"""READY, STALE and ERROR."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openfeature.event import ProviderEvent
from openfeature_redis.health import Fault, Health, State, next_look, step

pytestmark = pytest.mark.unit

LOST = Fault("lost")
BROKEN = Fault("broken", at_once=True)
READY, STALE, ERROR = (
    ProviderEvent.PROVIDER_READY,
    ProviderEvent.PROVIDER_STALE,
    ProviderEvent.PROVIDER_ERROR,
)


@pytest.mark.parametrize(
    ("what", "before", "fault", "has_flags", "after", "event"),
    [
        ("a first good read is ready", Health(), None, True, State.READY, READY),
        ("nothing to say while good", Health(State.READY), None, True, State.READY, None),
        ("a fault is stale at once", Health(State.READY), LOST, True, State.STALE, STALE),
        ("stale within the grace", Health(State.STALE, 5.1), LOST, True, State.STALE, None),
        ("error once the grace is over", Health(State.STALE, 5.0), LOST, True, State.ERROR, ERROR),
        ("error is said once", Health(State.ERROR, 0.0), LOST, True, State.ERROR, None),
        ("ready again after stale", Health(State.STALE, 9.0), None, True, State.READY, READY),
        ("ready again after error", Health(State.ERROR, 1.0), None, True, State.READY, READY),
        ("a broken document is an error at once", Health(State.READY), BROKEN, True, State.ERROR, ERROR),
        ("a broken document when stale", Health(State.STALE, 9.9), BROKEN, True, State.ERROR, ERROR),
        ("a start from the snapshot is ready first", Health(), LOST, True, State.READY, READY),
        ("a start with nothing is an error", Health(), LOST, False, State.ERROR, ERROR),
    ],
)
def test_a_step(what, before, fault, has_flags, after, event):
    health, emitted = step(before, fault, now=10.0, grace=5.0, has_flags=has_flags)
    assert (health.state, emitted) == (after, event), what


def test_the_next_look_is_when_the_grace_ends():
    assert next_look(Health(State.STALE, 7.0), now=10.0, grace=5.0) == 2.0
    assert next_look(Health(State.STALE, 1.0), now=10.0, grace=5.0) == 0.0
    assert next_look(Health(State.READY), now=10.0, grace=5.0) == math.inf


@given(st.lists(st.tuples(st.sampled_from([None, LOST, BROKEN]), st.floats(0.01, 4))))
def test_events_follow_the_state_and_an_error_is_never_early(history):
    health, now, fault_began = Health(State.READY), 0.0, None
    for fault, pause in history:
        now += pause
        before = health
        health, event = step(health, fault, now, grace=5.0, has_flags=True)
        fault_began = None if fault is None else (now if fault_began is None else fault_began)
        assert (event is None) == (before.state is health.state)
        assert (health.state is State.READY) == (fault is None)
        if event is ERROR and not fault.at_once:
            assert now - fault_began >= 5.0
        if fault_began is not None and now - fault_began >= 5.0 and before.state is State.STALE:
            assert health.state is State.ERROR
