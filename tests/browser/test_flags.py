"""The page as the feature flags make it, through the proxy of a real fleet."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from fleet_commands import Live, run
from fleet_flags import Flags, kept
from openfeature_redis import flagset
from playwright.sync_api import Browser, Page, expect
from product import colour
from product import page as pages

SWITCH = {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "off"}
TEXT = {
    "state": "ENABLED",
    "variants": {"default": "", "red": "#f00", "sea": "By the sea"},
    "defaultVariant": "default",
}
FLAGS = {
    "font_color": TEXT, "site_title": TEXT, "disable_set": SWITCH, "show_picture": SWITCH, "new_layout": SWITCH,
}  # fmt: skip
TITLE = "A thing to do with a rather long title that has to wrap on a telephone"


@pytest.fixture
def flags(live: Live) -> Iterator[Flags]:
    """Flags that change nothing, one thing on the list; as it was afterwards."""
    with kept(live) as found:
        flagset.write(found.client, {"flags": FLAGS}, who="test", why="test")
        found.everywhere("/", "<h1>Bucket list</h1>")
        found.everywhere("/", '<body class="narrow"')
        run(
            "curl",
            "-s",
            "-H",
            "Content-Type: application/json",
            "-d",
            json.dumps({"title": TITLE}),
            f"{live.product}api/items",
        )
        yield found
        flagset.write(found.client, {"flags": FLAGS}, who="test", why="test")
        found.everywhere("/", '<button id="save" class="primary">')
        for item in json.loads(run("curl", "-s", f"{live.product}api/items").stdout)["items"]:
            run("curl", "-s", "-X", "DELETE", f"{live.product}api/items/{item['id']}")


def look_again(page: Page) -> None:
    """Have the page ask for news as it does when it is shown again; by itself it asks every five seconds."""
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


@pytest.mark.parametrize("layout", ["narrow", "wide"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_both_layouts_fit_and_can_be_read_on_phones_and_desks_in_light_and_dark(
    flags: Flags, page: Page, layout: str, scheme: str, width: int
) -> None:
    for key, variant in (
        ("show_picture", "on"),
        ("font_color", "red"),
        ("site_title", "sea"),
        ("disable_set", "on"),
    ):
        flags.set_default(key, variant)
    flags.set_default("new_layout", "on" if layout == "wide" else "off")
    flags.everywhere("/", f'<body class="{layout}"')
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 740})
    page.goto(flags.live.product)
    expect(page.locator("h1")).to_have_text("By the sea")
    expect(page.get_by_role("img", name="A small boat on the sea at sunset")).to_be_visible()
    expect(page.get_by_text("The list is closed for changes.")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    for place in ("h1", ".name"):
        ink = page.evaluate(
            f"getComputedStyle(document.querySelector('{place}')).color.match(/\\d+/g).map(Number)"
        )
        red, green, blue = (part / 255 for part in ink)
        assert colour.contrast((red, green, blue), colour.parse(pages.PAPER[scheme])) >= colour.LEGIBLE - 0.05
        assert red > max(green, blue), "it is still red"
    beside = page.locator("#list").bounding_box()["x"] > page.locator("#add").bounding_box()["x"]
    assert beside == (layout == "wide" and width == 1200)


def test_an_open_page_follows_every_flip_and_keeps_what_is_being_typed(flags: Flags, page: Page) -> None:
    page.goto(flags.live.product)
    field = page.get_by_label("What do you want to do?")
    field.fill("half a tho")
    for key, variant in (
        ("site_title", "sea"),
        ("show_picture", "on"),
        ("new_layout", "on"),
        ("font_color", "red"),
        ("disable_set", "on"),
    ):
        flags.set_default(key, variant)
    look_again(page)
    expect(page.get_by_text("The list is closed for changes.")).to_be_visible(timeout=15_000)
    expect(page).to_have_title("By the sea")
    expect(page.locator("h1")).to_have_text("By the sea")
    expect(page.locator("body")).to_have_class("wide")
    expect(page.locator("#picture svg")).to_be_visible()
    ink = page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--ink-light')")
    assert ink == pages.inks("#f00")[0]
    expect(field).to_have_value("half a tho")
    expect(field).not_to_be_editable()
    expect(page.get_by_role("button", name="Add")).to_be_disabled()
    expect(page.get_by_role("checkbox", name=TITLE)).to_be_disabled()
    flags.set_default("disable_set", "off")
    look_again(page)
    expect(field).to_be_editable(timeout=15_000)
    page.get_by_role("button", name="Add").click()
    expect(page.get_by_role("checkbox", name="half a tho")).to_be_visible()


def test_a_page_opened_before_changes_were_switched_off_is_told_and_loses_nothing(
    flags: Flags, page: Page
) -> None:
    # It hears of nothing by itself: neither on its stream nor when it asks.
    page.route("**/api/**", lambda route: route.abort())
    page.goto(flags.live.product)
    flags.set_default("disable_set", "on")
    flags.everywhere("/", "The list is closed for changes.")
    field = page.get_by_label("What do you want to do?")
    field.fill("Too late")
    field.press("Enter")
    expect(page.get_by_text("Not saved: changes are switched off for the moment")).to_be_visible()
    expect(field).to_have_value("Too late")
    assert "Too late" not in run("curl", "-s", f"{flags.live.product}api/items").stdout


def test_an_open_page_is_told_of_a_flip_without_asking(flags: Flags, page: Page) -> None:
    # It asks now and then by a timer alone.
    page.add_init_script("window.setInterval = () => 0")
    for _ in range(60):
        with page.expect_response("**/api/changes") as stream:
            page.goto(flags.live.product)
        if stream.value.status == 200:
            break
        # An instance has room for some streams; those of pages that are gone end within seconds.
        page.wait_for_timeout(1000)
    flags.set_default("site_title", "sea")
    expect(page).to_have_title("By the sea", timeout=60_000)


def test_a_rollout_reaches_some_visitors_and_each_keeps_their_layout(flags: Flags, browser: Browser) -> None:
    half = {**SWITCH, "targeting": {"fractional": [["on", 50], ["off", 50]]}}
    flagset.write(flags.client, {"flags": {**FLAGS, "new_layout": half}}, who="test", why="test")
    seen = set()
    for _ in range(30):
        context = browser.new_context()
        visitor = context.new_page()
        layouts = set()
        for _ in range(3):
            visitor.goto(flags.live.product)
            layouts.add(visitor.locator("body").get_attribute("class"))
        assert len(layouts) == 1, "whichever instance answers"
        seen |= layouts
        context.close()
        if len(seen) == 2:
            break
    assert seen == {"narrow", "wide"}
