"""What Salt's runners ``canary.*`` do, on the master.

They are the admin API's functions, without HTTP. Turning the canary off is the one thing that must work
without Redis; then it goes over the admin API on the proxy, which tells HAProxy itself.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import redis

from saltern import canary_control, members, overview, pillar, samples, secrets, stepping, windows
from saltern import judge as judging
from saltern.errors import SalternError
from saltern.fleet import Fleet, role_of, write_atomically
from saltern.registry import Registry, check_share, check_text

_TIMEOUT_S = 5.0
_LONGEST_S = 7200
"""The controller keeps two hours of seconds."""


def status(fleet: Fleet) -> dict[str, Any]:
    """The canary's share and latch, and where its steps are.

    Raises SalternError, RegistryError, StepsError or redis.RedisError when the registry cannot be read.
    """
    registry = _registry(fleet)
    view = stepping.look(registry)
    return {
        **overview.canary(view.registry, overview.read_observed(registry.client)),
        "steps": stepping.shown(view.steps),
    }


def share(fleet: Fleet, percent: object, *, cause: str = "", by: str) -> dict[str, Any]:
    """Set the canary's share.

    Raises RegistryError on anything but a percentage, and redis.RedisError.
    """
    wanted = check_share(percent)
    return canary_control.set_share(_registry(fleet), wanted, by=by, cause=cause).to_data()


def on(fleet: Fleet, reason: str = "", *, cause: str = "", by: str) -> dict[str, Any]:
    """Open the latch.

    Raises RegistryError on an unprintable reason, and redis.RedisError.
    """
    return canary_control.turn_on(_registry(fleet), by=by, reason=reason, cause=cause).to_data()


def off(fleet: Fleet, reason: str, *, cause: str = "", by: str) -> dict[str, Any]:
    """Turn the canary off, in the registry or, failing that, by way of every proxy's admin API.

    Raises RegistryError on an unusable reason, SalternError when neither way is open.
    """
    try:
        return canary_control.turn_off(_registry(fleet), reason, by=by, cause=cause).to_data()
    except redis.RedisError as error:
        return off_by_proxies(fleet, reason, f"redis: {error}", cause=cause, by=by)


def off_by_proxies(fleet: Fleet, reason: str, problem: str, *, cause: str = "", by: str) -> dict[str, Any]:
    """Have every proxy turn the canary off by itself; the registry learns of it when it can be reached.

    ``problem`` says why not through the registry. Raises SalternError when a proxy does not take it.
    """
    body = {"reason": f"{by}: {reason}"[:200], "cause": cause}
    proxies = [name for name in fleet.addresses() if role_of(name) == "proxy"]
    answers = {name: _post(fleet, name, "/canary/off", body) for name in proxies}
    if refusals := [answer["error"] for answer in answers.values() if "error" in answer]:
        raise SalternError(f"canary: it may still be on; {problem}; {'; '.join(refusals)}")
    if not answers:
        raise SalternError(f"canary: it is still on; {problem}, and fleet {fleet.name} has no proxy to tell")
    return {"redis": problem, **answers}


def step(
    fleet: Fleet,
    kind: str,
    release: str = "",
    *,
    by: str,
    reason: str = "",
    cause: str = "",
    question: int | None = None,
) -> dict[str, Any]:
    """Start, pause, resume, promote or abort a release by steps; `stepping.give` says which release is meant.

    Raises StepsError when it is not possible, RegistryError, SalternError, redis.RedisError.
    """
    check_text(reason, "reason")
    plan = stepping.Settings.from_pillar(pillar.load(fleet.pillar_dir)).plan
    moved = stepping.give(
        _registry(fleet), plan, kind, release, by=by, reason=reason, cause=cause, question=question
    )
    return moved.to_data()


def judge(
    fleet: Fleet,
    seconds: object = 300,
    *,
    save: str = "",
    share: object = None,
    thresholds: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Judge the canary on what the controller and the machines recorded in the last ``seconds``.

    Thresholds come from the pillar's ``canary:judge``, then from ``thresholds``; ``save`` names a file for
    the record. With ``share``, what was compared at that step of the release under way is judged again.

    Raises SalternError on a bad number and when there is nothing to judge, and redis.RedisError.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 1 <= seconds <= _LONGEST_S:
        raise SalternError(f"canary.judge: seconds {seconds!r} is not a number from 1 to {_LONGEST_S}")
    client = _registry(fleet).client
    configured = pillar.load(fleet.pillar_dir)["canary"]["judge"]
    try:
        limits = judging.Thresholds().with_values(configured).with_values(thresholds or {})
        if share is None:
            now, _ = client.time()
            canary, production = samples.judged(client, windows.read(client, now - seconds))
        else:
            kept = stepping.kept_window(client, check_share(share))
            canary, production = kept.canary, kept.baseline
        record = judging.Record(canary, production, limits)
        verdict = judging.judge(canary, production, limits)
    except judging.JudgeError as error:
        raise SalternError(str(error)) from error
    if save:
        write_atomically(Path(save), record.to_json() + "\n")
    return {
        "verdict": verdict.verdict,
        "reason": verdict.reason,
        "metrics": {metric.name: _metric(metric) for metric in verdict.metrics},
        "window": {
            "started": canary.started,
            "seconds": round(canary.seconds, 1),
            "canary": {"requests": canary.requests, "errors": canary.errors},
            "production": {"requests": production.requests, "errors": production.errors},
        },
    }


def _metric(metric: judging.Metric) -> dict[str, Any]:
    found = asdict(metric)
    del found["name"]
    return {"production" if name == "baseline" else name: _rounded(value) for name, value in found.items()}


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _registry(fleet: Fleet) -> Registry:
    return Registry(members.link(fleet))


def _post(fleet: Fleet, proxy: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Ask a proxy's admin API; the answer, or what was wrong as ``error``: one proxy does not stop the next."""
    port = pillar.load(fleet.pillar_dir)["admin"]["port"]
    token = secrets.load(fleet)["admin"]["write"]
    link = http.client.HTTPConnection(fleet.addresses()[proxy], port, timeout=_TIMEOUT_S)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    try:
        link.request("POST", path, json.dumps(body), headers)
        answer = link.getresponse()
        return {"status": answer.status, **json.loads(answer.read())}
    except (OSError, http.client.HTTPException, ValueError) as error:
        return {"error": f"{proxy}: the admin API does not answer ({error})"}
    finally:
        link.close()
