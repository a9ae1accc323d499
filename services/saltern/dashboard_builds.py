"""What the dashboard shows of builds: the last ones, and of one its log, its tests and its coverage.

The pipeline serves all of it on the fleet's network. What a build wrote is somebody else's, so it is read with limits
and reaches the page as plain values.
"""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

from saltern.dashboard_view import short
from saltern.errors import SalternError
from saltern.pipeline.records import ID

TIMEOUT_S = 5.0
SHOWN = 12
"""Builds on the page."""
LOG_BYTES = 64 * 1024
"""Of a log's end."""
LARGEST_REPORT = 8 * 1024 * 1024
MOST_ROWS = 200


class Builds:
    """The pipeline over HTTP. Every method raises SalternError when it does not answer, or has no such thing."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80

    def last(self) -> list[dict[str, Any]]:
        """The newest builds, the newest first."""
        return [dict(each) for each in json.loads(self._read(f"/api/builds?limit={SHOWN}"))["builds"]]

    def log(self, id_: str) -> dict[str, Any]:
        """The end of a build's log, and whether there is more before it."""
        text = self._read(f"/api/builds/{_checked(id_)}/log")
        return {"log": text[-LOG_BYTES:].decode(errors="replace"), "whole": len(text) <= LOG_BYTES}

    def tests(self, id_: str) -> dict[str, Any]:
        """A build's test report, see `junit_of`."""
        return junit_of(self._read(f"/builds/{_checked(id_)}/junit.xml"))

    def coverage(self, id_: str) -> dict[str, Any]:
        """A build's coverage, see `coverage_of`."""
        return coverage_of(self._read(f"/builds/{_checked(id_)}/coverage.json"))

    def _read(self, path: str) -> bytes:
        link = http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT_S)
        try:
            link.request("GET", path)
            answer = link.getresponse()
            text = answer.read(LARGEST_REPORT + 1)
        except (OSError, http.client.HTTPException) as error:
            raise SalternError(f"the pipeline does not answer ({error})") from error
        finally:
            link.close()
        if answer.status == 404:
            raise SalternError("there is no such build, or it came to no such report")
        if answer.status != 200:
            raise SalternError(
                f"the pipeline answers {answer.status}: {short(text[:200].decode(errors='replace'))}"
            )
        if len(text) > LARGEST_REPORT:
            raise SalternError(
                f"it is larger than {LARGEST_REPORT >> 20} MiB; the pipeline's own page has it"
            )
        return text


def _checked(id_: str) -> str:
    if not ID.match(id_):
        raise SalternError(f"build {short(id_, 60)!r}: not a build's id, such as 20261121-071523-ab12cd3")
    return id_


def junit_of(report: bytes) -> dict[str, Any]:
    """What a JUnit report says: its sums, what failed and why, and the slowest.

    :raises SalternError: it is none
    """
    try:
        text = report.decode()
        if re.search(r"<!(DOCTYPE|ENTITY)", text):
            raise SalternError("the test report is not one that pytest wrote: it defines entities")
        cases = list(ElementTree.fromstring(text).iter("testcase"))
        rows = [(_name(case), float(case.get("time", 0)), _ended(case)) for case in cases]
    except (ElementTree.ParseError, UnicodeDecodeError, ValueError) as error:
        raise SalternError(f"the test report cannot be read ({short(error, 120)})") from None
    counts = {word: sum(end == word for _, _, (end, _) in rows) for word in ("passed", "failed", "skipped")}
    return {
        "counts": counts,
        "failed": [
            {"name": name, "why": why} for name, _, (end, why) in rows if end == "failed"
        ][:MOST_ROWS],
        "slowest": [
            {"name": name, "seconds": seconds}
            for name, seconds, _ in sorted(rows, key=lambda row: -row[1])[:10]
        ],
    }  # fmt: skip


def _name(case: ElementTree.Element) -> str:
    return short(f"{case.get('classname', '')}::{case.get('name', '')}")


def _ended(case: ElementTree.Element) -> tuple[str, str]:
    """How a test ended, and why if it failed."""
    for tag in ("failure", "error"):
        if (found := case.find(tag)) is not None:
            return "failed", short(found.get("message") or found.text or tag)
    return ("skipped", "") if case.find("skipped") is not None else ("passed", "")


def coverage_of(report: bytes) -> dict[str, Any]:
    """What coverage.py's JSON says: per cent of all, and of each file, the least first.

    :raises SalternError: it is none
    """
    try:
        found = json.loads(report)
        files = [
            {
                "name": short(name),
                "percent": round(float(about["summary"]["percent_covered"]), 1),
                "missing": int(about["summary"]["missing_lines"]),
            }
            for name, about in found["files"].items()
        ]
        percent = round(float(found["totals"]["percent_covered"]), 1)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SalternError(f"the coverage report cannot be read ({short(error, 120)})") from None
    return {
        "percent": percent,
        "files": sorted(files, key=lambda each: (each["percent"], each["name"]))[:MOST_ROWS],
    }


def shown(build: Mapping[str, Any]) -> dict[str, Any]:
    """A build for the picture, from the pipeline's own words.

    :raises KeyError, TypeError, ValueError, AttributeError: it is no build
    """
    if not ID.match(build["id"]):
        raise ValueError(f"not a build's id: {short(build['id'], 60)}")
    began, ended = float(build["began"]), float(build["ended"])
    name = build["ref"].removeprefix("refs/heads/").removeprefix("refs/tags/")
    return {
        "name": short(name), "author": short(build["author"]), "subject": short(build["subject"]),
        "commit": short(build["commit"])[:7], "state": short(build["state"], 20), "stage": short(build["stage"], 40),
        "why": short(build["why"]), "at": float(build["created"]),
        "took": round(ended - began, 1) if ended and began else None,
        "target": short(build["target"], 20), "release": short(build["release"], 64),
        "serving": short(build["serving"]),
        "tests": {str(key): int(number) for key, number in build["tests"].items()},
        "coverage": None if build["coverage"] is None else float(build["coverage"]),
        "findings": None if build["findings"] is None else int(build["findings"]),
        "stages": {
            short(each["name"], 40): short(f"{float(each['seconds']):.1f} s  {each['words']}")
            for each in build["stages"]
        },
    }  # fmt: skip
