"""Git's hooks on ops1: what may be pushed, and what the pusher sees of it.

    python3 -m saltern.pipeline.hooks pre-receive|post-receive --config /etc/saltern/git.json

`pre-receive` refuses a push as a whole with one line. `post-receive` queues a build for each branch or tag and shows it
until it has ended, and until what passed serves. The build is in the queue before anything is shown: whoever stops
looking, by Ctrl-C or a lost connection, stops nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from saltern.pipeline import refs
from saltern.pipeline.records import Build, Records

POLL_S = 0.1
MIB = 1024 * 1024
PUSHER = "SALTERN_PUSHER"
"""Environment variable: whose key it was; sshd sets it from the authorized keys."""


@dataclass(frozen=True)
class Settings:
    """:ivar home: where records are; :ivar branches: branch → prod or canary; :ivar free_mib: with less disk than
    that nothing is taken; :ivar follow_s: seconds a pusher is shown a build; :ivar builds_url: where it is shown;
    :ivar url: where the product is reached; :ivar machine: this one's id
    """

    home: Path
    branches: Mapping[str, str]
    free_mib: int
    follow_s: float
    builds_url: str
    url: str
    machine: str


def read(path: Path) -> Settings:
    values: dict[str, Any] = json.loads(path.read_text())
    return Settings(**{**values, "home": Path(values["home"])})


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, errors="replace", check=False)


def updates(lines: Iterable[str]) -> list[refs.Update]:
    """What a push changes, from the lines git gives its hooks: old, new, ref."""
    found = []
    for line in lines:
        old, new, ref = line.rstrip("\n").split(" ", 2)
        forced = False
        if refs.NOTHING not in (old, new):
            forced = _git("merge-base", "--is-ancestor", old, new).returncode != 0
        found.append(refs.Update(ref, old, new, forced))
    return found


def not_commits(changes: Iterable[refs.Update]) -> str:
    """Why something that is pushed cannot be built; empty when it can."""
    for each in refs.to_build(changes):
        if _git("rev-parse", "--verify", "--quiet", f"{each.new}^{{commit}}").returncode:
            return f"{refs.printable(each.ref)}: not a commit; a branch or tag of commits is built"
    return ""


def pre_receive(settings: Settings, lines: Iterable[str], free_mib: float) -> str:
    """Why a push is refused; empty when it is taken."""
    if free_mib < settings.free_mib:
        return (
            f"disk full on {settings.machine}: {free_mib:.0f} MiB free, a push needs {settings.free_mib}; "
            "nothing was taken, free some and push again"
        )
    changes = updates(lines)
    return refs.refusal(changes, settings.branches) or not_commits(changes)


def wanted(update: refs.Update, branches: Mapping[str, str], pusher: str, now: float) -> Build:
    """The build of a pushed branch or tag."""
    commit = _git("rev-parse", f"{update.new}^{{commit}}").stdout.strip()
    about = _git("log", "-1", "--format=%an <%ae>%n%s", commit).stdout.splitlines()
    author, subject = [*about, "", ""][:2]
    return Build(
        "", update.ref, commit, author=author, pusher=pusher, subject=subject, created=now,
        target=refs.target_of(update.ref, branches),
    )  # fmt: skip


def show(stage: Mapping[str, Any]) -> str:
    return f"{stage['seconds']:6.1f} s  {stage['name']:<8} {stage['words']}"


def follow(
    records: Records, build: Build, settings: Settings, out: TextIO, now: Callable[[], float] = time.monotonic
) -> None:
    """Show a build until nothing more will be said of it."""

    def say(text: str) -> None:
        out.write("".join(c if c.isprintable() or c == "\n" else "?" for c in text) + "\n")
        out.flush()

    where = f" → {build.target}" if build.target else ", built only"
    say(f"build {build.id} of {build.name}{where}; Ctrl-C stops looking, not the build")
    end, shown, state = now() + settings.follow_s, 0, ""
    while True:
        seen = records.load(build.id) or build
        for stage in seen.stages[shown:]:
            say(show(stage))
        shown = max(shown, len(seen.stages))
        if seen.state != state and seen.finished:
            if seen.state != "passed":
                say(
                    f"{seen.state} in {seen.stage}: {seen.why}" if seen.stage else f"{seen.state}: {seen.why}"
                )
            else:
                say(f"{seen.ended - seen.created:6.1f} s  passed   release {seen.release}")
        state = seen.state
        if seen.followed:
            break
        if now() > end:
            say(f"still {seen.stage or seen.state}; it goes on: {settings.builds_url}/{build.id}")
            return
        time.sleep(POLL_S)
    if seen.serving == "serving":
        say(f"it runs at {settings.url} ({seen.target}, release {seen.release})")
    elif seen.serving:
        say(f"{seen.serving}: {settings.builds_url}/{build.id}")
    else:
        say(f"all of it: {settings.builds_url}/{build.id}")


def main(arguments: list[str] | None = None) -> int:
    """Run one of the hooks; exit status 1 refuses the push."""
    parser = argparse.ArgumentParser(prog="saltern.pipeline.hooks")
    parser.add_argument("hook", choices=("pre-receive", "post-receive"))
    parser.add_argument("--config", type=Path, required=True)
    chosen = parser.parse_args(arguments)
    settings = read(chosen.config)
    records = Records(settings.home)
    if chosen.hook == "pre-receive":
        free = shutil.disk_usage(settings.home).free / MIB
        if why := pre_receive(settings, sys.stdin, free):
            print(f"refused: {why}", file=sys.stderr)
            return 1
        return 0
    pusher = os.environ.get(PUSHER, "")[:60]
    asked = []
    for each in refs.to_build(updates(sys.stdin)):
        try:
            asked.append(records.ask(wanted(each, settings.branches, pusher, time.time())))
        except OSError as error:
            print(
                f"not built: {refs.printable(each.ref)}: {settings.machine}: {error.strerror}",
                file=sys.stderr,
            )
    for build in asked:
        follow(records, build, settings, sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
