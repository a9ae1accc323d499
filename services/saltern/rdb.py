"""Copies of all of Redis' data, as RDB files: taken over the network, judged, pruned, and laid where Redis starts from.

python3 -m saltern.rdb take --config /etc/redis/backup.json     the copy a Redis machine's timer makes
python3 -m saltern.rdb lay FILE --dir /var/lib/redis            Redis, stopped, is to start from this file
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import ssl
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import redis

from saltern.errors import SalternError
from saltern.redis_link import ConfigError, connect, parse_address
from saltern.shell import run

SILENCE_SECONDS = 30.0
"""Redis sends an empty line every second or so while it prepares the copy."""
CHUNK = 1 << 20
END = 0xFF
"""The last opcode of an RDB file; eight bytes of checksum follow it."""
CHECKSUM = 8
JUDGE = "redis-check-rdb"
BASE = "appendonly.aof.1.base.rdb"
ORDERLY = "stopped-in-order"
"""A file beside the data that the unit leaves when Redis has ended by itself, all written and passed on: it may
start as primary."""


def reason_to_skip(role: Sequence[Any]) -> str:
    """Why this server takes no copy, by its answer to ROLE; empty when it takes one.

    A primary leaves it to its replicas: it has enough to do, and Sentinel would take who copies for a replica of it.
    """
    if role[0] == "slave":
        return "" if role[3] == "connected" else f"this replica is not in step with its primary ({role[3]})"
    return "this is the primary; its replicas take the copies" if role[2] else ""


def file_name(now: float) -> str:
    """What a copy of this moment is called; names sort as their moments do.

    >>> file_name(0)
    'redis-19700101T000000Z.rdb'
    """
    return time.strftime("redis-%Y%m%dT%H%M%SZ.rdb", time.gmtime(now))


def surplus(names: Iterable[str], keep: int) -> list[str]:
    """Which copies are to go so that the `keep` newest stay; what is called otherwise is no copy and stays."""
    copies = sorted(name for name in names if name.startswith("redis-") and name.endswith("Z.rdb"))
    return copies[: max(0, len(copies) - keep)]


# --- acting


def fetch(link: Mapping[str, Any], address: str, out: BinaryIO) -> int:
    """Write a copy of all that the server at `address` holds; returns its length in bytes.

    :param link: as `redis_link.connect` reads it; its user needs the rights of a replica
    :raises SalternError: the server refuses
    :raises OSError: it cannot be reached, or falls silent
    """
    host, port = parse_address(address, "address")
    login = link["redis"]
    with socket.create_connection((host, port), timeout=SILENCE_SECONDS) as plain:
        tls = login.get("tls")
        context = ssl.create_default_context(cadata=tls["ca"]) if tls else None
        with context.wrap_socket(plain, server_hostname=host) if context else plain as wire:
            wire.sendall(f"AUTH {login['username']} {login['password']}\r\n".encode())
            stream = wire.makefile("rb")
            header = _line(stream, address)
            if header != "+OK":
                raise SalternError(f"{address}: {header}")
            wire.sendall(b"SYNC\r\n")
            while not (header := _line(stream, address)):
                pass
            if not header.startswith("$") or not header[1:].isdigit():
                raise SalternError(f"{address}: {header}")
            length = left = int(header[1:])
            while left:
                chunk = stream.read(min(CHUNK, left))
                if not chunk:
                    raise SalternError(f"{address}: the copy ended {left} bytes early")
                out.write(chunk)
                left -= len(chunk)
    return length


def _line(stream: BinaryIO, address: str) -> str:
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise SalternError(f"{address}: it hung up")
    return line.decode().strip()


def judge(path: Path) -> None:
    """Refuse what is no whole RDB file: by Redis' own judge where it is installed, else by its two ends.

    :raises SalternError: what is wrong with it
    """
    with path.open("rb") as file:
        begins = file.read(9)
        file.seek(-min(1 + CHECKSUM, os.fstat(file.fileno()).st_size), os.SEEK_END)
        ends = file.read(1)
    if not begins.startswith(b"REDIS") or not begins[5:].isdigit() or ends != bytes([END]):
        raise SalternError(f"{path}: not a whole copy of Redis' data (an RDB file)")
    if shutil.which(JUDGE):
        run([JUDGE, str(path)], timeout=600)


def take(link: Mapping[str, Any], address: str, folder: Path, keep: int) -> Path:
    """Put a copy into `folder`, whole and judged or not at all, and drop those beyond the `keep` newest.

    :raises SalternError: the server refuses, or what it sends is no copy
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / file_name(time.time())
    half = path.with_suffix(".part")
    try:
        half.touch(mode=0o600)
        with half.open("wb") as out:
            fetch(link, address, out)
            out.flush()
            os.fsync(out.fileno())
        judge(half)
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)
    for name in surplus((each.name for each in folder.iterdir()), keep):
        (folder / name).unlink()
    return path


def lay(source: Path, folder: Path, now: float) -> Path:
    """Have a Redis that is not running start with the data of `source`; what it had is kept in the folder returned.

    With the append-only file on, Redis reads no dump: the copy becomes that file's base, as its manifest then says
    (https://redis.io/docs/latest/operate/oss_and_stack/management/persistence/, "multi-part AOF").

    :raises SalternError: `source` is no copy
    """
    judge(source)
    before = folder / time.strftime("before-restore-%Y%m%dT%H%M%SZ", time.gmtime(now))
    before.mkdir()
    for name in ("appendonlydir", "dump.rdb"):
        if (folder / name).exists():
            (folder / name).rename(before / name)
    new = folder / "appendonlydir.new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o750)
    shutil.copyfile(source, new / BASE)
    (new / "appendonly.aof.manifest").write_text(f"file {BASE} seq 1 type b\n")
    for path in new.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    new.rename(folder / "appendonlydir")
    (folder / ORDERLY).touch()
    return before


def main(arguments: Sequence[str] | None = None) -> int:
    """Take or lay a copy. Exit status 1, with one line, when that failed."""
    parser = argparse.ArgumentParser(prog="saltern.rdb", description="Copies of Redis' data.")
    kinds = parser.add_subparsers(dest="what", required=True)
    taking = kinds.add_parser("take")
    taking.add_argument("--config", type=Path, default=Path("/etc/redis/backup.json"))
    laying = kinds.add_parser("lay")
    laying.add_argument("file", type=Path)
    laying.add_argument("--dir", type=Path, default=Path("/var/lib/redis"))
    chosen = parser.parse_args(arguments)
    try:
        if chosen.what == "lay":
            print(f"what was here is in {lay(chosen.file, chosen.dir, time.time())}")
            return 0
        config = json.loads(chosen.config.read_text())
        own = {"redis": {**config["link"]["redis"], "addresses": [config["me"]]}}
        with connect(own) as client:
            why = reason_to_skip(client.role())
        print(why or take(own, config["me"], Path(config["dir"]), config["keep"]))
    except (OSError, ValueError, KeyError, ConfigError, SalternError, redis.RedisError) as error:
        print(f"saltern.rdb: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
