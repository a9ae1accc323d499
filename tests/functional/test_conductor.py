"""The conductor on a real Redis: each wish has one effect, whenever it is broken off."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest
import redis
from conductor_stand import Crash, Server, Stand
from host import PATIENCE, until
from saltern import conductor as conductor_module
from saltern import provisioning
from saltern.intents import GROUP, QUEUE, Intent, IntentError, Queue
from saltern.provisioning import KINDS, Kind, Limits


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    server.start()
    yield server
    server.close()


@pytest.fixture
def own_server() -> Iterator[Server]:
    """One that a test may kill."""
    server = Server()
    server.start()
    yield server
    server.close()


@pytest.fixture
def stand(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stand]:
    monkeypatch.setattr(provisioning, "POLL_SECONDS", 0.005)
    monkeypatch.setattr(conductor_module, "OUTAGE_SECONDS", 0.02)
    monkeypatch.setattr(conductor_module, "LEAST_TICK_SECONDS", 0.0)
    monkeypatch.setattr(conductor_module, "TICK_SECONDS", 0.02)
    client = server.client()
    client.flushall()
    stand = Stand(client)
    yield stand
    stand.close()


# --- one wish, one effect, wherever it is broken off

WISHES = {
    "scale out": (
        Intent("scale", "prod", {"to": 4}),
        ["prod1", "prod2", "prod3", "prod4"],
        [("create", "prod4")],
    ),
    "scale out by two": (
        Intent("scale", "prod", {"to": 5}),
        ["prod1", "prod2", "prod3", "prod4", "prod5"],
        [("create", "prod4"), ("create", "prod5")],
    ),
    "scale in": (Intent("scale", "prod", {"to": 2}), ["prod1", "prod2"], [("destroy", "prod3")]),
    "scale in by two": (
        Intent("scale", "prod", {"to": 1}),
        ["prod1"],
        [("destroy", "prod2"), ("destroy", "prod3")],
    ),
    "heal": (
        Intent("heal", "prod", {"machine": "prod2"}),
        ["prod1", "prod2", "prod3"],
        [("create", "prod2"), ("destroy", "prod2")],
    ),
    "resize": (
        Intent("resize", "prod", {"machine": "prod2", "to": 768}),
        ["prod1", "prod2", "prod3"],
        [("resize", "prod2=768")],
    ),
}


def points(kind: str) -> list[str]:
    return [f"{kind}.{name}:{at}" for name, _ in KINDS[kind].steps for at in ("before", "acted", "recorded")]


BREAKS = [(wish, point) for wish, (intent, _, _) in WISHES.items() for point in points(intent.kind)]
CRASHES = [
    (wish, call, when)
    for wish, calls in {
        "scale out": ["create"], "scale out by two": ["create"], "scale in": ["destroy"],
        "scale in by two": ["destroy"], "heal": ["destroy", "create"], "resize": ["resize"],
    }.items()
    for call in calls
    for when in ("before", "half", "after")
]  # fmt: skip


def prepare(stand: Stand, wish: str) -> str:
    stand.cloud.add("prod1", "prod2", "prod3")
    if wish == "heal":
        stand.cloud.die("prod2")
    stand.change({"healing": {"auto": False}})
    return Queue(stand.client, "test").put(WISHES[wish][0])[0]


def expect_one_effect(stand: Stand, wish: str, id_: str) -> None:
    _, machines, did = WISHES[wish]
    assert sorted(stand.cloud.there) == machines
    assert sorted(stand.cloud.did) == sorted(did)
    assert sorted(stand.cloud.registry.snapshot().instances) == machines
    assert not stand.cloud.dead
    intent = Queue(stand.client).load(id_)
    assert intent is not None and intent.state == "done"
    mine = [
        line
        for line in stand.journal()
        if json.loads(line["fields"]).get("intent") == id_ or line["cause"] == intent.journal
    ]
    counted = Counter((line["kind"], line["subject"]) for line in mine)
    assert set(counted.values()) == {1}, counted
    assert {"intent.queued", "intent.begun", "intent.done"} <= {kind for kind, _ in counted}
    assert all(line["cause"] == intent.journal for line in mine if line["kind"] != "intent.queued")
    assert stand.client.xlen(QUEUE) == 0
    assert stand.client.xpending(QUEUE, GROUP)["pending"] == 0


@pytest.mark.parametrize(("wish", "point"), BREAKS, ids=[f"{wish} at {point}" for wish, point in BREAKS])
def test_a_crash_between_any_two_steps_leaves_exactly_one_effect(stand, wish, point):
    id_ = prepare(stand, wish)

    def hook(at: str) -> None:
        if at == point:
            raise Crash(at)

    first = stand.begin(hook)
    with pytest.raises(Crash):
        stand.work(first, lambda: False, f"a crash at {point}")
    stand.join()
    stand.settle(stand.begin())
    expect_one_effect(stand, wish, id_)


@pytest.mark.parametrize(("wish", "call", "when"), CRASHES)
def test_a_crash_in_the_middle_of_what_is_done_to_machines_leaves_exactly_one_effect(stand, wish, call, when):
    id_ = prepare(stand, wish)
    stand.cloud.crashes[call] = when
    first = stand.begin()
    with pytest.raises(Crash):
        stand.work(first, lambda: False, f"a crash {when} {call}")
    stand.join()
    stand.settle(stand.begin())
    expect_one_effect(stand, wish, id_)


@pytest.mark.parametrize("wish", list(WISHES))
def test_a_crash_at_every_single_point_one_after_the_other_leaves_exactly_one_effect(stand, wish):
    id_ = prepare(stand, wish)
    seen: set[str] = set()

    def hook(at: str) -> None:
        if at not in seen:
            seen.add(at)
            raise Crash(at)

    for _ in range(60):
        crashing = stand.begin(hook)
        try:
            stand.settle(crashing)
        except Crash:
            stand.join()
            continue
        break
    assert set(points(WISHES[wish][0].kind)) <= seen
    expect_one_effect(stand, wish, id_)


def test_without_a_crash_there_is_one_effect_too(stand):
    for wish in ("scale out", "scale in"):
        stand.client.flushall()
        fresh = Stand(stand.client)
        id_ = prepare(fresh, wish)
        fresh.settle(fresh.begin())
        expect_one_effect(fresh, wish, id_)
        fresh.close()


def test_redis_killed_in_the_middle_and_started_again_leaves_exactly_one_effect(
    own_server: Server, monkeypatch
):
    monkeypatch.setattr(provisioning, "POLL_SECONDS", 0.005)
    monkeypatch.setattr(conductor_module, "OUTAGE_SECONDS", 0.02)
    stand = Stand(own_server.client())
    id_ = prepare(stand, "scale out")
    killed = threading.Event()

    def hook(at: str) -> None:
        # After the machine is made and before that is written down: the worst moment.
        if at == "scale.make:acted" and not killed.is_set():
            own_server.kill()
            killed.set()

    conductor = stand.begin(hook)
    stand.work(conductor, killed.is_set, "Redis to be killed")
    for _ in range(5):
        conductor.step(5)
    own_server.start()
    stand.settle(conductor)
    expect_one_effect(stand, "scale out", id_)
    stand.close()


# --- the queue


def test_the_same_wish_twice_is_one_intent_and_the_later_arguments_count(stand):
    stand.cloud.add("prod1")
    queue = Queue(stand.client, "test")
    first = queue.put(Intent("scale", "prod", {"to": 2}))
    second = queue.put(Intent("scale", "prod", {"to": 3}))
    assert first == (second[0], True) and second[1] is False
    stand.settle(stand.begin())
    assert sorted(stand.cloud.there) == ["prod1", "prod2", "prod3"]
    intent = queue.load(first[0])
    assert intent is not None and (intent.state, intent.merged) == ("done", 1)


def test_a_wish_that_comes_while_the_same_is_at_work_is_carried_out_after_it(stand):
    stand.cloud.add("prod1")
    queue = Queue(stand.client, "test")
    queue.put(Intent("scale", "prod", {"to": 2}))
    late: list[tuple[str, bool]] = []

    def hook(at: str) -> None:
        if at == "scale.make:before" and not late:
            late.append(queue.put(Intent("scale", "prod", {"to": 1})))

    stand.settle(stand.begin(hook))
    assert late[0][1] is True
    assert stand.cloud.did == [("create", "prod2"), ("destroy", "prod2")]


def test_a_wish_that_is_fulfilled_already_does_nothing(stand):
    stand.cloud.add("prod1", "prod2")
    Queue(stand.client, "test").put(Intent("scale", "prod", {"to": 2}))
    stand.settle(stand.begin())
    assert stand.cloud.did == [] and not [tag for tag, _ in stand.fired if "scale" in tag]


def test_the_same_entry_delivered_to_two_conductors_has_one_effect(stand):
    id_ = prepare(stand, "scale out")
    gate = threading.Barrier(2, timeout=PATIENCE)

    def hook(at: str) -> None:
        if at == "scale.make:before":
            gate.wait()

    conductors = one, two = stand.begin(hook), stand.begin(hook)
    one.step(5)
    two._synced = float("-inf")  # it looks for what was handed out before, as after a restart
    two.step(5)

    def both() -> bool:
        stand.cloud.observe()
        for conductor in conductors:
            conductor.step(5)
        return not stand.client.xlen(QUEUE)

    until(both, "the queue to be empty")
    stand.join()
    expect_one_effect(stand, "scale out", id_)


def test_what_another_conductor_has_brought_to_its_end_is_let_go_and_holds_up_nothing(stand):
    id_ = prepare(stand, "scale out")

    def hook(at: str) -> None:
        if at == "scale.make:acted":
            Queue(stand.client, "the other").finish(id_, "done", {})

    conductor = stand.begin(hook)
    stand.settle(conductor)
    assert sorted(stand.cloud.there) == ["prod1", "prod2", "prod3", "prod4"]
    Queue(stand.client, "test").put(Intent("scale", "prod", {"to": 3}))
    stand.settle(conductor)
    assert len(stand.cloud.there) == 3
    assert len(stand.journal("intent.done")) == 2 and not stand.journal("scale.make")


def test_entries_nobody_understands_are_given_up_loudly_and_hold_up_nothing(stand):
    stand.cloud.add("prod1")
    stand.client.xadd(QUEUE, {"kind": "scale", "pool": "prod"})
    stand.client.xadd(QUEUE, {"nonsense": "1"})
    odd, _ = Queue(stand.client, "test").put(Intent("dance", "prod"))
    Queue(stand.client, "test").put(Intent("scale", "prod", {"to": 2}))
    stand.settle(stand.begin())
    assert stand.cloud.did == [("create", "prod2")]
    assert [(a.name, a.subject) for a in stand.alarms] == [("IntentFailed", odd)]
    assert stand.journal("intent.failed")[0]["subject"] == "prod"


@pytest.mark.parametrize(
    "intent",
    [
        Intent("Scale", "prod"),
        Intent("scale", "prod*"),
        Intent("scale", "prod", {"to": "x" * 5000}),
        Intent("scale", "prod", cause="two\nlines"),
        Intent("scale", "prod", key="\x00"),
    ],
)
def test_an_intent_that_is_not_valid_is_refused_and_nothing_is_queued(stand, intent):
    with pytest.raises(ValueError):
        Queue(stand.client, "test").put(intent)
    assert stand.client.keys() == []


def test_a_step_is_recorded_only_for_an_intent_at_work(stand):
    queue = Queue(stand.client, "test")
    id_, _ = queue.put(Intent("scale", "prod", {"to": 2}))
    with pytest.raises(IntentError, match="not at work"):
        queue.record(id_, "choose", {"add": []})
    queue.begin(id_)
    assert queue.record(id_, "choose", {"add": ["prod7"]}, "scale.choose", "prod") == {"add": ["prod7"]}
    assert queue.record(id_, "choose", {"add": ["prod8"]}, "scale.choose", "prod") == {"add": ["prod7"]}
    assert len(stand.journal("scale.choose")) == 1


# --- failing


def test_what_fails_is_tried_again_with_growing_pauses_and_then_works(stand):
    stand.cloud.add("prod1")
    stand.cloud.fails["create"] = 2
    Queue(stand.client, "test").put(Intent("scale", "prod", {"to": 2}))
    stand.settle(stand.begin())
    assert stand.cloud.did == [("create", "prod2")]
    pauses = [json.loads(line["fields"])["pause_s"] for line in stand.journal("intent.retry")]
    assert pauses == [0.01, 0.02]
    assert stand.alarms == []


def test_what_fails_too_often_is_given_up_loudly_and_said_to_be_over_when_it_works(stand):
    stand.cloud.add("prod1")
    stand.cloud.fails["create"] = 3
    queue = Queue(stand.client, "test")
    id_, _ = queue.put(Intent("scale", "prod", {"to": 2}))
    conductor = stand.begin()
    stand.settle(conductor)
    intent = queue.load(id_)
    assert intent is not None
    assert (intent.state, intent.error) == ("failed", "salt-cloud: create does not work today")
    assert [(a.name, a.subject, a.firing) for a in stand.alarms] == [("IntentFailed", "scale prod", True)]
    assert [tag for tag, _ in stand.fired] == ["saltern/scale/failed"]
    assert len(stand.journal("intent.failed")) == 1
    queue.put(Intent("scale", "prod", {"to": 2}))
    stand.settle(conductor)
    assert [(a.subject, a.firing) for a in stand.alarms] == [("scale prod", True), ("scale prod", False)]


def test_machines_that_never_serve_are_taken_away_when_it_is_given_up(stand):
    stand.cloud.add("prod1")
    stand.change({"conductor": {"serve_s": 0.05}})
    stand.cloud._register = lambda id_: None
    Queue(stand.client, "test").put(Intent("scale", "prod", {"to": 2}))
    stand.settle(stand.begin())
    assert stand.cloud.did == [("create", "prod2"), ("destroy", "prod2")]
    assert sorted(stand.cloud.there) == ["prod1"]


@pytest.mark.parametrize(
    ("intent", "did"),
    [
        (Intent("scale", "prod", {"to": 3}), [("create", "prod3")]),
        (Intent("heal", "prod", {"machine": "prod2"}), [("destroy", "prod2"), ("create", "prod2")]),
    ],
)
def test_a_machine_that_boots_without_its_minion_is_made_anew(stand, intent, did):
    stand.cloud.add("prod1", "prod2")
    stand.change({"conductor": {"serve_s": 0.05}, "healing": {"auto": False}})
    if intent.kind == "heal":
        stand.cloud.die("prod2")
    id_ = did[-1][1]
    register = stand.cloud._register

    def once(machine: str) -> None:
        # The first one by this name is dead from the start.
        if stand.cloud.did.count(("create", id_)) == 1:
            stand.cloud.dead.add(id_)
        else:
            register(machine)

    stand.cloud._register = once
    Queue(stand.client, "test").put(intent)
    stand.settle(stand.begin())
    assert stand.cloud.did == [*did, ("destroy", id_), ("create", id_)]
    assert id_ in stand.cloud.registry.snapshot().instances
    assert [a for a in stand.alarms if a.name == "IntentFailed"] == []


def test_a_machine_nobody_configured_is_told_to_apply_its_states(stand):
    stand.cloud.add("prod1")
    stand.change({"conductor": {"configure_s": 0.02}})
    register, stand.cloud._register = stand.cloud._register, lambda id_: None
    configure = stand.cloud.configure

    def late(ids):
        stand.cloud._register = register
        told.append(stand.cloud.favoured)
        configure(ids)

    told: list[set[str]] = []
    stand.cloud.configure = late
    Queue(stand.client, "test").put(Intent("scale", "prod", {"to": 2}))
    stand.settle(stand.begin())
    assert stand.cloud.did == [("create", "prod2"), ("configure", "prod2")]
    # While it is configured it goes before those whose load it is to take, and not after.
    assert (told, stand.cloud.favoured) == ([{"prod2"}], set())


def test_a_drain_that_does_not_end_is_given_up_and_the_machine_serves_again(stand):
    stand.cloud.add("prod1", "prod2")
    stand.change({"conductor": {"drain_s": 0, "attempts": 1}})
    Queue(stand.client, "test").put(Intent("scale", "prod", {"to": 1}))
    # HAProxy keeps saying that requests are open.
    stand.cloud.watching = False
    busy = {"servers": {"prod1": {"up": True, "phase": "ready"}, "prod2": {"up": True, "phase": "draining"}}}
    stand.client.set(provisioning.OBSERVED, json.dumps(busy))
    original = provisioning.Work.wait
    provisioning.Work.wait = lambda self, condition, seconds, what: original(self, condition, 0.05, what)
    try:
        stand.settle(stand.begin())
    finally:
        provisioning.Work.wait = original
    assert stand.cloud.did == []
    assert stand.cloud.registry.snapshot().instances["prod2"].want == "ready"


def test_the_last_live_machine_is_never_given_up(stand):
    stand.cloud.add("prod1", "prod2")
    stand.cloud.watching = False
    kept = {"servers": {"prod1": {"up": False, "phase": "down"}, "prod2": {"up": True, "phase": "kept"}},
            "kept": {"prod2": "it is the last live production server"}}  # fmt: skip
    stand.client.set(provisioning.OBSERVED, json.dumps(kept))
    stand.change({"healing": {"auto": False}})
    id_, _ = Queue(stand.client, "test").put(Intent("scale", "prod", {"to": 1}))
    stand.settle(stand.begin())
    intent = Queue(stand.client).load(id_)
    assert intent is not None and intent.state == "refused" and "last live" in intent.error
    assert stand.cloud.registry.snapshot().instances["prod2"].want == "ready"


def test_below_min_nothing_is_given_up_without_force(stand):
    stand.cloud.add("prod1", "prod2")
    stand.change({"pools": {"prod": {"min": 2}}})
    queue = Queue(stand.client, "test")
    queue.put(Intent("scale", "prod", {"to": 1}))
    conductor = stand.begin()
    stand.settle(conductor)
    assert stand.cloud.did == []
    queue.put(Intent("scale", "prod", {"to": 1, "force": True}))
    stand.settle(conductor)
    assert stand.cloud.did == [("destroy", "prod2")]


def test_a_machine_that_came_back_is_not_replaced(stand):
    stand.cloud.add("prod1", "prod2")
    id_, _ = Queue(stand.client, "test").put(Intent("heal", "prod", {"machine": "prod2"}))
    stand.settle(stand.begin())
    intent = Queue(stand.client).load(id_)
    assert intent is not None and (intent.state, stand.cloud.did) == ("refused", [])


# --- storms and what goes first


def slow_kinds(order: list[str], gate: threading.Event) -> dict[str, Kind]:
    """The real kinds' ranks, with steps that only say that they were reached; those that are not urgent wait."""

    def step(kind: str):
        def act(work):
            if not KINDS[kind].urgent:
                assert gate.wait(PATIENCE)
            order.append(f"{kind} {work.intent.pool}")
            return {"reached": True}

        return act

    return {
        kind: Kind(known.priority, (("reach", step(kind)),), known.urgent) for kind, known in KINDS.items()
    }


def test_what_is_urgent_goes_past_what_a_pool_is_at_work_on_and_past_everything_queued(stand):
    order: list[str] = []
    gate = threading.Event()
    queue = Queue(stand.client, "test")
    conductor = stand.begin(kinds=slow_kinds(order, gate))
    queue.put(Intent("scale", "prod", {"to": 9}))
    stand.work(conductor, lambda: conductor._working, "the pool to be at work")
    for n in range(50):
        queue.put(Intent("resize", "prod", {"machine": f"prod{n}", "to": 1}, key=f"resize:prod{n}"))
    queue.put(Intent("heal", "prod", {"machine": "prod1"}, key="heal:prod1"))
    queue.put(Intent("alert", "prod", {}, key="alert:1"))
    queue.put(Intent("canary.off", "canary", {"reason": "too slow"}))
    stand.work(conductor, lambda: len(order) == 2, "the urgent ones")
    assert sorted(order) == ["alert prod", "canary.off canary"]
    gate.set()
    stand.settle(conductor)
    assert order[2:4] == ["scale prod", "heal prod"]
    assert len(order) == 54


def test_one_at_a_time_per_pool_and_pools_beside_each_other(stand):
    active: Counter[str] = Counter()
    most: Counter[str] = Counter()
    together = threading.Event()
    lock = threading.Lock()

    def act(work):
        pool = work.intent.pool
        with lock:
            active[pool] += 1
            most[pool] = max(most[pool], active[pool])
            if active["prod"] and active["canary"]:
                together.set()
        assert together.wait(PATIENCE)
        with lock:
            active[pool] -= 1
        return {"done": True}

    queue = Queue(stand.client, "test")
    for n in range(20):
        for pool in ("prod", "canary"):
            queue.put(Intent("resize", pool, {"machine": f"{pool}{n}"}, key=f"{pool}{n}"))
    stand.settle(stand.begin(kinds={**KINDS, "resize": Kind(4, (("act", act),))}))
    assert most == {"prod": 1, "canary": 1}


def test_a_storm_of_a_thousand_wishes_is_one_intent_and_none_is_lost(stand):
    stand.cloud.add("prod1")
    queue = Queue(stand.client, "test")
    for n in range(1000):
        queue.put(Intent("scale", "prod", {"to": 2 + (n == 999)}))
    assert stand.client.xlen(QUEUE) == 1
    stand.settle(stand.begin())
    assert sorted(stand.cloud.there) == ["prod1", "prod2", "prod3"]
    (line,) = stand.journal("intent.begun")
    assert json.loads(line["fields"])["merged"] == 999


def test_a_storm_of_a_thousand_edges_is_what_each_machine_said_last_and_scales_once(stand):
    stand.change({"pools": {"prod": {"max": 200, "out": {"steps": []}}}})
    machines = [f"prod{n}" for n in range(1, 101)]
    stand.cloud.add(*machines)
    queue = Queue(stand.client, "test")
    done: list[str] = []

    def hook(at: str) -> None:
        done.append(at)

    conductor = stand.begin(hook)
    edges = [stand.edge(m, metric, level, percent)
             for level, percent in (("high", 99), ("ok", 10), ("high", 88), ("ok", 5), ("high", 90))
             for metric in ("cpu", "memory") for m in machines]  # fmt: skip
    assert len(edges) == 1000
    stand.change({"memory": {"auto": False}})
    for n, (tag, data) in enumerate(edges):
        assert conductor.hear(tag, data)
        if n == 500:
            queue.put(Intent("canary.off", "canary", {"reason": "storm"}))
    stand.settle(conductor)
    stand.work(conductor, lambda: len(stand.cloud.there) > 100, "the pool to grow")
    stand.settle(conductor)
    felt = conductor.felt()
    assert {key: f.percent for key, f in felt.items() if f.high} == {
        f"{m}/{metric}": 90 for m in machines for metric in ("cpu", "memory")
    }
    assert len(stand.journal("scale.choose")) == 1
    # 100 machines at 90 % of one, with 45 aimed at.
    assert len(stand.cloud.there) == 200
    assert done.index("canary.off.off:acted") < done.index("scale.choose:before")
    assert stand.cloud.registry.snapshot().latches["canary"].reason == "storm"


# --- what is heard


def test_an_edge_is_believed_only_as_it_was_signed_and_only_forward(stand):
    stand.cloud.add("prod1", "prod2")
    conductor = stand.begin()
    stand.change({"pools": {"prod": {"auto": False}}})
    tag, data = stand.edge("prod1", "cpu", "high", 80, counter=10)
    later = stand.edge("prod1", "cpu", "ok", 20, counter=11)
    assert conductor.hear(*later)
    conductor.step()
    refused = [
        (tag.replace("prod1", "prod2"), data),
        (tag.replace("prod1", "prod2"), {**data, "id": "prod2"}),
        (tag.replace("high", "ok"), data),
        (tag, {**data, "id": "staging1"}),
        (tag, {**data, "counter": 12}),
        (tag, {**data, "values": {"percent": 99}}),
        (tag, {**data, "signature": ""}),
        (tag, {"id": "prod1"}),
        stand.edge("prod1", "cpu", "high", float("1e9")),
        stand.edge("prod1", "cpu", "high", "80"),  # type: ignore[arg-type]
    ]
    assert [conductor.hear(*each) for each in refused] == [False] * len(refused)
    assert conductor.hear(tag, data)  # well signed, and older than what is known
    conductor.step()
    assert conductor.felt()["prod1/cpu"].percent == 20
    assert len(conductor.felt()) == 1
    assert {line["subject"] for line in stand.journal("event.rejected")} == {"prod1", "prod2"}


@pytest.mark.parametrize("tag", ["salt/beacon/prod1/cpu/blind", "salt/beacon/*/cpu/high", "salt/beacon/prod1/disk/high",
                                 "salt/job/1/new", "salt/beacon/prod1/cpu/high\n", ""])  # fmt: skip
def test_other_events_are_none_of_its_business(stand, tag):
    assert stand.begin().hear(tag, {"id": "prod1"}) is False


def test_high_load_scales_out_and_low_load_scales_in_after_its_window(stand):
    stand.cloud.add("proxy1", "prod1", "prod2")
    conductor = stand.begin()
    for machine in ("prod1", "prod2"):
        conductor.hear(*stand.edge(machine, "cpu", "high", 90))
    conductor.hear(*stand.edge("proxy1", "cpu", "ok", 20))
    stand.work(conductor, lambda: len(stand.cloud.there) == 5, "four machines behind the proxy")
    stand.settle(conductor)
    (queued,) = stand.journal("intent.queued")
    assert queued["cause"].split(" ")[0] in ("salt/beacon/prod1/cpu/high", "salt/beacon/prod2/cpu/high")
    for machine in ("prod1", "prod2", "prod3", "prod4"):
        conductor.hear(*stand.edge(machine, "cpu", "ok", 15))
    stand.ahead = 250
    for _ in range(5):
        conductor.step(5)
        time.sleep(0.02)
    assert len(stand.cloud.there) == 5
    stand.ahead = 400
    stand.work(conductor, lambda: stand.journal("intent.queued")[1:], "a wish to scale in")
    stand.ahead = 700
    stand.work(conductor, lambda: len(stand.cloud.there) == 3, "two machines")
    assert sorted(stand.cloud.there) == ["prod1", "prod2", "proxy1"]
    assert all(tag != "saltern/scale/failed" for tag, _ in stand.fired)


def test_a_busy_proxy_scales_production_out(stand):
    stand.cloud.add("proxy1", "prod1", "prod2")
    conductor = stand.begin()
    conductor.hear(*stand.edge("proxy1", "cpu", "high", 60))
    stand.work(conductor, lambda: "prod3" in stand.cloud.there, "a third machine")


def test_a_machine_that_felt_high_and_fell_silent_does_not_count(stand):
    stand.cloud.add("prod1", "prod2")
    conductor = stand.begin()
    conductor.hear(*stand.edge("prod1", "cpu", "high", 90))
    conductor.step()
    stand.ahead = 91
    found = conductor_module.metrics_of(
        conductor.settings().pools["prod"], conductor.felt(), stand.now(), conductor.settings().stale_s
    )
    assert found[0].samples == {}


def test_a_failed_provision_holds_back_the_next_one(stand):
    stand.cloud.add("prod1", "prod2")
    stand.cloud.fails["create"] = 3
    conductor = stand.begin()
    for machine in ("prod1", "prod2"):
        conductor.hear(*stand.edge(machine, "cpu", "high", 90))
    stand.work(conductor, lambda: stand.journal("intent.failed"), "the provision to be given up")
    for machine in ("prod1", "prod2"):
        conductor.hear(*stand.edge(machine, "cpu", "high", 90))
    stand.ahead = 30
    for _ in range(10):
        conductor.step(5)
        time.sleep(0.01)
    assert len(stand.journal("intent.queued")) == 1
    stand.ahead = 65
    stand.work(conductor, lambda: len(stand.cloud.there) == 4, "the pause to end")


def test_high_memory_doubles_up_to_the_maximum_then_tells_once_and_low_for_long_gives_it_back(stand):
    stand.cloud.add("prod1")
    stand.change({"memory": {"max_mib": 1024}, "pools": {"prod": {"auto": False}}})
    conductor = stand.begin()
    for seconds, memory in ((0, 768), (61, 1024)):
        stand.ahead = seconds
        conductor.hear(*stand.edge("prod1", "memory", "high", 90))
        stand.work(conductor, lambda m=memory: stand.cloud.there["prod1"].memory == m, f"{memory} MiB")
        stand.settle(conductor)
    for seconds in (200, 230, 260):
        stand.ahead = seconds
        conductor.hear(*stand.edge("prod1", "memory", "high", 95))
        for _ in range(4):
            conductor.step(5)
            time.sleep(0.02)
    stand.settle(conductor)
    assert [a.subject for a in stand.alarms if a.name == "MemoryAtMaximum"] == ["prod1"]
    conductor.hear(*stand.edge("prod1", "memory", "ok", 10))
    conductor.step()
    stand.ahead = 260 + 1900
    stand.work(conductor, lambda: stand.cloud.there["prod1"].memory == 512, "half of it back")
    stand.settle(conductor)
    stand.ahead += 1900
    stand.work(conductor, lambda: stand.cloud.there["prod1"].memory == 384, "what it was made with")
    stand.settle(conductor)
    assert [(a.firing, a.undo) for a in stand.alarms if a.name == "MemoryResized"] == [
        *[(True, "salt-cloud -a resize prod1 memory=384")] * 3, (False, "salt-cloud -a resize prod1 memory=384"),
    ]  # fmt: skip


# --- healing


def test_a_dead_machine_is_replaced_once_and_a_person_is_told(stand, monkeypatch):
    monkeypatch.setattr(conductor_module, "PROBE_SECONDS", 0.0)
    stand.cloud.add("prod1", "prod2", "prod3")
    conductor = stand.begin()
    stand.cloud.die("prod2")
    stand.work(conductor, lambda: stand.client.get("saltern:healing"), "it to be noticed")
    stand.ahead = 5
    for _ in range(5):
        conductor.step(5)
        time.sleep(0.02)
    assert stand.cloud.did == []
    stand.ahead = 30
    stand.work(conductor, lambda: ("create", "prod2") in stand.cloud.did, "it to be replaced")
    stand.work(conductor, lambda: len(stand.alarms) == 2, "it to be seen to serve")
    stand.settle(conductor)
    assert stand.cloud.did == [("destroy", "prod2"), ("create", "prod2")]
    assert [(a.name, a.subject, a.firing) for a in stand.alarms] == [
        ("MachineLost", "prod2", True), ("MachineLost", "prod2", False),
    ]  # fmt: skip
    (lost,) = stand.journal("machine.lost")
    assert lost["subject"] == "prod2"
    # Gone again: not a second time by itself.
    stand.cloud.die("prod2")
    stand.ahead = 100
    stand.work(
        conductor, lambda: "prod2" in json.loads(stand.client.get("saltern:healing"))["gone"], "noticed again"
    )
    stand.ahead = 125
    stand.work(conductor, lambda: len(stand.alarms) == 3, "an alarm")
    stand.settle(conductor)
    assert stand.cloud.did == [("destroy", "prod2"), ("create", "prod2")]
    assert "not replaced a second time" in stand.alarms[2].summary


def lose(stand, conductor, machine: str) -> None:
    """Have a machine be gone until the conductor has decided what to do about it."""
    stand.cloud.die(machine)
    stand.work(conductor, lambda: stand.client.get("saltern:healing"), "it to be noticed")
    # Its grace time passes, and less than what an answer of its minion is believed for.
    stand.ahead += 25
    stand.work(conductor, lambda: stand.alarms, "an alarm")


def test_a_machine_that_cannot_be_replaced_is_told_of_with_what_is_left_to_do_until_it_is_back(
    stand, monkeypatch
):
    monkeypatch.setattr(conductor_module, "PROBE_SECONDS", 0.0)
    stand.cloud.add("prod1", "prod2", "prod3")
    stand.change({"pools": {"prod": {"auto": False}}})
    stand.cloud.fails["create"] = 99
    conductor = stand.begin()
    lose(stand, conductor, "prod2")
    stand.work(conductor, lambda: stand.journal("intent.failed"), "it to be given up")
    stand.settle(conductor)
    lost = [a for a in stand.alarms if a.name == "MachineLost"]
    assert [(a.firing, a.severity, a.undo) for a in lost[1:]] == [
        (True, "critical", "salt-cloud -p prod prod2")
    ]
    assert lost[1].summary.startswith(
        "prod2 is gone and could not be replaced: salt-cloud: create does not work"
    )
    assert [a.subject for a in stand.alarms if a.name == "IntentFailed"] == ["heal prod2"]
    stand.cloud.fails.clear()
    stand.cloud.create("prod", ["prod2"])
    stand.work(conductor, lambda: not stand.alarms[-1].firing, "it to be seen to serve")
    assert (stand.alarms[-1].name, stand.alarms[-1].subject) == ("MachineLost", "prod2")


def test_a_machine_that_came_back_before_it_was_replaced_is_told_to_be_back(stand, monkeypatch):
    monkeypatch.setattr(conductor_module, "PROBE_SECONDS", 0.0)
    stand.cloud.add("prod1", "prod2", "prod3")

    def hook(at: str) -> None:
        if at == "heal.verify:before":
            stand.cloud.dead.clear()
            stand.cloud.observe()

    conductor = stand.begin(hook)
    lose(stand, conductor, "prod2")
    stand.work(conductor, lambda: len(stand.alarms) == 2, "it to be seen to serve")
    assert [(a.name, a.firing) for a in stand.alarms] == [("MachineLost", True), ("MachineLost", False)]
    assert stand.cloud.did == []


@pytest.mark.parametrize("who", ["the minion answers", "HAProxy reaches it", "HAProxy says nothing"])
def test_one_witness_is_not_enough(stand, monkeypatch, who):
    monkeypatch.setattr(conductor_module, "PROBE_SECONDS", 0.0)
    stand.cloud.add("prod1", "prod2", "prod3")
    conductor = stand.begin()
    if who == "the minion answers":
        stand.cloud.die("prod2")
        stand.cloud.present = lambda ids: set(ids)
    elif who == "HAProxy reaches it":
        stand.cloud.silent.add("prod2")
    else:
        stand.cloud.silent.add("prod2")
        stand.cloud.watching = False
        stand.client.delete(provisioning.OBSERVED)
    for seconds in (0, 30, 60):
        stand.ahead = seconds
        for _ in range(4):
            conductor.step(5)
            time.sleep(0.02)
    assert stand.cloud.did == [] and stand.client.xlen(QUEUE) == 0


def missed(stand: Stand, *machines: str) -> None:
    """Salt's presence changed, as `scale.lost` has it queued."""
    stand.client.sadd(provisioning.MISSED, *machines)
    Queue(stand.client, "test").put(Intent("absent", "fleet"))


def absences(stand: Stand) -> list[tuple[str, bool]]:
    return [(alarm.subject, alarm.firing) for alarm in stand.alarms if alarm.name == "MinionAbsent"]


def test_presence_that_changed_is_asked_and_told_and_over_when_it_is_back(stand):
    stand.cloud.add("prod1", "prod2")
    stand.cloud.silent.add("prod2")
    conductor = stand.begin()
    for machines in (["prod1", "prod2", "prod99"], ["prod2"]):
        missed(stand, *machines)
        stand.settle(conductor)
        stand.cloud.silent.clear()
    assert absences(stand) == [("prod2", True), ("prod2", False)]


def test_two_changes_of_presence_that_become_one_wish_are_both_looked_at(stand):
    stand.cloud.add("prod1", "prod2")
    stand.cloud.silent.update(["prod1", "prod2"])
    missed(stand, "prod1")
    missed(stand, "prod2")
    stand.settle(stand.begin())
    assert absences(stand) == [("prod1", True), ("prod2", True)]


@pytest.mark.parametrize("healing", [True, False])
def test_a_minion_that_answered_late_is_asked_again_until_it_answers(stand, healing):
    stand.change({"healing": {"auto": healing}})
    stand.cloud.add("prod1", "prod2")
    stand.cloud.silent.add("prod2")
    conductor = stand.begin()
    missed(stand, "prod2")
    stand.settle(conductor)
    assert absences(stand) == [("prod2", True)]
    stand.ahead = 20
    stand.work(conductor, lambda: "prod2" in conductor._presence, "it to be asked again")
    stand.settle(conductor)
    assert absences(stand) == [("prod2", True)], "it is told once"
    stand.cloud.silent.clear()
    stand.ahead = 40
    stand.work(conductor, lambda: len(absences(stand)) == 2, "it to be told that it is over")
    stand.settle(conductor)
    assert absences(stand) == [("prod2", True), ("prod2", False)]


def test_the_absence_of_a_machine_that_is_ended_is_over(stand):
    stand.cloud.add("prod1", "prod2")
    stand.cloud.silent.add("prod2")
    stand.change({"pools": {"prod": {"auto": False}}})
    conductor = stand.begin()
    missed(stand, "prod2")
    stand.settle(conductor)
    del stand.cloud.there["prod2"]
    stand.work(conductor, lambda: len(absences(stand)) == 2, "it to be told that it is over")
    assert absences(stand) == [("prod2", True), ("prod2", False)]


def test_limits_are_plain_numbers():
    assert Limits(1, 2, 3) == Limits(serve_s=1, configure_s=2, drain_s=3)


def test_a_conductor_that_is_stopped_leaves_its_work_for_the_next(stand):
    stand.cloud.add("prod1")
    register, stand.cloud._register = stand.cloud._register, lambda id_: None
    id_, _ = Queue(stand.client, "test").put(Intent("scale", "prod", {"to": 2}))
    first = stand.begin()
    stand.work(first, lambda: ("create", "prod2") in stand.cloud.did, "the machine to be made")
    first.stop()
    stand.join()
    intent = Queue(stand.client).load(id_)
    assert intent is not None and intent.state == "running" and set(intent.steps) == {"choose", "make"}
    register("prod2")
    stand.cloud.observe()
    stand.settle(stand.begin())
    assert stand.cloud.did == [("create", "prod2")]


def test_redis_away_loses_no_edge(own_server: Server, monkeypatch):
    monkeypatch.setattr(conductor_module, "OUTAGE_SECONDS", 0.02)
    stand = Stand(own_server.client())
    conductor = stand.begin()
    conductor.step()
    own_server.kill()
    conductor.hear(*stand.edge("prod1", "cpu", "high", 90))
    conductor.step()
    with pytest.raises(redis.RedisError):
        stand.client.ping()
    own_server.start()
    stand.cloud.add("prod1")
    until(lambda: conductor.step(5) or conductor.felt().get("prod1/cpu"), "the edge to be written down")
    stand.close()
