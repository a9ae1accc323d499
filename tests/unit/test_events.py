"""The check every event passes: who may cause what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from saltern import secrets, signing
from saltern.events import FURTHEST_AHEAD_NS, Event, Rejected, authenticate

SECRET = "cd" * 32
NOW = 1_800_000_000 * 10**9
TAG = "saltern/instance/prod1/present"


def signed(
    machine: str = "prod1", tag: str = TAG, values: dict | None = None, counter: int = NOW, by: str = ""
):
    """A payload that names `machine`, signed with the key of `by`."""
    key = secrets.event_key(SECRET, by or machine)
    return signing.sign(key, machine, tag, {"port": "8080"} if values is None else values, counter)


def test_an_event_signed_by_its_machine_for_its_own_tag_is_believed():
    event = authenticate(SECRET, TAG, "prod1", signed(), NOW)
    assert event == Event("prod1", TAG, {"port": "8080"}, NOW)


@pytest.mark.parametrize(
    ("tag", "sender", "payload", "words"),
    [
        (TAG, "staging1", signed(), "from staging1: signature is wrong"),
        (TAG, "prod1", signed(by="staging1"), "from prod1: signature is wrong"),
        (TAG, "staging1", signed(by="staging1"), "from staging1: it speaks for 'prod1'"),
        (TAG, "staging1", signed("staging1"), "from staging1: the tag is not its own"),
        (TAG, "prod1", signed(tag="saltern/instance/prod1/absent"), "signature is wrong"),
        (TAG, "prod11", signed("prod11"), "the tag is not its own"),
        ("saltern/instance/prod11/present", "prod1", signed(tag="saltern/instance/prod11/present"), "not its own"),
        (f"{TAG}\n", "prod1", signed(tag=f"{TAG}\n"), "the tag is not its own"),
        ("prod1", "prod1", signed(tag="prod1"), "the tag is not its own"),
        ("saltern/instance/prod1/{{x}}", "prod1", signed(tag="saltern/instance/prod1/{{x}}"), "not its own"),
        (TAG, "prod1", signed(counter=NOW + FURTHEST_AHEAD_NS + 1), "more than an hour in the future"),
        (TAG, "prod1", signed(counter=0), "its counter is not above 0"),
        (TAG, "prod1", signed(counter=-(10**30)), "its counter is not above 0"),
        (TAG, "prod1", {}, "payload is not signed"),
        (TAG, "prod1", None, "payload is not a mapping"),
        (TAG, "prod1", "{{ 7 * 7 }}", "payload is not a mapping"),
        (TAG, "prod1", b"\xff", "payload is not a mapping"),
        *[
            (TAG, sender, signed(), "is not a machine's id")
            for sender in ("*", "prod*", "", "web1", "prod1\n", "prod1,prod2", "master", "{{ x }}", "../prod1")
        ],
        *[(TAG, sender, signed(), "is not a machine's id") for sender in (None, 1, ["prod1"], b"prod1", True)],
    ],
)  # fmt: skip
def test_an_event_that_proves_nothing_is_rejected_in_one_line(tag, sender, payload, words):
    with pytest.raises(Rejected, match=words) as rejected:
        authenticate(SECRET, tag, sender, payload, NOW)
    assert "\n" not in str(rejected.value)


@pytest.mark.parametrize("ahead", [-(10**18), 0, FURTHEST_AHEAD_NS])
def test_a_clock_that_is_behind_or_an_hour_ahead_is_no_reason_to_reject(ahead):
    assert authenticate(SECRET, TAG, "prod1", signed(counter=NOW + ahead), NOW).counter == NOW + ahead


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["machine", "counter", "values", "signature", "x"]) | st.text() | st.integers(),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(st.text(), st.just("prod1") | JUNK, JUNK)
def test_no_junk_is_believed_and_none_breaks_the_check(tag, sender, payload):
    with pytest.raises(Rejected):
        authenticate(SECRET, tag, sender, payload, NOW)


@given(st.dictionaries(st.text(), st.text() | st.integers()))
def test_a_replayed_payload_under_another_senders_id_is_rejected_whatever_it_says(values):
    payload = signed(values=values)
    assert authenticate(SECRET, TAG, "prod1", payload, NOW).values == values
    for other in ("prod2", "staging1", "ops1"):
        with pytest.raises(Rejected):
            authenticate(SECRET, TAG, other, payload, NOW)
