"""Alerts and the check of events on a real Redis: what is one alert, what is too much, what is a forgery."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jinja2
import pytest
import redis
from host import free_port, until
from redis.backoff import NoBackoff
from redis.retry import Retry
from saltern import conducting, events, rejections, secrets, signing
from saltern.alert_store import ALERT, ALERTS, Alert, AlertStore, fingerprint
from saltern.events import Event, Rate, Rejected
from saltern.provisioning import Alarm
from saltern.redis_link import connect
from saltern.registry import Registry
from traffic_stand import Process, redis_server

HIGH = Alert(
    "CpuHigh", "prod1", "pressure on prod", "warning", "CPU of prod1 is high", "93 %", "50 %", "most by x"
)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server, port = redis_server(tmp_path_factory.mktemp("redis"))
    yield f"127.0.0.1:{port}"
    server.end()


@pytest.fixture
def client(address: str) -> Iterator[redis.Redis]:
    with connect({"redis": {"addresses": [address]}}) as made:
        made.flushall()
        yield made


@pytest.fixture
def store(client: redis.Redis) -> AlertStore:
    return AlertStore(client)


def journal(client: redis.Redis) -> list[tuple[str, str]]:
    return [(entry["kind"], entry["subject"]) for _, entry in client.xrange("saltern:journal")]


def test_an_alert_that_is_said_again_is_the_same_alert(store, client):
    assert store.fire(HIGH, counter=10, cause="salt/beacon/prod1/cpu/high") is True
    (first,) = store.all()
    assert store.fire(replace(HIGH, value="97 %"), counter=11) is False
    (again,) = store.all()
    assert (again.since, again.count, again.journal) == (first.since, 1, first.journal)
    assert (again.value, again.firing, again.heard > first.heard) == ("97 %", True, True)
    assert journal(client) == [("alert.firing", "prod1")]
    (_, entry) = client.xrange("saltern:journal")[0]
    assert (entry["cause"], json.loads(entry["fields"])["alert"]) == ("salt/beacon/prod1/cpu/high", "CpuHigh")


def test_an_end_ends_it_once_and_a_new_beginning_counts(store, client):
    store.fire(HIGH, counter=10)
    assert store.end("CpuHigh", "prod1", counter=11) is True
    assert store.end("CpuHigh", "prod1", counter=12) is False
    (over,) = store.all()
    assert not over.firing and over.ended >= over.since
    assert store.fire(HIGH, counter=13) is True
    (again,) = store.all()
    assert (again.firing, again.count, again.ended) == (True, 2, 0)
    assert [kind for kind, _ in journal(client)] == ["alert.firing", "alert.resolved", "alert.firing"]


@pytest.mark.parametrize("late", [9, 10])
def test_what_arrives_late_changes_nothing(store, late):
    store.fire(HIGH, counter=10)
    assert store.end("CpuHigh", "prod1", counter=late) is False
    assert store.all()[0].firing
    store.end("CpuHigh", "prod1", counter=1_000)
    assert store.fire(HIGH, counter=999) is False
    assert not store.all()[0].firing


def test_an_end_of_what_never_began_is_nothing(store, client):
    assert store.end("CpuHigh", "prod1", counter=5) is False
    assert store.all() == [] and journal(client) == []


def test_what_is_over_is_forgotten_after_its_time_and_the_list_keeps_no_trace(store, client):
    store.fire(HIGH)
    store.end("CpuHigh", "prod1", keep_s=3600)
    assert 3000 < client.ttl(ALERT + HIGH.fingerprint) <= 3600
    client.delete(ALERT + HIGH.fingerprint)
    assert store.all() == []
    store.fire(replace(HIGH, subject="prod2"))
    assert client.smembers(ALERTS) == {fingerprint("CpuHigh", "prod2")}
    assert client.ttl(ALERT + fingerprint("CpuHigh", "prod2")) == -1


def test_an_alert_that_expires_is_over_by_itself_and_begins_again(store):
    store.fire(HIGH, expires_s=600)
    (alert,) = store.all()
    assert alert.until == pytest.approx(alert.since + 600, abs=1)
    assert alert.at(alert.until - 1).firing
    over = alert.at(alert.until)
    assert (over.firing, over.ended) == (False, alert.until)
    assert store.fire(HIGH, expires_s=0.01) is False
    until(lambda: not store.all()[0].at(time.time()).firing, "the end by itself")
    assert store.fire(HIGH) is True
    assert store.all()[0].count == 2


def test_what_the_fleet_did_is_told_even_when_it_was_faster_than_the_alert(store, client):
    store.did("CpuHigh", "prod1", "turned the canary off", "salt-run canary.on")
    assert store.all() == []
    store.fire(HIGH)
    (alert,) = store.all()
    assert (alert.done, alert.undo) == ("turned the canary off", "salt-run canary.on")
    store.end("CpuHigh", "prod1")
    # What was done about an earlier time is not what was done about this one.
    client.hset(ALERT + HIGH.fingerprint, "did_at", str(time.time() - 3600))
    store.fire(HIGH)
    assert store.all()[0].done == ""


def test_every_change_is_published(store, address):
    with connect({"redis": {"addresses": [address]}}) as own:
        listening = own.pubsub(ignore_subscribe_messages=True)
        listening.subscribe(ALERTS)
        until(lambda: store.client.pubsub_numsub(ALERTS)[0][1] == 1, "the subscription")
        store.fire(HIGH)
        store.fire(HIGH)
        store.did("CpuHigh", "prod1", "x")
        store.end("CpuHigh", "prod1")
        heard = [until(lambda: listening.get_message(timeout=1), "a notice")["data"] for _ in range(3)]
        assert heard == [HIGH.fingerprint] * 3
        assert listening.get_message(timeout=0) is None


def test_two_hundred_edges_at_once_from_one_machine_begin_one_alert(store, client):
    began = []

    def say(counter: int) -> None:
        began.append(store.fire(HIGH, counter=counter))

    threads = [threading.Thread(target=say, args=(n,)) for n in range(1, 201)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sum(began) == 1
    assert len(journal(client)) == 1


def test_a_user_who_may_only_read_can_list(store, client, address):
    store.fire(HIGH)
    rules = (Path(__file__).parents[2] / "salt/redis/users.acl.j2").read_text()
    (line,) = [each for each in rules.splitlines() if each.startswith("user observer ")]
    granted = line.split("}} ")[1].split()
    client.execute_command("ACL", "SETUSER", "observer", "on", ">pw", *granted)
    config = {"redis": {"addresses": [address], "username": "observer", "password": "pw"}}
    with connect(config) as own:
        assert [alert.name for alert in AlertStore(own).all()] == ["CpuHigh"]
        with pytest.raises(redis.exceptions.NoPermissionError):
            AlertStore(own).fire(HIGH)
        listening = own.pubsub()
        listening.subscribe(ALERTS)
        assert until(lambda: listening.get_message(timeout=1), "the subscription")["type"] == "subscribe"


def test_an_alarm_of_the_conductor_is_an_alert_with_what_was_done_about_it(store):
    lost = Alarm(
        "MachineLost",
        "prod3",
        "prod3 is gone",
        "critical",
        done="prod3 is made anew",
        undo="salt-run x",
        cause="5-0",
    )
    conducting.keep(store, lost)
    conducting.keep(store, lost)
    (alert,) = store.all()
    assert (alert.summary, alert.severity, alert.count) == ("prod3 is gone", "critical", 1)
    assert (alert.done, alert.undo) == ("prod3 is made anew", "salt-run x")
    conducting.keep(store, replace(lost, firing=False))
    assert not store.all()[0].firing


def test_alerts_and_all_else_that_scripts_write_outlive_a_restart_of_redis(tmp_path):
    """Redis reads its append-only file as the user `default`, and drops what that may not do."""
    template = (Path(__file__).parents[2] / "salt/redis/users.acl.j2").read_text()
    users = {name: hashlib.sha256(name.encode()).hexdigest() for name in secrets.REDIS_USERS}
    text = jinja2.Template(template).render(pillar={"secrets": {"redis_sha256": users}})
    (tmp_path / "users.acl").write_text(text + "\n")
    port = free_port()
    arguments = ["redis-server", "--port", str(port), "--dir", str(tmp_path), "--appendonly", "yes", "--save", "",
                 "--aclfile", str(tmp_path / "users.acl")]  # fmt: skip
    process = Process(arguments, tmp_path / "log")
    config = {"redis": {"addresses": [f"127.0.0.1:{port}"], "username": "admin", "password": "admin"}}

    def answers() -> bool:
        try:
            return own.ping()
        except redis.ConnectionError:
            return False

    with connect(config) as own:
        process.start()
        try:
            until(answers, "an answer")
            AlertStore(own).fire(HIGH)
            Registry(own).register("prod1", "10.0.0.1", 80, "r1", "prod")
            process.end()
            process.start()
            until(answers, "an answer after the restart")
            assert [alert.name for alert in AlertStore(own).all()] == ["CpuHigh"]
            assert set(Registry(own).snapshot().instances) == {"prod1"}
            for who in ({}, {"username": "default", "password": ""}):
                with (
                    redis.Redis(port=port, retry=Retry(NoBackoff(), 0), **who) as anybody,
                    pytest.raises(redis.exceptions.AuthenticationError),
                ):
                    anybody.get("saltern:revision")
        finally:
            process.end()


# Events ----------------------------------------------------------------------------------------------------


def event(machine: str = "prod1", counter: int = 1, tag: str = "cpu/high") -> Event:
    return Event(machine, f"salt/beacon/{machine}/{tag}", {}, counter)


def test_a_machine_may_say_so_much_at_once_and_then_so_much_a_minute(client):
    rate = Rate(burst=5, per_minute=600)
    for _ in range(5):
        events.within(client, event(), rate)
    with pytest.raises(Rejected, match="from prod1: more than 600 a minute"):
        # Said quicker than it may be said, if only for a moment.
        for _ in range(10_000):
            events.within(client, event(), rate)
    events.within(client, event("prod2"), rate)

    def again() -> bool:
        try:
            events.within(client, event(), rate)
        except Rejected:
            return False
        return True

    until(again, "the next event")


def test_a_rate_leaves_nothing_behind(client):
    events.within(client, event(), Rate(burst=5, per_minute=60_000))
    until(lambda: not client.exists("saltern:rate:prod1"), "the end of the bucket")


def test_one_event_may_cause_each_of_several_things_once(client):
    for use in ("", "alert", "canary_off"):
        events.once(client, event(counter=7), use)
        with pytest.raises(Rejected, match="counter 7 was used before"):
            events.once(client, event(counter=7), use)
        with pytest.raises(Rejected, match="counter 6 was used before"):
            events.once(client, event(counter=6), use)


def test_an_event_delivered_many_times_at_once_passes_once(client):
    passed = []

    def deliver() -> None:
        try:
            events.once(client, event(counter=10**18))
            passed.append(True)
        except Rejected:
            passed.append(False)

    threads = [threading.Thread(target=deliver) for _ in range(32)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(passed) == [False] * 31 + [True]


def test_a_machine_that_says_too_much_does_not_use_up_its_counters(client, make_fleet):
    fleet = make_fleet()
    key = secrets.event_key(secrets.load(fleet)["events"], "prod1")
    tag = "salt/beacon/prod1/cpu/high"
    now = time.time_ns()
    rate = Rate(burst=1, per_minute=1)
    for counter, passes in ((now, True), (now + 1, False)):
        payload = signing.sign(key, "prod1", tag, {}, counter)
        if passes:
            assert events.check(fleet, client, tag, "prod1", payload, now, rate=rate).counter == counter
        else:
            with pytest.raises(Rejected, match="more than 1 a minute"):
                events.check(fleet, client, tag, "prod1", payload, now, rate=rate)
    client.delete("saltern:rate:prod1")
    payload = signing.sign(key, "prod1", tag, {}, now + 1)
    assert events.check(fleet, client, tag, "prod1", payload, now, rate=rate)


def reject(client: redis.Redis, tag: object, minion_id: object, words: str = "signature is wrong") -> None:
    with pytest.raises(Rejected, match=words), rejections.reported(client, tag, minion_id, 600):
        raise Rejected(f"event {tag!r}: {words}")


def test_a_flood_of_forgeries_is_one_line_and_one_alert(store, client):
    for n in range(50):
        reject(client, f"salt/beacon/prod1/cpu/high{n}", "prod1")
    (alert,) = store.all()
    assert (alert.name, alert.subject, alert.severity) == ("EventRejected", "prod1", "critical")
    assert "signature is wrong" in alert.details
    assert 500 < alert.until - time.time() <= 600
    assert journal(client) == [("alert.firing", "prod1")]


@pytest.mark.parametrize(
    "minion_id",
    ["*", "prod*", "{{ 7 * 7 }}", "prod1\n", "x: !!python/object:os.system", "é" * 900, None, 5, [], {}],
)
def test_whoever_a_forgery_names_it_gets_a_name_of_ours(store, client, minion_id):
    reject(client, f"salt/beacon/{minion_id}/cpu/high", minion_id)
    (alert,) = store.all()
    assert alert.subject == "unknown"
    assert all(
        text.isprintable() and len(text) <= 300 for text in (alert.value, alert.details, alert.summary)
    )


def test_without_redis_a_rejection_is_still_a_rejection(tmp_path):
    server, port = redis_server(tmp_path)
    with connect({"redis": {"addresses": [f"127.0.0.1:{port}"]}}) as gone:
        server.end()
        reject(gone, "salt/beacon/prod1/cpu/high", "prod1", "signature is wrong")
