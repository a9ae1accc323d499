"""What the registry lets in, and what it makes of values it finds."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from saltern import registry
from saltern.controller import state_from_json, state_to_json
from saltern.registry import Instance, Latch, RegistryError, Split, State

pytestmark = pytest.mark.unit

GOOD: list[tuple[Callable[[Any], object], Any, object]] = [
    (registry.check_id, "prod1", "prod1"),
    (registry.check_id, "staging9999", "staging9999"),
    (registry.check_release, "r1", "r1"),
    (registry.check_release, "2026.11.20-a_b", "2026.11.20-a_b"),
    (registry.check_release, "a" * 64, "a" * 64),
    (registry.check_addr, "10.213.0.21", "10.213.0.21"),
    (registry.check_addr, "FD00::0:1", "fd00::1"),
    (registry.check_port, 8080, 8080),
    (registry.check_port, "8080", 8080),
    (registry.check_share, 0, 0),
    (registry.check_share, "100", 100),
    (registry.check_limit, None, None),
    (registry.check_limit, 0, 0.0),
    (registry.check_limit, "2.5", 2.5),
    (registry.check_text, "cannot reach 10.0.0.1", "cannot reach 10.0.0.1"),
]


def test_good_values_pass_in_their_canonical_form() -> None:
    for check, value, result in GOOD:
        arguments = ("by",) if check is registry.check_text else ()
        assert check(value, *arguments) == result


HOSTILE = [
    "",
    "*",
    "prod1\n",
    "prod1;quit",
    "prod",
    "prod12345",
    "PROD1",
    " prod1",
    "prod1 ",
    "../prod1",
    "prod１",
]
HOSTILE += ["prod1/x", "minion1", "prod1*", "prod[0-9]", "\x00", None, 1, True, ["prod1"], b"prod1"]
BAD = [(registry.check_id, value, "is not a machine id") for value in HOSTILE]
BAD += [
    (registry.check_release, value, "is not a release id")
    for value in [
        "",
        "R1",
        "-r",
        ".r",
        "r" * 65,
        "r 1",
        "r;show",
        "r\n",
        "r/../x",
        "r$(id)",
        "é",
        None,
        1,
        {},
    ]
]
NO_ADDRESS = ["", "prod1", "10.0.0", "10.0.0.256", "10.0.0.1/24", "10.0.0.1:80", "0.0.0.0", "::", "224.0.0.1"]
NO_ADDRESS += [
    "255.255.255.255",
    "fe80::1%eth0",
    "10.0.0.1\n",
    "10.0.0.1;quit",
    "010.0.0.1",
    None,
    1,
    3232235777,
]
BAD += [(registry.check_addr, value, "is not the IP address of one host") for value in NO_ADDRESS]
BAD += [
    (registry.check_port, value, "is not between 1 and 65535")
    for value in [0, -1, 65536, "", "80a", "８０", 80.0, True, None, "1e3"]
]
BAD += [
    (registry.check_pool, v, "is not one of prod, canary") for v in ["", "Prod", "stable", None, 1, ["prod"]]
]
BAD += [(registry.check_want, v, "is not one of ready, drain, maint") for v in ["", "down", "READY", None, 0]]
BAD += [
    (registry.check_share, value, "is not between 0 and 100; canary.share takes a percentage")
    for value in [-1, 101, 130, "130", "", "30%", 30.5, None, True, "1e1", float("nan")]
]
BAD += [
    (registry.check_limit, v, "seconds") for v in [-1, 86_401, "x", True, float("nan"), float("inf"), [1]]
]


@pytest.mark.parametrize(("check", "value", "message"), BAD)
def test_bad_values_are_refused_with_the_value_and_the_remedy(
    check: Callable[[Any], object], value: Any, message: str
) -> None:
    with pytest.raises(RegistryError, match=re.escape(message)) as refusal:
        check(value)
    text = str(refusal.value)
    assert "\n" not in text
    assert text.isprintable()


def test_the_text_about_a_bad_share_is_the_one_the_style_guide_shows() -> None:
    with pytest.raises(RegistryError) as refusal:
        registry.check_share(130)
    assert str(refusal.value) == "split: share 130 is not between 0 and 100; canary.share takes a percentage"


@pytest.mark.parametrize("value", ["two\nlines", "x" * 301, "\x1b[31m", None, 5])
def test_a_reason_is_one_printable_line(value: Any) -> None:
    with pytest.raises(RegistryError, match="printable line"):
        registry.check_text(value, "canary.reason")


@given(st.one_of(st.text(), st.binary(), st.integers(), st.floats(), st.none(), st.booleans()))
def test_whatever_passes_the_address_check_is_the_text_of_one_address(value: Any) -> None:
    try:
        text = registry.check_addr(value)
    except RegistryError:
        return
    assert str(ipaddress.ip_address(text)) == text
    assert re.fullmatch(r"[0-9a-f.:]+", text)


@given(st.text())
def test_whatever_passes_as_id_or_release_cannot_break_out_of_a_command(value: str) -> None:
    for check in (registry.check_id, registry.check_release):
        try:
            check(value)
        except RegistryError:
            continue
        assert re.fullmatch(r"[a-z0-9._-]+", value)


STORED = {
    "pool": "prod",
    "addr": "10.0.0.1",
    "port": "8080",
    "release": "r1",
    "want": "drain",
    "since": "5.5",
}


def test_a_stored_state_is_read_and_what_is_unusable_is_set_aside() -> None:
    state = registry.parse_state(
        7,
        {
            "prod1": STORED,
            "prod2": {**STORED, "limit": "30"},
            "prod3": {**STORED, "port": "99999"},
            "prod4": {"pool": "prod"},
            "*": STORED,
        },
        {"share": "10", "by": "ann", "since": "3.25"},
        {"reason": "errors", "by": "controller", "since": "4", "releases": "r1 r2"},
        frozenset({"prod9"}),
    )
    assert state.instances["prod1"] == Instance("prod1", "prod", "10.0.0.1", 8080, "r1", "drain", 5.5)
    assert state.instances["prod2"].limit_s == 30.0
    assert set(state.rejected) == {"prod3", "prod4", "*"}
    assert "99999" in state.rejected["prod3"]
    assert "addr, port, release" in state.rejected["prod4"]
    assert state.split == Split(10, "ann", 3.25)
    assert state.latches["canary"] == Latch("errors", "", "controller", 4.0, ("r1", "r2"))
    assert state.forced == {"prod9"}


def test_an_empty_registry_has_the_default_share_and_nobody() -> None:
    assert registry.parse_state(0, {}, {}, {}) == State()
    assert State().split.share == registry.DEFAULT_SHARE == 30


def test_a_share_that_cannot_be_read_is_not_guessed() -> None:
    with pytest.raises(RegistryError, match="share lots"):
        registry.parse_state(1, {}, {"share": "lots"}, {})


def test_a_state_kept_on_disk_comes_back_the_same() -> None:
    state = registry.parse_state(
        7,
        {"prod1": STORED, "*": STORED},
        {"share": "10"},
        {"reason": "e", "releases": "r1"},
        frozenset({"prod1"}),
    )
    assert state_from_json(json.loads(json.dumps(state_to_json(state)))) == state
