"""The dashboard's page before the real fleet."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from fleet_commands import Live, wait_for
from playwright.sync_api import Page, expect
from saltern import members, secrets
from saltern.fleet import Fleet
from saltern.registry import Registry

SOON = 20_000


@pytest.fixture
def registry(live: Live) -> Iterator[Registry]:
    """Desired state, as it was afterwards."""
    found = Registry(members.link(Fleet.load(live.state_dir)))
    share = found.snapshot().split.share
    yield found
    found.canary_on(by="test")
    found.set_share(share, by="test")


def test_every_view_shows_the_fleet_and_a_share_set_there_reaches_haproxy(
    live: Live, page: Page, registry: Registry
) -> None:
    status = live.status()
    page.goto(status["urls"]["dashboard"])
    expect(page.locator("#live-word")).to_have_text("live", timeout=SOON)
    for machine in status["machines"]:
        box = page.get_by_role("listitem", name=machine["id"], exact=True)
        expect(box).to_be_visible(timeout=SOON)
        expect(box).to_contain_text(re.compile(r"heard (just now|\d+ s ago)"), timeout=90_000)
        if machine["release"]:
            expect(box).to_contain_text(machine["release"])
    for region in ("Traffic", "Canary", "Machines", "At work", "Builds", "Alerts", "Flags", "Journal"):
        expect(page.get_by_role("region", name=region, exact=True)).to_be_visible()
    expect(page.get_by_role("region", name="Flags")).to_contain_text("font_color")
    page.get_by_role("button", name="Sign in to change").click()
    page.get_by_label("Write token").fill(secrets.load(Fleet.load(live.state_dir))["admin"]["write"])
    page.get_by_role("button", name="Sign in", exact=True).click()
    page.get_by_label("Share in per cent").fill("100")
    page.get_by_role("button", name="Set share").click()
    expect(page.locator("#confirm")).to_contain_text("becomes 100 %", timeout=SOON)
    page.get_by_role("button", name="Do it").click()
    wait_for(lambda: live.headers().get("x-saltern-pool") == "canary", 10, "the canary's answer")
    assert registry.snapshot().split.share == 100
    drawn = page.get_by_role("region", name="Traffic").get_by_role(
        "img", name=re.compile("and 100 % to the canary")
    )
    expect(drawn).to_be_visible(timeout=SOON)
    line = page.get_by_role("button", name=re.compile("admin.write PUT .split")).first
    line.click()
    expect(page.get_by_role("region", name="Why?")).to_contain_text("split.share split", timeout=SOON)
    expect(page.locator("#lines li.lit")).to_contain_text("split.share split")
