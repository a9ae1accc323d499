"""What `salt-run build.*` answers: over a real worker that serves what it knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from host import until
from pipeline_stand import QUICK, PipelineStand
from saltern import build_runs, secrets
from saltern.errors import SalternError
from saltern.fleet import REPOSITORY, Fleet
from saltern.pipeline import web

OPS = "127.99.0.31"
SLEEPS = {**QUICK, "saltern.toml": '[build]\ncommands = [["sleep", "600"]]\n' + QUICK["saltern.toml"]}


@pytest.fixture
def plant(tmp_path: Path, make_fleet: Callable[..., Fleet]) -> Iterator[SimpleNamespace]:
    """A fleet whose ops1 is a worker in a folder, with one build that passed and one that failed."""
    pillar_dir = tmp_path / "pillar"
    pillar_dir.mkdir()
    for path in (REPOSITORY / "pillar").glob("*.sls"):
        (pillar_dir / path.name).write_text(path.read_text())
    fleet = make_fleet({"ops1": OPS}, pillar_dir=pillar_dir)
    (tmp_path / "stand").mkdir()
    token = secrets.load(fleet)["pipeline"]["token"]
    stand = PipelineStand(tmp_path / "stand", address=OPS, token=token)
    with web.serving(stand.start()) as port:
        values = yaml.safe_load((pillar_dir / "pipeline.sls").read_text())
        values["pipeline"]["port"] = port
        (pillar_dir / "pipeline.sls").write_text(yaml.safe_dump(values))
        stand.commit(QUICK)
        stand.push("staging").ended()
        stand.commit({"saltern.toml": "nonsense"})
        stand.push("HEAD:feature/x").ended()
        yield SimpleNamespace(fleet=fleet, stand=stand)
    stand.close()


def refused(function: Callable[..., Any], *arguments: Any) -> str:
    with pytest.raises(SalternError) as raised:
        function(*arguments)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_builds_are_listed_newest_first_and_each_can_be_read(plant):
    listed = build_runs.list_(plant.fleet)
    assert [(b["ref"], b["state"]) for b in listed] == [
        ("refs/heads/feature/x", "failed"),
        ("refs/heads/staging", "passed"),
    ]
    assert listed[0]["why"].startswith("saltern.toml: not TOML")
    assert [b["state"] for b in build_runs.list_(plant.fleet, branch="staging")] == ["passed"]
    assert [b["state"] for b in build_runs.list_(plant.fleet, branch="feature/x", state="failed")] == [
        "failed"
    ]
    assert build_runs.list_(plant.fleet, state="cancelled") == []
    assert len(build_runs.list_(plant.fleet, limit=1)) == 1
    shown = build_runs.show(plant.fleet, listed[1]["id"])
    assert [stage["name"] for stage in shown["stages"]] == ["source", "build", "test", "analyse"]
    assert "== build" in build_runs.log(plant.fleet, listed[1]["id"])


def test_a_build_is_cancelled_once(plant):
    plant.stand.configure(follow_s=0.1)
    plant.stand.commit(SLEEPS)
    plant.stand.push("HEAD:feature/y").ended()
    build = until(lambda: (b := plant.stand.builds()[-1]).stage == "build" and b, "the build is at work")
    assert build_runs.cancel(plant.fleet, build.id) == {"build": build.id, "cancelled": True}
    until(lambda: plant.stand.builds()[-1].state == "cancelled", "it is cancelled")
    assert "has ended already" in refused(build_runs.cancel, plant.fleet, build.id)


def test_what_is_not_there_is_said_in_one_line(plant, make_fleet):
    unknown = "20260101-000000-abcdef1"
    for function in (build_runs.show, build_runs.log, build_runs.cancel):
        assert "there is none by this id" in refused(function, plant.fleet, unknown)
        assert "not a build's id" in refused(function, plant.fleet, "../../etc")
        assert "not a build's id" in refused(function, plant.fleet, 7)
    assert "limit 0" in refused(build_runs.list_, plant.fleet, "", "", 0)
    assert "has no ops machine" in refused(build_runs.list_, make_fleet({"prod1": "127.99.0.32"}))
    assert "service.status saltern-pipeline" in refused(build_runs.list_, make_fleet({"ops1": "127.99.0.33"}))
