"""What a rented machine is told at its first boot."""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from saltern.clouds import userdata
from saltern.clouds.userdata import Minion
from saltern.errors import SalternError
from saltern.fleet import REPOSITORY

LOCK = (REPOSITORY / "requirements" / "machine.txt").read_text()
PYTHON = {"python_version": "3.11", "python_full_version": "3.11.2", "sys_platform": "linux"}
MINION = Minion(
    "prod6",
    "id: prod6\nmaster: 10.0.0.1\n",
    "-----PRIVATE-----\n",
    "-----PUBLIC-----\n",
    "-----MASTER-----\n",
)


def files(text: str) -> dict[str, tuple[str, int]]:
    """What it writes: path → (content, mode)."""
    assert text.startswith("#cloud-config\n")
    found = {}
    for each in yaml.safe_load(text)["write_files"]:
        assert each["owner"] == "root:root"
        content = each["content"]
        if each.get("encoding") == "gz+b64":
            content = gzip.decompress(base64.b64decode(content)).decode()
        found[each["path"]] = (content, int(each["permissions"], 8))
    return found


def test_it_brings_the_minion_its_keys_and_the_masters_and_nobody_reads_the_private_one():
    written = files(userdata.write(MINION, LOCK))
    assert written["/etc/salt/minion"] == (MINION.config, 0o640)
    assert written["/etc/salt/pki/minion/minion.pem"] == (MINION.private_key, 0o400)
    assert written["/etc/salt/pki/minion/minion.pub"] == (MINION.public_key, 0o644)
    assert written["/etc/salt/pki/minion/minion_master.pub"] == (MINION.master_key, 0o644)
    document = yaml.safe_load(userdata.write(MINION, LOCK))
    assert document["hostname"] == "prod6"
    assert document["ssh_pwauth"] is False
    assert document["runcmd"] == [["/usr/local/sbin/saltern-join"]]


def test_everything_it_installs_is_pinned_and_checked_and_nothing_is_lost_between_the_two_files():
    written = files(userdata.write(MINION, userdata.pruned(LOCK, set(), PYTHON)))
    builders, rest = (written[f"{userdata.LOCK_PATH}{end}"][0] for end in (".build", ""))
    assert re.findall(r"^[\w.-]+", builders, re.MULTILINE) == ["packaging", "setuptools", "wheel"]
    for text in (builders, rest):
        entries = userdata._entries(text)
        assert entries
        assert all(len(lines) > 1 and re.match(r"[\w.-]+==[\w.]+ \\", lines[0]) for _, lines in entries)
    assert "salt==3008.3" in rest
    installed = {name for text in (builders, rest) for name, _ in userdata._entries(text)}
    locked = {name for name, _ in userdata._entries(userdata.pruned(LOCK, set(), PYTHON))}
    assert locked - installed == {"timelib"}
    join = written[userdata.JOIN_PATH][0]
    assert "--require-hashes" in join
    assert "--no-build-isolation" in join
    assert "'3008.3'" in join


def test_a_lock_is_shortened_to_what_such_a_machine_installs():
    short = userdata.pruned(LOCK, set(), PYTHON)
    assert "async-timeout==5.0.1" in short  # for Python below 3.11.3
    assert "backports-tarfile" in short  # below 3.12
    assert "typer==0.29.1" not in short  # below 3.11
    name, lines = next((name, lines) for name, lines in userdata._entries(short) if len(lines) > 20)
    chosen = re.search(r"[0-9a-f]{64}", lines[5])[0]
    shorter = dict(userdata._entries(userdata.pruned(LOCK, {chosen, "0" * 64}, PYTHON)))
    assert len(shorter[name]) == 2
    assert chosen in shorter[name][1]
    assert "0" * 64 not in str(shorter)  # what the lock does not vouch for is not believed
    assert set(shorter) == set(dict(userdata._entries(short)))


def test_wheels_are_known_by_their_sums(tmp_path: Path):
    (tmp_path / "a-1-py3-none-any.whl").write_bytes(b"a")
    (tmp_path / "notes.txt").write_bytes(b"b")
    assert userdata.held_wheels(tmp_path) == {hashlib.sha256(b"a").hexdigest()}
    assert userdata.held_wheels(tmp_path / "nothing") == set()


def test_with_one_hash_a_package_it_fits_into_ec2s_sixteen_kibibytes():
    firsts = set()
    for _, lines in userdata._entries(LOCK):
        firsts.add(re.search(r"[0-9a-f]{64}", lines[1])[0])
    keys = "".join(hashlib.sha512(bytes([n])).hexdigest()[:64] + "\n" for n in range(27))
    minion = Minion("prod6", MINION.config * 20, keys, keys[:450], keys[:800])
    assert len(userdata.write(minion, userdata.pruned(LOCK, firsts, PYTHON))) < 16_384


def test_the_same_machine_is_told_the_same():
    assert userdata.write(MINION, LOCK) == userdata.write(MINION, LOCK)
    assert "PRIVATE" not in repr(MINION)


@pytest.mark.parametrize("index", ["", "https://user:p%20w@packages.example.org/simple/"])
def test_the_script_is_a_shell_script(tmp_path: Path, index):
    script = files(userdata.write(MINION, LOCK, index_url=index))[userdata.JOIN_PATH][0]
    (tmp_path / "join").write_text(script)
    for check in (["sh", "-n"], ["shellcheck", "--shell=sh", "--severity=style"]):
        done = subprocess.run([*check, str(tmp_path / "join")], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert (f"--index-url '{index}'" in script) is bool(index)


def test_the_units_and_the_guard_are_what_their_programs_take(tmp_path: Path):
    written = files(userdata.write(MINION, LOCK))
    guard = tmp_path / "guard.nft"
    guard.write_text(written[userdata.GUARD_PATH][0])
    checked = subprocess.run(["nft", "-c", "-f", str(guard)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    # Azure and Google resolve names at the same addresses: nothing but HTTP may be refused.
    refusing = [line for line in guard.read_text().splitlines() if "reject" in line]
    assert len(refusing) == 2
    assert all("tcp dport { 80, 443, 32526 } meta skuid != 0 counter reject" in line for line in refusing)
    unit = tmp_path / "saltern-metadata.service"
    unit.write_text(written["/etc/systemd/system/saltern-metadata.service"][0])
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    assert "saltern-metadata" not in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("lock", "index", "words"),
    [
        ("redis==8.1.0 \\\n    --hash=sha256:00\n", "", "names no version of salt"),
        (LOCK, "packages.example.org", "is not a URL of an index"),
        (LOCK, "https://x/'; rm -rf /; '", "is not a URL of an index"),
    ],
)
def test_what_makes_no_machine_is_refused(lock, index, words):
    with pytest.raises(SalternError, match=words):
        userdata.write(MINION, lock, index_url=index)
