"""The fleet's secrets: made once, at the first `up`, in the state folder and never anywhere else."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets

from saltern.errors import SalternError
from saltern.fleet import Fleet, write_atomically

# Who speaks to Redis, one password each; what each may do stands in salt/redis/users.acl.j2.
REDIS_USERS = ("admin", "controller", "product", "flags-reader", "observer", "replica", "sentinel")
ADMIN_SCOPES = ("read", "write")
# Who speaks to Sentinel: the other Sentinels, and everybody who asks it where the primary is.
SENTINEL_USERS = ("peer", "client")


def generate() -> dict:
    """New secrets for a fleet: 256 bits each."""
    # Only a master makes secrets. The machines' daemons import this module too, and have no cryptography.
    from saltern import ssh_keys

    return {
        "events": secrets.token_hex(32),
        "redis": {user: secrets.token_hex(32) for user in REDIS_USERS},
        "sentinel": {user: secrets.token_hex(32) for user in SENTINEL_USERS},
        "tls": secrets.token_hex(32),
        # How ops1 proves itself to who pushes, what `./saltern clone` pushes with, and what ends a build.
        "pipeline": {
            "host_key": ssh_keys.generate(),
            "push_key": ssh_keys.generate(),
            "token": secrets.token_urlsafe(32),
        },
        "admin": {scope: secrets.token_urlsafe(32) for scope in ADMIN_SCOPES},
    }


def ensure(fleet: Fleet) -> dict:
    """The fleet's secrets, made if there are none; a kind of secret that is new since then is added. What else stands
    in the file, such as the tokens of clouds, stays.

    :raises SalternError: the file is there but cannot be read
    """
    fresh = generate()
    kept = load(fleet) if fleet.secrets_file.exists() else {}
    merged = kept | {
        kind: {**value, **kept.get(kind, {})} if isinstance(value, dict) else kept.get(kind, value)
        for kind, value in fresh.items()
    }
    if merged != kept:
        write_atomically(fleet.secrets_file, json.dumps(merged, indent=1) + "\n", 0o600)
    return merged


def load(fleet: Fleet) -> dict:
    """The fleet's secrets.

    :raises SalternError: there are none, or the file cannot be read
    """
    try:
        return json.loads(fleet.secrets_file.read_text())
    except FileNotFoundError as error:
        raise SalternError(f"{fleet.secrets_file}: missing; `./saltern up` makes it") from error
    except ValueError as error:
        raise SalternError(f"{fleet.secrets_file}: not JSON ({error}); restore it from a backup") from error


def event_key(secret: str, machine: str) -> str:
    """The key a machine signs its events with: HMAC-SHA-256 of its id under the fleet's secret, in hex."""
    return hmac.new(bytes.fromhex(secret), machine.encode(), hashlib.sha256).hexdigest()
