"""The admin API as a process of its own, before a traffic plane or whatever else stands there."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from host import PATIENCE, free_port, until
from traffic_stand import ROOT, Process, Stand, merge

OURS = (ROOT / "services", ROOT / "services/flags/src")
READ, WRITE = "read-token-of-the-tests", "write-token-of-the-tests"


@dataclass
class Reply:
    """What the API answered."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def data(self) -> Any:
        """The body, which must be JSON."""
        return json.loads(self.text)

    @property
    def error(self) -> str:
        """The one line of a refusal."""
        document = self.data
        assert set(document) == {"error"}, document
        assert "\n" not in document["error"]
        return str(document["error"])


class AdminStand:
    """One admin API on a free port."""

    def __init__(self, directory: Path, redis_port: int, changes: Mapping[str, Any] | None = None) -> None:
        self.port = free_port()
        self.orders = directory / "orders"
        self.orders.mkdir(exist_ok=True)
        self.file = directory / "admin.json"
        self.document: dict[str, Any] = {
            "redis": {"addresses": [f"127.0.0.1:{redis_port}"], "timeout_s": 10},
            "listen": {"address": "127.0.0.1", "port": self.port},
            "tokens": {"read": [sha256(READ)], "write": [sha256(WRITE)]},
            "server": {},
            "haproxy": {
                "socket": str(directory / "admin.sock"),
                "state_dir": str(directory),
                "timeout_ms": 5000,
            },
            "controller": {"status_file": str(directory / "status.json"), "orders_dir": str(self.orders)},
            "rate": {
                name: {"per_minute": 100_000, "burst": 100_000} for name in ("normal", "safe", "failed")
            },
            "metrics": {},
        }
        merge(self.document, changes or {})
        self.process = Process(
            [sys.executable, "-m", "saltern.admin", "--config", str(self.file)],
            directory / "admin.log",
            {"PYTHONPATH": os.pathsep.join(map(str, [*OURS, os.environ.get("PYTHONPATH", "")]))},
        )

    @classmethod
    def before(cls, stand: Stand, changes: Mapping[str, Any] | None = None) -> AdminStand:
        """The API of a traffic plane."""
        made = cls(stand.state_dir, stand.redis_port, changes)
        made.document["haproxy"] = {
            "socket": str(stand.socket),
            "state_dir": str(stand.state_dir),
            "timeout_ms": 5000,
        }
        made.document["controller"]["status_file"] = str(stand.status_file)
        return made

    def start(self) -> AdminStand:
        """Start it and wait until it answers."""
        self.file.write_text(json.dumps(self.document))
        self.process.start()
        until(self._answers, f"the admin API answering (see {self.process.log})")
        return self

    def _answers(self) -> bool:
        assert self.process.running, self.log()
        try:
            return self.ask("GET", "/openapi.json", token="").status == 200
        except OSError:
            return False

    def log(self) -> str:
        """What it has said."""
        return self.process.log.read_text()

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        token: str = WRITE,
        headers: Mapping[str, str] | None = None,
        raw: bytes | None = None,
    ) -> Reply:
        """One request; ``body`` is sent as JSON, ``raw`` as it is."""
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        sent = dict(headers or {})
        if token:
            sent["Authorization"] = f"Bearer {token}"
        if body is not None:
            raw = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        try:
            link.request(method, path, raw, sent)
            answer = link.getresponse()
            text = answer.read().decode()
        finally:
            link.close()
        return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, text)


def sha256(token: str) -> str:
    """How a token stands in the configuration."""
    return hashlib.sha256(token.encode()).hexdigest()
