"""Traffic on the running fleet, under load: what a person or a failure does to it costs no request."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fleet_commands import Live, run, wait_for
from test_fleet import failed_requests, leader, pools, split_is, start_load

SECONDS = 800
"""Longest any of these tests loads the fleet; each ends its load when it is done."""


@contextmanager
def load(live: Live, failures: int = 0) -> Iterator[None]:
    """Requests all the while, of which not more than `failures` may fail."""
    wait_for(lambda: len(live.instances_seen()) == 6, 60, "all six instances serve")
    wrk = start_load(live, SECONDS)
    try:
        yield
        assert wrk.poll() is None, "the load ended before the test did"
    finally:
        # wrk ends at an interrupt and still prints what it saw.
        wrk.send_signal(2)
        text = wrk.communicate(timeout=120)[0]
    assert "requests in" in text
    assert failed_requests(text) <= failures, text


def runner(live: Live, function: str, *arguments: str) -> dict[str, Any]:
    done = live.salt("salt-run", function, *arguments, "--out=json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def admin(live: Live, method: str, path: str, body: object = None, token: str = "write") -> tuple[int, Any]:
    """What the admin API answers to curl."""
    secret = json.loads((live.state_dir / "secrets.json").read_text())["admin"].get(token, token)
    url = live.status()["urls"]["admin"]
    done = run(
        "curl", "-s", "--max-time", "30", "-X", method, "-w", "\n%{http_code}", "-H", f"Authorization: Bearer {secret}",
        "-H", "Content-Type: application/json", *(("-d", json.dumps(body)) if body is not None else ()), f"{url}{path}",
    )  # fmt: skip
    text, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(text)


def inside(live: Live, machine: str, *command: str) -> None:
    done = run("nsenter", "-t", str(leader(live, machine)), "-a", *command)
    assert done.returncode == 0, done.stderr


def share_in_effect(live: Live) -> int | None:
    return admin(live, "GET", "split", token="read")[1].get("effective_share")


@pytest.fixture
def split(live: Live) -> Iterator[None]:
    """The canary on at 30 percent, before and after."""
    yield
    runner(live, "canary.on")
    runner(live, "canary.share", "30")
    wait_for(lambda: share_in_effect(live) == 30, 30, "30 percent again")


def test_instances_are_drained_and_put_back_from_the_command_line(live: Live) -> None:
    with load(live):
        for name in ("prod1", "prod4", "staging1"):
            out = runner(live, "fleet.drain", name, "wait=60")
            assert (out["instance"]["phase"], out["cut"]) == ("idle", []), out
            assert name not in live.instances_seen()
            back = runner(live, "fleet.ready", name, "wait=60")
            assert back["instance"]["phase"] == "ready", back
    wait_for(lambda: len(live.instances_seen()) == 6, 30, "all six instances serve")


class Stream(threading.Thread):
    """One stream of changes through the proxy, read to its end."""

    def __init__(self, live: Live) -> None:
        super().__init__(daemon=True)
        self.link = http.client.HTTPConnection(live.product.split("/")[2], timeout=60)
        self.link.request("GET", "/api/changes", headers={"X-Saltern-Canary": "never"})
        self.answer = self.link.getresponse()
        self.machine = self.answer.getheader("X-Saltern-Instance")
        self.error = ""
        assert self.answer.status == 200
        self.start()

    def run(self) -> None:
        try:
            while self.answer.readline():
                pass
        except (OSError, http.client.HTTPException) as error:
            self.error = repr(error)

    def close(self) -> None:
        # What still reads is woken by it.
        self.link.sock.shutdown(socket.SHUT_RDWR)
        self.join(60)
        self.link.close()


def test_streams_end_by_themselves_where_a_machine_is_drained_and_hold_up_nobody(live: Live) -> None:
    streams = [Stream(live) for _ in range(5)]
    leaves = streams[0].machine
    try:
        out = runner(live, "fleet.drain", leaves, "wait=60")
        assert (out["instance"]["phase"], out["cut"]) == ("idle", []), out
        gone = [stream for stream in streams if stream.machine == leaves]
        for stream in gone:
            stream.join(60)
        assert not any(stream.is_alive() for stream in gone)
        # Not cut: the last piece was there.
        assert [stream.error for stream in gone] == [""] * len(gone)
        # Nobody else's ended: what they read is over when they are closed.
        assert all(stream.is_alive() for stream in streams if stream not in gone)
        again = Stream(live)
        assert again.machine != leaves
        again.close()
    finally:
        runner(live, "fleet.ready", leaves, "wait=60")
        for stream in streams:
            if stream.is_alive():
                stream.close()


def test_an_instance_in_maintenance_may_be_stopped_and_started_under_load(live: Live) -> None:
    with load(live):
        assert runner(live, "fleet.maint", "prod2", "wait=60")["instance"]["phase"] == "maint"
        answer = live.answer("prod2", "cmd.run", "systemctl restart product && echo done")
        assert answer == {"prod2": "done"}
        assert runner(live, "fleet.ready", "prod2", "wait=60")["instance"]["phase"] == "ready"


def test_the_share_moves_while_requests_run(live: Live, split: None) -> None:
    with load(live):
        for share in (0, 50, 100):
            runner(live, "canary.share", str(share))
            wait_for(lambda share=share: share_in_effect(live) == share, 10, f"{share} percent")
            wait_for(lambda share=share: split_is(live, 400, share), 20, f"{share} percent of the requests")


def test_an_alert_turns_the_canary_off_until_somebody_turns_it_on(live: Live, split: None) -> None:
    with load(live):
        assert admin(live, "POST", "alert", {"source": "shop", "reason": "checkout fails"}, "read")[0] == 403
        assert admin(live, "POST", "alert", {"source": "shop", "reason": "checkout fails"}, "guess")[0] == 401
        wait_for(lambda: share_in_effect(live) == 30, 20, "nothing has changed")
        status, told = admin(live, "POST", "alert", {"source": "shop", "reason": "checkout fails"})
        assert (status, told["changed"]) == (200, True)
        wait_for(lambda: pools(live, 50)["canary"] == 0, 10, "production alone")
        latch = runner(live, "canary.status")["latch"]
        assert latch["reason"] == "shop: checkout fails"
        why = runner(live, "journal.why", "canary off")
        assert why["chain"][-1]["what"].startswith("canary.off canary"), why
        assert any(each["what"].startswith("admin.write POST /alert") for each in why["effects"]), why
        # A tester still reaches it; everybody else does not.
        asked = run("curl", "-sD-", "-o/dev/null", "-H", "X-Saltern-Canary: always", f"{live.product}version")
        assert "x-saltern-pool: canary" in asked.stdout.lower()
        runner(live, "canary.on", "fixed")
        wait_for(lambda: pools(live, 50)["canary"] > 0, 30, "the canary back")


def test_a_canary_gone_silent_loses_its_share_and_gets_it_back_by_itself(live: Live) -> None:
    # In the worst case all that it was answering or was sent until it was noticed: a request that HAProxy may
    # send again is, so nothing fails but what had begun to be answered.
    with load(live, failures=16):
        inside(live, "staging1", "ip", "link", "set", "host0", "down")
        try:
            wait_for(lambda: share_in_effect(live) == 0, 10, "its share is production's")
            assert runner(live, "canary.status")["latch"] is None
        finally:
            inside(live, "staging1", "ip", "link", "set", "host0", "up")
        wait_for(lambda: share_in_effect(live) == 30, 60, "its share is back")
    assert live.answer("staging1", "test.ping") == {"staging1": True}


def test_controller_haproxy_and_redis_may_go_while_requests_run(live: Live) -> None:
    with load(live):
        inside(live, "proxy1", "systemctl", "kill", "-s", "KILL", "saltern-controller")
        inside(live, "proxy1", "systemctl", "reload", "haproxy")
        wait_for(lambda: admin(live, "GET", "health", token="read")[0] == 200, 30, "the controller is back")
        for name in ("redis1", "redis2", "redis3"):
            inside(live, name, "systemctl", "stop", "redis-server")
        try:
            wait_for(lambda: admin(live, "GET", "health", token="read")[0] == 503, 15, "health says so")
            assert not admin(live, "GET", "health", token="read")[1]["redis"]["ok"]
            # A canary that failed a check is given time to settle before it gets its share again.
            wait_for(lambda: "staging1" in live.instances_seen(), 60, "the canary serves")
            wait_for(lambda: split_is(live, 400, 30), 30, "the last split is kept")
        finally:
            starts = [
                threading.Thread(target=inside, args=(live, name, "systemctl", "start", "redis-server"))
                for name in ("redis1", "redis2", "redis3")
            ]
            for each in starts:
                each.start()
            for each in starts:
                each.join()
        wait_for(lambda: admin(live, "GET", "health", token="read")[0] == 200, 60, "all is well again")
    wait_for(
        lambda: {row["phase"] for row in runner(live, "fleet.status")["instances"].values()} == {"ready"},
        30,
        "every instance is ready",
    )
