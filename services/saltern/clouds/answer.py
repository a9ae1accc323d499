"""A cloud's answer in JSON, whose errors keep all that is to be known of them.

What libcloud's own classes make of an error differs from cloud to cloud: one drops the status, one the headers, one
fails at a body it does not expect. `faults` needs status, headers and words.
"""

from __future__ import annotations

import json
from typing import Any

from libcloud.common.base import JsonResponse

# Where clouds put what they say: Nova's below a name of the error, Linode's in a list, Vultr's as it is.
SAID = ("message", "reason", "error", "errors")


def words(said: object) -> str:
    """What a cloud says in the body of an error, whatever its form."""
    if isinstance(said, str):
        return said
    if isinstance(said, list):
        return "; ".join(filter(None, map(words, said)))
    if not isinstance(said, dict):
        return ""
    if isinstance(about := said.get("error_description"), str):  # OAuth 2.0
        return f"{said.get('error')}: {about}"
    if found := next((text for key in SAID if (text := words(said.get(key)))), ""):
        field = said.get("field")
        return f"{field}: {found}" if isinstance(field, str) else found
    return words([each for each in said.values() if isinstance(each, dict | list)])


class JsonAnswer(JsonResponse):
    """Raises BaseHTTPError with the status, the headers and the cloud's words for all that is no success."""

    def success(self) -> bool:
        return 200 <= int(self.status) < 300

    def parse_body(self) -> Any:
        return super().parse_body() if self.body else {}

    def parse_error(self) -> str:
        try:
            said = self.words(json.loads(self.body))
        except ValueError:
            said = self.body
        return said or f"{self.status} {self.error}"

    @staticmethod
    def words(said: object) -> str:
        """A cloud's own way of reading its errors may take the place of this one."""
        return words(said)
