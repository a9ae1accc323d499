"""Reconciling: given what is wanted and what HAProxy runs, these commands, and no others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from saltern import reconcile
from saltern.haproxy import UNSET_ADDR, Server
from saltern.reconcile import Cut, Observed, Plan, plan
from saltern.registry import Instance, Split, State

pytestmark = pytest.mark.unit

DIR = "/maps"
PROD_SLOTS, CANARY_SLOTS = 4, 2


class Model:
    """HAProxy as far as the controller can tell: slots, maps, and what each command does to them."""

    def __init__(self, prod: int = PROD_SLOTS, canary: int = CANARY_SLOTS) -> None:
        names = [("prod", f"p{n}") for n in range(1, prod + 1)]
        names += [("canary", f"p{n}") for n in range(1, prod + 1)]
        names += [("canary", f"c{n}") for n in range(1, canary + 1)]
        self.servers = {key: Server(*key, addr=UNSET_ADDR, port=80, op=0, admin=0x05) for key in names}
        self.maps: dict[str, dict[str, str]] = {name: {} for name in reconcile.MAPS}
        self.split: set[str] = set()
        self.sessions: dict[str, int] = {}

    def observe(self) -> Observed:
        return Observed(
            MappingProxyType(dict(self.servers)),
            MappingProxyType({name: dict(entries) for name, entries in self.maps.items()}),
            frozenset(self.split),
            MappingProxyType(dict(self.sessions)),
        )

    def run(self, commands: tuple[str, ...]) -> None:
        for command in commands:
            self.run_one(command.split(" "))

    def run_one(self, words: list[str]) -> None:
        match words:
            case ["set", "server", name, "addr", addr, "port", port]:
                self.change(name, addr=addr, port=int(port))
            case ["set", "server", name, "state", "maint"]:
                self.change(name, admin=0x05, op=0)
            case ["set", "server", name, "state", ("ready" | "drain") as state]:
                server = self.servers[self.key(name)]
                admin = 0x04 | (0x08 if state == "drain" else 0)
                self.change(name, admin=admin, op=2 if server.admin_state == "maint" else server.op)
            case ["set", "server", name, "health", "down"]:
                self.change(name, op=0)
            case ["set", "server", name, "weight", weight]:
                self.change(name, weight=int(weight))
            case ["set" | "add" as verb, "map", path, key, value]:
                entries = self.maps[path.removeprefix(f"{DIR}/").removesuffix(".map")]
                assert (key in entries) == (verb == "set"), f"{verb} map {key} would be refused"
                entries[key] = value
            case ["add", "acl", "/maps/split.acl", entry]:
                self.split.add(entry)
            case ["del", "acl", "/maps/split.acl", entry]:
                self.split.remove(entry)
            case ["shutdown", "sessions", "server", name]:
                self.sessions.pop(self.key(name)[1], None)
            case _:
                raise AssertionError(f"no such command: {' '.join(words)}")

    def key(self, name: str) -> tuple[str, str]:
        backend, _, slot = name.partition("/")
        return backend, slot

    def change(self, name: str, **values: Any) -> None:
        self.servers[self.key(name)] = replace(self.servers[self.key(name)], **values)

    def settle(self, alive: Mapping[str, bool] | None = None) -> None:
        """Health checks pass for every server that is not in maintenance, unless its address is dead."""
        for key, server in self.servers.items():
            if server.admin_state != "maint":
                up = alive.get(server.addr, True) if alive is not None else True
                self.servers[key] = replace(server, op=2 if up else 0)

    def live(self) -> set[str]:
        """Instance ids of production servers that can answer."""
        return {
            self.maps["instances"].get(slot, slot)
            for (backend, slot), s in self.servers.items()
            if backend == "prod" and s.up and s.admin_state == "ready"
        }


def instance(id_: str, **values: Any) -> Instance:
    pool = "canary" if id_.startswith("staging") else "prod"
    number = int(id_.removeprefix("prod").removeprefix("staging"))
    addr = f"10.0.{1 if pool == 'canary' else 0}.{number}"
    return Instance(**{"id": id_, "pool": pool, "addr": addr, "port": 8080, "release": "r1", **values})


def state(*instances: Instance, **values: Any) -> State:
    return State(revision=1, instances={i.id: i for i in instances}, **values)


def step(model: Model, wanted: State, share: int = 0, now: float = 0.0, last: Plan | None = None) -> Plan:
    made = plan(
        wanted,
        model.observe(),
        share=share,
        map_dir=DIR,
        now=now,
        drains=last.drains if last else {},
        drain_limit_s=60.0,
    )
    model.run(made.commands)
    return made


def running(*instances: Instance) -> tuple[Model, State]:
    """A model in which these instances have been serving for a while."""
    model, wanted = Model(), state(*instances)
    for _ in range(3):
        step(model, wanted)
        model.settle()
    assert not step(model, wanted).commands
    return model, wanted


def test_a_new_production_server_is_named_then_enabled_in_both_backends_and_has_to_pass_a_check() -> None:
    assert step(Model(), state(instance("prod1"))).commands == (
        "set server prod/p1 addr 10.0.0.1 port 8080",
        "set server canary/p1 addr 10.0.0.1 port 8080",
        "add map /maps/instances.map p1 prod1",
        "add map /maps/releases.map p1 r1",
        "set server prod/p1 state ready",
        "set server prod/p1 health down",
        "set server canary/p1 state ready",
        "set server canary/p1 health down",
    )


def test_a_new_canary_lives_in_the_canary_backend_alone() -> None:
    model, _ = running(instance("prod1"))
    assert step(model, state(instance("prod1"), instance("staging1")), share=30).commands == (
        "set server canary/c1 addr 10.0.1.1 port 8080",
        "add map /maps/instances.map c1 staging1",
        "add map /maps/releases.map c1 r1",
        "set server canary/c1 state ready",
        "set server canary/c1 health down",
        "add acl /maps/split.acl 0:29",
    )


PAIR = (instance("prod1"), instance("prod2"))
LEAVES = (
    "set server prod/p2 state drain",
    "set server prod/p2 weight 0",
    "set server canary/p2 state drain",
    "set server canary/p2 weight 0",
)
MOVED = [
    ("nothing new", PAIR, ()),
    ("a new release", (PAIR[0], instance("prod2", release="r2")), ("set map /maps/releases.map p2 r2",)),
    (
        "a new address",
        (PAIR[0], instance("prod2", addr="10.0.0.9")),
        ("set server prod/p2 addr 10.0.0.9 port 8080", "set server canary/p2 addr 10.0.0.9 port 8080"),
    ),
    (
        "a new port",
        (PAIR[0], instance("prod2", port=81)),
        ("set server prod/p2 addr 10.0.0.2 port 81", "set server canary/p2 addr 10.0.0.2 port 81"),
    ),
    ("drain", (PAIR[0], instance("prod2", want="drain")), LEAVES),
    ("maint starts with a drain", (PAIR[0], instance("prod2", want="maint")), LEAVES),
    ("gone", (PAIR[0],), LEAVES),
]


@pytest.mark.parametrize(("what", "instances", "commands"), MOVED, ids=[row[0] for row in MOVED])
def test_a_change_costs_only_its_own_commands(
    what: str, instances: tuple[Instance, ...], commands: tuple[str, ...]
) -> None:
    model, _ = running(*PAIR)
    assert step(model, state(*instances)).commands == commands


def test_an_idle_server_that_should_be_in_maintenance_gets_there_and_comes_back_only_after_a_check() -> None:
    model, _ = running(*PAIR)
    away = state(PAIR[0], instance("prod2", want="maint"))
    last = step(model, away)
    assert step(model, away, last=last).commands == (
        "set server prod/p2 state maint",
        "set server canary/p2 state maint",
    )
    back = step(model, state(*PAIR))
    assert back.commands == (
        "set server prod/p2 state ready",
        "set server prod/p2 health down",
        "set server prod/p2 weight 1",
        "set server canary/p2 state ready",
        "set server canary/p2 health down",
        "set server canary/p2 weight 1",
    )


def test_a_canary_that_drains_is_no_longer_chosen_and_is_again_when_it_is_back() -> None:
    model, _ = running(PAIR[0], instance("staging1"))
    last = step(model, state(PAIR[0], instance("staging1", want="drain")))
    assert last.commands == ("set server canary/c1 state drain", "set server canary/c1 weight 0")
    back = step(model, state(PAIR[0], instance("staging1")))
    assert back.commands == ("set server canary/c1 state ready", "set server canary/c1 weight 1")


def test_a_drain_passes_through_its_phases_and_waits_for_open_requests() -> None:
    model, _ = running(*PAIR)
    wanted = state(PAIR[0], instance("prod2", want="drain"))
    model.sessions["p2"] = 2
    last = step(model, wanted, now=0)
    assert last.phases["prod2"] == "draining"
    last = step(model, wanted, now=59, last=last)
    assert (last.phases["prod2"], last.commands) == ("draining", ())
    model.sessions.clear()
    last = step(model, wanted, now=59.5, last=last)
    assert (last.phases["prod2"], last.commands, last.cuts) == ("idle", (), ())


@pytest.mark.parametrize(("own_limit", "cut_at"), [(None, 60.0), (5.0, 5.0), (0.0, 0.0)])
def test_what_outlives_the_drain_limit_is_cut_and_reported(own_limit: float | None, cut_at: float) -> None:
    model, _ = running(*PAIR)
    wanted = state(PAIR[0], instance("prod2", want="drain", limit_s=own_limit))
    model.sessions["p2"] = 3
    last = step(model, wanted, now=0)
    assert not last.cuts
    if cut_at:
        last = step(model, wanted, now=cut_at - 0.1, last=last)
        assert not last.cuts
    last = step(model, wanted, now=cut_at, last=last)
    assert last.cuts == (Cut("prod2", "p2", 3),)
    assert last.commands == ("shutdown sessions server prod/p2", "shutdown sessions server canary/p2")
    assert step(model, wanted, now=cut_at + 1, last=last).phases["prod2"] == "idle"


def test_a_clock_that_goes_back_does_not_cut_early_nor_wait_for_ever() -> None:
    model, _ = running(*PAIR)
    wanted = state(PAIR[0], instance("prod2", want="drain"))
    model.sessions["p2"] = 1
    last = step(model, wanted, now=1_000)
    last = step(model, wanted, now=100, last=last)
    assert not last.cuts
    assert step(model, wanted, now=160, last=last).cuts


def test_a_slot_is_freed_only_when_its_last_request_is_done_and_then_used_again() -> None:
    model, _ = running(*PAIR)
    gone = state(PAIR[0])
    model.sessions["p2"] = 1
    last = step(model, gone)
    last = step(model, gone, now=1, last=last)
    assert model.maps["instances"]["p2"] == "prod2", "its open request must still be answered under its name"
    model.sessions.clear()
    for _ in range(3):
        last = step(model, gone, now=2, last=last)
    assert model.maps["instances"]["p2"] == "-"
    assert model.maps["releases"]["p2"] == "-"
    step(model, state(PAIR[0], instance("prod7")))
    assert model.maps["instances"]["p2"] == "prod7"


def test_everybody_else_keeps_their_slot_when_one_leaves() -> None:
    three = (*PAIR, instance("prod3"))
    model, _ = running(*three)
    before = dict(model.maps["instances"])
    wanted = state(three[0], three[2])
    for _ in range(4):
        step(model, wanted)
    assert {slot: id_ for slot, id_ in model.maps["instances"].items() if id_ != "-"} == {
        slot: id_ for slot, id_ in before.items() if id_ != "prod2"
    }


def test_more_instances_than_slots_are_named_not_dropped_silently() -> None:
    made = step(Model(), state(*(instance(f"prod{n}") for n in range(1, PROD_SLOTS + 3))))
    assert made.unplaced == ("prod5", "prod6")
    assert made.phases["prod6"] == "unplaced"


def test_an_instance_that_changes_pool_leaves_its_old_slot_and_gets_a_new_one() -> None:
    model, _ = running(*PAIR, instance("staging1"))
    promoted = state(*PAIR, instance("staging1", pool="prod"))
    last = None
    for _ in range(4):
        last = step(model, promoted, last=last)
        model.settle()
    assert model.maps["instances"] == {"p1": "prod1", "p2": "prod2", "p3": "staging1", "c1": "-"}
    assert not step(model, promoted, last=last).commands


def test_a_slot_without_a_name_is_given_back_to_whom_its_address_belongs() -> None:
    model, wanted = running(*PAIR)
    model.maps["instances"].clear()
    model.maps["releases"].clear()
    made = step(model, wanted)
    assert made.commands == (
        "add map /maps/instances.map p1 prod1",
        "add map /maps/releases.map p1 r1",
        "add map /maps/instances.map p2 prod2",
        "add map /maps/releases.map p2 r1",
    )


def test_a_second_server_with_an_instance_s_address_is_not_that_instance() -> None:
    model, wanted = running(*PAIR)
    model.run(("set server prod/p4 addr 10.0.0.1 port 8080", "set server prod/p4 state ready"))
    assert step(model, wanted).commands == ("set server prod/p4 state maint",)


def test_a_server_nobody_knows_is_taken_out() -> None:
    model, wanted = running(*PAIR)
    model.run(("set server prod/p4 addr 10.9.9.9 port 1", "set server prod/p4 state ready"))
    assert step(model, wanted).commands == ("set server prod/p4 state maint",)


SHARES = [
    ("less comes first", 30, 10, 0, ("add acl /maps/split.acl 0:9", "del acl /maps/split.acl 0:29")),
    ("none comes first", 30, 0, 0, ("del acl /maps/split.acl 0:29",)),
    ("some comes last", 0, 1, -1, ("add acl /maps/split.acl 0:0",)),
    ("more comes last", 30, 100, -2, ("add acl /maps/split.acl 0:99", "del acl /maps/split.acl 0:29")),
]


@pytest.mark.parametrize(("what", "old", "new", "at", "commands"), SHARES, ids=[row[0] for row in SHARES])
def test_the_safe_direction_is_first_and_no_moment_is_without_a_share(
    what: str, old: int, new: int, at: int, commands: tuple[str, ...]
) -> None:
    model, _ = running(*PAIR)
    step(model, state(*PAIR), share=old)
    made = step(model, state(*PAIR, instance("staging1")), share=new)
    assert made.commands[at:][: len(commands)] == commands
    assert len(made.commands) > len(commands)


def test_a_split_somebody_else_wrote_is_put_right() -> None:
    model, wanted = running(*PAIR)
    model.split.update({"0:29", "50:60", "nonsense"})
    step(model, wanted, share=30)
    assert model.split == {"0:29"}


# --- the last live production server


def left(*ids: str, want: str = "ready", **values: Any) -> State:
    return state(*(instance(id_, want=want) for id_ in ids), **values)


LAST = [
    ("all drained", left("prod1", "prod2", want="drain"), {"prod1"}),
    ("all in maintenance", left("prod1", "prod2", want="maint"), {"prod1"}),
    ("an empty registry", left(), {"prod1"}),
    ("only the dead one stays", left("prod3"), {"prod1"}),
    ("one live one stays", left("prod2"), set()),
    ("both forced", left(forced=frozenset({"prod1", "prod2"})), set()),
    ("one forced", left(forced=frozenset({"prod1"})), {"prod2"}),
]


@pytest.mark.parametrize(("what", "wanted", "kept"), LAST, ids=[row[0] for row in LAST])
def test_the_last_live_production_server_stays_unless_it_is_forced(
    what: str, wanted: State, kept: set[str]
) -> None:
    model, _ = running(*PAIR)
    made = step(model, wanted)
    assert set(made.kept) == kept
    for id_ in kept:
        assert made.phases[id_] == "kept"
        assert "last live production server" in made.kept[id_]
    model.settle({"10.0.0.3": False})
    for _ in range(3):
        made = step(model, wanted, last=made)
        model.settle({"10.0.0.3": False})
    assert kept <= model.live()


def test_a_kept_server_leaves_once_another_is_live() -> None:
    model, _ = running(PAIR[0])
    replaced = state(instance("prod1", want="drain"), PAIR[1])
    last = step(model, replaced)
    assert set(last.kept) == {"prod1"}
    model.settle()
    last = step(model, replaced, last=last)
    assert not last.kept
    assert last.phases["prod1"] == "draining"


def test_with_all_of_production_down_the_last_ones_are_not_taken_away_either() -> None:
    model, _ = running(*PAIR)
    model.settle({"10.0.0.1": False, "10.0.0.2": False})
    assert set(step(model, left()).kept) == {"prod1"}


def test_a_dead_server_that_should_go_is_not_kept_while_others_are_wanted() -> None:
    model, _ = running(*PAIR)
    model.settle({"10.0.0.1": False, "10.0.0.2": False})
    assert not step(model, left("prod2")).kept


def test_of_those_that_should_go_a_live_one_is_kept_rather_than_a_dead_one() -> None:
    model, _ = running(*PAIR)
    model.settle({"10.0.0.1": False})
    assert set(step(model, left()).kept) == {"prod2"}


def test_an_instance_with_unusable_values_is_neither_obeyed_nor_taken_for_absent() -> None:
    model, _ = running(*PAIR)
    made = step(model, state(PAIR[0], rejected={"prod2": "instance: port 99999 is not between 1 and 65535"}))
    assert made.commands == ()
    assert made.kept == {"prod2": "instance: port 99999 is not between 1 and 65535"}


# --- a registry that forgot


FLOOR = replace(state(*PAIR, split=Split(20, "ann", 5.0)), revision=100)
READS = [
    ("newer is taken as it is", replace(left("prod1"), revision=101), {"prod1"}, set(), 30),
    ("a wiped one keeps what was", State(), set(), {"prod1", "prod2"}, 20),
    ("those back again are followed", replace(left("prod1"), revision=3), {"prod1"}, {"prod2"}, 20),
    (
        "those forgotten by force go",
        replace(State(), revision=3, forced=frozenset({"prod2"})),
        set(),
        {"prod1"},
        20,
    ),
    (
        "a split set again counts",
        replace(State(), revision=3, split=Split(5, "ann", 9.0)),
        set(),
        {"prod1", "prod2"},
        5,
    ),
]


@pytest.mark.parametrize(("what", "read", "known", "kept", "share"), READS, ids=[row[0] for row in READS])
def test_a_registry_that_went_back_in_time_takes_nobody_away(
    what: str, read: State, known: set[str], kept: set[str], share: int
) -> None:
    merged = reconcile.remember(FLOOR, read)
    assert set(merged.instances) == known
    assert set(merged.rejected) == kept
    assert merged.split.share == share


# --- any history


class Histories(RuleBasedStateMachine):
    """Whatever happens in whatever order: plans converge, then are empty, and never empty production."""

    @initialize()
    def start(self) -> None:
        self.model = Model(prod=3, canary=1)
        self.instances: dict[str, Instance] = {}
        self.forced: set[str] = set()
        self.dead: set[str] = set()
        self.last: Plan | None = None
        self.now = 0.0
        self.register("prod1", 1, "r1")
        self.register("prod2", 1, "r1")
        self.act(0.0, 30)
        self.check()

    IDS = st.sampled_from(["prod1", "prod2", "prod3", "prod4", "staging1", "staging2"])

    def wanted(self) -> State:
        return state(*self.instances.values(), forced=frozenset(self.forced))

    @rule(id_=IDS, octet=st.integers(1, 3), release=st.sampled_from(["r1", "r2"]))
    def register(self, id_: str, octet: int, release: str) -> None:
        fresh = instance(id_, release=release)
        fresh = replace(fresh, addr=fresh.addr.replace("10.0.", f"10.{octet}."))
        old = self.instances.get(id_)
        self.instances[id_] = replace(fresh, want=old.want if old else "ready")

    @rule(id_=IDS, want=st.sampled_from(["ready", "drain", "maint"]), force=st.booleans())
    def want(self, id_: str, want: str, force: bool) -> None:
        if id_ in self.instances:
            self.instances[id_] = replace(self.instances[id_], want=want)
            (self.forced.add if force else self.forced.discard)(id_)

    @rule(id_=IDS, force=st.booleans())
    def unregister(self, id_: str, force: bool) -> None:
        self.instances.pop(id_, None)
        if force:
            self.forced.add(id_)

    @rule(slot=st.sampled_from(["p1", "p2", "p3", "c1"]), number=st.integers(0, 3))
    def requests(self, slot: str, number: int) -> None:
        servers = [s for (_, name), s in self.model.servers.items() if name == slot]
        if number == 0:
            self.model.sessions.pop(slot, None)
        elif any(s.admin_state == "ready" and s.up for s in servers):
            self.model.sessions[slot] = number

    @rule(id_=IDS)
    def die(self, id_: str) -> None:
        if id_ in self.instances:
            self.dead.add(self.instances[id_].addr)

    @rule()
    def revive(self) -> None:
        self.dead.clear()

    @rule()
    def check(self) -> None:
        self.model.settle(dict.fromkeys(self.dead, False))

    @rule(seconds=st.floats(0, 100), share=st.integers(0, 100))
    def act(self, seconds: float, share: int) -> None:
        self.now += seconds
        before = self.model.live()
        self.last = step(self.model, self.wanted(), share=share, now=self.now, last=self.last)
        if before - self.forced:
            assert self.model.live(), f"production was emptied: {before} gone"
        assert self.model.split == reconcile.share_range(share)

    @rule(share=st.integers(0, 100))
    def converge(self, share: int) -> None:
        """With nothing open any more, a few rounds reach what is wanted, and then there is nothing to do."""
        self.now += 1
        for _ in range(6):
            self.model.sessions.clear()
            self.last = step(self.model, self.wanted(), share=share, now=self.now, last=self.last)
            self.model.settle(dict.fromkeys(self.dead, False))
        again = step(self.model, self.wanted(), share=share, now=self.now, last=self.last)
        assert again.commands == ()
        for id_, slot in again.slots.items():
            it = self.instances[id_]
            assert self.model.maps["instances"][slot] == id_
            assert self.model.maps["releases"][slot] == it.release
            for backend in reconcile.BACKENDS[it.pool]:
                server = self.model.servers[backend, slot]
                assert (server.addr, server.port) == (it.addr, it.port)
                if id_ not in again.kept:
                    assert server.admin_state == it.want
                    if it.want != "maint":
                        assert server.weight == (0 if it.want == "drain" else 1)
        seated = {id_ for id_ in self.model.maps["instances"].values() if id_ != "-"}
        assert seated == (set(self.instances) - set(again.unplaced)) | set(again.kept)

    @invariant()
    def nobody_sits_twice(self) -> None:
        for pool in ("p", "c"):
            ids = [i for slot, i in self.model.maps["instances"].items() if slot[0] == pool and i != "-"]
            assert len(ids) == len(set(ids))


TestHistories = Histories.TestCase
TestHistories.settings = settings(stateful_step_count=20)
