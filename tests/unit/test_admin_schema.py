from __future__ import annotations

import json

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from saltern import admin_routes
from saltern.admin_schema import Malformed, Unfit, check, parse, show

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("raw", "about"),
    [
        (b"", "line 1, column 1"),
        (b"{", "line 1, column 2"),
        (b"\xff", "byte 1 is not UTF-8"),
        (b'{"a": 1, "a": 2}', "the key a is there twice"),
        (b'{"x": {"a": 1, "a": 1}}', "the key a is there twice"),
        (b'{"a": NaN}', "NaN is not a number JSON knows"),
        (b'{"a": -Infinity}', "-Infinity is not a number JSON knows"),
        (b'{"a": 1e999}', "1e999 is too large"),
        (b"1" * 5000, "too many digits"),
        (b"[" * 100 + b"]" * 100, "more than 64 levels"),
        (b"[" * 100_000 + b"]" * 100_000, "more than 64 levels"),
        (b'{"a": "\\ud800"}', "half of a surrogate pair"),
    ],
)
def test_what_is_not_strict_json_is_refused_on_one_line(raw: bytes, about: str) -> None:
    with pytest.raises(Malformed) as caught:
        parse(raw)
    assert about in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda s: st.lists(s, max_size=3)))
def test_strict_json_is_read_as_what_it_says(value: object) -> None:
    try:
        raw = json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return
    assert parse(raw) == value


SHARE = admin_routes.body_of(["share"], share=admin_routes.SHARE, cause=admin_routes.CAUSE)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "body: null is not an object"),
        ([], "body: [] is not an object"),
        ({}, "body: share is missing; give a percentage, a whole number from 0 to 100"),
        ({"share": 101}, "body.share: 101 is not a percentage, a whole number from 0 to 100"),
        ({"share": -1}, "body.share: -1 is not a percentage, a whole number from 0 to 100"),
        ({"share": 1.5}, "body.share: 1.5 is not a percentage, a whole number from 0 to 100"),
        ({"share": True}, "body.share: true is not a percentage, a whole number from 0 to 100"),
        ({"share": "30"}, "body.share: 30 is not a percentage, a whole number from 0 to 100"),
        ({"share": 1, "shares": 2}, "body: shares is unknown; known are share, cause"),
        (
            {"share": 1, "cause": "a\nb"},
            'body.cause: "a\\nb" is not the journal id of what led to this, at most 200 characters on one line',
        ),
    ],
)
def test_a_body_that_does_not_fit_is_refused_with_what_where_and_what_would_be_right(
    value: object, text: str
) -> None:
    with pytest.raises(Unfit) as caught:
        check(SHARE, value, "body")
    assert str(caught.value) == text


@pytest.mark.parametrize(
    "value", [{"share": 0}, {"share": 100}, {"share": 30.0}, {"share": 5, "cause": "1-0"}]
)
def test_a_body_that_fits_passes(value: object) -> None:
    check(SHARE, value, "body")


@pytest.mark.parametrize(
    "id_", ["*", "prod1\n", "prod", "prod12345", "Prod1", "prod1 ", "prod*", "", "prod1/../x"]
)
def test_a_hostile_id_is_no_id(id_: str) -> None:
    with pytest.raises(Unfit):
        check(admin_routes.ID, id_, "id")


SCHEMAS = [
    SHARE,
    admin_routes.ID,
    admin_routes.SOURCE,
    admin_routes.DETAILS,
    admin_routes.WANT,
    admin_routes.LIMIT,
    admin_routes.REVISION,
    {"type": "array", "items": {"type": ["integer", "null"]}},
    {"const": True},
    {"type": "object", "minProperties": 1, "additionalProperties": {"enum": [1, "a", None]}},
]
NEAR = st.sampled_from(["share", "cause", "prod1", "drain", "ready", "a", "", "x", "prod1\n"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 120) | st.floats(-5, 1e6) | NEAR | st.text(max_size=5),
    lambda s: st.lists(s, max_size=3) | st.dictionaries(NEAR | st.text(max_size=3), s, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(SCHEMAS), VALUES)
def test_the_own_checker_agrees_with_jsonschema(schema: dict, value: object) -> None:
    # Python's $ also matches before a last line feed; jsonschema uses it as it is, JSON Schema does not mean it.
    text = json.dumps(value)
    if "\\n" in text:
        return
    try:
        check(schema, value, "value")
        fits = True
    except Unfit:
        fits = False
    assert fits == jsonschema.Draft202012Validator(schema).is_valid(value)


@given(st.text() | st.integers() | st.lists(st.text()))
def test_a_value_is_shown_on_one_short_line(value: object) -> None:
    shown = show(value)
    assert shown.isprintable()
    assert 0 < len(shown) <= 80
