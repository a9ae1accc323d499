"""The dashboard on ops1: the fleet, live, in a page.

    python3 -m saltern.dashboard --config /etc/saltern/dashboard.json

Whoever reaches it may look. To change something a person signs in with the admin API's write token; this daemon keeps
it in its memory alone, hands the page a cookie that says nothing, and carries every change out by way of the admin
API, which checks and writes down everything as it does for anybody else. Three things together keep another site from
acting in a person's name: the cookie is ``SameSite=Strict``, every change must carry a second secret in a header, which
only a page of ours can read, and a request that says it comes from elsewhere is refused.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import ipaddress
import json
import logging
import os
import re
import secrets
import signal
import sys
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import bottle
import redis

from saltern import admin_metrics, admin_schema, daemon, dashboard_actions, journal
from saltern.admin_auth import LONGEST_TOKEN, Limiter
from saltern.alertmanager import Alertmanager
from saltern.dashboard_builds import Builds
from saltern.dashboard_reader import Hub, Reader, run
from saltern.errors import SalternError
from saltern.judge import Thresholds
from saltern.redis_link import ConfigError, connect
from saltern.steps import Plan

log = logging.getLogger("saltern.dashboard")

WEB = Path(__file__).with_name("web")
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
COOKIE = "saltern_session"
BODY_BYTES = 4096
BEAT_S = 5.0
"""A page hears at least so often that its connection is well."""
SEND_S = 10.0
"""A viewer that takes nothing for so long is let go; it comes back by itself."""
ADMIN_S = 5.0
SILENCES_S = 5.0
BUILDS_S = 0.7
"""Between two looks at the pipeline: the page is within a second of a build."""
_MOST_SESSIONS = 256


@dataclass(frozen=True)
class Config:
    """See `parse_config`."""

    redis: Mapping[str, Any]
    admin: str
    fleet: str = ""
    machine: str = ""
    hosts: Mapping[str, str] = field(default_factory=dict)
    address: str = "0.0.0.0"
    port: int = 8080
    viewers: int = 128
    request_s: float = 10.0
    session_s: int = 28_800
    alertmanager: str = ""
    builds: str = ""
    thresholds: Thresholds = field(default_factory=Thresholds)
    plan: Plan = field(default_factory=Plan)

    @property
    def threads(self) -> int:
        """One for each viewer, and some for everything else."""
        return self.viewers + 16


def parse_config(document: Any) -> Config:
    """Make a Config of the JSON document::

        {"redis": {...}, "sentinel": {...}, "admin": "http://10.213.0.10:8081",
         "fleet": "saltern", "machine": "ops1", "hosts": {"proxy1": "10.213.0.10", ...},
         "listen": {"address": "0.0.0.0", "port": 8080}, "viewers": 128, "session_s": 28800,
         "alertmanager": "http://10.213.0.20:9093", "builds": "http://10.213.0.20:8090", "judge": {...}, "steps": {...}}

    ``judge`` and ``steps`` are the pillar's `canary:judge` and `canary:steps`. All but ``redis`` and ``admin`` may be
    left out. Raises ConfigError on an unknown key or a value that cannot be.
    """
    if not isinstance(document, dict):
        raise ConfigError("dashboard: the configuration is not a JSON object")
    known = (
        "redis", "sentinel", "admin", "fleet", "machine", "hosts", "listen", "viewers", "session_s", "alertmanager",
        "builds", "judge", "steps",
    )  # fmt: skip
    for name in document:
        if name not in known:
            raise ConfigError(f"{name}: not a setting; use {', '.join(known)}")
    link = {name: document[name] for name in ("redis", "sentinel") if name in document}
    connect(link).close()
    listen, hosts = document.get("listen", {}), document.get("hosts", {})
    if not isinstance(listen, dict) or listen.keys() - {"address", "port"}:
        raise ConfigError(f"listen: {listen!r} is not an object with address and port")
    if not isinstance(hosts, dict):
        raise ConfigError(f"hosts: {hosts!r} is not an object of machines and their addresses")
    try:
        return Config(
            redis=link,
            admin=_url("admin", document.get("admin")),
            fleet=str(document.get("fleet", "")),
            machine=str(document.get("machine", "")),
            hosts={str(id_): str(ipaddress.ip_address(at)) for id_, at in hosts.items()},
            address=str(ipaddress.ip_address(listen.get("address", Config.address))),
            port=_number("listen.port", listen.get("port", Config.port), 0, 65535),
            viewers=_number("viewers", document.get("viewers", Config.viewers), 1, 500),
            session_s=_number("session_s", document.get("session_s", Config.session_s), 60, 604_800),
            alertmanager=_url("alertmanager", document["alertmanager"])
            if document.get("alertmanager")
            else "",
            builds=_url("builds", document["builds"]) if document.get("builds") else "",
            thresholds=Thresholds().with_values(document.get("judge", {})),
            plan=Plan.from_data(document.get("steps", {})),
        )
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _url(name: str, value: object) -> str:
    parts = urlsplit(value) if isinstance(value, str) else None
    if parts is None or parts.scheme != "http" or not parts.hostname:
        raise ConfigError(f"{name}: {value!r} is not an address such as http://10.213.0.10:8081")
    return str(value).rstrip("/")


def _number(name: str, value: Any, low: float, high: float) -> Any:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"{name}: {value!r} is not a whole number from {low:g} to {high:g}")
    return value


class Refusal(Exception):
    """A request that is refused; the text says why."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status, self.headers = status, dict(headers or {})


class AdminAPI:
    """The admin API, as a person with a token reaches it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80

    def ask(self, method: str, path: str, token: str, body: object = None) -> tuple[int, dict[str, Any]]:
        """One request, and its answer.

        :raises Refusal: 502, it does not answer
        """
        link = http.client.HTTPConnection(self._host, self._port, timeout=ADMIN_S)
        headers = {"Authorization": f"Bearer {token}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            link.request(method, path, None if body is None else json.dumps(body), headers)
            answer = link.getresponse()
            found = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            known = "; it may have been carried out, so look first" if method != "GET" else ""
            raise Refusal(502, f"the admin API on the proxy does not answer ({error}){known}") from error
        finally:
            link.close()
        return answer.status, found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class Session:
    """Somebody who may change things.

    :ivar guard: what every change must carry in the header X-CSRF-Token
    """

    token: str = field(repr=False)
    guard: str = field(repr=False)
    until: float


class Sessions:
    """Who is signed in, in this process's memory alone."""

    def __init__(self, lasting_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.lasting_s = lasting_s
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Session] = OrderedDict()

    def begin(self, token: str) -> tuple[str, Session]:
        """Sign in; the cookie's value, and the session."""
        id_ = secrets.token_urlsafe(32)
        session = Session(token, secrets.token_urlsafe(32), self._clock() + self.lasting_s)
        with self._lock:
            self._kept[_digest(id_)] = session
            if len(self._kept) > _MOST_SESSIONS:
                self._kept.popitem(last=False)
        return id_, session

    def find(self, id_: str | None) -> Session | None:
        """The session of a cookie; None when there is none, or it is over."""
        if not id_:
            return None
        with self._lock:
            session = self._kept.get(_digest(id_))
            if session is not None and session.until <= self._clock():
                session = None
            if session is None:
                self._kept.pop(_digest(id_), None)
        return session

    def end(self, id_: str | None) -> None:
        """Sign out."""
        with self._lock:
            self._kept.pop(_digest(id_ or ""), None)


def _digest(id_: str) -> str:
    # Looked up by its hash, so the time a look takes tells nothing of a cookie.
    return hashlib.sha256(id_.encode("utf-8", "surrogateescape")).hexdigest()


class Dashboard:
    """The daemon's state, and its answers; `application` makes it a WSGI program."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.client = connect(config.redis)
        self.hub = Hub()
        self.reader = Reader(
            connect(config.redis),
            fleet=config.fleet,
            version=version(),
            itself=config.machine,
            hosts=config.hosts,
            thresholds=config.thresholds,
            shares=config.plan.shares,
            judge_s=config.plan.step_seconds,
            alertmanager=Alertmanager(config.alertmanager) if config.alertmanager else None,
            builds=Builds(config.builds) if config.builds else None,
        )
        self.admin = AdminAPI(config.admin)
        self.sessions = Sessions(config.session_s)
        self.tries = Limiter(20, 10)
        """Wrong tokens, for each address; a right one makes up for those before."""
        self.asks = Limiter(240, 60)
        """Questions to the journal, for each address: an answer may have to look through all of it."""
        self.looks = Counter({"seconds": 0.0, "count": 0})
        self.listening: set[Any] = set()
        self._answers: Counter[int] = Counter()
        self._lock = threading.Lock()

    # -- reading

    def start(self) -> None:
        """Begin to read, in threads of our own."""
        self.hub.publish({**_nothing(self.config)})
        threading.Thread(target=self._guarded, args=(self._read,), name="reader", daemon=True).start()
        threading.Thread(target=self._guarded, args=(self._silences,), name="silences", daemon=True).start()
        threading.Thread(target=self._guarded, args=(self._builds,), name="builds", daemon=True).start()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException:
            # A page that stands still without a word is worse than one that is gone for a second.
            log.exception("the reader failed; the service starts again")
            os.kill(os.getpid(), signal.SIGTERM)
            raise

    def _read(self) -> None:
        run(self.reader, self.hub, self._took)

    def _took(self, seconds: float) -> None:
        self.looks["seconds"] += seconds  # type: ignore[assignment]  # a Counter of floats
        self.looks["count"] += 1

    def _silences(self) -> None:
        while not self.hub.closed:
            self.reader.ask_silences()
            time.sleep(SILENCES_S)

    def _builds(self) -> None:
        while not self.hub.closed:
            self.reader.ask_builds()
            time.sleep(BUILDS_S)

    def build(self, id_: str, part: str, remote: str) -> dict[str, Any]:
        """A build's log, its tests or its coverage."""
        if wait := self.asks.take(remote):
            raise Refusal(429, f"too many questions; wait {wait:.0f} s", {"Retry-After": f"{wait:.0f}"})
        if self.reader.builds is None:
            raise Refusal(404, "builds: this fleet has no pipeline")
        ask = {
            "log": self.reader.builds.log,
            "tests": self.reader.builds.tests,
            "coverage": self.reader.builds.coverage,
        }
        try:
            return ask[part](id_)
        except SalternError as error:
            raise Refusal(404, str(error)) from None

    def events(self, link: Any) -> Iterator[bytes]:
        """What a page listens to: the whole picture, then what changes, for as long as it likes.

        :param link: the connection's socket
        """
        with self._lock:
            if self.hub.viewers >= self.config.viewers:
                raise Refusal(503, f"{self.config.viewers} pages listen already", {"Retry-After": "5"})
            self.hub.viewers += 1
            if link is not None:
                self.listening.add(link)
        try:
            if link is not None:
                link.settimeout(SEND_S)
            number, event = self.hub.state()
            yield b"retry: 1000\n\n" + event
            while not self.hub.closed:
                number, event = self.hub.after(number, BEAT_S)
                if self.hub.closed and not event:
                    return
                yield event or b"event: beat\ndata: {}\n\n"
        finally:
            with self._lock:
                self.hub.viewers -= 1
                self.listening.discard(link)

    def why(self, question: str, remote: str) -> dict[str, Any]:
        """The chain that led to something, and what came of it."""
        if wait := self.asks.take(remote):
            raise Refusal(429, f"too many questions; wait {wait:.0f} s", {"Retry-After": f"{wait:.0f}"})
        if not 0 < len(question) <= 200:
            raise Refusal(400, "q: a line's id, or words such as 'canary off', of at most 200 characters")
        try:
            return journal.why(self.client, question)
        except SalternError as error:
            raise Refusal(404, str(error)) from None

    # -- changing

    def sign_in(self, asked: Any, remote: str) -> tuple[str, dict[str, Any]]:
        """Take a token that may write; the cookie's value and the answer."""
        if wait := self.tries.take(remote):
            raise Refusal(429, f"too many tries; wait {wait:.0f} s", {"Retry-After": f"{wait:.0f}"})
        token = asked.get("token") if isinstance(asked, dict) else None
        if (
            not isinstance(token, str)
            or not re.fullmatch(r"[\x21-\x7e]+", token)
            or len(token) > LONGEST_TOKEN
        ):
            raise Refusal(400, "token: paste the admin API's write token; it is in the fleet's secrets.json")
        status, answer = self.admin.ask("GET", "/token", token)
        if status != 200:
            raise Refusal(
                status if status in (401, 429) else 502, str(answer.get("error", "the token is refused"))
            )
        if answer.get("scope") != "write":
            raise Refusal(
                403, "this token may only read, which nobody needs a token for; the write token changes"
            )
        self.tries.forget(remote)
        id_, session = self.sessions.begin(token)
        log.info("signed in from %s", remote)
        return id_, {"signed_in": True, "csrf": session.guard}

    def plan(self, asked: Any) -> dict[str, Any]:
        """What an action would bring about."""
        return {"will": list(self._understood(asked).will)}

    def act(self, asked: Any, session: Session, cookie: str, remote: str) -> tuple[int, dict[str, Any]]:
        """Carry an action out; the admin API's answer."""
        action = self._understood(asked)
        body = None if action.method == "DELETE" else dict(action.body)
        status, answer = self.admin.ask(action.method, action.path, session.token, body)
        log.info("%s %s for %s: %d", action.method, action.path, remote, status)
        if status == 401:
            self.sessions.end(cookie)
            raise Refusal(401, "the token does not count any more; sign in again")
        return status, answer

    def _understood(self, asked: Any) -> dashboard_actions.Action:
        try:
            return dashboard_actions.understand(asked, self.hub.document)
        except dashboard_actions.ActionError as error:
            raise Refusal(400, str(error)) from None

    # -- itself

    def health(self) -> tuple[int, dict[str, Any]]:
        """Whether the picture is of now."""
        well = self.reader.well
        return (200 if well else 503), {"status": "ok" if well else "degraded"}

    def metrics(self) -> str:
        """Numbers for Prometheus."""
        metric = admin_metrics.metric
        machines = Counter(each["state"] for each in self.hub.document.get("machines", {}).values())
        with self._lock:
            answers = dict(self._answers)
        lines = [
            *metric("saltern_dashboard_viewers", "gauge", "Pages that listen.", [({}, self.hub.viewers)]),
            *metric("saltern_dashboard_events_total", "counter", "Changes told.", [({}, self.hub.number)]),
            *metric(
                "saltern_dashboard_redis_up", "gauge", "1 while the picture is of now.", [({}, int(self.reader.well))]
            ),
            *metric(
                "saltern_dashboard_looks_total", "counter", "Looks at Redis.", [({}, self.looks["count"])]
            ),
            *metric(
                "saltern_dashboard_look_seconds_total", "counter", "Time that looks took.",
                [({}, self.looks["seconds"])],
            ),
            *metric(
                "saltern_dashboard_requests_total", "counter", "Requests answered.",
                [({"status": str(status)}, count) for status, count in sorted(answers.items())],
            ),
            *metric(
                "saltern_machines", "gauge", "Machines by how they are.",
                [({"state": state}, machines[state]) for state in ("good", "warn", "bad")],
            ),
        ]  # fmt: skip
        return admin_metrics.text(lines)

    def count(self, status: int) -> None:
        """Count an answer."""
        with self._lock:
            self._answers[status] += 1


def _nothing(config: Config) -> dict[str, Any]:
    return {"fleet": config.fleet, "version": version(), "problems": ["nothing is known yet"]}


def version() -> str:
    """What names the page's files as they are."""
    digest = hashlib.sha256()
    for name, _ in FILES.values():
        digest.update((WEB / name).read_bytes())
    return digest.hexdigest()[:16]


# --- HTTP


def application(dashboard: Dashboard) -> Callable[..., Iterable[bytes]]:
    """The dashboard as a WSGI program."""
    app = bottle.Bottle()
    files = {path: _File(WEB / name, kind) for path, (name, kind) in FILES.items()}
    for path, kept in files.items():
        app.route(path, "GET", kept.answer)

    request = bottle.request

    def remote() -> str:
        # Nobody stands in front of it, so X-Forwarded-For, which bottle would believe, says nothing.
        return str(request.environ.get("REMOTE_ADDR", ""))

    def events() -> Any:
        stream = dashboard.events(request.environ.get("gunicorn.socket"))
        if request.method == "HEAD":
            return bottle.HTTPResponse(b"", 200, {"Content-Type": "text/event-stream"})
        # The first event is made here, so that a refusal can still be an answer.
        first = next(stream)
        headers = {
            "Content-Type": "text/event-stream",
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",
        }
        return bottle.HTTPResponse(_Stream(first, stream), 200, headers)

    def why() -> dict[str, Any]:
        return dashboard.why(request.query.getunicode("q", ""), remote())

    def session() -> dict[str, Any]:
        found = dashboard.sessions.find(request.get_cookie(COOKIE))
        return {"signed_in": False} if found is None else {"signed_in": True, "csrf": found.guard}

    def sign_in() -> bottle.HTTPResponse:
        _same_site()
        id_, answer = dashboard.sign_in(_body(), remote())
        made = _answer(200, answer)
        made.set_cookie(
            COOKIE, id_, path="/", httponly=True, samesite="strict", maxage=int(dashboard.config.session_s)
        )
        return made

    def sign_out() -> bottle.HTTPResponse:
        _trusted()
        dashboard.sessions.end(request.get_cookie(COOKIE))
        made = _answer(200, {"signed_in": False})
        made.delete_cookie(COOKIE, path="/")
        return made

    def plan() -> dict[str, Any]:
        _trusted()
        return dashboard.plan(_body())

    def act() -> bottle.HTTPResponse:
        session = _trusted()
        return _answer(*dashboard.act(_body(), session, request.get_cookie(COOKIE), remote()))

    def _trusted() -> Session:
        """Whoever asks is signed in, and the request is of our own page."""
        _same_site()
        found = dashboard.sessions.find(request.get_cookie(COOKIE))
        if found is None:
            raise Refusal(401, "sign in first: changing something needs the write token")
        guard = request.environ.get("HTTP_X_CSRF_TOKEN", "")
        if not hmac.compare_digest(guard.encode("utf-8", "replace"), found.guard.encode()):
            raise Refusal(403, "X-CSRF-Token: missing or wrong; load the page again")
        return found

    def build(id_: str, part: str) -> Any:
        return _guarded(lambda: dashboard.build(id_, part, remote()))()

    app.route("/builds/<id_>/<part:re:log|tests|coverage>", "GET", build)

    def health() -> bottle.HTTPResponse:
        return _answer(*dashboard.health())

    def metrics() -> bottle.HTTPResponse:
        return bottle.HTTPResponse(dashboard.metrics(), 200, {"Content-Type": admin_metrics.CONTENT_TYPE})

    table = [
        ("/events", "GET", events), ("/state", "GET", lambda: dashboard.hub.document), ("/why", "GET", why),
        ("/session", "GET", session), ("/session", "POST", sign_in), ("/session", "DELETE", sign_out),
        ("/plan", "POST", plan), ("/actions", "POST", act), ("/health", "GET", health), ("/metrics", "GET", metrics),
    ]  # fmt: skip
    for path, method, work in table:
        app.route(path, method, _guarded(work))
    app.default_error_handler = _error_page

    def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        def start(line: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            dashboard.count(int(line.split(" ", 1)[0]))
            names = {name.lower() for name, _ in headers}
            others = [(name, value) for name, value in HEADERS.items() if name.lower() not in names]
            if "cache-control" not in names:
                others.append(("Cache-Control", "no-store"))
            return start_response(line, [*headers, *others], exc_info)

        return app(environ, start)

    return wsgi


class _File:
    """A file of the page, as it was when the service started."""

    def __init__(self, path: Path, kind: str) -> None:
        self.content = path.read_bytes()
        self.kind = kind
        self.tag = f'"{hashlib.sha256(self.content).hexdigest()[:16]}"'

    def answer(self) -> bottle.HTTPResponse:
        """The file, or that the browser has it."""
        headers = {"Content-Type": self.kind, "Cache-Control": "no-cache", "ETag": self.tag}
        if bottle.request.environ.get("HTTP_IF_NONE_MATCH") == self.tag:
            return bottle.HTTPResponse(b"", 304, {"ETag": self.tag, "Cache-Control": "no-cache"})
        return bottle.HTTPResponse(self.content, 200, headers)


class _Stream:
    """An answer without end, closed with its generator."""

    def __init__(self, first: bytes, rest: Iterator[bytes]) -> None:
        self._first: bytes | None = first
        self._rest = rest

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return next(self._rest)

    def close(self) -> None:
        self._rest.close()  # type: ignore[attr-defined]  # a generator


def _guarded(work: Callable[[], Any]) -> Callable[[], Any]:
    """Answer what `work` answers, as JSON unless it is an answer already; or why not."""

    def serve() -> Any:
        try:
            found = work()
        except Refusal as refusal:
            return _answer(refusal.status, {"error": str(refusal)}, refusal.headers)
        except redis.RedisError as error:
            return _answer(503, {"error": f"Redis does not answer ({' '.join(str(error).split())})"})
        return found if isinstance(found, bottle.HTTPResponse) else _answer(200, found)

    return serve


def _answer(status: int, document: Any, headers: Mapping[str, str] | None = None) -> bottle.HTTPResponse:
    text = json.dumps(document, separators=(",", ":")) + "\n"
    return bottle.HTTPResponse(text.encode(), status, {**(headers or {}), "Content-Type": "application/json"})


def _body() -> Any:
    request = bottle.request
    kind = request.content_type.partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refusal(415, "body: send it with Content-Type: application/json")
    if request.content_length > BODY_BYTES or request.chunked:
        raise Refusal(413, f"body: give its length, of at most {BODY_BYTES} bytes")
    try:
        return admin_schema.parse(request.environ["wsgi.input"].read(max(0, request.content_length)))
    except admin_schema.Malformed as error:
        raise Refusal(400, f"body: {error}") from None


def _same_site() -> None:
    """Refuse what a browser says another site made it send."""
    environ = bottle.request.environ
    origin, site = environ.get("HTTP_ORIGIN"), environ.get("HTTP_SEC_FETCH_SITE")
    if site is not None and site != "same-origin":
        raise Refusal(403, "this request comes from another site; use the dashboard's own page")
    if origin is not None and origin.partition("://")[2] != environ.get("HTTP_HOST"):
        raise Refusal(403, "this request comes from another site; use the dashboard's own page")


def _error_page(error: bottle.HTTPError) -> bytes:
    texts = {
        404: "there is nothing here; the page is at /",
        405: "this path takes another method",
        500: "the server made a mistake; its log says which",
    }
    bottle.response.set_header("Content-Type", "application/json")
    text = texts.get(error.status_code, " ".join(str(error.body).split()))
    return (json.dumps({"error": text}) + "\n").encode()


# --- starting


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM. Exit status 2 when the configuration is unusable."""

    def begin(values: Mapping[str, Any]) -> Callable[[], object]:
        config = parse_config(values)
        from saltern.admin_serve import serve
        from saltern.dashboard_serve import ENDINGS, LISTENING, StreamWorker

        def make() -> Callable[..., Iterable[bytes]]:
            # In the worker: threads do not outlive a fork.
            dashboard = Dashboard(config)
            dashboard.listening = LISTENING
            ENDINGS.append(dashboard.hub.close)
            dashboard.start()
            return application(dashboard)

        return lambda: serve(
            config, make, worker_class=StreamWorker, proc_name="saltern-dashboard",
            worker_connections=config.threads + 64, graceful_timeout=2,
        )  # fmt: skip

    return daemon.start("saltern.dashboard", "The fleet, live, in a page.", begin, arguments)


if __name__ == "__main__":
    sys.exit(main())
