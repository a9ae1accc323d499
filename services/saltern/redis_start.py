"""What a Redis machine starts from: Salt's settings, and what Redis and Sentinel themselves have to say.

    python3 -m saltern.redis_start redis|sentinel --config /etc/redis/start.json

Salt owns the settings (`/etc/redis/*.conf`) and never writes who is primary; Redis and Sentinel rewrite the file they
were started with whenever that changes. So each is started with a file of its own, put together anew before every
start: the settings of today, and the role and memory of last time. A Redis that starts asks the Sentinels first:
whoever was primary and died comes back as a replica of the one elected meanwhile, and one that lost its disk never
wipes the others. One that died waits for that election even if it is back before it: its replicas may have writes,
even confirmed ones, that its own file lacks (while the disk is busy Redis answers first), and would unlearn them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from saltern.errors import SalternError
from saltern.rdb import ORDERLY
from saltern.redis_link import ConfigError, connect, parse_address, watchers

Address = tuple[str, int]
ELECTION_SECONDS = 20.0
"""How long a Redis that should not start as primary waits for another to be elected."""
PAUSE_SECONDS = 0.2
# What Sentinel writes down of the world; all else in its file is settings.
MEMORIES = ("myid", "current-epoch", "config-epoch", "leader-epoch", "known-sentinel")


@dataclass(frozen=True)
class Said:
    """What one Sentinel says: who is primary, since which election, and whether it ever had a replica."""

    primary: Address
    epoch: int
    replicas: int


@dataclass(frozen=True)
class Role:
    """How to start: as the primary when `primary` is None, else as a replica of it."""

    primary: Address | None


def role(
    me: Address, said: Sequence[Said], remembered: Address | None, first: Address, complete: bool
) -> Role | None:
    """Decide how a Redis starts; None while it must not.

    :param said: by each Sentinel that answers, and by the file of this machine's own
    :param remembered: whose replica it was when it last ran, itself when it was primary, None when it never ran or
        that does not count
    :param first: who is primary when nobody knows better
    :param complete: whether nobody has more than its disk: it was stopped in order, or nobody outlived it
    """
    if said:
        latest = max(said, key=lambda each: each.epoch)
        if latest.primary != me:
            return Role(latest.primary)
        # Its replicas would copy what it lacks. They have the data: one of them is going to be elected.
        return None if latest.replicas and not complete else Role(None)
    primary = remembered or first
    return Role(None if primary == me else primary)


def remembered_role(text: str, me: Address) -> Address | None:
    """Whose replica Redis was, out of the file that it rewrote; itself when that names nobody, None without a file."""
    if not text:
        return None
    for words in map(str.split, text.splitlines()):
        if len(words) == 3 and words[0] == "replicaof" and words[1:] != ["no", "one"]:
            return words[1], int(words[2])
    return me


def redis_file(settings: Path, chosen: Role) -> str:
    """The file to start Redis with."""
    lines = [
        "# Written at every start by saltern.redis_start; Redis adds to it. Settings belong in the file below.",
        f"include {settings}",
    ]
    if chosen.primary:
        lines.append(f"replicaof {chosen.primary[0]} {chosen.primary[1]}")
    return "\n".join(lines) + "\n"


def memory_of(text: str) -> Said | None:
    """What a Sentinel wrote down of the world, out of its file; None before its first start."""
    primary, epoch, replicas = None, 0, 0
    for words in map(str.split, text.splitlines()):
        if words[:2] == ["sentinel", "monitor"]:
            primary = (words[3], int(words[4]))
        elif words[:2] == ["sentinel", "config-epoch"]:
            epoch = int(words[3])
        elif words[:2] == ["sentinel", "known-replica"]:
            replicas += 1
    return Said(primary, epoch, replicas) if primary else None


def sentinel_file(settings: str, memory: str, said: Sequence[Said], nodes: Sequence[str]) -> str:
    """The file to start Sentinel with: today's settings, and of its memory what still can be.

    :param settings: Salt's file, whose `sentinel monitor` names the first primary
    :param memory: the file as Sentinel last rewrote it, empty at its first start
    :param said: by the other Sentinels, if any answers
    :param nodes: addresses of the fleet's Redis machines; whoever else is remembered is no more, and gets no vote
    """
    own = memory_of(memory)
    known = [each for each in (own, *said) if each and each.primary[0] in nodes]
    kept, addresses = [], []
    for line in memory.splitlines():
        words = line.split()
        if words[:1] != ["sentinel"] or len(words) < 3:
            continue
        if words[1] in ("known-replica", "monitor"):
            addresses.append(words[3])
        elif words[1] in MEMORIES and (words[1] != "known-sentinel" or words[3] in nodes):
            kept.append(line)
    lines = []
    for line in settings.splitlines():
        words = line.split()
        if words[:2] == ["sentinel", "monitor"]:
            _, _, service, address, port, _ = words
            if known:
                # Of two that are as new its own memory counts.
                address = max(known, key=lambda each: each.epoch).primary[0]
            line = " ".join([*words[:3], address, *words[4:]])
            replicas = dict.fromkeys(each for each in addresses if each in nodes and each != address)
            kept += [f"sentinel known-replica {service} {each} {port}" for each in replicas]
        lines.append(line)
    return "\n".join([*lines, *kept]) + "\n"


# --- acting


def ask(link: Mapping[str, Any]) -> list[Said]:
    """What the Sentinels say that answer; those that do not, or watch nothing yet, are left out.

    :param link: as `redis_link.connect` reads it
    """
    service, answers = link["sentinel"]["service"], []
    for sentinel in watchers(link).sentinels:
        try:
            state = sentinel.sentinel_master(service)
        except redis.RedisError:
            continue
        finally:
            sentinel.close()
        answers.append(
            Said((state["ip"], int(state["port"])), int(state["config-epoch"]), int(state["num-slaves"]))
        )
    return answers


def followed(state: Mapping[str, Any]) -> bool:
    """Whether a Redis has data in memory that it got by replication since it started, by its INFO replication.

    One that only read its disk counts from 1.
    """
    return state["role"] == "master" or int(state.get("slave_repl_offset", 0)) > 1


def outlived(config: Mapping[str, Any]) -> bool:
    """Whether another machine's Redis ran, and followed, when this one died."""
    link, own = config["link"], parse_address(config["me"], "me")
    for address in config["nodes"]:
        if address == own[0]:
            continue
        with connect({"redis": {**link["redis"], "addresses": [f"{address}:{config['port']}"]}}) as client:
            try:
                if followed(client.info("replication")):
                    return True
            except redis.RedisError:
                continue
    return False


def has_data(folder: Path) -> bool:
    """Whether Redis finds anything when it starts in this folder."""
    return any(folder.glob("appendonlydir/*.manifest")) or (folder / "dump.rdb").exists()


def start_redis(config: Mapping[str, Any], now: Callable[[], float] = time.monotonic) -> Role:
    """Write the file that Redis is to be started with.

    :raises SalternError: it has no data, the others have, and none of them was elected in time
    """
    me, first = parse_address(config["me"], "me"), parse_address(config["first"], "first")
    file, folder = Path(config["redis"]["file"]), Path(config["redis"]["dir"])
    # Without Sentinel the pillar says who is primary, always.
    remembered = remembered_role(_text(file), me) if "sentinel" in config["link"] else None
    orderly, end = folder / ORDERLY, now() + ELECTION_SECONDS
    there, in_order = has_data(folder), orderly.exists()

    def complete() -> bool:
        # Where nobody lived through this one's death, as after a power failure, its disk has the most there is.
        return there and (in_order or not outlived(config))

    while (chosen := role(me, _heard(config), remembered, first, complete())) is None:
        if now() > end:
            if not there:
                raise SalternError(
                    f"{folder}: empty, and the Sentinels hold this machine to be the primary of replicas that have "
                    "data; `salt-run redis.restore` puts a copy here"
                )
            # Nobody can be elected: what is here is the best there is.
            in_order = True
        time.sleep(PAUSE_SECONDS)
    orderly.unlink(missing_ok=True)
    _write(file, redis_file(Path(config["redis"]["settings"]), chosen))
    return chosen


def start_sentinel(config: Mapping[str, Any]) -> None:
    """Write the file that Sentinel is to be started with."""
    file = Path(config["sentinel"]["file"])
    settings = Path(config["sentinel"]["settings"]).read_text()
    _write(file, sentinel_file(settings, _text(file), ask(config["link"]), config["nodes"]))


def _heard(config: Mapping[str, Any]) -> list[Said]:
    """What the Sentinels say, and what this machine's own last wrote down: it may not run yet."""
    if "sentinel" not in config["link"]:
        return []
    own = memory_of(_text(Path(config["sentinel"]["file"])))
    return [*ask(config["link"]), *([own] if own else [])]


def _text(file: Path) -> str:
    return file.read_text() if file.exists() else ""


def _write(file: Path, text: str) -> None:
    half = file.with_name(f".{file.name}.new")
    half.touch(mode=0o640)
    half.write_text(text)
    half.replace(file)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare one start. Exit status 1, with one line, when it must not happen."""
    parser = argparse.ArgumentParser(
        prog="saltern.redis_start", description="Prepares a start of Redis or Sentinel."
    )
    parser.add_argument("what", choices=("redis", "sentinel"))
    parser.add_argument("--config", type=Path, default=Path("/etc/redis/start.json"))
    chosen = parser.parse_args(arguments)
    try:
        config = json.loads(chosen.config.read_text())
        if chosen.what == "sentinel":
            start_sentinel(config)
        else:
            primary = start_redis(config).primary
            print(f"starting as {f'a replica of {primary[0]}:{primary[1]}' if primary else 'the primary'}")
    except (OSError, ValueError, KeyError, ConfigError, SalternError) as error:
        print(f"saltern.redis_start: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
