"""The dashboard's picture: how machines are, what is told of the canary, and patches that follow any change."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from saltern import journal, steps
from saltern.alert_store import Alert
from saltern.dashboard_view import (
    BAD,
    GOOD,
    LINES_SHOWN,
    TEXT_LENGTH,
    WARN,
    Usage,
    World,
    clean,
    diff,
    document,
    heard,
    intents_named,
    machines,
    merge,
    short,
    used,
)
from saltern.intents import Intent
from saltern.judge import Metric, Verdict, Window
from saltern.registry import parse_state
from saltern.windows import Second

NOW = 1_795_220_681.0
HOSTS = {
    "proxy1": "10.0.0.10",
    "redis1": "10.0.0.11",
    "redis2": "10.0.0.12",
    "ops1": "10.0.0.20",
    "ops2": "10.0.0.21",
}


def instance(pool: str = "prod", **changes: str) -> dict[str, str]:
    return {"pool": pool, "addr": "10.0.0.1", "port": "8080", "release": "r1", "want": "ready", **changes}


def server(**changes: Any) -> dict[str, Any]:
    return {
        "pool": "prod", "release": "r1", "up": True, "phase": "ready", "check": "L7OK", "sessions": 0, "response_ms": 3,
        **changes,
    }  # fmt: skip


def world(
    instances: dict[str, dict[str, str]] | None = None,
    servers: dict[str, dict[str, Any]] | None = None,
    latch: dict[str, str] | None = None,
    **changes: Any,
) -> World:
    state = parse_state(7, instances or {}, {"share": "30"}, latch or {})
    seen = {"ts": NOW, "share": 30, "servers": servers or {}, "kept": {}, "unplaced": []}
    given: dict[str, Any] = {
        "at": NOW,
        "hosts": HOSTS,
        "itself": "ops1",
        "state": state,
        "seen": seen,
        **changes,
    }
    return World(**given)


def felt(percent: float, high: bool, ago_s: float = 0.0) -> dict[str, Any]:
    return {"high": high, "percent": percent, "at": NOW - ago_s}


def second(at: float, requests: dict[str, int], errors: int = 0) -> Second:
    pools = {
        pool: {
            "requests": sum(n for id_, n in requests.items() if id_.startswith("staging") == (pool == "canary")),
            "errors": errors if pool == "canary" else 0,
            "response_ms": 4.0,
        }
        for pool in ("prod", "canary")
    }  # fmt: skip
    of = {id_: ("canary" if id_.startswith("staging") else "prod", n) for id_, n in requests.items()}
    return Second(f"{int(at * 1000)}-0", at, at, 1.0, 30, pools, frozenset({"r2"}), of)


@pytest.mark.parametrize(
    ("what", "machine", "given_world", "how", "word"),
    [
        ("a server that is up serves", "prod1", world({"prod1": instance()}, {"prod1": server()}), GOOD, "serving"),
        (
            "one that fails its check does not, and the check is named",
            "prod1", world({"prod1": instance()}, {"prod1": server(up=False, check="L4CON", phase="down")}),
            BAD, "down (L4CON)",
        ),
        (
            "one that drains needs attention, not alarm",
            "prod1", world({"prod1": instance(want="drain")}, {"prod1": server(phase="draining")}),
            WARN, "finishing its open requests",
        ),
        (
            "in maintenance it is meant to be down",
            "prod1", world({"prod1": instance(want="maint")}, {"prod1": server(up=False, phase="maint")}),
            WARN, "in maintenance",
        ),
        ("one the proxy has not taken yet is not seen", "prod1", world({"prod1": instance()}), WARN, "not seen yet"),
        (
            "without the controller nobody knows, which is not the same as well",
            "prod1", world({"prod1": instance()}, seen=None), WARN, "nobody says how it is: the controller is silent",
        ),
        ("and the proxy is what is broken", "proxy1", world(seen=None), BAD, "its controller says nothing"),
        ("a proxy whose controller speaks routes", "proxy1", world(), GOOD, "routing"),
        (
            "pressure makes a machine amber, with its number",
            "prod1",
            world({"prod1": instance()}, {"prod1": server()}, felt={"prod1/cpu": felt(93.4, True)}),
            WARN, "serving, under pressure: cpu 93 %",
        ),
        (
            "pressure from long ago is forgotten",
            "prod1",
            world({"prod1": instance()}, {"prod1": server()}, felt={"prod1/cpu": felt(93.4, True, 600)}),
            GOOD, "serving",
        ),
        (
            "a canary that is off is up and gets nothing",
            "staging1",
            world(
                {"staging1": instance("canary")}, {"staging1": server(pool="canary")},
                latch={"reason": "error rate", "releases": "r1"},
            ),
            WARN, "up, without requests: the canary is off",
        ),
        (
            "what is stored wrongly is red, and the fault is told",
            "prod1", world({"prod1": instance(addr="nowhere")}, {"prod1": server()}),
            BAD, "instance: address nowhere is not the IP address of one host; give a literal such as 10.213.0.21",
        ),
        ("the primary says so", "redis1", world(links={"redis1": "primary"}), GOOD, "primary"),
        (
            "a replica that the primary does not know is red",
            "redis2", world(links={"redis1": "primary"}), BAD, "not in touch with the primary",
        ),
        ("without Redis nothing is said of Redis", "redis1", world(), WARN, "Redis cannot be asked"),
        ("the machine this comes from is well", "ops1", world(), GOOD, "shows this page"),
        ("another one that is silent is missed", "ops2", world(), WARN, "not heard of for a while"),
    ],
)  # fmt: skip
def test_a_machine_is_green_amber_or_red_and_says_why_in_words(
    what: str, machine: str, given_world: World, how: str, word: str
) -> None:
    row = machines(given_world)[machine]
    assert (row["state"], row["word"]) == (how, word), what


def test_only_machines_that_somebody_knows_of_are_shown_and_none_by_a_name_that_is_no_machines() -> None:
    found = machines(
        world(
            {"prod1": instance()},
            {"prod2": server()},
            felt={"staging4/cpu": felt(5, False), "../x/cpu": felt(5, False)},
        )
    )
    assert set(found) == {*HOSTS, "prod1", "prod2", "staging4"}
    gone = world(felt={"prod9/cpu": felt(5, False, 600)})
    assert "prod9" not in machines(gone), "it went away ten minutes ago"


def test_a_sign_of_life_is_the_latest_that_anybody_had() -> None:
    sees = world({"prod1": instance()}, {"prod1": server()})
    assert heard(sees, "prod1", server(), {}) == int(NOW)
    assert heard(sees, "prod1", server(up=False), {"cpu": felt(5, False, 40)}) == int(NOW - 40)
    assert heard(sees, "prod1", server(up=False), {}) is None
    assert heard(world(links={"redis2": "replica"}), "redis2", None, {}) == int(NOW)


def test_use_is_the_whole_machines_where_that_is_newer_or_high_else_the_products() -> None:
    usage = Usage(NOW - 5, 12.4, 33.0)
    assert used(usage, {}, NOW) == {"cpu": 12, "memory": 33}
    assert used(usage, {"cpu": felt(93, True, 30)}, NOW) == {"cpu": 93, "memory": 33}
    assert used(usage, {"cpu": felt(9, False, 30)}, NOW)["cpu"] == 12
    assert used(usage, {"cpu": felt(9, False, 1)}, NOW)["cpu"] == 9
    assert used(usage, {}, NOW + 600) == {}, "what was measured ten minutes ago is not now"


def test_shares_are_of_the_requests_that_were_counted() -> None:
    seconds = [second(NOW - 20 + n, {"prod1": 35, "prod2": 35, "staging1": 30}) for n in range(20)]
    picture = document(
        world(
            {"prod1": instance(), "prod2": instance(), "staging1": instance("canary", release="r2")},
            {"prod1": server(), "prod2": server(), "staging1": server(pool="canary", release="r2")},
            seconds=seconds,
        )
    )
    assert [picture["machines"][id_]["share"] for id_ in ("prod1", "prod2", "staging1")] == [35, 35, 30]
    assert picture["machines"]["prod1"]["rate"] == 35.0
    split = picture["split"]
    assert (split["share"], split["effective"], split["measured"]) == (30, 30, 30)
    assert split["pools"]["canary"] == {"rate": 30.0, "errors": 0, "response_ms": 4.0}
    assert split["releases"] == {"prod": ["r1"], "canary": ["r2"]}
    assert picture["traffic"][f"{NOW - 1:.1f}"] == [70, 30, 0]


def test_the_verdict_the_steps_the_intents_and_the_alerts_are_told_with_their_numbers() -> None:
    verdict = Verdict(
        "hold", "cpu: too uncertain",
        (Metric("errors", "%", "pass", "fine", 0.12345, 0.1, 1.2345, 0.4, 500, 900), Metric("cpu", "%", "hold", "few")),
    )  # fmt: skip
    windows = (Window("canary", 1.0, 300.0, 500, 1), Window("prod", 1.0, 300.0, 900, 1))
    picture = document(
        world(
            judged=(verdict, *windows),
            steps=steps.State("r2", steps.STEPPING, 10, NOW),
            shares=(5, 10, 100),
            intents=[
                Intent(
                    "roll", "prod", {"to": 4}, id="1-0", state="running", at=NOW, journal="2-0", by="conductor",
                    steps={"prod10": {"s": 2}, "prod2": {"s": 1}},
                )
            ],
            alerts=[Alert("CpuHigh", "prod1", "c", "warning", "it is hot", until=NOW - 1, since=NOW - 60)],
        )
    )  # fmt: skip
    assert picture["verdict"]["metrics"]["errors"] == {
        "unit": "%", "verdict": "pass", "reason": "fine", "canary": 0.123, "prod": 0.1, "ratio": 1.23, "p": 0.4,
        "n": "500 / 900",
    }  # fmt: skip
    assert "ratio" not in picture["verdict"]["metrics"]["cpu"], "what is not known is not there"
    assert picture["steps"] == {
        "phase": "stepping", "shares": {"5": True, "10": True, "100": True}, "release": "r2", "share": 10, "since": NOW,
    }  # fmt: skip
    intent = picture["intents"]["1-0"]
    assert (intent["kind"], intent["state"], intent["args"]) == ("roll", "running", "to=4")
    assert intent["steps"] == {"prod2": "s=1", "prod10": "s=2"}
    assert list(intent["steps"]) == ["prod2", "prod10"]
    (alert,) = picture["alerts"].values()
    assert alert["firing"] is False, "it ended by itself"
    assert document(world())["verdict"] == {}


def test_intents_that_ended_lately_are_found_in_the_journal() -> None:
    def line(at: float, kind: str, intent: str) -> journal.Line:
        return journal.Line(f"{int(at * 1000)}-0", kind, "prod", fields={"intent": intent})

    lines = [
        line(NOW - 9000, "intent.done", "1"),
        line(NOW - 5, "intent.begun", "2"),
        line(NOW - 4, "intent.failed", "3"),
    ]
    assert intents_named(lines, NOW) == ["3"]


def test_texts_are_one_bounded_line_and_the_journal_is_bounded() -> None:
    assert short("a\nb\x1b[31m\u2028c") == "a b [31m c"
    assert len(short("x" * 10_000)) == TEXT_LENGTH
    lines = [
        journal.Line(f"{1795220681000 + n}-0", "k" * 500, "s", fields={"a": "\n" * 900}) for n in range(400)
    ]
    told = document(world(lines=lines))["journal"]
    assert len(told) == LINES_SHOWN
    assert all(len(each["kind"]) <= TEXT_LENGTH and "\n" not in each["what"] for each in told.values())


def test_two_hundred_machines_are_a_picture_of_a_page_weight() -> None:
    ids = [f"prod{n}" for n in range(1, 201)]
    picture = document(
        world(
            {id_: instance() for id_ in ids}, {id_: server() for id_ in ids},
            seconds=[second(NOW - 60 + n, dict.fromkeys(ids, 3)) for n in range(60)],
        )
    )  # fmt: skip
    assert len(picture["machines"]) == 200 + len(HOSTS)
    assert len(json.dumps(picture, separators=(",", ":"))) < 90_000


# --- patches

values = st.recursive(
    st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False, width=16) | st.text(max_size=3),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=2), inside, max_size=3),
    max_leaves=8,
)
documents = st.dictionaries(st.sampled_from("abcd"), values, max_size=4)


@given(documents, documents)
def test_a_patch_makes_any_document_into_any_other(before: dict[str, Any], after: dict[str, Any]) -> None:
    patch = json.loads(json.dumps(diff(before, after)))
    assert repr(merge(before, patch)) != "" and merge(before, patch) == after
    assert not diff(after, after)


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": 1}, {"a": 1}, {"e": 1, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merging_is_what_the_appendix_of_rfc_7396_says(target: Any, patch: Any, result: Any) -> None:
    assert merge(target, patch) == result


@given(
    st.recursive(st.none() | st.integers(), lambda i: st.lists(i) | st.dictionaries(st.text(max_size=2), i))
)
def test_a_picture_holds_no_null(value: Any) -> None:
    assert value is None or "null" not in json.dumps(clean(value)).replace('"null"', "")
