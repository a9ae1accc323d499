"""The demo as a person at a terminal sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from saltern.demo.results import Result, Step, rows, verdict

STYLES = {"pass": "green", "FAIL": "bold red", "skipped": "dim"}
WIDTH = 110
"""Columns, where it is not a terminal that says how many it has."""


def _console(out: TextIO) -> Console:
    console = Console(file=out, highlight=False, soft_wrap=False)
    return console if console.is_terminal else Console(file=out, highlight=False, width=WIDTH)


class Screen:
    """Tells each thing as it happens."""

    def __init__(self, out: TextIO) -> None:
        self.console = _console(out)

    def begins(self, fleet: str, machines: int, steps: Sequence[Step]) -> None:
        number = f"{len(steps)} steps" if len(steps) != 1 else "one step"
        self.say(f"fleet {fleet}, {machines} machines; {number}. Ctrl-C stops, once all is put back.")

    def step(self, step: Step) -> None:
        self.console.print()
        self.console.print(Text.assemble((step.name, "bold"), "  ", step.title))

    def note(self, kind: str, words: str) -> None:
        self.console.print(Padding(Text.assemble((f"{kind}  ", "dim"), words), (0, 0, 0, 2), expand=False))

    def ended(self, result: Result) -> None:
        if result.skipped:
            self.console.print()
            self.console.print(Text.assemble((result.step.name, "bold"), f"  skipped: {result.skipped}"))
            return
        for words in result.broken:
            self.console.print(
                Padding(Text.assemble(("not right  ", "bold red"), words), (0, 0, 0, 2), expand=False)
            )
        measured = f"{result.measured} {result.step.figure}" if result.measured else "no figure"
        words = f"  {measured}; goal {result.step.goal} {result.step.unit}"
        self.console.print(Text.assemble((result.word.upper(), STYLES[result.word]), words))

    def say(self, words: str) -> None:
        self.console.print(Text(words, "dim"))


def summary(results: Sequence[Result], out: TextIO) -> None:
    """What all steps came to."""
    console = _console(out)
    table = Table(box=None, pad_edge=False)
    for heading in ("step", "", "measured", "goal", "took"):
        table.add_column(heading, overflow="fold")
    for name, word, measured, goal, took in rows(results):
        table.add_row(name, Text(word, STYLES[word]), measured, goal, took)
    console.print()
    console.print(table)
    console.print(verdict(results))
