"""The controller's configuration: defaults where it may be silent, one clear line where it is wrong."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from saltern.controller import parse_config
from saltern.redis_link import ConfigError, connect, parse_address

pytestmark = pytest.mark.unit

REDIS = {"redis": {"addresses": ["10.213.0.11:6379"], "username": "controller", "password": "secret"}}


def test_only_redis_has_to_be_said() -> None:
    config = parse_config(REDIS)
    assert (config.socket, config.state_dir) == ("/run/haproxy/admin.sock", "/var/lib/saltern/traffic")
    assert (config.poll_s, config.resync_s, config.drain_limit_s) == (0.3, 2.0, 60.0)
    assert config.canary.settle_s == 10


def test_every_value_can_be_said() -> None:
    config = parse_config(
        {
            **REDIS,
            "haproxy": {"socket": "/s", "state_dir": "/d", "timeout_ms": 500},
            "controller": {"status_file": "/f", "poll_ms": 200, "resync_s": 1},
            "canary": {"settle_s": 1, "error_limit_pct": 2, "error_window_s": 3, "error_min_requests": 4},
            "drain": {"limit_s": 5},
        }
    )
    assert (config.socket, config.state_dir, config.status_file) == ("/s", "/d", "/f")
    assert (config.socket_timeout_s, config.poll_s, config.resync_s, config.drain_limit_s) == (0.5, 0.2, 1, 5)
    assert (config.canary.error_limit_pct, config.canary.error_min_requests) == (2, 4)


BAD: list[tuple[Any, str]] = [
    ([], "not a JSON object"),
    ({}, "redis: missing"),
    ({"redis": {}}, "redis.addresses: None is not a list"),
    ({"redis": {"addresses": []}}, "redis.addresses"),
    (
        {"redis": {"addresses": ["redis1"]}},
        r"redis.addresses\[0\]: 'redis1' is not an address; write host:port",
    ),
    ({"redis": {"addresses": ["redis1:0"]}}, "is not an address"),
    ({"redis": {"addresses": [6379]}}, "is not an address"),
    ({"redis": {**REDIS["redis"], "timeout_s": 0}}, "redis.timeout_s: 0 is not a number of seconds above 0"),
    ({**REDIS, "sentinel": {"addresses": ["a:1"]}}, "sentinel.service"),
    ({**REDIS, "sentinel": {"service": "saltern"}}, "sentinel.addresses"),
    ({**REDIS, "canary": {"settle": 1}}, "canary.settle: unknown; use settle_s"),
    (
        {**REDIS, "canary": {"error_limit_pct": 130}},
        "canary.error_limit_pct: 130 is not a number between 0 and 100",
    ),
    ({**REDIS, "canary": {"error_min_requests": 1.5}}, "canary.error_min_requests: 1.5 is not"),
    ({**REDIS, "controller": {"poll_ms": True}}, "controller.poll_ms: True is not"),
    ({**REDIS, "haproxy": {"socket": "admin.sock"}}, "haproxy.socket: 'admin.sock' is not an absolute path"),
    ({**REDIS, "haproxy": 5}, "haproxy: not a section"),
    (
        {**REDIS, "drains": {}},
        "drains: not a section; use redis, sentinel, haproxy, controller, canary, drain",
    ),
]


@pytest.mark.parametrize(("document", "message"), BAD)
def test_a_wrong_configuration_is_refused_with_where_and_what_would_be_right(
    document: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(copy.deepcopy(document))


@pytest.mark.parametrize(
    ("text", "parts"), [("redis1:6379", ("redis1", 6379)), ("[fd00::1]:6379", ("fd00::1", 6379))]
)
def test_an_address_is_a_host_and_a_port(text: str, parts: tuple[str, int]) -> None:
    assert parse_address(text, "redis") == parts


def test_a_client_answers_in_text_and_does_not_wait_for_ever() -> None:
    with connect(REDIS) as client:
        options = client.connection_pool.connection_kwargs
        assert options["decode_responses"] is True
        assert 0 < options["socket_timeout"] <= 5
        assert (options["host"], options["port"]) == ("10.213.0.11", 6379)
