"""The command line behind `./saltern`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from saltern import doctor, fleet, joining, leading, master, rented, status, up, workplace
from saltern.errors import SalternError
from saltern.fleet import REPOSITORY, Fleet
from saltern.production import backup, install, sharing
from saltern.runners import EXPECTED

STAGE_STYLE = {
    "ready": "green",
    "failed": "bold red",
    "waiting": "dim",
    "half-made": "yellow",
    "stopped": "red",
}


def parser() -> argparse.ArgumentParser:
    """The commands and their flags."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--fleet", metavar="NAME", help=f"which fleet (default: {fleet.DEFAULT_NAME})")
    common.add_argument(
        "--state-dir", metavar="DIR", help="where it is kept (default: a folder of SALTERN_HOME)"
    )
    main = argparse.ArgumentParser(
        prog="saltern",
        description="A reactive fleet on SaltStack: real machines, configured by Salt, on this host.",
    )
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, words: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=words, description=words, parents=[common])

    each = add(
        "up",
        "bring the fleet up; run it again to go on where it stopped, or to check that all is as it should be",
    )
    each.add_argument(
        "--subnet", metavar="CIDR", help=f"the fleet's network (default: {fleet.DEFAULT_SUBNET})"
    )
    each.add_argument(
        "--pillar", metavar="DIR", help="the pillar to serve (default: pillar/ of this checkout)"
    )
    each.add_argument("--machines", metavar="ID,ID", help="these machines instead of the default eleven")
    each.add_argument(
        "--cloud", metavar="NAME", choices=fleet.CLOUDS[:-1], help=f"where: {', '.join(fleet.CLOUDS[:-1])}"
    )
    each = add("status", "show the fleet's machines")
    each.add_argument("--json", action="store_true", help="as one JSON object")
    each = add("down", "end the fleet and leave nothing of it behind")
    each.add_argument("--purge", action="store_true", help="remove the machine image too")
    each = add("clone", "a working copy of the product, ready to push")
    each.add_argument("dir", metavar="DIR", nargs="?", default="product", help="where (default: product)")
    each = add("doctor", "say what this machine lacks, and the remedy")
    each.add_argument("--subnet", metavar="CIDR", help="the network to look for")
    each = add(
        "install-master",
        "make this machine the fleet's master, run by its own systemd; with other code it is the upgrade",
    )
    each.add_argument(
        "--address", metavar="IP", help="where machines reach it (default: its private address)"
    )
    each.add_argument("--subnet", metavar="CIDR", help="the network of its machines (default: the address's)")
    each.add_argument("--name", metavar="HOST", help="a name that machines are told instead of the address")
    each.add_argument(
        "--ssh-from", metavar="CIDR", help="who may reach this machine's sshd; '' for everybody (the default)"
    )
    each.add_argument(
        "--no-way-back", action="store_true", help="keep this release in use even if it does not answer"
    )
    each.add_argument(
        "--peer",
        metavar="IP",
        action="append",
        help="another master of the same fleet, '' for none; may be said several times",
    )
    add("share", "bring the fleet's other masters what this one keeps (the unit saltern-share runs it)")
    add("take", "take from standard input what the fleet's leading master brings")
    each = add("backup", "write the keys and the state of the master that is installed here")
    each.add_argument("target", metavar="FILE", help="a file, a folder, or - for standard output")
    each.add_argument(
        "--keep", metavar="N", type=int, default=0, help="how many a folder may hold (default: all)"
    )
    each = add("restore", "make this machine the master that a backup was made of")
    each.add_argument("source", metavar="FILE", help="the backup, or - for standard input")
    each.add_argument("--address", metavar="IP", help="where machines reach it, if not where they did")
    each.add_argument("--peer", metavar="IP", action="append", help="another master, beside which it is one")
    each.add_argument(
        "--force", action="store_true", help="in place of a master that is here, which is moved aside"
    )
    each = add("join", "make a machine that exists already one of the fleet's, over ssh")
    each.add_argument("name", metavar="ID", help="what it shall be, such as prod6")
    each.add_argument("address", metavar="ADDRESS", help="where the fleet reaches it")
    _over_ssh(each)
    each = add("move-machines", "tell machines, over ssh, that their master is here now")
    each.add_argument("names", metavar="ID", nargs="*", help="these alone (default: all)")
    _over_ssh(each)
    each = add("leave", "let a machine that joined go; it is left as it is")
    each.add_argument("name", metavar="ID")
    each = add(
        "demo", "a guided tour on the running fleet: each property is shown and measured, then put back"
    )
    each.add_argument("names", metavar="NAME", nargs="*", help="these steps alone; `list` names them")
    each.add_argument("--report", metavar="FILE", help="write an HTML page of it")
    each.add_argument(
        "--json", action="store_true", help="end with one line of JSON; the rest goes to stderr"
    )
    commands.add_parser(
        "test",
        help="run the tests",
        description=f"Run the tests: of every kind, or of those named ({', '.join(TEST_KINDS)}). "
        "Whatever else is given goes to pytest.",
    )
    each = commands.add_parser("bench", help="measure", description="Measure one of the benches.")
    each.add_argument("name", metavar="NAME", help="which; `list` names them")
    each.add_argument("--json", action="store_true", help="as one JSON object")
    each.add_argument("arguments", nargs=argparse.REMAINDER, help="what the bench itself takes")
    return main


def _over_ssh(command: argparse.ArgumentParser) -> None:
    """The flags that say how machines are reached by ssh."""
    command.add_argument(
        "--user", default="root", help="root (the default), or one who may sudo without a password"
    )
    command.add_argument("--port", type=int, default=22, help="where sshd listens (default: 22)")
    command.add_argument(
        "--key", metavar="FILE", default="", help="the private key to use (default: ssh's own choice)"
    )
    command.add_argument("--known-hosts", metavar="FILE", default="", help="where host keys are remembered")


TEST_KINDS = ("unit", "functional", "integration", "e2e", "browser")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0 when it did what it says, 130 when it was interrupted."""
    chosen, others = parser().parse_known_args(arguments)
    if others and chosen.command != "test":
        parser().error(f"{chosen.command}: unrecognized arguments: {' '.join(others)}")
    chosen.others = others
    try:
        return {
            "up": _up, "status": _status, "down": _down, "clone": _clone, "doctor": _doctor, "test": _test,
            "bench": _bench, "install-master": _install_master, "backup": _backup, "restore": _restore,
            "share": _share, "take": _take, "join": _join, "leave": _leave, "move-machines": _move_machines,
            "demo": _demo,
        }[chosen.command](chosen)  # fmt: skip
    except EXPECTED as error:
        print(f"saltern: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read the output has seen enough; say no more, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        if chosen.command == "demo":
            print("\nsaltern: interrupted", file=sys.stderr)
        else:
            print(f"\nsaltern: interrupted; run `./saltern {chosen.command}` again to go on", file=sys.stderr)
        return 130


def _root() -> None:
    if os.geteuid() != 0:
        raise SalternError(
            "must run as root: it makes machines, a bridge and a firewall table; try: sudo ./saltern"
        )


def _chosen(arguments: argparse.Namespace) -> Fleet:
    return fleet.choose(
        arguments.fleet,
        arguments.state_dir,
        getattr(arguments, "subnet", None),
        getattr(arguments, "pillar", None),
        getattr(arguments, "cloud", None),
    )


def _at_work(arguments: argparse.Namespace) -> Fleet:
    """The fleet that a command changes, as whoever may: root, or the user of a master that is installed here."""
    chosen = _chosen(arguments)
    if chosen.installed:
        install.become_service(chosen)
        if arguments.command != "status":
            leading.need(chosen, arguments.command)
    else:
        _root()
    return chosen


class _Screen:
    """`up` as a person sees it: a table that fills on a terminal, a line an event elsewhere."""

    def __init__(self, progress: up.Progress) -> None:
        self.progress, self.started, self.words = progress, time.monotonic(), ""
        self.console = Console(stderr=True)
        self.live = Live(console=self.console, refresh_per_second=8, get_renderable=self.table)
        self.shown: dict[str, str] = {}
        progress.tell, progress.draw = self.tell, self.draw

    def seconds(self) -> str:
        return f"{time.monotonic() - self.started:5.1f} s"

    def tell(self, words: str) -> None:
        self.words = words
        if not self.console.is_terminal:
            print(f"{self.seconds()}  {words}", file=sys.stderr)

    def draw(self) -> None:
        if self.console.is_terminal:
            return
        for name, stage in self.progress.machines.items():
            if self.shown.get(name) != stage:
                self.shown[name] = stage
                print(f"{self.seconds()}  {name} {stage}", file=sys.stderr)

    def table(self) -> Group:
        head = Text.assemble((self.seconds(), "dim"), "  ", (self.words or "starting", "bold"))
        table = Table(box=None, pad_edge=False, show_header=False)
        for name, stage in self.progress.machines.items():
            steps = up.STAGES.index(stage) if stage in up.STAGES else len(up.STAGES) - 1
            bar = "━" * (4 * steps) + "╌" * (4 * (len(up.STAGES) - 1 - steps))
            style = STAGE_STYLE.get(stage, "cyan")
            words = stage
            if stage == "ready" and name in self.progress.changed:
                words += f", {self.progress.changed[name]} changed"
            if stage == "failed":
                words += f": {self.progress.faults.get(name, '')}"
            table.add_row(name, Text(bar, style), Text(words, style, overflow="ellipsis", no_wrap=True))
        return Group(head, table)


def _up(arguments: argparse.Namespace) -> int:
    chosen = _at_work(arguments)
    progress = up.Progress()
    screen = _Screen(progress)
    machines = arguments.machines.split(",") if arguments.machines else fleet.DEFAULT_MACHINES
    bring = up.up if chosen.cloud == fleet.LOCAL else rented.start
    with screen.live if screen.console.is_terminal else nullcontext():
        bring(chosen, progress, machines)
    changed = sum(progress.changed.values())
    urls = status.urls(chosen) if chosen.cloud == fleet.LOCAL else status.status(chosen)["urls"]
    print(
        f"fleet {chosen.name}: {len(machines)} machines ready in {screen.seconds().strip()}, {changed} states changed"
    )
    for name, url in (
        ("product", "product"),
        ("dashboard", "dashboard"),
        ("admin API", "admin"),
        ("alerts", "alerts"),
    ):
        print(f"  {name:<9}  {urls[url]}")
    print("next:  . .venv/bin/activate && salt '*' test.ping    |    ./saltern status    |    ./saltern down")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    chosen = _chosen(arguments)
    answer = status.status(_at_work(arguments) if chosen.installed else chosen)
    if arguments.json:
        print(json.dumps(answer, indent=1))
        return 0
    table = Table(box=None, pad_edge=False)
    for heading in ("machine", "role", "address", "state", "release", "memory", "cpus"):
        table.add_column(heading)
    for each in answer["machines"]:
        words = each["state"] if each["want"] in (None, "ready") else f"{each['state']}, {each['want']}"
        state = Text(words, STAGE_STYLE.get(each["state"], ""))
        used = (
            f"{each['memory_used']}/{each['memory']} MiB"
            if each["memory_used"] is not None
            else f"{each['memory']} MiB"
        )
        table.add_row(
            each["id"], each["role"], each["address"], state, each["release"] or "", used, f"{each['cpus']:g}"
        )
    console = Console()
    console.print(table)
    print("\n".join(f"{name:<10} {url}" for name, url in answer["urls"].items()))
    for note in answer["notes"]:
        print(f"note: {note}")
    return 0


def _down(arguments: argparse.Namespace) -> int:
    chosen = _at_work(arguments)
    started = time.monotonic()
    if chosen.cloud != fleet.LOCAL:
        rented.end(chosen, lambda words: print(f"  removing {words}", file=sys.stderr))
        stays = "; its master stays" if chosen.installed else ""
        print(f"fleet {chosen.name}: machines gone in {time.monotonic() - started:.1f} s{stays}")
        return 0
    up.down(chosen, purge=arguments.purge, tell=lambda words: print(f"  removing {words}", file=sys.stderr))
    print(f"fleet {chosen.name}: gone in {time.monotonic() - started:.1f} s")
    return 0


def _tell(words: str) -> None:
    print(f"  {words}", file=sys.stderr)


def _as_root(what: str) -> None:
    if os.geteuid() != 0:
        raise SalternError(f"{what}: must run as root; try: sudo ./saltern {what}")


def _install_master(arguments: argparse.Namespace) -> int:
    _as_root("install-master")
    code = install.deploy()
    if code != REPOSITORY:
        # From here on by the code that is to be in use.
        _hand_over(code, sys.argv[1:])
    started = time.monotonic()
    peers = None if arguments.peer is None else tuple(filter(None, arguments.peer))
    wanted = install.Wanted(arguments.address, arguments.subnet, arguments.name, arguments.ssh_from, peers)
    chosen = fleet.choose(arguments.fleet, arguments.state_dir)
    changed = install.install(chosen, wanted, _tell, way_back=not arguments.no_way_back)
    made = Fleet.load(chosen.state_dir)
    done = (
        f"{len(changed)} changes in {time.monotonic() - started:.1f} s"
        if changed
        else "nothing had to change"
    )
    print(
        f"master of fleet {made.name}: answers at {made.gateway} as {made.master}, release {code.name}; {done}"
    )
    print("next:  saltern up --cloud digitalocean    |    salt-key -L    |    saltern backup FILE")
    return 0


def _hand_over(code: Path, arguments: Sequence[str]) -> None:
    """Become the same command of another release."""
    environment = {**os.environ, "PYTHONPATH": f"{code}/services"}
    python = str(code / ".venv" / "bin" / "python")
    os.execve(python, [python, "-m", "saltern.cli", *arguments], environment)


def _backup(arguments: argparse.Namespace) -> int:
    _as_root("backup")
    chosen = _chosen(arguments)
    if not chosen.installed:
        raise SalternError(
            f"fleet {chosen.name}: no master is installed here; `./saltern install-master` makes this machine one"
        )
    if arguments.keep < 0:
        raise SalternError(f"backup: --keep {arguments.keep}: 0 keeps all, 14 the last fourteen")
    started = time.monotonic()
    path = backup.write(chosen, REPOSITORY, arguments.target, keep=arguments.keep)
    if path:
        size = path.stat().st_size / 1024
        print(
            f"{path}: {size:.0f} KiB in {time.monotonic() - started:.1f} s; as secret as the master's own key"
        )
    return 0


def _restore(arguments: argparse.Namespace) -> int:
    _as_root("restore")
    code, name = install.restore(arguments.source, force=arguments.force, tell=_tell)
    more = ["--address", arguments.address] if arguments.address else []
    more += [word for peer in arguments.peer or () for word in ("--peer", peer)]
    # The script of that release: it has packages and a virtual environment of its own.
    os.execv(str(code / "saltern"), [str(code / "saltern"), "install-master", "--fleet", name, *more])
    return 1


def _share(arguments: argparse.Namespace) -> int:
    _as_root("share")
    sharing.share(_chosen(arguments))
    return 0


def _take(arguments: argparse.Namespace) -> int:
    _as_root("take")
    came = sharing.receive(_chosen(arguments), sys.stdin.buffer)
    print(f"{len(came.contents)} of {len(came.modes)} files from {came.sender}")
    return 0


def _join(arguments: argparse.Namespace) -> int:
    # As root to the end: the ssh key is root's. What it leaves is given to the master's user.
    _as_root("join")
    chosen = _chosen(arguments)
    leading.need(chosen, "join")
    host = joining.Host(
        arguments.address, arguments.user, arguments.port, arguments.key, arguments.known_hosts
    )
    started = time.monotonic()
    try:
        joining.join(chosen, arguments.name, host, _tell)
    finally:
        if chosen.installed:
            install.own(chosen.state_dir)
    print(f"{arguments.name}: joined in {time.monotonic() - started:.1f} s, and takes on its role now")
    return 0


def _move_machines(arguments: argparse.Namespace) -> int:
    _as_root("move-machines")
    chosen = _chosen(arguments)
    known = chosen.addresses()
    if strangers := sorted(set(arguments.names) - known.keys()):
        raise SalternError(
            f"machine {strangers[0]}: fleet {chosen.name} has none by this name; saltern status lists them"
        )
    reached = (arguments.user, arguments.port, arguments.key, arguments.known_hosts)
    hosts = {name: joining.Host(known[name], *reached) for name in arguments.names or sorted(known)}
    faults = joining.move(chosen, hosts, _tell)
    for name, fault in faults.items():
        print(f"saltern: {name}: {fault}", file=sys.stderr)
    if faults:
        again = " ".join(faults)
        print(f"saltern: not moved; run it again with: {again}", file=sys.stderr)
        return 1
    print(f"{len(hosts)} machines go to {', '.join(chosen.masters)}")
    return 0


def _leave(arguments: argparse.Namespace) -> int:
    joining.leave(_at_work(arguments), arguments.name, _tell)
    print(f"{arguments.name}: left; `systemctl disable --now salt-minion` there ends its minion")
    return 0


def _clone(arguments: argparse.Namespace) -> int:
    _root()
    target = workplace.clone(
        _chosen(arguments), Path(arguments.dir), lambda words: print(f"  {words}", file=sys.stderr)
    )
    print(f"{target}: on branch staging; what is pushed there goes to the canary")
    print(
        f"next:  cd {arguments.dir} && edit, git commit -a, git push    |    git push origin staging:production"
    )
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    lacking = 0
    for finding in doctor.examine(_chosen(arguments)):
        mark = "missing" if finding.remedy else "ok     "
        lacking += bool(finding.remedy)
        print(f"{mark}  {finding.what}: {finding.found}" + (f"; {finding.remedy}" if finding.remedy else ""))
    return 1 if lacking else 0


def _demo(arguments: argparse.Namespace) -> int:
    # Only this command needs what it drags in.
    from saltern.demo import page, results, screen, steps, tour

    every = [step for step, _ in steps.SHOWN]
    if arguments.names == ["list"]:
        print("\n".join(f"{step.name:<16}{step.title}" for step in every))
        return 0
    chosen = results.choose(every, arguments.names)
    _root()
    report = Path(arguments.report) if arguments.report else None
    if report and not report.absolute().parent.is_dir():
        raise SalternError(f"--report {report}: there is no folder {report.absolute().parent}")
    selected = _chosen(arguments)
    shown: list[results.Result] = []
    began = time.time()
    try:
        tour.lead(selected, chosen, screen.Screen(sys.stderr if arguments.json else sys.stdout), shown)
    finally:
        if shown:
            screen.summary(shown, sys.stderr if arguments.json else sys.stdout)
        if shown and report:
            machines = len(Fleet.load(selected.state_dir).inventory())
            about = f"{machines} machines, {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime(began))}"
            fleet.write_atomically(report, page.page(shown, selected.name, about))
        if shown and arguments.json:
            print(results.line(shown))
    return results.status(shown)


def _test(arguments: argparse.Namespace) -> int:
    kinds = [k for k in arguments.others if k in TEST_KINDS]
    others = [k for k in arguments.others if k not in TEST_KINDS]
    folders: list[str] = []
    if kinds or not any((REPOSITORY / each.partition("::")[0]).exists() for each in others):
        # A service's own tests are of several kinds, and lie beside it.
        folders = ["services", *(f"tests/{kind}" for kind in kinds or TEST_KINDS)]
    marks = ["-m", " or ".join(kinds)] if kinds else []
    _exec([master.program("pytest"), *marks, *folders, *others])
    return 1


def _bench(arguments: argparse.Namespace) -> int:
    folder = REPOSITORY / "tests" / "bench"
    names = sorted(path.stem.removeprefix("bench_") for path in folder.glob("bench_*.py"))
    if arguments.name == "list":
        print("\n".join(names))
        return 0
    if arguments.name not in names:
        raise SalternError(f"bench {arguments.name!r}: none by this name; there are {', '.join(names)}")
    flags = ["--json"] if arguments.json else []
    _exec([sys.executable, str(folder / f"bench_{arguments.name}.py"), *flags, *arguments.arguments])
    return 1


def _exec(command: list[str]) -> None:
    """Become another program, from the repository root."""
    os.chdir(REPOSITORY)
    os.execv(command[0], command)


if __name__ == "__main__":
    sys.exit(main())
