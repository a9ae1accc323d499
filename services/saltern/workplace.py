"""What a product's repository starts with, what it is built with, and a person's working copy of it."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from saltern import artifact, secrets, ssh_keys
from saltern.artifact import Artifact
from saltern.errors import SalternError
from saltern.fleet import REPOSITORY, Fleet, home, role_of, write_atomically
from saltern.local.image import WHEELHOUSE
from saltern.shell import run

PRODUCT = REPOSITORY / "services" / "product"
SEED = PRODUCT / "seed"
FLAGS = REPOSITORY / "services" / "flags" / "src" / "openfeature_redis"
LOCKS = (PRODUCT / "requirements.txt", SEED / "requirements-test.txt")
TOOLS_LOCK = "tools.txt"
GIT_USER = "git"
REPOSITORY_NAME = "product.git"


def seed_files() -> dict[str, bytes]:
    """The product as a project of its own: with the flags it needs, its tests, its locks, and what is only needed
    where it stands alone (services/product/seed).
    """
    found: dict[str, bytes] = {}
    for source, below in ((PRODUCT, ""), (FLAGS, f"{FLAGS.name}/"), (SEED, "")):
        for path in sorted(source.rglob("*")):
            name = path.relative_to(source)
            wanted = path.is_file() and "__pycache__" not in name.parts and path.suffix != ".pyc"
            if wanted and not (
                source == PRODUCT and (name.parts[0] == SEED.name or name.parts[0].startswith("."))
            ):
                found[f"{below}{name.as_posix()}"] = path.read_bytes()
    return found


def wheels() -> dict[str, bytes]:
    """Every wheel that the product's locks name and this host's Python takes, and the lock of the tools.

    :raises SalternError: one is not in the wheelhouse
    """
    have = {_wheel(path.name): path for path in sorted((home() / WHEELHOUSE).glob("*.whl"))}
    found = {TOOLS_LOCK: LOCKS[1].read_bytes()}
    for name, version in _locked():
        if (name, version) not in have:
            raise SalternError(
                f"{name}=={version}: its wheel is not in {home() / WHEELHOUSE}; `./saltern up` fetches it"
            )
        path = have[name, version]
        found[path.name] = path.read_bytes()
    return found


def _wheel(filename: str) -> tuple[str, str]:
    """The project and version in a wheel's file name, the name as PEP 503 compares it."""
    name, version = filename.split("-")[:2]
    return re.sub(r"[-_.]+", "-", name).lower(), version


def _locked() -> Iterator[tuple[str, str]]:
    from packaging.requirements import Requirement

    for lock in LOCKS:
        for line in lock.read_text().splitlines():
            if not re.match(r"[a-z0-9]", line):
                continue
            each = Requirement(line.rstrip(" \\"))
            if each.marker is None or each.marker.evaluate():
                yield re.sub(r"[-_.]+", "-", each.name).lower(), str(each.specifier).removeprefix("==")


def build_parts(fleet: Fleet) -> dict[str, Artifact]:
    """Make what ops1 is given: the repository's first content (`seed`), and the wheels it builds with (`wheels`)."""
    made = {}
    for name, prefix, content in (
        ("seed", "s", artifact.archive(seed_files())),
        ("wheels", "w", artifact.archive(wheels(), level=0)),
    ):
        made[name] = artifact.store(fleet, artifact.described(content, prefix, artifact.ANY), content)
    keep_parts(fleet, made)
    return made


def keep_parts(fleet: Fleet, made: Mapping[str, Artifact]) -> None:
    """Write down what ops1 is given."""
    write_atomically(_parts_file(fleet), json.dumps({n: asdict(a) for n, a in made.items()}, indent=1) + "\n")


def _parts_file(fleet: Fleet) -> Path:
    return fleet.state_dir / "pipeline.json"


def parts(fleet: Fleet) -> dict[str, Artifact]:
    """What `build_parts` made.

    :raises SalternError: nothing was made, or it cannot be read
    """
    path = _parts_file(fleet)
    try:
        return {name: Artifact(**values) for name, values in json.loads(path.read_text()).items()}
    except (FileNotFoundError, ValueError, TypeError, AttributeError) as error:
        raise SalternError(
            f"{path}: not the parts of the pipeline ({error}); `./saltern up` makes them"
        ) from error


# --- a person's working copy


def access(fleet: Fleet) -> tuple[str, str]:
    """How git reaches the fleet's repository: its URL, and the ssh command that knows both keys.

    :raises SalternError: the fleet has no ops machine, or its secrets cannot be read
    """
    machines = {name: at for name, at in fleet.addresses().items() if role_of(name) == "ops"}
    if not machines:
        raise SalternError(f"clone: fleet {fleet.name} has no ops machine; `./saltern up` makes one")
    address = machines[min(machines)]
    kept = secrets.load(fleet)["pipeline"]
    folder = fleet.state_dir / "git"
    folder.mkdir(mode=0o700, exist_ok=True)
    write_atomically(folder / "key", kept["push_key"], 0o600)
    # The host's key is the one the master gave it: nobody has to trust the first answer.
    write_atomically(folder / "known_hosts", f"{address} {ssh_keys.public(kept['host_key'])}\n")
    options = (
        f"-F /dev/null -i {folder / 'key'} -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=yes "
        f"-o UserKnownHostsFile={folder / 'known_hosts'} -o GlobalKnownHostsFile=/dev/null -o ConnectTimeout=10"
    )
    return f"ssh://{GIT_USER}@{address}/srv/git/{REPOSITORY_NAME}", f"ssh {options}"


def clone(fleet: Fleet, target: Path, tell: Callable[[str], None] = lambda _: None) -> Path:
    """Make a working copy with remote, key, pre-commit hook and an environment for the hook.

    :raises SalternError: there is something at `target`, or a step failed
    """
    target = target.absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise SalternError(f"clone: {target} is there already; name another folder: ./saltern clone DIR")
    url, ssh = access(fleet)
    tell(f"cloning {url}")
    run(["git", "clone", "--quiet", "--config", f"core.sshCommand={ssh}", url, str(target)], timeout=120)
    hook = target / ".git" / "hooks" / "pre-commit"
    hook.write_bytes((SEED / "hooks" / "pre-commit").read_bytes())
    hook.chmod(hook.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    tell("an environment for the tests")
    environment = target / ".venv"
    run([sys.executable, "-m", "venv", str(environment)], timeout=120)
    locks = [
        part for lock in ("requirements.txt", "requirements-test.txt") for part in ("-r", str(target / lock))
    ]
    run(
        [str(environment / "bin" / "pip"), "install", "-q", "--disable-pip-version-check", "--no-index",
         "--require-hashes", "--find-links", str(home() / WHEELHOUSE), *locks],
        timeout=300,
    )  # fmt: skip
    if not _identity(target):
        run(["git", "-C", str(target), "config", "user.name", os.environ.get("USER", "somebody")])
        run(
            [
                "git",
                "-C",
                str(target),
                "config",
                "user.email",
                f"{os.environ.get('USER', 'somebody')}@fleet.test",
            ]
        )
    return target


def _identity(target: Path) -> bool:
    """Whether git knows who commits."""
    done = subprocess.run(
        ["git", "-C", str(target), "config", "user.email"], capture_output=True, text=True, check=False
    )
    return bool(done.stdout.strip())
