"""Rolls in every order of failures and crashes: what must hold whatever happens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from saltern import rollouts
from saltern.fleet import REPOSITORY
from saltern.rollouts import FORWARD, Plan, Settings, Sight, walk

SETTINGS = Settings.from_pillar(yaml.safe_load((REPOSITORY / "pillar/rollout.sls").read_text())["rollout"])


class Crash(Exception):
    """Whoever carries the roll out ends here; what is written down stays."""


@dataclass
class World:
    """Machines as a roll leaves them: what each runs, which are in traffic, and what the fleet wishes them to run."""

    runs: dict[str, str]
    out: set[str]
    pool: str = "old"
    own: dict[str, str] = field(default_factory=dict)
    most_out: int = 0

    def wanted(self, id_: str) -> str:
        return self.own.get(id_, self.pool)

    def leave(self, ids: tuple[str, ...]) -> None:
        self.out |= set(ids)
        self.most_out = max(self.most_out, len(self.out))


def carry_out(
    plan: Plan, world: World, facts: dict, fails: Callable[[str], bool], crash: Callable[[], bool]
) -> None:
    """Do what the steps say, as `rolling` does; each may crash before it acts, after, or once it is written down."""
    for name in walk(plan, facts):
        if name in facts:
            continue
        if crash():
            raise Crash
        found = act(plan, world, facts, name, fails(name))
        if crash():
            raise Crash
        facts[name] = found
        if crash():
            raise Crash


def act(plan: Plan, world: World, facts: dict, name: str, fails: bool) -> dict:
    _, what = rollouts.parts(name)
    ids = rollouts.machines_of(name)
    if what == "take":
        taken = sum(len(f["machines"]) for n, f in facts.items() if rollouts.parts(n)[1] == "take")
        left = plan.order[taken:]
        gate = rollouts.gate(plan, SETTINGS, left, Sight(now=0.0, out=frozenset(world.out)))
        return {"failed": "shut"} if fails or not gate.take else {"machines": list(gate.take)}
    if what == "drain":
        world.leave(ids)
    if what == "apply":
        world.own |= dict.fromkeys(ids, plan.name)
        # One that fails may have got anywhere.
        world.runs |= dict.fromkeys(ids, "half" if fails else plan.name)
    if what == "ready" and not fails:
        world.out -= set(ids)
    if what == "settle":
        world.pool = plan.name
        world.own = {}
    if what == "more":
        return {"add": []}
    if what == "back":
        world.own |= {id_: plan.was[id_] for id_ in ids}
        changed = tuple(id_ for id_ in ids if world.runs[id_] != plan.was[id_])
        world.leave(changed)
        world.runs |= {id_: plan.was[id_] for id_ in ids}
        world.out -= set(ids)
        return {"machines": list(ids), "not_back": {}}
    if what == "unsettle":
        stay = set() if rollouts.goes_back(plan) else set(rollouts.done_machines(plan, facts))
        world.pool = plan.previous
        own = {id_: plan.name if id_ in stay else was for id_, was in plan.was.items()}
        world.own = {id_: release for id_, release in own.items() if release != plan.previous}
    found: dict = {"machines": list(ids), "at": 0.0}
    return {**found, "failed": "no"} if fails and what in (*FORWARD, "stage", "steady") else found


@settings(max_examples=400, deadline=None)
@given(
    machines=st.integers(1, 7),
    batch=st.integers(1, 4),
    max_unavailable=st.integers(1, 4),
    policy=st.sampled_from(["back", "stop"]),
    mixed=st.sets(st.integers(1, 7)),
    failing=st.sets(st.integers(0, 60), max_size=3),
    crashes=st.lists(st.integers(0, 40), max_size=6),
)
def test_whatever_fails_and_whenever_it_crashes(
    machines, batch, max_unavailable, policy, mixed, failing, crashes
):
    order = tuple(f"prod{n}" for n in range(1, machines + 1))
    was = {id_: "older" if n in mixed else "old" for n, id_ in enumerate(order, 1)}
    plan = Plan(
        "roll",
        "prod",
        "new",
        order,
        was,
        "old",
        batch=batch,
        max_unavailable=max_unavailable,
        on_failure=policy,
    )

    def through(crashing: list[int]) -> tuple[World, dict]:
        world, facts = World(dict(was), set()), {}
        numbers: dict[str, int] = {}

        def fails(name: str) -> bool:
            return numbers.setdefault(name, len(numbers)) in failing

        left = [*crashing]
        while True:
            until = [left.pop(0)] if left else []

            def crash(until: list[int] = until) -> bool:
                if not until:
                    return False
                until[0] -= 1
                return until[0] < 0

            try:
                carry_out(plan, world, facts, fails, crash)
            except Crash:
                continue
            return world, facts

    world, facts = through([])
    again, facts_again = through(crashes)
    # A crash anywhere changes nothing about the end.
    assert (again.runs, again.pool, again.own, again.out) == (world.runs, world.pool, world.own, world.out)
    assert facts_again.keys() == facts.keys()
    for end in (world, again):
        assert end.most_out <= max_unavailable
        # All serve, and run what the fleet says they do: what happens next to a machine changes nothing.
        assert not end.out
        assert all(end.runs[id_] == end.wanted(id_) for id_ in order)
        if not rollouts.failure(facts):
            assert set(end.runs.values()) == {"new"} and end.pool == "new" and not end.own
        elif policy == "back":
            assert end.runs == was and end.pool == "old"
        else:
            done = rollouts.done_machines(plan, facts)
            assert end.pool == "old"
            assert end.runs == {id_: "new" if id_ in done else was[id_] for id_ in order}
