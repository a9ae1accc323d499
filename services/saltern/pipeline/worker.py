"""The daemon on ops1 that builds what is pushed, one build at a time.

    python3 -m saltern.pipeline.worker --config /etc/saltern/pipeline.json

All that counts is in files (see `records`), so that a build that was asked for is built whoever dies meanwhile: one
that was running when the worker ended is run again. The build itself happens in a sandbox at the other end of a socket
(see `runner`); this process takes nothing from there but reports of limited size.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import redis

from saltern import artifact, daemon
from saltern.builds import BUILDS
from saltern.errors import SalternError
from saltern.fleet import write_atomically
from saltern.intents import INTENT
from saltern.notify import notify
from saltern.pipeline import locks, mails, refs, settings
from saltern.pipeline.records import Build, Records, collectable, forgettable, superseded
from saltern.pipeline.runner import PREFIX, Order
from saltern.pipeline.settings import Settings
from saltern.redis_link import connect
from saltern.registry import Registry
from saltern.shell import run

log = logging.getLogger("saltern.pipeline")

TICK_S = 0.1
CHORES_S = 0.5
MAIL_AGAIN_S = 15.0
MOST_ATTEMPTS = 3
"""A build that takes the worker down with it is not begun for ever."""
REPORTS = ("junit.xml", "coverage.json", "ruff.json")
LARGEST_FILE = 256 * 1024 * 1024
LARGEST_LINE = 1024 * 1024
MIB = 1024 * 1024


class Cancelled(Exception):
    """The build is not wanted any more; the text says why."""


class Broken(Exception):
    """The build did not come to a result; the text says why in one line."""


class Worker:
    """One worker over its records.

    :param connect_sandbox: a new connection to a fresh sandbox
    :param client: Redis, or None where there is none to ask
    :param send: hands a mail on
    """

    def __init__(
        self,
        config: Settings,
        *,
        connect_sandbox: Callable[[], socket.socket],
        client: redis.Redis | None = None,
        send: Callable[..., None] = mails.send,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.config, self.client, self.send, self.now = config, client, send, now
        self.connect_sandbox = connect_sandbox
        self.records = Records(config.home)
        self.stopping = threading.Event()
        # As in the files, which are written first.
        self._builds: dict[str, Build] = {}
        self._lock = threading.RLock()
        self._cancelled: dict[str, str] = {}
        self._links: dict[str, socket.socket] = {}
        self._building: threading.Thread | None = None
        self._fault: BaseException | None = None
        self._mail_at: dict[str, float] = {}
        self._problems = daemon.Problems(log)

    def builds(self) -> list[Build]:
        """Every build, oldest first."""
        return sorted(self._builds.copy().values(), key=lambda build: (build.created, build.id))

    # -- the loop

    def prepare(self) -> None:
        """Make the folders, and put back what was running when the last worker ended."""
        self.records.prepare()
        self._builds = {build.id: build for build in self.records.all()}
        for build in self.builds():
            if build.state == "running":
                self.records.say(build.id, "the worker was restarted: once more from the start\n")
                self._save(replace(build, state="queued", stage="", stages=()))

    def run(self) -> None:
        """Work until stopped; raises what a build's thread could not deal with."""
        self.prepare()
        chores = 0.0
        notify("READY=1")
        while not self.stopping.is_set():
            self.step()
            if time.monotonic() - chores >= CHORES_S:
                chores = time.monotonic()
                self.chores()
            self.stopping.wait(TICK_S)
        notify("STOPPING=1")
        for link in list(self._links.values()):
            _end(link)

    def step(self) -> None:
        """Take what was asked for, and begin with the next build when none is at work."""
        if self._fault:
            raise self._fault
        self._take()
        if self._building is not None and self._building.is_alive():
            return
        waiting = [build for build in self.builds() if build.state == "queued"]
        if waiting:
            self._building = threading.Thread(
                target=self._build, args=(waiting[0].id,), name="build", daemon=True
            )
            self._building.start()

    def _take(self) -> None:
        for path, build in self.records.asked():
            if build is None or not refs.COMMIT.match(build.commit):
                log.error("%s: not a build; left out", path)
                path.unlink()
                continue
            target = refs.target_of(build.ref, self.config.branches)
            taken = Build(
                build.id, build.ref, build.commit, author=build.author, pusher=build.pusher, subject=build.subject,
                created=build.created, target=target,
            )  # fmt: skip
            if build.id not in self._builds:
                self.records.folder(build.id).mkdir(exist_ok=True)
                self.records.say(build.id, f"build {build.id} of {refs.printable(build.name)}\n")
                self._save(taken)
                self._tell(taken)
            for older in superseded(self.builds(), taken):
                self.cancel(older.id, f"a newer push to {older.name}: build {taken.id}")
            path.unlink()

    def cancel(self, id_: str, why: str) -> bool:
        """Have an unfinished build end; whether there was one."""
        with self._lock:
            build = self._builds.get(id_)
            if build is None or build.finished:
                return False
            self._cancelled[id_] = why
            if build.state == "queued" and id_ not in self._links:
                self._finish(id_, "cancelled", "queue", why)
            elif id_ in self._links:
                _end(self._links[id_])
            return True

    # -- one build

    def _build(self, id_: str) -> None:
        try:
            with self._lock:
                build = self._builds.get(id_)
                if build is None or build.state != "queued":
                    return
                build = self._save(
                    replace(build, state="running", began=self.now(), attempts=build.attempts + 1, stages=())
                )
            if build.attempts > MOST_ATTEMPTS:
                self._finish(
                    id_, "failed", "sandbox", f"given up: it was begun {MOST_ATTEMPTS} times and never ended"
                )
                return
            self._carry_out(build)
        except Cancelled as cancelled:
            self._finish(id_, "cancelled", self._stage(id_), str(cancelled))
        except Broken as broken:
            # The worker's own end is no result: what was running is run again.
            if not self.stopping.is_set():
                self._finish(id_, "failed", self._stage(id_), str(broken))
        except OSError as error:
            if id_ in self._cancelled:
                self._finish(id_, "cancelled", self._stage(id_), self._cancelled[id_])
            elif not self.stopping.is_set():
                self._give_up(id_, error)
        except BaseException as error:  # noqa: BLE001 - raised again by the loop, so that systemd starts all afresh
            self._fault = error

    def _stage(self, id_: str) -> str:
        build = self._builds.get(id_)
        return build.stage if build else ""

    def _give_up(self, id_: str, error: OSError) -> None:
        """A build that this machine could not carry out: a full disk has a name of its own."""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            why = f"disk full on {self.config.machine}: {self._free_mib()} MiB free below {self.config.home}"
            while not self.stopping.is_set():
                with contextlib.suppress(OSError):
                    self._finish(id_, "failed", "disk", why)
                    return
                self.stopping.wait(1.0)  # a full disk takes not even this; it is said as soon as it can be
        else:
            self._finish(id_, "failed", self._stage(id_), f"{self.config.machine}: {error}")

    def _free_mib(self) -> int:
        return shutil.disk_usage(self.config.home).free // MIB

    def _carry_out(self, build: Build) -> None:
        if (free := self._free_mib()) < self.config.free_mib:
            raise OSError(errno.ENOSPC, f"{free} MiB free, {self.config.free_mib} needed")
        tar = self._source(build)
        deadline = time.monotonic() + self.config.build_s
        # One lock for the release and one for the tests may each name what has to be fetched first.
        for _ in range(3):
            result, files = self._in_sandbox(build, tar, deadline)
            if result.get("state") != "lacking":
                break
            self._fetch(build, tar, str(result.get("lock")), deadline)
        self._conclude(build.id, result, files)

    def _in_sandbox(
        self, build: Build, tar: bytes, deadline: float
    ) -> tuple[Mapping[str, Any], dict[str, tuple[bytes, Mapping[str, Any]]]]:
        """One build from its source to its result, in a sandbox of its own."""
        self._change(build.id, stages=())
        order = Order(len(tar), self.config.wheels, self.config.tools, self.config.cache)
        try:
            link = self.connect_sandbox()
        except OSError as error:
            raise Broken(f"sandbox: {self.config.sandbox}: {error.strerror or error}") from error
        with self._lock:
            self._links[build.id] = link
        try:
            if build.id in self._cancelled:
                raise Cancelled(self._cancelled[build.id])
            link.settimeout(1.0)
            _send_all(link, json.dumps(asdict(order)).encode() + b"\n" + tar, deadline)
            return self._listen(build.id, link, deadline)
        finally:
            with self._lock:
                del self._links[build.id]
            _end(link)
            link.close()
            if build.id in self._cancelled:
                raise Cancelled(self._cancelled[build.id])

    def _fetch(self, build: Build, tar: bytes, lock: str, deadline: float) -> None:
        """Have the wheels that a lock names: whole, with the hash that is locked; none of their code runs here."""
        self._change(build.id, stage="fetch")
        self.records.say(build.id, f"== fetch\nwheels that {lock} names\n")
        began = time.monotonic()
        with tarfile.open(fileobj=io.BytesIO(tar)) as source, tempfile.TemporaryDirectory() as folder:
            try:
                member = source.extractfile(lock)
                text = locks.cleaned(member.read(MIB).decode() if member else "", lock)
            except (KeyError, ValueError) as error:
                raise Broken(f"fetch: {error}") from error
            path = Path(folder) / "lock.txt"
            path.write_text(text)
            command = [self.config.python, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps",
                       "--no-cache-dir", "--only-binary", ":all:", "--require-hashes"]  # fmt: skip
            command += [f"--find-links={each}" for each in self.config.wheels]
            command += ["--dest", self.config.wheels[-1], "-r", str(path)]
            try:
                run(command, timeout=max(1.0, deadline - time.monotonic()))
            except SalternError as error:
                raise Broken(f"fetch: {lock}: {str(error).rpartition('exit status ')[2]}") from error
        self._done(build.id, "fetch", time.monotonic() - began, f"wheels that {lock} names")

    def _source(self, build: Build) -> bytes:
        # Of another user: git must be told that it may.
        command = ["git", "-c", f"safe.directory={self.config.repository}", "-C", str(self.config.repository),
                   "archive", "--format=tar", build.commit]  # fmt: skip
        done = subprocess.run(command, capture_output=True, check=False, timeout=120)
        if done.returncode:
            raise Broken(f"source: git archive: {done.stderr.decode(errors='replace').strip()[-200:]}")
        return done.stdout

    def _listen(
        self, id_: str, link: socket.socket, deadline: float
    ) -> tuple[Mapping[str, Any], dict[str, tuple[bytes, Mapping[str, Any]]]]:
        """What the sandbox says, into the log; its result and files."""
        files: dict[str, tuple[bytes, Mapping[str, Any]]] = {}
        stream = _Patient(link, deadline, lambda: id_ in self._cancelled or self.stopping.is_set())
        try:
            while True:
                line = stream.readline(LARGEST_LINE)
                said = json.loads(line)
                if "log" in said:
                    self.records.say(id_, str(said["log"]))
                elif "stage" in said:
                    self.records.say(id_, f"== {said['stage']}\n")
                    self._change(id_, stage=str(said["stage"])[:20])
                elif "done" in said:
                    self._done(id_, str(said["done"])[:20], float(said["seconds"]), str(said["words"])[:200])
                elif "file" in said:
                    if said["file"] not in ("artifact", *REPORTS) or not 0 <= said["bytes"] <= LARGEST_FILE:
                        raise Broken(f"sandbox: sent a file that nobody asked for: {said['file']!r}")
                    files[said["file"]] = stream.read(said["bytes"]), said
                elif "result" in said:
                    return dict(said["result"]), files
        except TimeoutError as error:
            raise Broken(
                f"still running after {self.config.build_s:g} s (pillar/pipeline.sls: limits.build_s)"
            ) from error
        except (EOFError, ConnectionError) as error:
            if id_ in self._cancelled:
                raise Cancelled(self._cancelled[id_]) from error
            raise Broken("the sandbox ended; it had too little memory, or too little time") from error
        except (ValueError, TypeError, KeyError) as error:
            raise Broken(f"sandbox: said what cannot be read ({error!r})") from error

    def _done(self, id_: str, name: str, seconds: float, words: str) -> None:
        build = self._builds.get(id_)
        if build is not None:
            done = {"name": name, "seconds": round(seconds, 2), "words": words}
            self._change(id_, stages=(*build.stages, done))

    def _conclude(
        self, id_: str, result: Mapping[str, Any], files: Mapping[str, tuple[bytes, Mapping[str, Any]]]
    ) -> None:
        for name in REPORTS:
            if name in files:
                (self.records.folder(id_) / name).write_bytes(files[name][0])
        facts = _facts(result)
        if result.get("state") == "lacking":
            raise Broken(
                f"fetch: wheels that {str(result.get('lock'))[:100]} names were fetched and do not do"
            )
        if result.get("state") != "passed":
            self._finish(id_, "failed", str(result.get("stage"))[:20], str(result.get("why"))[:400], **facts)
            return
        if "artifact" not in files:
            raise Broken("sandbox: passed without an artifact")
        content, about = files["artifact"]
        made = artifact.described(content, PREFIX, str(about["platform"]))
        path = self.records.artifacts / f"{made.id}.tar.gz"
        if not path.exists():
            half = path.with_name(f".{path.name}")
            half.write_bytes(content)
            half.replace(path)
        facts |= {"release": made.id, "sha256": made.sha256, "size": len(content), "platform": made.platform}
        self._finish(id_, "passed", "artifact", "", **facts)

    def _finish(self, id_: str, state: str, stage: str, why: str, **facts: Any) -> None:
        with self._lock:
            build = self._builds.get(id_)
            if build is None or build.finished:
                return
            self._cancelled.pop(id_, None)
            build = replace(
                build, state=state, stage=stage, why=" ".join(why.split()), ended=self.now(), **facts,
                mail="due" if state == "failed" and self.config.mail else "",
                serving="waiting" if state == "passed" and build.target and self.client is not None else "",
            )  # fmt: skip
            self.records.say(id_, f"-- {state}{f': {why}' if why else ''}\n")
            self._tell(build)
            self._save(build)
        log.info("build %s of %s: %s %s", id_, build.name, state, why)

    def _change(self, id_: str, **changes: Any) -> None:
        with self._lock:
            build = self._builds.get(id_)
            if build is not None and not build.finished:
                self._save(replace(build, **changes))

    def _save(self, build: Build) -> Build:
        with self._lock:
            self._builds[build.id] = self.records.save(build)
            return build

    def _tell(self, build: Build) -> None:
        """Leave what the master shall hear where the machine's beacon finds it; it says so until that is confirmed."""
        values = {
            "build": build.id, "result": build.state, "ref": build.ref, "commit": build.commit,
            "release": build.release, "sha256": build.sha256, "size": build.size, "platform": build.platform,
            "author": _plain(build.author), "pusher": _plain(build.pusher), "why": _plain(build.why),
        }  # fmt: skip
        write_atomically(self.records.outbox / f"{build.id}.json", json.dumps(values))

    # -- beside the builds

    def chores(self) -> None:
        """Mail, what the master confirmed, where releases serve, and what can be thrown away."""
        self._mail()
        if self.client is not None:
            try:
                self._confirm()
                self._watch_serving()
                self._problems.end("redis")
            except (redis.RedisError, ValueError) as error:
                self._problems.begin("redis", f"redis: {error}")
        self._collect()

    def _mail(self) -> None:
        for build in self.builds():
            if build.mail != "due" or time.monotonic() < self._mail_at.get(build.id, 0.0):
                continue
            text = self.records.log(build.id).read_text(errors="replace")
            message = mails.compose(build, text, self.config.mail, self.config.fleet, self.config.builds_url)
            try:
                self.send(message, self.config.mail)
            except OSError as error:
                self._problems.begin(
                    "mail", f"mail: {self.config.mail['smarthost']}: {error}; it is tried again"
                )
                self._mail_at[build.id] = time.monotonic() + MAIL_AGAIN_S
                continue
            self._problems.end("mail")
            self._save(replace(build, mail="sent"))
            self.records.say(build.id, f"mailed to {message['To']}\n")

    def _confirm(self) -> None:
        """Take away what the master has written down."""
        assert self.client is not None
        for path in self.records.outbox.glob("*.json"):
            text = self.client.hget(BUILDS, path.stem)
            try:
                said = json.loads(path.read_text())
            except FileNotFoundError:
                continue
            if text and json.loads(text).get("result") == said["result"]:
                with self._lock:
                    # A later result may be there by now.
                    if path.exists() and json.loads(path.read_text()) == said:
                        path.unlink()

    def _watch_serving(self) -> None:
        assert self.client is not None
        waiting = [build for build in self.builds() if build.serving == "waiting"]
        if not waiting:
            return
        instances = Registry(self.client).snapshot().instances
        for build in waiting:
            pool = [i for i in instances.values() if i.pool == build.target]
            on = sorted(i.id for i in pool if i.release == build.release and i.want == "ready")
            if pool and len(on) == len(pool):
                took = self.now() - build.ended
                done = {"name": "deploy", "seconds": round(took, 2), "words": f"serves on {', '.join(on)}"}
                self._save(replace(build, serving="serving", stages=(*build.stages, done)))
                self.records.say(build.id, f"-- serving on {', '.join(on)} after {took:.1f} s\n")
            elif why := self._not_serving(build):
                self._save(replace(build, serving=why))
                self.records.say(build.id, f"-- {why}\n")

    def _not_serving(self, build: Build) -> str:
        """Why a release that passed will not serve, as far as it is known; empty while it may."""
        assert self.client is not None
        heard = json.loads(self.client.hget(BUILDS, build.id) or "{}")
        if "refused" in heard:
            return str(heard["refused"])
        if rollout := heard.get("rollout"):
            state, error = self.client.hmget(INTENT + rollout, "state", "error")
            if state in ("failed", "refused"):
                return f"rollout {state}: {error}"
        if self.now() - build.ended > self.config.serve_s:
            return (
                f"not serving within {self.config.serve_s:g} s; salt-run rollout.status tells how far it is"
            )
        return ""

    def _collect(self) -> None:
        builds = self.builds()
        if len(builds) > self.config.builds:
            for build in forgettable(builds, self.config.builds):
                shutil.rmtree(self.records.folder(build.id))
                del self._builds[build.id]
        kept = sorted(
            path.name.removesuffix(".tar.gz") for path in self.records.artifacts.glob(f"{PREFIX}*.tar.gz")
        )
        if len(kept) <= self.config.keep:
            return
        try:
            running = (
                {i.release for i in Registry(self.client).snapshot().instances.values()}
                if self.client
                else ()
            )
        except (redis.RedisError, ValueError):
            return  # who does not know what runs throws nothing away
        waiting = {b.release for b in builds if b.serving == "waiting"}
        for release in collectable(builds, {*running, *waiting}, self.config.keep) & set(kept):
            (self.records.artifacts / f"{release}.tar.gz").unlink()
            log.info("release %s: its artifact was thrown away", release)


class _Patient:
    """Reads a socket to a deadline, and gives up when nobody wants it any more."""

    def __init__(self, link: socket.socket, deadline: float, unwanted: Callable[[], bool]) -> None:
        self._link, self._deadline, self._unwanted, self._kept = link, deadline, unwanted, bytearray()

    def _more(self) -> None:
        while True:
            if self._unwanted():
                raise ConnectionAbortedError("not wanted any more")
            if time.monotonic() > self._deadline:
                raise TimeoutError
            with contextlib.suppress(TimeoutError):
                if not (some := self._link.recv(1 << 18)):
                    raise EOFError
                self._kept += some
                return

    def readline(self, most: int) -> bytes:
        while (at := self._kept.find(b"\n")) < 0:
            if len(self._kept) > most:
                raise ValueError("a line without an end")
            self._more()
        line = bytes(self._kept[: at + 1])
        del self._kept[: at + 1]
        return line

    def read(self, count: int) -> bytes:
        while len(self._kept) < count:
            self._more()
        content = bytes(self._kept[:count])
        del self._kept[:count]
        return content


def _send_all(link: socket.socket, content: bytes, deadline: float) -> None:
    view = memoryview(content)
    while view:
        with contextlib.suppress(TimeoutError):
            view = view[link.send(view[: 1 << 18]) :]
        if time.monotonic() > deadline:
            raise Broken("sandbox: it does not take the source")


def _end(link: socket.socket) -> None:
    """Have whoever reads at either end see that it is over."""
    with contextlib.suppress(OSError):
        link.shutdown(socket.SHUT_RDWR)


def _facts(result: Mapping[str, Any]) -> dict[str, Any]:
    """What a sandbox says of tests, coverage and findings.

    :raises Broken: it is none of that
    """
    try:
        coverage, findings = result.get("coverage"), result.get("findings")
        return {
            "coverage": None if coverage is None else float(coverage),
            "tests": {name: int(count) for name, count in dict(result.get("tests") or {}).items()},
            "findings": None if findings is None else int(findings),
        }
    except (TypeError, ValueError) as error:
        raise Broken(f"sandbox: said what cannot be read ({error!r})") from error


def _plain(text: str) -> str:
    """Somebody's words, as an event may carry them."""
    return "".join(c if c.isprintable() else "?" for c in text)[:200]


def unix_socket(path: Path) -> socket.socket:
    """A connection to a sandbox that systemd makes for it."""
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        link.connect(str(path))
    except OSError:
        link.close()
        raise
    return link


def main(arguments: list[str] | None = None) -> int:
    """Run until SIGTERM. Exit status 2 when the configuration is unusable."""
    from saltern.pipeline import web

    def begin(values: Mapping[str, Any]) -> Callable[[], None]:
        config = settings.parse(values)
        client = connect(config.link) if config.link else None
        worker = Worker(config, connect_sandbox=lambda: unix_socket(config.sandbox), client=client)
        daemon.on_stop(worker.stopping.set)

        def run() -> None:
            worker.records.prepare()
            with web.serving(worker):
                worker.run()

        return run

    return daemon.start("saltern.pipeline", "Builds what is pushed.", begin, arguments)


if __name__ == "__main__":
    sys.exit(main())
