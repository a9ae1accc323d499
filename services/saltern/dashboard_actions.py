"""What a person may do from the dashboard: what it would bring about, in words, and the request to the admin API.

Nothing is done here. The admin API checks every value again, and its answer is what counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from saltern import admin_schema, registry
from saltern.admin_operations import COMMAND, HOURS, NAME, SILENCE
from saltern.admin_routes import REASON, SHARE
from saltern.errors import SalternError
from saltern.fleet import MACHINE_ID

_KEY: admin_schema.Schema = {
    "type": "string",
    "pattern": r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$",
    "description": "a flag's key",
}
_SCHEMAS: Mapping[str, Mapping[str, Any]] = {
    "share": {"share": SHARE},
    "canary.off": {"reason": REASON},
    "canary.on": {},
    "flag": {"key": _KEY, "variant": {"type": "string", "minLength": 1, "maxLength": 200}},
    "flag.state": {"key": _KEY, "on": {"type": "boolean"}},
    "instance": {
        "id": {"type": "string", "pattern": MACHINE_ID.pattern.replace(r"\Z", "$"), "description": "a machine's id"},
        "want": {"enum": list(registry.WANTS)},
    },
    "step": {"command": COMMAND, "reason": REASON},
    "silence": {"alert": NAME, "machine": NAME, "hours": HOURS, "reason": REASON},
    "unsilence": {"id": SILENCE},
}  # fmt: skip


class ActionError(SalternError):
    """An action that cannot be; the text says which, and what would be right."""


@dataclass(frozen=True)
class Action:
    """Something to do.

    :ivar method: of the admin API's request; :ivar path: likewise; :ivar body: likewise
    :ivar will: what will happen, a sentence each
    """

    method: str
    path: str
    body: Mapping[str, Any] = field(default_factory=dict)
    will: tuple[str, ...] = ()


def understand(asked: Any, picture: Mapping[str, Any]) -> Action:
    """The action that a page asks for: ``{"do": NAME, ...}``.

    :param picture: the dashboard's document, for what is now
    :raises ActionError: there is no such action, or a value of it cannot be
    """
    name = asked.get("do") if isinstance(asked, dict) else None
    if not isinstance(name, str) or name not in _SCHEMAS:
        raise ActionError(f"do: {admin_schema.show(name)} is not one of {', '.join(_SCHEMAS)}")
    values = {key: value for key, value in asked.items() if key != "do"}
    properties = _SCHEMAS[name]
    schema = {"properties": properties, "required": list(properties), "additionalProperties": False}
    try:
        admin_schema.check(schema, values, name)
    except admin_schema.Unfit as error:
        raise ActionError(str(error)) from None
    return _ACTIONS[name](values, picture)


def _share(values: Mapping[str, Any], picture: Mapping[str, Any]) -> Action:
    share, split = int(values["share"]), picture.get("split", {})
    canaries = _ready(picture, "canary")
    will = [f"The canary's share becomes {share} %; it is {split.get('share', 'unknown')} % now."]
    if latch := split.get("latch"):
        will.append(f"The canary is off ({latch['reason']}): it gets nothing until somebody turns it on.")
    elif not canaries:
        will.append("No canary is up: production answers everything until one is.")
    else:
        will.append(f"Of 100 requests about {share} go to {_and(canaries)}, {100 - share} to production.")
    will += _stepping(picture)
    return Action("PUT", "/split", {"share": share}, tuple(will))


def _off(values: Mapping[str, Any], picture: Mapping[str, Any]) -> Action:
    split = picture.get("split", {})
    will = [
        "Every request goes to production, at once."
        if not split.get("latch")
        else f"Nothing: the canary is off already ({split['latch']['reason']}).",
        "It stays so until somebody turns the canary on, or it runs a new release.",
    ]
    if picture.get("steps", {}).get("phase") in ("stepping", "paused", "promoted"):
        will.append(
            f"The release by steps, {picture['steps'].get('release', '')}, is aborted and never comes back."
        )
    return Action("POST", "/canary/off", {"reason": values["reason"]}, tuple(will))


def _on(values: Mapping[str, Any], picture: Mapping[str, Any]) -> Action:
    split = picture.get("split", {})
    if not split.get("latch"):
        will = ["Nothing: the canary is not off."]
    else:
        will = [
            f"It was turned off because: {split['latch']['reason']}.",
            f"Once the canary is found healthy, it gets its share again: {split.get('share', 'unknown')} %.",
        ]
    return Action("POST", "/canary/on", {}, tuple(will))


def _flag(values: Mapping[str, Any], picture: Mapping[str, Any]) -> Action:
    key, variant = values["key"], values["variant"]
    known = _known_flag(key, picture)
    if variant not in known["variants"]:
        raise ActionError(
            f"flag {key}: there is no variant {variant!r}; there are {', '.join(known['variants'])}"
        )
    will = [
        f"{key} becomes {variant} ({known['variants'][variant] or 'empty'}) on every machine, within a second; "
        f"it is {known.get('variant', 'the code’s default')} now."
    ]
    if known["targeted"]:
        will.append("It has targeting rules: whom they concern sees no difference.")
    if not known["on"]:
        will.append("It is disabled: nobody sees a difference until it is enabled.")
    return Action("PUT", f"/flags/{quote(key, safe='')}", {"defaultVariant": variant}, tuple(will))


def _flag_state(values: Mapping[str, Any], picture: Mapping[str, Any]) -> Action:
    key, on = values["key"], values["on"]
    known = _known_flag(key, picture)
    word = (
        f"{key} counts again: {known.get('variant', 'the code’s default')}, on every machine, within a second."
        if on
        else f"{key} is disabled: every machine takes the code's default within a second."
    )
    same = () if known["on"] is not on else ("It is so already.",)
    return Action(
        "PUT", f"/flags/{quote(key, safe='')}", {"state": "ENABLED" if on else "DISABLED"}, (word, *same)
    )


def _instance(values: Mapping[str, Any], picture: Mapping[str, Any]) -> Action:
    id_, want = values["id"], values["want"]
    machine = picture.get("machines", {}).get(id_, {})
    if "pool" not in machine:
        raise ActionError(f"instance {id_}: it serves no requests; machines of the pools prod and canary do")
    others = [each for each in _ready(picture, machine["pool"]) if each != id_]
    if want == "ready":
        will = [f"{id_} gets requests again as soon as its health check passes."]
    else:
        verb = (
            "finishes its open requests and gets no new ones"
            if want == "drain"
            else "gets no requests, at once"
        )
        will = [f"{id_} {verb}, until it is set to ready."]
        if others:
            will.append(f"{_and(others)} of its pool {'serves' if len(others) == 1 else 'serve'} on.")
        elif machine["pool"] == "canary":
            will.append("It is the only canary that is up: production answers everything.")
        else:
            will.append("It is the last of production that is up: it is kept until another one serves.")
    return Action("PUT", f"/instances/{id_}", {"want": want}, tuple(will))


def _step(values: Mapping[str, Any], picture: Mapping[str, Any]) -> Action:
    command, at = values["command"], picture.get("steps", {})
    shares = sorted(map(int, at.get("shares", {})))
    runs = ", ".join(picture.get("split", {}).get("releases", {}).get("canary", ())) or "nothing"
    release, phase = at.get("release", ""), at.get("phase", "idle")
    if command != "start" and phase not in ("stepping", "paused", "promoted"):
        raise ActionError(f"step: {command}: no release is on its way by steps; start begins one")
    least = shares[0] if shares else 0
    will = {
        "start": (
            f"{runs}, which the canary runs, gets {least} % of the requests, and more at each step that the "
            f"judge passes: {', '.join(f'{share} %' for share in shares)}.",
            "A broken limit takes it out of traffic for good.",
        ),
        "pause": (
            f"{release} stays at its share until somebody resumes; a broken limit still takes it out of traffic.",
        ),
        "resume": (
            f"The step of {release} at {at.get('share', 0)} % begins anew, or the next one if that is what was asked.",
        ),
        "promote": (
            f"{release} counts as good: no more steps, and the judge is not asked again.",
            "Its share stays until production runs it (salt-run rollout.start).",
        ),
        "abort": (
            f"Every request goes to production, at once, and {release} never comes back by steps.",
            "The canary is off until somebody turns it on, or it runs a new release.",
        ),
    }[command]
    return Action("POST", "/canary/steps", {"do": command, "reason": values["reason"]}, will)


def _silence(values: Mapping[str, Any], picture: Mapping[str, Any]) -> Action:
    if values["alert"] == values["machine"] == "*":
        raise ActionError("silence: everything at once is too much; name an alert or a machine")
    alert = "any alert" if values["alert"] == "*" else values["alert"]
    machine = "any machine" if values["machine"] == "*" else values["machine"]
    will = (
        f"For {values['hours']:g} hours nobody is mailed about {alert} of {machine}.",
        "The alert stays in the list, and what the fleet does by itself goes on.",
    )
    return Action("POST", "/silences", {**values}, will)


def _unsilence(values: Mapping[str, Any], picture: Mapping[str, Any]) -> Action:
    known = picture.get("silences", {}).get(values["id"])
    if known is None:
        raise ActionError(f"unsilence: there is no silence {values['id']}; it may be over")
    will = (f"The silence of {known.get('what', '')} is over: what still fires is mailed again.",)
    return Action("DELETE", f"/silences/{values['id']}", {}, will)


_ACTIONS = {
    "share": _share, "canary.off": _off, "canary.on": _on, "flag": _flag, "flag.state": _flag_state,
    "instance": _instance, "step": _step, "silence": _silence, "unsilence": _unsilence,
}  # fmt: skip


def _known_flag(key: str, picture: Mapping[str, Any]) -> Mapping[str, Any]:
    flags = picture.get("flags", {})
    if key not in flags:
        raise ActionError(f"flag {key}: there is none; there are {', '.join(sorted(flags)) or 'none at all'}")
    return flags[key]


def _ready(picture: Mapping[str, Any], pool: str) -> list[str]:
    """Machines of a pool that serve, or would if it had a share."""
    return [
        id_
        for id_, each in picture.get("machines", {}).items()
        if each.get("pool") == pool and each.get("want") == "ready" and each["state"] != "bad"
    ]


def _stepping(picture: Mapping[str, Any]) -> list[str]:
    at = picture.get("steps", {})
    if at.get("phase") != "stepping":
        return []
    return [f"{at.get('release', 'A release')} is on its way by steps: they pause, and a person is asked."]


def _and(names: list[str]) -> str:
    shown = names if len(names) <= 4 else [*names[:3], f"{len(names) - 3} more"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
