"""What the doctor finds, and the remedy it names."""

from __future__ import annotations

import pytest
from saltern import cli, doctor
from saltern.fleet import REPOSITORY
from saltern.local import cgroup, network


def found(fleet, what: str) -> doctor.Finding:
    (finding,) = (each for each in doctor.examine(fleet) if each.what == what)
    return finding


def test_every_finding_says_what_was_looked_at_and_what_was_found(fleet):
    findings = list(doctor.examine(fleet))
    assert {
        "user",
        "apt sources",
        "nft",
        "control groups",
        "overlay",
        "memory",
        "disk",
        "subnet",
        "pillar",
        "image",
    } <= {each.what for each in findings}
    for each in findings:
        assert each.found
        assert "\n" not in each.found + each.remedy


def test_a_program_that_is_missing_comes_with_its_package(fleet, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda program, path=None: None)
    for program, package in doctor.PROGRAMS.items():
        assert found(fleet, program) == doctor.Finding(program, "not installed", f"apt-get install {package}")
    monkeypatch.setattr(doctor.shutil, "which", lambda program, path=None: f"/sbin/{program}")
    assert found(fleet, "nft") == doctor.Finding("nft", "/sbin/nft")


def test_who_is_not_root_is_told(fleet, monkeypatch):
    monkeypatch.setattr(doctor.os, "geteuid", lambda: 1000)
    assert found(fleet, "user").remedy == "run it as root: sudo ./saltern doctor"


@pytest.mark.parametrize(
    ("interfaces", "words", "remedy"),
    [
        ([], "10.99.0.0/24 is free for sal-test", ""),
        (
            [{"ifname": "eth0", "addr_info": [{"family": "inet", "local": "10.99.0.3", "prefixlen": 24}]}],
            "10.99.0.0/24 is used by eth0 (10.99.0.3/24)",
            "choose another with --subnet, such as 10.214.0.0/24",
        ),
    ],
)
def test_a_subnet_in_use_is_found(fleet, monkeypatch, interfaces, words, remedy):
    monkeypatch.setattr(network, "links", lambda: interfaces)
    assert found(fleet, "subnet") == doctor.Finding("subnet", words, remedy)


def test_a_wrong_pillar_is_found(make_fleet, tmp_path):
    assert found(make_fleet({}), "pillar") == doctor.Finding("pillar", "valid")
    finding = found(make_fleet({}, pillar_dir=tmp_path), "pillar")
    assert "top.sls: missing" in finding.found
    assert finding.remedy == "correct that file"


def test_control_groups_that_cannot_be_written_are_found(fleet, monkeypatch, tmp_path):
    monkeypatch.setattr(cgroup, "ROOT", tmp_path / "nowhere")
    monkeypatch.setattr(cgroup, "is_v2", lambda: False)
    assert "cannot be written" in found(fleet, "control groups").found
    monkeypatch.setattr(cgroup, "is_v2", lambda: True)
    monkeypatch.setattr(cgroup, "ROOT", tmp_path)
    assert found(fleet, "control groups") == doctor.Finding("control groups", "v2")


def test_a_machine_that_died_half_made_is_found(fleet, make_machine):
    make_machine(fleet, "prod9", "10.99.0.40", made=False)
    assert found(fleet, "prod9").found == "half-made"


@pytest.mark.parametrize(
    ("remedy", "status", "line"), [("", 0, "ok       x: y"), ("z", 1, "missing  x: y; z")]
)
def test_the_exit_status_tells_whether_something_is_missing(fleet, monkeypatch, capsys, remedy, status, line):
    monkeypatch.setattr(doctor, "examine", lambda fleet: [doctor.Finding("x", "y", remedy)])
    assert cli.main(["doctor", "--state-dir", str(fleet.state_dir)]) == status
    assert capsys.readouterr().out == f"{line}\n"


def test_every_package_the_doctor_names_is_one_the_script_installs():
    script = (REPOSITORY / "saltern").read_text()
    for program, package in doctor.PROGRAMS.items():
        assert f"{program}:{package}" in script
