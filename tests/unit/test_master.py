"""The master's configuration: the files of etc/ with a fleet's own values."""

from __future__ import annotations

import errno
import shutil

import pytest
import yaml
from saltern import master
from saltern.errors import SalternError
from saltern.fleet import REPOSITORY


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout of which only etc/ is there, and its link."""
    shutil.copytree(REPOSITORY / "etc", tmp_path / "etc")
    monkeypatch.setattr(master, "REPOSITORY", tmp_path)
    monkeypatch.setattr(master, "LINK", tmp_path / ".saltern")
    return tmp_path


def test_every_file_of_etc_is_filled_in_with_the_fleets_values(fleet):
    filled = master.configuration(fleet)
    assert set(filled) == {
        path.relative_to(REPOSITORY / "etc").as_posix()
        for path in (REPOSITORY / "etc").rglob("*")
        if path.is_file()
    }
    for name, text in filled.items():
        values = yaml.safe_load(text)
        assert isinstance(values, dict), name
        lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
        assert "${" not in "\n".join(lines), name


def test_the_master_keeps_everything_in_the_fleets_folder_and_listens_on_its_bridge(fleet):
    values = yaml.safe_load(master.configuration(fleet)["master"])
    assert values["interface"] == "10.99.0.1"
    assert values["ext_pillar"] == [{"fleet": str(fleet.state_dir)}]
    assert values["file_roots"]["base"] == [str(REPOSITORY / "salt"), str(fleet.files)]
    assert values["pillar_roots"]["base"] == [str(fleet.pillar_dir)]
    for key in ("pki_dir", "cachedir", "sock_dir", "pidfile", "log_file", "token_dir"):
        assert values[key].startswith(f"{fleet.state_dir}/"), key
    # The longest socket Salt makes below sock_dir still fits what the kernel takes.
    assert len(values["sock_dir"]) + 40 <= 107


def test_the_master_trusts_no_more_than_it_must(fleet):
    values = yaml.safe_load(master.configuration(fleet)["master"])
    for key in ("open_mode", "auto_accept", "file_recv", "allow_minion_key_revoke"):
        assert values[key] is False, key
    assert values["peer"] == values["peer_run"] == {}
    assert "netapi_enable_clients" not in values
    assert not {"autosign_file", "autosign_grains_dir", "client_acl", "publisher_acl", "external_auth"} & set(
        values
    )


def test_every_reaction_stands_in_the_repository(fleet):
    values = yaml.safe_load(master.configuration(fleet)["master"])
    files = [file for each in values["reactor"] for found in each.values() for file in found]
    assert {file.removeprefix(f"{REPOSITORY}/reactor/") for file in files} == {
        path.name for path in (REPOSITORY / "reactor").glob("*.sls")
    }


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("a: ${name}", "a: test"),
        ("a: $name $ $1 $(x)", "a: $name $ $1 $(x)"),
        ("a: $$ ${gateway}", "a: $ 10.99.0.1"),
    ],
)
def test_only_names_in_braces_are_filled_in(fleet, checkout, text, filled):
    (checkout / "etc" / "master").write_text(text)
    assert master.configuration(fleet)["master"] == filled


@pytest.mark.parametrize("text", ["a: ${subnet}", "a: ${nonsense}"])
def test_a_name_that_is_not_known_is_named_with_those_that_are(fleet, checkout, text):
    (checkout / "etc" / "master").write_text(text)
    with pytest.raises(
        SalternError, match=r"etc/master: '\w+' cannot be filled in; known are \$\{files\}, \$\{gat"
    ):
        master.configuration(fleet)


def test_configuring_twice_changes_nothing_and_strangers_files_go(fleet, checkout):
    assert master.configure(fleet) is True
    assert master.configure(fleet) is False
    (fleet.etc / "cloud.profiles.d" / "old.conf").write_text("old: {}")
    assert master.configure(fleet) is True
    assert not (fleet.etc / "cloud.profiles.d" / "old.conf").exists()
    (fleet.etc / "master").write_text("by hand")
    assert master.configure(fleet) is True
    assert master.configure(fleet) is False


def test_the_link_of_a_checkout_stays_with_the_fleet_it_points_at(make_fleet, checkout):
    one, two = make_fleet({}), make_fleet({})
    master.link(one)
    master.link(two)
    assert master.LINK.readlink() == one.state_dir
    master.unlink(two)
    assert master.LINK.is_symlink()
    (one.state_dir / "fleet.json").unlink()  # that fleet is no more
    master.link(two)
    assert master.LINK.readlink() == two.state_dir
    master.unlink(two)
    master.unlink(two)
    assert not master.LINK.is_symlink()


def test_a_master_that_is_not_there_neither_runs_nor_answers(fleet):
    assert not master.is_running(fleet)
    master.stop(fleet)
    assert (fleet.state_dir / "fleet.json").exists()


def test_a_folder_that_is_in_use_is_said_in_one_line(fleet, monkeypatch):
    def busy(path):
        raise OSError(errno.EBUSY, "Device or resource busy", "root")

    monkeypatch.setattr(master.shutil, "rmtree", busy)
    with pytest.raises(
        SalternError, match=r"cannot be removed \(Device or resource busy: 'root'\); end what"
    ):
        master.remove(fleet)
