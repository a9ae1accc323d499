"""The dashboard on ops1 of a running fleet: what it shows is what is, and what is changed there is changed."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from dashboard_stand import Viewer
from fleet_commands import Live, run, wait_for
from saltern import secrets
from saltern.fleet import Fleet
from saltern.registry import Registry


class Page:
    """The dashboard as a page uses it."""

    def __init__(self, live: Live) -> None:
        self.url = live.status()["urls"]["dashboard"]
        parts = urlsplit(self.url)
        self.host, self.port = str(parts.hostname), int(parts.port or 80)
        self.headers: dict[str, str] = {}

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any, dict[str, str]]:
        link = http.client.HTTPConnection(self.host, self.port, timeout=60)
        try:
            sent = {**self.headers, **({"Content-Type": "application/json"} if body is not None else {})}
            link.request(method, path, None if body is None else json.dumps(body), sent)
            answer = link.getresponse()
            text = answer.read().decode()
            return answer.status, json.loads(text), {k.lower(): v for k, v in answer.getheaders()}
        finally:
            link.close()

    def picture(self) -> dict[str, Any]:
        return self.ask("GET", "/state")[1]

    def sign_in(self, token: str) -> None:
        status, answer, headers = self.ask("POST", "/session", {"token": token})
        assert status == 200, answer
        self.headers = {"Cookie": headers["set-cookie"].partition(";")[0], "X-CSRF-Token": answer["csrf"]}

    def act(self, **asked: Any) -> dict[str, Any]:
        status, answer, _ = self.ask("POST", "/actions", asked)
        assert status in (200, 202), answer
        return answer


@pytest.fixture
def page(live: Live, fleet: Fleet, registry: Registry) -> Iterator[Page]:
    """The dashboard, signed in; the share and the canary are as they were afterwards."""
    share = registry.snapshot().split.share
    found = Page(live)
    found.sign_in(secrets.load(fleet)["admin"]["write"])
    yield found
    registry.canary_on(by="test")
    registry.set_share(share, by="test")


def test_what_is_shown_is_what_fleet_status_says(live: Live, page: Page) -> None:
    def same() -> bool:
        told = json.loads(live.salt("salt-run", "--out=json", "fleet.status").stdout)
        shown = page.picture()
        machines = {id_: each for id_, each in shown["machines"].items() if "pool" in each}
        assert set(machines) == set(told["instances"])
        for id_, each in told["instances"].items():
            seen = machines[id_]
            assert (seen["pool"], seen["want"], seen["release"]) == (
                each["pool"],
                each["want"],
                each["release"],
            )
            if (seen["state"] == "bad") != (each["health"] == "down"):
                return False
        split = shown["split"]
        return (split["share"], split["effective"]) == (
            told["canary"]["share"],
            told["canary"]["effective_share"],
        )

    wait_for(same, 20, "the share shown is the share told")
    shown = page.picture()
    assert set(shown["machines"]) == {each["id"] for each in live.status()["machines"]}

    def well() -> bool:
        machines = page.picture()["machines"]
        return {"proxy1", "redis1", "redis2", "redis3", "ops1", "prod1"} <= {
            id_ for id_, each in machines.items() if each["state"] == "good"
        }

    wait_for(well, 20, "what is well is green")
    assert [each["word"] for each in shown["machines"].values()].count("primary") == 1
    wait_for(lambda: not page.picture()["problems"], 20, "no problem on the page")
    wait_for(lambda: page.picture()["machines"]["prod1"].get("cpu") is not None, 30, "the use of prod1")


def test_a_share_set_on_the_page_is_what_haproxy_does_and_is_written_down(live: Live, page: Page) -> None:
    will = page.ask("POST", "/plan", {"do": "share", "share": 100})[1]["will"]
    assert will[0].startswith("The canary's share becomes 100 %")
    assert page.act(do="share", share=100)["after"] == {"share": 100}
    wait_for(lambda: live.headers().get("x-saltern-pool") == "canary", 10, "the canary's answer")
    wait_for(
        lambda: {live.headers().get("x-saltern-pool") for _ in range(20)} == {"canary"},
        20,
        "all from the canary",
    )
    wait_for(lambda: page.picture()["split"]["effective"] == 100, 5, "the share in effect on the page")
    page.act(do="canary.off", reason="the end-to-end test")
    wait_for(lambda: live.headers().get("x-saltern-pool") == "prod", 10, "production's answer")
    latch = wait_for(lambda: page.picture()["split"].get("latch"), 5, "the latch on the page")
    assert isinstance(latch, dict) and latch["reason"] == "the end-to-end test"
    page.act(do="canary.on")
    wait_for(lambda: live.headers().get("x-saltern-pool") == "canary", 20, "the canary back")
    lines = json.loads(live.salt("salt-run", "--out=json", "journal.tail", "20", "kind=admin").stdout)
    assert [line["what"].split()[1] for line in lines][-3:] == ["PUT", "POST", "POST"]


def test_a_product_that_is_stopped_is_red_and_green_again_when_it_runs(live: Live, page: Page) -> None:
    with Viewer(page.port, 60, page.host) as viewer:
        viewer.until(lambda p: p["machines"].get("prod2", {}).get("state") == "good", "prod2 well", 20)
        try:
            live.answer("prod2", "service.stop", "product")
            viewer.until(lambda p: p["machines"]["prod2"]["state"] == "bad", "prod2 red", 20)
            assert viewer.picture["machines"]["prod2"]["word"].startswith("down")
        finally:
            live.answer("prod2", "service.start", "product")
        viewer.until(lambda p: p["machines"]["prod2"]["state"] == "good", "prod2 green", 20)
        assert viewer.kinds.count("state") == 1, "one connection all along"


def test_why_on_the_page_is_why_at_the_command_line(live: Live, page: Page, registry: Registry) -> None:
    first = registry.want("prod1", "drain", by="test")
    second = registry.want("prod1", "ready", by="test", cause=first.journal)
    told = json.loads(live.salt("salt-run", "--out=json", "journal.why", second.journal).stdout)
    assert page.ask("GET", f"/why?q={second.journal}")[1] == told
    assert [each["line"] for each in told["chain"]] == [first.journal, second.journal]


def test_nobody_can_change_anything_without_the_token(live: Live, page: Page) -> None:
    page.headers = {}
    for asked in ({"do": "share", "share": 1}, {"do": "canary.off", "reason": "x"}):
        assert page.ask("POST", "/actions", asked)[0] == 401
    done = run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-X", "PUT", f"{page.url}split")
    assert done.stdout == "404", "the admin API is not on this port"


def test_it_runs_as_nobody_and_may_only_read(live: Live, page: Page) -> None:
    shown = live.answer(
        "ops1", "cmd.run", "systemctl show saltern-dashboard -p User -p NoNewPrivileges -p ProtectSystem"
    )
    assert set(shown["ops1"].split()) == {
        "User=saltern-dashboard",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
    }
    config = live.answer("ops1", "cmd.run", "stat -c '%U %G %a' /etc/saltern/dashboard.json")
    assert config["ops1"] == "root saltern-dashboard 640"
    text = live.answer("ops1", "file.read", "/etc/saltern/dashboard.json")["ops1"]
    kept = secrets.load(Fleet.load(live.state_dir))
    assert json.loads(text)["redis"]["username"] == "observer"
    assert not [token for token in kept["admin"].values() if token in text]
    assert page.ask("GET", "/health")[:2] == (200, {"status": "ok"})


def test_an_event_is_rehearsed_on_the_running_fleet_and_nothing_happens(
    live: Live, registry: Registry
) -> None:
    before = registry.snapshot()
    done = live.salt(
        "salt-run",
        "--out=json",
        "rehearse.event",
        "salt/beacon/staging1/cpu/high",
        'data={"percent": 97, "high": 50}',
    )
    told = json.loads(done.stdout)
    assert [each["calls"] for each in told["reactors"]] == [["runner.reflex.canary_off"]]
    assert any(each["decides"] == "the canary goes off" for each in told["decisions"])
    time.sleep(1)
    assert registry.snapshot() == before
