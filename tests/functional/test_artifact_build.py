"""Artifacts built by pip from wheels alone, with no network."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from saltern import artifact, up
from saltern.errors import SalternError

# Imports a module out of an artifact alone, and has flagd-core bucket somebody, for which it needs its native code.
EVALUATE = """
import importlib, sys
sys.path.insert(0, sys.argv[1])
importlib.import_module(sys.argv[2])
from openfeature.evaluation_context import EvaluationContext
from openfeature.contrib.tools.flagd.core import FlagdCore
core = FlagdCore()
core.set_flags({"flags": {"f": {"state": "ENABLED", "variants": {"a": "on"}, "defaultVariant": "a",
                                "targeting": {"fractional": [["a", 1]]}}}})
print(core.resolve_string_value("f", "off", EvaluationContext("somebody")).value)
"""


def make_wheel(folder: Path, name: str, files: dict[str, str], tag: str = "py3-none-any") -> str:
    """Write a wheel by hand; the line that requires it with its hash."""
    info = f"{name}-1.0.dist-info"
    content = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    content[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*content, f"{info}/RECORD"])
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path, text in content.items():
            archive.writestr(path, text)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}-1.0-{tag}.whl").write_bytes(packed.getvalue())
    return f"{name}==1.0 --hash=sha256:{hashlib.sha256(packed.getvalue()).hexdigest()}\n"


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A package with a requirement whose wheel is in the wheelhouse: what `build` takes."""
    monkeypatch.setenv("SALTERN_HOME", str(tmp_path))
    package = tmp_path / "source" / "thing"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import lib\n\nanswer = lib.answer\n")
    line = make_wheel(tmp_path / "wheels", "lib", {"lib/__init__.py": "answer = 42\n"})
    (tmp_path / "requirements.txt").write_text(line)
    return [package], tmp_path / "requirements.txt"


def test_an_artifact_is_named_by_its_content_and_runs_as_it_stands(fleet, source, tmp_path):
    made = artifact.build(fleet, *source, "r")
    content = (fleet.files / made.file).read_bytes()
    assert made.sha256 == hashlib.sha256(content).hexdigest()
    assert made.id == f"r{made.sha256[:12]}"
    assert made.file == f"artifacts/{made.id}.tar.gz"
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        assert archive.getnames()[-1] == "RELEASE"
        archive.extractall(tmp_path / "run")
    done = subprocess.run(
        [sys.executable, "-I", "-c", "import sys; sys.path.insert(0, sys.argv[1]); import thing; print(thing.answer)",
         str(tmp_path / "run")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "42\n", done.stderr
    assert artifact.build(fleet, *source, "r") == made
    assert [path.name for path in (fleet.files / "artifacts").iterdir()] == [f"{made.id}.tar.gz"]


def test_several_packages_make_one_artifact(fleet, source, tmp_path):
    beside = tmp_path / "elsewhere" / "beside"
    beside.mkdir(parents=True)
    (beside / "__init__.py").write_text("")
    packages, requirements = source
    made = artifact.build(fleet, [*packages, beside], requirements, "r")
    with tarfile.open(fleet.files / made.file) as archive:
        assert {"beside/__init__.py", "thing/__init__.py", "lib/__init__.py"} < set(archive.getnames())
    assert made.id != artifact.build(fleet, packages, requirements, "r").id


def need(source, tmp_path, files: dict[str, str]) -> None:
    """Give the source one more requirement."""
    with source[1].open("a") as requirements:
        requirements.write(make_wheel(tmp_path / "wheels", "fast", files))


@pytest.mark.parametrize(
    ("files", "platform"),
    [
        ({"fast/__init__.py": ""}, "any"),
        ({f"fast/core.{artifact.SOABI}.so": "\x7fELF"}, artifact.SOABI),
        ({"fast/core.abi3.so": "\x7fELF"}, artifact.SOABI),
    ],
)
def test_an_artifact_says_for_which_python_its_native_code_is(fleet, source, tmp_path, files, platform):
    need(source, tmp_path, files)
    made = artifact.build(fleet, *source, "r")
    assert made.platform == platform
    with tarfile.open(fleet.files / made.file) as archive:
        assert set(files) < set(archive.getnames())


@pytest.mark.parametrize("name", ["core.so", "core.cpython-27-vax.so", "libcore.so.1"])
def test_native_code_that_does_not_say_for_which_python_it_is_is_refused(fleet, source, tmp_path, name):
    need(source, tmp_path, {f"fast/{name}": "\x7fELF"})
    with pytest.raises(SalternError, match=rf"{name} is native code that does not say for which Python"):
        artifact.build(fleet, *source, "r")
    assert not (fleet.files / "artifacts").exists()


def test_the_product_and_the_agent_carry_the_flags_and_evaluate_with_nothing_else_installed(
    fleet, tmp_path, monkeypatch
):
    monkeypatch.setenv("SALTERN_HOME", os.environ.get("SALTERN_HOME", "/var/lib/saltern"))
    (fleet.state_dir / "releases.json").unlink()
    up.build_releases(fleet)
    made = artifact.releases(fleet)
    for name, module in {"agent": "saltern.flag_seed", "prod": "product.flags"}.items():
        with tarfile.open(fleet.files / made[name].file) as archive:
            archive.extractall(tmp_path / name)
        done = subprocess.run(
            ["/usr/bin/python3", "-I", "-c", EVALUATE, str(tmp_path / name), module],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.stdout == "on\n", done.stderr


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nowhere==1.0 --hash=sha256:" + "0" * 64, "No matching distribution found for nowhere==1.0"),
        ("lib==1.0 --hash=sha256:" + "0" * 64, "Got +[0-9a-f]{64}"),
        ("lib==1.0", "(?s)hash"),
    ],
)
def test_a_requirement_that_is_not_in_the_wheelhouse_as_it_was_locked_is_refused(fleet, source, line, words):
    source[1].write_text(f"{line}\n")
    with pytest.raises(SalternError, match=words) as refused:
        artifact.build(fleet, *source, "r")
    assert "\n" not in str(refused.value)
    assert not (fleet.files / "artifacts").exists()
