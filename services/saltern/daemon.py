"""How the programs that run as services begin, and how they are told to stop."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from saltern.errors import SalternError


def start(
    name: str,
    about: str,
    begin: Callable[[Mapping[str, Any]], Callable[[], object]],
    arguments: Sequence[str] | None,
    details: str = "",
) -> int:
    """Run a daemon with the configuration that its command line names, until it is told to stop.

    :param begin: gets the configuration and answers the daemon, ready to be called; raises ValueError, OSError or
        SalternError when it cannot be used
    :param details: what is logged with ``--verbose``; without any there is no such flag
    :returns: the exit status: 2, with one line that says why, when the configuration is unusable
    """
    parser = argparse.ArgumentParser(prog=name, description=about)
    usual = f"/etc/saltern/{name.rpartition('.')[2]}.json"
    parser.add_argument("--config", required=True, type=Path, help=f"JSON file, such as {usual}")
    if details:
        parser.add_argument("--verbose", action="store_true", help=f"log {details}")
    options = parser.parse_args(arguments)
    level = logging.DEBUG if details and options.verbose else logging.INFO
    logging.basicConfig(level=level, format="%(levelname)s %(message)s")
    try:
        run = begin(json.loads(options.config.read_text(encoding="utf-8")))
    except (OSError, ValueError, SalternError) as error:
        print(f"{name}: {options.config}: {error}", file=sys.stderr)
        return 2
    run()
    return 0


def on_stop(stop: Callable[[], object]) -> None:
    """Call `stop`, in the main thread, when this process is told to end."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop())


class Problems:
    """What is wrong with what a daemon needs, told when it begins and when it is over, not at every look."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._known: set[str] = set()

    def begin(self, what: str, words: str) -> None:
        if what not in self._known:
            self._log.error("%s", words)
        self._known.add(what)

    def end(self, what: str) -> None:
        if what in self._known:
            self._log.warning("%s answers again", what)
        self._known.discard(what)
