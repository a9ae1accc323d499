"""What a flag set may look like, and how a bad one is told where it is wrong."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openfeature_redis import flagset
from openfeature_redis.held import Held, NotAFlagSet

pytestmark = pytest.mark.unit

GOOD = {
    "$schema": "https://flagd.dev/schema/v0/flags.json",
    "metadata": {"flagSetId": "shop", "version": "3"},
    "flags": {
        "font_color": {
            "state": "ENABLED",
            "variants": {"black": "#000", "blue": "#00f"},
            "defaultVariant": "black",
            "metadata": {"owner": "web", "priority": 2, "weight": 0.5, "public": True},
        },
        "limit": {"state": "DISABLED", "variants": {"low": 10, "high": 0.5}, "defaultVariant": "low"},
        "layout": {
            "state": "ENABLED",
            "variants": {"on": True, "off": False},
            "defaultVariant": None,
            "targeting": {"if": [{"$ref": "staff"}, "on", {"fractional": [["on", 10], ["off", 90]]}]},
        },
        "theme": {
            "state": "ENABLED",
            "variants": {"plain": {}, "rich": {"images": True, "sizes": [1, 2]}},
            "targeting": {},
        },
    },
    "$evaluators": {"staff": {"ends_with": [{"var": "email"}, "@example.com"]}},
}


def change(path, value):
    """GOOD with one place replaced; the path is a tuple of keys."""
    document = copy.deepcopy(GOOD)
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return document


def with_rule(rule):
    return change(("flags", "layout", "targeting"), rule)


def test_a_set_with_every_kind_of_flag_is_good():
    flagset.validate(GOOD)


@pytest.mark.parametrize(
    "rule",
    [
        {"if": [True, "on"]},
        {"if": [{"var": "a"}, "on", {"var": "b"}, "off", None]},
        {"if": [{"!": {"var": "a"}}, "on", "off"]},
        {"if": [{"!": [{"var": ["a", "x"]}]}, "on", "off"]},
        {"if": [{"in": [{"var": "country"}, ["NZ", "AU"]]}, "on", "off"]},
        {"if": [{"<": [1, {"var": "age"}, 30]}, "on", "off"]},
        {"if": [{"missing": ["a", "b"]}, "on", "off"]},
        {"if": [{"missing_some": [1, ["a", "b"]]}, "on", "off"]},
        {"if": [{"some": [{"var": "pies"}, {"==": [{"var": "filling"}, "apple"]}]}, "on", "off"]},
        {"if": [{"reduce": [{"var": "n"}, {"+": [{"var": "current"}, {"var": "accumulator"}]}, 0]}, "on"]},
        {"if": [{"sem_ver": [{"var": "version"}, "~", "v1.2"]}, "on", "off"]},
        {"if": [{">": [{"var": "$flagd.timestamp"}, 1700000000]}, "on", "off"]},
        {"fractional": [{"var": "email"}, ["on", 1], ["off", 1]]},
        {"fractional": [["on"], ["off", 3]]},
        {"fractional": [[{"if": [{"var": "a"}, "on", "off"]}, 50], ["off", {"-": [100, 50]}]]},
        {"var": "variant"},
        {"cat": ["o", {"var": "rest"}]},
    ],
)
def test_a_rule_of_the_published_operations_is_good(rule):
    flagset.validate(with_rule(rule))


BAD = [
    ("not an object", [], "$", "a flag set is an object, not a list"),
    ("no flags", {}, "$.flags", "is missing"),
    ("a list of flags", {"flags": []}, "$.flags", "is a list"),
    (
        "a flag that is no object",
        change(("flags", "limit"), 3),
        "$.flags.limit",
        "a flag is an object, not a number",
    ),
    (
        "a flag without a key",
        change(("flags", ""), GOOD["flags"]["limit"]),
        '$.flags[""]',
        "a flag needs a key",
    ),
    ("a state nobody knows", change(("flags", "limit", "state"), "ON"), "$.flags.limit.state", "'ON'"),
    ("no variants", change(("flags", "limit", "variants"), {}), "$.flags.limit.variants", "is empty"),
    (
        "a list variant",
        change(("flags", "limit", "variants", "low"), [1]),
        "$.flags.limit.variants.low",
        "a list",
    ),
    (
        "a null variant",
        change(("flags", "limit", "variants", "low"), None),
        "$.flags.limit.variants.low",
        "null",
    ),
    (
        "mixed types",
        change(("flags", "limit", "variants", "high"), "9"),
        "$.flags.limit.variants.high",
        "is a string, but the variants before it are of type number",
    ),
    (
        "true among numbers",
        change(("flags", "limit", "variants", "high"), True),
        "$.flags.limit.variants.high",
        "true",
    ),
    (
        "an unsafe integer",
        change(("flags", "limit", "variants", "low"), 2**53),
        "$.flags.limit.variants.low",
        "9007199254740992",
    ),
    (
        "infinity",
        change(("flags", "limit", "variants", "low"), float("inf")),
        "$.flags.limit.variants.low",
        "inf",
    ),
    (
        "a default nobody has",
        change(("flags", "limit", "defaultVariant"), "mid"),
        "$.flags.limit.defaultVariant",
        "'mid' is not one of the variants low, high",
    ),
    (
        "a default of a wrong type",
        change(("flags", "layout", "defaultVariant"), True),
        "$.flags.layout.defaultVariant",
        "is true",
    ),
    (
        "an unknown field",
        change(("flags", "limit", "defaultvariant"), "low"),
        "$.flags.limit.defaultvariant",
        "is not a field of a flag",
    ),
    (
        "metadata of a flag",
        change(("flags", "limit", "metadata"), {"a": []}),
        "$.flags.limit.metadata.a",
        "a list",
    ),
    ("metadata of the set", change(("metadata", "a"), None), "$.metadata.a", "null"),
    ("targeting as a list", with_rule([]), "$.flags.layout.targeting", "is a list"),
    (
        "two operations in one",
        with_rule({"if": [1, "on"], "or": [1]}),
        "$.flags.layout.targeting",
        "has 2 keys",
    ),
    (
        "an unknown operation",
        with_rule({"rollout": ["on"]}),
        "$.flags.layout.targeting.rollout",
        "is not an operation",
    ),
    (
        "one argument too few",
        with_rule({"if": [{"==": [1]}, "on"]}),
        "$.flags.layout.targeting.if[0].==",
        "has 1 arguments; it takes 2",
    ),
    (
        "arguments without a list",
        with_rule({"if": [{"==": 1}, "on"]}),
        "$.flags.layout.targeting.if[0].==",
        "must be a list",
    ),
    (
        "a deep fault",
        with_rule({"if": [{"and": [True, {"nope": 1}]}, "on"]}),
        "$.flags.layout.targeting.if[0].and[1].nope",
        "is not an operation",
    ),
    (
        "a property flagd does not set",
        with_rule({"if": [{"var": "$flagd.time"}, "on"]}),
        "$.flags.layout.targeting.if[0].var",
        "'$flagd.time' is not set by flagd",
    ),
    (
        "a version relation",
        with_rule({"if": [{"sem_ver": ["1.0.0", "===", "1.0.0"]}, "on"]}),
        "$.flags.layout.targeting.if[0].sem_ver[1]",
        "'===' is not one of",
    ),
    (
        "a version",
        with_rule({"if": [{"sem_ver": ["1.0.0", "=", "newest"]}, "on"]}),
        "$.flags.layout.targeting.if[0].sem_ver[2]",
        "'newest' is not a version",
    ),
    (
        "a number where text is compared",
        with_rule({"if": [{"starts_with": [{"var": "a"}, 3]}, "on"]}),
        "$.flags.layout.targeting.if[0].starts_with[1]",
        "is a number",
    ),
    (
        "bucketing by a constant",
        with_rule({"fractional": ["me", ["on", 1]]}),
        "$.flags.layout.targeting.fractional[0]",
        "must be a rule",
    ),
    (
        "no buckets",
        with_rule({"fractional": [{"var": "a"}]}),
        "$.flags.layout.targeting.fractional",
        "no buckets",
    ),
    (
        "half a weight",
        with_rule({"fractional": [["on", 0.5], ["off", 1]]}),
        "$.flags.layout.targeting.fractional[0][1]",
        "0.5 is not a whole number",
    ),
    (
        "a negative weight",
        with_rule({"fractional": [["on", -1], ["off", 1]]}),
        "$.flags.layout.targeting.fractional[0][1]",
        "-1 is not",
    ),
    (
        "nothing but zero weights",
        with_rule({"fractional": [["on", 0], ["off", 0]]}),
        "$.flags.layout.targeting.fractional",
        "all weights are 0",
    ),
    (
        "too much weight",
        with_rule({"fractional": [["on", 2**31 - 1], ["off", 1]]}),
        "$.flags.layout.targeting.fractional",
        "add up to 2147483648",
    ),
    (
        "a bucket for no variant",
        with_rule({"fractional": [["om", 1], ["off", 1]]}),
        "$.flags.layout.targeting.fractional[0][0]",
        "'om' is not one of the variants on, off",
    ),
    (
        "a result that is no variant",
        with_rule({"if": [True, "on", "of"]}),
        "$.flags.layout.targeting.if[2]",
        "'of' is not one of the variants",
    ),
    (
        "a boolean result that is no variant",
        with_rule({"if": [True, True, "off"]}),
        "$.flags.layout.targeting.if[1]",
        "'true' is not one of the variants",
    ),
    (
        "a reference to nothing",
        with_rule({"if": [{"$ref": "stuff"}, "on"]}),
        "$.flags.layout.targeting.if[0].$ref",
        "'stuff' is not an evaluator",
    ),
    (
        "an evaluator that uses one above it",
        change(("$evaluators",), {"staff": {"var": "a"}, "boss": {"!": [{"$ref": "staff"}]}}),
        "$.$evaluators.boss.![0].$ref",
        "'staff' is not an evaluator that can be used here",
    ),
    (
        "an evaluator with a letter flagd-core loses",
        change(("$evaluators", "staff"), {"==": [{"var": "city"}, "Würzburg"]}),
        "$.$evaluators.staff",
        "outside ASCII",
    ),
]


@pytest.mark.parametrize(("what", "document", "path", "message"), BAD, ids=[case[0] for case in BAD])
def test_a_bad_set_is_refused_with_the_path_of_the_fault(what, document, path, message):
    with pytest.raises(flagset.BadFlagSet) as refusal:
        flagset.validate(document)
    first = refusal.value.faults[0]
    assert first.path == path
    assert message in first.message
    assert str(refusal.value).startswith(f"flags: {path}: ")


def test_every_fault_is_listed():
    document = change(("flags", "limit", "state"), "ON")
    document["flags"]["font_color"]["defaultVariant"] = "green"
    with pytest.raises(flagset.BadFlagSet, match=r"\(and 1 more\)") as refusal:
        flagset.validate(document)
    assert [fault.path for fault in refusal.value.faults] == [
        "$.flags.font_color.defaultVariant",
        "$.flags.limit.state",
    ]


def test_a_rule_nested_without_end_is_refused_and_not_followed():
    rule = {"var": "a"}
    for _ in range(200):
        rule = {"!": [rule]}
    with pytest.raises(flagset.BadFlagSet, match="nested deeper than"):
        flagset.validate(with_rule({"if": [rule, "on", "off"]}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting"),
        ('{"flags": {}, "flags": {}}', "'flags' appears twice"),
        ('{"flags": {"a": {"state": "ENABLED", "variants": {"x": NaN}}}}', "NaN is not JSON"),
        ("[" * 100000, "nested too deeply|recursion"),
    ],
)
def test_text_that_is_no_json_is_refused(text, message):
    with pytest.raises(flagset.BadFlagSet, match=message):
        flagset.parse(text)


names = st.sampled_from(
    ["flags", "state", "variants", "targeting", "defaultVariant", "if", "fractional", "on", "$ref"]
)
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 200)
    | st.floats(-1, 2)
    | st.sampled_from(["on", "off", "ENABLED", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)


def places(node, path=()):
    yield path
    if isinstance(node, dict):
        for key, inner in node.items():
            yield from places(inner, (*path, key))
    elif isinstance(node, list):
        for index, inner in enumerate(node):
            yield from places(inner, (*path, index))


@settings(max_examples=400)
@given(st.sampled_from([path for path in places(GOOD) if path]), anything)
def test_whatever_is_accepted_can_be_loaded_and_evaluated(path, value):
    document = change(path, value)
    try:
        flagset.validate(document)
    except flagset.BadFlagSet as refusal:
        assert all(fault.path.startswith("$") and fault.message for fault in refusal.faults)
        return
    held = Held()
    try:
        held.load(json.dumps(document))
    except NotAFlagSet as error:
        pytest.fail(f"accepted, but flagd-core cannot load it: {error}")
