"""The proxy's configuration, as HAProxy itself sees it and as a client does."""

from __future__ import annotations

import contextlib
import http.client
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from host import PATIENCE, until
from saltern.haproxy import HAProxyError, parse_info
from scipy.stats import binom
from traffic_stand import HAPROXY, Stand, ask, default_pillar, dying_server, merge, render

pytestmark = pytest.mark.functional

CERTAIN = 0.999999
"""How sure a bound on what is drawn is: so many runs with nothing wrong pass, and one in a million does not."""

PILLARS: list[tuple[str, dict[str, Any]]] = [
    ("as it is", {}),
    ("one slot each", {"slots": {"prod": 1, "canary": 1}}),
    ("sticky", {"canary": {"sticky": True}}),
    ("no override", {"canary": {"override": False}}),
    ("everything logged", {"log_every_request": True, "forwarded_for": False}),
    ("threads, another balance", {"threads": 2, "balance": "leastconn"}),
    ("one address", {"listen": {"address": "10.213.0.10", "port": 8000}}),
    ("IPv6", {"listen": {"address": "[::1]", "port": 8000}}),
]


@pytest.mark.parametrize(("what", "changes"), PILLARS, ids=[row[0] for row in PILLARS])
def test_haproxy_accepts_the_configuration_without_a_warning(
    what: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    for name in ("split.acl", "instances.map", "releases.map"):
        (tmp_path / name).touch()
    (tmp_path / "servers.state").write_text("1\n")
    (tmp_path / "503.http").write_text("HTTP/1.0 503 Service Unavailable\r\n\r\n")
    places = {
        "state_dir": str(tmp_path),
        "unavailable_page": str(tmp_path / "503.http"),
        "user": "",
        "chroot": "",
    }
    configuration = render(merge(merge(default_pillar(), places), changes))
    (tmp_path / "haproxy.cfg").write_text(configuration)
    check = subprocess.run(
        [HAPROXY, "-c", "-f", str(tmp_path / "haproxy.cfg")], capture_output=True, text=True, check=False
    )
    assert check.returncode == 0, check.stderr
    assert "WARNING" not in check.stderr
    for secret in ("token", "password", "stats auth"):
        assert secret not in configuration


@pytest.mark.parametrize("share", [30, 5, 0, 100])
def test_the_canary_s_share_is_drawn_within_what_chance_allows(stand: Stand, share: int) -> None:
    for id_ in ("prod1", "prod2", "prod3", "staging1"):
        stand.add(id_)
    stand.registry.set_share(share, by="test")
    stand.await_up("prod1", "prod2", "prod3", "staging1")
    stand.await_share(share)
    requests = 3000
    load = stand.load(requests)
    assert not load.failures
    assert load.count(status=200) == requests
    low, high = binom.interval(CERTAIN, requests, share / 100)
    assert low <= load.count(pool="canary") <= high


def test_several_canaries_share_evenly_and_whoever_is_left_gets_all_of_it(stand: Stand) -> None:
    for id_ in ("prod1", "staging1", "staging2", "staging3"):
        stand.add(id_)
    stand.registry.set_share(60, by="test")
    stand.await_up("prod1", "staging1", "staging2", "staging3")
    stand.await_share(60)
    requests = 2000

    def within(count: int, chance: float) -> bool:
        low, high = binom.interval(CERTAIN, requests, chance)
        return bool(low <= count <= high)

    load = stand.load(requests)
    for id_ in ("staging1", "staging2", "staging3"):
        assert within(sum(n for (_, _, i), n in load.answers.items() if i == id_), 0.2), load.answers
    stand.registry.want("staging1", "drain", by="test")
    stand.registry.unregister("staging3", by="test")
    stand.await_servers({"prod1": "ready/up", "staging1": "drain/up", "staging2": "ready/up"})
    load = stand.load(requests)
    assert {i for (_, _, i) in load.answers} == {"prod1", "staging2"}
    assert within(load.count(pool="canary"), 0.6), load.answers


def test_every_response_says_who_answered_and_never_what_the_server_claims(stand: Stand) -> None:
    stand.add("prod3", release="2026.11-a")
    stand.add("staging1", release="2026.12-b")
    stand.await_share(30)
    stand.await_up("prod3")
    seen = set()
    for _ in range(60):
        answer = stand.get()
        assert answer.body == answer.instance
        seen.add((answer.pool, answer.instance, answer.release))
    assert seen == {("prod", "prod3", "2026.11-a"), ("canary", "staging1", "2026.12-b")}


def test_a_slot_taken_over_by_another_machine_answers_under_the_new_name(stand: Stand) -> None:
    for id_ in ("prod1", "prod2"):
        stand.add(id_)
    stand.await_up("prod1", "prod2")
    stand.registry.unregister("prod1", by="test")
    stand.await_servers({"prod2": "ready/up"})
    stand.add("prod9", release="r9")
    stand.await_up("prod9")
    stand.registry.register("prod2", "127.0.0.1", stand.ports["prod2"], "r2", "prod", by="test")
    until(lambda: stand.get().release == "r2", "the new release of prod2")
    seen = {(a.instance, a.release, a.body) for a in (stand.get() for _ in range(20))}
    assert seen == {("prod9", "r9", "prod9"), ("prod2", "r2", "prod2")}


OVERRIDES: list[tuple[dict[str, str], int, str]] = [
    ({"X-Saltern-Canary": "always"}, 0, "canary"),
    ({"X-Saltern-Canary": "never"}, 100, "prod"),
    ({"X-Saltern-Canary": "ALWAYS"}, 0, "canary"),
    ({"Cookie": "a=b; saltern-canary=always"}, 0, "canary"),
    ({"Cookie": "saltern-canary=never; a=b"}, 100, "prod"),
    ({"X-Saltern-Canary": "never", "Cookie": "saltern-canary=always"}, 100, "prod"),
    ({"X-Saltern-Canary": "sometimes"}, 0, "prod"),
    ({"X-Saltern-Canary": "sometimes"}, 100, "canary"),
]


def test_a_tester_chooses_the_pool_by_header_or_cookie(stand: Stand) -> None:
    for id_ in ("prod1", "staging1"):
        stand.add(id_)
    stand.await_up("prod1", "staging1")
    stand.await_share(30)
    for share in (0, 100):
        stand.registry.set_share(share, by="test")
        stand.await_share(share)
        for headers, at_share, pool in OVERRIDES:
            if at_share == share:
                assert {stand.get(headers=headers).pool for _ in range(20)} == {pool}, headers


def test_without_the_override_nobody_chooses(make_stand: Callable[..., Stand]) -> None:
    stand = make_stand(canary={"override": False, "settle_s": 0})
    stand.start()
    for id_ in ("prod1", "staging1"):
        stand.add(id_)
    stand.await_up("prod1", "staging1")
    stand.registry.set_share(0, by="test")
    stand.await_share(0)
    assert {stand.get(headers={"X-Saltern-Canary": "always"}).pool for _ in range(20)} == {"prod"}


def test_a_sticky_visitor_stays_and_only_moves_when_the_share_passes_their_number(
    make_stand: Callable[..., Stand],
) -> None:
    stand = make_stand(canary={"sticky": True, "settle_s": 0})
    stand.start()
    for id_ in ("prod1", "staging1"):
        stand.add(id_)
    stand.await_up("prod1", "staging1")
    stand.await_share(30)
    first = stand.get()
    name, _, value = first.headers["set-cookie"].split(";")[0].partition("=")
    assert name == "saltern-draw"
    assert 0 <= int(value) <= 99
    again = stand.get(headers={"Cookie": f"saltern-draw={value}"})
    assert "set-cookie" not in again.headers
    for draw, pool in [("0", "canary"), ("29", "canary"), ("30", "prod"), ("99", "prod")]:
        cookie = {"Cookie": f"saltern-draw={draw}"}
        assert {stand.get(headers=cookie).pool for _ in range(15)} == {pool}
    for hostile in ("-5", "100", "x", "", "1e1", "030"):
        answer = stand.get(headers={"Cookie": f"saltern-draw={hostile}"})
        assert answer.status == 200
        assert "set-cookie" in answer.headers
    stand.registry.canary_off("trying", by="test")
    stand.await_share(0)
    assert {stand.get(headers={"Cookie": "saltern-draw=0"}).pool for _ in range(15)} == {"prod"}


def test_nothing_administrative_is_public(stand: Stand) -> None:
    stand.add("prod1")
    stand.await_up("prod1")
    for path in ("/metrics", "/haproxy?stats", "/stats", "/admin"):
        assert stand.get(path).body == "prod1", "the product gets every path"
    link = http.client.HTTPConnection("127.0.0.1", stand.metrics_port, timeout=PATIENCE)
    link.request("GET", "/metrics")
    text = link.getresponse().read().decode()
    assert 'haproxy_server_status{proxy="prod",server="p1",state="UP"} 1' in text
    link.request("GET", "/")
    assert link.getresponse().status == 404
    link.close()


def test_metrics_are_for_the_allowed_networks(make_stand: Callable[..., Stand]) -> None:
    stand = make_stand(metrics={"allow": ["10.213.0.0/24"]})
    stand.write_files()
    stand.start_haproxy()
    link = http.client.HTTPConnection("127.0.0.1", stand.metrics_port, timeout=PATIENCE)
    link.request("GET", "/metrics")
    assert link.getresponse().status == 403
    link.close()


def test_without_any_server_the_answer_is_a_clear_503(stand: Stand) -> None:
    answer = stand.get()
    assert answer.status == 503
    assert "Please try again" in answer.body
    assert answer.headers["retry-after"] == "2"
    assert (answer.pool, answer.instance, answer.release) == ("", "", "")


def test_an_upgraded_connection_passes_both_ways(stand: Stand) -> None:
    stand.add("prod1")
    stand.await_up("prod1")
    with socket.create_connection(("127.0.0.1", stand.port), PATIENCE) as link:
        link.sendall(b"GET /upgrade HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += link.recv(4096)
        assert head.startswith(b"HTTP/1.1 101")
        for word in (b"one", b"two"):
            link.sendall(word)
            assert link.recv(4096) == word


@pytest.mark.parametrize(
    ("method", "repeated"), [("GET", True), ("HEAD", True), ("PUT", True), ("DELETE", True), ("POST", False)]
)
def test_a_request_is_repeated_on_production_only_when_twice_means_once(
    stand: Stand, method: str, repeated: bool
) -> None:
    with dying_server() as (address, got):
        stand.add("prod1")
        stand.registry.register("staging1", *address, "r1", "canary", by="test")
        stand.await_up("prod1", "staging1")
        answer = stand.get(method=method, headers={"X-Saltern-Canary": "always", "Content-Length": "0"})
        if repeated:
            assert (answer.status, answer.pool, answer.instance) == (200, "prod", "prod1")
        else:
            assert answer.status == 502
            assert got.count(b"POST") == 1


def test_a_reload_under_load_refuses_nobody_and_keeps_servers_and_split(stand: Stand) -> None:
    for id_ in ("prod1", "prod2", "staging1"):
        stand.add(id_)
    stand.await_up("prod1", "prod2", "staging1")
    stand.await_share(30)
    stand.controller.end()

    def process() -> str:
        # Nobody is at the socket for as long as it is handed over.
        with contextlib.suppress(HAProxyError):
            return parse_info(stand.runtime.ask(["show info"])[0])["Pid"]
        return ""

    with stand.loading(clients=8) as load:
        for _ in range(3):
            before, done = process(), load.total
            until(lambda: load.total > done + 50, "traffic")  # noqa: B023 - awaited in the loop
            asked = float("-inf")

            def reloaded() -> bool:
                nonlocal asked
                if process() not in ("", before):  # noqa: B023 - awaited in the loop
                    return True
                if time.monotonic() - asked > 10:
                    # Again: the process that is just being replaced does not hear it.
                    stand.haproxy.send(signal.SIGUSR2)
                    asked = time.monotonic()
                return False

            until(reloaded, "a new process")
            done = load.total
            until(lambda: load.total > done + 50, "traffic")  # noqa: B023 - awaited in the loop
    stand.await_servers({"prod1": "ready/up", "prod2": "ready/up", "staging1": "ready/up"})
    assert stand.share() == 30
    assert not load.failures
    assert load.count(status=200) == load.total


def test_keep_alive_connections_are_served_one_after_the_other(stand: Stand) -> None:
    stand.add("prod1")
    stand.await_up("prod1")
    link = http.client.HTTPConnection("127.0.0.1", stand.port, timeout=PATIENCE)
    assert [ask(link).status for _ in range(20)] == [200] * 20
    link.close()
