"""One way for every Saltern daemon to reach Redis: plain addresses, or Sentinel when it is configured.

A daemon's configuration holds::

    {"redis": {"addresses": ["10.213.0.11:6379"], "username": "controller", "password": "...", "timeout_s": 1.0,
     "tls": {"ca": "-----BEGIN CERTIFICATE-----..."}},
     "sentinel": {"addresses": ["10.213.0.11:26379"], "service": "saltern", "username": "...", "password":
     "..."}}

Without ``sentinel`` the first address is the primary. With it, every new connection asks Sentinel who the
primary is, so writers reach the right machine after a failover. With ``tls`` Redis and Sentinel are spoken to
encrypted, and must show a certificate of that authority.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry
from redis.sentinel import (
    MasterNotFoundError,
    Sentinel,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

DEFAULT_TIMEOUT_S = 1.0
"""Long enough for a busy primary, short enough that a silent one is noticed within a resync interval."""
SENTINEL_TIMEOUT_S = 0.4
"""Sentinel does nothing but answer such questions; one that is silent for longer is passed over."""
KEEPALIVE = {socket.TCP_KEEPIDLE: 5, socket.TCP_KEEPINTVL: 2, socket.TCP_KEEPCNT: 2}
"""Seconds, seconds and probes: a subscription, on which nobody is owed an answer, whose other end is gone without
a word is noticed within ten seconds."""


class ConfigError(ValueError):
    """A configuration value that cannot be used; the text says where, what, and what would be right."""


def parse_address(text: object, where: str) -> tuple[str, int]:
    """Split ``host:port`` (or ``[v6]:port``) into its parts.

    Raises ConfigError when either part is missing or the port is not between 1 and 65535.
    """
    host, colon, port = text.rpartition(":") if isinstance(text, str) else ("", "", "")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise ConfigError(f"{where}: {text!r} is not an address; write host:port, such as 10.213.0.11:6379")
    return host, int(port)


def connect(config: Mapping[str, Any]) -> redis.Redis:
    """Make a client for the primary. Nothing is sent until it is first used.

    A command whose connection turns out to be dead is tried once more on a new connection; a command that
    timed out is not, because it may have been carried out.

    Raises ConfigError when ``redis.addresses``, ``redis.tls`` or ``sentinel`` is missing or malformed.
    """
    link = _section(config, "redis")
    timeout = link.get("timeout_s", DEFAULT_TIMEOUT_S)
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout <= 0:
        raise ConfigError(f"redis.timeout_s: {timeout!r} is not a number of seconds above 0")
    options: dict[str, Any] = {
        **_common(link, timeout),
        "decode_responses": True,
        "retry": Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        "username": link.get("username"),
        "password": link.get("password"),
    }
    if config.get("sentinel") is None:
        host, port = _addresses(link, "redis")[0]
        return redis.Redis(host=host, port=port, **options)
    kind = _EncryptedConnection if "ssl" in options else _Connection
    return watchers(config).master_for(_service(config), connection_class=kind, **options)


class _Sentinels(Sentinel):
    def discover_master(self, service_name: str) -> tuple[str, int]:
        try:
            return super().discover_master(service_name)
        except MasterNotFoundError as error:
            asked = [each.connection_pool.connection_kwargs for each in self.sentinels]
            names = ", ".join(f"{each['host']}:{each['port']}" for each in asked)
            raise MasterNotFoundError(
                f"no primary of {service_name!r} is known to {names} just now"
            ) from error


class _HangsUp:
    """Ends a connection on which an answer was waited for in vain, as connections without Sentinel do.

    redis-py (8.1) keeps such a connection when it came through Sentinel: the next command is sent to the same silent
    server, for ever, and should it wake up, its late answer is taken for that command's.
    """

    def read_response(self, *arguments: Any, **options: Any) -> Any:
        options.setdefault("disconnect_on_error", True)
        return super().read_response(*arguments, **options)  # type: ignore[misc]


class _Connection(_HangsUp, SentinelManagedConnection):
    pass


class _EncryptedConnection(_HangsUp, SentinelManagedSSLConnection):
    pass


def watchers(config: Mapping[str, Any]) -> Sentinel:
    """The Sentinels of a configuration, each of which is a client of its own in ``.sentinels``.

    Raises ConfigError as ``connect``.
    """
    watch = _section(config, "sentinel")
    _service(config)
    return _Sentinels(
        _addresses(watch, "sentinel"),
        sentinel_kwargs={
            **_common(_section(config, "redis"), SENTINEL_TIMEOUT_S),
            "decode_responses": True,
            # Who does not answer at once is passed over: the next one knows as much.
            "retry": Retry(NoBackoff(), 0),
            "username": watch.get("username"),
            "password": watch.get("password"),
        },
    )


def _common(link: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    """What a connection to Redis and one to Sentinel have in common."""
    options: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "socket_keepalive": True,
        "socket_keepalive_options": KEEPALIVE,
    }
    tls = link.get("tls")
    if tls is not None:
        ca = tls.get("ca") if isinstance(tls, Mapping) else None
        if not isinstance(ca, str) or "BEGIN CERTIFICATE" not in ca:
            raise ConfigError("redis.tls.ca: not a certificate; give the authority's, in PEM")
        options |= {"ssl": True, "ssl_ca_data": ca, "ssl_check_hostname": True}
    return options


def _service(config: Mapping[str, Any]) -> str:
    service = _section(config, "sentinel").get("service")
    if not isinstance(service, str) or not service:
        raise ConfigError(
            f"sentinel.service: {service!r} is not a name; write the name Sentinel watches, such as saltern"
        )
    return service


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = config.get(name)
    if not isinstance(section, Mapping):
        raise ConfigError(f'{name}: missing; give {name}.addresses, such as ["10.213.0.11:6379"]')
    return section


def _addresses(section: Mapping[str, Any], name: str) -> list[tuple[str, int]]:
    addresses = section.get("addresses")
    if not isinstance(addresses, list | tuple) or not addresses:
        raise ConfigError(
            f"{name}.addresses: {addresses!r} is not a list of host:port with at least one entry"
        )
    return [parse_address(text, f"{name}.addresses[{at}]") for at, text in enumerate(addresses)]
