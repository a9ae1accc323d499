"""The flagd test bed's scenarios for a provider that evaluates in process, in our own words and flags."""

import pytest
from openfeature import api
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import Reason

pytestmark = pytest.mark.functional


def flag(variants, targeting=None, default=None, **more):
    """Variants may be a list of names, each its own value."""
    named = {name: name for name in variants} if isinstance(variants, list) else variants
    found = {"state": "ENABLED", "variants": named, **more}
    if default is not None:
        found["defaultVariant"] = default
    if targeting is not None:
        found["targeting"] = targeting
    return found


VERSION = {"var": "version"}
SUITS = [["clubs", 25], ["diamonds", 25], ["hearts", 25], ["spades", 25]]
SUIT_NAMES = [name for name, _ in SUITS]


def verdict(condition):
    return flag(["yes", "no", "neither"], {"if": [condition, "yes", "no"]}, "neither")


def buckets(*arguments, names=("a", "b")):
    return flag([*names, "neither"], {"fractional": list(arguments)}, "neither")


FLAGS = {
    "by-reference": flag(["in", "out"], {"if": [{"$ref": "insider"}, "in", "out"]}, "out"),
    "by-reference-too": flag({"in": "1st", "out": "2nd"}, {"if": [{"$ref": "insider"}, "in", "out"]}, "out"),
    "by-unknown-reference": flag(["in", "out"], {"if": [{"$ref": "nobody"}, "in", "out"]}, "out"),
    "by-targeting-key": flag(
        ["hit", "miss"], {"if": [{"==": [{"var": "targetingKey"}, "me"]}, "hit", None]}, "miss"
    ),
    "by-own-key": verdict({"==": [{"var": "$flagd.flagKey"}, "by-own-key"]}),
    "by-time": flag(
        {"past": -1, "future": 1},
        {"if": [{"<": [{"var": "$flagd.timestamp"}, {"var": "time"}]}, "future", "past"]},
        "past",
    ),
    "prefix": flag(
        ["head", "tail", "none"],
        {
            "if": [
                {"starts_with": [{"var": "id"}, "abc"]},
                "head",
                {"ends_with": [{"var": "id"}, "xyz"]},
                "tail",
                "none",
            ]
        },
        "none",
    ),
    "equal": verdict({"sem_ver": [VERSION, "=", "2.0.0"]}),
    "unequal": verdict({"sem_ver": [VERSION, "!=", "2.0.0"]}),
    "newer": verdict({"sem_ver": [VERSION, ">", "2.0.0"]}),
    "newer-or-equal": verdict({"sem_ver": [VERSION, ">=", "2.0.0"]}),
    "older": verdict({"sem_ver": [VERSION, "<", "2.0.0"]}),
    "older-or-equal": verdict({"sem_ver": [VERSION, "<=", "2.0.0"]}),
    "same-minor": verdict({"sem_ver": [VERSION, "~", "3.1.0"]}),
    "same-major": verdict({"sem_ver": [VERSION, "^", "3.1.0"]}),
    "with-v": verdict({"sem_ver": [VERSION, "=", "v1.0.0"]}),
    "partial": verdict({"sem_ver": [VERSION, "^", "1"]}),
    "built": verdict({"sem_ver": [VERSION, "=", "1.0.0+build"]}),
    "version-relation": flag(
        ["yes", "no", "neither"], {"if": [{"sem_ver": [VERSION, "===", "1.0.0"]}, "yes"]}, "neither"
    ),
    "short-version": flag(["yes", "neither"], {"if": [{"sem_ver": [VERSION, "="]}, "yes"]}, "neither"),
    "short-prefix": flag(["yes", "neither"], {"if": [{"starts_with": ["abc"]}, "yes"]}, "neither"),
    "suits": flag(
        SUIT_NAMES, {"fractional": [{"cat": [{"var": "$flagd.flagKey"}, {"var": "user.name"}]}, *SUITS]}
    ),
    "seed-a": flag(SUIT_NAMES, {"fractional": [{"cat": ["seed", {"var": "user.name"}]}, *SUITS]}),
    "seed-b": flag(
        {name: f"ace of {name}" for name in SUIT_NAMES},
        {"fractional": [{"cat": ["seed", {"var": "user.name"}]}, *SUITS]},
    ),
    "one-bucket": buckets(["a", 1]),
    "shorthand-weight": buckets(["a"], ["b", 0]),
    "all-to-b": buckets({"var": "targetingKey"}, ["a", 0], ["b", 100]),
    "no-weight-at-all": buckets({"var": "targetingKey"}, ["a", 0], ["b", 0]),
    "less-than-nothing": buckets({"var": "targetingKey"}, ["a", -50], ["b", 100]),
    "no-bucket-key": buckets({"var": "nowhere"}, ["a", 50], ["b", 50]),
    "bucket-by-rule": buckets({"var": "targetingKey"}, [{"if": [{"var": "paid"}, "a", "b"]}, 1]),
    "bucket-by-attribute": buckets({"var": "targetingKey"}, [{"var": "colour"}, 1]),
    "weight-by-rule": buckets({"var": "targetingKey"}, ["a", {"if": [{"var": "paid"}, 100, 0]}], ["b", 0]),
    "bucket-decides": flag(
        ["yes", "no"], {"if": [{"fractional": [[False, 0], [True, 100]]}, "yes", "no"]}, "no"
    ),
    "bucket-denies": flag(
        ["yes", "no"], {"if": [{"fractional": [[False, 100], [True, 0]]}, "yes", "no"]}, "no"
    ),
    "null-result": flag({"one": 1, "two": 2}, {"if": [True, None, "one"]}, "two"),
    "unknown-operation": flag({"one": 1, "two": 2}, {"invalid": ["no such thing"]}, "two"),
    "unknown-variant": flag({"one": 1, "two": 2}, {"if": [True, "three", "one"]}, "two"),
    "boolean-variant": flag({"false": 1, "true": 2}, {"if": [True, True, False]}, "false"),
    "empty-targeting": flag({"false": 1, "true": 2}, {}, "false"),
    "no-default": flag({"small": 10, "big": 1000}),
    "null-default": flag({"on": True, "off": False}) | {"defaultVariant": None},
    "no-default-targeted": flag(
        {"normal": "CFO", "special": "CEO"},
        {"if": [{"==": [{"var": "email"}, "jobs@orange.com"]}, "special", None]},
    ),
    "big-integer": flag({"it": 2**53 - 1}, default="it"),
    "round-float": flag({"it": 10.0}, default="it"),
    "own-metadata": flag({"on": True}, default="on", metadata={"owner": "web", "level": 2}),
    "set-metadata": flag({"on": True}, default="on"),
}
DOCUMENT = {
    "flags": FLAGS,
    "$evaluators": {"insider": {"ends_with": [{"var": "email"}, "@macrosoft.com"]}},
    "metadata": {"owner": "everybody", "set": "test"},
}
MATCH, DEFAULT, STATIC, ERROR = Reason.TARGETING_MATCH, Reason.DEFAULT, Reason.STATIC, Reason.ERROR


@pytest.fixture(scope="module")
def client(provider_for):
    provider_for(DOCUMENT)
    return api.get_client("shared")


def ask(client, key, attributes=None, me=None, kind="string", default="code"):
    context = EvaluationContext(me, attributes or {})
    return getattr(client, f"get_{kind}_details")(key, default, context)


@pytest.mark.parametrize(
    ("key", "attributes", "me", "value", "reason"),
    [
        ("by-reference", {"email": "steve@macrosoft.com"}, None, "in", MATCH),
        ("by-reference", {"email": "steve@elsewhere.com"}, None, "out", MATCH),
        ("by-reference-too", {"email": "steve@macrosoft.com"}, None, "1st", MATCH),
        ("by-targeting-key", {}, "me", "hit", MATCH),
        ("by-targeting-key", {}, "you", "miss", DEFAULT),
        ("by-own-key", {}, None, "yes", MATCH),
        ("prefix", {"id": "abcdef"}, None, "head", MATCH),
        ("prefix", {"id": "uvwxyz"}, None, "tail", MATCH),
        ("prefix", {"id": "abcxyz"}, None, "head", MATCH),
        ("prefix", {"id": "lmnopq"}, None, "none", MATCH),
        ("prefix", {"id": 3}, None, "none", MATCH),
        ("short-prefix", {}, None, "neither", DEFAULT),
        ("one-bucket", {}, "anybody", "a", MATCH),
        ("shorthand-weight", {}, "anybody", "a", MATCH),
        ("shorthand-weight", {}, None, "neither", DEFAULT),
        ("all-to-b", {}, "anybody", "b", MATCH),
        ("no-weight-at-all", {}, "anybody", "neither", DEFAULT),
        ("less-than-nothing", {}, "anybody", "b", MATCH),
        ("no-bucket-key", {}, "anybody", "neither", DEFAULT),
        ("bucket-by-rule", {"paid": True}, "me", "a", MATCH),
        ("bucket-by-rule", {"paid": False}, "me", "b", MATCH),
        ("bucket-by-attribute", {"colour": "b"}, "me", "b", MATCH),
        ("weight-by-rule", {"paid": True}, "me", "a", MATCH),
        ("weight-by-rule", {"paid": False}, "me", "neither", DEFAULT),
        ("bucket-decides", {}, "me", "yes", MATCH),
        ("bucket-denies", {}, "me", "no", MATCH),
        ("no-default-targeted", {"email": "jobs@orange.com"}, None, "CEO", MATCH),
        ("no-default-targeted", {"email": "cook@orange.com"}, None, "code", DEFAULT),
    ],
)
def test_targeting(client, key, attributes, me, value, reason):
    found = ask(client, key, attributes, me)
    assert (found.value, found.reason, found.error_code) == (value, reason, None)


@pytest.mark.parametrize(
    ("key", "version", "value"),
    [
        ("equal", "2.0.0", "yes"),
        ("equal", "2.1.0", "no"),
        ("equal", "2.0.0-alpha", "no"),
        ("unequal", "2.0.0", "no"),
        ("unequal", "2.1.0", "yes"),
        ("newer", "2.1.0", "yes"),
        ("newer", "2.0.0", "no"),
        ("newer", "2.0.0-alpha", "no"),
        ("newer-or-equal", "2.0.0", "yes"),
        ("newer-or-equal", "1.9.9", "no"),
        ("older", "1.9.0", "yes"),
        ("older", "2.0.0-alpha", "yes"),
        ("older", "2.0.0", "no"),
        ("older-or-equal", "2.0.0", "yes"),
        ("older-or-equal", "2.0.1", "no"),
        ("same-minor", "3.1.9", "yes"),
        ("same-minor", "3.2.0", "no"),
        ("same-major", "3.9.0", "yes"),
        ("same-major", "4.0.0", "no"),
        ("with-v", "1.0.0", "yes"),
        ("with-v", "v1.0.0", "yes"),
        ("with-v", "V1.0.0", "yes"),
        ("with-v", "2.0.0", "no"),
        ("partial", "1.5.0", "yes"),
        ("partial", "1.0", "yes"),
        ("partial", "1", "yes"),
        ("partial", 1, "yes"),
        ("partial", "2.0.0", "no"),
        ("built", "1.0.0", "yes"),
        ("built", "1.0.0+other", "yes"),
        ("built", "2.0.0", "no"),
    ],
)
def test_versions_are_compared_as_semver_has_them(client, key, version, value):
    assert ask(client, key, {"version": version}).value == value


@pytest.mark.parametrize(
    ("key", "version", "value"),
    [
        ("version-relation", "1.0.0", "neither"),
        ("short-version", "1.0.0", "neither"),
    ],
)
def test_a_malformed_operation_falls_to_the_default_variant(client, key, version, value):
    found = ask(client, key, {"version": version})
    assert (found.value, found.reason) == (value, DEFAULT)


@pytest.mark.parametrize(("time", "value"), [(1, -1), (4133980802, 1)])
def test_targeting_by_time(client, time, value):
    assert ask(client, "by-time", {"time": time}, kind="integer", default=0).value == value


@pytest.mark.parametrize("name", ["jack", "queen", "ten", "nine", "3"])
def test_two_flags_with_one_seed_put_somebody_into_the_same_bucket(client, name):
    somebody = {"user": {"name": name}}
    assert ask(client, "seed-b", somebody).value == f"ace of {ask(client, 'seed-a', somebody).value}"


def test_buckets_are_stable_and_about_as_large_as_their_weights(client):
    names = [f"visitor{n}" for n in range(2000)]
    first = [ask(client, "suits", {"user": {"name": name}}).value for name in names]
    assert first == [ask(client, "suits", {"user": {"name": name}}).value for name in names]
    for suit in SUIT_NAMES:
        # binomial(2000, 1/4): 6 standard deviations are 116
        assert abs(first.count(suit) - 500) < 117


@pytest.mark.parametrize(
    ("key", "value", "reason", "code"),
    [
        ("null-result", 2, DEFAULT, None),
        ("unknown-operation", 3, ERROR, ErrorCode.PARSE_ERROR),
        ("unknown-variant", 3, ERROR, ErrorCode.GENERAL),
        ("boolean-variant", 2, MATCH, None),
        ("empty-targeting", 1, STATIC, None),
        ("no-default", 3, DEFAULT, None),
        ("big-integer", 2**53 - 1, STATIC, None),
    ],
)
def test_edges(client, key, value, reason, code):
    found = ask(client, key, kind="integer", default=3)
    assert (found.value, found.reason, found.error_code) == (value, reason, code)


def test_a_reference_to_no_evaluator_is_a_parse_error(client):
    found = ask(client, "by-unknown-reference")
    assert (found.value, found.error_code) == ("code", ErrorCode.PARSE_ERROR)


def test_a_null_default_leaves_it_to_the_code(client):
    found = ask(client, "null-default", kind="boolean", default=True)
    assert (found.value, found.reason, found.variant) == (True, DEFAULT, None)


def test_a_round_float_stays_a_float(client):
    found = ask(client, "round-float", kind="float", default=0.1).value
    assert (found, type(found)) == (10.0, float)


def test_metadata_of_the_set_is_under_that_of_the_flag(client):
    assert ask(client, "set-metadata", kind="boolean", default=False).flag_metadata == {
        "owner": "everybody",
        "set": "test",
    }
    assert ask(client, "own-metadata", kind="boolean", default=False).flag_metadata == {
        "owner": "web",
        "set": "test",
        "level": 2,
    }
