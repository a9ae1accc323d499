"""The product's feature flags, by OpenFeature: evaluated in this process, followed in the fleet's Redis.

An evaluation asks nobody. The provider's thread hears of a change within milliseconds; while Redis is away the last
set stays in force, and a process that starts meanwhile takes it from the disk.
"""

import logging
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from openfeature import api
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import OpenFeatureError
from openfeature_redis import RedisProvider

from product.config import Config, RedisSettings

log = logging.getLogger("product.flags")

TIMEOUT = 0.5
"""Longest wait for one answer of one Redis server, in seconds. A process that starts tries each of them once."""

VISITOR = re.compile(r"[A-Za-z0-9_-]{16,64}")
"""A visitor's id: what a rollout to some of the visitors goes by."""

ANYBODY = "anybody"
"""Stands for all who have no id: a rollout reaches all of them or none."""

COOKIE = "product-visitor"
COOKIE_SECONDS = 365 * 24 * 3600
"""How long a visitor is remembered, in seconds: so long a rollout treats them alike."""


@dataclass(frozen=True)
class Features:
    """What the flags say for one visitor. The values here hold for a flag that is disabled or not there."""

    font_color: str = ""
    disable_set: bool = False
    show_picture: bool = False
    site_title: str = ""
    new_layout: bool = False


DEFAULT = Features()


def provider(settings: RedisSettings, snapshot: Path) -> RedisProvider:
    """The provider over all servers of the fleet's Redis, read from a replica where there is one."""
    watch = settings.sentinel
    servers = settings.addresses if watch is None else watch.addresses
    return RedisProvider(
        [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in servers],
        sentinel=None if watch is None else watch.service,
        username=settings.username,
        password=settings.password,
        sentinel_username=None if watch is None else watch.username,
        sentinel_password=None if watch is None else watch.password,
        tls=False if settings.ca is None else ssl.create_default_context(cadata=settings.ca),
        snapshot=snapshot,
        timeout=TIMEOUT,
    )


class Flags:
    """The flags of one process. Made and started after the fork: following them takes a thread."""

    def __init__(self, settings: Config, domain: str = "product") -> None:
        """``domain`` is OpenFeature's: it keeps several of these in one process apart."""
        self._provider = provider(settings.flags, settings.state_dir / "flags.json")
        self._domain = domain
        self._client = api.get_client(domain)
        self._facts = {"instance": settings.instance, "pool": settings.pool, "release": settings.release}

    def start(self) -> None:
        """Read the flags, from the disk if Redis is away, and follow them until the process ends."""
        try:
            api.set_provider_and_wait(self._provider, self._domain)
        except OpenFeatureError as error:
            # The provider goes on trying, and the product serves with what its code says.
            log.warning("no flags yet: %s", error)

    def close(self) -> None:
        """Stop following; from now on the code's own values hold."""
        self._provider.shutdown()

    def features(self, visitor: str | None) -> Features:
        """What holds for this visitor now; None is one without an id."""
        context = EvaluationContext(visitor or ANYBODY, self._facts)
        text, yes = self._client.get_string_value, self._client.get_boolean_value
        return Features(
            font_color=text("font_color", DEFAULT.font_color, context),
            disable_set=yes("disable_set", DEFAULT.disable_set, context),
            show_picture=yes("show_picture", DEFAULT.show_picture, context),
            site_title=text("site_title", DEFAULT.site_title, context),
            new_layout=yes("new_layout", DEFAULT.new_layout, context),
        )

    @property
    def status(self) -> str:
        """How the provider stands, as OpenFeature names it: READY, STALE, ERROR or NOT_READY."""
        return self._client.get_provider_status().value


def visitor_of(cookies: Mapping[str, str]) -> str | None:
    """The visitor's id among the cookies of a request, or None."""
    found = cookies.get(COOKIE, "")
    return found if VISITOR.fullmatch(found) else None
