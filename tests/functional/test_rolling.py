"""Rolls on a real Redis: a good release, every bad one, every crash, a person who stops it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from conductor_stand import Crash, Server
from host import until
from rolling_stand import Rolls
from saltern import conductor as conductor_module
from saltern import provisioning, rolling, rollouts
from saltern.alert_store import Alert, AlertStore
from saltern.intents import Intent, Queue


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    server.start()
    yield server
    server.close()


class Clock:
    """Time as a roll sees it: it passes while the roll waits, and the proxy looks at the world meanwhile.

    So no roll fails because this host is slow, and what never comes is soon waited for long enough.
    """

    def __init__(self) -> None:
        self.at = 0.0
        self.stand: Rolls | None = None

    def monotonic(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += seconds
        if self.stand is not None:
            self.stand.cloud.observe()


@pytest.fixture
def rolls(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Rolls]]:
    monkeypatch.setattr(provisioning, "POLL_SECONDS", 0.005)
    monkeypatch.setattr(conductor_module, "OUTAGE_SECONDS", 0.02)
    monkeypatch.setattr(conductor_module, "LEAST_TICK_SECONDS", 0.0)
    monkeypatch.setattr(conductor_module, "TICK_SECONDS", 0.02)
    monkeypatch.setattr(conductor_module, "RESYNC_SECONDS", 0.02)
    monkeypatch.setattr(rolling, "POLL_S", 0.002)
    monkeypatch.setattr(rolling, "LOOK_S", 0.005)

    clock = Clock()
    monkeypatch.setattr(rolling, "time", clock)
    made: list[Rolls] = []

    def make(*machines: str) -> Rolls:
        client = server.client()
        client.flushall()
        made.append(Rolls(client, *machines))
        clock.stand = made[-1]
        return made[-1]

    yield make
    for stand in made:
        stand.close()


def steps_of(stand: Rolls, id_: str) -> list[str]:
    """The journal's lines of a roll, as kind and subject."""
    intent = stand.intent(id_)
    return [
        f"{line['kind']} {line['subject']}" for line in stand.journal() if line["cause"] == intent.journal
    ]


# --- one that is good


def test_a_good_release_goes_machine_by_machine(rolls):
    stand = rolls()
    id_ = stand.ask_for("r2")
    stand.settle(stand.start())
    stand.expect("r2")
    assert stand.intent(id_).state == "done"
    assert stand.hands.table == {"prod": "r2", "canary": "r1"}
    assert stand.hands.disks == {f"prod{n}": {"r2"} for n in (1, 2, 3)}
    assert stand.tags() == ["started", "done"]
    assert stand.alarmed() == [("DeployFailed", False), ("DeployDone", True)]
    for _, told in stand.fired:
        assert told["cause"] == stand.intent(id_).journal
    lines = steps_of(stand, id_)
    assert [line for line in lines if line.endswith(" prod1") and line.startswith("roll.")] == [
        f"roll.{what} prod1" for what in rollouts.FORWARD
    ]
    assert lines[-2:] == ["roll.done r2", "intent.done prod"]


def test_several_at_once_and_never_more_out_than_may_be(rolls):
    stand = rolls(*(f"prod{n}" for n in range(1, 6)))
    stand.ask_for("r2", batch=3, max_unavailable="40%")
    stand.settle(stand.start())
    stand.expect("r2", most_out=2)
    assert [ids for ids, _ in stand.hands.applied] == [("prod1", "prod2"), ("prod3", "prod4"), ("prod5",)]
    # Nobody goes before the others for longer than it is at work.
    assert stand.hands.favoured == []


def test_a_machine_of_which_more_would_change_gets_its_whole_highstate_and_others_are_switched(rolls):
    stand = rolls()
    stand.hands.differs["prod2"] = ["time zone", "journal"]
    # What it lacks may be what its states are about to bring.
    stand.hands.faults["prod2", "stage"] = "no Python"
    id_ = stand.ask_for("r2")
    stand.settle(stand.start())
    stand.expect("r2")
    assert stand.hands.applied == [(("prod1",), "switch"), (("prod2",), ""), (("prod3",), "switch")]
    takes = [stand.intent(id_).steps[f"prod/take#{number}"] for number in (1, 2, 3)]
    assert [(each["staged"], each["whole"]) for each in takes] == [
        (["prod1"], {}), ([], {"prod2": ["time zone", "journal"]}), (["prod3"], {}),
    ]  # fmt: skip


def test_machines_of_one_group_are_each_changed_as_they_need(rolls):
    stand = rolls("prod1", "prod2", "prod3", "prod4")
    stand.hands.differs["prod2"] = ["time zone"]
    stand.ask_for("r2", batch=2, max_unavailable=2)
    stand.settle(stand.start())
    stand.expect("r2", most_out=2)
    assert stand.hands.applied == [(("prod1",), "switch"), (("prod2",), ""), (("prod3", "prod4"), "switch")]


def test_without_highstates_nobody_looks_and_all_are_switched(rolls):
    stand = rolls()
    stand.hands.differs["prod2"] = ["time zone"]
    stand.hands.crashes["look"] = "before"
    stand.ask_for("r2", highstate=False)
    stand.settle(stand.start())
    stand.expect("r2")
    assert {states for _, states in stand.hands.applied} == {"switch"}


@pytest.mark.parametrize("deaf", ["prod1", "prod2", "prod3"])
def test_a_machine_that_hangs_over_its_states_stops_the_roll_before_it_is_taken(rolls, deaf):
    stand = rolls()
    stand.hands.deaf = {deaf}
    id_ = stand.ask_for("r2")
    stand.settle(stand.start())
    stand.expect("r1", most_out=1 if deaf != "prod1" else 0)
    assert stand.intent(id_).error == f"r2: {deaf}: its states were not looked at within 5 s"
    assert deaf not in {one for ids, _ in stand.hands.applied for one in ids}


def test_a_machine_that_is_known_to_hang_keeps_those_before_it_from_being_taken(rolls):
    stand = rolls()
    stand.hands.deaf = {"prod3"}
    # While the first one is changed, all others are looked at.
    stand.hands.when_applied = lambda id_: until(lambda: "prod3" in stand.hands.looked, "prod3 looked at")
    id_ = stand.ask_for("r2")
    stand.settle(stand.start())
    stand.expect("r1", most_out=1)
    assert stand.intent(id_).error == "r2: prod3: its states were not looked at within 5 s"
    assert "prod2" not in {one for ids, _ in stand.hands.applied for one in ids}


def test_the_canary_gets_a_release_alone(rolls):
    stand = rolls("prod1", "staging1")
    id_ = stand.ask_for("r2", "canary")
    stand.settle(stand.start())
    assert stand.hands.runs == {"prod1": "r1", "staging1": "r2"}
    assert stand.hands.table == {"prod": "r1", "canary": "r2"}
    assert stand.intent(id_).kind == "deploy" and "deploy.done r2" in steps_of(stand, id_)


def test_a_release_that_runs_everywhere_changes_nothing_and_one_that_runs_somewhere_the_rest(rolls):
    stand = rolls()
    stand.ask_for("r1")
    stand.settle(stand.start())
    assert stand.hands.applied == []
    stand.hands.assign({"prod2": "r2"})
    stand.hands.apply(["prod2"], "", 1, lambda: None)
    stand.hands.applied.clear()
    stand.ask_for("r2")
    stand.settle(stand.start())
    stand.expect("r2")
    assert [ids for ids, _ in stand.hands.applied] == [("prod1",), ("prod3",)]
    assert stand.hands.table == {"prod": "r2", "canary": "r1"}


def test_a_machine_made_in_the_middle_gets_the_old_release_and_is_then_rolled(rolls):
    stand = rolls()

    def make(id_: str) -> None:
        if id_ == "prod2":
            stand.hands.when_applied = lambda id_: None
            stand.add("prod9")
            assert stand.hands.of("prod9") == "r1"

    stand.hands.when_applied = make
    stand.ask_for("r2")
    stand.settle(stand.start())
    stand.expect("r2")
    assert stand.hands.applied[-1][0] == ("prod9",)


def test_a_machine_that_a_person_took_out_is_left_alone_but_counts(rolls):
    stand = rolls()
    stand.cloud.registry.want("prod2", "maint", by="jo")
    stand.ask_for("r2")
    stand.settle(stand.start())
    assert stand.hands.runs == dict.fromkeys(("prod1", "prod2", "prod3"), "r1")
    stand.ask_for("r2", max_unavailable=2)
    stand.settle(stand.start())
    assert stand.hands.runs == {"prod1": "r2", "prod2": "r1", "prod3": "r2"}
    assert stand.cloud.registry.snapshot().instances["prod2"].want == "maint"
    # Its next highstate brings it there.
    assert stand.hands.of("prod2") == "r2"


# --- those that are bad


def test_a_release_that_is_not_well_on_the_third_machine_leaves_all_on_the_old_one(rolls):
    stand = rolls(*(f"prod{n}" for n in range(1, 6)))
    stand.hands.sick.add(("prod3", "r2"))
    id_ = stand.ask_for("r2")
    stand.settle(stand.start())
    stand.expect("r1")
    assert stand.hands.table == {"prod": "r1", "canary": "r1"}
    assert stand.intent(id_).state == "failed"
    assert "prod3: http://" in stand.intent(id_).error
    assert [ids[0] for ids, _ in stand.hands.applied] == [
        "prod1",
        "prod2",
        "prod3",
        "prod3",
        "prod2",
        "prod1",
    ]
    assert stand.tags() == ["started", "failed", "rolledback"]
    assert stand.alarmed() == [("DeployFailed", True), ("DeployRolledBack", True)]
    assert stand.client.smembers("saltern:conductor:failed") == set()


FAULTS = {
    "it cannot be unpacked": lambda s: s.hands.faults.update({("prod2", "stage"): "hash mismatch"}),
    "its states fail": lambda s: s.hands.faults.update({("prod2", "r2"): "product: it does not start"}),
    "requests never end": lambda s: s.cloud.stuck.add("prod2"),
    "it answers with something else": lambda s: s.hands.sick.add(("", "r2")),
    "it dies once it serves": lambda s: setattr(
        s.hands, "when_applied", lambda id_: s.cloud.die("prod1") if id_ == "prod2" and s.hands.of(id_) == "r2" else
        s.cloud.dead.discard(id_),
    ),
    "it dies behind the proxy's back": lambda s: setattr(
        s.hands, "when_applied", lambda id_: s.hands.born.update(prod1=1) if id_ == "prod2" else None
    ),
    "clients see errors": lambda s: setattr(
        s.hands, "when_applied", lambda id_: s.cloud.errors(100, 50) if id_ == "prod2" else None
    ),
    "one that is done complains": lambda s: setattr(s.hands, "when_applied", lambda id_: AlertStore(s.client).fire(
        Alert("MachineLost", "prod1", "x", "critical", "prod1 is gone")) if id_ == "prod2" else None,
    ),
    "an alert fires": lambda s: setattr(s.hands, "when_applied", lambda id_: AlertStore(s.client).fire(
        Alert("MachineLost", "prod9", "x", "critical", "prod9 is gone"))),
    "the deadline passes": lambda s: s.numbers.update(deadline_s=0.0),
}  # fmt: skip


@pytest.mark.parametrize("fault", list(FAULTS))
def test_whatever_is_wrong_all_are_on_the_old_release_and_serve(rolls, fault):
    stand = rolls()
    FAULTS[fault](stand)
    if fault == "requests never end":
        # The controller is given a while to cut what is left; here nobody does.
        stand.numbers["drain_s"] = 0.2 - rolling.CUT_S
    id_ = stand.ask_for("r2")
    stand.settle(stand.start())
    stand.cloud.dead.clear()
    stand.cloud.stuck.clear()
    stand.cloud.observe()
    stand.expect("r1", most_out=2 if fault == "it dies once it serves" else 1)
    intent = stand.intent(id_)
    assert intent.state == "failed" and intent.error.startswith("r2: ")
    if fault == "one that is done complains":
        assert intent.error == "r2: MachineLost of prod1 since it is done"
    assert stand.hands.table == {"prod": "r1", "canary": "r1"}


@pytest.mark.parametrize("late", ["prod1", "prod2"])
@pytest.mark.parametrize("looks", [1, 3, 40])
def test_a_machine_that_is_late_for_a_moment_is_waited_for_and_ends_no_roll(rolls, late, looks):
    stand = rolls()
    stand.hands.when_applied = lambda id_: stand.cloud.late.update({late: looks}) if id_ == "prod2" else None
    id_ = stand.ask_for("r2", min_healthy_s=0.1)
    stand.settle(stand.start())
    assert stand.intent(id_).error == ""
    stand.expect("r2", most_out=2)


def test_a_machine_that_never_stays_well_for_long_enough_is_given_up(rolls):
    stand = rolls()
    observe = stand.cloud.observe

    def now_and_then() -> None:
        if stand.hands.runs["prod2"] == "r2" and not stand.cloud.late.get("prod2"):
            late = stand.cloud.registry.snapshot().instances["prod2"].want == "ready" and well.pop()
            stand.cloud.late["prod2"] = 1 if late else 0
        observe()

    well = [True, False] * 5_000
    stand.cloud.observe = now_and_then
    id_ = stand.ask_for("r2", min_healthy_s=0.1)
    stand.settle(stand.start())
    assert stand.intent(id_).error.startswith("r2: it does not stay well: ")
    stand.cloud.observe = observe
    stand.expect("r1")


def test_by_another_policy_what_is_done_stays_and_the_fleet_says_so(rolls):
    stand = rolls()
    stand.hands.sick.add(("prod2", "r2"))
    stand.ask_for("r2", on_failure="stop")
    stand.settle(stand.start())
    stand.expect("r1", prod1="r2")
    assert stand.tags() == ["started", "failed"]
    stand.hands.sick.clear()
    stand.ask_for("r2")
    stand.settle(stand.start())
    stand.expect("r2")
    assert stand.hands.table == {"prod": "r2", "canary": "r1"}
    assert stand.alarmed()[-2:] == [("DeployFailed", False), ("DeployDone", True)]


def test_a_machine_that_does_not_come_back_is_named_and_holds_up_nobody(rolls):
    stand = rolls()
    stand.hands.sick.add(("prod2", "r2"))
    stand.hands.when_applied = lambda id_: stand.cloud.die("prod2") if id_ == "prod2" else None
    id_ = stand.ask_for("r2")
    stand.settle(stand.start())
    assert stand.hands.runs["prod1"] == stand.hands.runs["prod3"] == "r1"
    assert {id_: i.want for id_, i in stand.cloud.registry.snapshot().instances.items()} == dict.fromkeys(
        ("prod1", "prod2", "prod3"), "ready"
    )
    (last,) = [a for a in stand.alarms if "did not go back" in a.summary]
    assert last.severity == "critical" and "prod2 (" in last.summary
    assert stand.intent(id_).state == "failed"


def test_a_machine_that_is_gone_in_the_middle_holds_up_nothing(rolls):
    stand = rolls()

    def vanish(id_: str) -> None:
        if id_ == "prod1":
            # Forgotten first: the proxy is not to see it down meanwhile.
            stand.cloud.registry.unregister("prod2", by="jo")
            stand.cloud.there.pop("prod2", None)
            stand.hands.runs.pop("prod2", None)

    stand.hands.when_applied = vanish
    stand.ask_for("r2")
    stand.settle(stand.start())
    stand.expect("r2")
    assert stand.hands.runs == {"prod1": "r2", "prod3": "r2"}


def test_nothing_new_is_rolled_in_a_freeze_unless_a_person_says_so(rolls):
    stand = rolls()
    stand.numbers["freeze"] = [{"days": list(rollouts.DAYS), "reason": "the fair"}]
    id_ = stand.ask_for("r2")
    stand.settle(stand.start())
    assert (stand.intent(id_).state, stand.tags()) == ("refused", [])
    assert "nothing new is rolled now: the fair" in stand.intent(id_).error
    stand.ask_for("r2", force=True)
    stand.settle(stand.start())
    stand.expect("r2")
    stand.ask_for("r1", rollback=True)
    stand.settle(stand.start())
    stand.expect("r1")


@pytest.mark.parametrize(("policy", "others"), [("back", {}), ("stop", {"prod1": "r2"})])
def test_a_freeze_that_begins_in_the_middle_stops_it_before_the_next_machine(rolls, policy, others):
    stand = rolls()
    stand.hands.when_applied = lambda _: stand.numbers.update(
        freeze=[{"days": list(rollouts.DAYS), "reason": "the fair"}]
    )
    id_ = stand.ask_for("r2", on_failure=policy)
    stand.settle(stand.start())
    stand.expect("r1", **others)
    assert stand.intent(id_).error == "r2: nothing more is rolled now: the fair"


def test_a_release_that_nobody_has_any_more_is_refused(rolls):
    stand = rolls()
    id_ = stand.ask_for("r77")
    stand.settle(stand.start())
    assert stand.intent(id_).state == "refused" and "'r77' is not kept" in stand.intent(id_).error


# --- going back and stopping


def test_going_back_switches_the_product_alone_two_at_a_time_with_errors_and_alerts_about(rolls):
    stand = rolls(*(f"prod{n}" for n in range(1, 6)))
    stand.ask_for("r2")
    stand.settle(stand.start())
    stand.hands.applied.clear()
    stand.cloud.errors(100, 90)
    AlertStore(stand.client).fire(Alert("MachineLost", "prod9", "x", "critical", "prod9 is gone"))
    stand.ask_for("r1", rollback=True)
    stand.settle(stand.start())
    stand.expect("r1", most_out=2)
    assert {states for _, states in stand.hands.applied} == {"switch"}
    assert max(len(ids) for ids, _ in stand.hands.applied) == 2
    assert stand.tags()[-2:] == ["started", "rolledback"]


def test_a_person_stops_it_in_the_middle_and_all_goes_back(rolls):
    stand = rolls()
    told = []

    def stop(id_: str) -> None:
        if id_ == "prod2" and not told:
            told.extend(rollouts.abort(stand.client, [stand.intent(roll)], "wrong prices", by="jo"))

    stand.hands.when_applied = stop
    roll = stand.ask_for("r2")
    stand.settle(stand.start())
    stand.expect("r1")
    assert told == [roll]
    assert stand.intent(roll).error == "r2: jo aborted it: wrong prices"
    (line,) = stand.journal("roll.abort")
    assert (line["subject"], line["who"]) == ("r2", "jo")


def test_a_machine_that_is_at_it_when_it_is_stopped_goes_back_too(rolls):
    stand = rolls()
    stand.hands.slow = True

    def stop(_: str) -> None:
        if stand.hands.under_way:
            rollouts.abort(stand.client, [stand.intent(roll)], "", by="jo")

    stand.hands.when_applied = stop
    roll = stand.ask_for("r2")
    stand.settle(stand.start())
    stand.hands.finish()
    stand.expect("r1")
    assert stand.intent(roll).error == "r2: jo aborted it"


def test_one_that_waits_for_its_turn_can_be_stopped_too_and_does_nothing(rolls):
    stand = rolls()
    roll = stand.ask_for("r2")
    rollouts.abort(stand.client, [stand.intent(roll)], "", by="jo")
    stand.settle(stand.start())
    assert (stand.intent(roll).state, stand.intent(roll).error) == ("refused", "jo aborted it")
    assert stand.hands.applied == []


def test_what_is_asked_for_meanwhile_waits_and_the_latest_wish_counts(rolls):
    stand = rolls()
    first = stand.ask_for("r2")
    stand.hands.when_applied = lambda id_: stand.ask_for("r1") and stand.ask_for("r3")
    stand.work(stand.start(), lambda: stand.intent(first).state == "done", "the first to be done")
    stand.hands.when_applied = lambda id_: None
    stand.settle(stand.start())
    stand.expect("r3")
    assert len(stand.journal("intent.begun")) == 2


# --- a state


def test_a_state_goes_over_roles_in_the_safe_order_and_drains_what_serves(rolls):
    stand = rolls("proxy1", "prod1", "prod2", "redis1", "redis2", "redis3")
    args = {"state": "common", "roles": ["redis", "prod", "proxy"], "options": {}}
    id_, _ = Queue(stand.client, "jo").put(Intent("states", "prod", args, "states:common", by="jo"))
    stand.settle(stand.start())
    assert stand.intent(id_).state == "done"
    assert stand.hands.applied == [
        ((id_,), "common") for id_ in ("redis1", "redis3", "redis2", "prod1", "prod2", "proxy1")
    ]
    wants = [(line["subject"], json.loads(line["fields"])["want"]) for line in stand.journal("instance.want")]
    assert wants == [("prod1", "drain"), ("prod1", "ready"), ("prod2", "drain"), ("prod2", "ready")]


def test_a_state_that_fails_stops_there_and_what_serves_serves_again(rolls):
    stand = rolls("prod1", "prod2", "proxy1")
    stand.hands.faults["prod1", "r1"] = "sysctl: no such key"
    args = {"state": "common", "roles": ["prod", "proxy"], "options": {}}
    id_, _ = Queue(stand.client, "jo").put(Intent("states", "prod", args, "states:common", by="jo"))
    stand.settle(stand.start())
    assert stand.intent(id_).error == "common: prod1: sysctl: no such key"
    assert [ids for ids, _ in stand.hands.applied] == [("prod1",)]
    stand.expect("r1")
    assert stand.tags() == ["started", "failed"]


# --- crashes


def points_of(stand: Rolls, prepare: Callable[[Rolls], object]) -> list[str]:
    """Every point at which a roll can be broken off."""
    points: list[str] = []
    prepare(stand)
    stand.ask_for("r2")
    stand.settle(stand.start(points.append))
    return [p for p in points if p.startswith("roll.")]


WAYS = {
    "a good release": (lambda s: None, "r2", "done"),
    "one that is not well on the second": (lambda s: s.hands.sick.add(("prod2", "r2")), "r1", "failed"),
}


@pytest.mark.parametrize("way", list(WAYS))
def test_a_crash_after_any_step_before_it_is_written_down_comes_to_the_same_end(rolls, way):
    prepare, release, state = WAYS[way]
    points = points_of(rolls("prod1", "prod2"), prepare)
    assert len(points) == len(set(points)) > 50
    # What is done and not yet written down is the worst; the test below breaks off everywhere.
    for point in (p for p in points if p.endswith(":acted")):
        stand = rolls("prod1", "prod2")
        prepare(stand)

        def hook(at: str, point: str = point) -> None:
            if at == point:
                raise Crash(at)

        id_ = stand.ask_for("r2")
        with pytest.raises(Crash):
            stand.work(stand.start(hook), lambda: False, f"a crash at {point}")
        stand.join()
        stand.settle(stand.start())
        stand.expect(release)
        assert stand.intent(id_).state == state, point
        assert stand.hands.table == {"prod": release, "canary": "r1"}, point
        lines = Counter(line for line in steps_of(stand, id_) if line.startswith("roll."))
        # Every step is told of once; of taking, once for each machine that was.
        takes = lines.pop("roll.take prod")
        assert takes == 2 and set(lines.values()) == {1}, (point, lines)


@pytest.mark.parametrize("way", list(WAYS))
def test_a_crash_at_every_single_point_one_after_the_other_comes_to_the_same_end(rolls, way):
    prepare, release, state = WAYS[way]
    stand = rolls()
    prepare(stand)
    id_ = stand.ask_for("r2")
    seen: set[str] = set()

    def hook(at: str) -> None:
        if at.startswith("roll.") and at not in seen:
            seen.add(at)
            raise Crash(at)

    for _ in range(200):
        try:
            stand.settle(stand.start(hook))
        except Crash:
            stand.join()
            continue
        break
    assert len(seen) > 50
    stand.expect(release)
    assert stand.intent(id_).state == state


@pytest.mark.parametrize("call", ["look", "stage", "assign", "switch", "apply"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_in_the_middle_of_what_is_done_to_machines_comes_to_the_same_end(rolls, call, when):
    stand = rolls("prod1", "prod2")
    stand.hands.crashes[call] = when
    stand.hands.differs["prod2"] = ["time zone"]
    stand.ask_for("r2")
    with pytest.raises(Crash):
        stand.work(stand.start(), lambda: False, f"a crash {when} {call}")
    stand.join()
    stand.settle(stand.start())
    stand.expect("r2")


def test_a_conductor_that_is_told_to_end_leaves_the_roll_where_it_is(rolls):
    stand = rolls("prod1", "prod2")
    conductor = stand.start()
    stand.hands.when_applied = lambda id_: conductor.stop()
    id_ = stand.ask_for("r2")
    stand.work(conductor, lambda: stand.hands.applied, "the first machine")
    stand.join()
    assert stand.intent(id_).state == "running"
    stand.hands.when_applied = lambda id_: None
    stand.settle(stand.start())
    stand.expect("r2")
