"""Functions of Salt called on machines from within the master: what they answer is read off the event bus.

A command such as `salt` starts a Python of its own for every call, a second of processor each; here a call costs a
message. What a machine that was not listening missed is said again.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

RETURN_TAG = re.compile(r"salt/job/([0-9]{20})/ret/([a-z]+[0-9]{1,4})\Z")
SILENCE_S = 6.0
"""After so long without an answer a machine is asked whether it is at work at all."""
ASK_S = 3.0
POLL_S = 0.2

Publish = Callable[[str, Sequence[str], str, Sequence[Any], Mapping[str, Any]], None]
"""Sends a job: its id, machines, function, arguments, keywords. Raises SalternError when nobody could be told."""


class Jobs:
    """Calls of functions on machines. Everything that goes by on the bus must be given to `hear`."""

    def __init__(self, publish: Publish) -> None:
        self._publish = publish
        self._heard = threading.Condition()
        self._waiting: dict[str, dict[str, Any]] = {}
        self._last = ""

    def hear(self, tag: str, data: Mapping[str, Any]) -> bool:
        """Take an event from the bus; whether it is the answer to a call."""
        found = RETURN_TAG.match(tag)
        if not found:
            return False
        with self._heard:
            answers = self._waiting.get(found[1])
            if answers is None:
                return False
            answers[found[2]] = data.get("return")
            self._heard.notify_all()
        return True

    def call(
        self,
        ids: Iterable[str],
        function: str,
        arguments: Sequence[Any] = (),
        keywords: Mapping[str, Any] | None = None,
        *,
        seconds: float,
        alive: Callable[[], None] = lambda: None,
        again: bool = False,
    ) -> dict[str, Any]:
        """What a function answers, by machine; one that says nothing in time is missing.

        :param alive: called over and over; what it raises ends the waiting, not the job
        :param again: it takes long: it is repeated where nobody is seen to carry it out, and ended where it has no end
        :raises SalternError: nobody could be told
        """
        wanted = sorted(set(ids))
        end = time.monotonic() + seconds
        jids = [self._send(wanted, function, arguments, keywords)]
        found: dict[str, Any] = {}

        def fresh() -> bool:
            return any(id_ not in found for jid in jids for id_ in self._waiting[jid])

        asked = time.monotonic()
        try:
            while len(found) < len(wanted) and time.monotonic() < end:
                with self._heard:
                    self._heard.wait_for(fresh, POLL_S)
                    for jid in jids:
                        found.update({i: said for i, said in self._waiting[jid].items() if i not in found})
                alive()
                silent = [id_ for id_ in wanted if id_ not in found]
                if again and silent and time.monotonic() - asked > SILENCE_S:
                    if idle := self._idle(silent, jids, alive):
                        jids.append(self._send(idle, function, arguments, keywords))
                    asked = time.monotonic()
        finally:
            with self._heard:
                for jid in jids:
                    del self._waiting[jid]
        silent = [id_ for id_ in wanted if id_ not in found]
        for jid in jids if again and silent else ():
            self._publish(self._new(), silent, "saltutil.kill_job", [jid], {})
        return found

    def _send(
        self, ids: Sequence[str], function: str, arguments: Sequence[Any], keywords: Mapping[str, Any] | None
    ) -> str:
        jid = self._new()
        with self._heard:
            self._waiting[jid] = {}
        try:
            self._publish(jid, ids, function, arguments, dict(keywords or {}))
        except BaseException:
            with self._heard:
                del self._waiting[jid]
            raise
        return jid

    def _idle(self, silent: Sequence[str], jids: Sequence[str], alive: Callable[[], None]) -> list[str]:
        """Those of them that answer, and are not at work on any of these jobs."""
        running: set[str] = set()
        here: set[str] = set()
        for jid in jids:
            said = self.call(silent, "saltutil.find_job", [jid], seconds=ASK_S, alive=alive)
            here |= said.keys()
            running |= {id_ for id_, job in said.items() if job}
        return sorted(here - running)

    def _new(self) -> str:
        """A job's id: the time, as Salt has it; no two are the same."""
        with self._heard:
            jid = self._last
            while jid <= self._last:
                jid = f"{datetime.now(timezone.utc):%Y%m%d%H%M%S%f}"
            self._last = jid
        return jid
