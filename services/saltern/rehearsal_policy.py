"""What other thresholds would have made of what the journal tells: pure, over lines that were written.

The journal holds, of each time a machine came under pressure, how much it was then (`alert.firing`), and what the fleet
did about it, with that event as its cause. With a higher mark those that were below it would not have been said, and
nothing would have come of them. What the journal cannot tell is how far such a machine went on to rise: where the
pressure lasted until the next repetition, a higher mark may only have come later, and the answer says how long it was.
A lower mark than was set would have found what nobody wrote down: nothing is said of that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from saltern.errors import SalternError
from saltern.fleet import ROLES, role_of
from saltern.journal import Line, origin, stamp

METRICS = ("cpu", "memory")
NEAR_S = 60.0
"""The conductor writes when it heard of an event, not its counter: they are one if they are this near to each other."""
_EDGE = re.compile(r"salt/beacon/(?P<machine>[a-z]+[0-9]{1,4})/(?P<metric>cpu|memory)/high\Z")
_PERCENT = re.compile(r"(?P<percent>[0-9]+(?:\.[0-9]+)?) %")


@dataclass(frozen=True)
class Edge:
    """A machine came under pressure.

    :ivar percent: how much it was; :ivar lasted_s: until it was over, or None when that is not written
    """

    machine: str
    metric: str
    at: float
    percent: float
    lasted_s: float | None = None


def edges(lines: Sequence[Line]) -> list[Edge]:
    """Every time a machine came under pressure; lines are oldest first."""
    found: list[Edge] = []
    for at, line in enumerate(lines):
        head = _EDGE.match(origin(line.cause).text)
        value = _PERCENT.match(str(line.fields.get("value", "")))
        if line.kind != "alert.firing" or head is None or value is None:
            continue
        print_ = line.fields.get("fingerprint")
        over = next(
            (
                o
                for o in lines[at + 1 :]
                if o.kind == "alert.resolved" and o.fields.get("fingerprint") == print_
            ),
            None,
        )
        found.append(
            Edge(
                head["machine"], head["metric"], line.at, float(value["percent"]),
                None if over is None else over.at - line.at,
            )
        )  # fmt: skip
    return found


def acts(lines: Iterable[Line]) -> list[tuple[str, Line, str, str, float | None]]:
    """What the fleet did because of pressure: what, the line, whose, of what, and when that was said."""
    found = []
    for line in lines:
        cause = origin(line.cause)
        head = _EDGE.match(cause.text)
        if head is None:
            continue
        what = ""
        if line.kind == "canary.off":
            what = "canary off"
        elif line.kind == "alert.firing":
            what = "alert"
        elif line.kind == "intent.queued" and line.fields.get("kind") in ("scale", "resize"):
            what = "scale-out" if line.fields["kind"] == "scale" else "resize"
        if what:
            found.append((what, line, head["machine"], head["metric"], cause.at))
    return found


def rehearse(lines: Sequence[Line], metric: object, high: object, role: object = "") -> dict[str, Any]:
    """What would not have happened with `high` per cent as the mark of a metric.

    :param lines: of the journal, oldest first
    :param role: whose mark; empty is everybody's
    :raises SalternError: a value is not right
    """
    if metric not in METRICS:
        raise SalternError(f"rehearse.policy: metric {metric!r} is not one of {', '.join(METRICS)}")
    if isinstance(high, bool) or not isinstance(high, int | float) or not 0 < high <= 100:
        raise SalternError(f"rehearse.policy: high {high!r} is not a percentage above 0")
    if role not in ("", *ROLES):
        raise SalternError(
            f"rehearse.policy: role {role!r} is not one of {', '.join(ROLES)}, or nothing for all"
        )
    known = edges(lines)
    rows, counts = [], {}
    for what, line, machine, of, at in acts(lines):
        if of != metric or (role and role_of(machine) != role):
            continue
        when = line.at if at is None else at
        near = [e for e in known if (e.machine, e.metric) == (machine, of) and abs(e.at - when) <= NEAR_S]
        edge = min(near, key=lambda e: abs(e.at - when), default=None)
        total, gone = counts.get(what, (0, 0))
        below = edge is not None and edge.percent < high
        counts[what] = (total + 1, gone + below)
        rows.append({
            "at": stamp(line.at),
            "what": line.what if what != "alert" else f"alert {line.fields.get('alert')} of {machine}",
            "because": f"{machine} {of}" + (f" {edge.percent:g} %" if edge else ""),
            "would": "not be known: the journal does not tell how much it was" if edge is None
            else f"not have happened{_lasting(edge)}" if below else "have happened all the same",
            "line": line.id,
        })  # fmt: skip
    said = [f"{gone} of {total} {_plural(what, total)}" for what, (total, gone) in sorted(counts.items())]
    return {
        "with": f"{metric} high: {high:g}" + (f" for {role}" if role else ""),
        "from": stamp(lines[0].at) if lines else "",
        "to": stamp(lines[-1].at) if lines else "",
        "summary": f"{', '.join(said)} would not have happened"
        if said
        else "nothing came of pressure in this time",
        "decisions": rows,
    }


def _lasting(edge: Edge) -> str:
    if edge.lasted_s is None:
        return ", unless it went on to rise"
    return f", unless it rose further within the {edge.lasted_s:.0f} s it lasted"


def _plural(what: str, count: int) -> str:
    return what if count == 1 else f"{what}s"
