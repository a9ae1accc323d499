"""Signed payloads: one machine, one tag, one set of values, and nothing else."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from saltern import secrets
from saltern.fleet import REPOSITORY
from saltern.signing import sign, verify

KEY = secrets.event_key("ab" * 32, "prod1")
TAG = "saltern/instance/prod1/present"
VALUES = st.dictionaries(
    st.text(max_size=8),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=5,
    ),
    max_size=4,
)
HOSTILE = (
    "{{ 7 * 7 }}",
    "{% for x in ().__class__.__base__.__subclasses__() %}{% endfor %}",
    "{# #}",
    "*",
    "prod*",
    "x\n- args: [y]",
    "!!python/object/apply:os.system ['true']",
    "&a [*a]",
    "#!py\n",
    "\x00\ud800",
    "'\"\\",
    "../../etc/passwd",
    "$(reboot)",
)


@given(VALUES, st.integers())
def test_what_was_signed_is_what_comes_out(values, counter):
    payload = json.loads(json.dumps(sign(KEY, "prod1", TAG, values, counter)))  # over the wire and back
    assert verify(KEY, TAG, payload) == {"machine": "prod1", "counter": counter, "values": values}


@given(VALUES, VALUES)
def test_other_values_need_another_signature(values, others):
    if json.dumps(values, sort_keys=True) == json.dumps(others, sort_keys=True):
        return
    with pytest.raises(ValueError, match="signature is wrong"):
        verify(KEY, TAG, {**sign(KEY, "prod1", TAG, values, 1), "values": others})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"machine": "prod2"}, "signature is wrong"),
        ({"counter": 2}, "signature is wrong"),
        ({"counter": True}, "payload is not signed"),
        ({"counter": 1.0}, "payload is not signed"),
        ({"counter": "1"}, "payload is not signed"),
        ({"counter": 10**5000}, "payload is not plain data"),
        ({"signature": ""}, "signature is wrong"),
        ({"signature": "ü"}, "signature is wrong"),
        ({"signature": None}, "payload is not signed"),
        ({"signature": b"00"}, "payload is not signed"),
        ({"signature": ["00"]}, "payload is not signed"),
        ({"values": None}, "payload has no values"),
        ({"values": []}, "payload has no values"),
        ({"values": "port"}, "payload has no values"),
        ({"values": {"port": b"8080"}}, "payload is not plain data"),
        ({"values": {b"port": "8080"}}, "payload is not plain data"),
        ({"values": {"port": {1, 2}}}, "payload is not plain data"),
        ({"values": {"port": float("nan")}}, "payload is not plain data"),
        ({"values": {"port": object}}, "payload is not plain data"),
        *[({"values": {"release": text}}, "signature is wrong") for text in HOSTILE],
        *[({"values": {text: "1"}}, "signature is wrong") for text in HOSTILE],
        *[({"machine": text}, "signature is wrong") for text in HOSTILE],
    ],
)
def test_a_payload_that_was_changed_is_refused(change, words):
    payload = sign(KEY, "prod1", TAG, {"port": "8080", "release": "r1"}, 1)
    with pytest.raises(ValueError, match=words):
        verify(KEY, TAG, {**payload, **change})


@pytest.mark.parametrize(
    "payload", [None, "", "text", b"bytes", 3, [], [["signature", "x"]], {}, {"signature": "x"}]
)
def test_a_payload_that_is_no_signed_mapping_is_refused(payload):
    with pytest.raises(ValueError, match="payload is not"):
        verify(KEY, TAG, payload)


@pytest.mark.parametrize("missing", ["machine", "counter", "values", "signature"])
def test_nothing_of_a_payload_may_be_left_out(missing):
    payload = sign(KEY, "prod1", TAG, {}, 1)
    del payload[missing]
    with pytest.raises(ValueError, match=r"payload|signature"):
        verify(KEY, TAG, payload)


@pytest.mark.parametrize("tag", [f"{TAG}/", TAG.upper(), "saltern/instance/prod2/present", "", f" {TAG}"])
def test_a_signature_holds_for_its_own_tag_only(tag):
    with pytest.raises(ValueError, match="signature is wrong"):
        verify(KEY, tag, sign(KEY, "prod1", TAG, {}, 1))


def test_a_signature_holds_for_its_own_key_only():
    payload = sign(secrets.event_key("ab" * 32, "prod2"), "prod1", TAG, {}, 1)
    with pytest.raises(ValueError, match="signature is wrong"):
        verify(KEY, TAG, payload)


def test_more_than_what_is_signed_may_travel_along_and_is_not_believed():
    payload = {**sign(KEY, "prod1", TAG, {"port": "1"}, 1), "address": "10.0.0.66"}
    assert verify(KEY, TAG, payload) == {"machine": "prod1", "counter": 1, "values": {"port": "1"}}


def test_counters_grow_by_themselves():
    counters = [sign(KEY, "prod1", TAG, {})["counter"] for _ in range(3)]
    assert counters == sorted(counters)
    assert counters[0] > 1_700_000_000 * 10**9


def test_signing_leaves_the_values_alone():
    values = {"port": ["8080"]}
    before = copy.deepcopy(values)
    sign(KEY, "prod1", TAG, values)
    assert values == before


def test_machines_get_the_very_same_file():
    copied = REPOSITORY / "salt" / "_utils" / "signing.py"
    assert copied.resolve() == REPOSITORY / "services" / "saltern" / "signing.py"
