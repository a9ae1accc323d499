"""Which server to read from."""

import pytest
from openfeature_redis.source import Known, Source, cut_off, preference, read_sentinel
from openfeature_redis.wire import Address, Login

pytestmark = pytest.mark.unit

A, B, C, D = (Address(f"10.0.0.{n}", 6379) for n in range(1, 5))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.213.0.11:6379", Address("10.213.0.11", 6379)),
        ("redis1.example:7000", Address("redis1.example", 7000)),
        ("[fd00::1]:6379", Address("fd00::1", 6379)),
        ("/run/redis.sock", Address(path="/run/redis.sock")),
    ],
)
def test_an_address_reads_and_writes_the_same(text, address):
    assert Address.parse(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text", ["", "redis1", "redis1:", ":6379", "redis1:0", "redis1:65536", "a:b", "fd00::1:5"]
)
def test_a_malformed_address_is_named_with_the_right_forms(text):
    with pytest.raises(ValueError, match=r"is not host:port") as error:
        Address.parse(text)
    assert repr(text) in str(error.value)


def test_a_source_without_addresses_is_refused():
    with pytest.raises(ValueError, match="addresses is empty"):
        Source([])


def test_a_login_does_not_show_its_password():
    assert "secret" not in repr(Login("reader", "secret"))


@pytest.mark.parametrize(
    ("known", "order"),
    [
        (Known(A, [B, C], []), [C, B, A]),
        (Known(A, [], []), [A]),
        (Known(A, [B], [C]), [B, A, C]),
        (Known(None, [B], []), [B]),
        (Known(A, [A, B], [A]), [B, A]),
    ],
)
def test_replicas_come_before_the_primary_and_doubtful_ones_last(known, order):
    assert preference(known, shuffle=lambda addresses: addresses.reverse()) == order


def replica(address, flags="slave", link="ok"):
    return {
        b"ip": address.host.encode(),
        b"port": b"6379",
        b"flags": flags.encode(),
        b"master-link-status": link.encode(),
    }


@pytest.mark.parametrize(
    ("what", "raw", "trusted"),
    [
        ("a good one", replica(B), True),
        ("subjectively down", replica(B, flags="s_down,slave"), False),
        ("disconnected from Sentinel", replica(B, flags="slave,disconnected"), False),
        ("cut off from its primary", replica(B, link="err"), False),
        ("a good one in RESP2", [part for pair in replica(B).items() for part in pair], True),
    ],
)
def test_sentinels_view_of_a_replica(what, raw, trusted):
    known = read_sentinel([b"10.0.0.1", b"6379"], [raw])
    assert known == Known(A, [B] if trusted else [], [] if trusted else [B]), what


@pytest.mark.parametrize(
    ("info", "why"),
    [
        ("role:master\r\nconnected_slaves:0\r\n", None),
        ("role:slave\r\nmaster_link_status:up\r\nmaster_last_io_seconds_ago:3\r\n", None),
        (
            "role:slave\r\nmaster_link_status:down\r\nmaster_last_io_seconds_ago:-1\r\n",
            "it has lost its primary",
        ),
        (
            "role:slave\r\nmaster_link_status:up\r\nmaster_last_io_seconds_ago:16\r\n",
            "it has heard nothing from its primary for 16 s",
        ),
    ],
)
def test_a_replica_that_lags_for_good_is_told_from_its_replication_info(info, why):
    assert cut_off(info) == why
