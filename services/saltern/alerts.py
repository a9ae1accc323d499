"""The daemon on ops1 that keeps Alertmanager's view equal to the alerts in Redis.

    python3 -m saltern.alerts --config /etc/saltern/alerts.json

Alertmanager forgets every alert when it restarts, drops what is over before it could be mailed, and takes silence for
an end. So it is told everything that fires every few seconds, and at once when something changed; and an end is told
only after the beginning can have been mailed. What it was told is written down, so that a restart of this daemon, of
Alertmanager or of the mail server neither loses a mail nor doubles one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import redis

from saltern import daemon
from saltern.alert_store import ALERTS, Alert, AlertStore
from saltern.alertmanager import Alertmanager, Look, posted
from saltern.errors import SalternError
from saltern.notify import notify
from saltern.redis_link import ConfigError, connect

log = logging.getLogger("saltern.alerts")

MARGIN_S = 2.0
"""How much longer than its own waiting Alertmanager is given to have handed a mail to the mail server."""
LONGEST_WAIT_S = 1.0
"""Between two looks, so that a signal to stop is heard."""


@dataclass(frozen=True)
class Settings:
    """:ivar resend_s: seconds between telling everything again; :ivar believe_s: seconds Alertmanager shall believe it;
    :ivar group_wait_s: seconds Alertmanager waits before its first mail; :ivar group_interval_s: and before the next
    """

    fleet: str
    resend_s: float = 5.0
    believe_s: float = 3600.0
    group_wait_s: float = 1.0
    group_interval_s: float = 30.0


@dataclass(frozen=True)
class Told:
    """What Alertmanager was told of one alert since it began.

    :ivar since: which beginning; :ivar fired: when it took the beginning, or 0; :ivar mailed: whether it had the time
        to mail that; :ivar ended: when it took the end, or 0; :ivar closed: whether it had the time to mail that
    """

    since: float
    fired: float = 0.0
    mailed: bool = False
    ended: float = 0.0
    closed: bool = False


@dataclass(frozen=True)
class Memory:
    """What the daemon knows from before: of each alert, of Alertmanager, and when one of its mails was last seen to
    have failed, or 0.
    """

    told: Mapping[str, Told]
    look: Look = field(default_factory=Look)
    failed: float = 0.0


def hold_s(settings: Settings) -> float:
    """How long Alertmanager may take to mail a beginning: one that joins others waits for their next mail."""
    return settings.group_wait_s + settings.group_interval_s + MARGIN_S


def observe(memory: Memory, look: Look, now: float, settings: Settings) -> Memory:
    """What is known after another look at Alertmanager.

    One that was restarted has forgotten what it had not mailed. A mail that failed, whichever it was, is tried again
    before `hold_s` is over: what it was told counts as mailed once no mail has failed for so long.
    """
    told, before = dict(memory.told), memory.look
    if restarted := look.started != before.started:
        before = Look(look.started)
        for id_, each in told.items():
            told[id_] = replace(
                each, fired=each.fired if each.mailed else 0.0, ended=each.ended if each.closed else 0.0
            )
    failed = now if look.failed > before.failed else memory.failed
    if not restarted:
        for id_, each in told.items():
            told[id_] = replace(
                each,
                mailed=each.mailed or bool(each.fired and now - max(each.fired, failed) >= hold_s(settings)),
                closed=each.closed or bool(each.ended and now - max(each.ended, failed) >= hold_s(settings)),
            )
    return Memory(told, look, failed)


def plan(alerts: Iterable[Alert], told: Mapping[str, Told], now: float) -> list[Alert]:
    """What to tell Alertmanager now: alerts as they shall look to it.

    An alert that is over is still told as firing until its beginning was mailed; then its end is, until that was.
    """
    answer = []
    for alert in (each.at(now) for each in alerts):
        known = told.get(alert.fingerprint)
        if known is None or known.since != alert.since:
            known = Told(alert.since)
        if alert.firing or not known.mailed:
            answer.append(replace(alert, firing=True, ended=0.0))
        elif not known.closed:
            answer.append(alert)
    return answer


def after(
    alerts: Iterable[Alert], sent: Iterable[Alert], told: Mapping[str, Told], now: float
) -> dict[str, Told]:
    """What Alertmanager has been told once it has taken `sent`; alerts that Redis no longer has are forgotten."""
    answer = {a.fingerprint: told[a.fingerprint] for a in alerts if a.fingerprint in told}
    for alert in sent:
        known = answer.get(alert.fingerprint)
        if known is None or known.since != alert.since:
            known = Told(alert.since)
        first = "fired" if alert.firing else "ended"
        answer[alert.fingerprint] = replace(known, **{first: getattr(known, first) or now})
    return answer


def newcomer(alerts: Iterable[Alert], now: float) -> Memory:
    """What to take for told when nothing was written down: of what is over, everything; a new ops1 mails no past."""
    over = [alert for alert in alerts if not alert.at(now).firing]
    return Memory({a.fingerprint: Told(a.since, now, True, now, True) for a in over})


# --- the daemon


class Daemon:
    """The loop around the functions above."""

    def __init__(
        self, client: redis.Redis, alertmanager: Alertmanager, settings: Settings, state: Path
    ) -> None:
        self.client, self.store = client, AlertStore(client)
        self.alertmanager, self.settings, self.state = alertmanager, settings, state
        self.alerts: list[Alert] | None = None
        self.memory: Memory | None = read_memory(state)
        self._problems = daemon.Problems(log)
        self._breath = 0.0
        self._listening: redis.client.PubSub | None = None
        self.stopping = False

    def run(self) -> None:
        """Tell until stopped."""
        notify("READY=1")
        while not self.stopping:
            began = time.monotonic()
            self.once()
            # In a storm each look shows more than the one before; at most half of the time is spent on looking.
            self._breath = min(time.monotonic() - began, LONGEST_WAIT_S)
            self.wait()
        notify("STOPPING=1")

    def stop(self) -> None:
        """Have it end within LONGEST_WAIT_S."""
        self.stopping = True

    def once(self) -> None:
        """One look at Redis, one at Alertmanager; what cannot be reached is tried again at the next."""
        try:
            self.alerts = self.store.all()
            self._problems.end("redis")
        except (redis.RedisError, ValueError) as error:
            # What it said last still holds: an alert is not over because its keeper is away.
            self._problems.begin("redis", f"alerts cannot be read: {error}")
            # A server that fell silent may hold the subscription, too: the next one goes to who is primary then.
            self._hang_up()
        if self.alerts is None:
            return
        now = time.time()
        if self.memory is None:
            self.memory = newcomer(self.alerts, now)
        try:
            memory = observe(self.memory, self.alertmanager.look(), now, self.settings)
            sent = plan(self.alerts, memory.told, now)
            if sent:
                self.alertmanager.post(
                    [posted(alert, self.settings.fleet, now, self.settings.believe_s) for alert in sent]
                )
            self._problems.end("alertmanager")
        except SalternError as error:
            self._problems.begin("alertmanager", str(error))
            return
        memory = replace(memory, told=after(self.alerts, sent, memory.told, now))
        if memory != self.memory:
            write_memory(self.state, memory)
        self.memory = memory

    def wait(self) -> None:
        """Until something changed, or it is time to tell again."""
        end = time.monotonic() + self.settings.resend_s
        while not self.stopping and (left := end - time.monotonic()) > 0:
            try:
                if self._listening is None:
                    self._listening = self.client.pubsub()
                    self._listening.subscribe(ALERTS)
                heard = self._listening.get_message(timeout=min(left, LONGEST_WAIT_S))
                # The first message says that the subscription stands: what changed before it was not heard.
                if heard is not None:
                    time.sleep(self._breath)
                    # However many changes there were, one look sees them all.
                    while self._listening.get_message(timeout=0) is not None:
                        pass
                    return
            except redis.RedisError:
                self._hang_up()
                time.sleep(min(left, LONGEST_WAIT_S))

    def _hang_up(self) -> None:
        if self._listening is not None:
            with contextlib.suppress(redis.RedisError):
                self._listening.close()
        self._listening = None


def read_memory(path: Path) -> Memory | None:
    """What was written down; None when nothing was, or nothing usable."""
    try:
        kept = json.loads(path.read_text())
        told = {id_: Told(**values) for id_, values in kept["told"].items()}
        return Memory(told, Look(**kept["look"]), kept["failed"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        log.error("%s: not usable (%s); what is over by now is taken for mailed", path, error)
        return None


def write_memory(path: Path, memory: Memory) -> None:
    """Write it down, whole or not at all."""
    half = path.with_name(f".{path.name}.{os.getpid()}")
    half.write_text(json.dumps(asdict(memory), sort_keys=True))
    half.replace(path)


def parse_config(values: Any) -> tuple[Settings, str, Path]:
    """Settings, Alertmanager's address and the state file, of the daemon's JSON configuration.

    :raises ConfigError: a value is missing or not right; the text names it
    """
    if not isinstance(values, Mapping):
        raise ConfigError("not a table of settings")
    for name in ("fleet", "alertmanager", "state"):
        if not isinstance(values.get(name), str) or not values[name]:
            raise ConfigError(f"{name}: {values.get(name)!r} is not a text; it is needed")
    times = values.get("times", {})
    for name, seconds in times.items():
        if name not in ("resend_s", "believe_s", "group_wait_s", "group_interval_s"):
            raise ConfigError(f"times.{name}: no such setting")
        good = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if not good or not math.isfinite(seconds) or seconds < 0 or (name == "resend_s" and not seconds):
            raise ConfigError(f"times.{name}: {seconds!r} is not a number of seconds")
    return Settings(values["fleet"], **times), values["alertmanager"], Path(values["state"])


def main(arguments: list[str] | None = None) -> int:
    """Run until SIGTERM. Exit status 2 when the configuration is unusable."""

    def begin(values: Mapping[str, Any]) -> Callable[[], None]:
        settings, url, state = parse_config(values)
        made = Daemon(connect(values), Alertmanager(url), settings, state)
        daemon.on_stop(made.stop)
        return made.run

    return daemon.start("saltern.alerts", "Keeps Alertmanager told.", begin, arguments)


if __name__ == "__main__":
    sys.exit(main())
