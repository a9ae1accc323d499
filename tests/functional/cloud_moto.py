"""EC2 as moto's server plays it, behind the same faults as the other fakes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar
from unittest import mock
from urllib.parse import parse_qsl, urlencode

import moto.settings
from cloud_fakes import Answer, Fake
from moto.core import DEFAULT_ACCOUNT_ID
from moto.ec2 import ec2_backends
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.test import Client

CHECKS = {"ENABLE_AMI_VALIDATION": True, "EC2_ENABLE_INSTANCE_TYPE_VALIDATION": True}


def error(status: int, code: str, words: str) -> Answer:
    """An error in EC2's form."""
    body = (
        f"<Response><Errors><Error><Code>{code}</Code><Message>{words}</Message></Error></Errors></Response>"
    )
    return Answer(status, body)


@dataclass
class MotoEc2(Fake):
    """moto, put right in the one point in which libcloud sees that it is not EC2.

    An answer of EC2 bears the version that was asked for in its namespace, as a folder with a slash at its end; moto's
    has no slash, and libcloud, which looks for it, sees nothing in the answer.
    """

    region: str = "eu-central-1"
    owners: dict[str, str] = field(default_factory=dict)

    limited: ClassVar[Answer] = error(503, "RequestLimitExceeded", "Request limit exceeded.")
    broken: ClassVar[Answer] = error(500, "InternalError", "An internal error has occurred")

    @contextmanager
    def serving(self) -> Iterator[MotoEc2]:
        self._client = Client(DomainDispatcherApplication(create_backend_app))
        self._client.post("/moto-api/reset")
        with mock.patch.multiple(moto.settings, **CHECKS), super().serving():
            yield self

    def names(self) -> list[str]:
        there = ec2_backends[DEFAULT_ACCOUNT_ID][self.region].all_instances()
        return sorted(
            self.owners[each.id] for each in there if each.state not in ("terminated", "shutting-down")
        )

    def subject(self, method: str, target: str, body: bytes) -> tuple[str, str]:
        asked = self._asked(target, body)
        name = next(
            (asked[key[:-3] + "Value"] for key in asked if asked[key] == "Name" and key.endswith(".Key")), ""
        )
        return name or self.owners.get(asked.get("InstanceId.1", ""), ""), asked.get("Action", target)

    @staticmethod
    def _asked(target: str, body: bytes) -> dict[str, str]:
        return dict(parse_qsl(target.partition("?")[2])) | dict(parse_qsl(body.decode("latin-1")))

    def handle(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes
    ) -> Answer:
        given = self._client.open(
            path, method=method, query_string=urlencode(query), headers=dict(headers.items()), data=body
        )
        text, asked = given.get_data(as_text=True), {**query, **dict(parse_qsl(body.decode("latin-1")))}
        if "Version" in asked:
            named = f"ec2.amazonaws.com/doc/{asked['Version']}/"
            text = re.sub(r"ec2\.amazonaws\.com/doc/[0-9-]+/?(?=\")", named, text)
        if asked.get("Action") == "RunInstances":
            name = self.subject(method, f"{path}?{urlencode(asked)}", b"")[0]
            self.owners |= dict.fromkeys(re.findall(r"<instanceId>([^<]+)</instanceId>", text), name)
        return Answer(given.status_code, text)
