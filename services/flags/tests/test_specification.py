"""The OpenFeature specification's evaluation scenarios, through the SDK's client, against a real Redis.

Section numbers are those of https://openfeature.dev/specification/sections/flag-evaluation. CACHED is left
out: this provider has the flags themselves, so there is nothing to cache.
"""

import asyncio
import copy
import socket

import pytest
from openfeature import api
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import FlagEvaluationOptions, Reason
from openfeature.hook import Hook
from openfeature.provider import ProviderStatus
from openfeature_redis import RedisProvider

pytestmark = pytest.mark.functional

PICTURES = {"showImages": True, "title": "Check out these pics!", "imagesPerPage": 100}
INSIDER = {"if": [{"==": [{"var": "email"}, "ballmer@macrosoft.com"]}, "zero", None]}


def flag(variants, default, **more):
    return {"state": "ENABLED", "variants": variants, "defaultVariant": default, **more}


FLAGS = {
    "boolean-flag": flag({"on": True, "off": False}, "on"),
    "string-flag": flag({"greeting": "hi", "parting": "bye"}, "greeting"),
    "integer-flag": flag({"one": 1, "ten": 10}, "ten"),
    "float-flag": flag({"tenth": 0.1, "half": 0.5}, "half"),
    "object-flag": flag({"empty": {}, "template": PICTURES}, "template"),
    "boolean-zero": flag({"zero": False, "other": True}, "zero"),
    "string-zero": flag({"zero": "", "other": "str"}, "zero"),
    "integer-zero": flag({"zero": 0, "other": 1}, "zero"),
    "float-zero": flag({"zero": 0.0, "other": 1.0}, "zero"),
    "object-zero": flag({"zero": {}, "other": PICTURES}, "zero"),
    "boolean-aimed": flag({"zero": False, "other": True}, "zero", targeting=INSIDER),
    "string-aimed": flag({"zero": "", "other": "str"}, "zero", targeting=INSIDER),
    "integer-aimed": flag({"zero": 0, "other": 1}, "zero", targeting=INSIDER),
    "float-aimed": flag({"zero": 0.0, "other": 1.0}, "zero", targeting=INSIDER),
    "object-aimed": flag({"zero": {}, "other": PICTURES}, "zero", targeting=INSIDER),
    "boolean-disabled": flag({"on": True, "off": False}, "on") | {"state": "DISABLED"},
    "string-disabled": flag({"greeting": "hi"}, "greeting") | {"state": "DISABLED"},
    "integer-disabled": flag({"ten": 10}, "ten") | {"state": "DISABLED"},
    "float-disabled": flag({"half": 0.5}, "half") | {"state": "DISABLED"},
    "object-disabled": flag({"template": PICTURES}, "template") | {"state": "DISABLED"},
    "metadata-flag": flag(
        {"on": True}, "on", metadata={"string": "1.0.2", "integer": 2, "float": 0.1, "boolean": True}
    ),
    "wrong-flag": flag({"one": "uno", "two": "dos"}, "one"),
    "context-aware": flag(
        {"internal": "INTERNAL", "external": "EXTERNAL"},
        "external",
        targeting={
            "if": [
                {
                    "and": [
                        {"==": [{"var": "fn"}, "Sulisław"]},
                        {"==": [{"var": "ln"}, "Świętopełk"]},
                        {"==": [{"var": "age"}, 29]},
                        {"==": [{"var": "customer"}, False]},
                    ]
                },
                "internal",
                "external",
            ]
        },
    ),
}


@pytest.fixture(scope="module")
def client(provider_for):
    provider_for({"flags": FLAGS})
    return api.get_client("shared")


def details(client, kind, key, default, context=None, options=None):
    return getattr(client, f"get_{kind}_details")(key, default, context, options)


PLAIN = [
    ("boolean", "boolean-flag", False, True, "on"),
    ("string", "string-flag", "bye", "hi", "greeting"),
    ("integer", "integer-flag", 1, 10, "ten"),
    ("float", "float-flag", 0.1, 0.5, "half"),
    ("object", "object-flag", {}, PICTURES, "template"),
    ("boolean", "boolean-zero", True, False, "zero"),
    ("string", "string-zero", "hi", "", "zero"),
    ("integer", "integer-zero", 1, 0, "zero"),
    ("float", "float-zero", 0.1, 0.0, "zero"),
    ("object", "object-zero", {"a": 1}, {}, "zero"),
]
KINDS = [("boolean", True), ("string", "hi"), ("integer", 1), ("float", 0.1), ("object", {"a": 1})]


@pytest.mark.parametrize(("kind", "key", "default", "value", "variant"), PLAIN)
def test_value_variant_key_and_static_reason_of_a_plain_flag(client, kind, key, default, value, variant):
    """1.3.1.1, 1.4.1.1, 1.4.3, 1.4.5, 1.4.6, 1.4.7"""
    found = details(client, kind, key, default)
    assert (found.value, type(found.value)) == (value, type(value))
    assert (found.flag_key, found.variant, found.reason) == (key, variant, Reason.STATIC)
    assert (found.error_code, found.error_message) == (None, None)
    assert getattr(client, f"get_{kind}_value")(key, default) == value


@pytest.mark.parametrize(("kind", "key", "default", "value", "variant"), PLAIN)
def test_asynchronous_evaluation_answers_the_same(client, kind, key, default, value, variant):
    """1.4.12"""
    found = asyncio.run(getattr(client, f"get_{kind}_details_async")(key, default))
    assert found == details(client, kind, key, default)
    assert asyncio.run(getattr(client, f"get_{kind}_value_async")(key, default)) == value


@pytest.mark.parametrize(("kind", "default"), KINDS)
@pytest.mark.parametrize(
    ("email", "reason"),
    [
        ("ballmer@macrosoft.com", Reason.TARGETING_MATCH),
        ("someone@else.com", Reason.DEFAULT),
        (None, Reason.DEFAULT),
    ],
)
def test_a_targeted_flag_says_whether_targeting_decided(client, kind, default, email, reason):
    """1.4.7: also for a zero value, and with a null in the context"""
    found = details(client, kind, f"{kind}-aimed", default, EvaluationContext(attributes={"email": email}))
    assert (found.value, found.reason, found.variant) == (
        FLAGS[f"{kind}-aimed"]["variants"]["zero"],
        reason,
        "zero",
    )


@pytest.mark.parametrize(("kind", "default"), KINDS)
def test_an_empty_context_falls_to_the_default_variant(client, kind, default):
    found = details(client, kind, f"{kind}-aimed", default)
    assert (found.value, found.reason) == (FLAGS[f"{kind}-aimed"]["variants"]["zero"], Reason.DEFAULT)


def test_several_attributes_decide_together(client):
    person = {"fn": "Sulisław", "ln": "Świętopełk", "age": 29, "customer": False}
    found = details(client, "string", "context-aware", "x", EvaluationContext(attributes=person))
    assert (found.value, found.reason) == ("INTERNAL", Reason.TARGETING_MATCH)
    assert client.get_string_value("context-aware", "x") == "EXTERNAL"


@pytest.mark.parametrize(("kind", "default"), KINDS)
def test_a_missing_flag_answers_the_default_and_says_so(client, kind, default):
    """1.4.8, 1.4.9, 1.4.10, 1.4.13"""
    found = details(client, kind, "missing-flag", default)
    assert (found.value, found.reason) == (default, Reason.ERROR)
    assert found.error_code is ErrorCode.FLAG_NOT_FOUND
    assert "missing-flag" in found.error_message


@pytest.mark.parametrize(
    ("kind", "key", "default"),
    [
        ("string", "boolean-flag", "bye"),
        ("integer", "boolean-flag", 1),
        ("float", "boolean-flag", 0.1),
        ("boolean", "string-flag", False),
        ("boolean", "integer-flag", False),
        ("integer", "string-flag", 1),
        ("integer", "float-flag", 1),
        ("float", "string-flag", 0.1),
        ("object", "string-flag", {}),
        ("string", "object-flag", "bye"),
        ("integer", "wrong-flag", 13),
    ],
)
def test_a_flag_of_another_type_answers_the_default_and_says_so(client, kind, key, default):
    """1.3.4"""
    found = details(client, kind, key, default)
    assert (found.value, found.reason, found.error_code) == (default, Reason.ERROR, ErrorCode.TYPE_MISMATCH)


@pytest.mark.parametrize(("kind", "default"), KINDS)
def test_a_disabled_flag_answers_the_default_without_an_error(client, kind, default):
    found = details(client, kind, f"{kind}-disabled", default)
    assert (found.value, found.reason, found.error_code, found.variant) == (
        default,
        Reason.DISABLED,
        None,
        None,
    )


def test_flag_metadata_is_in_the_details(client):
    """1.4.14"""
    found = details(client, "boolean", "metadata-flag", False)
    assert found.flag_metadata == {"string": "1.0.2", "integer": 2, "float": 0.1, "boolean": True}
    assert details(client, "boolean", "boolean-flag", False).flag_metadata == {}


def test_the_callers_context_is_left_alone(client):
    attributes = {"email": "ballmer@macrosoft.com", "more": {"list": [1, 2]}}
    context = EvaluationContext("me", copy.deepcopy(attributes))
    details(client, "boolean", "boolean-aimed", True, context)
    assert (context.targeting_key, context.attributes) == ("me", attributes)


def test_hooks_of_one_evaluation_run_in_order(client):
    """1.5.1"""
    calls = []

    class Noting(Hook):
        def __init__(self, name):
            self.name = name

        def before(self, hook_context, hints):
            calls.append(("before", self.name, hook_context.provider_metadata.name))

        def after(self, hook_context, details, hints):
            calls.append(("after", self.name, details.value))

    options = FlagEvaluationOptions(hooks=[Noting("a"), Noting("b")])
    details(client, "boolean", "boolean-flag", False, options=options)
    assert calls == [
        ("before", "a", "redis"),
        ("before", "b", "redis"),
        ("after", "b", True),
        ("after", "a", True),
    ]


@pytest.mark.parametrize(("kind", "default"), KINDS)
def test_before_initialization_the_default_is_answered(events, kind, default):
    """1.7.6: a provider whose Redis does not answer is not ready while it tries"""
    mute = socket.create_server(("127.0.0.1", 0))
    api.set_provider(RedisProvider(f"127.0.0.1:{mute.getsockname()[1]}", timeout=30))
    client = api.get_client()
    assert client.get_provider_status() is ProviderStatus.NOT_READY
    found = details(client, kind, f"{kind}-flag", default)
    assert (found.value, found.reason, found.error_code) == (
        default,
        Reason.ERROR,
        ErrorCode.PROVIDER_NOT_READY,
    )
