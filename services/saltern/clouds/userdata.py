"""What a rented machine is told at its first boot: cloud-init data that makes it a minion of its fleet, with no ssh.

The same locked packages go into it as into a local machine's image, each checked against its hash. The minion's key is
in there, so that the master knows it before it first calls: whoever can read a machine's user data could be that
machine, which is why nobody but root may ask the cloud's metadata service for it afterwards.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from saltern.errors import SalternError
from saltern.local.image import BASE_PACKAGES, MINION_UNIT, MINION_VENV

LOCK_PATH = "/usr/local/share/saltern/minion.txt"
JOIN_PATH = "/usr/local/sbin/saltern-join"
GUARD_PATH = "/etc/saltern/metadata.nft"
# Beside a local machine's: what the guard is made with.
PACKAGES = (*BASE_PACKAGES, "nftables")
# What a source distribution is built with; installed first, so that building fetches nothing that is not locked.
BUILDERS = ("packaging", "setuptools", "wheel")
# Published as source in C only, and Salt runs without: it reads dates in free words with it, which nothing here writes.
# A machine that serves the public needs no compiler for that.
LEFT_OUT = ("timelib",)
# Where clouds answer who asks from inside a machine: nearly all of them, Azure's second; by IPv6 EC2, OpenStack, Linode
# and Google. Only what they say over HTTP is kept to root: Azure and Google resolve names at the same addresses, for
# everybody.
METADATA_IPV4 = ("169.254.169.254", "168.63.129.16")
METADATA_IPV6 = ("fd00:ec2::254", "fe80::a9fe:a9fe", "fd00:a9fe:a9fe::1", "fd20:ce::254")
METADATA_PORTS = (80, 443, 32526)


def _guard() -> str:
    ports = ", ".join(map(str, METADATA_PORTS))
    rules = (
        f"    {family} daddr {{ {', '.join(addresses)} }} tcp dport {{ {ports} }} meta skuid != 0 counter reject\n"
        for family, addresses in (("ip", METADATA_IPV4), ("ip6", METADATA_IPV6))
    )
    return (
        "table inet saltern_metadata {\n"
        "  chain output {\n"
        "    type filter hook output priority filter; policy accept;\n"
        f"{''.join(rules)}"
        "  }\n"
        "}\n"
    )


GUARD = _guard()
GUARD_UNIT = f"""[Unit]
Description=Nobody but root asks the cloud for this machine's data
DefaultDependencies=no
Before=network-pre.target
Wants=network-pre.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStartPre=-/usr/sbin/nft delete table inet saltern_metadata
ExecStart=/usr/sbin/nft -f {GUARD_PATH}

[Install]
WantedBy=multi-user.target
"""
JOIN = """#!/bin/sh
# Makes this machine a minion of its fleet. Harmless to run again: what is there is left as it is.
set -eu
venv={venv}
lock={lock}

# Networks and mirrors fail now and then, most of all at a first boot.
insist() {{
  for pause in 5 15 45 90 0; do
    "$@" && return 0
    [ "$pause" = 0 ] || sleep "$pause"
  done
  echo "saltern-join: failed for good: $*" >&2
  return 1
}}

install_packages() {{
  apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -qy --no-install-recommends install {packages}
}}

install_minion() {{
  python3 -m venv --clear "$venv" &&
    pip_install "$lock.build" &&
    pip_install "$lock"
}}

pip_install() {{
  "$venv/bin/pip" install -q --disable-pip-version-check --no-deps --no-build-isolation --require-hashes {index}-r "$1"
}}

has_minion() {{ "$venv/bin/salt-minion" --version 2>/dev/null | grep -qwF '{version}'; }}

insist install_packages
systemctl daemon-reload
systemctl enable --quiet --now saltern-metadata.service
has_minion || insist install_minion
systemctl enable --quiet --now salt-minion.service
"""


@dataclass(frozen=True)
class Minion:
    """Who the machine is to be.

    :ivar config: its minion's configuration, YAML
    :ivar private_key: PEM
    :ivar public_key: PEM
    :ivar master_key: the master's public key, PEM: no other master is believed
    """

    name: str
    config: str
    private_key: str = field(repr=False)
    public_key: str
    master_key: str


def write(minion: Minion, lock: str, *, index_url: str = "") -> str:
    """The user data for one machine.

    :param lock: the requirements of its Salt, with hashes; see `pruned`
    :param index_url: where its packages come from, if not from where pip looks by itself
    :raises SalternError: the lock has no Salt, or the URL is none
    """
    document = {
        "hostname": minion.name,
        "preserve_hostname": False,
        "manage_etc_hosts": True,
        # The same on every image, and none has to be generated.
        "locale": "C.UTF-8",
        "ssh_pwauth": False,
        "disable_root": True,
        "write_files": [
            _file(path, text, f"{mode:04o}")
            for path, (text, mode) in files(minion, lock, index_url=index_url).items()
        ],
        "runcmd": [[JOIN_PATH]],
    }
    # JSON is YAML.
    return "#cloud-config\n" + json.dumps(document, separators=(",", ":")) + "\n"


def files(minion: Minion, lock: str, *, index_url: str = "") -> dict[str, tuple[str, int]]:
    """What a machine must have before `JOIN_PATH` is run there as root: path → (content, mode). See `write`."""
    version = re.search(r"^salt==([\w.]+)", lock, re.MULTILINE)
    if not version:
        raise SalternError("requirements: the lock names no version of salt")
    if index_url and not re.fullmatch(r"https?://[\w.:@%/~+-]+", index_url):
        raise SalternError(f"index_url {index_url!r} is not a URL of an index of Python packages")
    builders, rest = _split(lock)
    join = JOIN.format(
        venv=MINION_VENV, lock=LOCK_PATH, packages=" ".join(PACKAGES), version=version[1],
        index=f"--index-url '{index_url}' " if index_url else "",
    )  # fmt: skip
    return {
        "/etc/salt/minion": (minion.config, 0o640),
        "/etc/salt/pki/minion/minion.pem": (minion.private_key, 0o400),
        "/etc/salt/pki/minion/minion.pub": (minion.public_key, 0o644),
        "/etc/salt/pki/minion/minion_master.pub": (minion.master_key, 0o644),
        "/etc/systemd/system/salt-minion.service": (MINION_UNIT, 0o644),
        "/etc/systemd/system/saltern-metadata.service": (GUARD_UNIT, 0o644),
        GUARD_PATH: (GUARD, 0o644),
        JOIN_PATH: (join, 0o755),
        LOCK_PATH: (rest, 0o644),
        f"{LOCK_PATH}.build": (builders, 0o644),
    }


def _file(path: str, text: str, mode: str) -> dict[str, str]:
    """A file for cloud-init: what is long goes compressed, because user data has a limit of 16 KiB on EC2."""
    about = {"path": path, "owner": "root:root", "permissions": mode}
    if len(text) < 600:
        return {**about, "content": text}
    packed = base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()
    return {**about, "encoding": "gz+b64", "content": packed}


def _split(lock: str) -> tuple[str, str]:
    parts: dict[bool, list[str]] = {True: [], False: []}
    for name, lines in _entries(lock):
        if name not in LEFT_OUT:
            parts[name in BUILDERS].append("\n".join(lines))
    return "\n".join(parts[True]) + "\n", "\n".join(parts[False]) + "\n"


def _entries(lock: str) -> list[tuple[str, list[str]]]:
    """The entries of a lock file: each a package's name and its lines."""
    found: list[tuple[str, list[str]]] = []
    for line in lock.splitlines():
        if match := re.match(r"([a-z0-9][a-z0-9._-]*)==", line):
            found.append((match[1], [line]))
        elif line.lstrip().startswith("--hash=") and found:
            found[-1][1].append(line)
    return found


def pruned(lock: str, held: Collection[str], environment: Mapping[str, str] | None = None) -> str:
    """A lock shortened to what one kind of machine installs.

    :param held: SHA-256 sums, hex, of the packages such a machine has been seen to install. A package none of whose
        hashes is among them keeps all it has: it is published as source, which has few.
    :param environment: PEP 508 values of that machine's Python, this one's where not given
    """
    from packaging.requirements import Requirement

    kept = []
    for _, lines in _entries(lock):
        requirement = Requirement(lines[0].rstrip(" \\"))
        if requirement.marker and not requirement.marker.evaluate(dict(environment or {})):
            continue
        hashes = [match[1] for line in lines[1:] if (match := re.search(r"sha256:([0-9a-f]{64})", line))]
        wanted = [each for each in hashes if each in held] or hashes
        head = f"{requirement.name}{requirement.specifier}"
        kept.append(" \\\n".join([head, *(f"  --hash=sha256:{each}" for each in wanted)]))
    return "\n".join(kept) + "\n"


def held_wheels(folder: Path) -> set[str]:
    """The SHA-256 sums of the wheels this master's own machines are made with."""
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.whl"))}
