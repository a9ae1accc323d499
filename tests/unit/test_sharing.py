"""Masters of one fleet know the same: what is brought, taken and refused."""

from __future__ import annotations

import dataclasses
import io
import json
import runpy
import socket
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from saltern.errors import SalternError
from saltern.fleet import REPOSITORY, Fleet
from saltern.production import sharing
from saltern.production.sharing import Delivery, delivery, look, receive

A, B, C = "10.110.0.2", "10.110.0.3", "10.110.0.4"


def write(fleet: Fleet, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = fleet.state_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def contents(fleet: Fleet) -> dict[str, str]:
    return {name: (fleet.state_dir / name).read_text() for name in look(fleet)}


@pytest.fixture
def pair() -> Iterator[tuple[Fleet, Fleet]]:
    """The fleet as each of two masters has it; the first has all that there is."""
    with tempfile.TemporaryDirectory(prefix="st-") as folder:
        made = []
        for me, other in ((A, B), (B, A)):
            made.append(Fleet("saltern", "10.110.0.0/20", Path(folder) / me, address=me, peers=(other,)))
            made[-1].save()
        write(made[0], {
            "secrets.json": "{}", "pki/master/master.pem": "key", "pki/master/minions/prod1": "a",
            "machines/prod1/machine.json": "{}", "machines/prod1/upper/var/disk": "large", "cache/x": "passing",
            "etc/master": "generated", "install.json": "its own",
        })  # fmt: skip
        (made[0].state_dir / "pki/master/master.pem").chmod(0o400)
        yield made[0], made[1]


def bring(source: Fleet, target: Fleet, token: int = 1, before: sharing.Seen | None = None) -> Delivery:
    packed = delivery(source, token, look(source), before or {}).pack()
    return receive(target, io.BytesIO(packed))


def test_the_first_delivery_brings_all_that_a_backup_would_hold_and_nothing_that_is_a_masters_own(pair):
    leader, other = pair
    bring(leader, other)
    assert contents(other) == contents(leader) == {
        "secrets.json": "{}", "pki/master/master.pem": "key", "pki/master/minions/prod1": "a",
        "machines/prod1/machine.json": "{}",
    }  # fmt: skip
    assert (other.state_dir / "pki/master/master.pem").stat().st_mode & 0o777 == 0o400
    assert Fleet.load(other.state_dir) == other


def test_later_ones_bring_what_changed_and_take_away_what_is_gone(pair):
    leader, other = pair
    bring(leader, other)
    before = look(leader)
    write(leader, {"pki/master/minions/prod2": "b", "machines/prod2/machine.json": "{}"})
    (leader.state_dir / "pki/master/minions/prod1").unlink()
    (leader.state_dir / "machines/prod1/machine.json").unlink()
    came = bring(leader, other, before=before)
    assert sorted(came.contents) == ["machines/prod2/machine.json", "pki/master/minions/prod2"]
    assert contents(other) == contents(leader)
    assert [path.name for path in other.machines_dir.iterdir()] == ["prod2"]


def test_what_an_earlier_leader_brings_is_refused_and_changes_nothing(pair):
    leader, other = pair
    bring(leader, other, token=5)
    write(leader, {"pki/master/minions/prod2": "late"})
    before = contents(other)
    with pytest.raises(SalternError, match=f"{A} led by lease 4, and by now there is 5"):
        bring(leader, other, token=4)
    assert contents(other) == before


def test_a_delivery_that_takes_for_granted_what_is_not_there_says_so(pair):
    leader, other = pair
    with pytest.raises(SalternError, match="is missing here; all has to be brought"):
        bring(leader, other, before=look(leader))


def test_only_a_peer_of_the_same_fleet_may_bring(pair):
    leader, other = pair
    for stranger in (
        dataclasses.replace(leader, address=C, peers=(B,)),
        dataclasses.replace(leader, name="other"),
    ):
        with pytest.raises(SalternError, match="no master that fleet saltern has here"):
            bring(stranger, other)
    assert contents(other) == {}


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/etc/passwd",
        "a/../../x",
        "fleet.json",
        "cache/x",
        "machines/prod1/upper/x",
        ".hidden",
        "a//b",
    ],
)
def test_a_name_that_leads_elsewhere_or_is_a_masters_own_is_refused(pair, name):
    other = pair[1]
    forged = Delivery("saltern", A, 1, {name: 0o600}, {name: b"x"}).pack()
    with pytest.raises(SalternError, match="is no file that masters share; nothing was taken"):
        receive(other, io.BytesIO(forged))
    assert contents(other) == {}


@pytest.mark.parametrize(
    "change", [lambda packed: packed[:40], lambda packed: b"no archive", lambda packed: b""]
)
def test_half_a_delivery_is_none(pair, change):
    leader, other = pair
    packed = delivery(leader, 1, look(leader), {}).pack()
    with pytest.raises(SalternError, match="not a delivery of another master"):
        receive(other, io.BytesIO(change(packed)))
    assert contents(other) == {}


def test_a_delivery_of_a_later_format_says_what_to_do(pair):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        data = json.dumps({"format": 2}).encode()
        member = tarfile.TarInfo(sharing.MANIFEST)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    with pytest.raises(SalternError, match="both masters take the same release"):
        receive(pair[1], io.BytesIO(out.getvalue()))


# What a machine makes of it -------------------------------------------------------------------------------------


def test_a_minion_that_starts_names_first_a_master_that_answers(tmp_path: Path):
    script = runpy.run_path(str(REPOSITORY / "salt/common/masters.py"))
    listed, made = tmp_path / "masters", tmp_path / "masters.conf"
    listed.write_text("127.0.0.2\n127.0.0.3\n127.0.0.4\n")
    with socket.create_server(("127.0.0.3", 0)) as server:
        script["main"](str(listed), str(made), str(server.getsockname()[1]))
    assert json.loads(made.read_text().splitlines()[1]) == {"master": ["127.0.0.3", "127.0.0.2", "127.0.0.4"]}
    with socket.create_server(("127.0.0.9", 0)) as server:
        script["main"](str(listed), str(made), str(server.getsockname()[1]))
    assert json.loads(made.read_text().splitlines()[1]) == {"master": ["127.0.0.2", "127.0.0.3", "127.0.0.4"]}
