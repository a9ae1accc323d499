"""Other values in the pillar for a while: they are taken back however it ends, even by whoever comes next."""

from __future__ import annotations

import contextlib

import pytest
import yaml
from saltern.demo.plant import Plant
from saltern.errors import SalternError
from saltern.fleet import Fleet

SAID = "# Why it is 45.\nscaling:\n  auto: true\n  targets: {cpu: 45, memory: 60}\n"


@pytest.fixture
def plant(tmp_path, monkeypatch) -> Plant:
    monkeypatch.setattr("saltern.fleet.LONGEST_STATE_DIR", 500)
    pillar = tmp_path / "pillar"
    pillar.mkdir()
    (pillar / "scaling.sls").write_text(SAID)
    made = Plant.__new__(Plant)  # no fleet runs here, and none is needed
    made.fleet = Fleet("test", "10.231.99.0/24", tmp_path / "state", pillar)
    return made


def read(plant: Plant) -> dict:
    return yaml.safe_load((plant.fleet.pillar_dir / "scaling.sls").read_text())["scaling"]


def test_a_table_changes_what_it_names_and_all_is_as_it_was_afterwards(plant):
    path = plant.fleet.pillar_dir / "scaling.sls"
    path.chmod(0o600)
    with plant.set(scaling={"targets": {"cpu": 90}}):
        assert read(plant) == {"auto": True, "targets": {"cpu": 90, "memory": 60}}
    assert path.read_text() == SAID
    assert path.stat().st_mode & 0o777 == 0o600
    assert not plant.put_back(), "nothing is left to put back"


def test_one_upon_the_other_is_taken_back_one_after_the_other(plant):
    with plant.set(scaling={"auto": False}):
        with contextlib.suppress(RuntimeError), plant.set(scaling={"targets": {"cpu": 90}}):
            assert read(plant) == {"auto": False, "targets": {"cpu": 90, "memory": 60}}
            raise RuntimeError("a step failed")
        assert read(plant) == {"auto": False, "targets": {"cpu": 45, "memory": 60}}
    assert (plant.fleet.pillar_dir / "scaling.sls").read_text() == SAID


@pytest.mark.parametrize("depth", [1, 2])
def test_what_a_killed_one_left_is_put_back_by_the_next(plant, depth):
    # Entered and kept: a process that is killed leaves none of them.
    entered = [
        plant.set(**change) for change in ({"scaling": {"auto": False}}, {"scaling": {"auto": 1}})[:depth]
    ]
    for each in entered:
        each.__enter__()
    path = plant.fleet.pillar_dir / "scaling.sls"
    assert path.read_text() != SAID
    assert plant.put_back() == [str(path)]
    assert path.read_text() == SAID
    assert plant.put_back() == []


def test_what_somebody_changed_since_is_not_overwritten(plant):
    first = plant.set(scaling={"auto": False})
    first.__enter__()
    path = plant.fleet.pillar_dir / "scaling.sls"
    path.write_text("scaling: {auto: true, mine: 1}\n")
    with pytest.raises(SalternError, match="somebody changed it since") as refused:
        plant.put_back()
    assert "\n" not in str(refused.value)
    assert path.read_text() == "scaling: {auto: true, mine: 1}\n"
    assert (plant.fleet.state_dir / "scaling.sls.before").read_text() == SAID
    # Not when its memory is reclaimed, which the error that is kept here puts off until its folder is gone.
    first.__exit__(None, None, None)
