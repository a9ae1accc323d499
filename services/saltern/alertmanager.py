"""Speaking to Alertmanager: its API v2, and what of an alert it is told."""

from __future__ import annotations

import http.client
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from saltern.alert_store import Alert
from saltern.errors import SalternError
from saltern.fleet import Fleet, role_of

TIMEOUT_S = 3.0
NOTHING_DONE = "nothing: this is yours"


def stamp(seconds: float) -> str:
    """Unix seconds as RFC 3339 has them, to the microsecond."""
    whole = int(seconds)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int((seconds - whole) * 1e6):06d}Z"


def posted(alert: Alert, fleet: str, now: float, believe_s: float) -> dict[str, Any]:
    """An alert as ``POST /api/v2/alerts`` takes it.

    :param believe_s: seconds a firing alert is believed without being told again
    """
    over = not alert.firing
    return {
        "labels": {
            "alertname": alert.name,
            "machine": alert.subject,
            "cause": alert.cause,
            "severity": alert.severity,
            "fleet": fleet,
        },
        "annotations": {
            "summary": alert.summary,
            "value": alert.value,
            "limit": alert.limit,
            "details": alert.details,
            "times": str(alert.count),
            "done": alert.done or NOTHING_DONE,
            "undo": alert.undo,
            "silence": f"salt-run alert.silence {alert.name} {alert.subject} hours=2",
            "journal": alert.journal,
        },
        "startsAt": stamp(alert.since or now),
        "endsAt": stamp(max(alert.ended, alert.since) if over else now + believe_s),
    }


@dataclass(frozen=True)
class Look:
    """What Alertmanager says about itself.

    :ivar started: when it did, unix seconds; :ivar failed: attempts to send a mail that failed since then
    """

    started: float = 0.0
    failed: float = 0.0


class Alertmanager:
    """One Alertmanager. Every method raises SalternError when it does not answer, or answers no.

    :param timeout_s: seconds it may be silent
    """

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        parts = urlsplit(self.url)
        if parts.scheme != "http" or not parts.hostname:
            raise SalternError(f"alertmanager: {url!r} is not an address such as http://10.213.0.20:9093")
        self._host, self._port = parts.hostname, parts.port or 80

    def post(self, alerts: Sequence[Mapping[str, Any]]) -> None:
        """Tell it what fires and what is over."""
        self._ask("POST", "/api/v2/alerts", list(alerts))

    def alerts(self) -> list[dict[str, Any]]:
        """What it believes to fire."""
        found = json.loads(self._ask("GET", "/api/v2/alerts"))
        return [
            {
                **each["labels"],
                **each["annotations"],
                "since": each["startsAt"],
                "state": each["status"]["state"],
            }
            for each in found
        ]

    def silence(self, matching: Mapping[str, str], now: float, seconds: float, by: str, comment: str) -> str:
        """Silence alerts with these labels, * being any value; the silence's id."""
        matchers = [
            {"name": name, "value": value, "isRegex": False, "isEqual": True}
            for name, value in matching.items()
            if value != "*"
        ]
        times = {"startsAt": stamp(now), "endsAt": stamp(now + seconds)}
        about = {"matchers": matchers, "createdBy": by, "comment": comment, **times}
        return json.loads(self._ask("POST", "/api/v2/silences", about))["silenceID"]

    def silences(self) -> list[dict[str, Any]]:
        """Every silence that is not over: id, matchers, createdBy, comment, startsAt, endsAt."""
        found = json.loads(self._ask("GET", "/api/v2/silences"))
        return [each for each in found if each["status"]["state"] != "expired"]

    def unsilence(self, silence_id: str) -> None:
        """End a silence."""
        self._ask("DELETE", f"/api/v2/silence/{quote(silence_id, safe='')}")

    def look(self) -> Look:
        """When it started, and how many mails failed since."""
        text = self._ask("GET", "/metrics")

        def total(name: str, labels: str = "") -> float:
            found = re.findall(rf"^{name}{labels} (\S+)$", text, re.MULTILINE)
            if not found:
                raise SalternError(f"alertmanager at {self.url}: /metrics has no {name}")
            return sum(map(float, found))

        mail = r'\{[^}\n]*integration="email"[^}\n]*\}'
        return Look(
            total("process_start_time_seconds"),
            total("alertmanager_notification_requests_failed_total", mail),
        )

    def _ask(self, method: str, path: str, body: object = None) -> str:
        link = http.client.HTTPConnection(self._host, self._port, timeout=self.timeout_s)
        try:
            headers = {"Content-Type": "application/json"} if body is not None else {}
            link.request(method, path, None if body is None else json.dumps(body), headers)
            answer = link.getresponse()
            text = answer.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            raise SalternError(f"alertmanager at {self.url}: does not answer ({error})") from error
        finally:
            link.close()
        if not 200 <= answer.status < 300:
            said = " ".join(text.split())[:200]
            raise SalternError(f"alertmanager at {self.url}: {method} {path}: {answer.status} {said}")
        return text


def of_fleet(fleet: Fleet, settings: Mapping[str, Any]) -> Alertmanager:
    """The fleet's Alertmanager, as its master reaches it.

    :raises SalternError: the fleet has no ops machine
    """
    for name, address in fleet.addresses().items():
        if role_of(name) == "ops":
            return Alertmanager(f"http://{address}:{settings['ops']['alertmanager_port']}")
    raise SalternError(
        f"alertmanager: fleet {fleet.name} has no ops machine; `salt-cloud -p ops ops1` makes one"
    )
