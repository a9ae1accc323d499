"""A gunicorn thread worker that loses no connection at a stop, holds nobody up for one that lingers, and leaves no
answer half sent when it is killed.
"""

import selectors
import time
from concurrent.futures import Future
from functools import partial
from socket import SHUT_WR

from gunicorn.http import wsgi
from gunicorn.workers.gthread import TConn, ThreadWorker

LINGER = 2.0
"""How long a connection that the worker ends stays open for the client to read the answer, in seconds."""

LINGER_READ = 65536
"""How much of what a client still sends meanwhile is thrown away at once, in bytes."""


class WholeResponse(wsgi.Response):
    """Sends the headers together with what comes first of the body.

    The stock response sends them by themselves, and a busy process may wait a while for its turn before it sends the
    rest. One that is killed in between leaves half an answer, for which a proxy can ask nobody else.
    """

    head = b""

    def send_headers(self) -> None:
        """Make the headers; whoever has what follows sends them."""
        if not self.headers_sent:
            lines = [
                *self.default_headers(),
                *(f"{name}: {value}\r\n" for name, value in self.headers),
                "\r\n",
            ]
            self.head = "".join(lines).encode("latin-1")
            self.headers_sent = True

    def close(self) -> None:
        """End the answer; one without a body is its headers."""
        self.send_headers()
        self._flush()
        super().close()

    def can_sendfile(self) -> bool:
        """No: a file's content would leave by itself."""
        return False

    def _emit_body(self, data: bytes) -> None:
        if self.chunked:
            data = b"%X\r\n%b\r\n" % (len(data), data)
        self._flush(data)

    def _flush(self, data: bytes = b"") -> None:
        if self.head or data:
            head, self.head = self.head, b""
            self.sock.sendall(head + data)


class DrainingThreadWorker(ThreadWorker):
    """Differs from the stock worker in three points, all about ends.

    The stock worker, told to stop, leaves the listening socket open, unread, until its last request is
    answered: clients go on connecting meanwhile, and all of them are reset at the end. Here, on the way out,
    the queue is emptied into the worker and the socket closed at once: a client is served, or is refused and
    can go elsewhere.

    The stock worker, having sent its last answer on a connection, waits up to two seconds for the client to
    hang up, and nothing else is accepted or read meanwhile. Here that wait is one entry in the event loop.

    And streams, which would not end by themselves, are ended.
    """

    def init_process(self) -> None:
        """Prepare and run the worker; returns when it has stopped."""
        self.lingering: list[TConn] = []
        wsgi.Response = WholeResponse
        super().init_process()

    def set_accept_enabled(self, enabled: bool) -> None:
        """Stop or start taking connections; called with False once more when the worker is stopping."""
        super().set_accept_enabled(enabled)
        if enabled or self.alive:
            return
        self.wsgi.streams.end()
        for listener in self.sockets:
            with selectors.DefaultSelector() as queue:
                queue.register(listener, selectors.EVENT_READ)
                while queue.select(timeout=0):
                    self.accept(listener)
            listener.close()

    def finish_request(self, conn: TConn, fs: Future) -> None:
        """Keep, defer or end a connection whose request is done; runs in the event loop."""
        if fs.cancelled() or fs.exception() or fs.result():
            super().finish_request(conn, fs)
            return
        try:
            conn.sock.shutdown(SHUT_WR)
        except OSError:
            # The client is gone already.
            self._end(conn)
            return
        conn.sock.setblocking(False)
        conn.timeout = time.monotonic() + LINGER
        self.lingering.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._drain, conn))

    def murder_pending(self) -> None:
        """End what waited long enough; the event loop calls this at least once a second."""
        super().murder_pending()
        now = time.monotonic()
        for conn in [conn for conn in self.lingering if conn.timeout <= now]:
            self._forget(conn)

    def _drain(self, conn: TConn, sock: object) -> None:
        try:
            more = conn.sock.recv(LINGER_READ)
        except BlockingIOError:
            return
        except OSError:
            more = b""
        if not more:
            self._forget(conn)

    def _forget(self, conn: TConn) -> None:
        self.lingering.remove(conn)
        self.poller.unregister(conn.sock)
        self._end(conn)

    def _end(self, conn: TConn) -> None:
        self.nr_conns -= 1
        conn.close()
