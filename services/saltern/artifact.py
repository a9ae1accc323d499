"""Artifacts: one immutable, self-contained, content-addressed file that installs with no network.

An artifact is a tar.gz of a folder that Python can import from as it stands: the code and every dependency at its
locked version. The id is the hash of the content; the same source makes the same bytes.

Two files in the fleet's state folder say what there is: ``releases.json`` what runs where by the fleet's wish, and
``catalogue.json`` every release that was kept, the oldest first, and what each pool ran, the last one last.

Where every dependency is pure Python the artifact runs anywhere. One with native code runs on the Python it was built
with: this host's own, which is that of the machines too, because their image is made of the host's release. The
artifact says which Python that is, and a machine with another one refuses it before anything is switched.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from saltern.errors import SalternError
from saltern.fleet import Fleet, home, write_atomically
from saltern.local.image import WHEELHOUSE
from saltern.shell import run

# The last file in the archive: a folder that has it was unpacked whole.
MARKER = "RELEASE"
POOLS = ("prod", "canary")
# How many of the releases that a pool ran are remembered, of each change one.
RAN_LENGTH = 50
# The `platform` of an artifact without native code.
ANY = "any"
# How Python names its kind of extension module, such as cpython-311-x86_64-linux-gnu.
SOABI = sysconfig.get_config_var("SOABI")
# The endings of extension modules that say what they are for: this Python, or every Python 3 from some version on.
NATIVE = (f".{SOABI}.so", ".abi3.so")


@dataclass(frozen=True)
class Artifact:
    """One artifact.

    :ivar id: what names it everywhere
    :ivar sha256: of the file, hex
    :ivar file: where it is below the file server's root
    :ivar platform: the Python its native code is for, by its SOABI; "any" when it has none
    """

    id: str
    sha256: str
    file: str
    platform: str = ANY


def build(fleet: Fleet, packages: Sequence[Path], requirements: Path, prefix: str) -> Artifact:
    """Make the artifact of some packages with their locked requirements, unless the fleet has it.

    The arguments and errors are those of `make`; the wheels are the fleets' own.
    """
    with tempfile.TemporaryDirectory() as folder:
        artifact, content = make(
            packages, requirements, prefix, site=Path(folder) / "site", wheels=[home() / WHEELHOUSE]
        )
    return store(fleet, artifact, content)


def make(
    packages: Sequence[Path], requirements: Path | None, prefix: str, *, site: Path, wheels: Sequence[Path]
) -> tuple[Artifact, bytes]:
    """Make the artifact of some packages with their locked requirements: what it is, and its bytes.

    :param packages: the folders that are imported, such as services/product/product
    :param requirements: what they require, hash-locked; None: nothing
    :param prefix: a lower-case letter that starts the id: what kind of thing it is
    :param site: a folder that gets the requirements
    :param wheels: folders that have their wheels
    :raises SalternError: a requirement has no wheel, or has native code that does not say for which Python it is
    """
    for package in packages:
        if not (package / "__init__.py").exists():
            raise SalternError(f"{package}: not a Python package; it has no __init__.py")
    site.mkdir(exist_ok=True)
    platform = ANY
    if requirements is not None:
        install(requirements, site, wheels)
        platform = _platform(site, requirements)
    content = _pack(site, packages)
    return described(content, prefix, platform), content


def install(requirements: Path, site: Path, wheels: Sequence[Path]) -> None:
    """Put what is locked into a folder that Python can import from, from wheels alone: no code of theirs runs.

    :raises SalternError: there is no wheel with the hash that is locked
    """
    run([
        sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-compile", "--no-index",
        "--only-binary", ":all:", "--require-hashes", *(f"--find-links={folder}" for folder in wheels),
        "--target", str(site), "-r", str(requirements),
    ])  # fmt: skip


def described(content: bytes, prefix: str, platform: str) -> Artifact:
    """What an artifact with this content is called, and where it belongs."""
    digest = hashlib.sha256(content).hexdigest()
    name = f"{prefix}{digest[:12]}"
    return Artifact(name, digest, f"artifacts/{name}.tar.gz", platform)


def store(fleet: Fleet, artifact: Artifact, content: bytes) -> Artifact:
    """Put an artifact where the fleet's file server has it, unless it is there."""
    target = fleet.files / artifact.file
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        half = target.with_name(f".{target.name}.{os.getpid()}")
        half.write_bytes(content)
        half.replace(target)
    return artifact


def archive(files: Mapping[str, bytes], *, level: int = 9) -> bytes:
    """A tar.gz of files by name that depends on nothing but their content; its last file is the marker.

    :param level: how hard gzip tries, 0 (not at all, for what is compressed already) to 9
    """
    raw = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="", compresslevel=level) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as made,
    ):
        for name in sorted(files):
            _add(made, name, files[name])
        _add(made, MARKER, b"")
    return raw.getvalue()


def _platform(site: Path, requirements: Path) -> str:
    """The Python that what pip installed is for.

    :raises SalternError: a library that is no extension module: nobody could say where it runs
    """
    native = sorted(path.name for path in site.rglob("*") if ".so" in path.suffixes)
    for name in native:
        if not name.endswith(NATIVE):
            raise SalternError(
                f"{requirements}: {name} is native code that does not say for which Python it is; "
                f"an artifact takes pure Python and extension modules named *{NATIVE[0]} or *{NATIVE[1]}"
            )
    return SOABI if native else ANY


def _pack(site: Path, packages: Sequence[Path]) -> bytes:
    """A tar.gz of all folders that depends on nothing but their content."""
    files = {
        path.relative_to(site).as_posix(): path
        for path in site.rglob("*")
        if path.is_file()
        and path.relative_to(site).parts[0] != "bin"
        and path.suffix != ".pyc"
        # pip records here when and where from it installed
        and path.name not in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
    }
    for package in packages:
        for path in package.rglob("*"):
            within = path.relative_to(package)
            if path.is_file() and "__pycache__" not in path.parts and "tests" not in within.parts:
                files[f"{package.name}/{within.as_posix()}"] = path
    return archive({name: path.read_bytes() for name, path in files.items()})


def _add(made: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    made.addfile(entry, io.BytesIO(content))


def releases(fleet: Fleet) -> dict[str, Artifact]:
    """What runs where by the fleet's wish: `agent`, one release for each pool, and for a machine that is to run another
    one than its pool, that one by the machine's id.

    :raises SalternError: the file is there but cannot be read
    """
    path = fleet.state_dir / "releases.json"
    try:
        return {name: Artifact(**values) for name, values in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise SalternError(
            f"{path}: not a table of releases ({error}); `./saltern up` makes it anew"
        ) from error


def want(fleet: Fleet, changes: Mapping[str, Artifact], *, drop: Iterable[str] = ()) -> None:
    """Write down what shall run where, in one step; the machines follow at their next highstate.

    :param changes: by `agent`, pool or machine
    :param drop: machines that shall run what their pool runs
    """
    with fleet.locked("releases"):
        gone = set(drop)
        table = {name: a for name, a in releases(fleet).items() if name not in gone} | dict(changes)
        book = _catalogue(fleet)
        text = json.dumps({name: asdict(a) for name, a in sorted(table.items())}, indent=1)
        write_atomically(fleet.state_dir / "releases.json", text + "\n")
        now = round(time.time(), 3)
        for pool in (name for name in POOLS if name in changes):
            release = changes[pool]
            if release.id not in book.kept:
                book.kept[release.id] = Kept(release, now)
            ran = book.ran.setdefault(pool, [])
            if ran[-1:] != [release.id]:
                book.ran[pool] = [*ran, release.id][-RAN_LENGTH:]
        _write(fleet, book)


@dataclass(frozen=True)
class Kept:
    """A release in the catalogue.

    :ivar at: when it was kept, unix seconds
    :ivar branch: where it comes from; :ivar commit: of the product's repository; :ivar author: whose change it is
    :ivar pinned: it is kept for good, such as what a tag names
    """

    artifact: Artifact
    at: float
    branch: str = ""
    commit: str = ""
    author: str = ""
    pinned: bool = False


@dataclass
class _Catalogue:
    """What ``catalogue.json`` holds, the oldest first."""

    kept: dict[str, Kept]
    ran: dict[str, list[str]]


def _catalogue(fleet: Fleet) -> _Catalogue:
    path = fleet.state_dir / "catalogue.json"
    try:
        table = json.loads(path.read_text())
        kept = {
            id_: Kept(**{**values, "artifact": Artifact(**values["artifact"])})
            for id_, values in table["kept"].items()
        }
        return _Catalogue(kept, {pool: [str(id_) for id_ in ran] for pool, ran in table["ran"].items()})
    except FileNotFoundError:
        return _Catalogue({}, {})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SalternError(
            f"{path}: not a catalogue of releases ({error!r}); without this file it starts afresh"
        ) from error


def _write(fleet: Fleet, book: _Catalogue) -> None:
    table = {"kept": {id_: asdict(kept) for id_, kept in book.kept.items()}, "ran": book.ran}
    write_atomically(fleet.state_dir / "catalogue.json", json.dumps(table, indent=1) + "\n")


def keep(
    fleet: Fleet,
    artifact: Artifact,
    *,
    branch: str = "",
    commit: str = "",
    author: str = "",
    pinned: bool = False,
) -> None:
    """Put a release into the catalogue, as its newest; one that was in it is so again, with what is said of it now."""
    with fleet.locked("releases"):
        book = _catalogue(fleet)
        before = book.kept.pop(artifact.id, None)
        stays = pinned or (before is not None and before.pinned)
        book.kept[artifact.id] = Kept(artifact, round(time.time(), 3), branch, commit, author, stays)
        _write(fleet, book)


def forget(fleet: Fleet, release: str) -> None:
    """Strike a release from the catalogue, and from what pools ran before, and remove its bytes from this host.

    :raises SalternError: something is to run it
    """
    with fleet.locked("releases"):
        if users := [name for name, a in releases(fleet).items() if a.id == release]:
            raise SalternError(f"release {release}: {', '.join(users)} is to run it; it cannot be forgotten")
        book = _catalogue(fleet)
        gone = book.kept.pop(release, None)
        for pool, ran in book.ran.items():
            left = [id_ for id_ in ran if id_ != release]
            book.ran[pool] = [id_ for at, id_ in enumerate(left) if left[at - 1 : at] != [id_]]
        _write(fleet, book)
        if gone is not None:
            (fleet.files / gone.artifact.file).unlink(missing_ok=True)


def kept(fleet: Fleet) -> dict[str, Kept]:
    """Every release there is, the oldest first: those that were kept and those that run somewhere.

    :raises SalternError: a file cannot be read
    """
    found = dict(_catalogue(fleet).kept)
    running = [a for name, a in releases(fleet).items() if name != "agent" and a.id not in found]
    return {a.id: Kept(a, 0.0) for a in running} | found


def known(fleet: Fleet) -> dict[str, Artifact]:
    """Every release there is, by id, the oldest first.

    :raises SalternError: a file cannot be read
    """
    return {id_: each.artifact for id_, each in kept(fleet).items()}


def staying(
    kept: Mapping[str, Kept], ran: Mapping[str, Sequence[str]], wanted: Iterable[str], last: int
) -> set[str]:
    """The releases that machines keep on their disks: what runs somewhere or shall, what is pinned, and the last few.

    :param ran: what each pool ran, the last one last; :param last: how many different ones of each pool stay
    """
    recent = {id_ for each in ran.values() for id_ in [*dict.fromkeys(reversed(each))][:last]}
    return recent | {*wanted} | {id_ for id_, each in kept.items() if each.pinned}


def on_disks(fleet: Fleet, last: int) -> set[str]:
    """What `staying` says of a fleet.

    :raises SalternError: a file cannot be read
    """
    wanted = [a.id for name, a in releases(fleet).items() if name != "agent"]
    book = _catalogue(fleet)
    return staying(book.kept, book.ran, wanted, last)


def collectable(
    kept: Mapping[str, Kept], ran: Mapping[str, Sequence[str]], wanted: Iterable[str], last: int, newest: int
) -> list[str]:
    """The releases that nobody is to go back to any more: all but the newest, and those that machines keep.

    :param newest: how many stay whether they ran or not; the others as `staying` has them
    """
    stay = staying(kept, ran, wanted, last) | {*[*kept][-newest:]}
    return [id_ for id_ in kept if id_ not in stay]


def collect(fleet: Fleet, newest: int, last: int, also: Iterable[str] = ()) -> list[str]:
    """Forget what is `collectable`; which it was.

    :param also: releases that are to stay besides, such as those that are asked for
    :raises SalternError: a file cannot be read
    """
    wanted = [a.id for name, a in releases(fleet).items() if name != "agent"]
    book = _catalogue(fleet)
    gone = collectable(book.kept, book.ran, [*wanted, *also], last, newest)
    for id_ in gone:
        forget(fleet, id_)
    return gone


def before(fleet: Fleet, pool: str) -> str | None:
    """The release that a pool ran before the one it runs by the fleet's wish; None when there was none.

    :raises SalternError: a file cannot be read
    """
    now = releases(fleet).get(pool)
    ran = [id_ for id_ in _catalogue(fleet).ran.get(pool, ()) if now is None or id_ != now.id]
    return ran[-1] if ran else None
