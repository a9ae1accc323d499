"""What a person may do from the dashboard: in words before, and the request to the admin API."""

from __future__ import annotations

from typing import Any

import pytest
from saltern.dashboard_actions import ActionError, understand

MACHINES = {
    "prod1": {"pool": "prod", "want": "ready", "state": "good"},
    "prod2": {"pool": "prod", "want": "ready", "state": "good"},
    "prod3": {"pool": "prod", "want": "ready", "state": "bad"},
    "staging1": {"pool": "canary", "want": "ready", "state": "warn"},
    "redis1": {"state": "good"},
}
FLAGS = {
    "font_color": {
        "on": True,
        "variant": "default",
        "variants": {"default": "", "red": "#f00"},
        "targeted": False,
    },
    "old": {"on": False, "variants": {"on": "true"}, "targeted": True},
}
PICTURE: dict[str, Any] = {
    "machines": MACHINES,
    "flags": FLAGS,
    "split": {"share": 30},
    "steps": {"phase": "idle"},
}
SILENCE = "5b0c7d2e-3b0f-4b43-9b7e-6b6e3a6f5a11"
STEPPING = {"phase": "stepping", "release": "r2", "share": 30}
OFF = {**PICTURE, "split": {"share": 30, "latch": {"reason": "error rate"}}}


@pytest.mark.parametrize(
    ("asked", "picture", "request_", "words"),
    [
        (
            {"do": "share", "share": 50}, PICTURE, ("PUT", "/split", {"share": 50}),
            ["becomes 50 %; it is 30 % now", "about 50 go to staging1, 50 to production"],
        ),
        (
            {"do": "share", "share": 5}, OFF, ("PUT", "/split", {"share": 5}),
            ["it gets nothing until somebody turns it on"],
        ),
        (
            {"do": "share", "share": 5}, {**PICTURE, "steps": {"phase": "stepping", "release": "r2"}},
            ("PUT", "/split", {"share": 5}), ["r2 is on its way by steps: they pause"],
        ),
        (
            {"do": "share", "share": 5}, {**PICTURE, "machines": {}}, ("PUT", "/split", {"share": 5}),
            ["No canary is up: production answers everything"],
        ),
        (
            {"do": "canary.off", "reason": "slow"}, {**PICTURE, "steps": {"phase": "paused", "release": "r2"}},
            ("POST", "/canary/off", {"reason": "slow"}), ["goes to production, at once", "r2, is aborted"],
        ),
        (
            {"do": "canary.off", "reason": "slow"}, OFF, ("POST", "/canary/off", {"reason": "slow"}),
            ["Nothing: the canary is off already (error rate)"],
        ),
        ({"do": "canary.on"}, OFF, ("POST", "/canary/on", {}), ["turned off because: error rate", "share again: 30 %"]),
        ({"do": "canary.on"}, PICTURE, ("POST", "/canary/on", {}), ["Nothing: the canary is not off"]),
        (
            {"do": "flag", "key": "font_color", "variant": "red"}, PICTURE,
            ("PUT", "/flags/font_color", {"defaultVariant": "red"}),
            ["font_color becomes red (#f00)", "it is default now"],
        ),
        (
            {"do": "flag", "key": "old", "variant": "on"}, PICTURE, ("PUT", "/flags/old", {"defaultVariant": "on"}),
            ["targeting", "It is disabled"],
        ),
        (
            {"do": "flag.state", "key": "font_color", "on": False}, PICTURE,
            ("PUT", "/flags/font_color", {"state": "DISABLED"}), ["takes the code's default"],
        ),
        (
            {"do": "flag.state", "key": "font_color", "on": True}, PICTURE,
            ("PUT", "/flags/font_color", {"state": "ENABLED"}), ["counts again: default", "It is so already"],
        ),
        (
            {"do": "instance", "id": "prod1", "want": "drain"}, PICTURE, ("PUT", "/instances/prod1", {"want": "drain"}),
            ["prod1 finishes its open requests", "prod2 of its pool serves on"],
        ),
        (
            {"do": "instance", "id": "staging1", "want": "maint"}, PICTURE,
            ("PUT", "/instances/staging1", {"want": "maint"}), ["at once", "only canary"],
        ),
        (
            {"do": "instance", "id": "prod1", "want": "drain"}, {"machines": {"prod1": MACHINES["prod1"]}},
            ("PUT", "/instances/prod1", {"want": "drain"}), ["last of production", "kept until another one serves"],
        ),
        (
            {"do": "instance", "id": "prod3", "want": "ready"}, PICTURE, ("PUT", "/instances/prod3", {"want": "ready"}),
            ["gets requests again"],
        ),
        (
            {"do": "step", "command": "start", "reason": "ready"},
            {**PICTURE, "steps": {"phase": "idle", "shares": {"5": True, "30": True, "100": True}},
             "split": {"releases": {"canary": ["r2"]}}},
            ("POST", "/canary/steps", {"do": "start", "reason": "ready"}),
            ["r2, which the canary runs, gets 5 %", "5 %, 30 %, 100 %"],
        ),
        *(
            (
                {"do": "step", "command": command, "reason": "so"}, {**PICTURE, "steps": STEPPING},
                ("POST", "/canary/steps", {"do": command, "reason": "so"}), [words],
            )
            for command, words in (
                ("pause", "r2 stays at its share"), ("resume", "The step of r2 at 30 % begins anew"),
                ("promote", "r2 counts as good"), ("abort", "r2 never comes back"),
            )
        ),
        (
            {"do": "silence", "alert": "CpuHigh", "machine": "*", "hours": 2, "reason": "known"}, PICTURE,
            ("POST", "/silences", {"alert": "CpuHigh", "machine": "*", "hours": 2, "reason": "known"}),
            ["For 2 hours nobody is mailed about CpuHigh of any machine", "what the fleet does by itself goes on"],
        ),
        (
            {"do": "unsilence", "id": SILENCE}, {**PICTURE, "silences": {SILENCE: {"what": "alertname=CpuHigh"}}},
            ("DELETE", f"/silences/{SILENCE}", {}), ["The silence of alertname=CpuHigh is over"],
        ),
    ],
)  # fmt: skip
def test_an_action_says_what_will_happen_and_which_request_it_is(
    asked: Any, picture: Any, request_: tuple[str, str, dict[str, Any]], words: list[str]
) -> None:
    action = understand(asked, picture)
    assert (action.method, action.path, dict(action.body)) == request_
    said = " ".join(action.will)
    assert [each for each in words if each not in said] == [], said


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (None, "do: null is not one of share"),
        ({"do": "reboot"}, "do: reboot is not one of"),
        ({"do": "share"}, "share is missing; give a percentage"),
        ({"do": "share", "share": 101}, "101 is not a percentage"),
        ({"do": "share", "share": "50"}, "50 is not a percentage"),
        ({"do": "share", "share": 5, "force": True}, "force is unknown"),
        ({"do": "canary.off", "reason": ""}, "one line of 1 to 200 characters"),
        ({"do": "canary.off", "reason": "a\nb"}, "one line of 1 to 200 characters"),
        ({"do": "instance", "id": "prod1/../x", "want": "ready"}, "is not a machine's id"),
        ({"do": "instance", "id": "prod9", "want": "ready"}, "prod9: it serves no requests"),
        ({"do": "instance", "id": "redis1", "want": "drain"}, "redis1: it serves no requests"),
        ({"do": "instance", "id": "prod1", "want": "gone"}, "gone is not one of ready, drain, maint"),
        ({"do": "flag", "key": "../x", "variant": "on"}, "is not a flag's key"),
        ({"do": "flag", "key": "nothing", "variant": "on"}, "there is none; there are font_color, old"),
        ({"do": "flag", "key": "font_color", "variant": "blue"}, "there are default, red"),
        ({"do": "flag.state", "key": "font_color", "on": 1}, "1 is not true or false"),
        ({"do": "step", "command": "skip", "reason": "x"}, "skip is not one of start, abort, pause"),
        ({"do": "step", "command": "start", "reason": ""}, "one line of 1 to 200 characters"),
        ({"do": "step", "command": "pause", "reason": "x"}, "no release is on its way by steps"),
        ({"do": "silence", "alert": "*", "machine": "*", "hours": 1, "reason": "x"}, "everything at once"),
        (
            {"do": "silence", "alert": "CpuHigh", "machine": "prod1", "hours": 0, "reason": "x"},
            "a number of hours",
        ),
        (
            {"do": "silence", "alert": "a b", "machine": "prod1", "hours": 1, "reason": "x"},
            "a name of 1 to 64",
        ),
        ({"do": "unsilence", "id": "../x"}, "is not a silence's id"),
        ({"do": "unsilence", "id": SILENCE}, "it may be over"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_that_says_what_would_be_right(asked: Any, words: str) -> None:
    with pytest.raises(ActionError) as caught:
        understand(asked, PICTURE)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
