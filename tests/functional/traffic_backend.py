"""A product as small as it gets, for the traffic tests: one process, a thread a connection, keep-alive.

    python traffic_backend.py PORT NAME

It claims to be someone else in every header the proxy sets, which must never reach a client. ``/health`` says
200, ``/held`` is answered once ``/let-go`` was asked for, ``/mode?status=500`` makes every later answer (not
/health) that status, ``/mode?health=503`` the same for /health, ``/upgrade`` switches protocols and echoes,
``/told`` says what the last health check said of this server, and then what its own request does. The body of all
others is the name.
"""

from __future__ import annotations

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


class Product(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536
    disable_nagle_algorithm = True
    mode = {"status": 200, "health": 200}  # noqa: RUF012 - one process, one mode
    let_go = threading.Event()
    told = ""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        said = self.headers.get("X-Haproxy-Server-State", "")
        if url.path == "/told":
            return self.answer(200, f"{self.told}|{said}")
        if url.path == "/health":
            # Production's servers are also listed, and looked at, as the canary's last resort.
            type(self).told = said if "name=prod/" in said else self.told
            return self.answer(self.mode["health"])
        if url.path == "/mode":
            self.mode.update({name: int(value) for name, value in query.items()})
            return self.answer(200)
        if url.path == "/upgrade":
            return self.echo()
        if url.path == "/held":
            self.let_go.wait()
        if url.path == "/let-go":
            self.let_go.set()
        return self.answer(self.mode["status"])

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def answer(self, status: int, text: str = "") -> None:
        body = (text or self.server.name).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name in ("Instance", "Pool", "Release"):
            self.send_header(f"X-Saltern-{name}", "forged")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def echo(self) -> None:
        self.send_response(101)
        self.send_header("Connection", "Upgrade")
        self.send_header("Upgrade", "echo")
        self.end_headers()
        self.wfile.flush()
        while data := self.connection.recv(4096):
            self.connection.sendall(data)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 512
    daemon_threads = True
    name = ""


if __name__ == "__main__":
    threading.stack_size(256 * 1024)
    address, port = sys.argv[1].rsplit(":", 1)
    with Server((address, int(port)), Product) as server:
        server.name = sys.argv[2]
        print("ready", flush=True)
        server.serve_forever()
