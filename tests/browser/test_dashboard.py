"""The dashboard's page in a browser: every view, changes asked about first, and a page anybody can use."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
from admin_stand import WRITE, AdminStand
from alert_stand import mute_alertmanager
from dashboard_stand import BUILDS, DashboardStand, Painter, builds_served
from host import free_port, until
from playwright.sync_api import Browser, Page, expect
from traffic_stand import redis_server

AXE = Path(__file__).with_name("axe")
WIDTHS = {"phone": 360, "desk": 1300}
SOON = 10_000
"""Milliseconds."""


class Play:
    """A small fleet that goes on by itself, its admin API, and the dashboard before both."""

    def __init__(
        self, folder: Path, machines: dict[str, tuple[str, str]] | None = None, silences: bool = False
    ) -> None:
        self.others = ExitStack()
        changes = {"builds": self.others.enter_context(builds_served(folder))}
        if silences:
            process, self.alertmanager = mute_alertmanager(folder, free_port())
            self.others.callback(process.end)
            changes["alertmanager"] = self.alertmanager.url
        self.redis, port = redis_server(folder / "redis")
        self.client = redis.Redis(port=port, decode_responses=True)
        self.painter = Painter(self.client, machines) if machines else Painter(self.client)
        self.painter.begin()
        for ago in range(60, 0, -1):
            self.painter.second(ago_s=float(ago))
        told = {name: url for name, url in changes.items() if name != "builds"}
        self.admin = AdminStand(folder, port, told).start()
        self.stand = DashboardStand(folder, port, self.admin.port, changes).start()
        self._end = threading.Event()
        self._clock = threading.Thread(target=self._run, daemon=True)
        self._clock.start()

    def _run(self) -> None:
        while not self._end.wait(0.5):
            self.painter.second()

    def close(self) -> None:
        self._end.set()
        self._clock.join()
        for process in (self.stand.process, self.admin.process, self.redis):
            process.end()
        self.others.close()


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Play]:
    made = Play(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Play]:
    """One for all tests that only look."""
    made = Play(tmp_path_factory.mktemp("looked"))
    made.painter.registry.canary_off("error rate 12 % above 1 %", by="judge", cause=first_line(made.client))
    yield made
    made.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """The accessibility checks."""
    source = AXE / "node_modules/axe-core/axe.min.js"
    if not source.exists():
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=AXE, check=True, capture_output=True)
    return source.read_text()


def first_line(client: redis.Redis) -> str:
    return client.xrange("saltern:journal", count=1)[0][0]


def opened(page: Page, play: Play) -> Page:
    page.goto(play.stand.url)
    expect(page.locator("#live-word")).to_have_text("live", timeout=SOON)
    expect(page.locator(".machine").first).to_be_visible(timeout=SOON)
    return page


def box(page: Page, machine: str) -> Any:
    return page.get_by_role("listitem", name=machine, exact=True)


def sign_in(page: Page) -> None:
    page.get_by_role("button", name="Sign in to change").click()
    page.get_by_label("Write token").fill(WRITE)
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_role("button", name="Sign out")).to_be_visible(timeout=SOON)


def confirm(page: Page, *words: str) -> None:
    """Read what will happen, and say yes."""
    dialog = page.locator("#confirm")
    expect(dialog).to_be_visible(timeout=SOON)
    for each in words:
        expect(dialog).to_contain_text(each)
    dialog.get_by_role("button", name="Do it").click()
    expect(dialog).to_be_hidden(timeout=SOON)


# --- looking


def test_every_view_shows_what_is(looked_at: Play, page: Page) -> None:
    opened(page, looked_at)
    expect(page).to_have_title("Saltern test")
    expect(box(page, "prod1")).to_contain_text("serving")
    expect(box(page, "prod1")).to_contain_text("r1")
    expect(box(page, "prod1")).to_contain_text("% of requests")
    expect(box(page, "prod1")).to_contain_text(re.compile(r"heard (just now|\d+ s ago)"))
    expect(box(page, "prod1").get_by_role("img", name="well")).to_be_visible()
    expect(box(page, "redis2")).to_contain_text("not in touch with the primary")
    expect(box(page, "redis2").get_by_role("img", name="not working")).to_be_visible()
    expect(box(page, "staging1").get_by_role("img", name="attention")).to_be_visible()
    traffic = page.get_by_role("region", name="Traffic")
    expect(
        traffic.get_by_role("img", name=re.compile("70 % go to production and 30 % to the canary"))
    ).to_be_visible()
    expect(
        traffic.get_by_role("img", name=re.compile(r"The last minute: \d+ requests to production"))
    ).to_be_visible()
    canary = page.get_by_role("region", name="Canary")
    expect(canary).to_contain_text("The canary is off. error rate 12 % above 1 %")
    expect(canary.get_by_role("row", name=re.compile("^errors"))).to_be_visible()
    expect(canary.get_by_role("row", name=re.compile("^latency"))).to_contain_text("ms")
    expect(canary.get_by_role("listitem")).to_have_count(5)
    work = page.get_by_role("region", name="At work")
    expect(work).to_contain_text("scale prod")
    expect(work).to_contain_text("machine.made prod4")
    expect(page.get_by_role("region", name="Alerts")).to_contain_text("CPU of staging1 is high")
    expect(page.get_by_role("region", name="Flags")).to_contain_text("font_color")
    expect(page.get_by_role("region", name="Journal")).to_contain_text("canary.off canary")
    expect(page.get_by_role("button", name="Set share")).to_be_hidden()
    expect(page.get_by_role("button", name=re.compile("Drain|Disable|Turn|Start|Silence"))).to_have_count(0)


def test_a_builds_log_tests_and_coverage_open_from_its_card(looked_at: Play, page: Page) -> None:
    good, odd = BUILDS
    opened(page, looked_at)
    builds = page.get_by_role("region", name="Builds")
    cards = builds.locator("#build-list > li")
    expect(cards).to_have_count(2, timeout=SOON)
    # The newest first; what a build says of itself is words.
    expect(cards.nth(0)).to_contain_text("<b>odd</b> ffffff0")
    expect(cards.nth(0)).to_contain_text("<script>alert(1)</script> · Jo")
    expect(cards.nth(0)).to_contain_text("test: tests failed")
    expect(cards.nth(1)).to_contain_text("3 tests · coverage 81.3 % · 0 findings · release r2709ee1d8651")
    expect(cards.nth(1)).to_contain_text("to canary, serves on staging1")
    expect(cards.nth(0).get_by_role("button")).to_have_count(1)
    dialog = page.locator("#report")
    builds.get_by_role("button", name=f"Log of build {odd.id}").click()
    expect(dialog.locator("pre")).to_have_text("== build\nof <script>alert(1)</script>\n", timeout=SOON)
    dialog.get_by_role("button", name="Close").click()
    builds.get_by_role("button", name=f"Tests of build {good.id}").click()
    expect(dialog).to_contain_text("1 passed, 1 failed, 1 skipped.", timeout=SOON)
    expect(dialog.get_by_role("row", name="tests.test_items::test_long assert 1 == 2")).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    builds.get_by_role("button", name=f"Coverage of build {good.id}").click()
    expect(dialog.get_by_role("row").nth(1)).to_contain_text("product/items.py", timeout=SOON)


def test_a_machine_that_dies_is_red_and_then_green_again_and_is_said_aloud(play: Play, page: Page) -> None:
    opened(page, play)
    play.painter.down.add("prod2")
    expect(box(page, "prod2")).to_have_class("machine bad", timeout=SOON)
    expect(box(page, "prod2")).to_contain_text("down (L4CON)")
    expect(page.locator("#say")).to_contain_text("prod2: down (L4CON)")
    assert page.locator("#say").get_attribute("aria-live") == "polite"
    play.painter.down.clear()
    expect(box(page, "prod2")).to_have_class("machine good", timeout=SOON)


def test_machines_come_and_go_while_one_looks(play: Play, page: Page) -> None:
    opened(page, play)
    play.painter.machines["prod10"] = ("prod", "r1")
    play.painter.registry.register("prod10", "10.0.0.99", 8080, "r1", "prod", by="salt")
    expect(box(page, "prod10")).to_contain_text("serving", timeout=SOON)
    ids = page.locator(".machine").evaluate_all("nodes => nodes.map(n => n.getAttribute('aria-label'))")
    assert ids[:4] == ["prod1", "prod2", "prod3", "prod10"], "two comes before ten"
    del play.painter.machines["prod3"]
    play.painter.registry.unregister("prod3", by="salt")
    expect(box(page, "prod3")).to_have_count(0, timeout=SOON)


def test_choosing_an_effect_lights_its_causes_and_tells_each_steps_time(looked_at: Play, page: Page) -> None:
    opened(page, looked_at)
    line = page.get_by_role("button", name=re.compile("canary.off canary"))
    line.focus()
    page.keyboard.press("Enter")
    expect(line).to_have_attribute("aria-pressed", "true", timeout=SOON)
    why = page.get_by_role("region", name="Why?")
    expect(why).to_contain_text("1 thing led to it")
    expect(why).to_contain_text("instance.register prod1")
    expect(why).to_contain_text(re.compile(r"\+\d+(\.\d)? m?s"))
    lit = page.locator("#lines li.lit")
    expect(lit).to_have_count(1)
    expect(lit).to_contain_text("instance.register prod1")
    expect(lit.get_by_role("button", name=re.compile("cause$"))).to_be_visible()
    page.get_by_role("searchbox", name="Why").fill("prod1 gone")
    page.get_by_role("button", name="Ask").click()
    expect(why).to_contain_text("nothing in the journal answers")
    expect(lit).to_have_count(0)
    page.get_by_label("Show").select_option("canary")
    expect(page.locator("#lines li")).to_have_count(1)


def test_a_page_that_lost_its_connection_says_so_and_catches_up(play: Play, page: Page) -> None:
    opened(page, play)
    play.stand.process.end()
    expect(page.locator("#live-word")).to_have_text("connection lost, trying again", timeout=SOON)
    play.painter.registry.set_share(12, by="anna")
    play.stand.start()
    expect(page.locator("#live-word")).to_have_text("live", timeout=SOON)
    expect(page.locator("#share")).to_contain_text("12 %")


def test_a_page_of_before_a_renewal_loads_itself_anew(looked_at: Play, page: Page) -> None:
    loads: list[str] = []
    page.on(
        "request", lambda request: loads.append(request.url) if request.url == looked_at.stand.url else None
    )
    versions = iter(["before"])

    def answer(route: Any) -> None:
        state = {**looked_at.stand.picture(), "version": next(versions, "after")}
        body = f"retry: 100\n\nevent: state\ndata: {json.dumps(state)}\n\n"
        route.fulfill(status=200, content_type="text/event-stream", body=body)

    page.route("**/events", answer)
    page.goto(looked_at.stand.url)
    until(lambda: page.wait_for_timeout(50) or len(loads) == 2, "the second load")
    page.wait_for_timeout(1500)
    assert len(loads) == 2, "once is enough"


def test_hostile_values_are_words_on_the_page_and_nothing_else(play: Play, page: Page) -> None:
    evil = "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>"
    client = play.client
    client.xadd(
        "saltern:journal", {"kind": evil, "subject": evil, "who": evil, "fields": "{}", "cause": evil}
    )
    client.hset("saltern:instance:prod1", "release", evil)
    client.hset("saltern:latch:canary", mapping={"reason": evil, "by": evil, "since": "1", "releases": ""})
    client.incr("saltern:revision")
    opened(page, play)
    expect(page.get_by_role("region", name="Journal")).to_contain_text(evil)
    expect(page.locator("#latch")).to_contain_text(evil)
    expect(box(page, "prod1")).to_contain_text("onerror")
    page.get_by_role("button", name=re.compile("<img")).first.click()
    expect(page.get_by_role("region", name="Why?")).to_contain_text("onerror", timeout=SOON)
    assert page.evaluate("document.querySelectorAll('img[src=x], body script').length") == 0
    assert page.title() == "Saltern test"


# --- changing


def test_a_share_set_on_the_page_is_asked_about_and_then_in_the_registry(play: Play, page: Page) -> None:
    opened(page, play)
    sign_in(page)
    page.get_by_label("Share in per cent").fill("45")
    page.get_by_role("button", name="Set share").click()
    confirm(page, "becomes 45 %; it is 30 % now", "about 45 go to staging1, 55 to production")
    assert play.painter.registry.snapshot().split.share == 45
    expect(page.locator("#share")).to_contain_text("45 %", timeout=SOON)


def test_saying_no_changes_nothing_and_gives_the_focus_back(play: Play, page: Page) -> None:
    opened(page, play)
    sign_in(page)
    before = play.painter.registry.snapshot().revision
    page.get_by_role("button", name="Drain prod1").click()
    dialog = page.locator("#confirm")
    expect(dialog).to_contain_text("prod1 finishes its open requests and gets no new ones")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert play.painter.registry.snapshot().revision == before
    expect(page.get_by_role("button", name="Drain prod1")).to_be_focused()


def test_the_canary_a_machine_and_a_flag_are_changed_from_the_page(play: Play, page: Page) -> None:
    opened(page, play)
    sign_in(page)
    registry = play.painter.registry
    page.get_by_role("button", name="Turn off").click()
    page.get_by_label("Why? One line for the journal").fill("looks wrong to me")
    confirm(page, "Every request goes to production, at once.")
    assert registry.snapshot().latches["canary"].reason == "looks wrong to me"
    expect(page.locator("#latch")).to_contain_text("looks wrong to me", timeout=SOON)
    page.get_by_role("button", name="Turn on").click()
    confirm(page, "It was turned off because: looks wrong to me.")
    assert not registry.snapshot().latches
    page.get_by_role("button", name="Drain prod3").click()
    confirm(page, "prod1 and prod2 of its pool serve on.")
    assert registry.snapshot().instances["prod3"].want == "drain"
    page.get_by_role("button", name="Ready prod3").click()
    confirm(page, "prod3 gets requests again")
    assert registry.snapshot().instances["prod3"].want == "ready"
    page.get_by_label("Variant of font_color").select_option("red")
    confirm(page, "font_color becomes red (#f00) on every machine")
    expect(page.get_by_label("Variant of font_color")).to_have_value("red", timeout=SOON)
    page.get_by_role("button", name="Disable disable_set").click()
    confirm(page, "every machine takes the code's default")
    expect(page.get_by_role("button", name="Enable disable_set")).to_be_visible(timeout=SOON)
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("button", name=re.compile("Drain|Disable|Turn"))).to_have_count(0)
    page.reload()
    expect(page.get_by_role("button", name="Sign in to change")).to_be_visible()


def test_a_release_is_led_by_steps_from_the_page(play: Play, page: Page) -> None:
    opened(page, play)
    acts = page.locator("#step-acts")
    expect(acts).to_be_hidden()
    sign_in(page)

    def press(command: str, *words: str) -> None:
        acts.get_by_role("button", name=command).click()
        page.get_by_label("Why? One line for the journal").fill("so")
        confirm(page, *words)

    press("Start", "r2, which the canary runs, gets 5 % of the requests", "5 %, 10 %, 30 %, 60 %, 100 %")
    expect(page.locator("#steps-word")).to_contain_text("On its way · release r2", timeout=SOON)
    expect(acts.get_by_role("button")).to_have_text(["Pause…", "Promote…", "Abort…"])
    press("Pause", "r2 stays at its share")
    expect(page.locator("#steps-word")).to_contain_text("Paused", timeout=SOON)
    press("Resume", "The step of r2 at 5 % begins anew")
    expect(page.locator("#steps-word")).to_contain_text("On its way", timeout=SOON)
    press("Promote", "r2 counts as good")
    expect(page.locator("#steps-word")).to_contain_text("Promoted", timeout=SOON)
    press("Abort", "r2 never comes back by steps")
    expect(page.locator("#steps-word")).to_contain_text("Aborted · release r2 · so", timeout=SOON)
    assert play.painter.registry.snapshot().split.share == 0
    expect(acts.get_by_role("button")).to_have_text(["Start…"])


def test_an_alert_is_silenced_for_some_hours_and_the_silence_ended(
    tmp_path: Path, page: Page, request: pytest.FixtureRequest
) -> None:
    play = Play(tmp_path, silences=True)
    request.addfinalizer(play.close)
    opened(page, play)
    expect(page.get_by_role("button", name=re.compile("Silence"))).to_have_count(0)
    sign_in(page)
    page.get_by_role("button", name="Silence CpuHigh of staging1").click()
    dialog = page.locator("#confirm")
    expect(dialog).to_contain_text("For 2 hours nobody is mailed about CpuHigh of staging1.", timeout=SOON)
    page.get_by_label("For how many hours").fill("4")
    page.get_by_label("Why? One line for the journal").fill("new disk")
    confirm(page, "For 4 hours nobody is mailed", "The alert stays in the list")
    (silence,) = play.alertmanager.silences()
    assert silence["comment"] == "new disk"
    silences = page.locator("#silence-list")
    expect(silences).to_contain_text("alertname=CpuHigh, machine=staging1", timeout=SOON)
    silences.get_by_role("button", name=re.compile("End the silence")).click()
    confirm(page, "The silence of alertname=CpuHigh, machine=staging1 is over")
    expect(silences.locator("li")).to_have_count(0, timeout=SOON)
    assert play.alertmanager.silences() == []


def test_a_wrong_token_is_refused_in_the_dialog_and_a_session_outlives_a_reload(
    play: Play, page: Page
) -> None:
    opened(page, play)
    page.get_by_role("button", name="Sign in to change").click()
    page.get_by_label("Write token").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#sign-error")).to_contain_text("not one of the fleet's", timeout=SOON)
    page.get_by_label("Write token").fill(WRITE)
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Sign out")).to_be_visible(timeout=SOON)
    page.reload()
    expect(page.get_by_role("button", name="Sign out")).to_be_visible(timeout=SOON)
    assert page.evaluate("document.cookie") == "", "no script can read the cookie"


# --- for everybody


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("signed", [False, True], ids=["looking", "signed in"])
def test_the_accessibility_checks_find_nothing(
    looked_at: Play, browser: Browser, axe: str, scheme: Any, width: str, signed: bool
) -> None:
    # The page's own policy would keep the checks out, too.
    context = browser.new_context(
        bypass_csp=True, color_scheme=scheme, reduced_motion="reduce",
        viewport={"width": WIDTHS[width], "height": 800},
    )  # fmt: skip
    page = opened(context.new_page(), looked_at)
    if signed:
        sign_in(page)
    page.get_by_role("button", name=re.compile("canary.off canary")).click()
    expect(page.locator("#lines li.lit")).to_have_count(1, timeout=SOON)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nothing sticks out"

    def violations() -> list[str]:
        page.evaluate(axe)
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{v['id']}: {n['html'][:200]} {n['failureSummary']}"
            for v in found["violations"]
            for n in v["nodes"]
        ]

    assert violations() == []
    if signed:
        page.get_by_role("button", name="Turn on").click()
        expect(page.locator("#confirm")).to_be_visible(timeout=SOON)
    else:
        page.get_by_role("button", name=f"Tests of build {BUILDS[0].id}").click()
        expect(page.locator("#report")).to_contain_text("1 failed", timeout=SOON)
        assert violations() == []
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Sign in to change").click()
    assert violations() == []
    context.close()


def test_the_keyboard_reaches_everything_and_sees_where_it_is(looked_at: Play, page: Page) -> None:
    opened(page, looked_at)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the fleet")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    landmarks = ("banner", "navigation", "main", "contentinfo", "search")
    for each in landmarks:
        expect(page.get_by_role(each)).to_have_count(1)
    heads = page.locator("h1, h2").all_inner_texts()
    assert [head.split()[0] for head in heads if head][:9] == [
        "Saltern", "Traffic", "Canary", "Machines", "At", "Builds", "Alerts", "Flags", "Journal",
    ]  # fmt: skip


def test_two_hundred_machines_are_shown_and_followed(
    tmp_path: Path, page: Page, request: pytest.FixtureRequest
) -> None:
    machines = {f"prod{n}": ("prod", "r1") for n in range(1, 200)} | {"staging1": ("canary", "r2")}
    many = Play(tmp_path, machines)
    request.addfinalizer(many.close)
    opened(page, many)
    expect(page.locator(".machine")).to_have_count(204, timeout=SOON)
    many.painter.down.add("prod150")
    expect(box(page, "prod150")).to_have_class("machine bad", timeout=SOON)
    # A page that cannot keep up shows fewer and fewer frames; this one has time left in every second.
    busy = page.evaluate(
        """async () => { let long = 0;
        const watch = new PerformanceObserver(list => { for (const e of list.getEntries()) long += e.duration; });
        watch.observe({entryTypes: ['longtask']});
        await new Promise(done => setTimeout(done, 3000)); watch.disconnect(); return long; }"""
    )
    assert busy < 2000


def test_the_page_asks_no_other_host_and_breaks_no_rule_of_its_own(looked_at: Play, page: Page) -> None:
    hosts: set[str] = set()
    said: list[str] = []
    page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
    page.on("console", lambda message: said.append(message.text))
    opened(page, looked_at)
    page.get_by_role("button", name=re.compile("canary.off canary")).click()
    expect(page.locator("#lines li.lit")).to_have_count(1, timeout=SOON)
    assert hosts == {f"127.0.0.1:{looked_at.stand.port}"}
    assert said == []


def test_the_server_runs_on_when_a_page_goes_away(play: Play, browser: Browser) -> None:
    def viewers() -> str:
        return play.stand.ask("GET", "/metrics").text

    context = browser.new_context()
    for _ in range(5):
        context.new_page().goto(play.stand.url)
    until(lambda: "saltern_dashboard_viewers 5" in viewers(), "five viewers")
    context.close()
    until(lambda: "saltern_dashboard_viewers 0" in viewers(), "none any more", 20)
