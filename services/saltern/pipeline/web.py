"""Builds over HTTP, for the master, the dashboard and people on the fleet's network: JSON, plain pages, artifacts."""

from __future__ import annotations

import hmac
import html
import ipaddress
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import bottle

from saltern import admin_metrics
from saltern.pipeline.metrics import metrics
from saltern.pipeline.records import ID, Build
from saltern.pipeline.worker import REPORTS, Worker

REQUEST_S = 15.0
"""Seconds a client may be silent."""
SHOWN = 50
LONGEST_TAIL = 65_536

STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}
body{color:#222;background:#fff}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #ddd}
pre{background:#f5f5f5;padding:1rem;overflow:auto}.passed{color:#17641f}.failed{color:#a11414}
.cancelled,.queued,.running{color:#555}"""


def make_app(worker: Worker) -> bottle.Bottle:
    """The application over a worker's records."""
    app = bottle.Bottle()
    subnet = ipaddress.ip_network(worker.config.subnet)

    @app.hook("before_request")
    def only_the_fleet() -> None:
        asker = ipaddress.ip_address(bottle.request.environ["REMOTE_ADDR"])
        if asker not in subnet and not asker.is_loopback:
            bottle.abort(403, f"{asker} is not of the fleet's network, {subnet}")

    def found(id_: str) -> Build:
        build = next((b for b in worker.builds() if b.id == id_), None)
        if build is None:
            bottle.abort(404, f"build {id_[:60]!r}: there is none by this id; /api/builds lists them")
        return build

    def fault(error: bottle.HTTPError) -> str:
        bottle.response.content_type = "application/json"
        return json.dumps({"error": str(error.body)}) + "\n"

    for status in (400, 403, 404, 405, 500):
        app.error(status)(fault)

    @app.get("/")
    def root() -> None:
        bottle.redirect("/builds")

    @app.get("/api/builds")
    def all_builds() -> dict[str, Any]:
        limit = bottle.request.query.get("limit", "")
        if limit and not re.fullmatch(r"[0-9]{1,4}", limit):
            bottle.abort(400, f"limit: {limit[:60]!r} is not a number of builds, such as 12")
        newest = worker.builds()[::-1]
        return {"builds": [asdict(build) for build in newest[: int(limit) if limit else None]]}

    @app.get("/api/builds/<id_>")
    def one(id_: str) -> dict[str, Any]:
        return asdict(found(id_))

    @app.get("/api/builds/<id_>/log")
    def log(id_: str) -> str:
        bottle.response.content_type = "text/plain; charset=utf-8"
        return worker.records.log(found(id_).id).read_text(encoding="utf-8", errors="replace")

    @app.post("/api/builds/<id_>/cancel")
    def cancel(id_: str) -> dict[str, Any]:
        given = bottle.request.get_header("Authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), worker.config.token.encode()):
            bottle.abort(403, "cancel: the token is wrong; salt-run build.cancel has it")
        return {"build": found(id_).id, "cancelled": worker.cancel(id_, "asked for by salt-run build.cancel")}

    @app.get("/artifacts/<name:re:r[0-9a-f]{12}[.]tar[.]gz>")
    def artifact(name: str) -> Any:
        return bottle.static_file(name, root=str(worker.records.artifacts), mimetype="application/gzip")

    @app.get("/metrics")
    def numbers() -> str:
        bottle.response.content_type = admin_metrics.CONTENT_TYPE
        return metrics(worker.builds(), time.time())

    @app.get("/builds")
    def page() -> str:
        rows = "".join(_row(build) for build in list(reversed(worker.builds()))[:SHOWN])
        head = "<tr><th>build<th>branch<th>by<th>state<th>tests<th>coverage<th>release<th>when</tr>"
        return _page("builds", f"<h1>builds</h1><table>{head}{rows}</table>")

    @app.get("/builds/<id_>")
    def build_page(id_: str) -> str:
        build = found(id_)
        path = worker.records.log(build.id)
        text = path.read_text(encoding="utf-8", errors="replace")[-LONGEST_TAIL:]
        stages = "".join(
            f"<tr><td>{_e(s['name'])}<td>{s['seconds']:.1f} s<td>{_e(s['words'])}</tr>" for s in build.stages
        )
        reports = " · ".join(
            f'<a href="/builds/{build.id}/{name}">{name}</a>'
            for name in REPORTS
            if (worker.records.folder(build.id) / name).exists()
        )
        why = f"<p>{_e(build.stage)}: {_e(build.why)}</p>" if build.why else ""
        return _page(
            build.id,
            f'<p><a href="/builds">builds</a></p><h1>{_e(build.name)} <span class="{build.state}">{build.state}</span>'
            f"</h1><p>{_e(build.subject)}<br>{_e(build.author)}, {build.commit}</p>{why}"
            f"<table>{stages}</table><p>{reports}</p><pre>{_e(text)}</pre>",
        )

    @app.get("/builds/<id_>/<name>")
    def report(id_: str, name: str) -> Any:
        build = found(id_)
        if name not in REPORTS:
            bottle.abort(404, f"report: there are {', '.join(REPORTS)}")
        # What a build wrote is somebody else's: it is shown as text, whatever it says that it is.
        return bottle.static_file(name, root=str(worker.records.folder(build.id)), mimetype="text/plain")

    @app.hook("after_request")
    def headers() -> None:
        bottle.response.set_header("X-Content-Type-Options", "nosniff")
        bottle.response.set_header("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")

    return app


def _e(text: object) -> str:
    return html.escape(str(text))


def _row(build: Build) -> str:
    coverage = "" if build.coverage is None else f"{build.coverage:g} %"
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(build.created))
    assert ID.match(build.id)
    return (
        f'<tr><td><a href="/builds/{build.id}">{build.id}</a><td>{_e(build.name)}<td>{_e(build.author)}'
        f'<td class="{build.state}">{build.state}<td>{build.tests.get("tests", "")}<td>{coverage}'
        f"<td>{_e(build.release)}<td>{when}</tr>"
    )


def _page(title: str, body: str) -> str:
    head = f'<meta charset="utf-8"><meta http-equiv="refresh" content="5"><title>{_e(title)}</title>'
    head += f"<style>{STYLE}</style>"
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>'


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_S

    def log_message(self, format: str, *args: object) -> None:
        """What is asked is no news."""


@contextmanager
def serving(worker: Worker) -> Iterator[int]:
    """Serve while the context lasts; the port, for a configuration that says 0."""
    config = worker.config
    server = make_server(config.address, config.port, make_app(worker), _Server, _Handler)
    thread = threading.Thread(target=server.serve_forever, name="http", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
