"""What a person does to a flag set: every edit, and every one that is refused."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from openfeature_redis import flagset
from saltern import flag_edits
from saltern.errors import SalternError
from saltern.fleet import REPOSITORY

pytestmark = pytest.mark.unit

SEED = json.loads((REPOSITORY / "salt" / "proxy" / "flags.json").read_text())
NUMBERS = {"state": "ENABLED", "variants": {"5": 5, "10": 10}, "defaultVariant": "5"}
ANSWERS = {"state": "ENABLED", "variants": {"yes": True, "no": False}, "defaultVariant": "no"}
DOCUMENT = {"flags": {**SEED["flags"], "numbers": NUMBERS, "answers": ANSWERS}}


def after(key: str, edit: Any, given: object) -> dict[str, Any]:
    """The flag after the edit, which must have touched nothing else and left a valid set."""
    before = copy.deepcopy(DOCUMENT)
    made = edit(DOCUMENT, key, given)
    assert before == DOCUMENT, "an edit is pure"
    flagset.validate(made)
    assert {**made["flags"], key: None} == {**DOCUMENT["flags"], key: None}
    return made["flags"][key]


def test_the_flags_a_new_fleet_starts_with_are_valid_and_change_nothing_anybody_sees():
    flagset.validate(SEED)
    defaults = {key: flag["variants"][flag["defaultVariant"]] for key, flag in SEED["flags"].items()}
    assert defaults == {
        "font_color": "", "disable_set": False, "show_picture": False, "site_title": "Bucket list", "new_layout": False,
    }  # fmt: skip
    assert SEED["flags"]["new_layout"]["targeting"] == {"fractional": [["on", 10], ["off", 90]]}


@pytest.mark.parametrize(
    ("key", "given", "variant"),
    [
        ("font_color", "blue", "blue"),
        ("show_picture", "on", "on"),
        ("show_picture", True, "on"),
        ("show_picture", False, "off"),
        ("answers", True, "yes"),
        ("answers", False, "no"),
        ("numbers", 10, "10"),
    ],
)
def test_a_variant_is_named_by_what_the_shell_makes_of_its_name(key, given, variant):
    assert after(key, flag_edits.with_variant, given)["defaultVariant"] == variant


@pytest.mark.parametrize(
    ("key", "given", "value"),
    [
        ("site_title", "Summer", "Summer"),
        ("site_title", 2025, "2025"),
        ("numbers", 7, 7),
        ("show_picture", True, True),
    ],
)
def test_a_value_of_its_own_becomes_the_default(key, given, value):
    flag = after(key, flag_edits.with_value, given)
    assert (flag["variants"]["custom"], flag["defaultVariant"]) == (value, "custom")
    assert flag["variants"].items() > DOCUMENT["flags"][key]["variants"].items()


@pytest.mark.parametrize("percent", [0, 1, 50, 100])
def test_a_rollout_reaches_so_many_per_cent(percent):
    wanted = {"fractional": [["on", percent], ["off", 100 - percent]]}
    assert after("new_layout", flag_edits.with_percent, percent)["targeting"] == wanted
    assert after("show_picture", flag_edits.with_percent, percent)["targeting"] == wanted


def test_a_flag_is_defined_whole():
    assert after("site_title", flag_edits.with_definition, NUMBERS) == NUMBERS
    assert flag_edits.with_definition(DOCUMENT, "new", NUMBERS)["flags"]["new"] == NUMBERS


@pytest.mark.parametrize(
    ("edit", "key", "given", "line"),
    [
        (
            flag_edits.with_variant,
            "nope",
            "on",
            "flags: there is no flag 'nope'; there are: answers, disable_set",
        ),
        (flag_edits.with_value, "nope", "on", "flags: there is no flag 'nope'"),
        (flag_edits.with_percent, "nope", 5, "flags: there is no flag 'nope'"),
        (
            flag_edits.with_percent,
            "font_color",
            5,
            "percent is for a flag with a variant true and a variant false",
        ),
        (flag_edits.with_percent, "new_layout", 101, "percent 101 is not a whole number between 0 and 100"),
        (flag_edits.with_percent, "new_layout", -1, "percent -1 is not"),
        (flag_edits.with_percent, "new_layout", True, "percent True is not"),
        (flag_edits.with_percent, "new_layout", 2.5, "percent 2.5 is not"),
        (flag_edits.with_percent, "new_layout", "many", "percent 'many' is not"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(edit, key, given, line):
    with pytest.raises(SalternError) as refused:
        edit(DOCUMENT, key, given)
    assert line in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(("given", "name"), [("green ", "green "), (True, "true"), (7, "7")])
def test_a_variant_that_is_not_there_is_named_with_those_that_are(given, name):
    with pytest.raises(flagset.NoSuchFlag, match=f"font_color has no variant '{name}'; it has default, blue"):
        flag_edits.with_variant(DOCUMENT, "font_color", given)


def test_a_glance_shows_state_default_variants_and_targeting():
    shown = flag_edits.glance(flagset.Stored("", DOCUMENT, 7))
    assert (shown["revision"], list(shown["flags"])) == (7, sorted(DOCUMENT["flags"]))
    assert shown["flags"]["new_layout"] == {
        "state": "ENABLED", "defaultVariant": "off", "variants": {"on": True, "off": False}, "targeted": True,
    }  # fmt: skip
