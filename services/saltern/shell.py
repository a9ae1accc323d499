"""Run a program and turn its failure into one clear line."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TextIO

from saltern.errors import SalternError


def last_line(text: str) -> str:
    """The last line of a program's output that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "(it printed nothing)"


def _output(log: str | None) -> AbstractContextManager[TextIO | None]:
    """Where a program's output goes: a file that is read again, or back to us."""
    return open(log, "w+", encoding="utf-8", errors="replace") if log else nullcontext()  # noqa: PTH123


def run(
    command: Sequence[str],
    *,
    text: str | None = None,
    env: Mapping[str, str] | None = None,
    log: str | None = None,
    timeout: float | None = None,
    alone: bool = False,
) -> str:
    """Run `command` to its end and return what it printed.

    :param text: what it reads on standard input
    :param log: a file that gets everything it prints, instead of the return value
    :param timeout: seconds until it is killed
    :param alone: in a session of its own, where a terminal's Ctrl-C does not reach it
    :raises SalternError: it is not installed, took too long or exited with another status than 0
    """
    try:
        with _output(log) as out:
            done = subprocess.run(
                command,
                input=text,
                env=env,
                stdout=out or subprocess.PIPE,
                stderr=subprocess.STDOUT if out else subprocess.PIPE,
                text=True,
                timeout=timeout,
                check=False,
                start_new_session=alone,
            )
            if out:
                out.seek(0)
            output = out.read() if out else done.stdout
    except FileNotFoundError as error:
        raise SalternError(
            f"{command[0]}: not installed; `./saltern doctor` names the package that has it"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise SalternError(f"{command[0]}: still running after {timeout:g} s; killed") from error
    if done.returncode:
        where = f" (all of it: {log})" if log else ""
        raise SalternError(
            f"{' '.join(command[:4])}: exit status {done.returncode}: {last_line(done.stderr or output)}{where}"
        )
    return output
