"""A Redis connection that can be pushed to: RESP3 over TCP, TLS or a Unix socket.

Redis tells a client that a key changed (CLIENT TRACKING) on the client's own connection, so this connection
has to be read between commands. Client libraries hide exactly that, so the provider speaks the protocol
itself: the whole of RESP3 (https://redis.io/docs/latest/develop/reference/protocol-spec/) is one function.
"""

from __future__ import annotations

# Python looks this codec up when it first resolves a name. A fork in the middle of that leaves the child with
# half a module and "unknown encoding: idna" for ever, so it is looked up now.
import encodings.idna  # noqa: F401
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

CHUNK = 65536


class Lost(OSError):
    """The connection ended, or did not answer in time."""


class Refused(Exception):
    """Redis answered with an error: wrong password, missing right, still loading."""


@dataclass(frozen=True)
class Address:
    """Where a server listens: host and port, or the path of a Unix socket (then host is empty)."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `host:port`, `[v6]:port` or `/path/of/socket`.

        Raises ValueError naming the text and the forms that are right.
        """
        if text.startswith("/"):
            return cls(path=text)
        host, colon, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
        bare_v6 = ":" in host and not text.startswith("[")
        if (
            not colon
            or not host
            or bare_v6
            or not port.isascii()
            or not port.isdigit()
            or not 0 < int(port) < 65536
        ):
            raise ValueError(f"address {text!r} is not host:port, [v6]:port or the /path of a Unix socket")
        return cls(host=host, port=int(port))


@dataclass(frozen=True)
class Login:
    """How to enter: ACL user (None is Redis' `default` user), password, TLS context (None is plain TCP)."""

    username: str | None = None
    password: str | None = None
    tls: ssl.SSLContext | None = None

    def __repr__(self) -> str:
        return f"Login(username={self.username!r}, tls={self.tls is not None})"


def encode(command: Sequence[str | bytes | int]) -> bytes:
    """One command as RESP: an array of bulk strings."""
    parts = [part if isinstance(part, bytes) else str(part).encode() for part in command]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


class Connection:
    """One open connection. Not for several threads, except that any thread may call `interrupt`."""

    def __init__(self, address: Address, tls: ssl.SSLContext | None, timeout: float) -> None:
        """Connect. timeout: seconds for that and for every answer. Raises OSError."""
        self.address = address
        self._timeout = timeout
        self._buffer = bytearray()
        self._pushed: list[list[Any]] = []
        self._deadline: float | None = None
        self._socket = _open(address, tls, timeout)

    def enter(self, login: Login) -> None:
        """Log in and agree on RESP3. Raises Refused and Lost."""
        hello: list[str] = ["HELLO", "3"]
        if login.password is not None:
            hello += ["AUTH", login.username or "default", login.password]
        self.call(hello)

    def call(self, *commands: Sequence[str | bytes | int]) -> list[Any]:
        """Send the commands in one go and return their answers in order.

        Raises Refused for the first error answer (all answers have been read by then) and Lost.
        """
        self._deadline = time.monotonic() + self._timeout
        self._socket.settimeout(self._timeout)
        self._socket.sendall(b"".join(encode(command) for command in commands))
        answers: list[Any] = []
        while len(answers) < len(commands):
            pushed, answer = self._read()
            if pushed and answer[0] != b"subscribe":  # RESP3 confirms a subscription by a push
                self._pushed.append(answer)
            else:
                answers.append(answer)
        for answer in answers:
            if isinstance(answer, Refused):
                raise answer
        return answers

    def pushes(self, wait: float) -> list[list[Any]]:
        """Messages Redis pushed on its own; waits up to `wait` seconds for the first one. Raises Lost."""
        if not self._pushed and (self._buffer or self._wait(wait)):
            self._deadline = time.monotonic() + self._timeout
            pushed, answer = self._read()
            if not pushed:
                raise Lost(f"{self.address} sent an answer nobody asked for: {answer!r}")
            self._pushed.append(answer)
        taken, self._pushed = self._pushed, []
        return taken

    def interrupt(self) -> None:
        """Make whoever is reading this connection see its end. Callable from any thread."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # already gone, which is what was wanted

    def close(self) -> None:
        """Let go of the socket without a word to the other side, so that a fork's copy can be closed too."""
        self._socket.close()

    def _wait(self, seconds: float) -> bool:
        self._deadline = time.monotonic() + max(seconds, 0.0)
        try:
            self._fill()
        except TimeoutError:
            return False
        return True

    def _fill(self) -> None:
        assert self._deadline is not None
        left = self._deadline - time.monotonic()
        self._socket.settimeout(max(left, 0.000_001))  # 0 would mean non-blocking
        chunk = self._socket.recv(CHUNK)
        if not chunk:
            raise Lost(f"{self.address} closed the connection")
        self._buffer += chunk

    def _more(self) -> None:
        try:
            self._fill()
        except TimeoutError as late:
            raise Lost(f"{self.address} did not answer within {self._timeout:g} s") from late

    def _line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            self._more()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _blob(self, size: int) -> bytes:
        while len(self._buffer) < size + 2:
            self._more()
        blob = bytes(self._buffer[:size])
        del self._buffer[: size + 2]
        return blob

    def _read(self) -> tuple[bool, Any]:
        """One whole value; the flag says whether Redis pushed it. Errors are values, to keep count."""
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"$" or kind == b"=" or kind == b"!":
            if rest == b"-1":
                return False, None
            blob = self._blob(int(rest))
            if kind == b"!":
                return False, Refused(blob.decode(errors="replace"))
            return False, blob[4:] if kind == b"=" else blob
        if kind == b"+":
            return False, rest
        if kind == b":" or kind == b"(":
            return False, int(rest)
        if kind == b"_":
            return False, None
        if kind == b"-":
            return False, Refused(rest.decode(errors="replace"))
        if kind == b"*" or kind == b"~" or kind == b">":
            return kind == b">", None if rest == b"-1" else [self._read()[1] for _ in range(int(rest))]
        if kind == b"%":
            return False, {self._read()[1]: self._read()[1] for _ in range(int(rest))}
        if kind == b"#":
            return False, rest == b"t"
        if kind == b",":
            return False, float(rest)
        if kind == b"|":
            for _ in range(2 * int(rest)):  # attributes are remarks about the next value
                self._read()
            return self._read()
        raise Lost(f"{self.address} does not speak RESP3: {line[:40]!r}")


def _open(address: Address, tls: ssl.SSLContext | None, timeout: float) -> socket.socket:
    if address.path:
        plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            plain.settimeout(timeout)
            plain.connect(address.path)
        except OSError:
            plain.close()
            raise
        return plain
    plain = socket.create_connection((address.host, address.port), timeout=timeout)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if tls is None:
        return plain
    try:
        return tls.wrap_socket(plain, server_hostname=address.host)
    except OSError:
        plain.close()
        raise
