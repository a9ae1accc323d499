"""How a newly read flag set replaces the one in force."""

import json

import pytest
from openfeature.exception import ErrorCode, ProviderNotReadyError
from openfeature_redis.held import DISBELIEF, Held, Reading

pytestmark = pytest.mark.unit


def text(**values):
    flags = {
        key: {"state": "ENABLED", "variants": {"it": value}, "defaultVariant": "it"}
        for key, value in values.items()
    }
    return json.dumps({"flags": flags})


def reading(document, revision=None):
    return Reading(None if document is None else document.encode(), revision, "redis1:6379")


def level(held):
    return held.evaluator.resolve_integer_value("level", 0).value


def test_before_any_set_every_evaluation_says_not_ready():
    with pytest.raises(ProviderNotReadyError):
        Held().evaluator.resolve_boolean_value("any", False, None)


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        (text(a=1, b=1), text(a=1, b=2), ["b"]),
        (text(a=1), text(a=1, b=1), ["b"]),
        (text(a=1, b=1), text(b=1), ["a"]),
        (text(a=1), text(a=1.0), ["a"]),
        (text(a=1), text(a=True), ["a"]),
        (text(a=1), text(a=1) + " ", []),
        (text(a=1), text(a=1), None),
    ],
)
def test_the_changed_keys_are_exactly_those_that_differ(before, after, changed):
    held = Held()
    held.offer(reading(before), now=0.0)
    assert held.offer(reading(after), now=1.0).changed == changed


def test_a_shared_rule_that_changes_changes_the_flags_that_use_it():
    def document(limit):
        user = {
            "state": "ENABLED",
            "variants": {"on": True, "off": False},
            "defaultVariant": "off",
            "targeting": {"if": [{"$ref": "adult"}, "on", "off"]},
        }
        other = {"state": "ENABLED", "variants": {"on": True}, "defaultVariant": "on"}
        rule = {">=": [{"var": "age"}, limit]}
        return json.dumps({"flags": {"user": user, "other": other}, "$evaluators": {"adult": rule}})

    held = Held()
    held.load(document(18))
    assert held.load(document(21)) == ["user"]


@pytest.mark.parametrize(
    "document",
    [
        "",
        "nonsense",
        "[]",
        "7",
        "{}",
        '{"flags": []}',
        '{"flags": {"a": {}}}',
        '{"flags": {"a": 1}}',
        '{"flags": {"a": {"state": "ENABLED", "variants": {"x": 1}, "defaultVariant": "x", "more": 1}}}',
    ],
)
def test_what_is_no_flag_set_is_an_error_at_once_and_the_last_set_stays(document):
    held = Held()
    held.offer(reading(text(level=7)), now=0.0)
    fault = held.offer(reading(document), now=1.0).fault
    assert fault.at_once and fault.code is ErrorCode.PARSE_ERROR and "redis1:6379" in fault.message
    assert level(held) == 7


def test_a_set_that_vanishes_is_a_fault_and_the_last_one_stays():
    held = Held()
    held.offer(reading(text(level=7)), now=0.0)
    assert "has no flag set" in held.offer(reading(None), now=1.0).fault.message
    assert level(held) == 7


def test_a_fleet_without_any_flags_yet_is_no_fault():
    held = Held()
    assert held.offer(reading(None), now=0.0).fault is None
    assert held.offer(reading(None, 12), now=1.0).fault is None


def test_a_lower_revision_is_believed_only_when_it_stays_lower():
    held = Held()
    held.offer(reading(text(level=2), 9), now=0.0)
    assert "behind 9" in held.offer(reading(text(level=1), 8), now=1.0).fault.message
    assert level(held) == 2
    assert held.offer(reading(text(level=1), 8), now=1.0 + DISBELIEF).fault is None
    assert level(held) == 1


def test_a_replica_that_catches_up_never_turns_a_flag_back():
    held = Held()
    held.offer(reading(text(level=2), 9), now=0.0)
    held.offer(reading(text(level=1), 8), now=1.0)
    assert held.offer(reading(text(level=2), 9), now=1.1).fault is None
    assert "behind 9" in held.offer(reading(text(level=1), 8), now=100.0).fault.message
    assert level(held) == 2


def test_a_write_past_the_counter_is_taken():
    held = Held()
    held.offer(reading(text(level=1), 9), now=0.0)
    assert held.offer(reading(text(level=2), 9), now=0.1).changed == ["level"]


def test_a_renewed_set_answers_the_same():
    held = Held()
    held.offer(reading(text(level=7)), now=0.0)
    old = held.evaluator
    held.renew()
    assert held.evaluator is not old
    assert level(held) == 7
