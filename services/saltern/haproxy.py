"""HAProxy over its runtime socket: send commands, read replies, and nothing believed that is not complete.

One call is one connection: HAProxy runs the commands of a line in order, ends each reply with an empty line
and closes. A reply that stops early, a missing reply or an error text is an exception, never an empty result.
Formats: HAProxy's management guide, "Unix Socket commands" and "Statistics and monitoring".
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

UNSET_ADDR = "192.0.2.1"
"""The address of a slot that was never filled (RFC 5737); the template's init-addr."""

ADMIN_MAINT = 0x01 | 0x02 | 0x20
ADMIN_DRAIN = 0x08 | 0x10
"""Bits of srv_admin_state: forced, inherited, unresolved. 0x04 only says that the configuration starts it
disabled.
"""

_LINE_BYTES = 12_000
"""HAProxy reads a command line into one buffer (tune.bufsize, 16 KiB by default)."""
_ADDRESS_SET = re.compile(r"(IP changed from|port changed from|no need to change)")


class HAProxyError(Exception):
    """The runtime socket could not be used as expected."""


class Unreachable(HAProxyError):
    """Nothing answers on the socket, or not in time."""


class Truncated(HAProxyError):
    """The answer stopped before its end, or is not in the format it should have."""


class Rejected(HAProxyError):
    """HAProxy answered a command with an error text."""


@dataclass(frozen=True)
class Server:
    """One server line of ``show servers state``."""

    backend: str
    name: str
    addr: str
    port: int
    op: int
    """0 stopped, 1 starting, 2 running, 3 stopping."""
    admin: int
    weight: int = 1

    @property
    def admin_state(self) -> str:
        """ready, drain or maint, as ``set server … state`` calls them."""
        if self.admin & ADMIN_MAINT:
            return "maint"
        return "drain" if self.admin & ADMIN_DRAIN else "ready"

    @property
    def up(self) -> bool:
        """Health only: checks pass, or have not failed yet."""
        return self.op != 0


@dataclass(frozen=True)
class Stat:
    """The counters of one server since HAProxy started, from ``show stat``."""

    backend: str
    name: str
    sessions: int
    """Requests, WebSockets included, open now."""
    queued: int
    total: int
    """Requests ever given to it."""
    http_1xx: int
    http_2xx: int
    http_3xx: int
    http_4xx: int
    http_5xx: int
    connect_errors: int
    response_errors: int
    """Responses that were empty, broken off or invalid."""
    retries: int
    redispatches: int
    downs: int
    """How often it went from up to down."""
    queue_ms: int
    connect_ms: int
    response_ms: int
    """Time to the response's headers, averaged by HAProxy over the last 1024 requests."""
    total_ms: int
    check: str
    """The last health check: L7OK, L4CON, L4TOUT, …"""
    last_change_s: int


@dataclass(frozen=True)
class Session:
    """One open stream, from ``show sess``."""

    id: str
    source: str
    server: str
    backend: str
    age_s: int


class Runtime:
    """HAProxy's runtime socket at ``path``; ``timeout_s`` bounds a whole call."""

    def __init__(self, path: str | Path, timeout_s: float = 1.0) -> None:
        self.path = str(path)
        self.timeout_s = timeout_s

    def ask(self, commands: Sequence[str]) -> list[str]:
        """Send commands and return one reply each, in order.

        Raises Unreachable, or Truncated when a reply is missing or incomplete.
        """
        replies: list[str] = []
        for line in lines(commands):
            replies += split_replies(self._exchange(";".join(line)), len(line), self.path)
        return replies

    def change(self, commands: Sequence[str]) -> list[Rejected]:
        """Send commands that change something. Returns those HAProxy refused; the others were carried out.

        Raises Unreachable, or Truncated when it is unknown how far HAProxy came.
        """
        replies = self.ask(commands)
        return [r for command, reply in zip(commands, replies, strict=True) if (r := refusal(command, reply))]

    def servers(self, *backends: str) -> tuple[Server, ...]:
        """Read address, port and state of every server."""
        replies = self.ask([f"show servers state {backend}" for backend in backends])
        return tuple(server for reply in replies for server in parse_servers(reply))

    def _exchange(self, line: str) -> str:
        deadline = time.monotonic() + self.timeout_s
        chunks: list[bytes] = []
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            try:
                link.settimeout(self.timeout_s)
                link.connect(self.path)
                link.sendall(line.encode() + b"\n")
                while True:
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise TimeoutError
                    link.settimeout(left)
                    chunk = link.recv(262_144)
                    if not chunk:
                        break
                    chunks.append(chunk)
            except TimeoutError:
                raise Unreachable(
                    f"haproxy: {self.path} did not answer within {self.timeout_s:g} s"
                ) from None
            except OSError as error:
                raise Unreachable(
                    f"haproxy: {self.path}: {error.strerror or error}; is HAProxy running?"
                ) from error
        return b"".join(chunks).decode("utf-8", "replace")


def lines(commands: Iterable[str]) -> Iterator[list[str]]:
    """Group commands so that each group fits HAProxy's command buffer."""
    group: list[str] = []
    size = 0
    for command in commands:
        if "\n" in command or ";" in command or "<<" in command:
            raise ValueError(f"haproxy: command {command!r} would be read as several")
        if group and size + len(command) + 1 > _LINE_BYTES:
            yield group
            group, size = [], 0
        group.append(command)
        size += len(command) + 1
    if group:
        yield group


def split_replies(text: str, count: int, where: str = "socket") -> list[str]:
    """Cut what the socket sent into ``count`` replies. Raises Truncated when that is not what it holds."""
    replies: list[str] = []
    reply: list[str] = []
    rows = text.split("\n")
    if rows.pop() != "":
        raise Truncated(f"haproxy: {where}: the answer stops in the middle of a line: {text[-60:]!r}")
    for row in rows:
        if row:
            reply.append(row)
        else:
            replies.append("\n".join(reply))
            reply = []
    if reply or len(replies) != count:
        raise Truncated(
            f"haproxy: {where}: {len(replies)} of {count} replies arrived; the last text is {text[-60:]!r}"
        )
    return replies


def refusal(command: str, reply: str) -> Rejected | None:
    """Judge the reply to a changing command: silence is success, and so is the sentence after ``set server …
    addr``.
    """
    if not reply or (" addr " in command and _ADDRESS_SET.search(reply)):
        return None
    return Rejected(f"haproxy: {command!r} was refused: {reply.splitlines()[0].strip()}")


def parse_servers(reply: str) -> tuple[Server, ...]:
    """Parse ``show servers state``. Raises Truncated on any other text, an error message included."""
    rows = reply.splitlines()
    if len(rows) < 2 or rows[0].strip() != "1" or not rows[1].startswith("# "):
        raise Truncated(f"haproxy: not a servers state, format 1: {reply[:80]!r}")
    names = rows[1][2:].split(" ")
    try:
        backend, name, addr = (names.index(n) for n in ("be_name", "srv_name", "srv_addr"))
        numbers = [names.index(n) for n in ("srv_port", "srv_op_state", "srv_admin_state", "srv_uweight")]
    except ValueError as error:
        raise Truncated(f"haproxy: servers state lacks a column: {error}") from None
    servers = []
    for row in rows[2:]:
        cells = row.split(" ")
        if len(cells) != len(names):
            raise Truncated(
                f"haproxy: servers state has a row of {len(cells)} cells, not {len(names)}: {row[:80]!r}"
            )
        try:
            port, op, admin, weight = (int(cells[n]) for n in numbers)
        except ValueError:
            raise Truncated(f"haproxy: servers state has a row that cannot be read: {row[:80]!r}") from None
        servers.append(Server(cells[backend], cells[name], cells[addr], port, op, admin, weight))
    return tuple(servers)


_STAT_COLUMNS = {
    "sessions": "scur",
    "queued": "qcur",
    "total": "stot",
    "http_1xx": "hrsp_1xx",
    "http_2xx": "hrsp_2xx",
    "http_3xx": "hrsp_3xx",
    "http_4xx": "hrsp_4xx",
    "http_5xx": "hrsp_5xx",
    "connect_errors": "econ",
    "response_errors": "eresp",
    "retries": "wretr",
    "redispatches": "wredis",
    "downs": "chkdown",
    "queue_ms": "qtime",
    "connect_ms": "ctime",
    "response_ms": "rtime",
    "total_ms": "ttime",
    "last_change_s": "lastchg",
}


def parse_stat(reply: str, wanted: frozenset[tuple[str, str]] | None = None) -> tuple[Stat, ...]:
    """Parse the servers of ``show stat`` (CSV); ``wanted`` limits it to some (backend, server).

    Raises Truncated when a row is cut off, a number is not one, or the text is no statistics at all.
    """
    rows = reply.splitlines()
    if not rows or not rows[0].startswith("# pxname,svname,"):
        raise Truncated(f"haproxy: not statistics: {reply[:80]!r}")
    names = rows[0][2:].split(",")
    try:
        columns = [(field, names.index(name)) for field, name in _STAT_COLUMNS.items()]
        check = names.index("check_status")
    except ValueError as error:
        raise Truncated(f"haproxy: statistics lack a column: {error}") from None
    stats = []
    for row in rows[1:]:
        backend, _, rest = row.partition(",")
        name = rest.partition(",")[0]
        if name in ("FRONTEND", "BACKEND") or (wanted is not None and (backend, name) not in wanted):
            continue
        # The description fields are the only quoted ones and lie behind every column read here.
        cells = row.split(",")
        if len(cells) < len(names):
            raise Truncated(
                f"haproxy: statistics have a row of {len(cells)} cells, not {len(names)}: {row[:80]!r}"
            )
        try:
            numbers = {field: int(cells[at] or 0) for field, at in columns}
        except ValueError:
            raise Truncated(f"haproxy: statistics have a row that cannot be read: {row[:80]!r}") from None
        stats.append(Stat(backend=backend, name=name, check=cells[check].removeprefix("* "), **numbers))
    return tuple(stats)


def parse_map(reply: str) -> Mapping[str, str]:
    """Parse ``show map <file>``: one ``pointer key value`` a line."""
    entries = {}
    for row in reply.splitlines():
        cells = row.split(" ", 2)
        if len(cells) != 3 or not cells[0].startswith("0x"):
            raise Truncated(f"haproxy: not a map: {row[:80]!r}")
        entries[cells[1]] = cells[2]
    return entries


def parse_acl(reply: str) -> frozenset[str]:
    """Parse ``show acl <file>``: one ``pointer pattern`` a line."""
    patterns = set()
    for row in reply.splitlines():
        pointer, _, pattern = row.partition(" ")
        if not pattern or not pointer.startswith("0x"):
            raise Truncated(f"haproxy: not a list of patterns: {row[:80]!r}")
        patterns.add(pattern)
    return frozenset(patterns)


def parse_info(reply: str) -> Mapping[str, str]:
    """Parse ``show info``: one ``Name: value`` a line."""
    info = dict(row.split(": ", 1) for row in reply.splitlines() if ": " in row)
    if "Pid" not in info:
        raise Truncated(f"haproxy: not the process information: {reply[:80]!r}")
    return info


def parse_sessions(reply: str) -> tuple[Session, ...]:
    """Parse ``show sess``: one stream a line, its first cell the id and the others ``name=value``."""
    sessions = []
    for row in reply.splitlines():
        id_, colon, rest = row.partition(": ")
        if not colon or not id_.startswith("0x"):
            raise Truncated(f"haproxy: not a session: {row[:80]!r}")
        cells = dict(cell.split("=", 1) for cell in rest.split(" ") if "=" in cell)
        sessions.append(
            Session(
                id_,
                cells.get("src", ""),
                cells.get("srv", ""),
                cells.get("be", ""),
                _age(cells.get("age", "0s")),
            )
        )
    return tuple(sessions)


def _age(text: str) -> int:
    """Seconds of HAProxy's human readable ages, such as 5s, 3m12s, 1h4m, 2d3h."""
    units = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([dhms])", text))
