"""When pressure is high and when it is over: edges with hysteresis, decided from one sample a second.

Pure functions over plain values, so that a beacon can keep its state in a dictionary and write it to a file. The
file is also `salt/_utils/pressure.py`: it imports nothing but the standard library.

A level is ``ok`` or ``high``. It turns ``high`` after ``for`` samples in a row at or above ``high``, and ``ok`` after
``clear`` in a row below ``low``. While high it is said again every ``refresh`` seconds, so that an event that was
lost is made up for; so is ``ok``, ``OK_REPEATS`` times. After that ``ok`` is said every ``calm`` seconds, with the
figure as it is then: who never says a figure cannot be known to have room.
"""

from __future__ import annotations

from typing import Any

DEFAULTS = {
    "high": 50.0,
    "low": 40.0,
    "for": 2,
    "clear": 5,
    "refresh": 30.0,
    "calm": 60.0,
    "ignore": (),
    "waiting": True,
}
"""Percent, percent, samples, samples, seconds, seconds, services whose use does not count, whether waiting counts as
use.
"""
OK_REPEATS = 3
"""How often the end of a pressure is said again: a listener that hears none of four was away for long."""
OURS = frozenset(
    ("enabled", "interval", "beacon_module", "_beacon_name", "disable_during_state_run", "run_once")
)
"""What Salt itself reads from, or adds to, a beacon's configuration."""


def settings(config: object, machine: str) -> dict[str, Any]:
    """A beacon's settings for one machine: defaults, then the configuration, then what its role overrides.

    :param config: as Salt has it, a list of mappings; ``roles`` maps a role to settings of its own
    :raises ValueError: a setting is unknown or not right; the text names it
    """
    if not isinstance(config, list) or not all(isinstance(each, dict) for each in config):
        raise ValueError("not a list of settings, such as [{high: 50}, {low: 40}]")
    given: dict[str, Any] = {}
    for each in config:
        given.update(each)
    roles = given.pop("roles", {})
    role = machine.rstrip("0123456789")
    if not isinstance(roles, dict) or not isinstance(roles.get(role, {}), dict):
        raise ValueError("roles: not a table of roles, each with settings of its own")
    wanted = {**DEFAULTS, **{k: v for k, v in given.items() if k not in OURS}, **roles.get(role, {})}
    for name in wanted:
        if name not in DEFAULTS:
            raise ValueError(f"{name}: no such setting; there are {', '.join(sorted(DEFAULTS))} and roles")
    for name, least, most in (("high", 0, 100), ("low", 0, 100), ("refresh", 1, 86400), ("calm", 1, 86400)):
        if not _is_number(wanted[name]) or not least <= wanted[name] <= most:
            raise ValueError(f"{name}: {wanted[name]!r} is not a number from {least} to {most}")
    for name in ("for", "clear"):
        if not _is_number(wanted[name]) or wanted[name] != int(wanted[name]) or not 1 <= wanted[name] <= 3600:
            raise ValueError(f"{name}: {wanted[name]!r} is not a number of samples from 1 to 3600")
    if not isinstance(wanted["ignore"], list | tuple) or not all(
        isinstance(s, str) for s in wanted["ignore"]
    ):
        raise ValueError(f"ignore: {wanted['ignore']!r} is not a list of services")
    if not isinstance(wanted["waiting"], bool):
        raise ValueError(f"waiting: {wanted['waiting']!r} is not true or false")
    if wanted["low"] > wanted["high"]:
        raise ValueError(f"low: {wanted['low']} is above high, {wanted['high']}; it must not be")
    return wanted


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def fresh() -> dict[str, Any]:
    """The state of a machine about which nothing is known."""
    return {"level": "ok", "over": 0, "under": 0, "since": 0.0, "said": 0.0, "left": 0, "blind": False}


def restored(kept: object) -> dict[str, Any]:
    """A state as it was written down before a restart; a fresh one when it makes no sense.

    Samples in a row are not carried over: what lies between them is unknown.
    """
    state = fresh()
    if not isinstance(kept, dict) or kept.get("level") not in ("ok", "high"):
        return state
    numbers = {name: kept.get(name, 0) for name in ("since", "said", "left")}
    if not all(_is_number(number) for number in numbers.values()):
        return state
    return {**state, **numbers, "level": kept["level"], "blind": kept.get("blind") is True}


def step(
    state: dict[str, Any], percent: float | None, now: float, wanted: dict[str, Any]
) -> tuple[dict[str, Any], str | None]:
    """The state after one more sample, and what is to be said: ``high``, ``ok``, ``blind`` or nothing.

    :param percent: the sample; None when it could not be taken
    :param now: unix seconds
    :param wanted: see `settings`
    """
    new = dict(state)
    if percent is None:
        # A gap proves nothing: it neither ends a pressure nor starts one, and is said once.
        new.update(over=0, under=0, blind=True)
        return new, None if state["blind"] else "blind"
    new["over"] = state["over"] + 1 if percent >= wanted["high"] else 0
    new["under"] = state["under"] + 1 if percent < wanted["low"] else 0
    if state["level"] == "ok" and new["over"] >= wanted["for"]:
        new.update(level="high", since=now, said=now, left=0, blind=False)
        return new, "high"
    if state["level"] == "high" and new["under"] >= wanted["clear"]:
        new.update(level="ok", since=now, said=now, left=OK_REPEATS, blind=False)
        return new, "ok"
    if state["blind"]:
        new.update(said=now, blind=False)
        return new, state["level"]
    calm = state["level"] == "ok" and state["left"] == 0
    again = wanted["calm"] if calm else wanted["refresh"]
    # A clock that was put back must not silence a machine for as long. What may be about to be high is not called ok.
    if not 0 <= now - state["said"] < again and not (state["level"] == "ok" and new["over"]):
        new.update(said=now, left=max(0, state["left"] - 1))
        return new, state["level"]
    return new, None
