"""The fleet's secrets: made once, kept to the owner, told apart."""

from __future__ import annotations

import json
import stat

import pytest
from saltern import secrets
from saltern.errors import SalternError
from saltern.fleet import REPOSITORY


def flat(value: object) -> list[str]:
    return [s for each in value.values() for s in flat(each)] if isinstance(value, dict) else [value]


def test_every_secret_is_its_own_and_256_bits_long():
    found = flat(secrets.generate()) + flat(secrets.generate())
    assert len(set(found)) == len(found)
    assert all(len(text) >= 43 for text in found)  # 43 characters of base64url hold 256 bits


def test_secrets_are_made_once_and_only_their_owner_reads_them(fleet):
    first = secrets.ensure(fleet)
    assert secrets.ensure(fleet) == first == secrets.load(fleet)
    assert stat.S_IMODE(fleet.secrets_file.stat().st_mode) == 0o600


def test_a_kind_of_secret_that_is_new_is_added_and_the_others_stay(fleet):
    kept = secrets.load(fleet)
    older = {"events": kept["events"], "redis": {"admin": kept["redis"]["admin"]}}
    fleet.secrets_file.write_text(json.dumps(older))
    merged = secrets.ensure(fleet)
    assert merged["events"] == kept["events"]
    assert merged["redis"]["admin"] == kept["redis"]["admin"]
    assert set(merged["redis"]) == set(secrets.REDIS_USERS)
    assert set(merged["admin"]) == set(secrets.ADMIN_SCOPES)


def test_secrets_that_cannot_be_read_are_never_made_anew(fleet):
    fleet.secrets_file.write_text("{half")
    for read in (secrets.load, secrets.ensure):
        with pytest.raises(SalternError, match=r"secrets\.json: not JSON .*; restore it from a backup"):
            read(fleet)
    assert fleet.secrets_file.read_text() == "{half"


def test_without_secrets_up_is_the_remedy(fleet):
    fleet.secrets_file.unlink()
    with pytest.raises(SalternError, match=r"missing; `./saltern up` makes it"):
        secrets.load(fleet)


def test_the_key_of_a_machine_is_an_hmac_of_its_id():
    # RFC 4231, test case 2 has this data under this key.
    key = b"Jefe".hex()
    answer = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert secrets.event_key(key, "what do ya want for nothing?") == answer


def test_every_user_of_redis_has_a_line_of_rights():
    text = (REPOSITORY / "salt" / "redis" / "users.acl.j2").read_text()
    users = {line.split()[1] for line in text.splitlines() if line.startswith("user ")}
    assert users == {"default", *secrets.REDIS_USERS}
