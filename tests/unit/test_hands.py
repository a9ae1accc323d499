"""What a roll's hands make of what machines answer, or do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from saltern import artifact
from saltern.errors import SalternError
from saltern.fleet import Fleet
from saltern.hands import FleetHands, differing

ONE = artifact.Artifact("r0123456789aa", "0" * 64, "artifacts/r0123456789aa.tar.gz")
FINE = {"x_|-a": {"__id__": "product", "result": True, "changes": {}, "__run_num__": 0}}
FAILS = {"x_|-a": {"__id__": "product", "result": False, "comment": "it does not start", "changes": {}}}


class Answers:
    """Machines that answer to each function as they are told to."""

    def __init__(self, **answers: Mapping[str, Any]) -> None:
        self.answers = {name.replace("_", "."): said for name, said in answers.items()}
        self.called: list[tuple[str, tuple[str, ...], list[Any], dict[str, Any]]] = []

    def call(
        self, ids: Sequence[str], function: str, arguments: Sequence[Any] = (), keywords: Any = None, **_: Any
    ) -> dict[str, Any]:
        self.called.append((function, tuple(ids), list(arguments), dict(keywords or {})))
        return {id_: said for id_, said in self.answers.get(function, {}).items() if id_ in ids}


@pytest.fixture
def fleet(make_fleet: Callable[..., Fleet]) -> Fleet:
    made = make_fleet()
    artifact.store(made, ONE, b"a release")
    artifact.keep(made, ONE)
    return made


def hands(fleet: Fleet, **answers: Mapping[str, Any]) -> tuple[FleetHands, Answers]:
    said = Answers(**answers)
    return FleetHands(fleet, said), said


@pytest.mark.parametrize(
    ("returned", "found"),
    [
        (FINE, []),
        (FAILS, ["product"]),
        ({"x": {"__id__": "time zone", "result": None}, "y": {"__id__": "journal", "result": True}}, ["time zone"]),
        (["Rendering SLS 'base:product' failed: no such key"], ["Rendering SLS 'base:product' failed: no such key"]),
        (None, ["the highstate returned nothing"]),
    ],
)  # fmt: skip
def test_what_differs_is_what_would_change_or_could_not(returned, found):
    assert differing(returned) == found


def test_looking_tells_of_each_machine_and_leaves_out_those_that_say_nothing(fleet):
    there, said = hands(fleet, state_apply={"prod1": FINE, "prod2": FAILS})
    assert there.look(["prod1", "prod2", "prod3"], 1, lambda: None) == {"prod1": [], "prod2": ["product"]}
    assert said.called == [("state.apply", ("prod1", "prod2", "prod3"), [], {"queue": True, "test": True})]


def test_a_release_is_put_with_its_hash_and_with_what_stays_besides(fleet):
    done = {"release": ONE.id, "put": True, "gone": []}
    words = (
        "ERROR executing 'release.put': /opt/product: No space left on device; is the machine's disk full?"
    )
    there, said = hands(fleet, release_put={"prod1": done, "prod2": words})
    assert there.stage(["prod1", "prod2", "prod3"], ONE.id, 5, 9, lambda: None) == {
        "prod2": words, "prod3": f"{ONE.id} was not put on its disk within 9 s",
    }  # fmt: skip
    (call,) = said.called
    assert call[2] == [ONE.id, f"salt://{ONE.file}", ONE.sha256, "any"]
    assert call[3] == {"keep": sorted(artifact.on_disks(fleet, 5))} and call[3]["keep"]


def test_a_release_whose_file_the_master_lost_is_said_before_any_machine_is_told(fleet):
    (fleet.files / ONE.file).unlink()
    there, said = hands(fleet)
    with pytest.raises(SalternError, match="names no bucket"):
        there.stage(["prod1"], ONE.id, 5, 9, lambda: None)
    assert said.called == []


@pytest.mark.parametrize(
    ("switched", "applied", "faults"),
    [
        ({"release": ONE.id, "was": "r1", "started": True}, None, {}),
        # The long way does what the short one could not.
        ("'release.switch' is not available.", FINE, {}),
        ("'release.switch' is not available.", FAILS, {"prod1": "product: it does not start"}),
        (None, None, {"prod1": f"it was not switched to {ONE.id} within 9 s"}),
    ],
)
def test_a_machine_that_cannot_be_switched_applies_the_products_states(fleet, switched, applied, faults):
    answers = {"release_switch": {"prod1": switched}, "state_apply": {"prod1": applied}}
    there, said = hands(fleet, **{name: each for name, each in answers.items() if each["prod1"]})
    assert there.switch(["prod1"], ONE.id, True, 9, lambda: None) == faults
    functions = [function for function, *_ in said.called]
    assert functions == (["release.switch", "state.apply"] if applied else ["release.switch"])
