"""What the pipeline knows of its builds, as plain files: whole or not at all, and read by anybody who may look.

::

    queue/<id>.json         asked for by a push, not yet taken by the worker
    builds/<id>/build.json  a build
    builds/<id>/log         what it said, a line each
    builds/<id>/*.xml|json  the reports of its tests
    artifacts/<release>.tar.gz
    outbox/<id>.json        what the master has not confirmed; the beacon `build` reads it
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from saltern.fleet import write_atomically

ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{7}(-[0-9]{1,3})?\Z")
UNFINISHED = ("queued", "running")
FINISHED = ("passed", "failed", "cancelled")
LONGEST_LOG = 4 * 1024 * 1024
"""Bytes of a build's log that are kept; a test that prints without end fills no disk."""


@dataclass(frozen=True)
class Build:
    """One build.

    :ivar ref: such as refs/heads/staging; :ivar author: the commit's author, as a mail address has it
    :ivar pusher: whose key it was pushed with
    :ivar state: queued, running, passed, failed or cancelled
    :ivar stage: where it is, or where it ended; :ivar why: why it did not pass, one line
    :ivar created: unix seconds, likewise :ivar began: and :ivar ended:
    :ivar attempts: how often it was begun with; a build whose worker died is run again
    :ivar target: where it goes when it passes: prod, canary or nowhere
    :ivar stages: what is done, in order: name, seconds, words
    :ivar mail: "", due or sent
    :ivar serving: what is known of where it runs: "", waiting, serving, or why it does not
    """

    id: str
    ref: str
    commit: str
    author: str = ""
    pusher: str = ""
    subject: str = ""
    created: float = 0.0
    state: str = "queued"
    stage: str = ""
    why: str = ""
    began: float = 0.0
    ended: float = 0.0
    attempts: int = 0
    target: str = ""
    release: str = ""
    sha256: str = ""
    size: int = 0
    platform: str = ""
    coverage: float | None = None
    tests: Mapping[str, int] = field(default_factory=dict)
    findings: int | None = None
    stages: tuple[Mapping[str, Any], ...] = ()
    mail: str = ""
    serving: str = ""

    @property
    def name(self) -> str:
        """The branch or tag, as a person says it."""
        return self.ref.removeprefix("refs/heads/").removeprefix("refs/tags/")

    @property
    def finished(self) -> bool:
        return self.state in FINISHED

    @property
    def followed(self) -> bool:
        """Whether nothing more will be said of it."""
        return self.finished and self.serving != "waiting"


def build_from(values: Mapping[str, Any]) -> Build:
    """The build that plain data describes.

    :raises ValueError: it describes none
    """
    try:
        made = Build(**{**values, "stages": tuple(values.get("stages", ()))})
    except TypeError as error:
        raise ValueError(f"not a build: {error}") from error
    if not isinstance(made.id, str) or not ID.match(made.id):
        raise ValueError(f"not a build: its id is {made.id!r}")
    return made


def new_id(now: float, commit: str, taken: Iterable[str]) -> str:
    """The id of a build asked for now, which nobody else has.

    :param now: unix seconds
    """
    first = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}-{commit[:7]}"
    taken = set(taken)
    return next(i for i in (first, *(f"{first}-{n}" for n in range(2, 1000))) if i not in taken)


class Records:
    """The folder they are kept in."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.queue, self.builds = home / "queue", home / "builds"
        self.artifacts, self.outbox = home / "artifacts", home / "outbox"

    def prepare(self) -> None:
        """Make what is missing; the queue is writable by whom its own permissions say."""
        for folder in (self.queue, self.builds, self.artifacts, self.outbox):
            folder.mkdir(exist_ok=True)

    # -- asked for

    def ask(self, build: Build) -> Build:
        """Put a build into the queue, under an id that is free; it outlives whoever asked.

        :raises OSError: it cannot be written, such as when the disk is full
        """
        text = json.dumps(asdict(build))
        half = self.queue / f".{os.getpid()}.half"
        try:
            while True:
                taken = {path.stem for path in self.queue.glob("*.json")}
                taken |= {path.name for path in self.builds.iterdir()}
                made = replace(build, id=new_id(build.created, build.commit, taken))
                half.write_text(json.dumps({**json.loads(text), "id": made.id}))
                half.chmod(0o644)
                try:
                    os.link(half, self.queue / f"{made.id}.json")  # never over another one's
                except FileExistsError:
                    continue
                return made
        finally:
            half.unlink(missing_ok=True)

    def asked(self) -> list[tuple[Path, Build | None]]:
        """What was asked for and is not taken, oldest first; None for what cannot be read."""
        found: list[tuple[Path, Build | None]] = []
        for path in sorted(self.queue.glob("*.json")):
            try:
                made = build_from(json.loads(path.read_text()))
                found.append((path, made if made.id == path.stem else None))
            except (OSError, ValueError):
                found.append((path, None))
        return found

    # -- builds

    def folder(self, id_: str) -> Path:
        return self.builds / id_

    def log(self, id_: str) -> Path:
        return self.folder(id_) / "log"

    def save(self, build: Build) -> Build:
        write_atomically(self.folder(build.id) / "build.json", json.dumps(asdict(build), indent=1) + "\n")
        return build

    def load(self, id_: str) -> Build | None:
        """A build; None when there is none by this id, or it is still in the queue."""
        if not ID.match(id_):
            return None
        try:
            return build_from(json.loads((self.folder(id_) / "build.json").read_text()))
        except (FileNotFoundError, ValueError):
            return None

    def all(self) -> list[Build]:
        """Every build, oldest first."""
        ids = sorted(path.name for path in self.builds.iterdir() if ID.match(path.name))
        return sorted(filter(None, map(self.load, ids)), key=lambda build: (build.created, build.id))

    def say(self, id_: str, text: str) -> None:
        """Append to a build's log, as long as that is not too long."""
        path = self.log(id_)
        with path.open("a", encoding="utf-8", errors="replace") as log:
            if log.tell() < LONGEST_LOG:
                log.write(text)


def superseded(builds: Iterable[Build], newer: Build) -> list[Build]:
    """Unfinished builds that a newer push to the same branch makes pointless."""
    return [
        each
        for each in builds
        if each.ref == newer.ref
        and each.id != newer.id
        and each.state in UNFINISHED
        and (each.created, each.id) < (newer.created, newer.id)
    ]


def collectable(builds: Iterable[Build], running: Iterable[str], keep: int) -> set[str]:
    """Releases whose artifacts may go: beyond the last `keep` of those that passed, and neither tagged nor running.

    :param running: releases that serve somewhere, or shall
    """
    passed = sorted((b for b in builds if b.release), key=lambda b: (b.created, b.id), reverse=True)
    last = list(dict.fromkeys(b.release for b in passed))
    pinned = {b.release for b in passed if b.ref.startswith("refs/tags/")} | set(running)
    return {release for release in last[keep:] if release not in pinned}


def forgettable(builds: Iterable[Build], keep: int) -> list[Build]:
    """Finished builds beyond the last `keep`, whose records may go; tags stay."""
    old = sorted(builds, key=lambda b: (b.created, b.id), reverse=True)[keep:]
    return [b for b in old if b.followed and b.mail != "due" and not b.ref.startswith("refs/tags/")]


ERROR_LINE = re.compile(r"(^E\s)|error|FAILED|failed|Traceback|Error:|no such|not found", re.IGNORECASE)


def failing_part(log: str, lines: int = 40) -> str:
    """The part of a log that says why: the end of the last stage, from its first complaint on.

    Stages begin with a line ``== name``.
    """
    all_lines = log.splitlines()
    starts = [at for at, line in enumerate(all_lines) if line.startswith("== ")]
    stage = all_lines[starts[-1] :] if starts else all_lines
    if len(stage) <= lines:
        return "\n".join(stage)
    first = next((at for at, line in enumerate(stage) if at and ERROR_LINE.search(line)), len(stage))
    # The end always: that is where programs sum up.
    tail = stage[-(lines // 2) :]
    head = stage[first : min(first + lines - len(tail), len(stage) - len(tail))]
    return "\n".join([stage[0], *(["..."] if first > 1 else []), *head, *(["..."] if head else []), *tail])
