from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from saltern import pillar
from saltern.admin_config import Config, Rate, parse_config
from saltern.redis_link import ConfigError
from saltern.steps import Plan

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
HASH = "0123456789abcdef" * 4
LEAST: dict[str, Any] = {"redis": {"addresses": ["10.0.0.1:6379"]}, "tokens": {"write": [HASH]}}


def test_the_least_configuration_takes_the_defaults() -> None:
    config = parse_config(LEAST)
    assert config.redis == {"redis": LEAST["redis"]}
    assert config.tokens == {"write": (HASH,)}
    assert (config.port, config.threads, config.normal) == (8081, 8, Rate(240, 60))


def test_every_value_arrives() -> None:
    config = parse_config(
        {
            **LEAST,
            "listen": {"address": "10.0.0.9", "port": 1},
            "server": {"threads": 2, "request_s": 3, "body_kib": 4},
            "rate": {"safe": {"per_minute": 5, "burst": 6}, "failed": {"burst": 7}},
            "haproxy": {"socket": "/s", "state_dir": "/d", "timeout_ms": 100},
            "controller": {"status_file": "/c", "orders_dir": "/o"},
            "metrics": {"allow": ["10.0.0.0/8", "::1/128"]},
        }
    )
    assert config.address == "10.0.0.9"
    assert (config.port, config.threads, config.request_s, config.body_kib) == (1, 2, 3, 4)
    assert (config.normal, config.safe, config.failed) == (Rate(240, 60), Rate(5, 6), Rate(20, 7))
    assert (config.socket, config.state_dir, config.socket_timeout_s) == ("/s", "/d", 0.1)
    assert (config.status_file, config.orders_dir) == ("/c", "/o")
    assert [str(network) for network in config.metrics_allow] == ["10.0.0.0/8", "::1/128"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"redis": None}, "redis: missing"),
        ({"tokens": {}}, "tokens: missing"),
        ({"tokens": {"admin": [HASH]}}, "tokens.admin: unknown; use read, write"),
        ({"tokens": {"read": []}}, "tokens.read: not a list with at least one"),
        ({"tokens": {"read": ["secret"]}}, "tokens.read[0]: not the 64 hex digits"),
        ({"listen": {"address": "proxy1"}}, "listen.address: 'proxy1' is not an IP address"),
        ({"listen": {"address": 7}}, "listen.address: 7 is not an IP address"),
        ({"listen": {"port": 70000}}, "listen.port: 70000 is not a number between 0 and 65535"),
        ({"listen": {"port": True}}, "listen.port: True is not a number"),
        ({"listen": {"host": 1}}, "listen.host: unknown; use address, port"),
        ({"server": {"threads": 2.5}}, "server.threads: 2.5 is not a number between 1 and 64"),
        ({"server": []}, "server: [] is not an object"),
        ({"rate": {"other": {}}}, "rate.other: unknown; use normal, safe, failed"),
        ({"rate": {"safe": {"per_minute": 0}}}, "rate.safe.per_minute: 0 is not a number between 1"),
        ({"rate": {"safe": 3}}, "rate.safe: 3 is not an object"),
        ({"rate": 3}, "rate: 3 is not an object"),
        ({"haproxy": {"socket": "run/x"}}, "haproxy.socket: 'run/x' is not an absolute path"),
        ({"metrics": {"allow": ["10.0.0.1/8"]}}, "metrics.allow[0]: '10.0.0.1/8' is not a network"),
        ({"metrics": {"allow": "10.0.0.0/8"}}, "metrics.allow: '10.0.0.0/8' is not a list"),
        ({"metrics": {"deny": []}}, 'metrics: give {"allow"'),
        ({"tls": {}}, "tls: not a section; use redis"),
        ({"alertmanager": "ops1:9093"}, "alertmanager: 'ops1:9093' is not an address such as http://"),
        ({"alertmanager": 9093}, "alertmanager: 9093 is not an address such as http://"),
        ({"steps": {"shares": [50, 5]}}, "shares"),
        ({"steps": []}, "steps"),
    ],
)
def test_a_wrong_value_is_refused_on_one_line(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({**LEAST, **change})
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_token_written_down_instead_of_its_hash_is_not_repeated_in_the_error() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({**LEAST, "tokens": {"write": ["hunter2hunter2"]}})
    assert "hunter2" not in str(caught.value)


def test_what_salt_writes_of_the_pillar_is_a_good_configuration_and_holds_no_token() -> None:
    jinja2 = pytest.importorskip("jinja2")
    admin = yaml.safe_load((ROOT / "pillar/admin.sls").read_text())["admin"]
    values = {
        "admin": admin,
        "traffic": yaml.safe_load((ROOT / "pillar/traffic.sls").read_text())["traffic"],
        "links": {"controller": {"redis": {"addresses": ["10.9.0.11:6379"], "password": "pw"}}},
        "fleet": {"subnet": "10.9.0.0/24", "hosts": {"proxy1": "10.9.0.10", "ops1": "10.9.0.20"}},
        "canary": yaml.safe_load((ROOT / "pillar/canary.sls").read_text())["canary"],
        "ops": yaml.safe_load((ROOT / "pillar/ops.sls").read_text())["ops"],
        "secrets": {"admin": {"read": "r" * 43, "write": "w" * 43}},
    }
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, extensions=["jinja2.ext.do"])
    environment.filters["json"] = lambda value, indent=None: json.dumps(value, indent=indent)
    hashes = {"r" * 43: "a" * 64, "w" * 43: "b" * 64}
    salt = {"hashutil.digest": lambda text, kind: hashes[text] if kind == "sha256" else None}
    text = environment.from_string((ROOT / "salt/proxy/admin.json.j2").read_text()).render(
        pillar=values, salt=salt
    )
    config = parse_config(json.loads(text))
    assert config.tokens == {"read": ("a" * 64,), "write": ("b" * 64,)}
    assert "r" * 43 not in text and "w" * 43 not in text
    assert [str(n) for n in config.metrics_allow] == ["10.9.0.0/24", "127.0.0.0/8"]
    assert config.alertmanager == "http://10.9.0.20:9093"
    # The pillar holds the defaults of the code.
    assert config.plan == Plan()
    default = Config(redis={}, tokens={})
    for name in ("address", "port", "threads", "request_s", "body_kib", "normal", "safe", "failed", "socket"):
        assert getattr(config, name) == getattr(default, name), name
    assert (config.status_file, config.orders_dir) == (default.status_file, default.orders_dir)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"port": 0}, "admin.port"),
        ({"threads": "8"}, "admin.threads"),
        ({"rate": {}}, "admin.rate.normal"),
        ({"metrics_allow": ["everybody"]}, "admin.metrics_allow.0"),
        ({"tokens": {}}, "admin.tokens"),
    ],
)
def test_a_wrong_value_in_the_pillar_is_refused_before_any_machine_gets_it(
    change: dict[str, Any], where: str
) -> None:
    whole = pillar.load(ROOT / "pillar")
    faults = list(pillar.faults({**whole, "admin": {**whole["admin"], **change}}))
    assert faults and faults[0].startswith(f"pillar/admin.sls: {where}:")
