"""The canary's effective share: out at one sign, back only after time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from saltern.canary import Decision, Limits, Memory, Sample, decide
from saltern.haproxy import Server
from saltern.reconcile import Observed
from saltern.registry import Instance, Latch, Split, State

pytestmark = pytest.mark.unit

LIMITS = Limits(settle_s=10, error_limit_pct=5, error_window_s=10, error_min_requests=50)
READY, DRAIN, MAINT = 0x04, 0x0C, 0x05


def state(*wants: str, share: int = 30, latch: Latch | None = None) -> State:
    instances = {
        f"staging{n}": Instance(f"staging{n}", "canary", f"10.0.1.{n}", 8080, "r1", want)
        for n, want in enumerate(wants or ("ready",), 1)
    }
    latches = {"canary": latch} if latch else {}
    return State(revision=1, instances=instances, split=Split(share), latches=latches)


def seen(*servers: tuple[int, int]) -> Observed:
    """Canary servers by (operational state, administrative state)."""
    pairs = servers or ((2, READY),)
    return Observed(
        {("canary", f"c{n}"): Server("canary", f"c{n}", "", 0, *p) for n, p in enumerate(pairs, 1)},
        {
            "split": {},
            "releases": {},
            "instances": {f"c{n}": f"staging{n}" for n in range(1, len(pairs) + 1)},
        },
    )


@dataclass
class Story:
    """Decisions one after the other, each with the memory of the one before."""

    state: State = field(default_factory=state)
    seen: Observed = field(default_factory=seen)
    memory: Memory = field(default_factory=Memory)

    def at(
        self, now: float, downs: Mapping[str, int] | None = None, sample: Sample | None = None
    ) -> Decision:
        made = decide(self.state, self.seen, downs or {"c1": 0}, sample, self.memory, LIMITS, now)
        self.memory = made.memory
        return made

    def healthy(self) -> Story:
        """Let the canary settle, until time 10."""
        self.at(0)
        assert self.at(10).share == self.state.split.share
        return self


def test_a_canary_gets_nothing_until_it_has_been_healthy_for_the_settling_time() -> None:
    story = Story()
    assert [story.at(now).share for now in (100, 105, 109.9, 110, 200)] == [0, 0, 0, 30, 30]


REASONS = [
    ("none registered", State(revision=1), seen(), "no canary is registered"),
    ("none wanted ready", state("drain"), seen(), "no canary is registered"),
    ("down", state(), seen((0, READY)), "no canary is healthy"),
    ("in maintenance", state(), seen((2, MAINT)), "no canary is healthy"),
    ("draining", state(), seen((2, DRAIN)), "no canary is healthy"),
    ("in no slot yet", state(), replace(seen(), maps={"instances": {}}), "no canary is healthy"),
    ("latched", state(latch=Latch("memory 93 %")), seen(), "off: memory 93 %"),
]


@pytest.mark.parametrize(("what", "wanted", "observed", "reason"), REASONS, ids=[row[0] for row in REASONS])
def test_a_canary_that_cannot_or_must_not_serve_gets_nothing_at_once(
    what: str, wanted: State, observed: Observed, reason: str
) -> None:
    story = Story().healthy()
    story.state, story.seen = wanted, observed
    made = story.at(11)
    assert made.share == 0
    assert made.reason.startswith(reason)


def test_health_alone_brings_it_back_after_the_settling_time() -> None:
    story = Story().healthy()
    story.seen = seen((0, READY))
    assert story.at(11).share == 0
    story.seen = seen()
    assert [story.at(now).share for now in (12, 21.9, 22)] == [0, 0, 30]


def test_a_fall_too_short_to_be_seen_still_costs_the_settling_time() -> None:
    story = Story().healthy()
    assert story.at(11, {"c1": 0}).share == 30
    assert [story.at(now, {"c1": 1}).share for now in (12, 21.9, 22)] == [0, 0, 30]


def test_with_one_canary_steady_the_fall_of_another_changes_nothing() -> None:
    story = Story(state("ready", "ready"), seen((2, READY), (2, READY)))
    story.at(0, {"c1": 0, "c2": 0})
    assert story.at(10, {"c1": 0, "c2": 0}).share == 30
    story.seen = seen((0, READY), (2, READY))
    assert story.at(11, {"c1": 1, "c2": 0}).share == 30
    assert story.at(12, {"c1": 1, "c2": 1}).share == 0


def test_the_share_of_the_registry_is_followed_live() -> None:
    story = Story().healthy()
    for share in (0, 1, 55, 100):
        story.state = state(share=share)
        assert story.at(11).share == share


def burst(now: float, requests: int, errors: int) -> Sample:
    return Sample(now, requests, errors)


ERRORS = [
    ("none", [burst(11, 1000, 0)], False),
    ("exactly at the limit", [burst(11, 100, 5)], False),
    ("above the limit", [burst(11, 100, 6)], True),
    ("too few to tell", [burst(11, 49, 49)], False),
    ("just enough to tell", [burst(11, 50, 3)], True),
    ("summed over the window", [burst(11, 30, 2), burst(12, 30, 2)], True),
    ("forgotten after the window", [burst(11, 30, 30), burst(21.1, 30, 0)], False),
]


@pytest.mark.parametrize(("what", "samples", "breaks"), ERRORS, ids=[row[0] for row in ERRORS])
def test_errors_above_the_hard_limit_latch_the_canary_off(
    what: str, samples: list[Sample], breaks: bool
) -> None:
    story = Story().healthy()
    made = [story.at(sample.at, sample=sample) for sample in samples]
    assert made[-1].share == (0 if breaks else 30), "nothing more from the first moment on"
    made.append(story.at(samples[-1].at + 0.3))
    assert [bool(m.broke) for m in made] == [False] * len(samples) + [breaks], "once, when it is still so"
    assert made[-1].share == (0 if breaks else 30)
    if breaks:
        assert "is above 5 %" in made[-1].broke
        # Health does not open a latch, time does not either.
        later = story.at(10_000)
        assert (later.share, later.broke) == (0, "")


def test_the_failures_of_a_crash_are_a_matter_of_health_not_of_the_hard_limit() -> None:
    story = Story().healthy()
    assert story.at(11, sample=burst(11, 100, 100)).share == 0
    story.seen = seen((0, READY))
    assert story.at(11.3, {"c1": 1}, burst(11.3, 10, 10)).reason == "no canary is healthy"
    story.seen = seen()
    assert story.at(12, {"c1": 1}).broke == ""
    assert story.at(22, {"c1": 1}).share == 30


def test_a_person_who_turns_it_on_again_starts_with_a_clean_count() -> None:
    story = Story().healthy()
    story.at(11, sample=burst(11, 100, 100))
    story.state = state(latch=Latch("errors"))
    story.memory = replace(story.memory, latch=None)
    assert story.at(12, sample=burst(12, 60, 60)).share == 0
    story.state = state()
    made = story.at(13)
    assert (made.share, made.broke) == (30, "")


@given(
    shares=st.lists(st.integers(0, 100), min_size=1, max_size=20),
    ups=st.lists(st.booleans(), min_size=20, max_size=20),
    gaps=st.lists(st.floats(0.01, 20), min_size=20, max_size=20),
)
def test_whatever_happens_the_share_is_the_registry_s_or_nothing(
    shares: list[int], ups: list[bool], gaps: list[float]
) -> None:
    story, now, up_for = Story(), 0.0, None
    for share, up, gap in zip(shares, ups, gaps, strict=False):
        now += gap
        story.state, story.seen = state(share=share), seen((2 if up else 0, READY))
        up_for = (now if up_for is None else up_for) if up else None
        made = story.at(now)
        settled = up_for is not None and now - up_for >= LIMITS.settle_s
        assert made.share == (share if settled else 0)
