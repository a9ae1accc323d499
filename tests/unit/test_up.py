"""What `up` makes of events and of what a highstate returned."""

from __future__ import annotations

import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from saltern import up
from saltern.errors import SalternError

APPLY = {"fun": "state.apply", "minions": ["prod1", "prod2"], "return": {"x": {"result": True}}}


@pytest.mark.parametrize(
    ("tag", "data", "said"),
    [
        ("salt/cloud/prod1/created", {}, ("prod1", "booted", None)),
        ("salt/cloud/prod1/creating", {}, None),
        ("salt/minion/prod1/start", {}, ("prod1", "connected", None)),
        ("salt/minion/prod1/start/again", {}, None),
        ("salt/job/2026/new", APPLY, ("prod1,prod2", "configuring", None)),
        ("salt/job/2026/new", {"fun": "test.ping", "minions": ["prod1"]}, None),
        ("salt/job/2026/ret/prod1", APPLY, ("prod1", "returned", APPLY["return"])),
        (
            "salt/job/2026/ret/prod1",
            {**APPLY, "fun": "state.highstate"},
            ("prod1", "returned", APPLY["return"]),
        ),
        ("salt/job/2026/ret/prod1", {"fun": "state.apply"}, ("prod1", "returned", None)),
        ("salt/job/2026/ret", APPLY, None),
        ("salt/job/2026/ret/prod1/more", APPLY, None),
        ("salt/auth", {"id": "prod1"}, None),
        ("", {}, None),
    ],
)
def test_an_event_says_how_far_a_machine_is(tag, data, said):
    assert up.understand(tag, data) == said


@given(
    st.lists(st.sampled_from(["salt", "job", "cloud", "minion", "new", "ret", "start", "created", "x", ""])),
    st.dictionaries(st.sampled_from(["fun", "return", "id"]), st.text() | st.just("state.apply") | st.none()),
)
def test_no_event_breaks_the_reading(parts, data):
    said = up.understand("/".join(parts), data)
    assert said is None or said[1] in (*up.STAGES, "returned")


def ran(
    number: int, result: bool | None = True, comment: str = "", changes: dict | None = None, name: str = "s"
):
    return {
        "__id__": name,
        "__run_num__": number,
        "result": result,
        "comment": comment,
        "changes": changes or {},
    }


@pytest.mark.parametrize(
    ("returned", "outcome"),
    [
        ({}, (0, [])),
        ({"a": ran(0), "b": ran(1, changes={"x": "y"})}, (1, [])),
        ({"a": ran(0, None, "would change")}, (0, [])),
        # The first that went wrong by the order they ran in, and its last line.
        (
            {"b": ran(1, False, "second", name="b"), "a": ran(0, False, "many\nwords\n", name="a")},
            (0, ["a: words", "b: second"]),
        ),
        # A requisite that failed is a consequence, not a cause.
        (
            {
                "a": ran(0, False, "One or more requisite failed: x", name="a"),
                "b": ran(1, False, "no such package", name="b"),
            },
            (0, ["b: no such package"]),
        ),
        ({"a": ran(0, False, "One or more requisite failed", name="a")}, (0, ["a: One or more requisite failed"])),
        (["Pillar failed", "Rendering 'x' failed"], (0, ["Pillar failed", "Rendering 'x' failed"])),
        ("The function is running as PID 1", (0, ["The function is running as PID 1"])),
        ([], (0, ["the highstate returned nothing"])),
        (None, (0, ["the highstate returned nothing"])),
        (False, (0, ["the highstate returned nothing"])),
        ({"retcode": 1, "a": ran(0)}, (0, [])),
    ],
)  # fmt: skip
def test_what_a_highstate_returned_becomes_changes_and_causes(returned, outcome):
    assert up.outcome(returned) == outcome


@pytest.mark.parametrize("machines", [["web1"], ["prod1", ""], ["prod1", " prod2"], ["prod1;reboot"]])
def test_a_machine_of_no_role_is_refused_before_anything_is_done(make_fleet, monkeypatch, machines):
    fleet = make_fleet({})
    (fleet.state_dir / "fleet.json").unlink()
    monkeypatch.setattr(up.network, "up", lambda fleet: pytest.fail("the network was touched"))
    with pytest.raises(SalternError, match="not a role"):
        up.up(fleet, up.Progress(), machines)
    assert not fleet.exists()


def test_a_wrong_pillar_is_refused_before_anything_is_done(make_fleet, tmp_path, monkeypatch):
    fleet = make_fleet({}, pillar_dir=tmp_path)
    (fleet.state_dir / "fleet.json").unlink()
    monkeypatch.setattr(up.network, "up", lambda fleet: pytest.fail("the network was touched"))
    with pytest.raises(SalternError, match=r"top\.sls: missing"):
        up.up(fleet, up.Progress(), ["prod1"])
    assert not fleet.exists()


def test_a_subnet_in_use_is_refused_before_anything_is_done(make_fleet, monkeypatch):
    fleet = make_fleet({})
    (fleet.state_dir / "fleet.json").unlink()
    used = {"ifname": "eth0", "addr_info": [{"family": "inet", "local": "10.99.0.9", "prefixlen": 24}]}
    monkeypatch.setattr(up.network, "links", lambda: [used])
    monkeypatch.setattr(up.network, "up", lambda fleet: pytest.fail("the network was touched"))
    with pytest.raises(
        SalternError, match=r"already used by eth0 \(10\.99\.0\.9/24\); choose another with --subnet"
    ):
        up.up(fleet, up.Progress(), ["prod1"])
    assert not fleet.exists()


def test_down_ends_a_machine_too_that_somebody_makes_meanwhile(make_fleet, make_machine, monkeypatch):
    fleet = make_fleet({"prod1": "10.99.0.13"})
    ended = []

    def destroy(fleet, name):
        ended.append(name)
        shutil.rmtree(fleet.machines_dir / name)
        if name == "prod1":
            make_machine(fleet, "prod2", "10.99.0.14")

    monkeypatch.setattr(up.machine, "destroy", destroy)
    for module, name in (
        ("network", "down"),
        ("kernel", "release"),
        ("cgroup", "remove"),
        ("cgroup", "kill"),
    ):
        monkeypatch.setattr(getattr(up, module), name, lambda *_: None)
    monkeypatch.setattr(up.master, "stop", lambda fleet: None)
    up.down(fleet)
    assert ended == ["prod1", "prod2"]
    assert not fleet.state_dir.exists()
    fleet.state_dir.mkdir()  # whoever made it removes it
