from __future__ import annotations

from pathlib import Path

import pytest
from saltern import orders
from saltern.haproxy import HAProxyError, Rejected
from saltern.orders import Order, cut, done, give, waiting

pytestmark = pytest.mark.unit


def test_an_order_is_found_as_it_was_given_until_it_is_done(tmp_path: Path) -> None:
    given = give(tmp_path, Order("slow", "admin:write@10.0.0.1", "1-0", "POST /alert", {"value": 3}))
    assert given.id and given.at
    assert waiting(tmp_path) == [given]
    done(tmp_path, [given])
    done(tmp_path, [given])
    assert waiting(tmp_path) == [] == list(tmp_path.iterdir())


def test_orders_are_found_in_the_order_they_were_given(tmp_path: Path) -> None:
    given = [give(tmp_path, Order(f"reason {n}", "me")) for n in range(5)]
    assert waiting(tmp_path) == given


def test_a_folder_that_is_not_there_holds_no_orders(tmp_path: Path) -> None:
    assert waiting(tmp_path / "none") == []


def test_an_order_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        give(tmp_path / "none", Order("slow", "me"))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"reason": "x"}', '{"reason": "x", "by": "y", "more": 1}', "null"]
)
def test_a_file_that_cannot_be_understood_still_turns_the_canary_off_and_can_be_removed(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "x.json").write_text(text)
    found = waiting(tmp_path)
    assert [order.id for order in found] == ["x"]
    assert found[0].reason.startswith("an order that cannot be read")
    done(tmp_path, found)
    assert waiting(tmp_path) == []


def test_half_written_files_are_no_orders(tmp_path: Path) -> None:
    (tmp_path / ".1.new").write_text("{")
    (tmp_path / ".hidden.json").write_text("{")
    assert waiting(tmp_path) == []


def test_a_flood_of_orders_does_not_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "MOST_WAITING", 3)
    for _ in range(10):
        give(tmp_path, Order("slow", "me"))
    assert len(waiting(tmp_path)) == 3


class Socket:
    """HAProxy's socket as far as one list goes."""

    def __init__(self, *entries: str, refuse: str = "", deaf: bool = False) -> None:
        self.entries, self.refuse, self.deaf = list(entries), refuse, deaf
        self.changes: list[str] = []

    def ask(self, commands: list[str]) -> list[str]:
        assert commands == ["show acl /d/split.acl"]
        return ["\n".join(f"0x1 {entry}" for entry in self.entries)]

    def change(self, commands: list[str]) -> list[Rejected]:
        self.changes += commands
        if not self.deaf:
            self.entries = [each for each in self.entries if f"del acl /d/split.acl {each}" not in commands]
        return [Rejected(self.refuse)] if self.refuse else []


@pytest.mark.parametrize(
    ("entries", "changes"),
    [
        ((), []),
        (("0:29",), ["del acl /d/split.acl 0:29"]),
        (("0:39", "0:29"), ["del acl /d/split.acl 0:29", "del acl /d/split.acl 0:39"]),
    ],
)
def test_the_share_is_cut_with_no_more_commands_than_it_takes(
    entries: tuple[str, ...], changes: list[str]
) -> None:
    link = Socket(*entries)
    cut(link, "/d")  # type: ignore[arg-type]
    assert link.changes == changes
    assert link.entries == []


def test_a_cut_that_somebody_else_made_first_is_no_error() -> None:
    cut(Socket("0:29", refuse="Key not found."), "/d")  # type: ignore[arg-type]


def test_a_cut_that_has_no_effect_is_an_error() -> None:
    with pytest.raises(HAProxyError, match="still drawn by 0:29: not now"):
        cut(Socket("0:29", refuse="not now", deaf=True), "/d")  # type: ignore[arg-type]
    with pytest.raises(HAProxyError, match="still drawn by 0:29"):
        cut(Socket("0:29", deaf=True), "/d")  # type: ignore[arg-type]
