from __future__ import annotations

import json
from types import MappingProxyType
from typing import Any

import pytest
from saltern.admin_metrics import Requests, text, traffic
from saltern.canary_control import instance_tag, split_tag
from saltern.judge import Host, JudgeError, Thresholds, judge
from saltern.overview import overview
from saltern.registry import Instance, Latch, Split, State, UnknownInstance
from saltern.windows import Second, of_one_canary, pair, parse

pytestmark = pytest.mark.unit


def state(**changes: Any) -> State:
    instances = {
        id_: Instance(
            id_, "canary" if id_.startswith("staging") else "prod", "10.0.0.1", 8080, "r1", **changes
        )
        for id_ in ("prod2", "prod10", "staging1")
    }
    return State(7, MappingProxyType(instances), Split(30, "me", 5.0))


def server(**changes: Any) -> dict[str, Any]:
    return {"pool": "prod", "release": "r1", "up": True, "phase": "ready", "sessions": 3, **changes}


# --- overview


def test_without_news_of_the_controller_health_is_unknown_and_that_is_said() -> None:
    view = overview(state(), None)
    assert {row["health"] for row in view["instances"].values()} == {"unknown"}
    assert view["canary"]["effective_share"] is None
    assert view["problems"] == ["what HAProxy sees is unknown: is saltern-controller on proxy1 running?"]


def test_instances_come_in_the_order_people_count() -> None:
    assert list(overview(state(), None)["instances"]) == ["prod2", "prod10", "staging1"]


def test_what_is_wanted_and_what_haproxy_sees_stand_side_by_side() -> None:
    seen = {
        "share": 0,
        "share_reason": "off: slow",
        "servers": {
            "prod2": server(),
            "prod10": server(up=False, phase="down", sessions=0),
            "prod3": server(),
        },
        "kept": {"prod2": "last one"},
        "unplaced": ["staging1"],
    }
    view = overview(
        State(**{**state().__dict__, "latches": {"canary": Latch("slow", "1-0", "me", 2.0)}}), seen
    )
    assert view["canary"] == {
        "share": 30,
        "effective_share": 0,
        "why": "off: slow",
        "latch": {"reason": "slow", "by": "me", "cause": "1-0", "since": 2.0},
    }
    rows = view["instances"]
    assert (rows["prod2"]["health"], rows["prod2"]["sessions"], rows["prod2"]["kept"]) == (
        "up",
        3,
        "last one",
    )
    assert rows["prod10"]["health"] == "down"
    assert rows["staging1"]["health"] == "unknown"
    assert (rows["prod3"]["want"], rows["prod3"]["health"]) == ("gone", "up")
    assert view["problems"] == [
        "prod2 is kept: last one",
        "staging1 has no free slot; raise traffic.slots in the pillar",
    ]


def test_an_instance_whose_stored_values_are_unusable_is_shown_with_the_reason() -> None:
    broken = State(3, rejected=MappingProxyType({"prod9": "instance: port x is not between 1 and 65535"}))
    view = overview(broken, {"servers": {}, "share": 0})
    assert view["instances"]["prod9"]["kept"] == "instance: port x is not between 1 and 65535"
    assert view["problems"] == ["prod9: instance: port x is not between 1 and 65535"]


def test_a_tag_names_the_value_and_not_the_revision() -> None:
    one, other = state(), State(**{**state().__dict__, "revision": 99})
    assert split_tag(one) == split_tag(other)
    assert split_tag(one) != split_tag(State(split=Split(31, "me", 5.0)))
    assert instance_tag(one, "prod2") == instance_tag(other, "prod2")
    assert instance_tag(one, "prod2") != instance_tag(one, "prod10")
    assert instance_tag(one, "prod2") != instance_tag(state(want="drain"), "prod2")
    assert instance_tag(one, "prod2") != instance_tag(
        State(**{**one.__dict__, "forced": frozenset({"prod2"})}), "prod2"
    )
    with pytest.raises(UnknownInstance):
        instance_tag(one, "prod3")


# --- metrics


def test_metrics_have_a_head_each_and_escaped_labels() -> None:
    requests = Requests()
    requests.count("GET", '/a"b\\c\nd', 200, 0.002)
    requests.count("GET", '/a"b\\c\nd', 200, 99.0)
    lines = requests.lines()
    assert 'saltern_admin_requests_total{method="GET",route="/a\\"b\\\\c\\nd",status="200"} 2' in lines
    assert lines[-1].endswith("} 2") and "_count{" in lines[-1]
    bucket = [line for line in lines if "_bucket{" in line]
    assert bucket[0].endswith(" 0") and 'le="0.0025"} 1' in bucket[1]
    assert 'le="10.0"} 1' in bucket[-2] and 'le="+Inf"} 2' in bucket[-1]
    assert text(lines).count("# TYPE") == 2


def test_without_the_registry_only_what_is_known_is_told() -> None:
    lines = traffic(None, {"ok": False, "problems": []}, 1)
    assert "saltern_registry_up 0" in lines and "saltern_controller_ok 0" in lines
    assert "saltern_orders_waiting 1" in lines
    assert not any("saltern_effective_share_percent " in line and line[0] != "#" for line in lines)
    assert not any("revision" in line for line in lines)


def test_with_the_registry_everything_is_told() -> None:
    lines = traffic(state(), {"ok": True, "share": 30}, 0)
    for line in (
        "saltern_registry_up 1",
        "saltern_registry_revision 7",
        "saltern_share_percent 30",
        "saltern_effective_share_percent 30",
        "saltern_canary_latched 0",
        'saltern_instances{pool="prod",want="ready"} 2',
        'saltern_instances{pool="canary",want="maint"} 0',
    ):
        assert line in lines


# --- windows


def second(at: int, share: int = 30, canaries: tuple[str, ...] = ("r2",), **canary: Any) -> Second:
    row = {"requests": 30, "errors": 0, "response_ms": 12.0, **canary}
    servers = {
        f"staging{n}": {"pool": "canary", "release": r, "requests": 30} for n, r in enumerate(canaries, 1)
    }
    servers["prod1"] = {"pool": "prod", "release": "r1", "requests": 70}
    pools = {"prod": {"requests": 70, "errors": 0, "response_ms": 11.0}, "canary": row}
    data = {"ts": 1000.0 + at, "seconds": 1.0, "share": share, "pools": pools, "servers": servers}
    return parse(f"{1000 * at}-0", {"data": json.dumps(data)})


def test_windows_add_up_what_both_pools_did_in_the_same_seconds() -> None:
    canary, production = pair([second(at, errors=1) for at in range(10)])
    assert (canary.pool, canary.requests, canary.errors, len(canary.latency_ms)) == ("canary", 300, 10, 10)
    assert (production.pool, production.requests, production.errors) == ("prod", 700, 0)
    assert canary.started == production.started == 999.0
    assert canary.seconds == 10.0
    assert canary.latency_kind == "second"


def test_a_second_without_requests_has_no_latency() -> None:
    canary, _ = pair([second(0), second(1, requests=0), second(2, response_ms=None)])
    assert canary.latency_ms == (12.0,)


@pytest.mark.parametrize(
    ("entries", "kept"),
    [
        ([second(0), second(1), second(2)], [0, 1, 2]),
        ([second(0, share=0), second(1), second(2, share=0)], [1]),
        ([second(0, canaries=("r1",)), second(1), second(2)], [1, 2]),
        ([second(0), second(1, canaries=("r1",)), second(2)], [2]),
        ([second(0), second(1, canaries=()), second(2)], [0, 2]),
        ([second(0, canaries=("r1",)), second(1, canaries=("r1", "r2"))], [0, 1]),
        ([second(0, canaries=())], []),
        ([], []),
    ],
)
def test_only_seconds_of_this_canary_with_a_share_count(entries: list[Second], kept: list[int]) -> None:
    assert [entry.id for entry in of_one_canary(entries)] == [f"{1000 * at}-0" for at in kept]


def test_nothing_to_judge_is_an_error_and_no_verdict() -> None:
    with pytest.raises(JudgeError, match="none of the 1 seconds recorded had a canary with a share"):
        pair([second(0, share=0)])


@pytest.mark.parametrize(
    "data",
    [
        "",
        "[]",
        "{}",
        '{"ts": 1}',
        "null",
        '{"ts":"x","seconds":1,"share":1,"pools":{"prod":{},"canary":{}},"servers":{}}',
    ],
)
def test_an_entry_that_is_no_second_is_named(data: str) -> None:
    with pytest.raises(JudgeError, match="windows: entry 5-0: "):
        parse("5-0", {"data": data})
    with pytest.raises(JudgeError, match="windows: entry 5-0: "):
        parse("5-0", {})


def test_counters_that_went_back_are_refused_and_not_judged() -> None:
    with pytest.raises(JudgeError, match="canary window: requests"):
        pair([second(0, requests=-5)])


def test_without_samples_of_the_machines_the_judge_holds_and_with_them_it_passes() -> None:
    entries = [second(at, response_ms=10.0 + at % 3) for at in range(120)]
    verdict = judge(*pair(entries), Thresholds())
    assert verdict.verdict == "hold"
    assert {m.name for m in verdict.metrics if m.verdict == "hold"} == {"cpu", "memory"}
    steady = tuple(20.0 + at % 5 for at in range(60))
    samples = {"canary": [Host("staging1", steady, steady)], "prod": [Host("prod1", steady, steady)]}
    assert judge(*pair(entries, samples), Thresholds()).verdict == "pass"


def test_a_canary_that_fails_too_often_fails_whatever_else_is_missing() -> None:
    verdict = judge(*pair([second(at, errors=2) for at in range(30)]), Thresholds())
    assert verdict.verdict == "fail"
