"""Hands in a running fleet: load its machines, read its mail, see what HAProxy does, change its pillar for a while."""

from __future__ import annotations

import contextlib
import email
import email.policy
import json
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import yaml

from saltern import artifact, master, members, observed
from saltern.alert_store import Alert, AlertStore
from saltern.errors import SalternError
from saltern.fleet import Fleet, role_of, write_atomically
from saltern.haproxy import Runtime, parse_acl
from saltern.local import cgroup
from saltern.pillar import load
from saltern.registry import JOURNAL, Registry
from saltern.workplace import FLAGS, PRODUCT

BURNER = "saltern-burner"
ROUTE = "    def version() -> HTTPResponse:\n"
"""Where a release of the product answers which one it is."""
LONGEST_BURN_S = 600
"""A burner that nobody stops ends by itself."""
PATIENCE = 1.0
"""How many times as long anything may take: tests have hosts that are busy with others."""


def until(condition: Callable[[], Any], seconds: float, what: str, pause: float = 0.05) -> Any:
    """Poll until `condition` answers something true.

    :param seconds: how long it may take on a host with nothing else to do
    :raises RuntimeError: it did not in time
    """
    end = time.monotonic() + seconds * PATIENCE
    while not (answer := condition()):
        if time.monotonic() > end:
            raise RuntimeError(f"not within {seconds * PATIENCE:g} s: {what}")
        time.sleep(pause)
    return answer


def felt(role: str, **settings: object) -> list[dict[str, Any]]:
    """A beacon's settings with which machines of one role alone feel, from 50 % on, and say much.

    On a host with two processors a test's load waits for one as often as not: that counts.
    """
    of_role = {
        "high": 50,
        "low": 45,
        "for": 2,
        "clear": 2,
        "refresh": 2,
        "calm": 2,
        "waiting": True,
        **settings,
    }
    return [{"high": 100}, {"for": 3600}, {"roles": {role: of_role}}]


def changed_product(fleet: Fleet, folder: Path, lines: str = "", after: str = ROUTE) -> artifact.Artifact:
    """A release of the product with some lines put in after others, like no other release there ever was.

    :raises RuntimeError: the product has those others not once
    """
    package = folder / uuid.uuid4().hex / "product"
    shutil.copytree(PRODUCT / "product", package, ignore=shutil.ignore_patterns("__pycache__"))
    text = (package / "app.py").read_text()
    if text.count(after) != 1:
        raise RuntimeError(f"the product has {after!r} {text.count(after)} times")
    (package / "app.py").write_text(text.replace(after, after + lines) + f"\n# {uuid.uuid4()}\n")
    return artifact.build(fleet, (package, FLAGS), PRODUCT / "requirements.txt", "r")


class Plant:
    """A running fleet, as a test or a bench has its hands in it."""

    def __init__(self, fleet: Fleet, by: str = "test") -> None:
        self.fleet, self.by = fleet, by
        self.settings = load(fleet.pillar_dir)
        client = members.link(fleet)
        self.registry, self.alerts = Registry(client), AlertStore(client)
        self.proxy = next(name for name in fleet.addresses() if role_of(name) == "proxy")
        traffic = self.settings["traffic"]
        self.runtime = Runtime(f"{self.root(self.proxy)}{traffic['admin_socket']}")
        self.acl = f"show acl {traffic['state_dir']}/split.acl"

    # -- machines

    def pid(self, machine: str) -> int:
        """The machine's init, as the host sees it."""
        for pid in cgroup.processes(f"{self.fleet.cgroup}/{machine}"):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().strip() == "systemd":
                    return pid
        raise RuntimeError(f"{machine} does not run")

    def root(self, machine: str) -> Path:
        return Path(f"/proc/{self.pid(machine)}/root")

    def inside(self, machine: str, *command: str, quiet: bool = False) -> None:
        """Run a program in a machine.

        :param quiet: what it says of its errors is no news
        :raises subprocess.CalledProcessError: it failed
        """
        enter = ["nsenter", "-t", str(self.pid(machine)), "-m", "-u", "-i", "-n", "-p", "--"]
        # A session of its own: Ctrl-C is the caller's, who has things to put back.
        complaints = subprocess.DEVNULL if quiet else None
        subprocess.run(
            [*enter, *command],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=complaints,
            start_new_session=True,
        )

    def run_unit(self, machine: str, *command: str) -> None:
        """Run a program as the machine's unit `BURNER`."""
        limit = f"--property=RuntimeMaxSec={LONGEST_BURN_S}"
        self.inside(machine, "systemd-run", "--collect", "--quiet", f"--unit={BURNER}", limit, *command)

    def stop_unit(self, machine: str) -> None:
        with contextlib.suppress(subprocess.CalledProcessError, RuntimeError):  # it ended by itself
            self.inside(machine, "systemctl", "stop", BURNER, quiet=True)

    def start_burning(self, machine: str, processors: int = 1) -> Path:
        """Use up so many processors of a machine; the file that says when that began, unix seconds."""
        path = self.root(machine) / "run" / BURNER
        path.unlink(missing_ok=True)
        loops = "while :; do :; done & " * (processors - 1) + "while :; do :; done"
        self.run_unit(machine, "/bin/sh", "-c", f"date +%s.%N >/run/{BURNER}; {loops}")
        return path

    @contextmanager
    def burning(self, *machines: str, processors: int = 1) -> Iterator[Callable[[], None]]:
        """Machines under load; what is yielded ends it before the end."""

        def stop() -> None:
            for machine in machines:
                self.stop_unit(machine)

        try:
            for machine in machines:
                self.start_burning(machine, processors)
            yield stop
        finally:
            stop()

    # -- traffic

    def share(self) -> int:
        """Percent of the requests that HAProxy sends to the canary."""
        ranges = parse_acl(self.runtime.ask([self.acl])[0])
        return max((int(text.partition(":")[2]) + 1 for text in ranges), default=0)

    def serving(self) -> set[str]:
        """Machines that HAProxy sends requests to."""
        seen = observed.read_observed(self.registry.client) or {"servers": {}}
        return {id_ for id_, server in seen["servers"].items() if server["phase"] == "ready"}

    def canary_on(self, seconds: float = 60) -> None:
        """The canary is on and takes requests."""

        def on() -> bool:
            # Whatever turned it off may say so once more before it hears that it is over.
            self.registry.canary_on(reason=self.by, by=self.by)
            return self.share() > 0

        until(on, seconds, "the canary takes requests", 0.02)

    def gone(self, seconds: float) -> float:
        """When HAProxy first sent the canary nothing, unix seconds."""
        until(lambda: self.share() == 0, seconds, "the canary is off", 0.002)
        return time.time()

    # -- what is told

    def alert(self, name: str, subject: str) -> Alert | None:
        """The alert, if it fires."""
        now = time.time()
        found = (a for a in self.alerts.all() if (a.name, a.subject) == (name, subject) and a.at(now).firing)
        return next(found, None)

    def journal(self, kind: str, since: float, /, **fields: object) -> list[dict[str, Any]]:
        """Lines of a kind, oldest first, with what they tell of; `fields` must be among that."""
        lines = []
        for id_, line in self.registry.client.xrange(JOURNAL, min=int(since * 1000)):
            told = json.loads(line["fields"])
            if line["kind"] == kind and fields.items() <= {**told, "subject": line["subject"]}.items():
                lines.append({**line, "fields": told, "id": id_})
        return lines

    def mailbox(self) -> Path:
        ops = next(name for name in self.fleet.addresses() if role_of(name) == "ops")
        return self.root(ops) / self.settings["ops"]["mail"]["sink_maildir"].lstrip("/") / "new"

    def mails(self, since: float, *words: str) -> list[EmailMessage]:
        """Mails that came since then and have all these words in them, oldest first."""
        return [mail for _, mail in self.arrived(since, *words)]

    def arrived(self, since: float, *words: str) -> list[tuple[float, EmailMessage]]:
        """The same mails, each with when it came, unix seconds."""
        found = []
        for path in sorted(self.mailbox().iterdir(), key=lambda path: path.stat().st_mtime_ns):
            if path.stat().st_mtime < since:
                continue
            mail = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
            if all(word in text_of(mail) for word in words):
                found.append((path.stat().st_mtime, mail))
        return found

    # -- settings

    @contextmanager
    def set(self, machines: str = "", **changes: Mapping[str, Any] | list) -> Iterator[None]:
        """Other values in the pillar's files for a while; machines (a list for `salt -L`) are told at once.

        A table changes what it names and leaves the rest. What the files said is kept beside the fleet, for
        `put_back` after a process that was killed.
        """
        paths = {self.fleet.pillar_dir / f"{name}.sls": value for name, value in changes.items()}
        before = {path: path.read_text() for path in paths}
        try:
            for path, value in paths.items():
                values = yaml.safe_load(before[path])
                values[path.stem] = _merged(values[path.stem], value)
                text = yaml.safe_dump(values, sort_keys=False)
                self._keep(path, [*self._kept().get(str(path), [before[path]]), text])
                _replace(path, text)
            self.refresh(machines)
            yield
        finally:
            for path, text in before.items():
                _replace(path, text)
                said = self._kept().get(str(path), [text])
                self._keep(path, said[: said.index(text) + 1])
            self.refresh(machines)

    @property
    def _book(self) -> Path:
        return self.fleet.state_dir / "pillar-before.json"

    def _kept(self) -> dict[str, list[str]]:
        """What each file said at first, and all that was put into it since, one upon the other."""
        try:
            return json.loads(self._book.read_text())
        except FileNotFoundError:
            return {}

    def _keep(self, path: Path, texts: list[str]) -> None:
        kept = {**self._kept(), str(path): texts}
        if left := {name: each for name, each in kept.items() if len(each) > 1}:
            write_atomically(self._book, json.dumps(left))
        else:
            self._book.unlink(missing_ok=True)

    def put_back(self) -> list[str]:
        """The pillar's files as they were before a process that was killed while it had `set` them; which.

        :raises SalternError: somebody has changed one since
        """
        kept = self._kept()
        for name, texts in kept.items():
            if Path(name).read_text() not in texts:
                before = self._book.with_name(f"{Path(name).name}.before")
                write_atomically(before, texts[0])
                raise SalternError(
                    f"{name}: a demo that was killed left its own values in it, and somebody changed it since; "
                    f"what it said before is {before}: put that right, then remove {self._book}"
                )
        for name, (first, *_) in kept.items():
            _replace(Path(name), first)
        self._book.unlink(missing_ok=True)
        return sorted(kept)

    def refresh(self, machines: str) -> None:
        if machines:
            salt = master.command(self.fleet, "salt", "-L", machines, "saltutil.refresh_pillar", "wait=True")
            subprocess.run(salt, check=True, stdout=subprocess.DEVNULL, start_new_session=True)

    def configure(self) -> None:
        """Have every machine be as the pillar says by now: a roll would find more to change than its release."""
        everybody = ",".join(self.fleet.inventory())
        salt = master.command(self.fleet, "salt", "-L", everybody, "state.apply", "common", "queue=True")
        subprocess.run(salt, check=True, stdout=subprocess.DEVNULL, start_new_session=True)


def _replace(path: Path, text: str) -> None:
    write_atomically(path, text, path.stat().st_mode & 0o777)


def _merged(old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, Mapping):
        return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}
    return new


def text_of(mail: EmailMessage) -> str:
    """What a person reads."""
    body = mail.get_body(("plain",))
    return body.get_content() if body else ""
