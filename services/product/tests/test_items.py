"""What may become an item."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from product import items
from product.items import MAX_TITLE, Change, Item, Refused

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("raw", "title"),
    [
        ("See the sea", "See the sea"),
        ("  See\tthe \r\n sea  ", "See the sea"),
        ("Cafe\u0301", "Café"),
        ("👩\u200d🚀 to the moon", "👩\u200d🚀 to the moon"),
        ("<script>alert('x')</script>", "<script>alert('x')</script>"),
        ("x" * MAX_TITLE, "x" * MAX_TITLE),
    ],
)
def test_a_title_is_kept_as_people_would_read_it(raw, title):
    assert items.clean_title(raw) == title


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("", "nothing to read"),
        (" \n\t", "nothing to read"),
        ("\u200b\u200d", "nothing to read"),
        ("x" * (MAX_TITLE + 1), "201 characters; at most 200"),
        ("a\x00b", "character 2 is U+0000"),
        ("\x1b[2J", "U+001B"),
        ("\ud800", "U+D800"),
        (7, "int where text is needed"),
        (None, "NoneType where text is needed"),
    ],
)
def test_what_is_no_title_is_refused_with_the_reason(raw, said):
    with pytest.raises(Refused, match=r"^title: ") as refused:
        items.clean_title(raw)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@given(st.text())
def test_a_cleaned_title_cleans_to_itself_and_keeps_the_limits(raw):
    try:
        title = items.clean_title(raw)
    except Refused:
        return
    assert items.clean_title(title) == title
    assert 1 <= len(title) <= MAX_TITLE
    assert title == title.strip()
    assert not {unicodedata.category(character) for character in title} & {"Cc", "Cs"}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"done": True}, Change(done=True)),
        ({"title": " a "}, Change(title="a")),
        ({"title": "a", "done": False, "version": 3}, Change("a", False, 3)),
    ],
)
def test_a_change_names_what_to_change(document, expected):
    assert items.change(document) == expected


@pytest.mark.parametrize(
    ("document", "where"),
    [
        ([], "body"),
        ("done", "body"),
        ({}, "body"),
        ({"version": 1}, "body"),
        ({"done": 1}, "done"),
        ({"done": None}, "done"),
        ({"title": None}, "title"),
        ({"done": True, "version": True}, "version"),
        ({"done": True, "version": 0}, "version"),
        ({"done": True, "version": "1"}, "version"),
        ({"done": True, "colour": "red"}, "'colour'"),
        ({"done": True, "\ud800\n": 1}, r"'\ud800\n'"),
    ],
)
def test_a_wrong_change_is_refused_in_one_line_that_says_where(document, where):
    with pytest.raises(Refused) as refused:
        items.change(document)
    text = str(refused.value)
    assert text.startswith(f"{where}: ")
    assert text.isprintable()


@pytest.mark.parametrize("document", [None, [], "x", {}, {"titel": "x"}, {"title": "x", "done": True}])
def test_adding_takes_a_title_and_nothing_else(document):
    with pytest.raises(Refused):
        items.new_title(document)
    assert items.new_title({"title": "x"}) == "x"


@pytest.mark.parametrize("key", ["", "a b", "x" * 65, "é", "a\n"])
def test_a_repeat_key_is_short_and_plain(key):
    with pytest.raises(Refused, match="Idempotency-Key"):
        items.repeat_key(key)
    assert items.repeat_key("aZ0-_") == "aZ0-_"


numbers = st.integers(1, 10**12)


@given(st.builds(Item, numbers, st.text(), st.booleans(), numbers, numbers))
def test_an_item_survives_being_written_and_read(item):
    assert items.parse(json.dumps(item.as_json())) == item


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "{}",
        '{"id": true, "title": "x", "done": false, "created": 1, "version": 1}',
        '{"id": 1, "title": "x", "done": 0, "created": 1, "version": 1}',
        '{"id": 1, "title": "x", "done": false, "created": 1.5, "version": 1}',
    ],
)
def test_what_is_no_item_is_not_taken_for_one(text):
    with pytest.raises(ValueError):
        items.parse(text)
