"""Alerts from Redis to the mailbox on loopback: a real Redis, a real Alertmanager with our configuration and text, a
real mail server, and the daemon between them.
"""

from __future__ import annotations

import email
import email.policy
import json
import sys
from collections.abc import Mapping, Sequence
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import jinja2
import yaml
from host import PATIENCE, free_port, until
from saltern.alert_store import AlertStore
from saltern.alertmanager import Alertmanager
from saltern.errors import SalternError
from saltern.redis_link import connect
from traffic_stand import ROOT, Process, redis_server


def mute_alertmanager(folder: Path, port: int) -> tuple[Process, Alertmanager]:
    """An Alertmanager that mails nobody, on a port of loopback; whoever asked for it ends its process."""
    config = folder / "alertmanager.yml"
    config.write_text("route: {receiver: nobody}\nreceivers: [{name: nobody}]\n")
    process = Process(
        ["prometheus-alertmanager", f"--config.file={config}", "--cluster.listen-address=",
         f"--web.listen-address=127.0.0.1:{port}", f"--storage.path={folder / 'alertmanager'}"],
        folder / "alertmanager.log",
    )  # fmt: skip
    api = Alertmanager(f"http://127.0.0.1:{port}", PATIENCE)
    process.start()
    try:
        until(lambda: AlertStand.answers(api), "Alertmanager answering")
    except BaseException:
        process.end()
        raise
    return process, api


class AlertStand:
    """Everything between an alert and its mail. Times are short, so that tests are."""

    def __init__(
        self,
        directory: Path,
        group_wait_s: float = 0.5,
        group_interval_s: float = 1.0,
        mail: Mapping[str, Any] | None = None,
        webhooks: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self.changes = {"webhooks": list(webhooks), "mail": dict(mail or {})}
        self.redis, self.redis_port = redis_server(directory / "redis")
        link = {"addresses": [f"127.0.0.1:{self.redis_port}"], "timeout_s": 5}
        self.client = connect({"redis": link})
        self.store = AlertStore(self.client)
        self.maildir, self.smtp_port, self.port = directory / "mail", free_port(), free_port()
        self.times = {"group_wait": group_wait_s, "group_interval": group_interval_s, "repeat_interval": 3600}
        self.mail = Process(
            [sys.executable, "-m", "aiosmtpd", "--nosetuid", "--listen", f"127.0.0.1:{self.smtp_port}",
             "--class", "aiosmtpd.handlers.Mailbox", str(self.maildir)],
            directory / "mail.log",
        )  # fmt: skip
        self.alertmanager = Process(
            ["prometheus-alertmanager", f"--config.file={self._configuration()}", "--cluster.listen-address=",
             f"--web.listen-address=127.0.0.1:{self.port}", f"--storage.path={directory / 'alertmanager'}",
             "--data.maintenance-interval=1s", "--log.level=debug"],
            directory / "alertmanager.log",
        )  # fmt: skip
        self.api = Alertmanager(f"http://127.0.0.1:{self.port}", PATIENCE)
        config = directory / "alerts.json"
        config.write_text(json.dumps({
            "fleet": "test", "redis": link, "alertmanager": self.api.url,
            "state": str(directory / "told.json"),
            "times": {"resend_s": 0.3, "group_wait_s": group_wait_s, "group_interval_s": group_interval_s},
        }))  # fmt: skip
        self.daemon = Process(
            [sys.executable, "-m", "saltern.alerts", "--config", str(config)],
            directory / "daemon.log",
            {"PYTHONPATH": str(ROOT / "services")},
        )

    def _configuration(self) -> Path:
        """Alertmanager's configuration and text as Salt makes them."""
        environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
        environment.filters["json"] = json.dumps
        ops: dict[str, Any] = yaml.safe_load((ROOT / "pillar/ops.sls").read_text())["ops"]
        mail = {**ops["mail"], "sink_port": self.smtp_port, **self.changes["mail"]}
        ops = {**ops, **self.times, **self.changes, "mail": mail}
        template = environment.from_string((ROOT / "salt/ops/alertmanager.yml.j2").read_text())
        text = template.render(pillar={"ops": ops, "machine": {"address": "127.0.0.1"}})
        path = self.directory / "alertmanager.yml"
        text = text.replace("/etc/prometheus/saltern.tmpl", str(ROOT / "salt/ops/saltern.tmpl"))
        path.write_text(text.replace("/etc/prometheus/", f"{self.directory}/"))
        return path

    def start(self) -> AlertStand:
        self.start_mail()
        self.start_alertmanager()
        self.daemon.start()
        # What was over before its first look is past to it, and not mailed.
        until((self.directory / "told.json").exists, "the daemon's first look")
        return self

    def start_alertmanager(self) -> None:
        self.alertmanager.start()
        until(lambda: self.answers(self.api), "Alertmanager answering")

    @staticmethod
    def answers(api: Alertmanager) -> bool:
        """Whether it does."""
        try:
            api.look()
        except SalternError:
            return False
        return True

    def start_mail(self) -> None:
        self.mail.start()
        until(lambda: (self.maildir / "new").exists(), "the mailbox")

    def mails(self) -> list[EmailMessage]:
        """What is in the mailbox, oldest first."""
        if not (self.maildir / "new").exists():
            return []
        paths = sorted((self.maildir / "new").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        return [email.message_from_bytes(path.read_bytes(), policy=email.policy.default) for path in paths]

    def subjects(self) -> list[str]:
        return [str(mail["Subject"]) for mail in self.mails()]

    def await_mails(self, count: int) -> list[EmailMessage]:
        until(lambda: len(self.mails()) >= count, f"{count} mails (there are {self.subjects()})", pause=0.05)
        return self.mails()

    def close(self) -> None:
        for each in (self.daemon, self.alertmanager, self.mail, self.redis):
            each.end()
        self.client.close()


def text_of(mail: EmailMessage) -> str:
    """What a person reads."""
    body = mail.get_body(("plain",))
    assert body is not None
    return body.get_content()
