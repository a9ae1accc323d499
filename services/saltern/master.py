"""The fleet's Salt master on this host: its configuration, its process, and Salt's own commands run against it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import string
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import yaml

from saltern import pillar
from saltern.errors import SalternError
from saltern.fleet import LOCAL, REPOSITORY, SERVICE, Fleet, write_atomically
from saltern.local import cgroup
from saltern.shell import last_line

GROUP = "_master"
PORTS = (4505, 4506)
START_SECONDS = 60.0
# How many times the processor time of a machine that is as busy: it has to act just when machines leave it none.
PREFERENCE = 4
LINK = REPOSITORY / ".saltern"


def program(name: str) -> str:
    """One of Salt's commands, from the environment this runs in."""
    return str(Path(sys.executable).with_name(name))


def configuration(fleet: Fleet) -> dict[str, str]:
    """Every file of the master's configuration, by its path below `etc`, with the fleet's own values filled in."""
    # One, or a list of all, this one first: it is there.
    masters = json.dumps(fleet.masters if fleet.peers else fleet.master)
    values = {
        "name": fleet.name,
        "gateway": fleet.gateway,
        "master": masters,
        # Machines elsewhere cannot reach a master that listens on this host's own bridge.
        "rented_master": masters if fleet.cloud != LOCAL else '""',
        "user": fleet.user,
        "repository": str(REPOSITORY),
        "state_dir": str(fleet.state_dir),
        "pki": str(fleet.pki),
        "files": str(fleet.files),
        "pillar_dir": str(fleet.pillar_dir),
    }
    source = REPOSITORY / "etc"
    answer = {}
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        try:
            answer[path.relative_to(source).as_posix()] = _Template(path.read_text()).substitute(values)
        except (KeyError, ValueError) as error:
            raise SalternError(
                f"{path}: {error} cannot be filled in; known are {', '.join(f'${{{v}}}' for v in sorted(values))}"
            ) from error
    return clouds(fleet.cloud, answer, pillar.own_at_clouds(fleet.pillar_dir))


PROVIDERS, PROFILES = "cloud.providers.d", "cloud.profiles.d"


def clouds(chosen: str, files: Mapping[str, str], own: Mapping[str, Mapping]) -> dict[str, str]:
    """The files of a fleet whose machines come from one cloud: `salt-cloud -p prod prod6` means that one.

    :param chosen: the cloud
    :param files: every file of the configuration by its path, those of the local cloud as the default
    :param own: what the operator has set at each cloud; it goes over the provider's file
    """
    answer = dict(files)
    for name, changes in own.items():
        path = f"clouds/{name}/{PROVIDERS}/{name}.conf"
        if changes and path in answer:
            provider = yaml.safe_load(answer[path])
            provider[name].update(changes)
            answer[path] = yaml.safe_dump(provider, sort_keys=False)
    if chosen == LOCAL:
        return answer
    answer = {path: text for path, text in answer.items() if not path.startswith((PROVIDERS, PROFILES))}
    inside = f"clouds/{chosen}/"
    for path in [path for path in answer if path.startswith((inside + PROVIDERS, inside + PROFILES))]:
        answer[path.removeprefix(inside)] = answer[path]
    return answer


class _Template(string.Template):
    # Only ${name} is filled in: a bare $ means nothing in these files.
    pattern = r"\$(?:(?P<escaped>\$)|\{(?P<braced>[a-z_]+)\}|(?P<named>(?!))|(?P<invalid>(?!)))"


def configure(fleet: Fleet) -> bool:
    """Write the configuration into the fleet's state folder; whether anything was different."""
    changed = False
    wanted = configuration(fleet)
    for name, text in wanted.items():
        path = fleet.etc / name
        if not path.exists() or path.read_text() != text:
            write_atomically(path, text)
            changed = True
    for path in fleet.etc.rglob("*"):
        if path.is_file() and path.relative_to(fleet.etc).as_posix() not in wanted:
            path.unlink()
            changed = True
    for folder in ("run", "log", "cache", "files"):
        (fleet.state_dir / folder).mkdir(parents=True, exist_ok=True)
    return changed


def link(fleet: Fleet) -> None:
    """Point the checkout's Saltfile at this fleet, unless it points at another one that is there."""
    if LINK.is_symlink() and LINK.readlink() != fleet.state_dir and (LINK / "fleet.json").exists():
        return
    new = LINK.with_name(f".saltern.{os.getpid()}")
    new.symlink_to(fleet.state_dir)
    new.replace(LINK)


def unlink(fleet: Fleet) -> None:
    if LINK.is_symlink() and LINK.readlink() == fleet.state_dir:
        LINK.unlink()


def group(fleet: Fleet) -> str:
    return f"{fleet.cgroup}/{GROUP}"


def is_running(fleet: Fleet) -> bool:
    """Whether its main process lives; children that outlived it do not count, nobody conducts then."""
    try:
        main = int((fleet.state_dir / "run" / "master.pid").read_text())
    except (FileNotFoundError, ValueError):
        return False
    return main in cgroup.processes(group(fleet))


def answers(fleet: Fleet) -> bool:
    """Whether both of the master's ports accept a connection."""
    for port in PORTS:
        try:
            socket.create_connection((fleet.gateway, port), timeout=1).close()
        except OSError:
            return False
    return True


def start(fleet: Fleet) -> None:
    """Start the master, unless it runs, and wait until minions can reach it.

    :raises SalternError: it ended or did not answer in time
    """
    if fleet.installed:
        if not answers(fleet):
            raise SalternError(
                f"{SERVICE}: does not answer on {fleet.gateway}; `systemctl restart {SERVICE}`, and "
                f"`journalctl -u {SERVICE}` says why"
            )
        return
    if is_running(fleet) and answers(fleet):
        return
    stop(fleet)
    console = fleet.state_dir / "log" / "master.console"
    console.unlink(missing_ok=True)
    process = cgroup.popen(group(fleet), None, [program("salt-master"), "-c", str(fleet.etc)], console)
    cgroup.prefer(group(fleet), PREFERENCE)
    end = time.monotonic() + START_SECONDS
    while not answers(fleet):
        if process.poll() is not None or time.monotonic() > end:
            raise SalternError(
                f"salt-master: does not answer on {fleet.gateway}: {last_line(console.read_text(errors='replace'))} "
                f"(more in {fleet.state_dir / 'log'})"
            )
        time.sleep(0.1)


def stop(fleet: Fleet) -> None:
    """End the master; its work in progress is lost to it, not to the fleet."""
    alive = cgroup.processes(group(fleet))
    for pid in alive[:1]:
        os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + 3
    while cgroup.processes(group(fleet)) and time.monotonic() < end:
        time.sleep(0.05)
    cgroup.kill(group(fleet))
    cgroup.remove(group(fleet))


def command(fleet: Fleet, name: str, *arguments: str) -> list[str]:
    """A Salt command line for this fleet, whatever the Saltfile says."""
    return [program(name), "-c", str(fleet.etc), *arguments]


@contextmanager
def events(fleet: Fleet) -> Iterator[Iterator[tuple[str, dict]]]:
    """The master's event bus as (tag, data), while the context lasts. It is being listened to once this returns."""
    process = subprocess.Popen(
        command(fleet, "salt-run", "--log-level=quiet", "state.event", "count=-1"),
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        yield _read_events(fleet, process)
    finally:
        process.kill()  # it only listens
        process.wait()
        if process.stdout:
            process.stdout.close()


def _read_events(fleet: Fleet, process: subprocess.Popen) -> Iterator[tuple[str, dict]]:
    assert process.stdout is not None
    for line in process.stdout:
        tag, tab, text = line.rstrip("\n").partition("\t")
        if tab and text.startswith("{"):
            yield tag, json.loads(text)


def remove(fleet: Fleet) -> None:
    """Remove the fleet's state folder.

    :raises SalternError: something in it is in use, such as a machine that is being made just now
    """
    try:
        shutil.rmtree(fleet.state_dir)
    except OSError as error:
        raise SalternError(
            f"{fleet.state_dir}: cannot be removed ({error.strerror}: {error.filename!r}); end what still works in "
            "there, such as a salt-cloud, and run `./saltern down` again"
        ) from error
