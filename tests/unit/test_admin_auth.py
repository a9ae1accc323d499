from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st
from saltern import admin_auth
from saltern.admin_auth import Denied, Limiter, Tokens, allows

pytestmark = pytest.mark.unit


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


TOKENS = Tokens({"read": [digest("r1"), digest("r2")], "write": [digest("w")]})


@pytest.mark.parametrize(
    ("header", "scope"),
    [
        (None, ""),
        ("Bearer r1", "read"),
        ("Bearer r2", "read"),
        ("bearer w", "write"),
        ("BEARER   w  ", "write"),
    ],
)
def test_a_known_token_has_its_scope(header: str | None, scope: str) -> None:
    assert TOKENS.scope(header) == scope


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "w", "Basic dzp3", "Bearer x", "Bearer r1 r2", "Bearer " + "w" * 513, "Bearer \udcff",
     f"Bearer {digest('w')}"],
)  # fmt: skip
def test_anything_else_is_denied(header: str) -> None:
    with pytest.raises(Denied):
        TOKENS.scope(header)


def test_a_token_with_both_scopes_may_write() -> None:
    assert Tokens({"write": [digest("t")], "read": [digest("t")]}).scope("Bearer t") == "write"


def test_every_known_hash_is_compared_in_constant_time_whichever_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[bytes] = []
    real = hmac.compare_digest

    def compare(a: bytes, b: bytes) -> bool:
        compared.append(b)
        return real(a, b)

    monkeypatch.setattr(admin_auth.hmac, "compare_digest", compare)
    for header in ("Bearer r1", "Bearer w"):
        compared.clear()
        TOKENS.scope(header)
        assert [each.hex() for each in compared] == [digest("r1"), digest("r2"), digest("w")]


@pytest.mark.parametrize(
    ("scope", "needed", "allowed"),
    [("", "", True), ("", "read", False), ("", "write", False), ("read", "", True), ("read", "read", True),
     ("read", "write", False), ("write", "read", True), ("write", "write", True), ("admin", "read", False)],
)  # fmt: skip
def test_write_covers_read_and_not_the_other_way_round(scope: str, needed: str, allowed: bool) -> None:
    assert allows(scope, needed) is allowed


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_passes_and_then_the_rate() -> None:
    clock = Clock()
    limiter = Limiter(60, 3, clock)
    assert [limiter.take("a") for _ in range(3)] == [0, 0, 0]
    assert limiter.take("a") == pytest.approx(1.0)
    assert limiter.take("b") == 0
    clock.now = 0.5
    assert limiter.take("a") == pytest.approx(0.5)
    clock.now = 1.0
    assert limiter.take("a") == 0
    assert limiter.take("a") > 0


@given(st.lists(st.floats(0, 5), max_size=60), st.integers(1, 600), st.integers(1, 10))
def test_no_more_than_burst_and_rate_pass_however_they_come(
    pauses: list[float], rate: int, burst: int
) -> None:
    clock = Clock()
    limiter = Limiter(rate, burst, clock)
    passed = 0
    for pause in pauses:
        clock.now += pause
        wait = limiter.take("k")
        if wait == 0:
            passed += 1
        else:
            # The wait that is told is enough.
            clock.now += wait + 1e-9
            assert limiter.take("k") == 0
            passed += 1
        assert passed <= burst + clock.now * rate / 60 + 1e-6


def test_a_crowd_of_addresses_does_not_fill_the_memory() -> None:
    limiter = Limiter(60, 1)
    for number in range(20_000):
        limiter.take(number)
    assert len(limiter._buckets) <= 4096
