"""The runtime socket: what a healthy HAProxy says, and what is made of one that is not."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from host import PATIENCE
from saltern.haproxy import HAProxyError, Rejected, Runtime, Truncated, Unreachable
from traffic_stand import Stand

pytestmark = pytest.mark.functional


@contextlib.contextmanager
def answering(
    path: Path, answer: Callable[[socket.socket], None], timeout_s: float = PATIENCE
) -> Iterator[Runtime]:
    """Something on the socket that answers its own way."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    link, _ = listener.accept()
                    with link:
                        link.recv(65536)
                        answer(link)

        serving = threading.Thread(target=serve)
        serving.start()
        try:
            yield Runtime(path, timeout_s)
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            serving.join()


def silent(link: socket.socket) -> None:
    """Not a word, until the other side has had enough."""
    link.recv(1)


def trickle(link: socket.socket) -> None:
    """Always one more byte, never an end."""
    with contextlib.suppress(OSError):
        while True:
            link.sendall(b"x")
            time.sleep(0.02)


SICK: list[tuple[str, Callable[[socket.socket], None], type[HAProxyError]]] = [
    ("hangs up", lambda link: None, Truncated),
    ("stops in a line", lambda link: link.sendall(b"1\n# be_id be_na"), Truncated),
    ("stops between lines", lambda link: link.sendall(b"1\n# be_id be_name\n"), Truncated),
    ("answers another question", lambda link: link.sendall(b"Unknown command.\n\n"), Truncated),
    ("says nothing", silent, Unreachable),
    ("never ends", trickle, Unreachable),
    ("sends no text", lambda link: link.sendall(b"\xff\xfe\x00\n\n"), Truncated),
]


@pytest.mark.parametrize(("what", "answer", "error"), SICK, ids=[row[0] for row in SICK])
def test_a_sick_socket_is_an_exception_in_time(
    what: str, answer: Callable[[socket.socket], None], error: type[HAProxyError], tmp_path: Path
) -> None:
    patience = 0.3 if error is Unreachable else PATIENCE
    with answering(tmp_path / "s", answer, patience) as runtime, pytest.raises(error, match=r"^haproxy: "):
        runtime.servers("prod")


def test_no_socket_and_nobody_listening_say_which_and_ask_the_right_question(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="is HAProxy running"):
        Runtime(tmp_path / "none").ask(["show info"])
    with socket.socket(socket.AF_UNIX) as abandoned:
        abandoned.bind(str(tmp_path / "abandoned"))
    with pytest.raises(Unreachable, match="is HAProxy running"):
        Runtime(tmp_path / "abandoned").ask(["show info"])


def test_refused_commands_are_named_and_the_others_carried_out(stand: Stand) -> None:
    stand.controller.end()
    refused = stand.runtime.change(
        [
            "set server prod/p1 addr 127.0.0.1 port 81",
            "set server prod/p1 addr not-an-address port 81",
            "set server prod/nobody state ready",
            "no such command",
            f"add map {stand.state_dir}/instances.map x 1",
            f"set map {stand.state_dir}/instances.map y 1",
            "set server prod/p1 state drain",
        ]
    )
    assert all(isinstance(r, Rejected) for r in refused)
    assert [str(r).split("'")[1] for r in refused] == [
        "set server prod/p1 addr not-an-address port 81",
        "set server prod/nobody state ready",
        "no such command",
        f"set map {stand.state_dir}/instances.map y 1",
    ]
    server = stand.runtime.servers("prod")[0]
    assert (server.addr, server.port, server.admin_state) == ("127.0.0.1", 81, "drain")


def test_more_commands_than_one_line_holds_are_all_carried_out(stand: Stand) -> None:
    stand.controller.end()
    commands = [f"set server prod/p{n % 64 + 1} addr 127.0.0.1 port {n}" for n in range(1, 1001)]
    assert stand.runtime.change(commands) == []
    assert {s.port for s in stand.runtime.servers("prod")} == set(range(937, 1001))


def test_a_controller_in_front_of_a_sick_haproxy_says_so_and_goes_on_when_it_is_well(stand: Stand) -> None:
    stand.add("prod1")
    stand.await_up("prod1")
    stand.haproxy.end()
    stand.socket.unlink(missing_ok=True)
    with answering(stand.socket, lambda link: link.sendall(b"1\n# be_id be_na")):
        status = stand.await_status(
            lambda s: "middle of a line" in s["haproxy"]["problem"], "it being noticed"
        )
        assert status["ok"] is False
    stand.socket.unlink()
    stand.start_haproxy()
    stand.await_status(lambda s: s["ok"], "the controller well again")
    stand.await_up("prod1")
