"""Which builds count: cancelled by a newer push, kept, thrown away; and what of a log is mailed."""

from __future__ import annotations

import json

import pytest
from saltern.pipeline import mails
from saltern.pipeline.records import (
    Build,
    Records,
    collectable,
    failing_part,
    forgettable,
    new_id,
    superseded,
)


def build(number: int, ref: str = "refs/heads/staging", **more: object) -> Build:
    return Build(f"20261121-0715{number:02d}-abcdef1", ref, "a" * 40, created=float(number), **more)


def test_an_id_says_when_and_of_which_commit_and_is_nobody_elses():
    first = new_id(1_795_245_323.9, "ab12cd3" + "0" * 33, [])
    assert first == "20261121-071523-ab12cd3"
    assert new_id(1_795_245_323.9, "ab12cd3" + "0" * 33, [first, f"{first}-2"]) == f"{first}-3"


def test_a_newer_push_makes_unfinished_builds_of_its_branch_alone_pointless():
    newer = build(5)
    builds = [
        build(1, state="running"), build(2), build(3, state="passed"), build(4, "refs/heads/dev"), newer,
        build(6, state="queued"),
    ]  # fmt: skip
    assert [b.created for b in superseded(builds, newer)] == [1.0, 2.0]


def passed(number: int, release: str, ref: str = "refs/heads/staging") -> Build:
    return build(number, ref, state="passed", release=release)


@pytest.mark.parametrize(
    ("builds", "running", "keep", "gone"),
    [
        ([], [], 1, set()),
        ([passed(n, f"r{n}") for n in range(4)], [], 2, {"r0", "r1"}),
        ([passed(n, f"r{n}") for n in range(4)], ["r0"], 2, {"r1"}),
        ([passed(0, "r0", "refs/tags/v1"), *(passed(n, f"r{n}") for n in range(1, 4))], [], 2, {"r1"}),
        # One that was built again is as new as its last build.
        ([passed(0, "r0"), passed(1, "r1"), passed(2, "r2"), passed(3, "r0")], [], 2, {"r1"}),
        # Whatever it was tagged by: the tag of a release that is also on a branch holds it.
        ([passed(0, "r0"), passed(1, "r0", "refs/tags/v1"), passed(2, "r2"), passed(3, "r3")], [], 1, {"r2"}),
    ],
)
def test_the_last_artifacts_stay_and_what_runs_or_is_tagged_too(builds, running, keep, gone):
    assert collectable(builds, running, keep) == gone


def test_records_beyond_the_last_few_go_unless_something_is_still_to_be_said():
    builds = [
        build(0, state="passed"), build(1, state="failed", mail="due"), build(2, state="passed", serving="waiting"),
        build(3, state="running"), build(4, "refs/tags/v1", state="passed"), build(5, state="failed", mail="sent"),
        build(6, state="passed"),
    ]  # fmt: skip
    assert [b.created for b in sorted(forgettable(builds, 1), key=lambda b: b.created)] == [0.0, 5.0]


def test_what_is_asked_for_twice_in_one_second_is_two_builds(tmp_path):
    records = Records(tmp_path)
    records.prepare()
    ids = {records.ask(build(1)).id for _ in range(3)}
    assert len(ids) == 3
    assert {path.stem for path, made in records.asked() if made} == ids


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"id": "../x"}', '{"id": "20261121-071523-abcdef1"}', "{"])
def test_a_file_in_the_queue_that_is_no_build_is_told_apart(tmp_path, text):
    records = Records(tmp_path)
    records.prepare()
    (records.queue / "20261121-071523-abcdef1.json").write_text(text)
    assert [made for _, made in records.asked()] == [None]


def test_a_file_whose_name_is_another_builds_is_none(tmp_path):
    records = Records(tmp_path)
    records.prepare()
    made = records.ask(build(1))
    path = records.queue / f"{made.id}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "id": "20261121-000000-abcdef1"}))
    assert [found for _, found in records.asked()] == [None]


def test_a_log_is_kept_up_to_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("saltern.pipeline.records.LONGEST_LOG", 100)
    records = Records(tmp_path)
    records.prepare()
    records.folder("x").mkdir()
    for _ in range(50):
        records.say("x", "0123456789")
    assert records.log("x").stat().st_size == 100


LINES = [f"line {n}" for n in range(200)]


def test_of_a_short_log_the_last_stage_is_mailed_whole():
    assert failing_part("== build\nfine\n== test\nbad\nworse\n") == "== test\nbad\nworse"
    assert failing_part("no stages\n") == "no stages"
    assert failing_part("") == ""


def test_of_a_long_one_the_first_complaint_and_the_end():
    lines = ["== build", "all well", "== test", *LINES[:100], "E   assert 1 == 2", *LINES[100:], "1 failed"]
    part = failing_part("\n".join(lines)).splitlines()
    assert len(part) <= 43
    assert part[0] == "== test"
    assert "E   assert 1 == 2" in part
    assert part[-1] == "1 failed"
    assert "all well" not in part


def test_of_a_long_one_without_a_complaint_the_end():
    part = failing_part("\n".join(["== test", *LINES])).splitlines()
    assert part[0] == "== test"
    assert part[-1] == "line 199"
    assert len(part) <= 43


@pytest.mark.parametrize(
    ("author", "address"),
    [
        ("Ada <ada@fleet.test>", "ada@fleet.test"),
        ("ada@fleet.test", "ada@fleet.test"),
        ("Ada", ""),
        ("Ada <ada>", ""),
        ("Ada <a b@fleet.test>", ""),
        ("x <a@b\nBcc: everybody@fleet.test>", ""),
        ("Ada <a@$(reboot)>", ""),
        ("", ""),
    ],
)
def test_mail_goes_only_where_an_address_is_one(author, address):
    assert mails.address_of(author) == address


def test_a_hostile_commit_makes_an_ordinary_mail():
    hostile = build(
        1,
        "refs/heads/x",
        author="E\nBcc: x@y <eve@fleet.test>",
        subject="a\nSubject: b",
        why="test: \n\x1b[31mred",
    )
    message = mails.compose(
        hostile, "== test\nlog\x1b[0m\n", {"from": "s@f.test", "to": "o@f.test"}, "saltern", "http://x/builds"
    )
    assert message["Bcc"] is None
    assert message.get_all("Subject") == ["[saltern] build of x failed: test:   [31mred"]
    assert "\x1b" not in message.get_content()
