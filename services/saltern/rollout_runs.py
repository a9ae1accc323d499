"""What `salt-run rollout.*` does: ask for a roll, follow it, stop it, go back, and say what would happen."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import redis

from saltern import artifact, journal, observed, redis_runs, rollouts
from saltern.errors import SalternError
from saltern.fleet import Fleet, role_of
from saltern.intents import Intent, Queue
from saltern.members import link
from saltern.registry import Registry
from saltern.rollouts import UNFINISHED

POLL_S = 0.2
LONGEST_WAIT_S = 3600
SHOWN = 5

Say = Callable[[str], object]


def start(
    fleet: Fleet,
    release: object = None,
    *,
    target: object = "prod",
    state: object = None,
    role: object = "all",
    wait: object = 0,
    test: bool = False,
    by: str,
    cause: str = "",
    reason: str = "",
    options: Mapping[str, Any] | None = None,
    say: Say | None = None,
) -> dict[str, Any]:
    """Have a release rolled over a pool, or a state over roles.

    :param release: None is the one that the canary runs
    :param wait: seconds to wait for the end; 0 answers at once
    :param test: tell what would be done, and do nothing
    :param say: called with each line of progress while it is waited for
    :raises SalternError: it is not possible, or did not come to a good end in time
    """
    seconds = _wait(wait)
    chosen = dict(options or {})
    if state is not None and release is not None:
        raise SalternError("rollout.start: either a release or a state; not both")
    if state is None and release is None:
        release = _running(fleet, "canary")
    if test:
        return plan(fleet, release, target=target, state=state, role=role, options=chosen)
    if state is not None:
        id_ = rollouts.request_state(fleet, state, role, by=by, cause=cause, reason=reason, **chosen)
    else:
        id_ = rollouts.request(fleet, str(target), str(release), by=by, cause=cause, reason=reason, **chosen)
    return _answer(fleet, id_, seconds, say)


def _running(fleet: Fleet, pool: str) -> str:
    found = artifact.releases(fleet).get(pool)
    if found is None:
        raise SalternError(f"release of {pool!r}: none was built; `./saltern up` builds it")
    return found.id


def plan(
    fleet: Fleet,
    release: object,
    *,
    target: object = "prod",
    state: object = None,
    role: object = "all",
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What would be done, in order: nothing is."""
    settings = rollouts.settings(fleet).with_options(rollouts.check_options(options or {}))
    client = link(fleet)
    there = Registry(client).snapshot().instances
    servers = (observed.read_observed(client) or {"servers": {}})["servers"]
    sessions = {id_: int(server["sessions"]) for id_, server in servers.items()}
    if state is not None:
        roles = rollouts.check_roles(role)
        names = [id_ for id_, about in fleet.inventory().items() if about["made"] and role_of(id_) in roles]
        primary = redis_runs.primary(fleet) if any(role_of(id_) == "redis" for id_ in names) else ""
        skipped = {id_: there[id_].want for id_ in names if id_ in there and there[id_].want != "ready"}
        order = rollouts.safe_order([id_ for id_ in names if id_ not in skipped], primary, sessions)
        size = sum(i.pool == "prod" for i in there.values())
    else:
        if target not in rollouts.KIND_OF_POOL:
            raise SalternError(f"rollout: target {target!r}: not one of {', '.join(rollouts.KIND_OF_POOL)}")
        if release not in artifact.known(fleet):
            raise SalternError(f"rollout: release {release!r}: not kept; salt-run rollout.status lists those")
        pool = {id_: i for id_, i in there.items() if i.pool == target}
        skipped = {id_: i.want for id_, i in pool.items() if i.want != "ready"}
        going = [id_ for id_, i in pool.items() if i.want == "ready" and i.release != release]
        order = rollouts.in_order(going, sessions, rollouts.out(servers, pool), settings.order)
        size = len(pool)
    batch = rollouts.amount(settings.batch, size)
    answer: dict[str, Any] = {
        "would": [f"{id_}: {_would(there, id_, str(state or release))}" for id_ in order]
        or ["nothing: it is so"],
        "batch": batch,
        "max_unavailable": rollouts.amount(settings.max_unavailable, size),
        "min_healthy_s": settings.min_healthy_s,
        "on_failure": "stop" if state is not None else settings.on_failure,
    }
    if skipped:
        answer["skipped"] = skipped
    if not settings.force and (why := rollouts.frozen(settings.freeze, time.time())):
        answer["frozen"] = f"{why}; force=True does all the same"
    return answer


def _would(there: Mapping[str, Any], id_: str, what: str) -> str:
    if id_ not in there:
        return f"apply {what}"
    found = there[id_]
    return (
        f"drain, apply {what}, check, ready, watch"
        if found.release == what
        else (f"drain, {found.release} to {what}, check, ready, watch")
    )


def rollback(
    fleet: Fleet,
    release: object = None,
    *,
    target: object = "prod",
    wait: object = 0,
    by: str,
    cause: str = "",
    reason: str = "",
    say: Say | None = None,
) -> dict[str, Any]:
    """Go back to a release that is kept; a roll that is under way is stopped first.

    :param release: None is the one that the pool ran before
    :raises SalternError: there is none, or it did not come to a good end in time
    """
    seconds = _wait(wait)
    if target not in rollouts.KIND_OF_POOL:
        raise SalternError(f"rollout: target {target!r}: not one of {', '.join(rollouts.KIND_OF_POOL)}")
    client = link(fleet)
    going = [i for i in rollouts.rolls(client) if i.pool == target and i.state == "running"]
    # While another is on its way, the pool still is to run what it ran before it.
    before = _running(fleet, str(target)) if going else artifact.before(fleet, str(target))
    chosen = str(release) if release is not None else before
    if chosen is None:
        raise SalternError(f"rollout.rollback: {target} never ran another release; name one")
    id_ = rollouts.request(fleet, str(target), chosen, by=by, cause=cause, reason=reason, rollback=True)
    rollouts.abort(client, going, f"back to {chosen}", by=by, cause=cause)
    return _answer(fleet, id_, seconds, say)


def abort(fleet: Fleet, *, reason: str = "", by: str, cause: str = "") -> dict[str, Any]:
    """Have every roll that is queued or under way stop and go back.

    :raises SalternError: none is
    """
    client = link(fleet)
    told = rollouts.abort(client, rollouts.rolls(client), reason, by=by, cause=cause)
    if not told:
        raise SalternError("rollout.abort: nothing is rolled; salt-run rollout.status tells what was")
    return {"aborted": told}


def status(fleet: Fleet, *, follow: Say | None = None) -> dict[str, Any]:
    """The last rolls, and every release that can be rolled.

    :param follow: called with each new line of progress, until nothing is under way
    """
    client = link(fleet)
    if follow is not None:
        _follow(client, lambda: [i for i in rollouts.rolls(client) if i.state in UNFINISHED], None, follow)
    runs: dict[str, list[str]] = {}
    for id_, instance in Registry(client).snapshot().instances.items():
        runs.setdefault(instance.release, []).append(id_)
    wanted = artifact.releases(fleet)
    releases = {}
    for id_, kept in artifact.kept(fleet).items():
        about = {
            "kept": journal.stamp(kept.at) if kept.at else "", "branch": kept.branch, "commit": kept.commit,
            "author": kept.author, "runs_on": sorted(runs.get(id_, ())),
            "wanted_by": [pool for pool in artifact.POOLS if pool in wanted and wanted[pool].id == id_],
        }  # fmt: skip
        releases[id_] = {name: value for name, value in about.items() if value}
    return {
        "rolls": [rollouts.shown(intent) for intent in rollouts.rolls(client)[:SHOWN]],
        "releases": releases,
    }


def _wait(wait: object) -> float:
    if isinstance(wait, bool) or not isinstance(wait, int | float) or not 0 <= wait <= LONGEST_WAIT_S:
        raise SalternError(f"wait {wait!r}: not a number of seconds between 0 and {LONGEST_WAIT_S}")
    return wait


def _answer(fleet: Fleet, id_: str, seconds: float, say: Say | None) -> dict[str, Any]:
    client = link(fleet)

    def mine() -> list[Intent]:
        found = Queue(client).load(id_)
        return [found] if found and found.state in UNFINISHED else []

    if seconds:
        _follow(client, mine, seconds, say)
    intent = Queue(client).load(id_)
    if intent is None:
        raise SalternError(f"intent {id_}: it was lost; salt-run rollout.status tells what is queued")
    if intent.state in ("failed", "refused"):
        raise SalternError(f"{intent.kind} {intent.pool}: {intent.state}: {intent.error}")
    return rollouts.shown(intent)


def _follow(
    client: redis.Redis, going: Callable[[], list[Intent]], seconds: float | None, say: Say | None
) -> None:
    """Wait until none is under way, or for so long; every change is said once."""
    end = time.monotonic() + (seconds if seconds is not None else LONGEST_WAIT_S)
    seen: dict[str, str] = {}
    while time.monotonic() < end:
        there = going()
        told = {intent.id: intent for intent in there}
        for id_ in {*told, *seen}:
            intent = told.get(id_) or Queue(client).load(id_)
            line = rollouts.text(rollouts.shown(intent)) if intent else ""
            if say and line and seen.get(id_) != line:
                say(line)
            seen[id_] = line
        if not there:
            return
        time.sleep(POLL_S)
