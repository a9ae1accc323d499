"""The command line: what it takes, and how it refuses."""

from __future__ import annotations

import json

import pytest
from saltern import cli, up
from saltern.demo.steps import SHOWN
from saltern.fleet import REPOSITORY


@pytest.fixture
def said(capsys):
    """Run a command; its exit status, and what it printed to each side."""

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            status = cli.main(arguments)
        except SystemExit as ended:  # argparse ends the process itself
            status = ended.code
        return (status, *capsys.readouterr())

    return run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["up", "--subnet"], "argument --subnet: expected one argument"),
        (["up", "--nonsense"], "unrecognized arguments: --nonsense"),
        (["status", "now"], "unrecognized arguments: now"),
        (["down", "--json"], "unrecognized arguments: --json"),
        (["bench"], "the following arguments are required: NAME"),
    ],
)
def test_a_command_that_is_not_understood_ends_with_status_2_and_its_usage(said, arguments, words):
    status, out, err = said(*arguments)
    assert status == 2
    assert out == ""
    assert err.startswith("usage: saltern")
    assert words in err.splitlines()[-1]


@pytest.mark.parametrize("command", ["up", "status", "down", "doctor", "test", "bench", "demo"])
def test_every_command_explains_itself(said, command):
    status, out, _ = said(command, "--help")
    assert status == 0
    assert out.startswith(f"usage: saltern {command}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["status", "--fleet", "No"],
            "fleet 'No': a name is 1 to 10 lower-case letters and digits, a letter first",
        ),
        (["status", "--fleet", "nobody"], "no fleet is kept here; `./saltern up` makes one"),
        (["up", "--subnet", "nonsense"], "subnet 'nonsense'"),
        (["up", "--machines", "prod1,web1"], "machine 'web1': not a role"),
        (["up", "--pillar", "/nowhere"], "/nowhere/top.sls: missing"),
        (["bench", "nonsense"], "bench 'nonsense': none by this name; there are "),
        (["demo", "scale-uot"], "demo 'scale-uot': no step by this name; scale-out is meant?"),
        (["demo", "--fleet", "nobody"], "no fleet is kept here; `./saltern up` makes one"),
        (
            ["demo", "--report", "/nowhere/demo.html"],
            "--report /nowhere/demo.html: there is no folder /nowhere",
        ),
    ],
)
def test_bad_input_ends_with_status_1_and_one_line(said, monkeypatch, tmp_path, arguments, words):
    monkeypatch.setenv("SALTERN_HOME", str(tmp_path))
    monkeypatch.setattr(cli.os, "geteuid", lambda: 0)
    monkeypatch.setattr(up.network, "up", lambda fleet: pytest.fail("the network was touched"))
    monkeypatch.setattr("saltern.fleet.LONGEST_STATE_DIR", 500)
    status, out, err = said(*arguments)
    assert (status, out) == (1, "")
    assert err.startswith("saltern: ")
    assert words in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["up", "down", "demo"])
def test_what_needs_root_says_so(said, monkeypatch, command):
    monkeypatch.setattr(cli.os, "geteuid", lambda: 1000)
    status, _, err = said(command)
    assert status == 1
    assert err.startswith("saltern: must run as root")


def test_an_interrupt_ends_with_status_130_and_how_to_go_on(said, monkeypatch):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_doctor", interrupted)
    status, _, err = said("doctor")
    assert status == 130
    assert "run `./saltern doctor` again to go on" in err


def test_benches_are_listed(said):
    status, out, _ = said("bench", "list")
    assert status == 0
    names = {path.stem.removeprefix("bench_") for path in (REPOSITORY / "tests" / "bench").glob("bench_*.py")}
    assert set(out.split()) == names


def test_the_steps_of_the_demo_are_listed_with_what_is_to_be_seen(said):
    status, out, _ = said("demo", "list")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == [step.name for step, _ in SHOWN]


EVERY_FOLDER = [
    "services",
    "tests/unit",
    "tests/functional",
    "tests/integration",
    "tests/e2e",
    "tests/browser",
]


@pytest.mark.parametrize(
    ("arguments", "passed_on"),
    [
        (["unit"], ["-m", "unit", "services", "tests/unit"]),
        (["unit", "functional"], ["-m", "unit or functional", "services", "tests/unit", "tests/functional"]),
        (["unit", "-x", "-k", "split"], ["-m", "unit", "services", "tests/unit", "-x", "-k", "split"]),
        (["tests/e2e/test_fleet.py::test_status", "-x"], ["tests/e2e/test_fleet.py::test_status", "-x"]),
        (["-q"], [*EVERY_FOLDER, "-q"]),
        ([], EVERY_FOLDER),
    ],
)
def test_tests_are_chosen_by_kind_or_by_path(said, monkeypatch, arguments, passed_on):
    commands = []
    monkeypatch.setattr(cli, "_exec", commands.append)
    said("test", *arguments)
    program, *others = commands[0]
    assert program.endswith("/pytest")
    assert others == passed_on


def test_status_is_one_json_object_on_request(said, fleet, monkeypatch):
    monkeypatch.setattr(cli.status, "status", lambda fleet: {"fleet": fleet.name})
    status, out, _ = said("status", "--json", "--state-dir", str(fleet.state_dir))
    assert status == 0
    assert json.loads(out) == {"fleet": "test"}
