"""Artifacts: what goes into one, and that the same source makes the same bytes. Building is in tests/functional."""

from __future__ import annotations

import io
import json
import os
import random
import tarfile
from pathlib import Path

import pytest
from saltern import artifact
from saltern.artifact import Artifact
from saltern.errors import SalternError

SITE = {
    "bottle.py": "bottle",
    "redis/__init__.py": "",
    "redis-8.1.dist-info/METADATA": "Name: redis",
    "redis-8.1.dist-info/RECORD": "where pip put it",
    "redis-8.1.dist-info/INSTALLER": "pip",
    "redis-8.1.dist-info/direct_url.json": "{}",
    "redis-8.1.dist-info/REQUESTED": "",
    "redis/__pycache__/x.cpython-311.pyc": "bytecode",
    "bin/gunicorn": "#!/where/it/was/built/python",
}
PACKAGE = {
    "__init__.py": "",
    "app.py": "application = 1",
    "views/page.tpl": "<p>ü</p>",
    "__pycache__/app.cpython-311.pyc": "bytecode",
    "tests/test_app.py": "def test(): pass",
}
PACKED = [
    "bottle.py",
    "product/__init__.py",
    "product/app.py",
    "product/views/page.tpl",
    "redis-8.1.dist-info/METADATA",
    "redis/__init__.py",
    "RELEASE",
]


def lay(folder: Path, files: dict[str, str], seed: int) -> Path:
    """Write the files in some order, with some times and modes."""
    rng = random.Random(seed)
    for name in rng.sample(sorted(files), len(files)):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[name])
        path.chmod(rng.choice([0o600, 0o644, 0o755]))
        os.utime(path, (rng.randrange(10**9), rng.randrange(10**9)))
    return folder


def pack(folder: Path, seed: int = 0, **changes: str) -> bytes:
    return artifact._pack(
        lay(folder / "site", SITE, seed), [lay(folder / "product", {**PACKAGE, **changes}, seed)]
    )


def test_the_same_source_makes_the_same_bytes_wherever_and_whenever(tmp_path):
    assert len({pack(tmp_path / str(seed), seed) for seed in range(5)}) == 1


def test_any_change_of_the_source_makes_other_bytes(tmp_path):
    assert pack(tmp_path / "a") != pack(tmp_path / "b", **{"app.py": "application = 2"})
    assert pack(tmp_path / "c") != pack(tmp_path / "d", **{"new.py": ""})


def test_only_what_is_imported_is_packed_and_the_marker_comes_last(tmp_path):
    with tarfile.open(fileobj=io.BytesIO(pack(tmp_path))) as archive:
        assert archive.getnames() == PACKED
        for entry in archive:
            assert entry.isfile()
            assert (entry.mode, entry.mtime, entry.uid, entry.gid, entry.uname) == (0o644, 0, 0, 0, "")
        assert archive.extractfile("product/views/page.tpl").read() == "<p>ü</p>".encode()


def test_a_folder_that_is_no_package_is_refused(fleet, tmp_path):
    with pytest.raises(SalternError, match=r"not a Python package; it has no __init__\.py"):
        artifact.build(fleet, [tmp_path], tmp_path / "requirements.txt", "r")


def test_what_shall_run_is_kept_and_changes_touch_what_they_name_only(fleet):
    before = artifact.releases(fleet)
    new = Artifact("rnew", "4" * 64, "artifacts/rnew.tar.gz")
    artifact.want(fleet, {"canary": new})
    assert artifact.releases(fleet) == {**before, "canary": new}


def test_a_table_written_before_artifacts_had_native_code_is_read(fleet):
    older = {"prod": {"id": "r1", "sha256": "4" * 64, "file": "artifacts/r1.tar.gz"}}
    (fleet.state_dir / "releases.json").write_text(json.dumps(older))
    assert artifact.releases(fleet)["prod"].platform == artifact.ANY


def test_a_fleet_without_releases_has_none(fleet):
    (fleet.state_dir / "releases.json").unlink()
    assert artifact.releases(fleet) == {}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"prod": 3}', '{"prod": {"id": "r1"}}', '{"prod": []}']
)
def test_a_table_of_releases_that_is_none_is_named_and_not_overwritten(fleet, text):
    path = fleet.state_dir / "releases.json"
    path.write_text(text)
    for act in (artifact.releases, lambda fleet: artifact.want(fleet, {})):
        with pytest.raises(SalternError, match=r"releases\.json: not a table of releases"):
            act(fleet)
    assert path.read_text() == text


# --- the catalogue


def release(name: str) -> Artifact:
    return Artifact(name, "4" * 64, f"artifacts/{name}.tar.gz")


def test_what_runs_is_in_the_catalogue_and_so_is_what_is_kept_oldest_first(fleet):
    first = artifact.releases(fleet)["prod"]
    artifact.keep(fleet, release("rb"), branch="staging", commit="c0ffee", author="Jo <jo@example.org>")
    artifact.keep(fleet, release("ra"))
    known = artifact.known(fleet)
    assert list(known)[-2:] == ["rb", "ra"]
    assert first.id in known and artifact.releases(fleet)["agent"].id not in known
    kept = artifact.kept(fleet)["rb"]
    assert (kept.branch, kept.commit, kept.author) == ("staging", "c0ffee", "Jo <jo@example.org>")


def test_a_release_that_is_kept_again_is_the_newest_again(fleet):
    for name in ("ra", "rb", "ra"):
        artifact.keep(fleet, release(name), branch=name)
    assert list(artifact.known(fleet))[-2:] == ["rb", "ra"]


def test_what_ran_stays_in_the_catalogue_when_something_else_runs(fleet):
    for name in ("ra", "rb"):
        artifact.want(fleet, {"prod": release(name)})
    assert {"ra", "rb"} <= artifact.known(fleet).keys()


@pytest.mark.parametrize(
    ("ran", "before"),
    [
        (["r1"], None),
        (["r1", "r1"], None),
        (["r1", "r2"], "r1"),
        (["r1", "r2", "r3"], "r2"),
        (["r1", "r2", "r1"], "r2"),
        (["r1", "r2", "r2"], "r1"),
    ],
)
def test_what_a_pool_ran_before_is_the_last_other_release(fleet, ran, before):
    (fleet.state_dir / "releases.json").unlink()
    (fleet.state_dir / "catalogue.json").unlink()
    for name in ran:
        artifact.want(fleet, {"prod": release(name)})
    assert artifact.before(fleet, "prod") == before
    assert artifact.before(fleet, "canary") is None


def test_machines_get_releases_of_their_own_and_give_them_up_in_one_step_with_the_pool(fleet):
    artifact.want(fleet, {"prod1": release("ra"), "prod2": release("ra")})
    assert artifact.releases(fleet)["prod1"].id == "ra"
    artifact.want(fleet, {"prod": release("ra")}, drop=["prod1", "prod2", "prod9"])
    left = artifact.releases(fleet)
    assert left["prod"].id == "ra" and not {"prod1", "prod2"} & left.keys()


@pytest.mark.parametrize(
    "text", ["", "[]", '{"kept": {}}', '{"kept": {"r": {}}, "ran": {}}', '{"kept": 1, "ran": 2}']
)
def test_a_catalogue_that_is_none_is_named_and_nothing_is_overwritten(fleet, text):
    path = fleet.state_dir / "catalogue.json"
    path.write_text(text)
    before = (fleet.state_dir / "releases.json").read_text()
    for act in (
        artifact.known,
        lambda fleet: artifact.keep(fleet, release("ra")),
        lambda fleet: artifact.want(fleet, {"prod": release("ra")}),
    ):
        with pytest.raises(SalternError, match=r"catalogue\.json: not a catalogue of releases"):
            act(fleet)
    assert path.read_text() == text
    assert (fleet.state_dir / "releases.json").read_text() == before


def kept(*names: str, pinned: str = "") -> dict[str, artifact.Kept]:
    return {
        n: artifact.Kept(Artifact(n, "0", f"artifacts/{n}.tar.gz"), 1.0, pinned=n == pinned) for n in names
    }


@pytest.mark.parametrize(
    ("pinned", "ran", "wanted", "last", "stay"),
    [
        ("", {"prod": ["r1", "r2", "r3"]}, ["r3"], 2, {"r2", "r3"}),
        ("", {"prod": ["r1", "r2", "r1", "r2"]}, ["r2"], 2, {"r1", "r2"}),
        ("", {"prod": ["r1", "r2"], "canary": ["r3", "r4"]}, ["r2", "r4"], 1, {"r2", "r4"}),
        ("r1", {"prod": ["r1", "r2", "r3"]}, ["r3"], 1, {"r1", "r3"}),
        ("", {"prod": ["r1", "r2", "r3"]}, ["r3", "r1"], 1, {"r1", "r3"}),
        ("", {}, [], 5, set()),
    ],
)
def test_disks_keep_the_last_few_that_ran_what_shall_run_and_what_is_pinned(pinned, ran, wanted, last, stay):
    assert artifact.staying(kept("r1", "r2", "r3", "r4", pinned=pinned), ran, wanted, last) == stay


@pytest.mark.parametrize(
    ("pinned", "ran", "wanted", "last", "newest", "gone"),
    [
        ("", {}, [], 1, 4, []),
        ("", {}, [], 1, 2, ["r1", "r2"]),
        ("r1", {}, [], 1, 2, ["r2"]),
        ("", {"prod": ["r1", "r2"]}, ["r2"], 1, 1, ["r1", "r3"]),
        ("", {"prod": ["r1", "r2"]}, ["r2"], 2, 1, ["r3"]),
        ("", {"prod": ["r2"]}, ["r2", "r1"], 1, 2, []),
    ],
)
def test_what_is_old_runs_nowhere_and_did_not_run_lately_is_forgotten(
    pinned, ran, wanted, last, newest, gone
):
    found = artifact.collectable(kept("r1", "r2", "r3", "r4", pinned=pinned), ran, wanted, last, newest)
    assert found == gone


def test_old_releases_leave_the_hosts_disk_but_not_one_that_is_asked_for(fleet):
    for name in ("r1", "r2", "r3", "r4"):
        artifact.store(fleet, release(name), b"x")
        artifact.keep(fleet, release(name))
    artifact.want(fleet, {"prod": release("r3")})
    # The fixture's own release is the oldest.
    assert artifact.collect(fleet, 1, 1, ["r1", ""])[-1:] == ["r2"]
    # What the canary has had from the beginning is there too.
    assert [*artifact.known(fleet)][-3:] == ["r1", "r3", "r4"]
    assert sorted(path.name for path in fleet.files.rglob("*.tar.gz")) == [
        "r1.tar.gz",
        "r3.tar.gz",
        "r4.tar.gz",
    ]
    assert artifact.collect(fleet, 1, 1, ["r1"]) == []


def test_a_release_that_is_forgotten_is_in_no_table_and_on_no_disk_of_the_host(fleet):
    for name in ("r1", "r2", "r1"):
        artifact.want(fleet, {"prod": release(name)})
    there = fleet.files / release("r2").file
    there.parent.mkdir(parents=True, exist_ok=True)
    there.write_bytes(b"r2")
    artifact.forget(fleet, "r2")
    assert "r2" not in artifact.known(fleet) and not there.exists()
    # As if it had never been: going back leads to what ran before it.
    assert json.loads((fleet.state_dir / "catalogue.json").read_text())["ran"]["prod"][-1:] == ["r1"]
    assert artifact.before(fleet, "prod") != "r2"
    artifact.forget(fleet, "r2")


def test_a_release_that_something_is_to_run_is_not_forgotten(fleet):
    artifact.want(fleet, {"prod": release("r1"), "prod3": release("r2")})
    for name, user in (("r1", "prod"), ("r2", "prod3")):
        with pytest.raises(SalternError, match=rf"release {name}: {user} is to run it"):
            artifact.forget(fleet, name)
        assert name in artifact.known(fleet)
