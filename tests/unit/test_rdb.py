"""Copies of Redis' data: who takes one, what they are called, which go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from saltern import rdb
from saltern.errors import SalternError


@pytest.mark.parametrize(
    ("role", "why"),
    [
        (["slave", "10.0.0.1", 6379, "connected", 10], ""),
        (["slave", "10.0.0.1", 6379, "sync", 10], "this replica is not in step with its primary (sync)"),
        (["master", 10, [["10.0.0.2", "6379", "10"]]], "this is the primary; its replicas take the copies"),
        (["master", 10, []], ""),
    ],
)
def test_replicas_take_copies_and_a_primary_only_where_there_is_none(role, why):
    assert rdb.reason_to_skip(role) == why


@given(st.lists(st.integers(0, 4_000_000_000), unique=True, max_size=30), st.integers(1, 30))
def test_the_newest_copies_stay(moments, keep):
    names = {rdb.file_name(moment): moment for moment in moments}
    gone = rdb.surplus([*names, "notes.txt", "redis-2026.part"], keep)
    assert set(gone) <= set(names)
    stay = sorted(set(names) - set(gone))
    assert len(stay) == min(keep, len(names))
    assert all(old < new for old in gone for new in stay)


@pytest.mark.parametrize(
    "content", [b"", b"x", b"REDIS0010", b"REDIS0010" + b"\x00" * 20, b"root:x:0:0:\xff12345678"]
)
def test_what_is_no_whole_copy_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "copy.rdb"
    path.write_bytes(content)
    with pytest.raises(SalternError, match="not a whole copy") as refused:
        rdb.judge(path)
    assert "\n" not in str(refused.value)
