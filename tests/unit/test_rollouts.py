"""What a roll does next: order, batches, gates, freezes, and every way it can end."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml
from saltern import rollouts
from saltern.errors import SalternError
from saltern.fleet import REPOSITORY
from saltern.rollouts import FORWARD, Gate, Plan, Settings, Sight, gate, step, walk

SETTINGS = Settings.from_pillar(yaml.safe_load((REPOSITORY / "pillar/rollout.sls").read_text())["rollout"])
FIVE = ("prod1", "prod2", "prod3", "prod4", "prod5")


def a_plan(*order: str, **changes: Any) -> Plan:
    order = order or FIVE
    values = {"was": dict.fromkeys(order, "r1"), "previous": "r1", "began": 1000.0, **changes}
    return Plan("roll", "prod", "r2", order, **values)


def run(plan: Plan, **outcomes: Any) -> list[str]:
    """The steps of a roll in which every step finds what is said by its name, or that all is well."""
    facts: dict[str, Any] = {}
    names = []
    left = [*plan.order]
    for name in walk(plan, facts):
        subject, what = rollouts.parts(name)
        found: dict[str, Any] = {"at": 1.0}
        if what == "take":
            found["machines"] = left[: plan.batch]
        if what in FORWARD:
            found["machines"] = subject.split(",")
        if what == "more":
            found["add"] = []
        found |= outcomes.get(name.replace("/", "_").replace("#", "_").replace(",", "_"), {})
        if what == "take":
            del left[: len(found.get("machines", ()))]
        if what == "more":
            left += found.get("add", ())
        facts[name] = found
        names.append(name)
    assert rollouts.next_step(plan, facts) is None
    return names


def group(machines: str, number: int) -> list[str]:
    return [f"prod/take#{number}", *(f"{machines}/{what}#{number}" for what in FORWARD)]


# --- options and numbers


@pytest.mark.parametrize(
    ("value", "of", "number"),
    [
        (1, 5, 1),
        (2, 5, 2),
        ("40%", 5, 2),
        ("50%", 5, 2),
        ("100%", 5, 5),
        ("1%", 5, 1),
        ("40%", 1, 1),
        ("25%", 0, 1),
    ],
)
def test_an_amount_is_a_number_or_a_part_rounded_down_and_never_nothing(value, of, number):
    assert rollouts.amount(value, of) == number


@pytest.mark.parametrize(
    "options",
    [
        {"batch": 2},
        {"batch": "40%", "max_unavailable": 3},
        {"order": "id", "on_failure": "stop"},
        {"force": True, "gates": False, "highstate": False},
        {"min_healthy_s": 0, "steady_s": 1.5, "deadline_s": 60},
        {"rollback": True},
        {},
    ],
)
def test_options_that_are_right_are_taken(options):
    assert rollouts.check_options(options) == options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch": 0}, "batch=0: a number of machines from 1"),
        ({"batch": "0%"}, "batch='0%'"),
        ({"batch": "200%"}, "batch='200%'"),
        ({"batch": True}, "batch=True"),
        ({"batch": 1.5}, "batch=1.5"),
        ({"max_unavailable": "two"}, "max_unavailable='two'"),
        ({"min_healthy_s": -1}, "min_healthy_s=-1: seconds"),
        ({"deadline_s": float("nan")}, "deadline_s=nan: seconds"),
        ({"order": "random"}, "order='random': load or id"),
        ({"on_failure": "hope"}, "on_failure='hope': back or stop"),
        ({"force": 1}, "force=1: True or False"),
        ({"speed": 9}, "no such option; there are batch"),
    ],
)
def test_an_option_that_is_not_right_is_named_with_what_would_be(options, words):
    with pytest.raises(SalternError, match=words):
        rollouts.check_options(options)


def test_going_back_asks_no_gate_and_no_freeze_unless_a_person_says_so():
    back = SETTINGS.with_options({"rollback": True})
    assert (back.force, back.gates, back.batch, back.highstate) == (True, False, "40%", False)
    assert SETTINGS.with_options({"rollback": True, "batch": 1}).batch == 1
    assert SETTINGS.with_options({}) == SETTINGS


NIGHT = {"hours": ["22:00", "06:00"], "reason": "night"}


@pytest.mark.parametrize(
    ("window", "moments"),
    [
        ({"days": ["sat", "sun"], "reason": "r"}, {"2026-11-21 00:00": True, "2026-11-20 23:59": False}),
        ({"hours": ["09:00", "17:00"], "reason": "r"}, {"2026-11-21 09:00": True, "2026-11-21 17:00": False}),
        (NIGHT, {"2026-11-21 22:00": True, "2026-11-21 05:59": True, "2026-11-21 06:00": False}),
        # The night of Friday ends on Saturday morning; that of Saturday is not frozen.
        (
            {**NIGHT, "days": ["fri"]},
            {"2026-11-21 05:00": True, "2026-11-20 05:00": False, "2026-11-21 23:00": False},
        ),
        (
            {"dates": ["2026-12-23", "2027-01-02"], "reason": "r"},
            {
                "2026-12-22 23:59": False,
                "2026-12-23 00:00": True,
                "2027-01-02 23:59": True,
                "2027-01-03 00:00": False,
            },
        ),
        (
            {"dates": ["2026-12-01", "2026-12-31"], "days": ["mon"], "reason": "r"},
            {"2026-12-07 12:00": True, "2026-12-08 12:00": False, "2026-11-30 12:00": False},
        ),
    ],
)
def test_a_freeze_holds_when_all_that_it_says_does(window, moments):
    for moment, held in moments.items():
        at = datetime.strptime(moment, "%Y-%m-%d %H:%M").replace(tzinfo=timezone.utc).timestamp()
        assert rollouts.frozen([window], at) == (window["reason"] if held else None), moment
        assert rollouts.frozen([], at) is None


# --- the order


def test_machines_that_are_out_anyway_go_first_then_the_least_loaded():
    sessions = {"prod1": 9, "prod2": 0, "prod10": 0, "prod3": 4}
    machines = ["prod10", "prod1", "prod3", "prod2"]
    assert rollouts.in_order(machines, sessions, ["prod3"], "load") == ("prod3", "prod2", "prod10", "prod1")
    assert rollouts.in_order(machines, sessions, [], "id") == ("prod1", "prod2", "prod3", "prod10")


def test_a_state_goes_over_copies_before_what_they_copy_and_over_the_proxy_last():
    machines = ["proxy1", "prod2", "prod1", "redis1", "redis2", "redis3", "staging1", "ops1"]
    assert rollouts.safe_order(machines, "redis2", {"prod1": 5}) == (
        "redis1", "redis3", "redis2", "ops1", "staging1", "prod2", "prod1", "proxy1",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("said", "roles"),
    [
        ("all", rollouts.SAFE_ORDER),
        (None, rollouts.SAFE_ORDER),
        ("prod", ("prod",)),
        ("ops,redis,ops", ("ops", "redis")),
    ],
)
def test_roles_are_one_several_or_all(said, roles):
    assert rollouts.check_roles(said) == roles


def test_a_role_that_is_none_is_named():
    with pytest.raises(SalternError, match="role 'web': not one of redis, ops, staging, prod, proxy, or all"):
        rollouts.check_roles("prod,web")


@pytest.mark.parametrize(
    ("roles", "lane"),
    [
        (("prod", "redis"), "prod"),
        (("staging",), "canary"),
        (("redis",), "redis"),
        (("redis", "ops"), "fleet"),
    ],
)
def test_a_state_that_takes_instances_out_waits_for_what_is_rolled_over_them(roles, lane):
    assert rollouts.lane(roles) == lane


# --- gates

GATES = {
    "the first one goes": ({}, {}, Gate(take=("prod1",))),
    "as many as a batch takes": ({"batch": 2, "max_unavailable": 2}, {}, Gate(take=("prod1", "prod2"))),
    "never more than may be out": ({"batch": 3, "max_unavailable": 2}, {}, Gate(take=("prod1", "prod2"))),
    "those that others took out count": (
        {"batch": 3, "max_unavailable": 2}, {"out": frozenset({"prod9"})}, Gate(take=("prod1",)),
    ),
    "and are waited for": (
        {}, {"out": frozenset({"prod9", "prod8"})}, Gate(wait="prod8, prod9 to be back in traffic"),
    ),
    "one that is out itself makes nothing worse": ({}, {"out": frozenset({"prod1"})}, Gate(take=("prod1",))),
    "no data is not good news": ({}, {"out": None}, Gate(wait="HAProxy's word on who serves")),
    "an alert is waited for": ({}, {"alerts": ("MachineLost of prod9",)}, Gate(wait="MachineLost of prod9 to be over")),
    "unless gates are open": ({"gates": False}, {"alerts": ("MachineLost of prod9",)}, Gate(take=("prod1",))),
    "errors that clients saw end it": (
        {}, {"requests": 1000, "errors": 30},
        Gate(stop="30 of 1000 requests were answered with 5xx, 3.0 % above 1 %"),
    ),
    "a few may always be": ({}, {"requests": 20, "errors": 5}, Gate(take=("prod1",))),
    "and a small part of many": ({}, {"requests": 10_000, "errors": 100}, Gate(take=("prod1",))),
    "the deadline ends it": ({}, {"now": 1901.0}, Gate(stop="the deadline of 900 s has passed")),
    "one that was done and died ends it": ({}, {"sick": ("prod4 was well and is down",)}, Gate(
        stop="prod4 was well and is down")),
    "even with open gates": ({"gates": False}, {"sick": ("prod4 was well and is down",)}, Gate(
        stop="prod4 was well and is down")),
    "but not on the way back": (
        {"rollback": True, "gates": False}, {"sick": ("prod4 is down",)}, Gate(take=("prod1",)),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "sight", "found"), GATES.values(), ids=GATES.keys())
def test_before_each_group_gates_decide(changes, sight, found):
    plan = a_plan("prod1", "prod2", "prod3", **changes)
    assert gate(plan, SETTINGS, plan.order, Sight(**{"now": 1001.0, **sight})) == found


@pytest.mark.parametrize(
    ("name", "subject", "holds"),
    [
        ("MemoryHigh", "prod9", True),
        ("MemoryHigh", "redis1", True),
        ("CpuHigh", "prod9", False),
        # A build on ops1 that takes memory keeps nobody from rolling out what was built.
        ("MemoryHigh", "ops1", False),
        ("MachineLost", "ops1", False),
        # What is rolled over matters, whatever it is.
        ("MemoryHigh", "ops2", True),
        # What is no machine is everybody's.
        ("MachineLost", "the fleet", True),
    ],
)
def test_an_alert_holds_a_roll_where_its_machine_matters(name, subject, holds):
    assert rollouts.holds(a_plan("prod1", "ops2"), SETTINGS, name, subject) is holds


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, Gate(stop="nothing more is rolled now: the fair")),
        ({"gates": False}, Gate(stop="nothing more is rolled now: the fair")),
        ({"force": True}, Gate(take=("prod1",))),
    ],
)
def test_a_freeze_that_begins_between_two_machines_ends_it_there(changes, found):
    frozen = replace(SETTINGS, freeze=({"dates": ["1970-01-01", "1970-01-01"], "reason": "the fair"},))
    plan = a_plan("prod1", "prod2", **changes)
    assert gate(plan, frozen, plan.order, Sight(now=1001.0)) == found


def test_what_is_no_instance_goes_alone_and_a_batch_is_of_one_role():
    order = ("redis2", "redis1", "staging1", "prod1", "prod2", "proxy1")
    plan = Plan("states", "all", "common", order, batch=3, max_unavailable=3, began=0.0)
    left, groups = [*order], []
    while left:
        groups.append(gate(plan, SETTINGS, left, Sight(now=1.0)).take)
        left = left[len(groups[-1]) :]
    assert groups == [("redis2",), ("redis1",), ("staging1",), ("prod1", "prod2"), ("proxy1",)]


DOWN, BACK = "prod1 was well and is down", "prod1 was well, went down and came back"


@pytest.mark.parametrize(
    ("server", "want", "known", "found"),
    [
        ({"up": True, "since_s": 500}, "ready", False, ()),
        ({"up": False, "since_s": 2}, "ready", False, (DOWN,)),
        ({"up": False, "since_s": 2}, "ready", True, (DOWN,)),
        ({"up": False, "since_s": 1}, "ready", False, ()),
        ({"up": False}, "ready", True, (DOWN,)),
        ({"up": True, "since_s": 3}, "ready", False, (BACK,)),
        ({"up": True, "since_s": 3}, "ready", True, ()),
        ({"up": True, "since_s": 19}, "ready", False, ()),
        ({"up": False, "since_s": 5}, "drain", False, ()),
    ],
)
def test_a_machine_that_was_well_and_did_not_stay_so_is_sick_unless_somebody_took_it_out(
    server, want, known, found
):
    starts = {"prod1"} if known else set()
    assert rollouts.sick({"prod1": 100.0}, {"prod1": want}, {"prod1": server}, 120.0, starts) == found


def test_a_machine_that_is_gone_is_not_sick():
    assert rollouts.sick({"prod1": 100.0}, {}, {}, 120.0, ()) == ()


# --- the steps


def test_a_good_release_goes_machine_by_machine_and_is_then_the_pools():
    assert run(a_plan("prod1", "prod2")) == [
        "r2/begin", "prod/stage", *group("prod1", 1), *group("prod2", 2), "prod/steady", "prod/settle", "prod/more#1",
        "r2/done",
    ]  # fmt: skip


def test_what_is_gone_back_to_is_on_the_disks_already():
    assert run(a_plan("prod1", rollback=True))[:3] == ["r2/begin", "prod/take#1", "prod1/drain#1"]


def test_a_batch_goes_as_one():
    assert run(a_plan("prod1", "prod2", "prod3", batch=2, max_unavailable=2)) == [
        "r2/begin", "prod/stage", *group("prod1,prod2", 1), *group("prod3", 2), "prod/steady", "prod/settle",
        "prod/more#1", "r2/done",
    ]  # fmt: skip


def test_machines_that_came_meanwhile_follow():
    found = run(a_plan("prod1"), prod_more_1={"add": ["prod6"]})
    assert found[-9:] == ["prod/more#1", *group("prod6", 2), "prod/more#2", "r2/done"]


def test_nothing_to_do_is_done():
    plan = Plan("roll", "prod", "r2", (), previous="r2")
    assert run(plan) == ["r2/begin", "prod/stage", "prod/steady", "prod/settle", "prod/more#1", "r2/done"]


BAD = {"failed": "no"}
ENDS = {
    "when it cannot be put on a disk nothing was touched": (
        {"prod_stage": BAD}, {}, ["r2/begin", "prod/stage", "r2/fail", "prod/unsettle", "r2/rolledback"],
    ),
    "when a gate stays shut those that are done go back": (
        {"prod_take_2": BAD}, {},
        ["prod/take#2", "r2/fail", "prod1/back#1", "prod/unsettle", "r2/rolledback"],
    ),
    "the machine at work goes back first": (
        {"prod3_check_3": BAD}, {},
        ["prod3/drain#3", "prod3/apply#3", "prod3/check#3", "r2/fail", "prod3/back#3", "prod2/back#2", "prod1/back#1",
         "prod/unsettle", "r2/rolledback"],
    ),
    "one that cannot be drained goes back too": (
        {"prod1_drain_1": BAD}, {},
        ["prod/take#1", "prod1/drain#1", "r2/fail", "prod1/back#1", "prod/unsettle", "r2/rolledback"],
    ),
    "by another policy those that are done stay": (
        {"prod2_watch_2": BAD}, {"on_failure": "stop"},
        ["prod2/watch#2", "r2/fail", "prod2/back#2", "prod/unsettle", "r2/stopped"],
    ),
    "what dies young takes all back": (
        {"prod_steady": BAD}, {},
        ["prod/steady", "r2/fail", "prod3/back#3", "prod2/back#2", "prod1/back#1", "prod/unsettle", "r2/rolledback"],
    ),
    "and so does one that came meanwhile": (
        {"prod_more_1": {"add": ["prod6"]}, "prod6_apply_4": BAD}, {},
        ["prod6/apply#4", "r2/fail", "prod6/back#4", "prod3/back#3", "prod2/back#2", "prod1/back#1", "prod/unsettle",
         "r2/rolledback"],
    ),
    "machines that keep coming end it": (
        {"prod_more_1": BAD}, {"on_failure": "stop"},
        ["prod/settle", "prod/more#1", "r2/fail", "prod/unsettle", "r2/stopped"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("outcomes", "changes", "last"), ENDS.values(), ids=ENDS.keys())
def test_after_a_failure(outcomes, changes, last):
    assert run(a_plan("prod1", "prod2", "prod3", **changes), **outcomes)[-len(last) :] == last


def test_a_state_has_no_release_to_put_on_disks_or_to_go_back_to():
    plan = Plan("states", "redis+proxy", "common", ("redis1", "proxy1"), on_failure="stop")
    names = [n for n in run(plan) if "/take" not in n]
    assert names == [
        "common/begin", *(f"redis1/{what}#1" for what in FORWARD), *(f"proxy1/{what}#2" for what in FORWARD),
        "common/done",
    ]  # fmt: skip
    assert run(plan, proxy1_apply_2=BAD)[-3:] == ["common/fail", "proxy1/back#2", "common/stopped"]


def test_a_plan_is_what_was_written_down():
    plan = a_plan(batch=2, skipped={"prod9": "maint"}, min_healthy_s=1.5)
    assert Plan.from_data({**plan.to_data(), "at": 3.0}) == plan


# --- for a person


@pytest.mark.parametrize(
    ("facts", "shown"),
    [
        ({}, {"progress": "[....................] 0/2", "now": "r2: begins"}),
        (
            {"r2/begin": {}, "prod/stage": {}, "prod/take#1": {"machines": ["prod1"]}, "prod1/drain#1": {}},
            {"now": "prod1: is changed", "machines": {"prod1": "is changed", "prod2": "waits"}},
        ),
        (
            {
                "r2/begin": {}, "prod/stage": {}, "prod/take#1": {"machines": ["prod1"]},
                **{f"prod1/{what}#1": {} for what in FORWARD}, "prod/take#2": {"machines": ["prod2"]},
                "prod2/drain#2": {"failed": "prod2: 3 requests open"},
            },
            {
                "progress": "[##########..........] 1/2", "now": "r2: failed", "why": "prod2: 3 requests open",
                "machines": {"prod1": "done", "prod2": "drain failed"},
            },
        ),
    ],
)  # fmt: skip
def test_a_person_sees_where_it_stands(facts, shown):
    row = rollouts.told(a_plan("prod1", "prod2"), facts, "running")
    assert {name: row[name] for name in shown} == shown
    assert row["progress"] in rollouts.text(row) and "\n" not in rollouts.text(row)


def test_names_of_steps_say_whom_and_what():
    name = step("prod1,prod2", "drain", 3)
    assert (name, rollouts.parts(name), rollouts.machines_of(name)) == (
        "prod1,prod2/drain#3", ("prod1,prod2", "drain"), ("prod1", "prod2"),
    )  # fmt: skip


def test_every_step_has_words():
    plan = a_plan("prod1")
    names = {rollouts.parts(n)[1] for n in run(plan) + run(plan, prod1_apply_1=BAD)}
    names |= {"stopped"}
    assert names <= rollouts.DOING.keys()


def test_the_orchestration_passes_on_every_option():
    text = (Path(REPOSITORY) / "salt/orch/rolling.sls").read_text()
    for name in (*rollouts.OPTIONS, "release", "state", "role", "target"):
        assert f"'{name}'" in text or name == "rollback", name
