"""What `salt-run build.*` does: ask ops1 what it builds, and have a build cancelled."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from typing import Any

from saltern import pillar, secrets
from saltern.errors import SalternError
from saltern.fleet import Fleet, role_of
from saltern.pipeline.records import ID

TIMEOUT_S = 10.0
LARGEST = 16 * 1024 * 1024


def _url(fleet: Fleet) -> str:
    machines = sorted(id_ for id_ in fleet.addresses() if role_of(id_) == "ops")
    if not machines:
        raise SalternError(
            f"builds: fleet {fleet.name} has no ops machine; `salt-cloud -p ops ops1` makes one"
        )
    port = pillar.load(fleet.pillar_dir)["pipeline"]["port"]
    return f"http://{fleet.addresses()[machines[0]]}:{port}"


def _ask(fleet: Fleet, path: str, *, token: str = "") -> bytes:
    """:raises SalternError: ops1 does not answer, or says no; in its own words"""
    url = f"{_url(fleet)}{path}"
    request = urllib.request.Request(url, data=b"" if token else None)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            content: bytes = answer.read(LARGEST)
            return content
    except urllib.error.HTTPError as error:
        try:
            words = json.loads(error.read())["error"]
        except (ValueError, KeyError, TypeError):
            words = f"{error.code} {error.reason}"
        raise SalternError(words) from error
    except (OSError, http.client.HTTPException) as error:
        raise SalternError(
            f"builds: {url}: {error}; `salt 'ops*' service.status saltern-pipeline`"
        ) from error


def _id(id_: object) -> str:
    if not isinstance(id_, str) or not ID.match(id_):
        raise SalternError(f"build {str(id_)[:60]!r}: not a build's id; salt-run build.list has them")
    return id_


def list_(fleet: Fleet, branch: str = "", state: str = "", limit: object = 20) -> list[dict[str, Any]]:
    """The last builds, newest first."""
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise SalternError(f"limit {limit!r}: not a number from 1")
    builds = json.loads(_ask(fleet, "/api/builds"))["builds"]
    names = ("id", "ref", "state", "stage", "why", "release", "author", "coverage", "serving")
    chosen = [
        {name: each[name] for name in names if each[name] not in ("", None)}
        for each in builds
        if branch in ("", each["ref"], each["ref"].split("/", 2)[-1]) and state in ("", each["state"])
    ]
    return chosen[:limit]


def show(fleet: Fleet, id_: object) -> dict[str, Any]:
    """All of one build but its log."""
    answer: dict[str, Any] = json.loads(_ask(fleet, f"/api/builds/{_id(id_)}"))
    return answer


def log(fleet: Fleet, id_: object) -> str:
    """What a build said."""
    return _ask(fleet, f"/api/builds/{_id(id_)}/log").decode(errors="replace")


def cancel(fleet: Fleet, id_: object) -> dict[str, Any]:
    """Have a build end that is not finished."""
    token = secrets.load(fleet)["pipeline"]["token"]
    answer: dict[str, Any] = json.loads(_ask(fleet, f"/api/builds/{_id(id_)}/cancel", token=token))
    if not answer["cancelled"]:
        raise SalternError(f"build {id_}: it has ended already; salt-run build.show {id_} says how")
    return answer
