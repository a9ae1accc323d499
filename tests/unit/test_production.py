"""A master of its own machine: what is refused, what is decided, which files there are, what a backup holds."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from saltern import master, members, pillar, secrets
from saltern.errors import SalternError
from saltern.fleet import CLOUDS, REPOSITORY, Fleet, choose
from saltern.production import backup, install, place, releases
from saltern.production.install import Facts, Wanted, choose_address, refusal, settled


def interface(name: str, *addresses: str) -> dict:
    about = [address.split("/") for address in addresses]
    return {
        "ifname": name,
        "addr_info": [{"family": "inet", "local": a, "prefixlen": int(length)} for a, length in about],
    }


LO = interface("lo", "127.0.0.1/8")
PUBLIC = interface("eth0", "5.9.1.2/20")
PRIVATE = interface("eth1", "10.110.0.2/20")
OTHER = interface("eth2", "192.168.5.2/24")
WELL = Facts("systemd", 2000, (LO, PUBLIC, PRIVATE))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="st-") as made:
        yield Path(made)


@pytest.fixture
def installed(folder) -> Fleet:
    """A fleet whose master is of its own machine, with one machine and its key."""
    fleet = Fleet(
        "saltern", "10.110.0.0/20", folder / "saltern", cloud="digitalocean", address="10.110.0.2",
        known_as="salt.example.org", installed=True,
    )  # fmt: skip
    fleet.save()
    secrets.ensure(fleet)
    for name, text in {
        "pki/master/master.pem": "the master's key",
        "pki/master/minions/prod1": "a minion's key",
        "machines/prod1/machine.json": json.dumps({"address": "10.110.0.3", "made": True}),
        "machines/prod1/order.json": "{}",
        "machines/prod1/upper/var/large": "a disk",
        "cache/master/jobs/1": "passing",
        "log/master": "passing",
        "run/master.pid": "passing",
        "etc/master": "generated",
        "releases.json": "{}",
    }.items():
        path = fleet.state_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (fleet.state_dir / "pki/master/master.pem").chmod(0o400)
    return fleet


@pytest.fixture
def code(tmp_path) -> Path:
    """A release of little."""
    folder = tmp_path / "releases" / "v0123456789ab"
    (folder / "salt").mkdir(parents=True)
    (folder / "beacons").mkdir()
    (folder / "salt/top.sls").write_text("base: {}\n")
    (folder / "beacons/cpu.py").write_text("")
    (folder / "salt/_beacons").symlink_to("../beacons")
    (folder / "saltern").write_text("#!/bin/sh\n")
    (folder / "saltern").chmod(0o755)
    for part in set(releases.PARTS) - {"salt", "beacons", "saltern"}:
        (folder / part).mkdir()
    return folder


# This machine ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (WELL, None),
        (
            dataclasses.replace(WELL, init="tini"),
            "this machine is run by tini, not by systemd; a master takes",
        ),
        (
            dataclasses.replace(WELL, memory=512),
            "this machine has 512 MiB of memory; a master takes at least 900",
        ),
        (dataclasses.replace(WELL, busy=("port 4505 is taken",)), "port 4505 is taken"),
    ],
)
def test_a_machine_that_cannot_be_a_master_is_refused_in_one_line(facts, words):
    said = refusal(facts)
    assert said is None if words is None else said.startswith(words) and "\n" not in said


@pytest.mark.parametrize(
    ("interfaces", "address", "subnet", "chosen"),
    [
        ((LO, PUBLIC, PRIVATE), None, None, ("10.110.0.2", "10.110.0.0/20")),
        ((LO, PRIVATE, OTHER), "192.168.5.2", None, ("192.168.5.2", "192.168.5.0/24")),
        ((LO, PRIVATE), None, "10.110.0.0/16", ("10.110.0.2", "10.110.0.0/16")),
    ],
)
def test_the_master_listens_at_the_private_address(interfaces, address, subnet, chosen):
    assert choose_address(interfaces, address, subnet) == chosen


@pytest.mark.parametrize(
    ("interfaces", "address", "words"),
    [
        ((LO, PUBLIC), None, "has no private address; say which"),
        ((LO, PRIVATE, OTHER), None, "has 10.110.0.2, 192.168.5.2; say which machines reach the master at"),
        (
            (LO, PRIVATE),
            "10.110.0.9",
            "address 10.110.0.9: this machine has 10.110.0.2; give it that one, or",
        ),
        ((LO, interface("eth0", "169.254.3.4/16")), None, "has no private address"),
    ],
)
def test_an_address_that_is_not_clear_is_asked_for(interfaces, address, words):
    with pytest.raises(SalternError, match=words) as refused:
        choose_address(interfaces, address, None)
    assert "\n" not in str(refused.value)


def test_what_was_said_once_need_not_be_said_again(installed):
    facts = Facts("systemd", 2000, (LO, PRIVATE, OTHER))
    assert settled(installed, Wanted(), facts) == dataclasses.replace(
        installed, pillar_dir=place.CURRENT / "pillar"
    )
    renamed = settled(installed, Wanted(known_as="other.example.org", subnet="10.110.0.0/16"), facts)
    assert (renamed.known_as, renamed.subnet, renamed.cloud) == (
        "other.example.org", "10.110.0.0/16", "digitalocean",
    )  # fmt: skip


def test_a_first_master_has_no_cloud_yet_and_a_local_fleet_stays_local(folder, fleet):
    new = Fleet("saltern", "10.213.0.0/24", folder / "new")
    made = settled(new, Wanted(), WELL)
    assert (made.address, made.subnet, made.cloud, made.user) == (
        "10.110.0.2",
        "10.110.0.0/20",
        "none",
        "salt",
    )
    with pytest.raises(SalternError, match="its machines are on this host"):
        settled(fleet, Wanted(), WELL)


def test_a_fleet_is_read_as_it_was_written(installed, fleet):
    assert Fleet.load(installed.state_dir) == installed
    assert Fleet.load(fleet.state_dir) == fleet
    assert (fleet.user, fleet.master) == ("root", fleet.gateway)
    assert (installed.gateway, installed.master) == ("10.110.0.2", "salt.example.org")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"cloud": "gogrid"}, "cloud 'gogrid': not one of local, digitalocean"),
        ({"address": "10.99.1.1"}, "address '10.99.1.1': not an IPv4 address of 10.99.0.0/24"),
        ({"address": "x"}, "address 'x': not an IPv4 address"),
        ({"known_as": "a b"}, "name 'a b': not a host's name or address"),
    ],
)
def test_a_wrong_fleet_is_refused(values, words):
    with pytest.raises(SalternError, match=words):
        Fleet("x", "10.99.0.0/24", Path("/x"), **values)


def test_a_fleet_changes_its_cloud_only_while_it_has_no_machines(installed, tmp_path):
    with pytest.raises(SalternError, match="its machines are at digitalocean, not ec2"):
        choose("saltern", str(installed.state_dir), cloud="ec2")
    shutil.rmtree(installed.machines_dir)
    assert choose("saltern", str(installed.state_dir), cloud="ec2").cloud == "ec2"
    assert choose("saltern", str(installed.state_dir)).cloud == "digitalocean"


# Files -----------------------------------------------------------------------------------------------------------


def test_sshd_is_reachable_wherever_it_listens():
    assert install.ssh_ports("port 2222\nport 22\n") == (22, 2222)
    assert install.ssh_ports("") == (22,)
    rules = place.firewall("10.110.0.0/20", (2222,), "198.51.100.0/24")
    assert "ip saddr 198.51.100.0/24 tcp dport { 2222 } accept" in rules
    assert "\n        tcp dport { 22 } accept" in place.firewall("10.110.0.0/20", (22,), "")


def test_the_firewall_is_what_nft_understands_and_lets_the_fleet_alone_reach_salt():
    rules = place.firewall("10.110.0.0/20", (22,), "198.51.100.0/24")
    assert "ip saddr 10.110.0.0/20 tcp dport { 4505, 4506 } accept" in rules
    assert "policy drop" in rules
    if os.geteuid() == 0:
        done = subprocess.run(
            ["nft", "-c", "-f", "-"], input=rules, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_systemd_and_logrotate_understand_their_files(installed, tmp_path):
    made = place.files(installed, tmp_path, (22,), "")
    units = [path for path in made if path.parent == place.UNITS]
    assert {path.name for path in units} == {
        "saltern-master.service", "saltern-firewall.service", "saltern-backup.service", "saltern-backup.timer",
    }  # fmt: skip
    for path in units:
        (tmp_path / path.name).write_text(
            made[path]
            .text.replace(f"{place.CURRENT}/.venv/bin/", "/bin/")
            .replace("/bin/salt-master", "/bin/true")
        )
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / path.name) for path in units)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    wrong = [
        line for line in done.stderr.splitlines() if "saltern-" in line and "is not executable" not in line
    ]
    assert wrong == []
    assert "User=salt\n" in made[place.UNITS / "saltern-master.service"].text


def test_a_command_is_run_by_the_release_in_use_and_salts_by_the_masters_user(installed, tmp_path):
    made = place.files(installed, tmp_path, (22,), "")
    for name in place.SALT_COMMANDS:
        text = made[place.COMMANDS / name].text
        assert (
            f"exec setpriv --reuid=salt --regid=salt --init-groups /opt/saltern/current/.venv/bin/{name} -c"
            in text
        )
        assert subprocess.run(["sh", "-n"], input=text, text=True, check=False).returncode == 0
    assert "setpriv" not in made[place.COMMANDS / "saltern"].text


def test_masters_that_have_peers_share_and_their_machines_know_all(installed, tmp_path, monkeypatch):
    monkeypatch.setattr(pillar, "_as_pillar", lambda *release: {})
    one = dataclasses.replace(installed, known_as="", peers=("10.110.0.7",))
    made = place.files(one, tmp_path, (22,), "198.51.100.0/24")
    assert place.SHARE_UNIT in made
    assert "ip saddr { 10.110.0.7 } tcp dport { 22 } accept" in made[place.FIREWALL].text
    files = master.configuration(one)
    both = ["10.110.0.2", "10.110.0.7"]
    assert yaml.safe_load(files["cloud"])["minion"]["master"] == both
    assert yaml.safe_load(files["cloud.providers.d/digitalocean.conf"])["digitalocean"]["minion"] == {
        "master": both
    }
    other = dataclasses.replace(one, address="10.110.0.7", peers=("10.110.0.2",))
    told = [pillar.for_machine(each, "prod1")["fleet"] for each in (one, other)]
    assert told[0] == told[1]
    assert told[0]["masters"] == both
    assert settled(one, Wanted(peers=()), WELL).peers == ()
    assert settled(one, Wanted(), WELL).peers == ("10.110.0.7",)
    with pytest.raises(SalternError, match="machines know several masters by their addresses"):
        settled(installed, Wanted(peers=("10.110.0.7",)), WELL)
    for wrong in ("10.110.0.2", "10.99.0.1", "x"):
        with pytest.raises(SalternError, match="not the IPv4 address of another machine"):
            dataclasses.replace(one, peers=(wrong,))


# Configuration of clouds --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cloud", CLOUDS[1:-1])
def test_a_fleets_cloud_is_one_word_and_its_profiles_keep_their_names(installed, cloud, fleet):
    rented = dataclasses.replace(installed, cloud=cloud)
    files = master.configuration(rented)
    there = [path for path in files if path.startswith(("cloud.providers.d", "cloud.profiles.d"))]
    assert sorted(there) == [f"cloud.profiles.d/{cloud}.conf", f"cloud.providers.d/{cloud}.conf"]
    profiles = yaml.safe_load(files[f"cloud.profiles.d/{cloud}.conf"])
    local = yaml.safe_load(master.configuration(fleet)["cloud.profiles.d/local.conf"])
    assert set(profiles) == set(local)
    provider = yaml.safe_load(files[f"cloud.providers.d/{cloud}.conf"])[cloud]
    assert provider["minion"] == {"master": "salt.example.org"}
    assert yaml.safe_load(files["master"])["user"] == "salt"


def test_a_fleet_without_a_cloud_has_no_provider(installed):
    files = master.configuration(dataclasses.replace(installed, cloud="none"))
    assert not [path for path in files if path.startswith("cloud.p")]


def test_what_is_an_operators_own_goes_over_the_provider(installed, tmp_path):
    pillar = shutil.copytree(REPOSITORY / "pillar", tmp_path / "pillar")
    own = {"location": "nyc3", "options": {"vpc_uuid": "x"}}
    (pillar / "clouds.sls").write_text(yaml.safe_dump({"clouds": {"digitalocean": own}}))
    files = master.configuration(dataclasses.replace(installed, pillar_dir=pillar))
    found = yaml.safe_load(files["cloud.providers.d/digitalocean.conf"])["digitalocean"]
    assert (found["location"], found["options"]) == ("nyc3", {"vpc_uuid": "x"})
    assert found["image"] == "debian-12-x64"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "clouds: {digitalocean: {regoin: fra1}}",
            "pillar/clouds.sls: clouds.digitalocean.regoin: no such setting",
        ),
        ("clouds: {gogrid: {}}", "pillar/clouds.sls: clouds.gogrid: no such setting; there are azure"),
        ("clouds: {ec2: {image: ''}}", "pillar/clouds.sls: clouds.ec2.image: "),
        ("x: 1", "clouds.sls: no table `clouds:`"),
    ],
)
def test_a_wrong_setting_of_a_cloud_is_named(installed, tmp_path, text, words):
    pillar = shutil.copytree(REPOSITORY / "pillar", tmp_path / "pillar")
    (pillar / "clouds.sls").write_text(text)
    with pytest.raises(SalternError) as refused:
        master.configuration(dataclasses.replace(installed, pillar_dir=pillar))
    assert words in str(refused.value)


# Releases --------------------------------------------------------------------------------------------------------


def test_a_release_is_named_by_all_that_is_in_it(code):
    first = releases.identity(code)
    (code / "salt/__pycache__").mkdir()
    (code / "salt/__pycache__/x.pyc").write_text("x")
    assert releases.identity(code) == first
    (code / "salt/top.sls").write_text("base:  {}\n")
    second = releases.identity(code)
    (code / "salt/top.sls").chmod(0o755)
    assert len({first, second, releases.identity(code)}) == 3


def test_a_release_is_laid_once_and_whole(code, tmp_path):
    laid = releases.lay(code, tmp_path / "laid")
    assert releases.lay(code, tmp_path / "laid") == laid
    assert releases.identity(laid) == laid.name
    assert (laid / "salt/_beacons/cpu.py").exists()
    assert os.access(laid / "saltern", os.X_OK)


def test_the_newest_releases_stay_and_the_one_in_use_whatever_its_age(tmp_path):
    folder, environments = tmp_path / "releases", tmp_path / "venv"
    for number in range(5):
        environment = environments / f"e{number // 2}"
        environment.mkdir(parents=True, exist_ok=True)
        (folder / f"v{number}").mkdir(parents=True)
        (folder / f"v{number}/.venv").symlink_to(environment)
        os.utime(folder / f"v{number}", (number, number))
    assert set(releases.prune(folder, folder / "v1", keep=2)) == {"v0", "v2", "v3", "e1"}
    assert sorted(path.name for path in folder.iterdir()) == ["v1", "v4"]
    assert sorted(path.name for path in environments.iterdir()) == ["e0", "e2"]


def test_a_link_changes_in_one_step_and_only_if_it_must(tmp_path):
    assert releases.link(tmp_path / "current", Path("one"))
    assert not releases.link(tmp_path / "current", Path("one"))
    assert releases.link(tmp_path / "current", Path("two"))
    assert (tmp_path / "current").readlink() == Path("two")


# Backups ---------------------------------------------------------------------------------------------------------

KEPT = [
    "fleet.json", "machines/prod1/machine.json", "machines/prod1/order.json", "pki/master/master.pem",
    "pki/master/minions/prod1", "releases.json", "secrets.json",
]  # fmt: skip


def test_a_backup_holds_keys_state_and_code_and_nothing_that_is_made_anew(installed, code, tmp_path):
    path = backup.write(installed, code, str(tmp_path / "b.tar.gz"))
    assert path.stat().st_mode & 0o777 == 0o600
    manifest, found = backup.read(str(path))
    assert (manifest.fleet, manifest.release) == ("saltern", code.name)
    assert sorted(n.removeprefix("state/") for n in found if n.startswith("state/")) == KEPT
    assert {n for n in found if n.startswith("code/")} == {
        "code/salt/top.sls", "code/salt/_beacons", "code/beacons/cpu.py", "code/saltern",
    }  # fmt: skip


def test_what_was_kept_comes_back_as_it_was(installed, code, tmp_path):
    manifest, found = backup.read(str(backup.write(installed, code, str(tmp_path / "b.tar.gz"))))
    backup.lay_state(manifest, found, tmp_path / "again")
    for name in KEPT:
        old, new = installed.state_dir / name, tmp_path / "again" / name
        assert (old.read_bytes(), old.stat().st_mode) == (new.read_bytes(), new.stat().st_mode), name
    laid = backup.lay_code(manifest, found, tmp_path)
    assert laid == tmp_path / code.name
    assert releases.identity(laid) == releases.identity(code)
    assert backup.lay_code(manifest, found, tmp_path) == laid


@given(st.floats(0, 0.999), st.integers(0, 7), st.booleans())
def test_whatever_happened_to_a_backup_it_is_whole_or_refused(at, bit, cut):
    with tempfile.TemporaryDirectory(prefix="st-") as folder:
        fleet, code, path = (
            Fleet("x", "10.1.0.0/24", Path(folder, "x")),
            Path(folder, "v1"),
            Path(folder, "b"),
        )
        fleet.save()
        for part in releases.PARTS:
            (code / part).mkdir(parents=True)
        whole = backup.read(str(backup.write(fleet, code, str(path))))
        data = bytearray(path.read_bytes())
        point = int(len(data) * at)
        if cut:
            del data[point:]
        else:
            data[point] ^= 1 << bit
        path.write_bytes(data)
        try:
            found = backup.read(str(path))
        except SalternError as error:
            assert "\n" not in str(error)
        else:
            assert found == whole


def packed(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, data in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            tar.addfile(about, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a whole backup"),
        (b"words", "not a whole backup"),
        (gzip.compress(b"words" * 300), "not a whole backup"),
        (packed({}), "not a backup of a master"),
        (packed({"manifest.json": b"[]"}), "not a backup of a master"),
        (packed({"manifest.json": b'{"format": 1, "fleet": "x", "release": "../x", "made": "", "files": {}}'}),
         "release '../x' is none"),
        (packed({"manifest.json": b'{"format": 2}'}), "format 2 is not 1: restore it with the version that made it"),
        (packed({"manifest.json": b'{"format": 1, "fleet": "x", "release": "v1", "made": "", "files": {}}',
                 "state/x": b""}), "state/x is missing, changed or strange"),
        (packed({"manifest.json": json.dumps({"format": 1, "fleet": "x", "release": "v1", "made": "", "files": {
            "state/../../x": ["e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", 420]}}).encode(),
            "state/../../x": b""}), "state/../../x is missing, changed or strange"),
    ],
    ids=[
        "nothing", "words", "compressed words", "no manifest", "a manifest that is a list", "a release outside",
        "another format", "a file that is not listed", "a file outside",
    ],
)  # fmt: skip
def test_what_is_no_backup_is_refused_in_one_line(tmp_path, data, words):
    (tmp_path / "b").write_bytes(data)
    with pytest.raises(SalternError) as refused:
        backup.read(str(tmp_path / "b"))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_backup_that_is_not_there_or_cannot_be_written_is_said(installed, code, tmp_path):
    with pytest.raises(SalternError, match="no such file; say a backup"):
        backup.read(str(tmp_path / "none"))
    with pytest.raises(SalternError, match="cannot be written"):
        backup.write(installed, code, str(tmp_path / "no/folder/b"))


def test_a_folder_keeps_the_newest_backups_of_its_fleet_and_other_files(installed, code, tmp_path):
    folder = tmp_path / "backups"
    folder.mkdir()
    others = ["saltern-other-20260101T000000Z.tar.gz", "before-v1.tar.gz", "saltern-saltern-notes.tar.gz"]
    for name in [*others, *(f"saltern-saltern-2026010{n}T000000Z.tar.gz" for n in range(1, 5))]:
        (folder / name).write_text("")
    path = backup.write(installed, code, str(folder), keep=2)
    left = sorted(each.name for each in folder.iterdir())
    assert left == sorted([*others, "saltern-saltern-20260104T000000Z.tar.gz", path.name])


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("fleet.json", True), ("files/artifacts/r1.tar.gz", True), ("backups/redis.rdb", True),
        (".fleet.json.1", False),
        ("machines/prod1/machine.json", True), ("machines/prod1/upper/machine.json", False), ("locks/up", False),
        ("machines/prod1/console.log", False), ("cache/x/y", False), ("pki/master/minions/prod1", True),
    ],
)  # fmt: skip
def test_what_goes_into_a_backup(name, kept):
    assert backup.worth_keeping(PurePosixPath(name)) is kept


# Before the first machine ------------------------------------------------------------------------------------------


def test_engines_wait_for_the_fleets_first_redis(installed, monkeypatch):
    monkeypatch.setattr(members, "LOOK_SECONDS", 0)
    looks = iter(range(100))

    def going_on() -> bool:
        if next(looks) == 3:
            about = {"address": "10.110.0.4", "made": False}
            path = installed.machines_dir / "redis1" / "machine.json"
            path.parent.mkdir()
            path.write_text(json.dumps(about))
        return True

    assert members.await_redis(installed, going_on)
    assert next(looks) == 4
    assert not members.await_redis(installed, lambda: False)
