"""Colours: what is one, and that text in it can be read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from product import colour, page

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("#000", (0, 0, 0)),
        ("#FFffFF", (1, 1, 1)),
        (" #f00 ", (1, 0, 0)),
        ("Blue", (0, 0, 1)),
        ("", None),
        ("#12", None),
        ("#1234567", None),
        ("#ggg", None),
        ("rgb(0,0,0)", None),
        ("red}body{display:none", None),
        ("#000\n", (0, 0, 0)),
    ],
)
def test_what_is_a_colour(text, found):
    assert colour.parse(text) == found


@pytest.mark.parametrize(
    ("one", "other", "ratio"),
    # The extremes of the definition, and a pair from WCAG's own table of grey on white.
    [("#000", "#fff", 21.0), ("#fff", "#fff", 1.0), ("#767676", "#ffffff", 4.54)],
)
def test_contrast_is_that_of_the_definition(one, other, ratio):
    assert colour.contrast(colour.parse(one), colour.parse(other)) == pytest.approx(ratio, abs=0.005)


@given(st.from_regex(r"#[0-9a-f]{6}", fullmatch=True))
def test_whatever_colour_is_wanted_text_in_it_can_be_read_on_both_papers(wanted):
    for scheme, shown in zip(("light", "dark"), page.inks(wanted), strict=True):
        paper = colour.parse(page.PAPER[scheme])
        assert colour.contrast(colour.parse(shown), paper) >= colour.LEGIBLE
        if colour.contrast(colour.parse(wanted), paper) >= colour.LEGIBLE:
            assert shown == wanted, "a colour that can be read is left as it is"


def test_the_pages_own_ink_can_be_read():
    for scheme, ink in page.INK.items():
        assert colour.contrast(colour.parse(ink), colour.parse(page.PAPER[scheme])) > 7
