"""The code an installed master runs: each release whole in a folder named by its contents, one of them the current."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

# What of a checkout a master needs.
PARTS = (
    "README.md", "Saltfile", "beacons", "docs", "etc", "pillar", "pyproject.toml", "reactor", "requirements", "salt",
    "saltern", "services",
)  # fmt: skip
PASSED_OVER = ("__pycache__", ".ruff_cache", ".pytest_cache")
KEPT = 3


def contents(source: Path) -> Iterator[Path]:
    """Every file of a release, in an order that is always the same, relative to `source`."""
    for part in PARTS:
        top = source / part
        found = [top] if top.is_file() or top.is_symlink() else sorted(top.rglob("*"))
        for path in found:
            relative = path.relative_to(source)
            if not set(PASSED_OVER) & set(relative.parts) and (path.is_symlink() or path.is_file()):
                yield relative


def identity(source: Path) -> str:
    """The name of the release that `source` holds: a hash over every file's name, mode and content."""
    digest = hashlib.sha256()
    for relative in contents(source):
        path = source / relative
        kind = f"-> {path.readlink()}" if path.is_symlink() else f"{path.stat().st_mode & 0o111:o}"
        data = b"" if path.is_symlink() else path.read_bytes()
        digest.update(f"{relative}\0{kind}\0{len(data)}\0".encode() + data)
    return f"v{digest.hexdigest()[:12]}"


def lay(source: Path, releases: Path) -> Path:
    """Copy a release to its place, unless it is there; where it is. Readable by everybody: it holds no secret."""
    target = releases / identity(source)
    if target.exists():
        return target
    releases.mkdir(parents=True, exist_ok=True)
    half = releases / f".half.{target.name}"
    shutil.rmtree(half, ignore_errors=True)
    for relative in contents(source):
        path, copy = source / relative, half / relative
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            copy.symlink_to(path.readlink())
        else:
            shutil.copyfile(path, copy)
            copy.chmod(0o755 if path.stat().st_mode & 0o111 else 0o644)
    half.chmod(0o755)
    half.rename(target)
    return target


def link(path: Path, target: Path) -> bool:
    """Have a link point at `target` in one step; whether it did not."""
    if path.is_symlink() and path.readlink() == target:
        return False
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.replace(path)
    return True


def prune(releases: Path, current: Path, keep: int = KEPT) -> list[str]:
    """Remove all but the newest releases, and the virtual environments that no release uses; what was removed.

    :param current: the release in use, which stays whatever its age
    """
    found = sorted(
        (p for p in releases.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime, reverse=True
    )
    kept = {current, *[path for path in found if path != current][: keep - 1]}
    gone = [path for path in found if path not in kept]
    used = {(path / ".venv").readlink() for path in kept if (path / ".venv").is_symlink()}
    environments = {(path / ".venv").readlink() for path in gone if (path / ".venv").is_symlink()}
    gone += [path for path in sorted(environments - used) if path.is_dir()]
    for path in gone:
        shutil.rmtree(path)
    return [path.name for path in gone]
