"""Programs, and their failures in one line."""

from __future__ import annotations

import os
import sys

import pytest
from saltern.errors import SalternError
from saltern.shell import last_line, run


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("one\ntwo\n", "two"),
        ("one\n   \n\n", "one"),
        ("  indented  ", "indented"),
        ("", "(it printed nothing)"),
        ("\n \n", "(it printed nothing)"),
    ],
)
def test_the_last_line_that_says_something(text, line):
    assert last_line(text) == line


def test_a_program_reads_what_it_is_given_and_its_output_comes_back():
    assert run(["cat"], text="words") == "words"
    assert run(["sh", "-c", "echo $WHO"], env={"WHO": "me", "PATH": "/bin:/usr/bin"}) == "me\n"


def test_output_may_go_to_a_log(tmp_path):
    log = tmp_path / "log"
    assert run(["sh", "-c", "echo out; echo err >&2"], log=str(log)) == "out\nerr\n"
    assert log.read_text() == "out\nerr\n"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            ["sh", "-c", "echo first >&2; echo 'the reason' >&2; exit 3"],
            r"^sh -c .*: exit status 3: the reason$",
        ),
        (["sh", "-c", "echo 'only out'; exit 1"], r"exit status 1: only out$"),
        (["false"], r"^false: exit status 1: \(it printed nothing\)$"),
        (
            ["no-such-program"],
            r"^no-such-program: not installed; `./saltern doctor` names the package that has it$",
        ),
        (["sleep", "9"], r"^sleep: still running after 0.05 s; killed$"),
    ],
)
def test_a_failure_is_one_line(command, words):
    with pytest.raises(SalternError, match=words):
        run(command, timeout=0.05 if command[0] == "sleep" else 10)


def test_a_failure_with_a_log_says_where_the_rest_is(tmp_path):
    with pytest.raises(SalternError, match=r"exit status 2: why \(all of it: .*/log\)$"):
        run(["sh", "-c", "echo why; exit 2"], log=str(tmp_path / "log"))


@pytest.mark.parametrize("alone", [False, True])
def test_a_program_runs_in_a_session_of_its_own_where_that_is_asked_for(alone):
    session = int(run([sys.executable, "-c", "import os; print(os.getsid(0))"], alone=alone))
    assert (session == os.getsid(0)) is not alone
