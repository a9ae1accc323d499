"""Taking a server out and putting it back: ready, drain, idle, maint, ready, and nobody notices."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from typing import Any

import pytest
from traffic_stand import Answer, Stand, ask, until

pytestmark = pytest.mark.functional

NEVER = {"X-Saltern-Canary": "never"}


@pytest.fixture
def fleet(stand: Stand) -> Stand:
    """Two production servers, serving."""
    for id_ in ("prod1", "prod2"):
        stand.add(id_)
    stand.await_up("prod1", "prod2")
    return stand


def observed(stand: Stand, id_: str) -> dict[str, Any]:
    """What the controller last published about an instance."""
    return json.loads(stand.client.get("saltern:observed") or "{}").get("servers", {}).get(id_, {})


def await_phase(stand: Stand, id_: str, phase: str) -> None:
    """Wait until the controller publishes this phase."""
    until(lambda: observed(stand, id_).get("phase") == phase, f"{id_} {phase}")


class Slow(threading.Thread):
    """A client with one long request, on whichever server it is asked from."""

    def __init__(self, stand: Stand, id_: str, seconds: float) -> None:
        super().__init__()
        self.stand, self.id, self.seconds = stand, id_, seconds
        self.answer: Answer | None = None
        self.error = ""
        self.start()

    def run(self) -> None:
        link = http.client.HTTPConnection("127.0.0.1", self.stand.port, timeout=20)
        while ask(link).instance == self.id:
            pass
        # The servers take turns and this client is alone: the next one is ours.
        try:
            self.answer = ask(link, f"/slow?s={self.seconds}")
        except (OSError, http.client.HTTPException) as error:
            self.error = repr(error)
        link.close()


def test_a_server_goes_through_all_phases_and_no_request_is_lost(fleet: Stand) -> None:
    with fleet.loading(clients=8) as load:
        for _ in range(3):
            for want, phase in (("drain", "idle"), ("maint", "maint"), ("ready", "ready")):
                fleet.registry.want("prod1", want, by="test")
                await_phase(fleet, "prod1", phase)
            for want, phase in (("drain", "idle"), ("ready", "ready")):
                fleet.registry.want("prod2", want, by="test")
                await_phase(fleet, "prod2", phase)
    assert not load.failures
    assert load.count(status=200) == load.total


def test_a_server_restarted_in_maintenance_loses_nothing(fleet: Stand) -> None:
    with fleet.loading(clients=8) as load:
        fleet.registry.want("prod1", "maint", by="test")
        await_phase(fleet, "prod1", "maint")
        fleet.backends["prod1"].end()
        time.sleep(0.3)
        fleet.start_backend("prod1")
        fleet.registry.want("prod1", "ready", by="test")
        await_phase(fleet, "prod1", "ready")
        before = load.total
        until(lambda: load.total > before + 100, "traffic going on")
    assert not load.failures
    assert load.count(status=200) == load.total


def test_a_draining_server_gets_nothing_new_and_finishes_what_it_has(fleet: Stand) -> None:
    slow = Slow(fleet, "prod1", 1.5)
    until(lambda: observed(fleet, "prod1").get("sessions") == 1, "the long request open")
    fleet.registry.want("prod1", "drain", by="test")
    await_phase(fleet, "prod1", "draining")
    assert {fleet.get().instance for _ in range(10)} == {"prod2"}
    assert observed(fleet, "prod1")["sessions"] == 1
    await_phase(fleet, "prod1", "idle")
    slow.join()
    assert slow.answer is not None, slow.error
    assert (slow.answer.status, slow.answer.instance) == (200, "prod1")


def test_an_unregistered_server_finishes_what_it_has_under_its_own_name(fleet: Stand) -> None:
    slow = Slow(fleet, "prod1", 1.5)
    until(lambda: observed(fleet, "prod1").get("sessions") == 1, "the long request open")
    fleet.registry.unregister("prod1", by="test")
    until(lambda: fleet.servers().get("prod1") == "drain/up", "prod1 leaving")
    slow.join()
    assert slow.answer is not None, slow.error
    assert (slow.answer.status, slow.answer.instance, slow.answer.release) == (200, "prod1", "r1")
    fleet.await_servers({"prod2": "ready/up"})


def test_a_websocket_counts_and_is_cut_after_the_limit_and_the_cut_is_reported(fleet: Stand) -> None:
    with socket.create_connection(("127.0.0.1", fleet.port), 5) as link:
        link.sendall(b"GET /upgrade HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        assert b"101" in link.recv(4096)
        holder = until(
            lambda: next((i for i in ("prod1", "prod2") if observed(fleet, i).get("sessions") == 1), ""),
            "the websocket counted",
        )
        fleet.registry.want(holder, "drain", limit_s=1.0, by="test")
        await_phase(fleet, holder, "draining")
        link.sendall(b"still here")
        assert link.recv(4096) == b"still here"
        link.settimeout(10)
        assert link.recv(4096) == b"", "cut"
        address = "{}:{}".format(*link.getsockname())
    await_phase(fleet, holder, "idle")

    def report() -> dict[str, Any] | None:
        lines = [f for _, f in fleet.client.xrange("saltern:journal") if f["kind"] == "drain.cut"]
        return lines[0] if lines else None

    line = until(report, "the report")
    assert (line["subject"], line["who"]) == (holder, "controller")
    fields = json.loads(line["fields"])
    assert fields["sessions"] == 1
    assert fields["after_s"] >= 1.0
    assert [r["source"] for r in fields["requests"]] == [address]


def test_maintenance_waits_for_the_drain(fleet: Stand) -> None:
    slow = Slow(fleet, "prod2", 1.0)
    until(lambda: observed(fleet, "prod2").get("sessions") == 1, "the long request open")
    fleet.registry.want("prod2", "maint", by="test")
    await_phase(fleet, "prod2", "draining")
    assert fleet.servers()["prod2"] == "drain/up"
    await_phase(fleet, "prod2", "maint")
    slow.join()
    assert slow.answer is not None, slow.error
    assert slow.answer.status == 200


def test_a_drain_goes_on_where_it_was_after_the_controller_was_restarted(fleet: Stand) -> None:
    slow = Slow(fleet, "prod1", 4)
    until(lambda: observed(fleet, "prod1").get("sessions") == 1, "the long request open")
    fleet.registry.want("prod1", "drain", limit_s=2, by="test")
    await_phase(fleet, "prod1", "draining")
    time.sleep(1)
    fleet.controller.end(9)
    fleet.start_controller()
    await_phase(fleet, "prod1", "idle")
    slow.join()
    assert slow.answer is not None, slow.error
    assert slow.answer.instance == "prod2", (
        "cut on prod1 by a limit that began before the restart, and repeated"
    )
