"""The dashboard's configuration, its sessions, and how changes reach viewers."""

from __future__ import annotations

import json
import re
import threading
from typing import Any

import jinja2
import pytest
from saltern import pillar
from saltern.dashboard import FILES, WEB, Sessions, parse_config
from saltern.dashboard_reader import EVENTS_KEPT, Hub
from saltern.dashboard_view import merge
from saltern.fleet import REPOSITORY
from saltern.redis_link import ConfigError

GOOD: dict[str, Any] = {"redis": {"addresses": ["127.0.0.1:6379"]}, "admin": "http://127.0.0.1:8081/"}


def test_a_configuration_needs_redis_and_the_admin_api_and_has_defaults_for_the_rest() -> None:
    config = parse_config(GOOD)
    assert (config.admin, config.port, config.viewers, config.threads) == (
        "http://127.0.0.1:8081",
        8080,
        128,
        144,
    )
    full = parse_config(
        {**GOOD, "steps": {"shares": [50, 100]}, "judge": {"tolerance": 2.0}, "listen": {"port": 1}}
    )
    assert (full.plan.shares, full.thresholds.tolerance, full.port) == ((50, 100), 2.0, 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"admin": None}, "admin: None is not an address such as http://"),
        ({"admin": "https://x"}, "admin: 'https://x' is not an address"),
        ({"redis": {}}, "redis.addresses"),
        ({"port": 1}, "port: not a setting"),
        ({"listen": {"port": "x"}}, "listen.port: 'x' is not a whole number"),
        ({"listen": {"adress": "x"}}, "is not an object with address and port"),
        ({"listen": {"address": "here"}}, "'here' does not appear to be an IPv4 or IPv6 address"),
        ({"hosts": []}, "hosts: []"),
        ({"hosts": {"proxy1": "x"}}, "'x' does not appear"),
        ({"viewers": True}, "viewers: True is not a whole number"),
        ({"session_s": 1}, "session_s: 1 is not a whole number from 60"),
        ({"judge": {"tolerance": -1}}, "tolerance"),
        ({"steps": {"shares": [5]}}, "shares"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused_in_one_line(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({**GOOD, **changes})
    assert words in str(caught.value)


def test_a_session_is_found_by_its_cookie_until_it_is_over_or_ended() -> None:
    now = [0.0]
    sessions = Sessions(60.0, lambda: now[0])
    first, session = sessions.begin("token")
    second, _ = sessions.begin("token")
    assert first != second
    assert sessions.find(first) == session
    assert "token" not in repr(session)
    assert sessions.find(None) is sessions.find("") is sessions.find("x") is None
    sessions.end(second)
    assert sessions.find(second) is None
    now[0] = 60.0
    assert sessions.find(first) is None


def test_the_oldest_sessions_go_when_there_are_too_many() -> None:
    sessions = Sessions(60.0)
    cookies = [sessions.begin("token")[0] for _ in range(300)]
    assert [sessions.find(each) is not None for each in (cookies[0], cookies[-1])] == [False, True]


def told(event: bytes) -> list[tuple[str, Any]]:
    found = []
    for each in event.decode().strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in each.splitlines())
        found.append((fields["event"], json.loads(fields["data"])))
    return found


def test_a_viewer_gets_the_whole_picture_then_what_changes_and_only_that() -> None:
    hub = Hub()
    hub.publish({"a": 1, "b": {"c": 2}})
    number, event = hub.state()
    assert told(event) == [("state", {"a": 1, "b": {"c": 2}})]
    assert not hub.publish({"a": 1, "b": {"c": 2}}), "nothing changed"
    assert hub.after(number, 0.0) == (number, b"")
    hub.publish({"a": 1, "b": {"c": 3}})
    hub.publish({"a": 2, "b": {"c": 3}})
    number, event = hub.after(number, 0.0)
    assert told(event) == [("patch", {"b": {"c": 3}}), ("patch", {"a": 2})]


def test_a_viewer_that_is_too_far_behind_gets_the_whole_picture_again() -> None:
    hub = Hub()
    hub.publish({"a": 0})
    number, _ = hub.state()
    for n in range(EVENTS_KEPT + 1):
        hub.publish({"a": n + 1})
    number, event = hub.after(number, 0.0)
    assert told(event) == [("state", {"a": EVENTS_KEPT + 1})]
    assert hub.after(number, 0.0) == (number, b"")


def test_many_viewers_that_come_at_any_time_all_see_the_same_in_the_end() -> None:
    hub = Hub()
    hub.publish({"n": 0})
    pictures: list[Any] = []

    def view() -> None:
        number, event = hub.state()
        picture = told(event)[-1][1]
        while picture["n"] < 300:
            number, event = hub.after(number, 5.0)
            for kind, data in told(event):
                picture = data if kind == "state" else merge(picture, data)
        pictures.append(picture)

    threads = [threading.Thread(target=view) for _ in range(8)]
    for n in range(1, 301):
        if n % 40 == 1 and n // 40 < len(threads):
            threads[n // 40].start()
        hub.publish({"n": n, str(n % 7): n})
    for thread in threads:
        thread.join(20)
    assert len(pictures) == 8
    assert all(picture == hub.document for picture in pictures)


def test_nobody_waits_for_a_hub_that_is_closed() -> None:
    hub = Hub()
    hub.publish({"a": 1})
    waiting = threading.Thread(target=hub.after, args=(1, 60.0))
    waiting.start()
    hub.close()
    waiting.join(10)
    assert not waiting.is_alive()


def test_the_page_has_no_script_or_style_of_its_own_and_asks_no_other_host() -> None:
    files = {name: (WEB / name).read_text() for name, _ in FILES.values()}
    page = files["index.html"]
    assert page.count("<script") == page.count('<script src="/app.js" defer></script>') == 1
    assert "<style" not in page
    assert " style=" not in page
    assert " onclick" not in page
    assert "://" not in page
    assert "innerHTML" not in files["app.js"]
    hosts = {host for text in files.values() for host in re.findall(r"https?://[^/\"' ]+", text)}
    assert hosts <= {"http://www.w3.org"}, "but for the name of SVG"
    assert sum(len(text.encode()) for text in files.values()) < 100_000


def test_what_salt_writes_of_the_pillar_is_a_good_configuration():
    values = {
        **pillar.load(REPOSITORY / "pillar"),
        "links": {
            "observer": {"redis": {"addresses": ["10.9.0.11:6379"], "username": "observer", "password": "pw"}}
        },
        "fleet": {"name": "test", "hosts": {"proxy1": "10.9.0.10", "ops1": "10.9.0.20"}},
        "machine": {"id": "ops1", "address": "10.9.0.20"},
    }
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    environment.filters["json"] = lambda value, indent=None: json.dumps(value, indent=indent)
    template = environment.from_string((REPOSITORY / "salt/ops/dashboard.json.j2").read_text())
    config = parse_config(json.loads(template.render(pillar=values)))
    assert config.admin == "http://10.9.0.10:8081"
    assert config.alertmanager == "http://10.9.0.20:9093"
    assert config.builds == "http://10.9.0.20:8090"
    assert config.plan.shares == (5, 10, 30, 60, 100)


@pytest.mark.parametrize("value", ["ops1:8090", "https://10.9.0.20", 8090])
def test_where_builds_are_must_be_an_address(value):
    with pytest.raises(ConfigError, match=r"builds: .* is not an address"):
        parse_config({**GOOD, "builds": value})
