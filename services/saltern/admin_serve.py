"""How gunicorn serves the admin API and the dashboard: one process, of threads that no slow client can hold up."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from http import HTTPStatus
from typing import Any, Protocol

from gunicorn.app.base import BaseApplication
from gunicorn.http.errors import (
    ExpectationFailed,
    InvalidResponseHeader,
    InvalidResponseHeaderName,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
    UnsupportedTransferCoding,
)
from gunicorn.workers.gthread import TConn, ThreadWorker

_REFUSALS = {
    LimitRequestLine: HTTPStatus.REQUEST_URI_TOO_LONG,
    LimitRequestHeaders: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    ExpectationFailed: HTTPStatus.EXPECTATION_FAILED,
    UnsupportedTransferCoding: HTTPStatus.NOT_IMPLEMENTED,
}
"""What is not a 400."""
_CLOSERS = 4
_KEEPALIVE_S = 15
_GRACEFUL_S = 10
_CONNECTIONS = 256


class Listening(Protocol):
    """What of a configuration is about serving."""

    @property
    def address(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def threads(self) -> int: ...
    @property
    def request_s(self) -> float: ...


class PatientWorker(ThreadWorker):
    """Differs from the stock worker in three points; two are about clients that take their time.

    A client that sends its request byte by byte would hold a thread for as long as it likes; here the whole
    way from the first byte to the answer has one deadline.

    A client that does not hang up after its last answer would hold up the event loop, and with it everybody,
    for two seconds; here other threads wait for that.

    And what is not even HTTP is answered in JSON too.
    """

    request_s = 10.0

    def init_process(self) -> None:
        """Prepare and run the worker; returns when it has stopped."""
        self.lock = threading.Lock()
        self.began: dict[TConn, float] = {}
        self.closers = ThreadPoolExecutor(_CLOSERS, thread_name_prefix="closer")
        super().init_process()

    def handle(self, conn: TConn) -> Any:
        """Serve one request of a connection; runs in a thread of the pool."""
        with self.lock:
            self.began[conn] = time.monotonic()
        try:
            return super().handle(conn)
        finally:
            with self.lock:
                del self.began[conn]

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: BaseException) -> None:
        """Answer a request that could not be read, or leave a mistake of the server's to the log."""
        ours = (InvalidResponseHeader, InvalidResponseHeaderName)
        if not isinstance(exc, ParseException) or isinstance(exc, ours):
            super().handle_error(req, client, addr, exc)
            return
        found = (answer for kind, answer in _REFUSALS.items() if isinstance(exc, kind))
        status = next(found, HTTPStatus.BAD_REQUEST)
        text = json.dumps({"error": f"request: {' '.join(str(exc).split())[:200]}"}) + "\n"
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\nCache-Control: no-store\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
        )
        try:
            client.sendall((head + text).encode())
        except OSError as error:
            self.log.debug("nobody waits for a refusal: %s", error)

    def murder_pending(self) -> None:
        """End what waited long enough; the event loop calls this at least once a second."""
        super().murder_pending()
        late = time.monotonic() - self.request_s
        with self.lock:
            # Reads and writes under way end at once; the thread closes the connection.
            for conn in [conn for conn, began in self.began.items() if began < late]:
                try:
                    conn.sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    # It has ended meanwhile, which is what is wanted.
                    continue

    def finish_request(self, conn: TConn, fs: Future[Any]) -> None:
        """Keep, defer or end a connection whose request is done; runs in the event loop."""
        if fs.cancelled() or fs.exception() or fs.result():
            super().finish_request(conn, fs)
            return
        closing = self.closers.submit(conn.close, graceful=True)
        closing.add_done_callback(lambda _: self.method_queue.defer(self._closed))

    def _closed(self) -> None:
        self.nr_conns -= 1


class _Application(BaseApplication):
    def __init__(self, settings: dict[str, Any], make: Callable[[], Any]) -> None:
        self._settings = settings
        self._make = make
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._settings.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        return self._make()


def settings(config: Listening) -> dict[str, Any]:
    """gunicorn's settings, by its own names."""
    PatientWorker.request_s = config.request_s
    host = f"[{config.address}]" if ":" in config.address else config.address
    return {
        "bind": [f"{host}:{config.port}"],
        # One process: rate limits are counted in its memory.
        "workers": 1,
        "worker_class": PatientWorker,
        "threads": config.threads,
        "worker_connections": _CONNECTIONS,
        "keepalive": _KEEPALIVE_S,
        "graceful_timeout": _GRACEFUL_S,
        # On a disk, a stalled write of the heartbeat would look like a dead worker.
        "worker_tmp_dir": "/dev/shm",
        "control_socket_disable": True,
        # Longer than any path that means something, so that a long one is told what is wrong with it.
        "limit_request_line": 8190,
        "limit_request_fields": 48,
        "limit_request_field_size": 4096,
        # Nobody stands in front of it, so nobody is believed about who a client is.
        "forwarded_allow_ips": "",
        "proc_name": "saltern-admin",
        "accesslog": None,
        "errorlog": "-",
        "loglevel": "warning",
    }


def serve(config: Listening, make: Callable[[], Any], **others: Any) -> int:
    """Serve the WSGI program that ``make`` returns, made in the worker, until SIGTERM.

    ``others`` are settings of gunicorn's that differ from ours.
    """
    _Application({**settings(config), **others}, make).run()
    return 0
