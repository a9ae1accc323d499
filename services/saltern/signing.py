"""Sign and check what a machine says, so that no machine can speak for another.

The event bus proves nothing: an accepted minion picks the tag and every field of what it sends. So each payload that
can cause an action carries an HMAC-SHA-256 (RFC 2104) over who, what, when and the values, under a key that only this
machine and the master have. The file is also `salt/_utils/signing.py`: it imports nothing but the standard library.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time


def sign(key: str, machine: str, tag: str, values: dict, counter: int | None = None) -> dict:
    """The signed payload of an event.

    :param key: the machine's key, hex
    :param counter: grows with every event of a machine; nanoseconds since 1970 unless given
    """
    counter = time.time_ns() if counter is None else counter
    payload = {"machine": machine, "counter": counter, "values": values}
    return {**payload, "signature": _digest(key, tag, payload)}


def verify(key: str, tag: str, payload: object) -> dict:
    """The payload's (machine, counter, values), if its signature is right for this tag and key.

    :raises ValueError: it is not signed, or not by this key, or not for this tag
    """
    if not isinstance(payload, dict):
        raise ValueError("payload is not a mapping")
    signature, counter = payload.get("signature"), payload.get("counter")
    if not isinstance(signature, str) or isinstance(counter, bool) or not isinstance(counter, int):
        raise ValueError("payload is not signed")
    signed = {name: payload.get(name) for name in ("machine", "counter", "values")}
    if not isinstance(signed["values"], dict):
        raise ValueError("payload has no values")
    if not hmac.compare_digest(signature.encode(), _digest(key, tag, signed).encode()):
        raise ValueError("signature is wrong")
    return signed


def _digest(key: str, tag: str, payload: dict) -> str:
    try:
        text = json.dumps([tag, payload], sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"payload is not plain data: {error}") from error
    return hmac.new(bytes.fromhex(key), text.encode(), hashlib.sha256).hexdigest()
