"""What `./saltern status` tells of a fleet none of whose machines runs."""

from __future__ import annotations

import json
import socket

import pytest
import yaml
from saltern import cli, status
from saltern.errors import SalternError
from saltern.fleet import REPOSITORY


@pytest.fixture
def still(make_fleet, tmp_path):
    """A fleet whose Redis is refused at once: on a port of loopback that nobody listens on."""
    for path in (REPOSITORY / "pillar").glob("*.sls"):
        (tmp_path / path.name).write_text(path.read_text())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        values = yaml.safe_load((tmp_path / "redis.sls").read_text())
        values["redis"]["port"] = probe.getsockname()[1]
        (tmp_path / "redis.sls").write_text(yaml.safe_dump(values))
        yield make_fleet({"proxy1": "127.0.0.2", "redis1": "127.0.0.1", "prod1": "127.0.0.3"}, pillar_dir=tmp_path,
                         subnet="10.99.9.0/24")  # fmt: skip


def test_every_machine_is_told_of_and_what_could_not_be_asked(still, monkeypatch):
    monkeypatch.setattr(status.master, "answers", lambda fleet: False)
    told = status.status(still)
    assert [each["id"] for each in told["machines"]] == ["prod1", "proxy1", "redis1"]
    assert told["machines"][0] == {
        "id": "prod1",
        "role": "prod",
        "address": "127.0.0.3",
        "state": "stopped",
        "want": None,
        "release": None,
        "memory": 384,
        "memory_used": None,
        "cpus": 1.0,
    }
    assert told["urls"]["product"] == "http://127.0.0.2/"
    assert told["urls"]["alerts"] == ""
    assert "the registry cannot be asked" in told["notes"][0]
    assert "the Salt master does not answer" in told["notes"][1]
    assert json.loads(json.dumps(told)) == told


def test_the_table_for_people_names_every_machine(still, monkeypatch, capsys):
    monkeypatch.setattr(status.master, "answers", lambda fleet: False)
    assert cli.main(["status", "--state-dir", str(still.state_dir)]) == 0
    out = capsys.readouterr().out
    for word in ("prod1", "proxy1", "redis1", "stopped", "127.0.0.3", "note: the registry cannot be asked"):
        assert word in out


def test_without_a_fleet_there_is_no_status(still):
    (still.state_dir / "fleet.json").unlink()
    with pytest.raises(SalternError, match="no fleet is kept here"):
        status.status(still)
