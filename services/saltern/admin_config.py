"""The admin API's configuration: one JSON file, checked whole before anything listens."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .admin_auth import SCOPES
from .alertmanager import Alertmanager
from .errors import SalternError
from .redis_link import ConfigError, connect
from .steps import Plan

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Rate:
    """So many requests at once, then so many a minute."""

    per_minute: float
    burst: int


@dataclass(frozen=True)
class Config:
    """See ``parse_config`` for the JSON."""

    redis: Mapping[str, Any]
    """The parts ``redis_link.connect`` reads."""
    tokens: Mapping[str, tuple[str, ...]]
    """SHA-256 of each token in hex, by scope."""
    address: str = "0.0.0.0"
    port: int = 8081
    threads: int = 8
    request_s: float = 10.0
    """A connection that has not brought its whole request and taken its answer in this time is closed."""
    body_kib: int = 64
    socket: str = "/run/haproxy/admin.sock"
    state_dir: str = "/var/lib/saltern/traffic"
    socket_timeout_s: float = 1.0
    status_file: str = "/run/saltern/controller.json"
    orders_dir: str = "/var/lib/saltern/traffic/orders"
    normal: Rate = Rate(240, 60)
    """For each token and address, and for each address without a token."""
    safe: Rate = Rate(240, 60)
    """The same for what takes requests away from the canary: nobody's reading can use that up."""
    failed: Rate = Rate(20, 10)
    """Answers to wrong tokens, for each address."""
    metrics_allow: tuple[Network, ...] = field(default_factory=tuple)
    """Networks that may read /metrics without a token."""
    alertmanager: str = ""
    """Where silences are kept; "" is nowhere."""
    plan: Plan = field(default_factory=Plan)
    """The steps a release is taken through."""


_RATE = {"per_minute": (float, 1, 1_000_000), "burst": (int, 1, 1_000_000)}
_SECTIONS: Mapping[str, Mapping[str, tuple[type, float, float]]] = {
    "listen": {"port": (int, 0, 65535)},
    "server": {"threads": (int, 1, 64), "request_s": (float, 1, 600), "body_kib": (int, 1, 10_240)},
    "haproxy": {"socket": (str, 0, 0), "state_dir": (str, 0, 0), "timeout_ms": (float, 10, 60_000)},
    "controller": {"status_file": (str, 0, 0), "orders_dir": (str, 0, 0)},
}


def parse_config(document: Any) -> Config:
    """Make a Config of the JSON document::

        {"redis": {...}, "sentinel": {...},
         "listen": {"address": "0.0.0.0", "port": 8081},
         "tokens": {"read": ["<sha256 hex>"], "write": ["<sha256 hex>"]},
         "server": {"threads": 8, "request_s": 10, "body_kib": 64},
         "rate": {"normal": {"per_minute": 240, "burst": 60}, "safe": {...}, "failed": {...}},
         "haproxy": {"socket": "/run/haproxy/admin.sock", "state_dir": "/var/lib/saltern/traffic",
                     "timeout_ms": 1000},
         "controller": {"status_file": "/run/saltern/controller.json",
                        "orders_dir": "/var/lib/saltern/traffic/orders"},
         "metrics": {"allow": ["127.0.0.0/8"]},
         "alertmanager": "http://10.213.0.20:9093", "steps": {...}}

    ``steps`` is the pillar's `canary:steps`.

    Everything but ``redis`` and ``tokens`` may be left out. Raises ConfigError on an unknown key or a value
    that cannot be.
    """
    if not isinstance(document, dict):
        raise ConfigError("admin: the configuration is not a JSON object")
    known = (
        "redis", "sentinel", "listen", "tokens", "server", "rate", "haproxy", "controller", "metrics", "alertmanager",
        "steps",
    )  # fmt: skip
    for name in document:
        if name not in known:
            raise ConfigError(f"{name}: not a section; use {', '.join(known)}")
    link = {name: document[name] for name in ("redis", "sentinel") if name in document}
    connect(link).close()
    listen, server = _section(document, "listen", ("address",)), _section(document, "server")
    haproxy, controller = _section(document, "haproxy"), _section(document, "controller")
    default = Config(redis={}, tokens={})
    return Config(
        redis=link,
        tokens=_tokens(document.get("tokens")),
        address=_address(listen.get("address", default.address)),
        port=listen.get("port", default.port),
        threads=server.get("threads", default.threads),
        request_s=server.get("request_s", default.request_s),
        body_kib=server.get("body_kib", default.body_kib),
        socket=haproxy.get("socket", default.socket),
        state_dir=haproxy.get("state_dir", default.state_dir),
        socket_timeout_s=haproxy.get("timeout_ms", default.socket_timeout_s * 1000) / 1000,
        status_file=controller.get("status_file", default.status_file),
        orders_dir=controller.get("orders_dir", default.orders_dir),
        metrics_allow=_networks(document.get("metrics", {})),
        alertmanager=_alertmanager(document.get("alertmanager", "")),
        plan=_plan(document.get("steps", {})),
        **_rates(document.get("rate", {}), default),
    )


def _alertmanager(value: Any) -> str:
    try:
        return value and Alertmanager(value).url
    except (SalternError, AttributeError):
        raise ConfigError(
            f"alertmanager: {value!r} is not an address such as http://10.213.0.20:9093"
        ) from None


def _plan(value: Any) -> Plan:
    try:
        return Plan.from_data(value)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _section(document: Mapping[str, Any], name: str, unchecked: tuple[str, ...] = ()) -> dict[str, Any]:
    section = document.get(name, {})
    if not isinstance(section, dict):
        raise ConfigError(f"{name}: {section!r} is not an object")
    return {
        key: value if key in unchecked else _checked(f"{name}.{key}", key, value, _SECTIONS[name], unchecked)
        for key, value in section.items()
    }


def _checked(
    where: str,
    key: str,
    value: Any,
    known: Mapping[str, tuple[type, float, float]],
    others: tuple[str, ...] = (),
) -> Any:
    if key not in known:
        raise ConfigError(f"{where}: unknown; use {', '.join([*others, *known])}")
    kind, low, high = known[key]
    if kind is str:
        if not isinstance(value, str) or not value.startswith("/"):
            raise ConfigError(f"{where}: {value!r} is not an absolute path")
        return value
    if (
        isinstance(value, bool)
        or not isinstance(value, int if kind is int else int | float)
        or not low <= value <= high
    ):
        raise ConfigError(f"{where}: {value!r} is not a number between {low:g} and {high:g}")
    return value


def _address(value: Any) -> str:
    try:
        return str(ipaddress.ip_address(value if isinstance(value, str) else ""))
    except ValueError:
        raise ConfigError(
            f"listen.address: {value!r} is not an IP address; 0.0.0.0 is every IPv4 address of the machine"
        ) from None


def _tokens(value: Any) -> Mapping[str, tuple[str, ...]]:
    if not isinstance(value, dict) or not value:
        raise ConfigError(
            'tokens: missing; give the SHA-256 of each token, {"read": ["..."], "write": ["..."]}'
        )
    for scope, hashes in value.items():
        if scope not in SCOPES:
            raise ConfigError(f"tokens.{scope}: unknown; use {', '.join(SCOPES)}")
        if not isinstance(hashes, list) or not hashes:
            raise ConfigError(f"tokens.{scope}: not a list with at least one SHA-256")
        for at, text in enumerate(hashes):
            if not isinstance(text, str) or not re.fullmatch(r"[0-9a-f]{64}", text):
                # The value is not repeated: it may be a token written down in the wrong place.
                raise ConfigError(f"tokens.{scope}[{at}]: not the 64 hex digits of a SHA-256")
    return {scope: tuple(hashes) for scope, hashes in value.items()}


def _rates(value: Any, default: Config) -> dict[str, Rate]:
    if not isinstance(value, dict):
        raise ConfigError(f"rate: {value!r} is not an object")
    rates = {}
    for name, section in value.items():
        if name not in ("normal", "safe", "failed"):
            raise ConfigError(f"rate.{name}: unknown; use normal, safe, failed")
        if not isinstance(section, dict):
            raise ConfigError(f"rate.{name}: {section!r} is not an object")
        numbers = {key: _checked(f"rate.{name}.{key}", key, each, _RATE) for key, each in section.items()}
        own: Rate = getattr(default, name)
        rates[name] = Rate(numbers.get("per_minute", own.per_minute), numbers.get("burst", own.burst))
    return rates


def _networks(value: Any) -> tuple[Network, ...]:
    if not isinstance(value, dict) or value.keys() - {"allow"}:
        raise ConfigError('metrics: give {"allow": [networks]} and nothing else')
    allow = value.get("allow", [])
    if not isinstance(allow, list):
        raise ConfigError(f"metrics.allow: {allow!r} is not a list of networks")
    found = []
    for at, text in enumerate(allow):
        try:
            found.append(ipaddress.ip_network(text if isinstance(text, str) else ""))
        except ValueError:
            raise ConfigError(
                f"metrics.allow[{at}]: {text!r} is not a network; write one such as 10.213.0.0/24"
            ) from None
    return tuple(found)
