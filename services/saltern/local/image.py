"""The image every local machine starts from: a small Debian or Ubuntu of the host's own release.

It holds systemd, Python, a Salt minion in a virtual environment, the host's extra certificate authorities, and the
packages of every role in apt's cache, so that a new machine needs no network to take on its role. The image's name
is the hash of all that goes into it: a changed recipe is a new image, and an old one is never half-changed.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from fcntl import LOCK_EX, flock
from pathlib import Path

from saltern.errors import SalternError
from saltern.fleet import REPOSITORY, home, write_atomically
from saltern.shell import run

# Bump when the recipe below changes in a way its inputs do not show.
RECIPE = 1
BASE_PACKAGES = (
    "ca-certificates", "curl", "dbus", "iproute2", "less", "logrotate", "procps", "python3", "python3-venv",
    "systemd", "systemd-sysv", "tzdata", "unattended-upgrades",
)  # fmt: skip
ROLE_PACKAGES = (
    "git", "haproxy", "openssh-server", "prometheus-alertmanager", "python3-aiosmtpd", "redis-server", "redis-tools",
)  # fmt: skip
MINION_VENV = "/opt/saltern/salt"
SPACE_NEEDED_MIB = 3000
WHEELHOUSE = "wheels"

MINION_UNIT = f"""[Unit]
Description=Salt minion
After=network.target

[Service]
Type=notify
NotifyAccess=all
ExecStart={MINION_VENV}/bin/salt-minion -c /etc/salt
KillMode=process
LimitNOFILE=8192
Restart=always
RestartSec=2

[Install]
WantedBy=multi-user.target
"""


def os_release(path: Path = Path("/etc/os-release")) -> dict[str, str]:
    """The host's own description of itself."""
    return parse_os_release(path.read_text())


def parse_os_release(text: str) -> dict[str, str]:
    """A system's description of itself."""
    return dict(re.findall(r'^(\w+)="?(.*?)"?$', text, re.MULTILINE))


def apt_sources(texts: Iterable[tuple[str, str]], codename: str) -> str:
    """Those of the host's apt sources that carry the distribution itself, in the deb822 form.

    :param texts: (file name, content) of every sources file
    :param codename: the release, such as bookworm; a source for anything else is a third party's
    :raises SalternError: there is none
    """
    kept, carried = [], set()
    for name, text in texts:
        stanzas = (
            re.split(r"\n\s*\n", text)
            if name.endswith(".sources")
            else [_deb822(line) for line in text.splitlines() if re.match(r"\s*deb\s", line)]
        )
        for stanza in stanzas:
            fields = _fields(stanza)
            suites = [
                s for s in fields.get("suites", "").split() if s == codename or s.startswith(f"{codename}-")
            ]
            ours = [suite for suite in suites if not suite.endswith("-backports")]
            if (
                ours
                and len(suites) == len(fields["suites"].split())
                and "deb" in fields.get("types", "").split()
                and fields.get("enabled", "yes").lower()
                not in ("no", "false", "without", "off", "disable", "0")
                and "main" in fields.get("components", "").split()
            ):
                carried.update(ours)
                fields |= {"types": "deb", "suites": " ".join(ours)}
                keep = ("Types", "URIs", "Suites", "Components", "Signed-By")
                kept.append(
                    "\n".join(f"{key}: {fields[key.lower()]}" for key in keep if fields.get(key.lower()))
                )
    if codename not in carried:
        raise SalternError(
            f"apt: no source of this host carries {codename}; machines are made from the host's own sources"
        )
    return "\n\n".join(dict.fromkeys(kept)) + "\n"


def _fields(stanza: str) -> dict[str, str]:
    """The fields of a deb822 stanza by their lower-case names; a value keeps the lines it is continued on."""
    text = "\n".join(line for line in stanza.splitlines() if not line.startswith("#"))
    found = re.findall(r"^([\w-]+):[ \t]*(.*(?:\n[ \t]+.*)*)$", text, re.MULTILINE)
    return {name.lower(): value.rstrip() for name, value in found}


def _deb822(line: str) -> str:
    """One line of the old sources.list form as a deb822 stanza."""
    match = re.match(r"deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+(.+)$", line.split("#")[0].strip())
    if not match:
        return ""
    options, uri, suite, components = match.groups()
    signed = re.search(r"signed-by=(\S+)", options or "")
    stanza = f"Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: {components}"
    return f"{stanza}\nSigned-By: {signed[1]}" if signed else stanza


def host_sources(root: Path = Path("/etc/apt")) -> str:
    """The host's own apt sources for its own release."""
    files = [root / "sources.list", *sorted((root / "sources.list.d").glob("*"))]
    texts = [(f.name, f.read_text()) for f in files if f.is_file() and f.suffix in (".sources", ".list")]
    return apt_sources(texts, os_release()["VERSION_CODENAME"])


def host_authorities() -> list[Path]:
    """Certificate authorities that somebody added to this host; a machine behind the same proxy needs them too."""
    return sorted(Path("/usr/local/share/ca-certificates").rglob("*.crt"))


def key() -> str:
    """The image's name: a hash over all that goes into it."""
    digest = hashlib.sha256(str(RECIPE).encode())
    for part in (*BASE_PACKAGES, *ROLE_PACKAGES, MINION_UNIT, host_sources(), sys.version):
        digest.update(part.encode() + b"\0")
    for path in (REPOSITORY / "requirements" / "machine.txt", *host_authorities()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def images() -> Path:
    return home() / "images"


def path() -> Path:
    """Where the image is, or will be."""
    return images() / key()


def ready() -> bool:
    return (path() / "image.json").exists()


def free_mib(folder: Path) -> int:
    """Free space, MiB, where `folder` is or would be made."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free // (1024 * 1024)


def check_space() -> None:
    """Refuse to begin an image that cannot be finished.

    :raises SalternError: too little disk
    """
    if (free := free_mib(images())) < SPACE_NEEDED_MIB:
        raise SalternError(
            f"disk: {free} MiB free for {images()}, and the image needs {SPACE_NEEDED_MIB}; "
            "free some, or set SALTERN_HOME to a folder on a larger disk"
        )


def build(tell: Callable[[str], None] = lambda _: None) -> Path:
    """Make the image, unless it is there.

    :param tell: called with a few words at every stage
    :raises SalternError: too little disk, or a step failed; what was half made is removed
    """
    if ready():
        return path()
    images().mkdir(parents=True, exist_ok=True)
    with (images() / ".lock").open("w") as lock:
        flock(lock, LOCK_EX)  # two fleets starting at once build it once
        if ready():
            return path()
        _remove_half_made()
        check_space()
        half = images() / f".half.{key()}"
        half.mkdir()
        try:
            _build(half, tell)
            half.rename(path())
        except BaseException:
            _remove_tree(half)
            raise
    return path()


def _build(half: Path, tell: Callable[[str], None]) -> None:
    root = half / "root"
    (half / "host.sources").write_text(host_sources())
    release = os_release()
    tell(f"{release['ID']} {release['VERSION_CODENAME']}: base system")
    run(
        [
            "mmdebstrap", "--mode=root", "--variant=minbase", f"--include={','.join(BASE_PACKAGES)}",
            release["VERSION_CODENAME"], str(root), str(half / "host.sources"),
        ],
        log=str(half / "mmdebstrap.log"), timeout=900,
    )  # fmt: skip
    for authority in host_authorities():
        shutil.copy(authority, root / "usr/local/share/ca-certificates" / authority.name)
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    in_root = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--console=pipe", "-D", str(root)]
    if host_authorities():
        run([*in_root, "update-ca-certificates"], log=str(half / "ca.log"))
    tell("packages of every role")
    prefetch = (
        "rm -f /etc/apt/apt.conf.d/docker-clean; apt-get -q update && apt-get -qy --no-install-recommends "
        f"--download-only -o APT::Keep-Downloaded-Packages=true install {' '.join(ROLE_PACKAGES)}"
    )
    run([*in_root, "sh", "-c", prefetch], log=str(half / "prefetch.log"), timeout=900)
    tell("Salt minion")
    install = (
        f"python3 -m venv {MINION_VENV} && {MINION_VENV}/bin/pip install -q --no-index --no-deps "
        f"--disable-pip-version-check --find-links /wheels {' '.join(machine_wheels())} && "
        f"{MINION_VENV}/bin/python -m pip uninstall -qy pip"
    )
    run(
        [*in_root, f"--bind-ro={home() / WHEELHOUSE}:/wheels", "sh", "-c", install],
        log=str(half / "minion.log"), timeout=900,
    )  # fmt: skip
    (root / "etc/systemd/system/salt-minion.service").write_text(MINION_UNIT)
    for name in ("machine-id", "hostname"):
        (root / "etc" / name).write_text("")
    shutil.rmtree(root / "wheels", ignore_errors=True)
    run(["chroot", str(root), "systemctl", "--quiet", "enable", "salt-minion", "systemd-networkd"])
    # A machine has its address written down before it boots; waiting for it, or for a login, only costs start-up.
    run([
        "chroot", str(root), "systemctl", "--quiet", "mask", "systemd-networkd-wait-online.service",
        "getty.target", "console-getty.service", "apt-daily.timer",
    ])  # fmt: skip
    facts = {"key": key(), "recipe": RECIPE, "release": release["VERSION_CODENAME"]}
    write_atomically(half / "image.json", json.dumps(facts) + "\n")


def machine_wheels() -> list[str]:
    """The exact requirements of a machine's Salt, those of this host's Python: what the wheelhouse has."""
    lines = (REPOSITORY / "requirements" / "machine.txt").read_text().splitlines()
    from packaging.requirements import Requirement

    wanted = [Requirement(line.rstrip(" \\")) for line in lines if re.match(r"[a-z0-9]", line)]
    return [f"'{r.name}{r.specifier}'" for r in wanted if r.marker is None or r.marker.evaluate()]


def _remove_half_made() -> None:
    for folder in images().glob(".half.*"):
        _remove_tree(folder)


def purge() -> None:
    """Remove the images that no machine runs on and, with the last, the wheels and logs of their making."""
    mounts = Path("/proc/mounts").read_text()
    for folder in [*images().glob("[0-9a-f]*"), *images().glob(".half.*")]:
        if f"lowerdir={folder}/" not in mounts:
            _remove_tree(folder)
    if not any(images().glob("[0-9a-f]*")):
        for name in (images().name, WHEELHOUSE, "log"):
            shutil.rmtree(home() / name, ignore_errors=True)
        if home().is_dir() and not any(home().iterdir()):
            home().rmdir()


def _remove_tree(folder: Path) -> None:
    mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    inside = [m for m in mounted if m.startswith(f"{folder}/")]
    for mount in sorted(inside, reverse=True):
        run(["umount", "--lazy", mount])
    shutil.rmtree(folder)
