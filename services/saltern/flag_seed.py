"""The flags a new fleet starts with, written once by a state of the proxy and never again.

Run as ``python3 -m saltern.flag_seed --config /etc/saltern/admin.json --flags /etc/saltern/flags.json``. It prints the
line by which Salt's ``cmd.run`` with ``stateful`` knows whether anything changed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import redis
from openfeature_redis import flagset

from saltern.errors import SalternError
from saltern.redis_link import ConfigError, connect

WAIT_S = 60.0
"""How long Redis may take to answer, in seconds: machines of a new fleet are made side by side."""
PAUSE_S = 0.25
BY = {"who": "salt", "why": "the flags a new fleet starts with"}


def wanted(client: redis.Redis) -> bool:
    """Whether there never was a flag set: none is there, and the history knows of none."""
    return not client.exists(flagset.NAMES.document) and not flagset.history(client, 1)


def seed(client: redis.Redis, document: Mapping[str, Any]) -> bool:
    """Write the first flag set unless there is or was one; answers whether it did.

    :raises flagset.BadFlagSet: the set is not valid
    """
    flagset.validate(document)
    stored = flagset.read(client)
    if stored.text is not None or not wanted(client):
        return False
    try:
        flagset.write(client, document, expected=stored, **BY)
    except flagset.Conflict:
        return False
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Seed, or with ``--test`` tell whether it would; answers the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--config", type=Path, required=True, help="where Redis is, as the admin API reads it"
    )
    parser.add_argument("--flags", type=Path, required=True, help="the flag set")
    parser.add_argument("--wait", type=float, default=WAIT_S, help="seconds Redis may take to answer")
    parser.add_argument("--test", action="store_true", help="write nothing")
    given = parser.parse_args(arguments)
    try:
        client = connect(_json(given.config))
        document = _json(given.flags)
        changed = _patiently(given.wait, lambda: wanted(client) if given.test else seed(client, document))
    except (SalternError, ConfigError, flagset.BadFlagSet, redis.RedisError) as error:
        print(f"first flags: {error}", file=sys.stderr)
        return 1
    done = "would be written" if given.test else "written"
    comment = f"the first flags {done}" if changed else "there is, or was, a flag set"
    print(f"\nchanged={'yes' if changed else 'no'} comment='{comment}'")
    return 0


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise SalternError(f"{path}: {error.strerror}; the proxy's states write it") from error
    except ValueError as error:
        raise SalternError(f"{path}: not JSON ({error})") from error


def _patiently(seconds: float, act: Any) -> bool:
    """Try for so many seconds at the longest: a Redis that is being made may lack its users or replicas."""
    end = time.monotonic() + seconds
    while True:
        try:
            return bool(act())
        except redis.RedisError:
            if time.monotonic() > end:
                raise
        time.sleep(PAUSE_S)


if __name__ == "__main__":
    sys.exit(main())
