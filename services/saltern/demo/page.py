"""The report of a demo as one HTML page, with nothing to fetch. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from saltern.demo.results import Result, verdict

_STYLE = """
:root { color-scheme: light dark; --paper: #f6f8f8; --card: #fff; --ink: #14262b; --soft: #51666c; --line: #d9e2e3;
  --good: #146b3e; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --paper: #0c1517; --card: #132024; --ink: #e4eeee; --soft: #9db1b5;
  --line: #263a3f; --good: #5fd38d; --bad: #ff8d83; } }
body { margin: 0 auto; max-width: 60rem; padding: 1.5rem 1rem 3rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.4rem; margin: 0 0 .25rem; } h2 { font-size: 1.05rem; margin: 0; }
p { margin: .25rem 0 1rem; color: var(--soft); }
table { border-collapse: collapse; width: 100%; margin: 1rem 0 2rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 1rem 1.2rem; margin: 1rem 0; }
.pass { color: var(--good); font-weight: 600; } .FAIL { color: var(--bad); font-weight: 600; }
.skipped { color: var(--soft); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem .8rem; margin: .6rem 0 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
a { color: inherit; }
"""


def page(results: Sequence[Result], fleet: str, about: str) -> str:
    """The whole page.

    :param about: a line on where and when it was taken
    """
    table = "".join(
        f'<tr><td><a href="#{escape(r.step.name)}">{escape(r.step.name)}</a></td><td class="{r.word}">{r.word}</td>'
        f"<td>{escape(r.measured or '-')}</td><td>{escape(r.step.goal)} {escape(r.step.unit)}</td></tr>"
        for r in results
    )
    sections = "".join(map(_section, results))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width, initial-scale=1"><title>Saltern demo: {escape(fleet)}</title>'
        f"<style>{_STYLE}</style></head><body>\n<h1>Saltern demo: fleet {escape(fleet)}</h1>\n"
        f"<p>{escape(about)}</p>\n<p>{escape(verdict(results))}</p>\n"
        '<table><thead><tr><th scope="col">step</th><th scope="col"></th><th scope="col">measured</th>'
        f'<th scope="col">goal</th></tr></thead><tbody>{table}</tbody></table>\n{sections}</body></html>\n'
    )


def _section(result: Result) -> str:
    step = result.step
    notes = "".join(f"<dt>{kind}</dt><dd>{escape(words)}</dd>" for kind, words in result.notes)
    notes += "".join(f'<dt class="FAIL">not right</dt><dd>{escape(words)}</dd>' for words in result.broken)
    if result.skipped:
        notes += f"<dt>skipped</dt><dd>{escape(result.skipped)}</dd>"
    figure = f"{result.measured} ({step.figure}; goal {step.goal})" if result.measured else "no figure"
    return (
        f'<section id="{escape(step.name)}"><h2>{escape(step.name)} '
        f'<span class="{result.word}">{result.word}</span></h2>'
        f"<p>{escape(step.title)}</p><strong>{escape(figure)}</strong><dl>{notes}</dl></section>\n"
    )
