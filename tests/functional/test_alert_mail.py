"""Alerts reach the mailbox once each, whatever is away meanwhile; and a person can act on what the mail says."""

from __future__ import annotations

import email
import email.policy
import http.server
import json
import shutil
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from alert_stand import AlertStand, text_of
from host import PATIENCE, free_port, until
from saltern.alert_store import Alert

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus-alertmanager") is None, reason="needs the package prometheus-alertmanager"
)

HIGH = Alert(
    "CpuHigh", "staging1", "pressure on staging", "warning", "CPU of staging1 is high", "93 % of 1 processor", "50 %",
    "most by product 91 %",
)  # fmt: skip
FIRST = "[test] CPU of staging1 is high"
OVER = "[test] over: CPU of staging1 is high"


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[AlertStand]:
    made = AlertStand(tmp_path)
    try:
        yield made.start()
    finally:
        made.close()


def flushed(stand: AlertStand) -> None:
    """Wait until Alertmanager has had the time to mail whatever it would mail wrongly."""
    end = time.monotonic() + 2.5 * stand.times["group_interval"]
    while time.monotonic() < end:
        time.sleep(0.1)


def test_a_mail_says_what_where_how_much_since_when_what_was_done_and_how_to_undo_it(stand):
    stand.store.did(
        "CpuHigh", "staging1", "turned the canary off: all requests go to production", "salt-run canary.on"
    )
    stand.store.fire(HIGH)
    (alert,) = stand.store.all()
    (mail,) = stand.await_mails(1)
    assert mail["Subject"] == FIRST
    assert (mail["To"], mail["From"]) == ("operator@fleet.test", "saltern@fleet.test")
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(alert.since))
    assert text_of(mail).splitlines() == [
        "CPU of staging1 is high",
        "  where      staging1, fleet test",
        "  value      93 % of 1 processor, limit 50 %",
        "  more       most by product 91 %",
        f"  since      {stamp} UTC",
        "  the fleet  turned the canary off: all requests go to production",
        "  undo       salt-run canary.on",
        "  silence    salt-run alert.silence CpuHigh staging1 hours=2",
        f"  journal    {alert.journal}",
        "",
        "All of it: salt-run alert.list",
    ]
    stand.store.end("CpuHigh", "staging1")
    mail = stand.await_mails(2)[1]
    assert mail["Subject"] == OVER
    assert text_of(mail).startswith("Over:\n\nCPU of staging1 is high\n") and "  over       " in text_of(mail)
    assert "silence" not in text_of(mail)


def test_two_hundred_alerts_of_one_cause_are_at_most_two_mails(stand):
    # All at once, however long this host takes to say them.
    stand.daemon.send(signal.SIGSTOP)
    for n in range(200):
        stand.store.fire(
            replace(HIGH, subject=f"prod{n}", cause="pressure on prod", summary=f"CPU of prod{n} is high")
        )
    stand.daemon.send(signal.SIGCONT)
    until(
        lambda: sum(text_of(mail).count("where") for mail in stand.mails()) >= 200,
        "200 alerts mailed",
        pause=0.1,
    )
    flushed(stand)
    mails = stand.mails()
    assert len(mails) <= 2
    assert all(f"  where      prod{n}, fleet" in text_of(mails[-1]) for n in range(200))


def test_two_hundred_edges_of_one_machine_are_at_most_two_mails(stand):
    for _ in range(100):
        stand.store.fire(HIGH)
        stand.store.end("CpuHigh", "staging1")
    stand.await_mails(2)
    flushed(stand)
    assert stand.subjects() == [FIRST, OVER]


def test_good_news_is_one_mail_and_none_says_that_it_is_over(stand):
    stand.store.fire(Alert("DeployDone", "r2", "DeployDone", "info", "prod runs r2"), expires_s=0.2)
    stand.store.fire(HIGH)
    stand.await_mails(2)
    stand.store.end("CpuHigh", "staging1")
    stand.await_mails(3)
    flushed(stand)
    assert sorted(stand.subjects()) == sorted([FIRST, OVER, "[test] prod runs r2"])


def test_a_mail_server_that_is_away_at_first_costs_no_mail_and_doubles_none(stand):
    stand.mail.end()
    stand.store.fire(HIGH)
    until(lambda: stand.api.look().failed >= 1, "a mail that fails")
    # It is even over before the mail server is back.
    stand.store.end("CpuHigh", "staging1")
    flushed(stand)
    assert stand.subjects() == []
    stand.start_mail()
    stand.await_mails(2)
    flushed(stand)
    assert stand.subjects() == [FIRST, OVER]


def test_an_alertmanager_that_dies_loses_no_mail_and_doubles_none(stand):
    stand.store.fire(HIGH)
    stand.await_mails(1)
    # What was mailed is on disk within a second.
    log = stand.directory / "alertmanager" / "nflog"
    until(lambda: log.exists() and b"staging" in log.read_bytes(), "the log of mails on disk")
    stand.alertmanager.end(signal.SIGKILL)
    stand.store.fire(replace(HIGH, name="MemoryHigh", cause="other", summary="Memory of staging1 is high"))
    stand.store.end("MemoryHigh", "staging1")
    stand.start_alertmanager()
    stand.await_mails(2)
    stand.store.end("CpuHigh", "staging1")
    stand.await_mails(4)
    flushed(stand)
    memory = "Memory of staging1 is high"
    assert sorted(stand.subjects()) == sorted([FIRST, OVER, f"[test] {memory}", f"[test] over: {memory}"])
    assert stand.subjects().index(FIRST) < stand.subjects().index(OVER)


def test_a_daemon_that_dies_says_nothing_twice_and_forgets_no_end(stand):
    stand.store.fire(HIGH)
    stand.await_mails(1)
    stand.daemon.end(signal.SIGKILL)
    stand.store.end("CpuHigh", "staging1")
    flushed(stand)
    stand.daemon.start()
    stand.await_mails(2)
    flushed(stand)
    assert stand.subjects() == [FIRST, OVER]


def test_redis_that_is_away_ends_no_alert(stand):
    stand.store.fire(HIGH)
    stand.await_mails(1)
    stand.redis.send(signal.SIGSTOP)
    flushed(stand)
    assert [each["state"] for each in stand.api.alerts()] == ["active"]
    stand.redis.send(signal.SIGCONT)
    stand.store.end("CpuHigh", "staging1")
    stand.await_mails(2)
    assert stand.subjects() == [FIRST, OVER]


def test_a_silenced_alert_is_not_mailed_until_the_silence_ends(stand):
    silence = stand.api.silence(
        {"alertname": "CpuHigh", "machine": "staging1"}, time.time(), 3600, "test", ""
    )
    stand.store.fire(HIGH)
    stand.store.fire(replace(HIGH, subject="prod1", cause="other", summary="CPU of prod1 is high"))
    stand.await_mails(1)
    flushed(stand)
    assert stand.subjects() == ["[test] CPU of prod1 is high"]
    stand.api.unsilence(silence)
    stand.await_mails(2)
    assert stand.subjects()[1] == FIRST


def test_a_message_that_looks_like_a_template_is_only_text(stand):
    odd = '{{ template "saltern.text" . }} <b> {{ 7 }} é'
    stand.store.fire(replace(HIGH, summary=odd, value="{{ .x }}", details="%s {% raw %}"))
    (mail,) = stand.await_mails(1)
    assert mail["Subject"] == f"[test] {odd}"
    assert odd in text_of(mail) and "{{ .x }}" in text_of(mail)


class Smarthost(Controller):
    """A mail server that takes mail only over TLS, and only from who knows the password."""

    def __init__(self, folder: Path, password: str) -> None:
        certificate, key = folder / "ca.pem", folder / "key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
             "-keyout", str(key), "-out", str(certificate)],
            check=True, capture_output=True,
        )  # fmt: skip
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.taken: list[tuple[str, str]] = []
        self.refused = 0
        self.password = password
        super().__init__(
            self, hostname="localhost", port=free_port(), tls_context=context, require_starttls=True,
            auth_required=True, authenticator=self.known, auth_exclude_mechanism=["LOGIN"], ready_timeout=PATIENCE,
        )  # fmt: skip

    def known(self, server, session, envelope, mechanism, data) -> AuthResult:
        good = (data.login, data.password) == (b"fleet", self.password.encode())
        self.refused += not good
        return AuthResult(success=good)

    async def handle_DATA(self, server, session, envelope) -> str:
        content = email.message_from_bytes(envelope.content, policy=email.policy.default)
        self.taken.append((envelope.rcpt_tos[0], str(content["Subject"])))
        return "250 OK"


@pytest.mark.parametrize("password", ["correct", "wrong"])
def test_a_smarthost_gets_mail_over_tls_from_who_has_logged_in(tmp_path, password):
    server = Smarthost(tmp_path, "correct")
    server.start()
    (tmp_path / "smarthost.password").write_text(password)
    stand = AlertStand(
        tmp_path,
        mail={
            "smarthost": f"localhost:{server.port}",
            "username": "fleet",
            "ca_file": str(tmp_path / "ca.pem"),
            "to": "somebody@example.test",
        },
    )
    try:
        stand.start()
        stand.store.fire(HIGH)
        until(lambda: server.taken or server.refused, "Alertmanager at the smarthost")
        assert server.taken == ([("somebody@example.test", FIRST)] if password == "correct" else [])
    finally:
        stand.close()
        server.stop()


def test_a_gateway_to_chat_is_told_too(tmp_path):
    said: list[dict] = []

    class Gateway(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            said.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing: pytest shows what matters."""

    gateway = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
    serving = threading.Thread(target=gateway.serve_forever)
    serving.start()
    stand = AlertStand(tmp_path, webhooks=[f"http://127.0.0.1:{gateway.server_port}/fleet"])
    try:
        stand.start()
        stand.store.fire(HIGH)
        until(lambda: said, "the gateway to be told")
        stand.await_mails(1)
        stand.store.end("CpuHigh", "staging1")
        until(lambda: len(said) == 2, "the end")
        assert [each["status"] for each in said] == ["firing", "resolved"]
        assert said[0]["alerts"][0]["annotations"]["summary"] == "CPU of staging1 is high"
    finally:
        stand.close()
        gateway.shutdown()
        serving.join()
        gateway.server_close()


def test_the_daemon_refuses_a_wrong_configuration_in_one_line(stand, tmp_path):
    stand.daemon.end()
    (tmp_path / "alerts.json").write_text('{"fleet": "test", "state": "x"}')
    stand.daemon.start()
    assert stand.daemon.popen.wait(PATIENCE) == 2
    last = (tmp_path / "daemon.log").read_text().splitlines()[-1]
    assert last.startswith("saltern.alerts: ") and "alertmanager: None is not a text" in last
