"""Taking a server out and putting it back: ready, drain, idle, maint, ready, and nobody notices."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from typing import Any

import pytest
from host import PATIENCE, until
from traffic_stand import Answer, Stand, ask

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


def let_go(stand: Stand, id_: str) -> None:
    """Have a server answer what it holds, asked past the proxy."""
    link = http.client.HTTPConnection("127.0.0.1", stand.ports[id_], timeout=PATIENCE)
    assert ask(link, "/let-go").status == 200
    link.close()


class Long(threading.Thread):
    """A client with one request that its server answers only when it is told to."""

    def __init__(self, stand: Stand, id_: str) -> None:
        super().__init__(daemon=True)
        self.stand, self.id = stand, id_
        self.answer: Answer | None = None
        self.error = ""
        self.start()
        until(lambda: observed(stand, id_).get("sessions") == 1, "the long request open")

    def run(self) -> None:
        link = http.client.HTTPConnection("127.0.0.1", self.stand.port, timeout=PATIENCE)
        while ask(link).instance == self.id:
            pass
        # The servers take turns and this client is alone: the next one is ours.
        try:
            self.answer = ask(link, "/held")
        except (OSError, http.client.HTTPException) as error:
            self.error = repr(error)
        link.close()

    def end(self, status: int = 200) -> Answer:
        """Its answer, which was not lost."""
        self.join(PATIENCE)
        assert self.answer is not None, self.error
        assert self.answer.status == status
        return self.answer


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
        before = load.total
        until(lambda: load.total > before + 50, "traffic without it")
        fleet.start_backend("prod1")
        fleet.registry.want("prod1", "ready", by="test")
        await_phase(fleet, "prod1", "ready")
        before = load.total
        until(lambda: load.total > before + 100, "traffic going on")
    assert not load.failures
    assert load.count(status=200) == load.total


def test_a_draining_server_gets_nothing_new_and_finishes_what_it_has(fleet: Stand) -> None:
    long = Long(fleet, "prod1")
    fleet.registry.want("prod1", "drain", by="test")
    await_phase(fleet, "prod1", "draining")
    assert {fleet.get().instance for _ in range(10)} == {"prod2"}
    assert observed(fleet, "prod1")["sessions"] == 1
    let_go(fleet, "prod1")
    await_phase(fleet, "prod1", "idle")
    assert long.end().instance == "prod1"


def test_an_unregistered_server_finishes_what_it_has_under_its_own_name(fleet: Stand) -> None:
    long = Long(fleet, "prod1")
    fleet.registry.unregister("prod1", by="test")
    until(lambda: fleet.servers().get("prod1") == "drain/up", "prod1 leaving")
    let_go(fleet, "prod1")
    answer = long.end()
    assert (answer.instance, answer.release) == ("prod1", "r1")
    fleet.await_servers({"prod2": "ready/up"})


def test_a_websocket_counts_and_is_cut_after_the_limit_and_the_cut_is_reported(fleet: Stand) -> None:
    with socket.create_connection(("127.0.0.1", fleet.port), PATIENCE) as link:
        link.sendall(b"GET /upgrade HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        assert b"101" in link.recv(4096)
        holder = until(
            lambda: next((i for i in ("prod1", "prod2") if observed(fleet, i).get("sessions") == 1), ""),
            "the websocket counted",
        )
        fleet.registry.want(holder, "drain", limit_s=3600, by="test")
        await_phase(fleet, holder, "draining")
        link.sendall(b"still here")
        assert link.recv(4096) == b"still here"
        fleet.registry.want(holder, "drain", limit_s=1, by="test")
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
    long = Long(fleet, "prod2")
    fleet.registry.want("prod2", "maint", by="test")
    await_phase(fleet, "prod2", "draining")
    assert fleet.servers()["prod2"] == "drain/up"
    let_go(fleet, "prod2")
    await_phase(fleet, "prod2", "maint")
    long.end()


def test_a_drain_goes_on_where_it_was_after_the_controller_was_restarted(fleet: Stand) -> None:
    long = Long(fleet, "prod1")
    let_go(fleet, "prod2")
    fleet.registry.want("prod1", "drain", limit_s=1, by="test")

    def began() -> dict[str, float]:
        return json.loads((fleet.state_dir / "controller.json").read_text())["drains"]

    before = until(began, "the drain written down")
    fleet.controller.end(9)
    fleet.start_controller()
    await_phase(fleet, "prod1", "idle")
    assert long.end().instance == "prod2", "cut on prod1, and repeated"
    assert began() == before


def test_a_server_is_told_that_it_drains_by_the_proxys_checks_and_by_nobody_else(fleet: Stand) -> None:
    link = http.client.HTTPConnection("127.0.0.1", fleet.ports["prod1"], timeout=PATIENCE)

    def share() -> str:
        """What came of all that is new, as the last check said: its own weight of everybody's."""
        said = ask(link, "/told").body.partition("|")[0]
        return dict(part.partition("=")[::2] for part in said.split("; ")).get("weight", "")

    until(lambda: share() == "1/2", "told of its half")
    fleet.registry.want("prod1", "drain", by="test")
    until(lambda: share() == "0/1", "told that nobody new comes")
    fleet.registry.want("prod1", "ready", by="test")
    until(lambda: share() == "1/2", "told that it is back")
    link.close()
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=PATIENCE)) as public:
        forged = {"X-Haproxy-Server-State": "UP; name=prod/p1; weight=0/1"}
        assert ask(public, "/told", forged).body.endswith("|")
