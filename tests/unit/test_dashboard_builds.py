"""What the dashboard shows of a build's reports, and what of them it refuses: a build may write what it likes."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from dashboard_stand import BUILDS, COVERAGE, JUNIT
from saltern.dashboard_builds import MOST_ROWS, coverage_of, junit_of, shown
from saltern.dashboard_view import diff
from saltern.errors import SalternError


def test_a_test_report_is_its_sums_what_failed_and_the_slowest_first():
    found = junit_of(JUNIT.encode())
    assert found["counts"] == {"passed": 1, "failed": 1, "skipped": 1}
    assert found["failed"] == [{"name": "tests.test_items::test_long", "why": "assert 1 == 2"}]
    assert [each["seconds"] for each in found["slowest"]] == [1.5, 0.25, 0.001]


def test_an_error_outside_of_a_test_is_a_failure_and_its_text_is_one_line():
    report = "<testsuite><testcase name='x'><error>a\nb\x00</error></testcase></testsuite>".replace(
        "\x00", ""
    )
    assert junit_of(report.encode())["failed"] == [{"name": "::x", "why": "a b"}]


@pytest.mark.parametrize(
    ("report", "words"),
    [
        (b"", "cannot be read"),
        (b"<testsuite><testcase", "cannot be read"),
        (b"\xff\xfe<\x00", "cannot be read"),
        (b'<testsuite><testcase time="soon"/></testsuite>', "cannot be read"),
        (b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><testsuite/>', "defines entities"),
    ],
)
def test_a_test_report_that_is_none_is_refused_in_one_line(report, words):
    with pytest.raises(SalternError, match=words) as refused:
        junit_of(report)
    assert "\n" not in str(refused.value)


def test_coverage_tells_the_least_covered_file_first():
    assert coverage_of(COVERAGE.encode()) == {
        "percent": 81.2,
        "files": [
            {"name": "product/items.py", "percent": 40.0, "missing": 30},
            {"name": "product/app.py", "percent": 92.5, "missing": 6},
        ],
    }


@pytest.mark.parametrize(
    "report", [b"", b"[]", b"{}", b'{"files": {"a": 1}, "totals": {"percent_covered": 1}}']
)
def test_a_coverage_report_that_is_none_is_refused_in_one_line(report):
    with pytest.raises(SalternError, match="cannot be read"):
        coverage_of(report)


def test_a_report_of_thousands_is_cut():
    cases = "".join(f'<testcase name="t{n}"><failure/></testcase>' for n in range(MOST_ROWS + 5))
    assert len(junit_of(f"<testsuite>{cases}</testsuite>".encode())["failed"]) == MOST_ROWS
    summary = {"summary": {"percent_covered": 1, "missing_lines": 1}}
    files = {f"f{n}.py": summary for n in range(MOST_ROWS + 5)}
    report = {"totals": {"percent_covered": 1}, "files": files}
    assert len(coverage_of(json.dumps(report).encode())["files"]) == MOST_ROWS


def test_a_build_is_shown_as_the_pipeline_tells_it():
    row = shown(asdict(BUILDS[0]))
    assert (row["name"], row["commit"], row["took"]) == ("staging", "ab12cd3", 9.5)
    assert (row["tests"], row["coverage"], row["findings"]) == ({"tests": 3, "failures": 1}, 81.3, 0)
    assert row["stages"] == {"build": "1.2 s  release r2709ee1d8651"}
    going = shown({**asdict(BUILDS[0]), "state": "running", "ended": 0.0})
    assert going["took"] is None
    assert diff({"a": going}, {"a": row}), "what came of it reaches the page"


@pytest.mark.parametrize(
    "change", [{"id": "../../x"}, {"id": 7}, {"began": "x"}, {"tests": []}, {"stages": [{}]}]
)
def test_what_is_no_build_is_not_shown(change):
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
        shown({**asdict(BUILDS[0]), **change})
