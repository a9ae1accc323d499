"""The mail a failed build sends to whoever wrote the commit."""

from __future__ import annotations

import re
import smtplib
import ssl
from collections.abc import Mapping
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import parseaddr
from typing import Any

from saltern.pipeline.records import Build, failing_part

TIMEOUT_S = 10.0
_ADDRESS = re.compile(r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*\Z")


def address_of(author: str) -> str:
    """The address in ``Name <a@b>``; empty when there is none that mail could be sent to."""
    found = parseaddr(author)[1]
    return found if len(found) <= 254 and _ADDRESS.match(found) else ""


def compose(build: Build, log: str, settings: Mapping[str, Any], fleet: str, url: str) -> EmailMessage:
    """The mail: what failed, why, and the part of the log that shows it.

    :param settings: `mail` of the worker's configuration
    :param url: where the whole of it can be read
    """
    to = address_of(build.author) or settings["to"]
    name = "".join(c for c in build.name if c.isprintable())[:80]
    message = EmailMessage()
    message["From"] = settings["from"]
    message["To"] = Address(addr_spec=to)
    message["Subject"] = f"[{fleet}] build of {name} failed: {_line(build.why, 120)}"
    message["Message-ID"] = f"<build-{build.id}@{fleet}.saltern>"
    about = [
        f"{_line(build.subject, 200)}",
        f"  branch   {name}, commit {build.commit[:12]}",
        f"  author   {_line(build.author, 200)}",
        f"  failed   {build.stage}: {_line(build.why, 300)}",
        "  deployed nothing: what ran before runs on",
        f"  all      {url}/{build.id}",
    ]
    shown = [_line(line, 500) for line in failing_part(log).splitlines()]
    message.set_content("\n".join([*about, "", *shown, ""]))
    return message


def _line(text: str, length: int) -> str:
    return "".join(c if c.isprintable() else " " for c in text)[:length]


def send(message: EmailMessage, settings: Mapping[str, Any]) -> None:
    """Hand a mail to the smarthost.

    :raises OSError: it cannot be reached, or does not take it (smtplib's errors are such)
    """
    host, _, port = settings["smarthost"].rpartition(":")
    context = ssl.create_default_context(cafile=settings.get("ca_file") or None)
    # Port 465 speaks TLS from the start (RFC 8314).
    at_once = settings["require_tls"] and port == "465"
    made = (
        smtplib.SMTP_SSL(host, int(port), timeout=TIMEOUT_S, context=context)
        if at_once
        else smtplib.SMTP(host, int(port), timeout=TIMEOUT_S)
    )
    with made as link:
        if settings["require_tls"] and not at_once:
            link.starttls(context=context)
        if settings.get("username"):
            link.login(settings["username"], settings["password"])
        link.send_message(message)
