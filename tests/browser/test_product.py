"""The product as a visitor has it, through the proxy of a real fleet."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator

import pytest
from fleet_commands import Live, run, wait_for
from playwright.sync_api import Page, Route, expect
from saltern.local import cgroup


@pytest.fixture
def empty_list(live: Live) -> Iterator[Live]:
    """The fleet, with nothing on the list before and after."""
    _clear(live)
    yield live
    _clear(live)


def _clear(live: Live) -> None:
    for item in json.loads(run("curl", "-s", f"{live.product}api/items").stdout)["items"]:
        run("curl", "-s", "-X", "DELETE", f"{live.product}api/items/{item['id']}")


def _add(page: Page, title: str) -> None:
    page.get_by_label("What do you want to do?").fill(title)
    page.get_by_role("button", name="Add").click()
    expect(page.get_by_role("checkbox", name=title)).to_be_visible()


def test_a_visitor_adds_ticks_edits_and_deletes(empty_list: Live, page: Page) -> None:
    page.goto(empty_list.product)
    expect(page.get_by_text("Nothing in the bucket yet.")).to_be_visible()
    _add(page, "Sail to an island")
    _add(page, "Bake bread")
    expect(page.get_by_text("0 of 2 done")).to_be_visible()
    page.get_by_role("checkbox", name="Bake bread").click()
    expect(page.get_by_role("checkbox", name="Bake bread")).to_be_checked()
    expect(page.get_by_text("1 of 2 done")).to_be_visible()
    page.get_by_role("link", name="Edit Sail to an island").click()
    page.get_by_label("New text for “Sail to an island”").fill("Sail around an island")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("checkbox", name="Sail around an island")).to_be_visible()
    page.get_by_role("button", name="Delete Bake bread").click()
    expect(page.get_by_role("checkbox", name="Bake bread")).to_have_count(0)
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_role("checkbox", name="Bake bread")).to_be_checked()


def test_markup_in_a_title_is_text(empty_list: Live, page: Page) -> None:
    page.goto(empty_list.product)
    title = "<script>document.title='taken'</script><b>bold</b>"
    _add(page, title)
    expect(page).to_have_title("Bucket list")
    assert page.locator("#list b").count() == 0


def test_it_works_by_keyboard_alone(empty_list: Live, page: Page) -> None:
    page.goto(empty_list.product)
    page.get_by_label("What do you want to do?").focus()
    page.keyboard.type("Learn a song")
    page.keyboard.press("Enter")
    box = page.get_by_role("checkbox", name="Learn a song")
    expect(box).to_be_visible()
    box.focus()
    page.keyboard.press("Space")
    expect(box).to_be_checked()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_it_fits_phones_and_desks_in_light_and_dark(
    empty_list: Live, page: Page, scheme: str, width: int
) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 740})
    page.goto(empty_list.product)
    _add(page, "A thing to do with a rather long title that has to wrap on a telephone")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    brightness = page.evaluate(
        "getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/g).map(Number)[0]"
    )
    assert (brightness < 80) if scheme == "dark" else (brightness > 200)


def test_it_says_who_served_it_and_both_pools_do(empty_list: Live, page: Page) -> None:
    pools = set()
    for _ in range(60):
        page.goto(empty_list.product)
        served = page.locator("#served").inner_text()
        pools.add(re.search(r"\b(prod|canary)\b\s+release", served)[1])
    assert pools == {"prod", "canary"}


def test_a_change_heard_while_something_is_sent_is_not_forgotten(empty_list: Live, page: Page) -> None:
    with page.expect_response("**/api/changes"):
        page.goto(empty_list.product)

    def answered_late(route: Route) -> None:
        answer = route.fetch()
        new = json.dumps({"title": "Bake bread"})
        run("curl", "-s", "-d", new, "-H", "Content-Type: application/json", f"{empty_list.product}api/items")
        wait_for(lambda: _all_have(empty_list, "Bake bread"), 10, "every instance has the list")
        # The page is told within a quarter of a second.
        time.sleep(1)
        route.fulfill(response=answer)

    page.route(f"{empty_list.product}items", answered_late)
    _add(page, "Sail to an island")
    expect(page.get_by_role("checkbox", name="Bake bread")).to_be_visible(timeout=10_000)


def test_with_redis_away_it_shows_the_list_and_says_so(empty_list: Live, page: Page) -> None:
    page.goto(empty_list.product)
    _add(page, "Watch the tide come in")
    wait_for(lambda: _all_have(empty_list, "Watch the tide"), 10, "every instance has the list")
    for machine in ("redis1", "redis2", "redis3"):
        for pid in cgroup.processes(empty_list.group(machine)):
            if run("cat", f"/proc/{pid}/comm").stdout.strip() == "redis-server":
                run("kill", "-STOP", str(pid))
    try:
        page.goto(empty_list.product)
        expect(page.get_by_text("The shared list is out of reach.")).to_be_visible(timeout=10_000)
        expect(page.get_by_text("Watch the tide come in")).to_be_visible()
        typed = page.get_by_label("What do you want to do?")
        typed.fill("Not lost")
        page.get_by_role("button", name="Add").click()
        expect(page.get_by_label("What do you want to do?")).to_have_value("Not lost")
    finally:
        for machine in ("redis1", "redis2", "redis3"):
            for pid in cgroup.processes(empty_list.group(machine)):
                run("kill", "-CONT", str(pid))
    wait_for(lambda: "out of reach" not in run("curl", "-s", empty_list.product).stdout, 20, "it recovers")


def _all_have(live: Live, title: str) -> bool:
    where = {each["id"]: each["address"] for each in live.status()["machines"]}
    return all(
        title in run("curl", "-s", f"http://{address}:8080/api/items").stdout
        for name, address in where.items()
        if name.startswith(("prod", "staging"))
    )
