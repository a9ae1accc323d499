"""Each reflex on real machines under real load, and each with exactly one effect.

The fleet the tests share is calm: nothing happens by itself. A test switches on the reflex it is about, for the
machines it is about, and leaves the fleet as it found it.
"""

from __future__ import annotations

import calendar
import json
import time
import urllib.request
from collections.abc import Iterator

import pytest
import redis
from fleet_commands import Live
from fleet_hands import Plant, bus, felt, reactions, said, text_of, until
from saltern import alertmanager, journal, master, rejections, secrets
from saltern.conductor import SCALE
from saltern.intents import Queue
from saltern.local import cgroup

HIGH = {"percent": 97.0, "high": 50, "low": 40, "cpus": 1.0, "services": {"product": 95.0}}
PRODUCTION = ["prod1", "prod2", "prod3", "prod4", "prod5"]


@pytest.fixture
def plant(plant: Plant) -> Iterator[Plant]:
    """The fleet with its canary on; afterwards its machines are those it had, and nothing fires."""
    before = set(plant.fleet.inventory())
    plant.canary_on()
    yield plant
    for alert in plant.alerts.all():
        # These end by themselves, in ten minutes.
        if alert.firing and alert.name == rejections.NAME:
            plant.alerts.end(alert.name, alert.subject)
    plant.canary_on()
    assert set(plant.fleet.inventory()) == before

    def firing() -> list[tuple[str, str]]:
        return [(a.name, a.subject) for a in plant.alerts.all() if a.at(time.time()).firing]

    # A minion that was slow to answer is asked again.
    until(lambda: not firing(), 40, "nothing fires")


def over(plant: Plant, name: str, subject: str) -> None:
    until(lambda: not plant.alert(name, subject), 60, f"{name} of {subject} is over")


def led_to(plant: Plant, line: str) -> list[str]:
    """The kinds of what `journal.why` says led to a line of the journal, and its own."""
    return [row["what"].split()[0] for row in journal.why(plant.registry.client, line)["chain"]]


# The canary ----------------------------------------------------------------------------------------------------


def test_a_busy_canary_is_off_and_one_mail_says_what_was_done_and_how_to_undo_it(plant: Plant, live: Live):
    began = time.time()
    summary = "CPU of staging1 is high"
    with plant.set("staging1", beacons={"cpu": felt("staging")}):
        with plant.burning("staging1"):
            plant.gone(20)
            until(lambda: plant.mails(began, summary), 15, "the mail")
        over(plant, "CpuHigh", "staging1")
        until(lambda: plant.mails(began, summary, "Over:"), 30, "the mail that it is over")
    (mail,) = (m for m in plant.mails(began, summary) if "over:" not in m["Subject"])
    assert mail["Subject"] == f"[{live.name}] {summary}"
    told = dict(
        line.strip().split(maxsplit=1) for line in text_of(mail).splitlines() if line.startswith("  ")
    )
    assert told["where"] == f"staging1, fleet {live.name}"
    assert told["value"].endswith("limit 50 %") and "of 1 processor" in told["value"]
    assert began - 5 < _seconds(told["since"]) < time.time() + 5
    assert told["the"].startswith("fleet  turned the canary off: all requests go to production (staging1 cpu")
    assert told["silence"] == "salt-run alert.silence CpuHigh staging1 hours=2"
    assert len(plant.journal("canary.off", began)) == 1
    why = json.loads(live.salt("salt-run", "journal.why", "canary off", "--out=json").stdout)
    edge, effect = why["chain"]
    assert (edge["what"], edge["at"] > "20") == ("salt/beacon/staging1/cpu/high", True)
    assert effect["what"].startswith("canary.off canary") and effect["after_ms"] >= 0, why
    # Its being over is no reason to turn it on; what the mail says is.
    assert plant.share() == 0
    done = live.salt(*told["undo"].split())
    assert done.returncode == 0, done.stderr
    until(plant.share, 20, "the canary takes requests")


def _seconds(stamp: str) -> float:
    return calendar.timegm(time.strptime(stamp, "%Y-%m-%d %H:%M:%S UTC"))


def test_a_busy_proxy_turns_the_canary_off_and_asks_for_more_production(plant: Plant):
    began = time.time()
    asked = {"pools": {"prod": {"auto": True, "min": 5, "max": 5, "warmup_s": 0}}}
    with plant.set("proxy1", beacons={"cpu": felt("proxy")}, scaling=asked):
        with plant.burning("proxy1", processors=2):
            plant.gone(20)

            def proposal() -> int:
                kept = json.loads(plant.registry.client.get(f"{SCALE}prod") or "{}")
                return (kept.get("decision", {}).get("proposals", {}).get("proxy_cpu")) or 0

            until(lambda: proposal() > len(PRODUCTION), 20, "the proxy asks for more")
        over(plant, "CpuHigh", "proxy1")
    (line,) = plant.journal("canary.off", began)
    assert line["fields"]["reason"].startswith("proxy1 cpu ")


def test_the_alert_route_turns_the_canary_off(plant: Plant):
    began = time.time()
    port = plant.settings["admin"]["port"]
    request = urllib.request.Request(
        f"http://{plant.fleet.addresses()['proxy1']}:{port}/alert",
        json.dumps({"source": "checkout", "reason": "orders fail"}).encode(),
        {
            "Authorization": f"Bearer {secrets.load(plant.fleet)['admin']['write']}",
            "Content-Type": "application/json",
        },
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.status in (200, 202)
    plant.gone(5)
    until(lambda: plant.journal("canary.off", began), 5, "its line in the journal")
    assert len(plant.journal("canary.off", began)) == 1


def test_the_same_event_delivered_again_and_again_has_one_effect(plant: Plant):
    began = time.time()
    event = said(plant.fleet, "staging1", "cpu/high", HIGH)
    with bus(plant.fleet) as events:
        events.fire_event(*event)
        plant.gone(10)
        until(lambda: plant.alert("CpuHigh", "staging1"), 10, "the alert")
        plant.canary_on()
        with reactions(plant.fleet, "runner.reflex.canary_off") as heard:
            for _ in range(3):
                events.fire_event(*event)
            answers = [heard(30) for _ in range(3)]
        # The engine has heard those before this one.
        events.fire_event(*said(plant.fleet, "staging1", "cpu/ok", {**HIGH, "percent": 1.0}))
        over(plant, "CpuHigh", "staging1")
    assert {each["return"]["canary"] for each in answers} == {"as it was"}
    assert plant.share() > 0
    assert len(plant.journal("canary.off", began)) == 1
    assert len(plant.journal("alert.firing", began)) == 1


def test_an_event_of_staging_that_claims_to_be_production_is_refused_journalled_and_told(
    plant: Plant, live: Live
):
    began = time.time()
    data, tag = said(plant.fleet, "prod1", "cpu/high", HIGH, by="staging1")
    with bus(plant.fleet) as events:
        events.fire_event(data, tag)
        until(lambda: plant.alert("EventRejected", "prod1"), 10, "the alert about what names prod1")
        # The same through the minion's own door, where Salt itself says who sends it.
        sent = live.answer("staging1", "event.send", tag, json.dumps(data))
        assert sent == {"staging1": True}
        until(lambda: plant.alert("EventRejected", "staging1"), 10, "the alert about who sent it")
    assert plant.alert("CpuHigh", "prod1") is None
    until(lambda: plant.journal("event.rejected", began, subject="prod1"), 10, "the conductor's line")
    assert len(plant.journal("alert.firing", began, alert="EventRejected", subject="prod1")) == 1
    until(lambda: plant.mails(began, "events that name prod1 were rejected"), 15, "the mail")
    assert "prod1/cpu" not in {key for key, text in _felt(plant) if json.loads(text)["percent"] == 97.0}
    assert plant.journal("canary.off", began) == []


def _felt(plant: Plant) -> list[tuple[str, str]]:
    return list(plant.registry.client.hgetall("saltern:felt").items())


def test_the_canary_goes_off_with_the_redis_primary_stopped_and_stays_off_with_one_effect(plant: Plant):
    began = time.time()
    where = plant.registry.client.client_info()["laddr"].rpartition(":")[0]
    primary = next(name for name, address in plant.fleet.addresses().items() if address == where)
    with bus(plant.fleet) as events:
        plant.inside(primary, "systemctl", "stop", "redis-server")
        try:
            events.fire_event(*said(plant.fleet, "staging1", "cpu/high", HIGH))
            plant.gone(30)
        finally:
            plant.inside(primary, "systemctl", "start", "redis-server")
        fresh = Plant(plant.fleet)  # where the primary is by now

        def latched() -> bool:
            try:
                return "canary" in fresh.registry.snapshot().latches and bool(
                    fresh.alert("CpuHigh", "staging1")
                )
            except redis.RedisError:
                return False

        until(latched, 60, "the registry and the alerts know of it")
        assert plant.share() == 0
        events.fire_event(*said(plant.fleet, "staging1", "cpu/ok", {**HIGH, "percent": 1.0}))
        over(fresh, "CpuHigh", "staging1")
    assert len(fresh.journal("canary.off", began)) == 1


# Mail ----------------------------------------------------------------------------------------------------------


def test_a_mail_server_that_is_away_at_first_gets_each_mail_once(plant: Plant):
    began = time.time()
    summary = "CPU of redis1 is high"
    tells = alertmanager.of_fleet(plant.fleet, plant.settings)
    with bus(plant.fleet) as events:
        plant.inside("ops1", "systemctl", "stop", "mail-sink")
        try:
            failed = tells.look().failed
            events.fire_event(*said(plant.fleet, "redis1", "cpu/high", HIGH))
            until(lambda: tells.look().failed > failed, 60, "a mail that fails")
        finally:
            plant.inside("ops1", "systemctl", "start", "mail-sink")
        until(lambda: plant.mails(began, summary), 60, "the mail")
        events.fire_event(*said(plant.fleet, "redis1", "cpu/ok", {**HIGH, "percent": 1.0}))
        until(lambda: plant.mails(began, summary, "Over:"), 60, "the mail that it is over")
    assert [mail["Subject"].partition("] ")[2] for mail in plant.mails(began, summary)] == [
        summary, f"over: {summary}",
    ]  # fmt: skip


# Machines ------------------------------------------------------------------------------------------------------


def test_a_machine_short_of_memory_gets_twice_as_much_and_gives_it_back(plant: Plant):
    began = time.time()

    def memory() -> int:
        return plant.fleet.inventory()["prod2"]["memory"]

    base = memory()
    grow = {"memory": {"auto": True, "low_s": 1, "cooldown_s": 5}}
    with plant.set("prod2", beacons={"memory": felt("prod")}, scaling=grow):
        hog = f"x = bytearray(b'x') * ({base * 6 // 10} * 2**20)\nimport time\ntime.sleep(600)"
        plant.run_unit("prod2", "/usr/bin/python3", "-c", hog)
        try:
            until(lambda: memory() == 2 * base, 30, "twice the memory")
            until(lambda: plant.mails(began, f"prod2 has {2 * base} MiB of memory now"), 15, "the mail")
        finally:
            plant.stop_unit("prod2")
        until(lambda: memory() == base, 60, "what it was made with")
        over(plant, "MemoryHigh", "prod2")
        over(plant, "MemoryResized", "prod2")
    resized = plant.journal("resize.resize", began)
    assert [line["fields"]["to"] for line in resized] == [2 * base, base]
    (mail,) = (m for m in plant.mails(began, f"prod2 has {2 * base} MiB") if "over:" not in m["Subject"])
    assert f"salt-cloud -a resize prod2 memory={base}" in text_of(mail)


def test_overloaded_production_grows_by_a_machine_and_gives_the_youngest_up_when_it_is_quiet(plant: Plant):
    """Five busy machines on a host with two processors use 40 % of what each may: they wait for the rest."""
    began = time.time()
    pool = {
        "auto": True, "min": 5, "max": 6, "warmup_s": 1, "targets": {"cpu": 45, "proxy_cpu": 90},
        "out": {"window_s": 0, "cooldown_s": 5, "steps": [{"machines": 1, "period_s": 5}]},
        "in": {"window_s": 1, "cooldown_s": 5, "steps": [{"machines": 1, "period_s": 5}]},
    }  # fmt: skip
    machines = ",".join(PRODUCTION)
    with plant.set(
        machines, beacons={"cpu": felt("prod", ignore=["salt-minion"])}, scaling={"pools": {"prod": pool}}
    ):
        with plant.burning(*PRODUCTION):
            # Until it serves: given up as soon as all is quiet, it would do so for an instant only.
            until(lambda: "prod6" in plant.serving(), 120, "prod6 serves")
        until(lambda: "prod6" not in plant.fleet.inventory(), 120, "prod6 is given up")
        until(lambda: not Queue(plant.registry.client).unfinished(), 30, "all is done")
    for machine in PRODUCTION:
        over(plant, "CpuHigh", machine)
    added = [line["fields"]["add"] for line in plant.journal("scale.choose", began)]
    removed = [[id_ for id_, _ in line["fields"]["remove"]] for line in plant.journal("scale.choose", began)]
    assert (added, removed) == ([["prod6"], []], [[], ["prod6"]])
    (queued, _) = plant.journal("intent.queued", began, kind="scale")
    edge, _ = queued["cause"].split(" ")
    assert edge.startswith("salt/beacon/prod") and edge.endswith("/cpu/high")
    (made,) = plant.journal("scale.make", began)
    assert led_to(plant, made["id"]) == [edge, "intent.queued", "scale.make"]
    (drained,), (ended,) = plant.journal("scale.drain", began), plant.journal("scale.end", began)
    assert drained["id"] < ended["id"]


def test_a_machine_that_was_killed_is_replaced_once_and_a_person_is_told(plant: Plant):
    began = time.time()
    old = plant.fleet.inventory()["prod3"]["since"]
    with plant.set(scaling={"healing": {"auto": True, "grace_s": 1}}):
        cgroup.kill(f"{plant.fleet.cgroup}/prod3")
        until(lambda: plant.fleet.inventory().get("prod3", {}).get("since", old) != old, 60, "a new prod3")
        until(lambda: "prod3" in plant.serving(), 120, "it serves")
        over(plant, "MachineLost", "prod3")
        until(lambda: not Queue(plant.registry.client).unfinished(), 30, "all is done")
    assert len(plant.journal("machine.lost", began)) == 1
    (made,) = plant.journal("heal.make", began)
    assert led_to(plant, made["id"]) == ["machine.lost", "intent.queued", "heal.make"]
    until(lambda: plant.mails(began, "prod3 is gone", "prod3 is made anew"), 15, "the mail")


def test_a_master_killed_in_the_middle_of_a_provision_goes_on_and_makes_one_machine(plant: Plant, live: Live):
    queue, before = Queue(plant.registry.client), set(plant.fleet.inventory())
    asked = json.loads(live.salt("salt-run", "scale.out", "prod", "--out=json").stdout)
    until((plant.fleet.machines_dir / "prod6").exists, 60, "salt-cloud has begun to make prod6", 0.005)
    cgroup.kill(live.group("_master"))
    assert not plant.fleet.inventory().get("prod6", {}).get("made"), "it was killed in the middle"
    assert queue.load(asked["intent"]).state == "running"
    master.start(plant.fleet)
    try:
        until(lambda: queue.load(asked["intent"]).state == "done", 180, "it goes on and ends")
        assert "prod6" in plant.serving()
        inventory = plant.fleet.inventory()
        assert set(inventory) == before | {"prod6"}
        assert all(about["made"] for about in inventory.values())
        keys = json.loads(live.salt("salt-key", "-L", "--out=json").stdout)
        assert (set(keys["minions"]), keys["minions_pre"]) == (set(inventory), [])
    finally:
        done = live.salt("salt-run", "scale.in", "prod", "force=True", "wait=120", "--out=json")
    assert done.returncode == 0, done.stdout
