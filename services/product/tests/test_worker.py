"""What leaves the worker, and in how many pieces: a process may be killed between any two."""

from types import SimpleNamespace

import pytest
from product.worker import WholeResponse

pytestmark = pytest.mark.unit

TEXT = [("Content-Type", "text/plain")]


class Wire:
    """A socket that keeps what is sent, piece by piece."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def sendall(self, data: bytes) -> None:
        self.pieces.append(data)


def answered(status: str, headers: list[tuple[str, str]], *body: bytes, method: str = "GET") -> list[bytes]:
    """The pieces in which an answer leaves."""
    wire = Wire()
    request = SimpleNamespace(method=method, version=(1, 1), should_close=lambda: False)
    response = WholeResponse(request, wire, SimpleNamespace(protocol="http", sendfile=None))
    response.start_response(status, headers)
    for part in body:
        response.write(part)
    response.close()
    assert not response.can_sendfile()
    return wire.pieces


def test_an_answer_leaves_in_one_piece():
    (piece,) = answered("200 OK", [*TEXT, ("Content-Length", "5")], b"hello")
    assert piece.startswith(b"HTTP/1.1 200 OK\r\n") and piece.endswith(
        b"text/plain\r\nContent-Length: 5\r\n\r\nhello"
    )


@pytest.mark.parametrize(
    ("status", "method", "headers"),
    [
        ("204 No Content", "GET", []),
        ("304 Not Modified", "GET", [("ETag", "a")]),
        ("200 OK", "HEAD", [("Content-Length", "5")]),
        ("200 OK", "GET", [("Content-Length", "0")]),
    ],
)
def test_an_answer_without_a_body_is_its_headers(status, method, headers):
    (piece,) = answered(status, headers, *([b"hello"] if method == "HEAD" else []), method=method)
    assert piece.startswith(b"HTTP/1.1 " + status.encode()) and piece.endswith(b"\r\n\r\n")


def test_a_stream_begins_with_its_first_part_and_ends_as_it_should():
    first, second, end = answered("200 OK", TEXT, b"one", b"", b"twelve bytes")
    assert b"Transfer-Encoding: chunked\r\n" in first and first.endswith(b"\r\n\r\n3\r\none\r\n")
    assert (second, end) == (b"C\r\ntwelve bytes\r\n", b"0\r\n\r\n")


def test_a_stream_that_ends_before_its_first_part_ends_as_it_should():
    head, end = answered("200 OK", TEXT)
    assert head.endswith(b"\r\n\r\n") and end == b"0\r\n\r\n"
