"""The page as HTML, read back by a parser as a browser would."""

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from product import page
from product.config import Config, RedisSettings
from product.flags import DEFAULT, Features
from product.items import Item
from product.page import Draft
from product.snapshot import Listing
from product.store import Reading

pytestmark = pytest.mark.unit

SERVERS = RedisSettings((("h", 1),))
CONFIG = Config(SERVERS, SERVERS, "staging1", "canary", Path("/x"), "r7")
VOID = {"meta", "link", "input"}
EVERYTHING = Features("red", True, True, "Sea & more", True)


class Reader(HTMLParser):
    """What is on a page: its tags with attributes, and the text inside each element that has an id."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[tuple[str, str | None]] = []
        self.texts: dict[str | None, str] = {}
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append((tag, dict(attrs).get("id")))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for _, name in self.open:
            self.texts[name] = self.texts.get(name, "") + data

    @property
    def body(self) -> dict[str, str | None]:
        return dict(self.tags)["body"]

    def find(self, **wanted: str) -> list[dict[str, str | None]]:
        return [found for _, found in self.tags if wanted.items() <= found.items()]


def listed(*titles: str, live: bool = True) -> Reading:
    made = tuple(Item(number, title, number % 2 == 0, 1, 3) for number, title in enumerate(titles, start=1))
    return Reading(Listing(made, "ab12", 1_700_000_000.0), live)


def read(reading: Reading, features: Features = DEFAULT, **draft: object) -> Reader:
    return Reader(page.render(CONFIG, reading, Draft("k1", **draft), features))


hostile = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1, max_size=60),
    st.sampled_from(
        [
            "<script>alert(1)</script>",
            '"><img src=x onerror=alert(1)>',
            "</title></style>",
            "{{1+1}}",
            "&lt;",
            "% end",
        ]
    ),
)


@given(title=hostile, typed=hostile, problem=hostile)
def test_no_text_of_a_person_becomes_markup(title, typed, problem):
    plain = read(listed("a", "b"), typed="c", problem="d", editing=2)
    found = read(listed(title, title), typed=typed, problem=problem, editing=2)
    assert [tag for tag, _ in found.tags] == [tag for tag, _ in plain.tags]
    assert [set(attributes) for _, attributes in found.tags] == [
        set(attributes) for _, attributes in plain.tags
    ]
    assert found.texts["name-1"] == title
    assert found.find(id="title")[0]["value"] == typed
    assert found.find(id="text-2")[0]["value"] == title
    assert problem in found.texts["notice"]


def test_the_page_says_who_served_it():
    served = " ".join(read(listed()).texts["served"].split())
    assert served == "Served by staging1 canary release r7"


def test_an_empty_list_says_so():
    assert "Nothing in the bucket yet." in read(listed()).texts["list"]


def test_items_say_whether_they_are_done():
    found = read(listed("a", "b"))
    assert found.find(id="done-1")[0]["aria-checked"] == "false"
    assert found.find(id="done-2")[0]["aria-checked"] == "true"
    assert "1 of 2 done" in found.texts["count"]


@pytest.mark.parametrize(
    ("reading", "said"),
    [
        (listed("a", live=False), "This is the list as last seen, 22:13:20 UTC on 2023-11-14."),
        (Reading(None, False), "There is no copy of it here yet."),
    ],
)
def test_a_list_that_is_not_live_says_so(reading, said):
    assert said in " ".join(read(reading).texts["notice"].split())
    assert "out of reach" not in read(listed("a")).texts["notice"]


def test_an_unfinished_edit_is_shown_again_with_its_text_and_version():
    found = read(listed("a", "b"), editing=2, edit_text="half a tho", edit_version=9)
    assert found.find(id="text-2")[0]["value"] == "half a tho"
    assert found.find(name="version")[0]["value"] == "9"


def test_ids_are_unique_and_every_field_and_button_has_a_name():
    found = read(listed("a", "b", "c"), editing=3, deleted=4)
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    labels = {attributes["for"] for tag, attributes in found.tags if tag == "label"}
    for tag, attributes in found.tags:
        if tag == "input" and attributes.get("type") != "hidden":
            assert attributes["id"] in labels
        if reference := attributes.get("aria-labelledby"):
            assert found.texts[reference].strip()
    for button in [attributes for tag, attributes in found.tags if tag == "button" and "class" in attributes]:
        assert {"aria-label", "aria-labelledby"} & set(button) or button["class"] in ("primary", "plain")


@pytest.mark.parametrize("features", [DEFAULT, Features(font_color="#08f"), EVERYTHING])
def test_the_policy_allows_exactly_the_styles_and_the_script_on_the_page(features):
    html = page.render(CONFIG, listed("a"), Draft("k1"), features)
    policy = dict(part.split(" ", 1) for part in page.security_policy(features).split("; "))
    for tag, directive in (("style", "style-src"), ("script", "script-src")):
        blocks = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digests = [base64.b64encode(hashlib.sha256(block.encode()).digest()).decode() for block in blocks]
        assert policy[directive] == " ".join(f"'sha256-{digest}'" for digest in digests)


def test_the_page_asks_nobody_else_for_anything():
    for _, attributes in read(listed("a"), editing=1).tags:
        for name in ("href", "src", "action"):
            assert re.match(r"/(?!/)|data:|None", str(attributes.get(name)))


def test_the_mark_differs_when_the_list_the_notice_or_the_look_does():
    one = listed("a")
    readings = [
        one,
        Reading(one.listing, False),
        Reading(None, False),
        Reading(Listing((), "cd34", 0.0), True),
    ]
    looks = [
        DEFAULT,
        EVERYTHING,
        *(replace(DEFAULT, **{name: value}) for name, value in vars(EVERYTHING).items()),
    ]
    marks = {page.mark(reading, features) for reading in readings for features in looks}
    assert len(marks) == len(readings) * len(looks)


def test_the_title_and_the_layout_are_what_the_flags_say():
    plain, other = read(listed("a")), read(listed("a"), EVERYTHING)
    assert (plain.texts["top"].split("\n")[1].strip(), plain.body["class"]) == ("Bucket list", "narrow")
    assert (other.texts["top"].split("\n")[1].strip(), other.body["class"]) == ("Sea & more", "wide")


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [
        ("", "Bucket list"),
        (" \n ", "Bucket list"),
        ("a\tb\nc", "a b c"),
        ("x" * 80, "x" * 80),
        ("x" * 81, "x" * 79 + "…"),
    ],
)
def test_a_title_is_one_line_that_fits(wanted, shown):
    assert page.site_title(replace(DEFAULT, site_title=wanted)) == shown


@given(title=hostile, colour=hostile)
def test_no_text_of_an_operator_becomes_markup(title, colour):
    wanted = replace(EVERYTHING, site_title=title, font_color=colour)
    found = read(listed("a", "b"), wanted)
    assert [tag for tag, _ in found.tags] == [tag for tag, _ in read(listed("a", "b"), EVERYTHING).tags]
    assert found.body["data-ink-light"] in (page.INK["light"], *page.inks(colour))


def test_a_closed_list_says_so_and_offers_nothing_that_would_be_refused():
    found = read(listed("a", "b"), replace(DEFAULT, disable_set=True), typed="half a tho", deleted=7)
    assert "The list is closed for changes." in found.texts["notice"]
    buttons = [attributes for tag, attributes in found.tags if tag == "button"]
    assert len(buttons) == 6 and all("disabled" in attributes for attributes in buttons)
    assert not [attributes for tag, attributes in found.tags if tag == "a"]
    (field,) = found.find(id="title")
    assert "readonly" in field and field["value"] == "half a tho"
    open_list = read(listed("a", "b"), deleted=7)
    assert not [attributes for _, attributes in open_list.tags if {"disabled", "readonly"} & set(attributes)]
    assert "closed" not in open_list.texts["notice"]


def test_the_picture_is_there_or_not():
    assert not [tag for tag, attributes in read(listed()).tags if attributes.get("role") == "img"]
    (shown,) = read(listed(), replace(DEFAULT, show_picture=True)).find(role="img")
    assert shown["aria-label"] == "A small boat on the sea at sunset"
