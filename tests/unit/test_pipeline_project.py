"""`saltern.toml`: what it may say, and what is said of one that is wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from saltern import workplace
from saltern.pipeline.locks import cleaned
from saltern.pipeline.project import Project, ProjectError, read


def test_a_missing_or_empty_file_is_all_defaults():
    assert read(None) == read("") == Project()


def test_every_setting_can_be_said():
    text = """
    [build]
    packages = ["src/a", "b"]
    requirements = "locks/all.txt"
    commands = [["make", "assets"], ["true"]]
    timeout_s = 12.5
    [test]
    enabled = false
    arguments = ["-m", "unit"]
    requirements = "locks/test.txt"
    coverage = 80
    [analyse]
    enabled = false
    arguments = ["src"]
    findings = 3
    """
    assert read(text) == Project(
        ("src/a", "b"), "locks/all.txt", (("make", "assets"), ("true",)), False, ("-m", "unit"), "locks/test.txt", 80.0,
        False, ("src",), 3, 12.5,
    )  # fmt: skip


def test_the_shipped_products_is_right():
    found = read((workplace.SEED / "saltern.toml").read_text())
    assert found.packages == ("product", "openfeature_redis")
    assert found.test_arguments == ("-m", "unit")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[tset]", "saltern.toml: [tset]: no such section; test is meant?"),
        ("[deploy]", "saltern.toml: [deploy]: no such section; there are build, test, analyse"),
        ("test = 1", "saltern.toml: test: 1 is not a section; [test] is right"),
        ("[test]\ncovrage = 1", "saltern.toml: test.covrage: no such setting; coverage is meant?"),
        ("[test]\ncoverage = 101", "saltern.toml: test.coverage: 101 is not per cent, 0 to 100"),
        ("[test]\ncoverage = nan", "saltern.toml: test.coverage: nan is not per cent, 0 to 100"),
        ('[test]\ncoverage = "80"', "saltern.toml: test.coverage: '80' is not per cent, 0 to 100"),
        ("[test]\nenabled = 1", "saltern.toml: test.enabled: 1 is not true or false"),
        ('[test]\narguments = "-m unit"', """not a list of words, such as ["-m", "unit"]"""),
        ('[test]\narguments = ["a\\u0000"]', "is not a list of words"),
        ("[analyse]\nfindings = -1", "saltern.toml: analyse.findings: -1 is not a whole number from 0"),
        ("[analyse]\nfindings = true", "saltern.toml: analyse.findings: True is not a whole number from 0"),
        ('[build]\npackages = ["../x"]', "is not a list of folders"),
        ('[build]\npackages = ["/etc"]', "is not a list of folders"),
        ("[build]\npackages = []", "is not a list of folders"),
        ('[build]\nrequirements = "/etc/passwd"', "is not a path inside the repository"),
        ('[build]\nrequirements = "a/../../b"', "is not a path inside the repository"),
        ('[build]\ncommands = ["make"]', "is not a list of commands"),
        ("[build]\ncommands = [[]]", "is not a list of commands"),
        ("[build]\ntimeout_s = 0", "saltern.toml: build.timeout_s: 0 is not seconds, above 0 to 3600"),
        ("[build]\ntimeout_s = inf", "is not seconds"),
        ("[build", "saltern.toml: not TOML: "),
        ("#" * 70_000, "longer than 65536 characters"),
    ],
)
def test_each_fault_is_one_line_that_says_what_would_be_right(text, line):
    with pytest.raises(ProjectError) as raised:
        read(text)
    assert line in raised.value.faults[0]
    assert all("\n" not in fault and fault.startswith("saltern.toml: ") for fault in raised.value.faults)


def test_all_faults_are_told_at_once():
    with pytest.raises(ProjectError) as raised:
        read("[test]\ncoverage = -1\nx = 1\n[deploy]\n")
    assert len(raised.value.faults) == 3


@given(st.text(max_size=200))
def test_no_text_does_more_than_be_refused(text):
    try:
        read(text)
    except ProjectError as error:
        assert all("\n" not in fault for fault in error.faults)


HASH = "--hash=sha256:" + "a" * 64


def test_a_lock_as_tools_write_it_stays_what_it_says():
    text = f"# made by a tool\nredis==8.1.0 ; sys_platform == 'linux' \\\n    {HASH} \\\n    {HASH}\n"
    text += f"bottle==0.13.4 {HASH}  # why\n\n"
    assert (
        cleaned(text, "r.txt")
        == f"redis==8.1.0 ; sys_platform == 'linux' {HASH} {HASH}\nbottle==0.13.4 {HASH}\n"
    )
    for lock in workplace.LOCKS:
        assert cleaned(lock.read_text(), lock.name).count("==") >= 10


@pytest.mark.parametrize(
    "line",
    [
        "redis==8.1.0", "redis>=8 " + HASH, "redis " + HASH, "--index-url http://evil.test", "-e .", "-r other.txt",
        "--no-binary :all:", f"redis==8.1.0 {HASH} --no-binary=redis", "git+https://evil.test/x " + HASH,
        "redis @ http://evil.test/redis.whl " + HASH, f"redis==8.1.0 --config-settings=x {HASH}", "./redis.whl " + HASH,
        f"redis==8.1.0 --hash=md5:{'a' * 32}", f"redis==8.1.0 {HASH}\\\n--index-url=http://evil.test",
    ],
)  # fmt: skip
def test_a_lock_says_what_and_never_where_from(line):
    with pytest.raises(ValueError) as raised:
        cleaned(f"bottle==0.13.4 {HASH}\n{line}\n", "r.txt")
    assert str(raised.value).startswith("r.txt: ") and "\n" not in str(raised.value)
