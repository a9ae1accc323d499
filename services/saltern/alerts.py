"""The daemon on ops1 that keeps Alertmanager's view equal to the alerts in Redis.

    python3 -m saltern.alerts --config /etc/saltern/alerts.json

Alertmanager forgets every alert when it restarts, drops what is over before it could be mailed, and takes silence for
an end. So it is told everything that fires every few seconds, and at once when something changed; and an end is told
only after the beginning can have been mailed. What it was told is written down, so that a restart of this daemon, of
Alertmanager or of the mail server neither loses a mail nor doubles one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import redis

from saltern.alert_store import ALERTS, Alert, AlertStore
from saltern.alertmanager import Alertmanager, posted
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

    :ivar since: which beginning; :ivar fired: when it first took the beginning, or 0; :ivar ended: the end, or 0
    """

    since: float
    fired: float = 0.0
    ended: float = 0.0


@dataclass(frozen=True)
class Mail:
    """Whether mail goes out, from two counters of Alertmanager's that begin anew when it restarts."""

    attempts: float = 0.0
    failed: float = 0.0
    failing: bool = False

    def seen(self, attempts: float, failed: float) -> Mail:
        """After another look: what was sent last decides; where nothing was, it stays as it was."""
        if attempts < self.attempts or failed < self.failed:
            return Mail(attempts, failed, failed > 0 if attempts else self.failing)
        new_attempts, new_failed = attempts - self.attempts, failed - self.failed
        if not new_attempts:
            return Mail(attempts, failed, self.failing)
        return Mail(attempts, failed, new_failed >= new_attempts)


def plan(
    alerts: Iterable[Alert], told: Mapping[str, Told], mail: Mail, now: float, settings: Settings
) -> list[Alert]:
    """What to tell Alertmanager now: alerts as they shall look to it.

    An alert that is over is still told as firing until its beginning can have been mailed; once the end was told, it is
    repeated for as long as an Alertmanager that restarts in between needs it.
    """
    answer = []
    for alert in (each.at(now) for each in alerts):
        if alert.firing:
            answer.append(alert)
            continue
        known = told.get(alert.fingerprint)
        if known is None or known.since != alert.since:
            known = Told(alert.since)
        mailed = known.fired and now - known.fired >= settings.group_wait_s + MARGIN_S and not mail.failing
        if not known.ended and not mailed:
            answer.append(replace(alert, firing=True, ended=0.0))
        elif not known.ended or now - known.ended < linger_s(settings) or mail.failing:
            answer.append(alert)
    return answer


def linger_s(settings: Settings) -> float:
    """How long an end is repeated: two of the intervals in which Alertmanager mails, and some."""
    return 2 * settings.group_interval_s + 60


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


def newcomer(alerts: Iterable[Alert], now: float) -> dict[str, Told]:
    """What to take for told when nothing was written down: of what is over, everything; a new ops1 mails no past."""
    return {a.fingerprint: Told(a.since, a.since, now) for a in alerts if not a.at(now).firing}


# --- the daemon


class Daemon:
    """The loop around the functions above."""

    def __init__(
        self, client: redis.Redis, alertmanager: Alertmanager, settings: Settings, state: Path
    ) -> None:
        self.client, self.store = client, AlertStore(client)
        self.alertmanager, self.settings, self.state = alertmanager, settings, state
        self.alerts: list[Alert] | None = None
        self.told: dict[str, Told] | None = read_told(state)
        self.mail = Mail()
        self._problems: dict[str, str] = {}
        self._listening: redis.client.PubSub | None = None
        self.stopping = False

    def run(self) -> None:
        """Tell until stopped."""
        notify("READY=1")
        while not self.stopping:
            self.once()
            self.wait()
        notify("STOPPING=1")

    def once(self) -> None:
        """One look at Redis, one at Alertmanager; what cannot be reached is tried again at the next."""
        try:
            self.alerts = self.store.all()
            self._well("redis")
        except (redis.RedisError, ValueError) as error:
            # What it said last still holds: an alert is not over because its keeper is away.
            self._trouble("redis", f"alerts cannot be read: {error}")
        if self.alerts is None:
            return
        now = time.time()
        if self.told is None:
            self.told = newcomer(self.alerts, now)
        try:
            self.mail = self.mail.seen(*self.alertmanager.mailed())
            sent = plan(self.alerts, self.told, self.mail, now, self.settings)
            if sent:
                self.alertmanager.post(
                    [posted(alert, self.settings.fleet, now, self.settings.believe_s) for alert in sent]
                )
            self._well("alertmanager")
        except SalternError as error:
            self._trouble("alertmanager", str(error))
            return
        told = after(self.alerts, sent, self.told, now)
        if told != self.told or not self.state.exists():
            write_told(self.state, told)
        self.told = told

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

    def _trouble(self, what: str, words: str) -> None:
        """Log a problem when it begins, not at every look."""
        if what not in self._problems:
            log.error("%s", words)
        self._problems[what] = words

    def _well(self, what: str) -> None:
        if self._problems.pop(what, None):
            log.warning("%s answers again", what)


def read_told(path: Path) -> dict[str, Told] | None:
    """What was written down; None when nothing was, or nothing usable."""
    try:
        return {id_: Told(**values) for id_, values in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        log.error("%s: not usable (%s); what is over by now is taken for mailed", path, error)
        return None


def write_told(path: Path, told: Mapping[str, Told]) -> None:
    """Write it down, whole or not at all."""
    half = path.with_name(f".{path.name}.{os.getpid()}")
    half.write_text(json.dumps({id_: each.__dict__ for id_, each in sorted(told.items())}))
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
    parser = argparse.ArgumentParser(prog="saltern.alerts", description="Keeps Alertmanager told.")
    parser.add_argument(
        "--config", required=True, type=Path, help="JSON file, such as /etc/saltern/alerts.json"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        values = json.loads(options.config.read_text(encoding="utf-8"))
        settings, url, state = parse_config(values)
        daemon = Daemon(connect(values), Alertmanager(url), settings, state)
    except (OSError, ValueError, SalternError) as error:
        print(f"saltern.alerts: {options.config}: {error}", file=sys.stderr)
        return 2

    def stop(*_: object) -> None:
        daemon.stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    daemon.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
