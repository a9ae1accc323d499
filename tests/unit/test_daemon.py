"""How the programs that run as services begin and end."""

from __future__ import annotations

import json
import logging
import signal

import pytest
from saltern import daemon
from saltern.errors import SalternError


@pytest.fixture(autouse=True)
def own_settings_of_the_process(monkeypatch):
    """What a daemon sets for its whole process ends with the test."""
    monkeypatch.setattr(logging, "basicConfig", lambda **options: levels.append(options["level"]))
    levels: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield levels
    for number, handler in before.items():
        signal.signal(number, handler)


def refuse(error):
    def begin(values):
        raise error

    return begin


@pytest.mark.parametrize(
    ("text", "begin", "said"),
    [
        ("{", dict, "Expecting property name"),
        (None, dict, "No such file"),
        ("{}", refuse(ValueError("port: missing")), "port: missing"),
        ("{}", refuse(SalternError("no place for its state")), "no place for its state"),
        ("{}", refuse(PermissionError("not yours")), "not yours"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_one_line_that_names_the_file(
    tmp_path, capsys, text, begin, said
):
    file = tmp_path / "some.json"
    if text is not None:
        file.write_text(text)
    assert daemon.start("saltern.some", "Does something.", begin, ["--config", str(file)]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"saltern.some: {file}: ") and said in line and line.count("\n") == 1


def test_what_fails_at_work_is_no_matter_of_the_configuration(tmp_path):
    file = tmp_path / "some.json"
    file.write_text("{}")
    with pytest.raises(ValueError, match="at work"):
        daemon.start("saltern.some", "", lambda values: lambda: int("at work"), ["--config", str(file)])


@pytest.mark.parametrize(
    ("details", "flags", "level"),
    [("", [], logging.INFO), ("all", [], logging.INFO), ("all", ["--verbose"], logging.DEBUG)],
)
def test_a_daemon_runs_with_its_configuration(tmp_path, own_settings_of_the_process, details, flags, level):
    file = tmp_path / "some.json"
    file.write_text(json.dumps({"port": 8080}))
    ran = []
    arguments = ["--config", str(file), *flags]
    begin = lambda values: lambda: ran.append(values["port"])  # noqa: E731
    assert daemon.start("saltern.some", "", begin, arguments, details=details) == 0
    assert (ran, own_settings_of_the_process) == ([8080], [level])


def test_a_daemon_without_details_has_no_flag_for_them(tmp_path, capsys):
    with pytest.raises(SystemExit):
        daemon.start("saltern.some", "", dict, ["--config", str(tmp_path), "--verbose"])
    assert "unrecognized arguments: --verbose" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_daemon_is_told_to_stop(number):
    told = []
    daemon.on_stop(lambda: told.append(True))
    signal.raise_signal(number)
    assert told == [True]


def test_a_problem_is_told_when_it_begins_and_when_it_is_over(caplog):
    problems = daemon.Problems(logging.getLogger("test"))
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            problems.begin("redis", "redis: refused")
        problems.begin("mail", "mail: refused")
        for _ in range(2):
            problems.end("redis")
        problems.begin("redis", "redis: away")
    assert caplog.messages == ["redis: refused", "mail: refused", "redis answers again", "redis: away"]
