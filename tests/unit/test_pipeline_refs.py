"""What may be pushed and where it goes, and what a build machine may say of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from saltern import delivery
from saltern.pipeline import refs
from saltern.pipeline.refs import HEADS, NOTHING, TAGS, Update

BRANCHES = {"production": "prod", "release": "prod", "staging": "canary", "dev": "canary"}
A, B = "a" * 40, "b" * 40


@pytest.mark.parametrize(
    ("ref", "target"),
    [
        ("refs/heads/production", "prod"),
        ("refs/heads/release", "prod"),
        ("refs/heads/staging", "canary"),
        ("refs/heads/dev", "canary"),
        ("refs/heads/feature/x", ""),
        ("refs/heads/productionx", ""),
        ("refs/heads/x/production", ""),
        # A tag of that name is a release, not the branch.
        ("refs/tags/production", ""),
        ("production", ""),
    ],
)
def test_where_a_ref_goes_is_the_pillars_to_say_and_of_branches_alone(ref, target):
    assert refs.target_of(ref, BRANCHES) == target


@pytest.mark.parametrize("name", ["main", "feature/colours", "v1.2.3", "A_b-c.d/e", "9", "x" * 64])
def test_an_ordinary_name_may_be_pushed(name):
    assert refs.name_of(HEADS + name) == name
    assert refs.name_of(TAGS + name) == name


@pytest.mark.parametrize(
    "name",
    ["", "-x", ".x", "x.", "x..y", "x//y", "/x", "x/", "x.lock", "x y", "x\ny", "x\n", "$(x)", "`x`", "{{ x }}",
     "{% x %}", "x;y", "x|y", "x>y", "x'y", 'x"y', "x\\y", "é", "x\0y", "x" * 65, "x/.y", "x/-y"],
)  # fmt: skip
def test_a_name_that_a_shell_or_a_template_could_read_may_not(name):
    with pytest.raises(ValueError) as raised:
        refs.name_of(HEADS + name)
    assert "\n" not in str(raised.value)
    assert str(raised.value).isascii()
    assert str(raised.value).startswith("branch ")


@given(st.text(max_size=80))
def test_whatever_name_is_taken_is_made_of_harmless_characters_and_whatever_is_not_is_said_in_one_line(name):
    try:
        assert refs.NAME.fullmatch(refs.name_of(HEADS + name))
    except ValueError as error:
        assert "\n" not in str(error) and str(error).isprintable()


@pytest.mark.parametrize(
    ("updates", "words"),
    [
        ([Update("refs/heads/staging", A, B)], ""),
        ([Update("refs/heads/staging", A, B, forced=True)], ""),
        ([Update("refs/heads/production", A, B)], ""),
        ([Update("refs/heads/production", A, B, forced=True)], "would lose commits"),
        ([Update("refs/heads/production", A, NOTHING)], "is not deleted"),
        ([Update("refs/heads/staging", A, NOTHING)], "is not deleted"),
        ([Update("refs/heads/x", A, NOTHING)], ""),
        ([Update("refs/tags/v1", NOTHING, A)], ""),
        ([Update("refs/tags/v1", A, B)], "stands already"),
        ([Update("refs/tags/v1", A, NOTHING)], "cannot be deleted"),
        ([Update("refs/changes/1", NOTHING, A)], "neither a branch nor a tag"),
        ([Update("HEAD", NOTHING, A)], "neither a branch nor a tag"),
        ([Update(f"refs/heads/b{n}", NOTHING, A) for n in range(10)], ""),
        ([Update(f"refs/heads/b{n}", NOTHING, A) for n in range(11)], "one by one"),
        ([Update("refs/heads/x", NOTHING, A), Update("refs/heads/{{x}}", NOTHING, A)], "'{{x}}'"),
    ],
)
def test_a_push_is_taken_or_refused_as_a_whole(updates, words):
    why = refs.refusal(updates, BRANCHES)
    assert words in why if words else why == ""
    assert "\n" not in why


def test_all_but_what_is_deleted_is_built():
    kept = Update("refs/heads/x", NOTHING, A)
    assert refs.to_build([kept, Update("refs/heads/y", A, NOTHING)]) == [kept]


SAID = {
    "build": "20261121-071523-abcdef1", "result": "passed", "ref": "refs/heads/staging", "commit": A,
    "release": f"r{'c' * 12}", "sha256": "c" * 64, "size": 1000, "platform": "any", "author": "Ada <ada@fleet.test>",
    "pusher": "clone", "why": "",
}  # fmt: skip


def test_what_a_build_machine_says_is_taken_when_all_of_it_is_right():
    assert delivery.checked(SAID) == SAID
    failed = {
        **SAID,
        "result": "failed",
        "release": "",
        "sha256": "",
        "size": 0,
        "platform": "",
        "why": "test: 1 failed",
    }
    assert delivery.checked(failed) == failed


@pytest.mark.parametrize(
    "change",
    [
        {"build": "../x"}, {"build": 7}, {"result": "done"}, {"result": None}, {"ref": "refs/heads/{{x}}"},
        {"ref": "staging"}, {"commit": "HEAD"}, {"commit": A + "\n"},
        {"release": "r1"}, {"release": f"r{'d' * 12}"}, {"release": ""},
        {"sha256": "c"}, {"sha256": ""}, {"size": -1}, {"size": True}, {"size": "1"}, {"size": 2**40}, {"size": 0},
        {"platform": "a b"}, {"platform": ""}, {"author": "a\nb"}, {"author": "x" * 201}, {"author": None}, {"more": 1},
    ],
)  # fmt: skip
def test_one_field_that_is_not_right_rejects_it_whole(change):
    with pytest.raises(ValueError) as raised:
        delivery.checked({**SAID, **change})
    assert "\n" not in str(raised.value)
