"""`saltern install-master` and `restore`: a fresh Debian machine becomes a fleet's master, run by its own systemd.

Every step looks first and does only what is missing, so that it can be broken off anywhere and run again, and run on a
master that is as it should be changes nothing. The same command with other code is the upgrade: the old release stays
beside the new one, and where the new master does not answer, the old one is put back.
"""

from __future__ import annotations

import dataclasses
import grp
import ipaddress
import json
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from saltern import master, pillar, secrets
from saltern.errors import SalternError
from saltern.fleet import NO_CLOUD, REPOSITORY, SERVICE, SERVICE_USER, Fleet, home, write_atomically
from saltern.local import network
from saltern.production import backup, place, releases
from saltern.shell import last_line, run

LEAST_MEMORY_MIB = 900
ANSWER_SECONDS = 120.0
# Of the fleet's folder: who may reach this machine's sshd.
CHOICES = "install.json"
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Facts:
    """What this machine is like.

    :ivar init: what runs as process 1
    :ivar memory: MiB
    :ivar interfaces: as `ip -json address` tells
    :ivar busy: what is at work already that would be in the way, one line each
    """

    init: str
    memory: int
    interfaces: Sequence[Mapping]
    busy: Sequence[str] = ()


@dataclass(frozen=True)
class Wanted:
    """What the command asks for; None leaves a thing as it is.

    :ivar address: where the master shall listen
    :ivar subnet: the network of its machines
    :ivar known_as: a name that machines are told instead of the address
    :ivar ssh_from: the network that may reach this machine's sshd; empty for everybody
    :ivar peers: addresses of the fleet's other masters
    """

    address: str | None = None
    subnet: str | None = None
    known_as: str | None = None
    ssh_from: str | None = None
    peers: tuple[str, ...] | None = None


def look(fleet: Fleet) -> Facts:
    """Look at this machine."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    busy = []
    if not fleet.installed:
        for port in place.MASTER_PORTS:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    busy.append(f"port {port} is taken: another Salt master runs here; end it first")
    return Facts(
        Path("/proc/1/comm").read_text().strip(),
        int(lines["MemTotal"].split()[0]) // 1024,
        network.links(),
        busy,
    )


def refusal(facts: Facts) -> str | None:
    """Why this machine cannot be a master, or None."""
    if facts.init != "systemd":
        return (
            f"this machine is run by {facts.init}, not by systemd; a master takes a machine of its own, and "
            "`./saltern up` makes a fleet on this one"
        )
    if facts.memory < LEAST_MEMORY_MIB:
        return f"this machine has {facts.memory} MiB of memory; a master takes at least {LEAST_MEMORY_MIB}"
    return next(iter(facts.busy), None)


def choose_address(interfaces: Iterable[Mapping], address: str | None, subnet: str | None) -> tuple[str, str]:
    """Where the master listens, and the network its machines are in.

    :param address: if it was said; it must be this machine's
    :param subnet: if it was said, else that of the interface
    :raises SalternError: this machine has no such address, or several that could be meant

    >>> choose_address([{"ifname": "eth0", "addr_info": [
    ...     {"family": "inet", "local": "10.1.2.3", "prefixlen": 20}]}], None, None)
    ('10.1.2.3', '10.1.0.0/20')
    """
    own = {
        about["local"]: ipaddress.IPv4Interface(f"{about['local']}/{about['prefixlen']}")
        for interface in interfaces
        for about in interface.get("addr_info", ())
        if about["family"] == "inet" and interface["ifname"] != "lo"
    }
    usable = {at: it for at, it in own.items() if it.is_private and not it.is_link_local}
    if address is None:
        if len(usable) != 1:
            raise SalternError(
                f"address: this machine has {', '.join(usable) or 'no private address'}; say which machines reach the "
                "master at: --address 10.110.0.2"
            )
        address = next(iter(usable))
    if address not in own:
        raise SalternError(
            f"address {address}: this machine has {', '.join(own) or 'none'}; give it that one, or say another with "
            "--address (docs/production.md, `Another address`)"
        )
    return address, subnet or str(own[address].network)


def ssh_ports(told: str) -> tuple[int, ...]:
    """Where sshd listens, of what `sshd -T` prints.

    >>> ssh_ports("port 2222\\nport 22\\nlistenaddress 0.0.0.0:22")
    (22, 2222)
    """
    return tuple(sorted(int(port) for port in re.findall(r"^port (\d+)$", told, re.MULTILINE))) or (22,)


def settled(fleet: Fleet, wanted: Wanted, facts: Facts) -> Fleet:
    """The fleet as it is to be: what was said, over what it has, over what this machine suggests.

    :raises SalternError: that is not possible here
    """
    if fleet.exists() and not fleet.installed:
        raise SalternError(
            f"fleet {fleet.name}: its machines are on this host; a master of its own takes another machine, or "
            f"`./saltern down --fleet {fleet.name}` first"
        )
    kept = fleet if fleet.exists() else None
    address, subnet = choose_address(
        facts.interfaces,
        wanted.address or (kept.address if kept else None),
        wanted.subnet or (kept.subnet if kept else None),
    )
    return dataclasses.replace(
        fleet,
        subnet=subnet,
        address=address,
        known_as=fleet.known_as if wanted.known_as is None else wanted.known_as,
        cloud=kept.cloud if kept else NO_CLOUD,
        pillar_dir=place.CURRENT / "pillar",
        installed=True,
        peers=fleet.peers if wanted.peers is None else wanted.peers,
    )


def deploy() -> Path:
    """Lay this checkout's code among the releases; where it is, which is here for a release that is laid already."""
    os.umask(0o022)
    laid = REPOSITORY.parent == place.RELEASES
    code = REPOSITORY if laid else releases.lay(REPOSITORY, place.RELEASES)
    releases.link(code / ".venv", Path(sys.prefix).resolve())
    return code


def install(fleet: Fleet, wanted: Wanted, tell: Tell, *, way_back: bool = True) -> list[str]:
    """Make this machine the fleet's master, or bring it to what it should be; what was changed.

    This runs from the release that is to be in use.

    :param way_back: put the release before back if this one does not answer
    :raises SalternError: this machine cannot be one, or the master does not answer; a master that was there before is
        back then
    """
    facts = look(fleet)
    if words := refusal(facts):
        raise SalternError(words)
    pillar.load(REPOSITORY / "pillar")
    if wanted.ssh_from:
        _network(wanted.ssh_from)
    made = settled(fleet, wanted, facts)
    before = place.CURRENT.resolve() if place.CURRENT.exists() else None
    _user(made)
    made.state_dir.parent.mkdir(parents=True, exist_ok=True)
    replaced = before if way_back and before and before != REPOSITORY and fleet.exists() else None
    changed: list[str] = []
    try:
        with made.locked("up", wait=False):
            if replaced:
                place.BACKUPS.mkdir(parents=True, exist_ok=True, mode=0o700)
                target = place.BACKUPS / f"before-{REPOSITORY.name}.tar.gz"
                tell(f"what there was is in {backup.write(fleet, replaced, str(target))}")
            _put(made, wanted, changed, tell)
            removed = releases.prune(place.RELEASES, REPOSITORY)
    except SalternError as error:
        if replaced is None or place.CURRENT.resolve() == replaced:
            raise
        tell(f"going back to {replaced.name}")
        _go_back(replaced, made)
        raise SalternError(f"{error}; {replaced.name} is in use again") from error
    return changed + [f"removed {name}" for name in removed]


def _put(fleet: Fleet, wanted: Wanted, changed: list[str], tell: Tell) -> None:
    kept = fleet.state_dir / CHOICES
    choices = json.loads(kept.read_text()) if kept.exists() else {"ssh_from": ""}
    if wanted.ssh_from is not None:
        choices["ssh_from"] = wanted.ssh_from
    # Stays if this is broken off: the master that runs then is not the one that is written down.
    due = fleet.state_dir / "restart-due"
    restart = due.exists()
    due.touch()
    tell("files")
    for folder, mode in ((place.OWN_RULES, 0o755), (place.BACKUPS, 0o700)):
        folder.mkdir(parents=True, exist_ok=True, mode=mode)
    files = place.files(fleet, home(), ssh_ports(_sshd()), choices["ssh_from"])
    _check_firewall(files[place.FIREWALL].text)
    wrote = [path for path, file in files.items() if _write(path, file)]
    changed += map(str, wrote)
    if releases.link(place.CURRENT, REPOSITORY):
        changed.append(f"release {REPOSITORY.name}")
    fleet.save()
    fleet.state_dir.chmod(0o750)
    secrets.ensure(fleet)
    if not kept.exists() or json.loads(kept.read_text()) != choices:
        write_atomically(kept, json.dumps(choices) + "\n")
    if master.configure(fleet):
        changed.append("the master's configuration")
    own(fleet.state_dir)
    tell("services")
    if not fleet.peers and place.SHARE_UNIT.exists():
        run(["systemctl", "disable", "--quiet", "--now", place.SHARE_SERVICE])
        place.SHARE_UNIT.unlink()
        changed.append(f"{place.SHARE_UNIT} is gone")
    run(["systemctl", "daemon-reload"])
    run(["systemctl", "enable", "--quiet", place.FIREWALL_SERVICE, SERVICE, f"{place.BACKUP_SERVICE}.timer"])
    run(["systemctl", "start", f"{place.BACKUP_SERVICE}.timer", place.FIREWALL_SERVICE])
    if place.FIREWALL in wrote:
        run(["systemctl", "reload", place.FIREWALL_SERVICE])
    try:
        run(["systemctl", "restart" if changed or restart else "start", SERVICE], timeout=ANSWER_SECONDS)
    except SalternError as error:
        raise SalternError(f"{SERVICE}: does not start: {_last_words()}") from error
    if fleet.peers:
        run(["systemctl", "enable", "--quiet", place.SHARE_SERVICE])
        run(["systemctl", "restart" if changed or restart else "start", place.SHARE_SERVICE])
    tell(f"waiting for the master to answer at {fleet.gateway}")
    end = time.monotonic() + ANSWER_SECONDS
    while not master.answers(fleet):
        if time.monotonic() > end:
            raise SalternError(f"{SERVICE}: does not answer on {fleet.gateway}: {_last_words()}")
        time.sleep(0.2)
    due.unlink()


def _last_words() -> str:
    """What the master itself said last, not what systemd said of it."""
    command = ["journalctl", "-q", "-n", "20", "-o", "cat", f"_SYSTEMD_UNIT={SERVICE}.service"]
    return last_line(subprocess.run(command, capture_output=True, text=True, check=False).stdout)


def _go_back(before: Path, fleet: Fleet) -> None:
    """Have the release that was in use put itself back."""
    command = [
        str(before / ".venv" / "bin" / "python"),
        "-m",
        "saltern.cli",
        "install-master",
        "--fleet",
        fleet.name,
    ]
    run(command, env={**os.environ, "PYTHONPATH": str(before / "services")}, timeout=3 * ANSWER_SECONDS)


def _network(text: str) -> None:
    """:raises SalternError: it is no network"""
    try:
        ipaddress.IPv4Network(text)
    except ValueError as error:
        raise SalternError(
            f"--ssh-from {text!r}: {error}; a network such as 198.51.100.0/24 is right"
        ) from error


def _sshd() -> str:
    """What sshd says of itself; nothing where there is none."""
    path = shutil.which("sshd", path="/usr/sbin:/usr/bin")
    if path is None:
        return ""
    # Debian's sshd wants its folder even to print; one that does not run yet listens where it always does.
    return subprocess.run([path, "-T"], capture_output=True, text=True, check=False).stdout


def _check_firewall(text: str) -> None:
    """:raises SalternError: nft does not understand it, such as a rule of the operator's own"""
    done = subprocess.run(["nft", "-c", "-f", "-"], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        words = next((line for line in done.stderr.splitlines() if "Error:" in line), last_line(done.stderr))
        raise SalternError(f"firewall: {words}; rules of your own are in {place.OWN_RULES}")


def _write(path: Path, file: place.File) -> bool:
    """Whether it was different."""
    if path.exists() and path.read_text() == file.text and path.stat().st_mode & 0o777 == file.mode:
        return False
    write_atomically(path, file.text, file.mode)
    return True


def _user(fleet: Fleet) -> None:
    """The master's user. Its home is what it may write to: of another ssh complains in words that salt-ssh misreads."""
    try:
        grp.getgrnam(SERVICE_USER)
    except KeyError:
        run(["groupadd", "--system", SERVICE_USER])
    try:
        pwd.getpwnam(SERVICE_USER)
    except KeyError:
        nologin = ["--no-create-home", "--home-dir", str(fleet.state_dir), "--shell", "/usr/sbin/nologin"]
        run(["useradd", "--system", "--gid", SERVICE_USER, *nologin, SERVICE_USER])


def own(folder: Path) -> None:
    """Give all of the fleet's folder to the master's user."""
    user = pwd.getpwnam(SERVICE_USER)
    for here, names, files in os.walk(folder):
        for path in (Path(here), *(Path(here, name) for name in [*names, *files])):
            about = os.lstat(path)
            if (about.st_uid, about.st_gid) != (user.pw_uid, user.pw_gid):
                os.lchown(path, user.pw_uid, user.pw_gid)


def become_service(fleet: Fleet) -> None:
    """Go on as the master's user: what a command writes is the master's to read and change.

    :raises SalternError: whoever this is may not
    """
    user = pwd.getpwnam(SERVICE_USER)
    if os.geteuid() == user.pw_uid:
        return
    if os.geteuid() != 0:
        raise SalternError(f"must run as root or {SERVICE_USER}; try: sudo saltern")
    os.initgroups(user.pw_name, user.pw_gid)
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    os.environ["HOME"] = str(fleet.state_dir)
    os.umask(0o027)


def restore(source: str, *, force: bool, tell: Tell) -> tuple[Path, str]:
    """Lay a backup's state and code where they belong; the code's folder and the fleet's name. `install` is next, from
    that code.

    :param force: put it in place of what is there, which is moved aside
    :raises SalternError: it is damaged, or a master is here already
    """
    os.umask(0o022)
    manifest, found = backup.read(source)
    try:
        about = json.loads(found[f"{backup.STATE}/fleet.json"])
        state_dir = Path(about["state_dir"])
        fleet = Fleet(about["name"], about["subnet"], state_dir, installed=bool(about["installed"]))
    except (KeyError, ValueError, TypeError) as error:
        raise SalternError(
            f"{source}: holds no fleet's description ({error!r}); take another backup"
        ) from error
    if state_dir != home() / fleet.name:
        raise SalternError(
            f"{source}: its fleet is kept in {state_dir}; say SALTERN_HOME={state_dir.parent} before the command"
        )
    if (words := refusal(look(dataclasses.replace(fleet, installed=state_dir.exists())))) is not None:
        raise SalternError(words)
    if state_dir.exists():
        if not force:
            raise SalternError(
                f"{state_dir}: fleet {fleet.name} is kept here already; `--force` moves it aside and puts the backup "
                "in its place"
            )
        if master_runs():
            run(["systemctl", "stop", SERVICE], timeout=ANSWER_SECONDS)
        aside = state_dir.with_name(
            f"{state_dir.name}.before-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
        )
        state_dir.rename(aside)
        tell(f"what there was is in {aside}")
    half = state_dir.with_name(f".{state_dir.name}.restoring")
    shutil.rmtree(half, ignore_errors=True)
    tell(f"keys and state of fleet {fleet.name}, kept {manifest.made}")
    backup.lay_state(manifest, found, half)
    half.rename(state_dir)
    tell(f"release {manifest.release}")
    place.RELEASES.mkdir(parents=True, exist_ok=True)
    return backup.lay_code(manifest, found, place.RELEASES), fleet.name


def master_runs() -> bool:
    """Whether systemd runs a master here."""
    return subprocess.run(["systemctl", "-q", "is-active", SERVICE], check=False).returncode == 0
