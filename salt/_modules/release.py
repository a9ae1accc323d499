"""
Releases of the product on this machine's disk: put one there, switch to it, give up old ones.

The state ``product`` does the same and all else that belongs to it; what is here is for a roll, which keeps a machine
out of traffic meanwhile. Both may be used in any order, and neither finds anything left to do after the other.
"""

import contextlib
import fcntl
import filecmp
import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path

from salt.exceptions import CommandExecutionError

__virtualname__ = "release"

ROOT = Path("/opt/product")
UNIT = "product"
PYTHON = "/usr/bin/python3"
"""What the product runs on; Salt has a Python of its own."""
MARKER = "RELEASE"
"""The last file of an artifact: a folder that has it was unpacked whole."""
RELEASE = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
STATES_S = 60.0
POLL_S = 0.1


def __virtual__():
    return __virtualname__


def put(release, source, sha256, platform="any", keep=None):
    """
    Have a release on the disk, beside what runs; one that is there already is left alone.

    release
        Its id

    source, sha256
        Where the artifact is, and the hash it has; it is checked before anything is unpacked

    platform
        The Python its native code is for, by its SOABI; any when it has none

    keep
        The releases that stay besides; others are given up first, which makes room. All stay if not given

    CLI Example:

    .. code-block:: bash

        salt prod1 release.put r6a4e5fac531f salt://artifacts/r6a4e5fac531f.tar.gz 6a4e5fac531f...
    """
    home = _home(release)
    gone = collect([release, *keep])["gone"] if keep is not None else []
    if (home / MARKER).exists():
        return {"release": release, "put": False, "gone": gone}
    _check_platform(release, platform)
    path = __salt__["cp.cache_file"](source)
    if not path:
        raise CommandExecutionError(f"{source} did not get there")
    try:
        _check_hash(release, path, sha256)
        with _lock("put"):
            if not (home / MARKER).exists():
                _unpack(path, home)
    except OSError as error:
        raise CommandExecutionError(f"{home}: {error.strerror}; is the machine's disk full?") from error
    finally:
        # Unpacked, it is needed no more.
        Path(path).unlink(missing_ok=True)
    return {"release": release, "put": True, "gone": gone}


def switch(release, source, sha256, platform="any", idle=False):
    """
    Have the product run a release: put it on the disk if it is not, point to it, start the product anew.

    A product that runs it already is left alone. States that are being applied are waited for: they may have been told
    of another release. Whether the product is well then is for whoever asked to find out.

    release, source, sha256, platform
        As ``release.put`` has them

    idle
        Whether the machine is drained. The product then ends at once: otherwise it waits two seconds on every
        connection that HAProxy keeps, for a request that may be on its way

    CLI Example:

    .. code-block:: bash

        salt prod1 release.switch r6a4e5fac531f salt://artifacts/r6a4e5fac531f.tar.gz 6a4e5fac531f...
    """
    home = _home(release)
    with _lock("switch"):
        _await_states()
        put(release, source, sha256, platform)
        link = ROOT / "current"
        was = link.readlink() if link.is_symlink() else None
        if was == home and _running() == release:
            return {"release": release, "was": release, "started": False}
        if was != home:
            half = link.with_name(f".current.{os.getpid()}")
            half.unlink(missing_ok=True)
            half.symlink_to(home)
            half.replace(link)
        _start(idle)
    return {"release": release, "was": was.name if was else "", "started": True}


def collect(keep):
    """
    Give up the releases on the disk that are not named; never the one that the product is to run.

    keep
        The ids of those that stay

    CLI Example:

    .. code-block:: bash

        salt 'prod*' release.collect '[r6a4e5fac531f, r0c6f4b1f9a33]'
    """
    for name in keep:
        _home(name)
    if not (ROOT / "releases").is_dir():
        return {"kept": [], "gone": []}
    with _lock("switch"), _lock("put"):
        stay = {*keep, (ROOT / "current").resolve().name}
        gone = sorted(name for name in _there() if name not in stay)
        for name in gone:
            home = _home(name)
            # Without the marker first: what is half gone is no release any more.
            (home / MARKER).unlink(missing_ok=True)
            shutil.rmtree(home)
    return {"kept": _there(), "gone": gone}


def _there():
    return sorted(path.name for path in (ROOT / "releases").iterdir() if RELEASE.fullmatch(path.name))


def _home(release):
    if not RELEASE.fullmatch(str(release)):
        raise CommandExecutionError(f"release {str(release)[:80]!r}: not a release id, such as r0123456789ab")
    return ROOT / "releases" / release


@contextlib.contextmanager
def _lock(name):
    (ROOT / "releases").mkdir(parents=True, exist_ok=True)
    with (ROOT / f".{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _check_platform(release, platform):
    if platform == "any":
        return
    asked = [PYTHON, "-c", "import sysconfig; print(sysconfig.get_config_var('SOABI'))"]
    mine = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    if mine != platform:
        raise CommandExecutionError(
            f"{release} is for {platform}, and this machine has {mine}; build it on a host of this machine's release"
        )


def _check_hash(release, path, sha256):
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    if digest.hexdigest() != sha256:
        raise CommandExecutionError(f"{release}: its sha256 is {digest.hexdigest()}, not {sha256}")


def _unpack(path, home):
    half = Path(tempfile.mkdtemp(prefix=".", dir=home.parent))
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                _extract(archive, member, half)
        _borrow_compiled(half)
        # Python would compile it at every start: the product may write nothing there.
        subprocess.run([PYTHON, "-m", "compileall", "-q", half, "-s", half, "-p", home], check=False)
        half.chmod(0o755)
        if home.is_dir():
            shutil.rmtree(home)  # without the marker: half of one
        half.rename(home)
    finally:
        shutil.rmtree(half, ignore_errors=True)


def _borrow_compiled(half):
    """
    Give what is the same as in the release that runs, which is most of it, what was compiled for that.

    Python takes it by the source's time and size; here it is the very same source. Where it lies, which is also written
    in there, Python sets right when it loads it.
    """
    running = ROOT / "current"
    for source in half.rglob("*.py"):
        there = running / source.relative_to(half)
        if not there.is_file() or not filecmp.cmp(source, there, shallow=False):
            continue
        for compiled in there.parent.glob(f"__pycache__/{source.stem}.*.pyc"):
            cache = source.parent / "__pycache__"
            cache.mkdir(exist_ok=True)
            os.link(compiled, cache / compiled.name)


def _extract(archive, member, folder):
    name = Path(member.name)
    if not member.isfile() or name.is_absolute() or ".." in name.parts:
        raise CommandExecutionError(
            f"{member.name!r} in an artifact: only files below its own folder are right"
        )
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.extractfile(member) as content, target.open("wb") as file:
        shutil.copyfileobj(content, file)
    os.utime(target, (member.mtime, member.mtime))


def _await_states():
    end = time.monotonic() + STATES_S
    while running := __salt__["saltutil.is_running"]("state.*"):
        if time.monotonic() > end:
            raise CommandExecutionError(f"{running[0]['fun']} is still under way after {STATES_S:g} s")
        time.sleep(POLL_S)


def _running():
    """The release that the product's process was started with; empty when it has none."""
    pid = _systemctl("show", "--property=MainPID", "--value", UNIT).stdout.strip()
    try:
        text = Path(f"/proc/{int(pid or 0)}/environ").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    said = dict(pair.partition("=")[::2] for pair in text.split("\0"))
    return said.get("PRODUCT_RELEASE", "")


def _start(idle):
    if idle:
        # To gunicorn this is the quick end, as SIGTERM is the graceful one; one that does not run needs none.
        _systemctl("kill", "--kill-who=main", "--signal=SIGQUIT", UNIT)
    if _systemctl("restart", UNIT).returncode:
        # One that died again and again is started no more until this is said.
        _systemctl("reset-failed", UNIT)
        done = _systemctl("restart", UNIT)
        if done.returncode:
            raise CommandExecutionError(f"systemctl restart {UNIT}: {done.stderr.strip()}")


def _systemctl(*arguments):
    return subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False)
