"""What a step of the demo came to, for a person and for a program. Pure: plain values in, text or a table out."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from saltern.errors import SalternError

_SIGNS = {"<=": lambda a, b: a <= b, ">=": lambda a, b: a >= b}


@dataclass(frozen=True)
class Step:
    """One thing that is shown.

    :ivar name: the field's own term for it
    :ivar title: what is to be seen, one sentence
    :ivar figure: what is measured; :ivar unit: of that; :ivar goal: a comparison such as ``<= 3.2``
    :ivar roles: how many machines of which role it takes
    :ivar calm: whether what the fleet does by itself has to wait meanwhile
    """

    name: str
    title: str
    figure: str
    unit: str
    goal: str
    roles: Mapping[str, int] = field(default_factory=dict)
    calm: bool = True

    def lacks(self, numbers: Mapping[str, int]) -> str:
        """What a fleet with so many machines of each role lacks for this; nothing if it can be shown."""
        short = [f"{least} {role}" for role, least in self.roles.items() if numbers.get(role, 0) < least]
        return f"takes at least {' and '.join(short)} machines" if short else ""


@dataclass(frozen=True)
class Outcome:
    """What was measured, and what else was not as it must be."""

    figure: float
    broken: Sequence[str] = ()


@dataclass(frozen=True)
class Result:
    """A step that was shown.

    :ivar figure: what was measured; None when it did not come to that
    :ivar notes: what was done and seen, in order: (``did`` or ``saw``, words)
    :ivar broken: what was not as it must be, apart from the figure
    :ivar skipped: why it was not shown; nothing if it was
    :ivar seconds: how long it took, with putting everything back
    """

    step: Step
    figure: float | None = None
    notes: Sequence[tuple[str, str]] = ()
    broken: Sequence[str] = ()
    skipped: str = ""
    seconds: float = 0.0

    @property
    def passed(self) -> bool | None:
        """Whether the figure meets the goal and nothing is broken; None when the step was not shown."""
        if self.skipped:
            return None
        return self.figure is not None and meets(self.figure, self.step.goal) and not self.broken

    @property
    def word(self) -> str:
        return {True: "pass", False: "FAIL", None: "skipped"}[self.passed]

    @property
    def measured(self) -> str:
        """The figure with its unit, for a person."""
        return "" if self.figure is None else f"{self.figure:g} {self.step.unit}"

    def to_data(self) -> dict[str, Any]:
        """What ``--json`` tells of it."""
        return {
            "name": self.step.name, "passed": self.passed, "figure": self.figure,
            "unit": self.step.unit, "goal": self.step.goal,
        }  # fmt: skip


def meets(figure: float, goal: str) -> bool:
    """Whether a figure is as a goal wants it.

    :raises ValueError: the goal is no comparison
    """
    sign, _, number = goal.partition(" ")
    if sign not in _SIGNS:
        raise ValueError(f"goal {goal!r}: {' or '.join(_SIGNS)} and a number are right")
    return _SIGNS[sign](figure, float(number))


def choose(steps: Sequence[Step], names: Sequence[str]) -> list[Step]:
    """The steps of these names in the order of the tour; all of them when none is named.

    :raises SalternError: there is none of a name
    """
    known = {step.name: step for step in steps}
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            remedy = f"{close[0]} is meant?" if close else f"there are {', '.join(known)}"
            raise SalternError(f"demo {name!r}: no step by this name; {remedy}")
    return [step for step in steps if not names or step.name in names]


def line(results: Iterable[Result]) -> str:
    """One line of JSON."""
    return json.dumps({"steps": [result.to_data() for result in results]})


def rows(results: Iterable[Result]) -> list[tuple[str, str, str, str, str]]:
    """A table for a person: step, whether it passed, what was measured, the goal, seconds it took."""
    return [
        (
            result.step.name,
            result.word,
            result.skipped
            or (f"{result.measured}  {result.step.figure}" if result.measured else "no figure"),
            f"{result.step.goal} {result.step.unit}",
            "" if result.skipped else f"{result.seconds:.0f} s",
        )
        for result in results
    ]


def verdict(results: Sequence[Result]) -> str:
    """The last line."""
    shown = [result for result in results if not result.skipped]
    failed = [result.step.name for result in shown if not result.passed]
    words = f"{len(shown) - len(failed)} of {len(shown)} steps passed"
    if failed:
        words += f"; not: {', '.join(failed)}"
    skipped = len(results) - len(shown)
    return words + (f"; {skipped} skipped" if skipped else "")


def status(results: Iterable[Result]) -> int:
    """The exit status: 0 when every step that was shown passed, else 1."""
    return int(any(result.passed is False for result in results))
