"""The configuration file."""

import copy
import json
from pathlib import Path

import pytest
from product import config
from product.config import Config, ConfigError, RedisSettings, SentinelSettings

pytestmark = pytest.mark.unit

GOOD = {
    "redis": {"addresses": ["10.213.0.11:6379", "[fd00::2]:6380"], "username": "product", "password": "salt"},
    "instance": "prod1",
    "pool": "prod",
    "state_dir": "/var/lib/product",
}


def test_a_good_file_becomes_a_value(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**GOOD, "tracing": {"of": "a later release"}}))
    loaded = config.load({"PRODUCT_CONFIG": str(path), "PRODUCT_RELEASE": "20250101.abc"})
    settings = RedisSettings((("10.213.0.11", 6379), ("fd00::2", 6380)), "product", "salt")
    assert loaded == Config(settings, settings, "prod1", "prod", Path("/var/lib/product"), "20250101.abc")


def test_the_flags_are_read_from_the_same_servers_as_somebody_else():
    loaded = config.parse({**GOOD, "flags": {"username": "flags-reader", "password": "pepper"}})
    assert loaded.flags == RedisSettings(loaded.redis.addresses, "flags-reader", "pepper")
    assert "pepper" not in repr(loaded)


def test_where_there_are_sentinels_they_are_asked():
    watch = {
        "addresses": ["10.213.0.11:26379"],
        "service": "saltern",
        "username": "client",
        "password": "pepper",
    }
    redis = {**GOOD["redis"], "tls": {"ca": "-----BEGIN CERTIFICATE-----"}}
    settings = config.parse({**GOOD, "redis": redis, "sentinel": watch}).redis
    assert settings.sentinel == SentinelSettings((("10.213.0.11", 26379),), "saltern", "client", "pepper")
    assert settings.ca == "-----BEGIN CERTIFICATE-----"
    assert "pepper" not in repr(settings)


def test_the_release_is_dev_when_nobody_names_one():
    assert config.parse(GOOD).release == "dev"


def test_the_password_is_never_shown():
    assert "salt" not in repr(config.parse(GOOD))


@pytest.mark.parametrize(
    ("keys", "value", "where"),
    [
        (["redis"], 7, "redis: a number"),
        (["redis", "addresses"], [], "redis.addresses: missing or empty"),
        (["redis", "addresses"], "10.0.0.1:6379", "redis.addresses: missing or empty"),
        (["redis", "addresses"], ["10.0.0.1"], "redis.addresses[0]: '10.0.0.1' is not host:port"),
        (["redis", "addresses"], ["a:1", "b:70000"], "redis.addresses[1]"),
        (["redis", "addresses"], [":6379"], "redis.addresses[0]"),
        (["redis", "addresses"], ["a:0"], "redis.addresses[0]"),
        (["redis", "password"], ["hunter2"], "redis.password: a list"),
        (["redis", "username"], 1, "redis.username: a number"),
        (["flags"], [], "flags: a list"),
        (["flags"], {"username": 7}, "flags.username: a number"),
        (["flags"], {"password": ["hunter2"]}, "flags.password: a list"),
        (["redis", "tls"], True, "redis.tls: a boolean"),
        (["redis", "tls"], {"ca": "/etc/ca.crt"}, "redis.tls.ca: not a certificate"),
        (["sentinel"], ["a:1"], "sentinel: a list"),
        (["sentinel"], {"service": "s"}, "sentinel.addresses: missing or empty"),
        (["sentinel"], {"addresses": ["a:1"]}, "sentinel.service: null"),
        (
            ["sentinel"],
            {"addresses": ["a:1"], "service": "s", "password": ["hunter2"]},
            "sentinel.password: a list",
        ),
        (["instance"], "*", "instance: '*'"),
        (["instance"], "", "instance: an empty string"),
        (["instance"], "prod1\n", "instance: 'prod1\\n'"),
        (["pool"], "staging", "pool: 'staging' is not a pool; it is prod or canary"),
        (["state_dir"], "state", "state_dir: 'state' is relative"),
        (["state_dir"], None, "state_dir: null"),
    ],
)
def test_a_wrong_value_is_named_in_one_line(keys, value, where):
    document = copy.deepcopy(GOOD)
    target = document
    for key in keys[:-1]:
        target = target[key]
    target[keys[-1]] = value
    with pytest.raises(ConfigError) as refused:
        config.parse(document)
    assert str(refused.value).startswith(where)
    assert "hunter2" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("key", ["redis", "instance", "pool", "state_dir"])
def test_a_missing_key_is_named(key):
    with pytest.raises(ConfigError, match=f"^{key}: missing"):
        config.parse({name: value for name, value in GOOD.items() if name != key})


@pytest.mark.parametrize("release", ["", "-x", "A", "x" * 65, "a b", "a\n"])
def test_a_wrong_release_is_named(release):
    with pytest.raises(ConfigError, match=r"^PRODUCT_RELEASE: "):
        config.parse(GOOD, release)


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "No such file"), (b"", "not JSON"), (b"{", "not JSON"), (b"\xff", "not JSON"), (b"[]", "a list")],
)
def test_a_file_that_cannot_be_used_is_named_with_the_fault(tmp_path, content, said):
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        config.load({"PRODUCT_CONFIG": str(path)})
    assert str(path) in str(refused.value)
    assert said in str(refused.value)
