"""Masters of one fleet know the same: what the leader keeps is brought to the others over ssh, whenever it changes.

That is what a backup holds of the fleet's folder: keys, secrets, inventory, releases. `share` runs on every master (the
unit `saltern-share`) and does something where that one leads; `take` runs on the other for each delivery. A delivery
carries the leader's lease: what comes from an earlier leader than the last is refused, so that a master that was away
is brought what it missed and overwrites nothing.
"""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import os
import pwd
import tarfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import redis

from saltern import leading, members
from saltern.errors import SalternError
from saltern.fleet import SERVICE_USER, Fleet
from saltern.joining import Host
from saltern.production import backup

log = logging.getLogger("saltern.sharing")

FORMAT = 1
MANIFEST = "manifest.json"
LOOK_SECONDS = 2.0
DELIVERY_SECONDS = 120.0
TAKEN = "taken.json"
"""In the fleet's folder: the lease of the newest delivery."""
TOLD = "run/shared.json"
"""In the fleet's folder: by peer, what went wrong with the last delivery; empty when nothing did."""
OWN = frozenset({"fleet.json", "install.json", "heard.json", TAKEN})
"""What is a master's own."""

Seen = Mapping[str, tuple[int, int, int]]
"""Every shared file by its name: size, time of change in nanoseconds, mode."""


@dataclass(frozen=True)
class Delivery:
    """:ivar fleet: its name; :ivar sender: the leader's address; :ivar token: its lease's number; :ivar modes: of every
    file that there is; :ivar contents: of those that changed"""

    fleet: str
    sender: str
    token: int
    modes: Mapping[str, int]
    contents: Mapping[str, bytes]

    def pack(self) -> bytes:
        about = {"format": FORMAT, **dataclasses.asdict(dataclasses.replace(self, contents={}))}
        del about["contents"]
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w:gz") as tar:
            for name, data in {MANIFEST: json.dumps(about).encode(), **self.contents}.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        return out.getvalue()

    @classmethod
    def unpack(cls, stream: BinaryIO) -> Delivery:
        """:raises SalternError: it is none, or a name in it leads elsewhere"""
        try:
            with tarfile.open(fileobj=stream, mode="r|gz") as tar:
                found = {each.name: inner.read() for each in tar if (inner := tar.extractfile(each))}
            about = json.loads(found.pop(MANIFEST))
            if about["format"] != FORMAT:
                raise ValueError(
                    f"format {about['format']!r} is not {FORMAT}: both masters take the same release"
                )
            modes = {str(name): int(mode) for name, mode in about["modes"].items()}
            made = cls(str(about["fleet"]), str(about["sender"]), int(about["token"]), modes, found)
        except (
            tarfile.TarError,
            EOFError,
            OSError,
            KeyError,
            TypeError,
            ValueError,
            AttributeError,
        ) as error:
            raise SalternError(f"take: not a delivery of another master ({error})") from error
        if strange := [name for name in (*modes, *found) if name not in modes or not shared(name)]:
            raise SalternError(f"take: {strange[0]!r} is no file that masters share; nothing was taken")
        return made


def shared(name: str) -> bool:
    """Whether a file of the fleet's folder is every master's.

    >>> shared("pki/master/minions/prod1"), shared("fleet.json"), shared("../x")
    (True, False, False)
    """
    path = PurePosixPath(name)
    plain = path.parts and not path.is_absolute() and ".." not in path.parts and str(path) == name
    return bool(plain) and name not in OWN and backup.worth_keeping(path)


def look(fleet: Fleet) -> Seen:
    """What there is to share."""
    found = {}
    for member, path in backup.state_files(fleet):
        name = member.removeprefix(f"{backup.STATE}/")
        try:
            about = path.stat()
        except FileNotFoundError:
            continue
        if shared(name):
            found[name] = (about.st_size, about.st_mtime_ns, about.st_mode & 0o777)
    return found


def delivery(fleet: Fleet, token: int, there: Seen, before: Seen) -> Delivery:
    """What brings another master from what it was brought `before` to what there is.

    :raises FileNotFoundError: something is gone by now
    """
    changed = [name for name, about in there.items() if before.get(name) != about]
    contents = {name: (fleet.state_dir / name).read_bytes() for name in changed}
    return Delivery(fleet.name, fleet.gateway, token, {n: about[2] for n, about in there.items()}, contents)


def take(fleet: Fleet, came: Delivery, newest: int) -> None:
    """Make this master's folder what the leader's is.

    :param newest: the lease of the newest delivery before
    :raises SalternError: it is not for this master, or from an earlier leader; nothing was taken. Or files are missing
        that this delivery takes for granted: the next one has to bring all
    """
    if came.fleet != fleet.name or came.sender not in fleet.peers:
        raise SalternError(
            f"take: from {came.sender} of fleet {came.fleet}: no master that fleet {fleet.name} has here; "
            f"`saltern install-master --peer {came.sender}` makes it one"
        )
    if came.token < newest:
        raise SalternError(f"take: {came.sender} led by lease {came.token}, and by now there is {newest}")
    for name, data in came.contents.items():
        _lay(fleet, name, data, came.modes[name])
    for name in sorted(look(fleet).keys() - came.modes.keys()):
        path = fleet.state_dir / name
        path.unlink(missing_ok=True)
        if path.parent.parent == fleet.machines_dir and not any(path.parent.iterdir()):
            path.parent.rmdir()
    if missing := sorted(came.modes.keys() - look(fleet).keys()):
        raise SalternError(f"take: {missing[0]} is missing here; all has to be brought")


def _lay(fleet: Fleet, name: str, data: bytes, mode: int) -> None:
    path = fleet.state_dir / name
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    half = path.with_name(f".{path.name}.{os.getpid()}")
    half.touch(mode=0o600)
    half.write_bytes(data)
    half.chmod(mode)
    _give(fleet, half, *made)
    half.replace(path)


def _give(fleet: Fleet, *paths: Path) -> None:
    """What this writes as root is the master's user's."""
    if fleet.installed:
        user = pwd.getpwnam(SERVICE_USER)
        for path in paths:
            os.chown(path, user.pw_uid, user.pw_gid)


def receive(fleet: Fleet, stream: BinaryIO) -> Delivery:
    """Take a delivery from a stream.

    :raises SalternError: see `take`
    """
    came = Delivery.unpack(stream)
    with fleet.locked("take"):
        kept = fleet.state_dir / TAKEN
        newest = json.loads(kept.read_text())["token"] if kept.exists() else 0
        take(fleet, came, newest)
        if came.token != newest:
            text = json.dumps({"token": came.token, "from": came.sender}) + "\n"
            _lay(fleet, TAKEN, text.encode(), 0o644)
        _give(fleet, fleet.state_dir / "locks" / "take")
    return came


class Sharing:
    """One master's deliveries to the others.

    :param send: brings packed deliveries to a peer; raises SalternError
    """

    def __init__(self, state_dir: Path, send: Callable[[str, bytes], None]) -> None:
        self.state_dir = state_dir
        self.send = send
        self._sent: dict[str, Seen] = {}
        self._client: redis.Redis | None = None
        self._told: dict[str, str] | None = None

    def step(self) -> None:
        """Look once, and bring the others what changed if this master leads."""
        fleet = Fleet.load(self.state_dir)
        try:
            self._client = self._client or members.link(fleet)
            found = leading.leader(self._client)
        except (redis.RedisError, SalternError) as error:
            self._client = None
            self._tell(fleet, {"": f"who leads is not known: {error}"})
            return
        if found is None or found.holder != fleet.gateway:
            self._sent.clear()
            self._tell(fleet, {})
            return
        there = look(fleet)
        told = {}
        for peer in fleet.peers:
            before = self._sent.pop(peer, {})
            try:
                if before != there:
                    self.send(peer, delivery(fleet, found.token, there, before).pack())
                self._sent[peer] = there
            except FileNotFoundError:
                continue  # what there is now is looked at again
            except SalternError as error:
                told[peer] = str(error)
        self._tell(fleet, told)

    def _tell(self, fleet: Fleet, told: dict[str, str]) -> None:
        """Say what is wrong, once."""
        if told != self._told:
            for peer, error in told.items():
                log.warning("%s%s", f"{peer}: " if peer else "", error)
            _lay(fleet, TOLD, (json.dumps(told) + "\n").encode(), 0o644)
        self._told = told


def over_ssh(peer: str, packed: bytes) -> None:
    """:raises SalternError: the peer is not reached, or refuses"""
    Host(peer).run("saltern", "take", stdin=packed, timeout=DELIVERY_SECONDS)


def share(fleet: Fleet) -> None:
    """Bring the other masters what changes, for ever."""
    sharing = Sharing(fleet.state_dir, over_ssh)
    while True:
        sharing.step()
        time.sleep(LOOK_SECONDS)


def notes(fleet: Fleet) -> list[str]:
    """What an operator should know of the other masters, one line each.

    :raises redis.RedisError: Redis does not answer
    """
    if not fleet.peers:
        return []
    found = leading.leader(members.link(fleet))
    mine = found is not None and found.holder == fleet.gateway
    who = "this master leads" if mine else f"{found.holder} leads" if found else "no master leads just now"
    try:
        told = json.loads((fleet.state_dir / TOLD).read_text())
    except FileNotFoundError:
        told = {"": "saltern-share does not run"}
    return [who, *(f"{peer or 'sharing'}: {error}" for peer, error in told.items())]
