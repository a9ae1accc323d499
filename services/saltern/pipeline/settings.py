"""The worker's configuration: one JSON file that Salt writes, checked before anything begins."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from saltern.errors import SalternError


@dataclass(frozen=True)
class Settings:
    """:ivar home: where records are (see `records`); :ivar repository: the bare git repository
    :ivar sandbox: unix socket that begins a build in a sandbox
    :ivar wheels: see `runner.Order`, likewise :ivar tools: and :ivar cache:; into the last of the folders goes what is
        fetched; :ivar python: one with pip, which fetches
    :ivar address: where records and artifacts are served; :ivar port: TCP; :ivar subnet: who may read them
    :ivar token: what a request to cancel must carry
    :ivar branches: branch → prod or canary
    :ivar keep: artifacts; :ivar builds: records
    :ivar free_mib: with less disk than that nothing is taken on
    :ivar build_s: seconds a whole build may take; :ivar serve_s: seconds it is watched until it serves
    :ivar link: how to reach Redis, as user observer (see `redis_link`); empty: nothing is confirmed or watched
    :ivar mail: `host:port`, `from`, `to`, `require_tls`, `username`, `password`, `ca_file`; empty: none is sent
    :ivar url: where the product is reached
    """

    home: Path
    repository: Path
    sandbox: Path
    wheels: Sequence[str]
    tools: str
    cache: str
    address: str
    port: int
    subnet: str
    token: str
    python: str = "python3"
    branches: Mapping[str, str] = field(default_factory=dict)
    keep: int = 20
    builds: int = 200
    free_mib: int = 200
    build_s: float = 600.0
    serve_s: float = 300.0
    fleet: str = "saltern"
    machine: str = "ops1"
    link: Mapping[str, Any] = field(default_factory=dict)
    mail: Mapping[str, Any] = field(default_factory=dict)
    url: str = ""

    @property
    def builds_url(self) -> str:
        return f"http://{self.address}:{self.port}/builds"


def parse(values: Mapping[str, Any]) -> Settings:
    """:raises ValueError: a value is missing or not right"""
    try:
        made = Settings(
            **{**values, **{name: Path(values[name]) for name in ("home", "repository", "sandbox")}}
        )
        ipaddress.ip_network(made.subnet)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"not the pipeline's configuration ({error}); `salt 'ops*' state.apply` writes it"
        ) from error
    return made


def read(path: Path) -> Settings:
    """:raises SalternError: it is missing, or a value is not right"""
    try:
        return parse(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise SalternError(f"{path}: {error}") from error
