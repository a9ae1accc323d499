"""A provider's configuration, checked: which cloud, whose credentials, what its sizes are called there."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from saltern import secrets
from saltern.clouds.patience import Patience
from saltern.errors import SalternError
from saltern.fleet import Fleet

# A secret is named by the environment variable that holds it.
VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{1,63}")
# What salt-cloud itself puts into a provider's settings.
SALTS_OWN = ("driver", "provider", "profiles", "minion", "keysize", "ssh_keys")
LONGEST_TIMEOUT = 600.0


@dataclass(frozen=True)
class Size:
    """:ivar name: ours; :ivar id: the cloud's; :ivar memory: MiB; :ivar cpus: processors"""

    name: str
    id: str
    memory: int
    cpus: float


@dataclass(frozen=True)
class Endpoint:
    """Where a cloud's API is, if not where libcloud looks for it. :ivar root: a path before every other"""

    host: str
    port: int
    secure: bool
    root: str = ""


@dataclass(frozen=True)
class Settings:
    """A provider.

    :ivar alias: its name in etc/cloud.providers.d
    :ivar provider: libcloud's name of the cloud
    :ivar fleet: whose machines it makes
    :ivar secrets: what proves who asks, by what libcloud calls it; never written to a log or an error
    :ivar timeout: seconds a single request may take
    :ivar options: what only this cloud knows; :ivar option_names: those there may be
    :ivar index_url: where machines get Python packages, if not from where pip looks by itself
    """

    alias: str
    provider: str
    fleet: Fleet
    secrets: Mapping[str, str] = field(repr=False)
    sizes: Mapping[str, Size]
    image: str
    location: str
    endpoint: Endpoint | None
    timeout: float
    patience: Patience
    options: Mapping[str, Any]
    option_names: tuple[str, ...]
    index_url: str = ""

    def size(self, name: object) -> Size:
        """The size by this name.

        :raises SalternError: there is none
        """
        if name not in self.sizes:
            raise SalternError(f"size {name!r}: {self.alias} has {_listed(self.sizes)}")
        return self.sizes[str(name)]

    def options_with(self, more: object) -> Mapping[str, Any]:
        """The provider's options, with a profile's over them.

        :raises SalternError: one is unknown
        """
        given = _mapping(f"provider {self.alias}", "options", more)
        return {**self.options, **_options(f"provider {self.alias}", given, self.option_names)}

    def size_asked(self, asked: Mapping[str, Any]) -> Size:
        """The size that `size=NAME` or `memory=MIB` asks for.

        :raises SalternError: neither or both are given, something else is, or there is no such size
        """
        if len(asked) != 1 or not set(asked) <= {"size", "memory"}:
            raise SalternError("resize: say memory=MIB or size=NAME, one of the two")
        if "size" in asked:
            return self.size(asked["size"])
        try:
            memory = float(asked["memory"])
        except (TypeError, ValueError) as error:
            raise SalternError(f"resize: memory={asked['memory']!r} is not a number") from error
        if isinstance(asked["memory"], bool) or not memory.is_integer():
            raise SalternError(f"resize: memory={asked['memory']!r} is not a whole number")
        return self.size_of_memory(int(memory))

    def size_of_memory(self, memory: int) -> Size:
        """The cheapest size with exactly this memory: the one that is listed first.

        :param memory: MiB
        :raises SalternError: there is none
        """
        for size in self.sizes.values():
            if size.memory == memory:
                return size
        has = ", ".join(str(size.memory) for size in self.sizes.values())
        raise SalternError(f"memory {memory}: no size of {self.alias} has it; they have {has} MiB")


def read(
    alias: str,
    config: Mapping[str, Any],
    secret_names: tuple[str, ...],
    option_names: tuple[str, ...],
    environment: Mapping[str, str] = os.environ,
    fleet: Fleet | None = None,
) -> Settings:
    """A provider's settings, of what stands in its configuration.

    :param alias: the provider's name there
    :param secret_names: what the cloud has to be told in secret, as libcloud calls it
    :param option_names: what only this cloud knows
    :param fleet: whose it is; else the one kept in its `state_dir`
    :raises SalternError: something is missing, unknown or of the wrong kind
    """
    where = f"provider {alias}"
    known = ("libcloud_provider", "state_dir", "secrets", "sizes", "image", "location", "host", "port", "secure",
             "api_root", "timeout", "patience", "options", "index_url")  # fmt: skip
    if unknown := sorted(set(config) - {*known, *SALTS_OWN}):
        raise SalternError(f"{where}: {unknown[0]!r} is unknown; known are {', '.join(known)}")
    for need in ("state_dir", "sizes", "image", "location"):
        if not config.get(need):
            raise SalternError(
                f"{where}: {need!r} is missing; write it into pillar/clouds.sls, under clouds: {alias}"
            )
    options = _options(where, config.get("options", {}), option_names)
    fleet = fleet or Fleet.load(config["state_dir"])
    return Settings(
        alias=alias,
        provider=str(config["libcloud_provider"]),
        fleet=fleet,
        secrets=_secrets(where, config, secret_names, environment, fleet),
        sizes=_sizes(where, config["sizes"]),
        image=str(config["image"]),
        location=str(config["location"]),
        endpoint=_endpoint(where, config),
        timeout=_number(where, "timeout", config.get("timeout", 30), LONGEST_TIMEOUT),
        patience=_patience(where, config.get("patience", {})),
        options=options,
        option_names=option_names,
        index_url=str(config.get("index_url", "")),
    )


def _options(where: str, given: object, names: tuple[str, ...]) -> Mapping[str, Any]:
    options = _mapping(where, "options", given)
    if unknown := sorted(set(options) - set(names)):
        raise SalternError(f"{where}: option {unknown[0]!r} is unknown; known are {_listed(names)}")
    return options


def _secrets(
    where: str,
    config: Mapping[str, Any],
    names: tuple[str, ...],
    environment: Mapping[str, str],
    fleet: Fleet,
) -> dict[str, str]:
    """Each secret from the environment variable the configuration names, else from the fleet's own secrets."""
    variables = _mapping(where, "secrets", config.get("secrets", {}))
    kept = secrets.load(fleet).get("clouds", {}) if fleet.secrets_file.exists() else {}
    found = {}
    for name in names:
        variable = variables.get(name)
        if not isinstance(variable, str) or not VARIABLE.fullmatch(variable):
            raise SalternError(
                f"{where}: secrets: {name} must name an environment variable, such as {name.upper()}; "
                "the secret itself does not belong here"
            )
        value = environment.get(variable) or kept.get(variable)
        if not value:
            raise SalternError(
                f'{where}: no {name}: set {variable} in the environment, or under "clouds" in {fleet.secrets_file}'
            )
        found[name] = value
    return found


def _sizes(where: str, given: object) -> dict[str, Size]:
    sizes = {}
    for name, about in _mapping(where, "sizes", given).items():
        about = _mapping(where, f"size {name}", about)
        if set(about) != {"id", "memory", "cpus"}:
            raise SalternError(f"{where}: size {name}: say id, memory (MiB) and cpus, no more and no less")
        memory = _number(where, f"size {name}: memory", about["memory"], 2**30)
        cpus = _number(where, f"size {name}: cpus", about["cpus"], 2**12)
        sizes[str(name)] = Size(str(name), str(about["id"]), int(memory), cpus)
    return sizes


def _endpoint(where: str, config: Mapping[str, Any]) -> Endpoint | None:
    if root := config.get("api_root"):
        parts = urlsplit(str(root))
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SalternError(f"{where}: api_root {root!r} is not a URL, such as https://api.example.org/v2")
        secure = parts.scheme == "https"
        return Endpoint(parts.hostname, parts.port or (443 if secure else 80), secure, parts.path.rstrip("/"))
    if host := config.get("host"):
        secure = config.get("secure", True)
        if not isinstance(secure, bool):
            raise SalternError(f"{where}: secure {secure!r} is not true or false")
        port = _number(where, "port", config.get("port", 443 if secure else 80), 65535)
        return Endpoint(str(host), int(port), secure)
    return None


def _patience(where: str, given: object) -> Patience:
    names = tuple(Patience.__dataclass_fields__)
    changes = {}
    for name, value in _mapping(where, "patience", given).items():
        if name not in names:
            raise SalternError(f"{where}: patience: {name!r} is unknown; known are {', '.join(names)}")
        changes[name] = _number(where, f"patience: {name}", value, 86_400)
    return Patience(**changes)


def _mapping(where: str, name: str, given: object) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise SalternError(f"{where}: {name}: {given!r} is not a mapping")
    return given


def _number(where: str, name: str, given: object, most: float) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given <= most:
        raise SalternError(f"{where}: {name} {given!r} is not a number above 0, and at most {most:g}")
    return float(given)


def _listed(names: object) -> str:
    return ", ".join(map(str, names)) or "none"  # type: ignore[call-overload]
