"""`./saltern up --cloud NAME`, `status` and `down` of a fleet whose machines are rented.

The same steps as on the local cloud, with what differs there: secrets, machines that take minutes to come, addresses
that are known only then, and a cloud to be asked what there is.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import yaml

from saltern import master, members, pillar, secrets, up
from saltern.errors import SalternError
from saltern.fleet import NO_CLOUD, Fleet, role_of, write_atomically
from saltern.joining import JOINED
from saltern.local import network
from saltern.shell import last_line

# A rented machine boots, installs its minion from the network, and takes on its role.
READY_SECONDS = 1800.0
PING_SECONDS = 5
# Who has said nothing is asked now and then: it may have come before anybody listened.
ASK_SECONDS = 30.0
PLACEHOLDER = "of-your-region"


def provider(fleet: Fleet) -> dict[str, Any]:
    """The settings of the fleet's provider, as salt-cloud gets them.

    :raises SalternError: the fleet has no cloud, or the pillar sets something wrong
    """
    if fleet.cloud == NO_CLOUD:
        raise SalternError(f"fleet {fleet.name}: no cloud is chosen; say which: --cloud digitalocean")
    text = master.configuration(fleet)[f"{master.PROVIDERS}/{fleet.cloud}.conf"]
    return yaml.safe_load(text)[fleet.cloud]


def settings(fleet: Fleet) -> Any:
    """The same, checked, with its secrets (saltern.clouds.settings.Settings).

    :raises SalternError: something is missing or wrong; one line says what, where, and what would be right
    """
    # libcloud is a second's import, and only a fleet on rented machines needs it.
    from saltern.clouds import dialects
    from saltern.clouds import settings as checked

    config = provider(fleet)
    spoken = dialects.of(config["libcloud_provider"])
    found = checked.read(fleet.cloud, config, spoken.secrets, spoken.options, fleet=fleet)
    if found.image.endswith(PLACEHOLDER):
        raise SalternError(
            f"provider {fleet.cloud}: no image is chosen; write one of {found.location} into pillar/clouds.sls, under "
            f"clouds: {fleet.cloud}: image"
        )
    return found


def cloud(fleet: Fleet) -> Any:
    """The fleet's cloud, to be asked (saltern.clouds.cloud.Cloud).

    :raises SalternError: it is not configured, does not answer, or does not know us
    """
    from saltern.clouds import cloud as clouds
    from saltern.clouds import dialects

    found = settings(fleet)
    return clouds.Cloud(found, dialects.of(found.provider))


def keep_secrets(fleet: Fleet, environment: Mapping[str, str] = os.environ) -> None:
    """What proves who asks is kept with the fleet's secrets: its master makes machines too, and has no terminal."""
    named = {
        variable for variable in provider(fleet).get("secrets", {}).values() if environment.get(variable)
    }
    kept = secrets.load(fleet)
    merged = {**kept.get("clouds", {}), **{variable: environment[variable] for variable in named}}
    if merged and merged != kept.get("clouds"):
        write_atomically(fleet.secrets_file, json.dumps({**kept, "clouds": merged}, indent=1) + "\n", 0o600)


def start(fleet: Fleet, progress: up.Progress, machines: Iterable[str]) -> None:
    """Bring the fleet to what it should be, from wherever it is; see `up.up`.

    :raises SalternError: something is missing, or a step failed; what was done stays
    """
    wanted = tuple(dict.fromkeys(machines))
    for name in wanted:
        role_of(name)
    pillar.load(fleet.pillar_dir)
    cloud(fleet)
    _has_master(fleet)
    fleet.save()
    with fleet.locked("up", wait=False):
        fleet.mean(wanted)
        secrets.ensure(fleet)
        keep_secrets(fleet)
        progress.tell("release artifacts")
        up.build_releases(fleet)
        configured = master.configure(fleet)
        if not fleet.installed:
            master.link(fleet)
            if configured and master.is_running(fleet):
                master.stop(fleet)
        progress.tell("Salt master")
        master.start(fleet)
        _machines(fleet, wanted, progress)
        if any(role_of(name) == "redis" for name in wanted):
            members.begin(fleet)


def _has_master(fleet: Fleet) -> None:
    """:raises SalternError: rented machines could not reach a master here"""
    own = [about["local"] for link in network.links() for about in link.get("addr_info", ())]
    if not fleet.installed and fleet.gateway not in own:
        raise SalternError(
            f"fleet {fleet.name}: no master is installed here; `./saltern install-master` on a machine in the network "
            "of the machines to be rented, and then this command there"
        )


def _machines(fleet: Fleet, wanted: tuple[str, ...], progress: up.Progress) -> None:
    there = cloud(fleet).made()
    for name in wanted:
        progress.stage(name, "booted" if name in there else "waiting")
    missing = [name for name in wanted if name not in there]
    stopped = [name for name in wanted if name in there and there[name].state == "stopped"]
    progress.tell(f"machines: {len(missing)} to rent, {len(stopped)} to start at {fleet.cloud}")
    with up._Watch(fleet) as watch:
        with up._creating(fleet, missing) as creating:
            for name in stopped:
                cloud(fleet).start(name)
            while creating and creating.poll() is None:
                _heard(progress, watch.next(0.5))
            if creating:
                up._check_made(fleet, missing, creating.returncode)
        progress.tell("waiting for the minions")
        _connected(fleet, wanted, progress, watch)
        # Only now is every address known, and told to everybody.
        for last in (False, True):
            again = [name for name in wanted if progress.machines[name] != "ready"]
            if not again:
                break
            progress.tell(f"once more: {', '.join(again)}" if last else "configuring")
            _configured(fleet, again, progress, watch)
    if failed := [name for name in wanted if progress.machines[name] != "ready"]:
        more = f" (and {len(failed) - 1} more: {', '.join(failed[1:])})" if failed[1:] else ""
        raise SalternError(
            f"{failed[0]}: {progress.faults.get(failed[0], 'no answer')}{more}; `saltern up` goes on from here"
        )


def _heard(progress: up.Progress, event: tuple[str, dict] | None) -> None:
    """Note how far a machine has come, of an event or none."""
    progress.draw()
    understood = up.understand(*event) if event else None
    if understood is None:
        return
    name, stage, _ = understood
    come = progress.machines.get(name)
    if stage in ("booted", "connected") and come and up.STAGES.index(stage) > up.STAGES.index(come):
        progress.stage(name, stage)


def _connected(fleet: Fleet, names: Iterable[str], progress: up.Progress, watch: up._Watch) -> None:
    """Wait until every minion has come; one that was there before is asked.

    :raises SalternError: some do not
    """
    end = time.monotonic() + READY_SECONDS
    ask = 0.0
    while pending := [name for name in names if progress.machines[name] in ("waiting", "booted")]:
        if time.monotonic() > ask:
            for name in _answering(fleet, pending):
                progress.stage(name, "connected")
            ask = time.monotonic() + ASK_SECONDS
        if time.monotonic() > end:
            raise SalternError(
                f"{', '.join(sorted(pending))}: no answer in {READY_SECONDS:g} s; the machine's "
                "/var/log/cloud-init-output.log says how far it came"
            )
        _heard(progress, watch.next(0.5))


def _answering(fleet: Fleet, names: Iterable[str]) -> set[str]:
    who = ",".join(sorted(names))
    done = subprocess.run(
        master.command(
            fleet, "salt", "--out=json", "--static", "-t", str(PING_SECONDS), "-L", who, "test.ping"
        ),
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        return set()  # nobody is there yet: salt says so in words
    return {name for name, value in answer.items() if value is True}


def _configured(fleet: Fleet, names: list[str], progress: up.Progress, watch: up._Watch) -> None:
    """Have machines take on their roles, and follow that very job to its end."""
    pending = set(names)
    job = up._apply(fleet, names)
    for name in names:
        progress.stage(name, "configuring")
    end = time.monotonic() + READY_SECONDS
    while pending and time.monotonic() < end:
        event = watch.next(0.5)
        progress.draw()
        if event is None or not event[0].startswith(f"salt/job/{job}/ret/"):
            continue
        understood = up.understand(*event)
        if understood is None or understood[0] not in pending:
            continue
        name, _, details = understood
        progress.changed[name], faults = up.outcome(details)
        if faults:
            progress.faults[name] = faults[0]
        progress.stage(name, "failed" if faults else "ready")
        pending.discard(name)


def describe(fleet: Fleet) -> tuple[dict[str, dict], dict[str, list[str]], list[str]]:
    """Every machine of inventory and cloud with what a person asks for; the public addresses; what to know besides."""
    known = fleet.inventory()
    if fleet.cloud == NO_CLOUD:
        return {name: {**about, "state": JOINED, "usage": None} for name, about in known.items()}, {}, []
    try:
        there = {node.name: node for node in cloud(fleet).nodes()}
    except SalternError as error:
        unknown = {name: {**about, "state": "unknown", "usage": None} for name, about in known.items()}
        return unknown, {}, [f"the cloud cannot be asked ({error})"]
    notes = [
        f"{name}: at {fleet.cloud}, and not in the inventory; `salt-cloud -d {name}` ends it, or "
        f"`salt-cloud -f sweep {fleet.cloud}` if it was never finished"
        for name in sorted(set(there) - set(known))
    ]
    machines = {
        name: {**about, "state": _state(name, about, there), "usage": None} for name, about in known.items()
    }
    return machines, {name: list(node.public_ips) for name, node in there.items()}, notes


def _state(name: str, about: Mapping[str, Any], there: Mapping[str, Any]) -> str:
    if about["profile"] == JOINED:
        return JOINED
    return there[name].state if name in there else "gone"


def end(fleet: Fleet, tell: Callable[[str], None]) -> None:
    """End every machine of the fleet at its cloud, and what was begun; what joined is left, an installed master stays.

    :raises SalternError: one is still there
    """
    if fleet.cloud != NO_CLOUD:
        _end_machines(fleet, tell)
    if not fleet.installed:
        tell("Salt master")
        master.stop(fleet)
        master.unlink(fleet)
        master.remove(fleet)


def _end_machines(fleet: Fleet, tell: Callable[[str], None]) -> None:
    asked = cloud(fleet)

    def left() -> list[str]:
        rented = {name for name, about in fleet.inventory().items() if about["profile"] != JOINED}
        return sorted({node.name for node in asked.nodes()} | rented)

    names = left()
    words = ""
    if names:
        tell(", ".join(names))
        done = subprocess.run(
            master.command(fleet, "salt-cloud", "--log-level=error", "-y", "-P", "-d", *names),
            capture_output=True, text=True, timeout=READY_SECONDS, check=False,
        )  # fmt: skip
        said = re.findall(r"Error:\s*(\S.*)|\[ERROR\s*\]\s*(.+)", done.stdout + done.stderr)
        words = "".join(said[-1]) if said else last_line(done.stderr or done.stdout)
    asked.sweep()
    if still := left():
        raise SalternError(f"{', '.join(still)}: still at {fleet.cloud}: {words}; `saltern down` again")
