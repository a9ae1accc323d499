"""The product's configuration: one JSON file, read once at start and checked before anything else happens."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

DEFAULT_PATH = "/etc/product/config.json"
POOLS = ("prod", "canary")
THREADS = 8
RELEASE = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
INSTANCE = re.compile(r"[a-z][a-z0-9-]{0,62}")
ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s:\[\]/@]+):(?P<port>[0-9]{1,5})")


class ConfigError(ValueError):
    """The configuration cannot be used; the text says what, where and what would be right, in one line."""


@dataclass(frozen=True)
class RedisSettings:
    """Where the shared list and the flags live: the first address, unless the Sentinels are asked who the primary is.

    ``ca``: the authority, in PEM, whose certificates the servers must show; None where nothing is encrypted.
    """

    addresses: tuple[tuple[str, int], ...]
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca: str | None = field(default=None, repr=False)
    sentinel: "SentinelSettings | None" = None


@dataclass(frozen=True)
class SentinelSettings:
    """Whom to ask for the primary, and its name among them."""

    addresses: tuple[tuple[str, int], ...]
    service: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Config:
    """Everything that differs from one running instance to the next.

    ``flags`` are the same servers, entered as whoever may read the flags; ``threads`` is how many requests are worked
    on at once.
    """

    redis: RedisSettings
    flags: RedisSettings
    instance: str
    pool: str
    state_dir: Path
    release: str = "dev"
    threads: int = THREADS


def load(environ: Mapping[str, str] = os.environ) -> Config:
    """Read the file named by ``PRODUCT_CONFIG``, and what ``PRODUCT_RELEASE`` and ``PRODUCT_THREADS`` say.

    Raises:
        ConfigError: the file is missing, unreadable or not JSON, or a value in it is wrong.
    """
    path = environ.get("PRODUCT_CONFIG") or DEFAULT_PATH
    threads = environ.get("PRODUCT_THREADS", str(THREADS))
    if not re.fullmatch(r"[1-9][0-9]?", threads):
        raise ConfigError(f"PRODUCT_THREADS: {threads!r} is not a number from 1 to 99")
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}; PRODUCT_CONFIG must name a readable JSON configuration file"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON ({error}); write one JSON object") from error
    try:
        return replace(parse(document, environ.get("PRODUCT_RELEASE") or "dev"), threads=int(threads))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse(document: object, release: str = "dev") -> Config:
    """Check a configuration document; keys that are not known here are left to later releases.

    Raises:
        ConfigError: naming the first key at fault.
    """
    top = _mapping(document, "the document")
    redis = _mapping(_required(top, "redis"), "redis")
    instance = _text(_required(top, "instance"), "instance")
    if not INSTANCE.fullmatch(instance):
        raise ConfigError(f"instance: {instance!r} is not a machine id; one looks like prod1")
    pool = _text(_required(top, "pool"), "pool")
    if pool not in POOLS:
        raise ConfigError(f"pool: {pool!r} is not a pool; it is {' or '.join(POOLS)}")
    state_dir = Path(_text(_required(top, "state_dir"), "state_dir"))
    if not state_dir.is_absolute():
        raise ConfigError(f"state_dir: {str(state_dir)!r} is relative; give a path that starts with /")
    if not RELEASE.fullmatch(release):
        raise ConfigError(
            f"PRODUCT_RELEASE: {release!r} is not a release id; it is 1 to 64 of a-z, 0-9, '.', '-' and '_'"
        )
    settings = RedisSettings(
        _addresses(redis, "redis"),
        _optional(redis, "redis.username"),
        _optional(redis, "redis.password"),
        _authority(redis),
        _sentinel(top),
    )
    flags = settings
    if "flags" in top:
        login = _mapping(top["flags"], "flags")
        flags = replace(
            settings,
            username=_optional(login, "flags.username"),
            password=_optional(login, "flags.password"),
        )
    return Config(settings, flags, instance, pool, state_dir, release)


def _sentinel(top: Mapping[str, object]) -> SentinelSettings | None:
    if top.get("sentinel") is None:
        return None
    sentinel = _mapping(top["sentinel"], "sentinel")
    return SentinelSettings(
        _addresses(sentinel, "sentinel"),
        _text(sentinel.get("service"), "sentinel.service"),
        _optional(sentinel, "sentinel.username"),
        _optional(sentinel, "sentinel.password"),
    )


def _authority(redis: Mapping[str, object]) -> str | None:
    if redis.get("tls") is None:
        return None
    ca = _text(_mapping(redis["tls"], "redis.tls").get("ca"), "redis.tls.ca")
    if "BEGIN CERTIFICATE" not in ca:
        raise ConfigError("redis.tls.ca: not a certificate; give the authority's, in PEM")
    return ca


def _addresses(section: Mapping[str, object], name: str) -> tuple[tuple[str, int], ...]:
    given = section.get("addresses")
    if not isinstance(given, list) or not given:
        raise ConfigError(f'{name}.addresses: missing or empty; give a list such as ["10.213.0.11:6379"]')
    return tuple(_address(value, f"{name}.addresses[{index}]") for index, value in enumerate(given))


def _address(value: object, where: str) -> tuple[str, int]:
    match = ADDRESS.fullmatch(value) if isinstance(value, str) else None
    if not match or not 1 <= int(match["port"]) <= 65535:
        raise ConfigError(f"{where}: {value!r} is not host:port; one looks like 10.213.0.11:6379")
    return match["host"].strip("[]"), int(match["port"])


def _required(mapping: Mapping[str, object], key: str) -> object:
    if key not in mapping:
        raise ConfigError(f"{key}: missing; the file needs redis, instance, pool and state_dir")
    return mapping[key]


def _mapping(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: {_kind(value)} where a JSON object is needed")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{where}: {_kind(value)} where a non-empty string is needed")
    return value


def _optional(section: Mapping[str, object], where: str) -> str | None:
    value = section.get(where.rpartition(".")[2])
    if value is not None and not isinstance(value, str):
        raise ConfigError(f"{where}: {_kind(value)} where a string is needed")
    return value or None


def _kind(value: object) -> str:
    """How to speak of a wrong value without repeating it: it may hold the password."""
    if value == "":
        return "an empty string"
    return {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}.get(
        type(value), "a number"
    )
