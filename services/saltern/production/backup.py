"""A master's keys and state in one file, and back.

A gzipped tar whose first member, `manifest.json`, has the SHA-256 of every other: a file that was cut short or changed
is refused before anything is touched. It holds the master's private key, the accepted keys of the minions, the fleet's
secrets and inventory, release artifacts, and the code that was in use: what nothing else could bring back. It is as
secret as the master itself.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import sys
import tarfile
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from saltern.errors import SalternError
from saltern.fleet import Fleet
from saltern.production import releases

FORMAT = 1
RELEASE = re.compile(r"v[0-9a-f]{1,64}")  # a folder's name; any other could lead elsewhere
MANIFEST = "manifest.json"
STATE, CODE = "state", "code"
# Made anew, or of this moment: nothing of it is worth keeping.
PASSING = ("run", "log", "cache", "etc", "locks", "restart-due")
# Of a machine, what is known about it; a local one's disk is no part of the master.
OF_A_MACHINE = ("machine.json", "order.json")
NAME = re.compile(r"saltern-[a-z0-9]+-[0-9]{8}T[0-9]{6}Z\.tar\.gz")


@dataclass(frozen=True)
class Manifest:
    """:ivar fleet: its name; :ivar release: the code's; :ivar made: UTC; :ivar files: member → (SHA-256, mode)"""

    fleet: str
    release: str
    made: str
    files: Mapping[str, tuple[str, int]]

    def to_json(self) -> str:
        values = {
            "format": FORMAT,
            "fleet": self.fleet,
            "release": self.release,
            "made": self.made,
            "files": self.files,
        }
        return json.dumps(values, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """:raises ValueError: it is none, or of a later format"""
        values = json.loads(text)
        if values["format"] != FORMAT:
            raise ValueError(
                f"format {values['format']!r} is not {FORMAT}: restore it with the version that made it"
            )
        if not RELEASE.fullmatch(values["release"]):
            raise ValueError(f"release {values['release']!r} is none")
        files = {str(name): (str(digest), int(mode)) for name, (digest, mode) in values["files"].items()}
        return cls(str(values["fleet"]), str(values["release"]), str(values["made"]), files)


def worth_keeping(relative: PurePosixPath) -> bool:
    """Whether a file of the fleet's folder goes into a backup.

    >>> worth_keeping(PurePosixPath("pki/master/master.pem")), worth_keeping(PurePosixPath("cache/x"))
    (True, False)
    """
    parts = relative.parts
    if parts[0] in PASSING or parts[-1].startswith("."):
        return False
    return parts[0] != "machines" or (len(parts) == 3 and parts[2] in OF_A_MACHINE)


def state_files(fleet: Fleet) -> Iterator[tuple[str, Path]]:
    """Every file of the fleet's folder that is worth keeping, with the name that it has in a backup."""
    for folder, names, found in os.walk(fleet.state_dir):
        here = Path(folder).relative_to(fleet.state_dir)
        if here == Path():
            names[:] = [name for name in names if name not in PASSING]
        elif here.parts[0] == "machines" and len(here.parts) == 2:
            names.clear()  # no look at what is not taken: a local machine's disk is large
        for name in sorted(found):
            path = Path(folder) / name
            relative = PurePosixPath((here / name).as_posix())
            if worth_keeping(relative) and path.is_file() and not path.is_symlink():
                yield f"{STATE}/{relative}", path
        names.sort()


def write(fleet: Fleet, code: Path, target: str, *, keep: int = 0) -> Path | None:
    """Write a backup.

    :param code: the release in use
    :param target: a file; a folder, in which it gets a name of its own; or `-` for standard output
    :param keep: how many backups of the fleet a folder may hold; the oldest beyond that are removed. 0 keeps all
    :returns: where it is
    :raises SalternError: it cannot be written
    """
    made = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    # Read once: what changes meanwhile is in here as it was, and fits its sum.
    contents: dict[str, tuple[bytes, int]] = {}
    for name, path in [
        *state_files(fleet),
        *((f"{CODE}/{name}", code / name) for name in releases.contents(code)),
    ]:
        try:
            if path.is_symlink():
                contents[name] = (f"{path.readlink()}".encode(), 0)  # mode 0: a link
            else:
                contents[name] = (path.read_bytes(), path.stat().st_mode & 0o777)
        except FileNotFoundError:
            continue  # gone while we looked: it was not there
    files = {name: (hashlib.sha256(data).hexdigest(), mode) for name, (data, mode) in contents.items()}
    manifest = Manifest(fleet.name, code.name, made, files)
    members = {MANIFEST: (manifest.to_json().encode(), 0o600), **contents}
    if target == "-":
        _pack(sys.stdout.buffer, members)
        return None
    path = Path(target)
    if path.is_dir():
        path = path / f"saltern-{fleet.name}-{made}.tar.gz"
    half = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:  # noqa: PTH123
            _pack(out, members)
            out.flush()
            os.fsync(out.fileno())
        half.replace(path)
    except OSError as error:
        half.unlink(missing_ok=True)
        raise SalternError(
            f"{path}: cannot be written ({error.strerror}); say a file or folder that can"
        ) from error
    if keep and Path(target).is_dir():
        ours = sorted(p for p in path.parent.glob(f"saltern-{fleet.name}-*.tar.gz") if NAME.fullmatch(p.name))
        for old in ours[:-keep]:
            old.unlink()
    return path


def _pack(out: io.BufferedIOBase, members: Mapping[str, tuple[bytes, int]]) -> None:
    with tarfile.open(fileobj=out, mode="w|gz") as tar:
        for name, (data, mode) in members.items():
            about = tarfile.TarInfo(name)
            about.size, about.mode, about.mtime = len(data), mode or 0o644, int(time.time())
            tar.addfile(about, io.BytesIO(data))


def read(source: str) -> tuple[Manifest, dict[str, bytes]]:
    """A backup, whole and checked.

    :param source: a file, or `-` for standard input
    :raises SalternError: it is none, or is not as it was written
    """
    try:
        with sys.stdin.buffer if source == "-" else open(source, "rb") as stream:  # noqa: PTH123
            found = {about.name: data for about, data in _unpack(gzip.decompress(stream.read()))}
    except FileNotFoundError as error:
        raise SalternError(f"{source}: no such file; say a backup that `saltern backup` made") from error
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise SalternError(f"{source}: not a whole backup ({error}); take another") from error
    try:
        manifest = Manifest.from_json(found.pop(MANIFEST).decode())
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SalternError(
            f"{source}: not a backup of a master ({error}); `saltern backup` makes them"
        ) from error
    damaged = _damaged(manifest, found)
    if damaged:
        raise SalternError(f"{source}: {damaged[0]} is missing, changed or strange; take another backup")
    return manifest, found


def _unpack(data: bytes) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    # Unpacked as a whole before: only that compares the sum at gzip's end.
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        for about in tar:
            inner = tar.extractfile(about) if about.isreg() else None
            yield about, inner.read() if inner else b""


def _damaged(manifest: Manifest, found: Mapping[str, bytes]) -> list[str]:
    """What is not as the manifest says, or whose name could lead elsewhere."""

    def right(name: str) -> bool:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or path.parts[:1] not in ((STATE,), (CODE,)):
            return False
        data = found.get(name)
        return data is not None and hashlib.sha256(data).hexdigest() == manifest.files[name][0]

    strange = [name for name in found if name not in manifest.files]
    return sorted(strange + [name for name in manifest.files if not right(name)])


def lay_state(manifest: Manifest, found: Mapping[str, bytes], state_dir: Path) -> None:
    """Put a backup's state where it was. Nothing is there by then: what there was is moved aside by the caller."""
    state_dir.mkdir(parents=True, mode=0o750)
    _lay(manifest, found, STATE, state_dir)


def lay_code(manifest: Manifest, found: Mapping[str, bytes], folder: Path) -> Path:
    """Put a backup's code among the releases, unless it is there; where it is."""
    target = folder / manifest.release
    if not target.exists():
        half = folder / f".half.{manifest.release}"
        _lay(manifest, found, CODE, half)
        half.chmod(0o755)
        half.rename(target)
    return target


def _lay(manifest: Manifest, found: Mapping[str, bytes], part: str, folder: Path) -> None:
    for name in _of(part, manifest.files):
        mode = manifest.files[name][1]
        path = folder / PurePosixPath(name).relative_to(part)
        path.parent.mkdir(parents=True, exist_ok=True)
        if mode == 0:
            path.symlink_to(found[name].decode())
        else:
            path.touch(mode=0o600)
            path.write_bytes(found[name])
            path.chmod(mode)


def _of(part: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if PurePosixPath(name).parts[0] == part]
