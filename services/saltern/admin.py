"""The admin API on proxy1: the canary's share and latch, instances, flags, health, metrics.

    python3 -m saltern.admin --config /etc/saltern/admin.json

Every request carries a bearer token of scope ``read`` or ``write``; every change is in the journal with who,
what, before, after and cause. What takes requests away from the canary works without Redis too: HAProxy is
told at once and the controller learns of it from the disk (see ``orders``), and the answer is 202.

``GET /openapi.json`` describes it all; it is made of the table in ``routes`` below, which the server itself
checks requests against.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import math
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import bottle
import redis
from gunicorn.http.errors import ParseException

from . import (
    admin_auth,
    admin_flags,
    admin_metrics,
    admin_operations,
    admin_schema,
    canary_control,
    daemon,
    orders,
    overview,
)
from .admin_config import Config, parse_config
from .admin_routes import (
    CAUSE,
    DETAILS,
    ID,
    JSON,
    LIMIT,
    REASON,
    REVISION,
    SHARE,
    SOURCE,
    TEXT,
    WANT,
    Answer,
    Call,
    Problem,
    Route,
    body_of,
    check_call,
    openapi,
    whole,
)
from .canary_control import Outcome
from .controller import STATUS_STALE_S, read_status
from .haproxy import HAProxyError, Runtime, parse_info
from .redis_link import connect
from .registry import REVISION as REVISION_KEY
from .registry import Conflict, Registry, RegistryError, State, UnknownInstance, check_text

log = logging.getLogger("saltern.admin")

VERSION = "1"
"""Of the API, as its document says; a change that breaks a caller raises it."""
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_RETRY_S = 2
_BY_HAND = "turned off by hand"


class Admin:
    """The API's state and what it does; ``application`` makes it a WSGI program."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.client = connect(config.redis)
        self.registry = Registry(self.client)
        self.runtime = Runtime(config.socket, config.socket_timeout_s)
        self.orders = Path(config.orders_dir)
        self.tokens = admin_auth.Tokens(config.tokens)
        self.requests = admin_metrics.Requests()
        self.limits = {
            name: admin_auth.Limiter(rate.per_minute, rate.burst)
            for name, rate in (("normal", config.normal), ("safe", config.safe), ("failed", config.failed))
        }
        self.routes = routes(self)
        self.document = openapi(self.routes, VERSION)

    # -- the split and the canary

    def get_split(self, call: Call) -> Answer:
        """The share that is wanted, the one in effect, and the latch."""
        state = self.registry.snapshot()
        status = self._status()
        view = overview.canary(state, None)
        effective = {
            "effective_share": status.get("share") if _fresh(status) else None,
            "why": status.get("share_reason", "") if _fresh(status) else "; ".join(status["problems"]),
        }
        split = {"by": state.split.by, "since": state.split.since, "revision": state.revision}
        return Answer(200, {**view, **effective, **split}, _etag(canary_control.split_tag(state)))

    def put_split(self, call: Call) -> Answer:
        """Set the share."""
        outcome = canary_control.set_share(
            self.registry,
            whole(call.body["share"]),
            by=call.who,
            cause=call.cause,
            seen=call.seen,
            revision=whole(call.body.get("revision")),
        )
        return self._done(call, outcome)

    def alert(self, call: Call) -> Answer:
        """Somebody says that the canary is sick: it is off until a person or a new release."""
        return self._off(call, f"{call.body['source']}: {call.body['reason']}")

    def canary_off(self, call: Call) -> Answer:
        """Turn the canary off."""
        return self._off(call, call.body.get("reason", _BY_HAND))

    def canary_on(self, call: Call) -> Answer:
        """Open the latch."""
        outcome = canary_control.turn_on(
            self.registry, by=call.who, reason=call.body.get("reason", ""), cause=call.cause
        )
        # A person has decided after whoever gave these.
        try:
            orders.done(self.orders, orders.waiting(self.orders))
        except OSError as error:
            log.error(
                "orders to turn the canary off stay in %s and will be carried out: %s", self.orders, error
            )
        return self._done(call, outcome)

    def _off(self, call: Call, reason: str) -> Answer:
        status = self._status()
        details = dict(call.body.get("details", {}))
        if _fresh(status) and not status["registry"]["ok"]:
            # The controller just saw that Redis does not answer: waiting for it again would only cost time.
            return self._off_without_redis(call, reason, details, status["registry"]["problem"])
        try:
            outcome = canary_control.turn_off(self.registry, reason, by=call.who, cause=call.cause)
        except redis.RedisError as error:
            return self._off_without_redis(call, reason, details, f"{type(error).__name__}: {error}")
        answer = self._done(call, outcome, details)
        if _fresh(status):
            return answer
        try:
            orders.cut(self.runtime, self.config.state_dir)
        except HAProxyError as error:
            text = f"the registry has it, but nobody carries it out: {status['problems'][0]}; {error}"
            return Answer(202, {"accepted": True, "text": text, "order": "", "cut": False})
        text = f"the registry has it and HAProxy was told directly, because {status['problems'][0]}"
        return Answer(202, {"accepted": True, "text": text, "order": "", "cut": True})

    def _off_without_redis(self, call: Call, reason: str, details: Mapping[str, Any], problem: str) -> Answer:
        order = orders.Order(reason, call.who, call.cause, call.what, details)
        trouble = ""
        try:
            order = orders.give(self.orders, order)
        except OSError as error:
            trouble = f"the order cannot be kept in {self.orders} ({error.strerror or error})"
        try:
            orders.cut(self.runtime, self.config.state_dir)
            cut = ""
        except HAProxyError as error:
            cut = str(error)
        self.log(call, 503 if trouble else 202, {"reason": reason, "order": order.id, "problem": problem})
        if trouble:
            now = cut or "HAProxy gives the canary nothing for the moment"
            raise Problem(503, f"canary: {trouble}, and Redis does not answer; {now}; try again", _retry())
        how = (
            f"HAProxy could not be told directly ({cut})"
            if cut
            else "HAProxy gives the canary nothing from now on"
        )
        text = f"Redis does not answer ({problem}); {how}; the controller keeps it off and reports it later"
        return Answer(202, {"accepted": True, "text": text, "order": order.id, "cut": not cut})

    # -- instances

    def get_instances(self, call: Call) -> Answer:
        """Every instance."""
        state = self.registry.snapshot()
        return Answer(200, overview.overview(state, overview.read_observed(self.client)))

    def get_instance(self, call: Call) -> Answer:
        """One instance."""
        id_ = call.params["id"]
        state = self.registry.snapshot()
        tag = canary_control.instance_tag(state, id_)
        seen = overview.read_observed(self.client)
        return Answer(200, overview.instance(state, seen, id_), _etag(tag))

    def put_instance(self, call: Call) -> Answer:
        """Say what an instance should be."""
        outcome = canary_control.set_want(
            self.registry,
            call.params["id"],
            call.body["want"],
            limit_s=call.body.get("limit_s"),
            force=call.body.get("force", False),
            by=call.who,
            cause=call.cause,
            seen=call.seen,
            revision=whole(call.body.get("revision")),
        )
        return self._done(call, outcome)

    # -- itself

    def token(self, call: Call) -> Answer:
        """What the caller's token allows."""
        return Answer(200, {"scope": call.scope})

    def health(self, call: Call) -> Answer:
        """Whether Redis, the controller and HAProxy do their work."""
        status = self._status()
        parts: dict[str, Any] = {
            "redis": _part(lambda: {"revision": int(self.client.get(REVISION_KEY) or 0)}),
            "haproxy": _part(lambda: {"pid": int(parse_info(self.runtime.ask(["show info"])[0])["Pid"])}),
            "controller": {
                "ok": bool(status.get("ok")),
                "problem": "; ".join(filter(None, [*status.get("problems", []), _registry_problem(status)])),
                **{
                    name: status[name]
                    for name in ("share", "share_reason", "reports_waiting")
                    if name in status
                },
            },
        }
        ok = all(part["ok"] for part in parts.values())
        document: dict[str, Any] = {"status": "ok" if ok else "degraded"}
        if call.scope:
            document |= {**parts, "orders_waiting": len(orders.waiting(self.orders))}
        return Answer(200 if ok else 503, document)

    def metrics(self, call: Call) -> Answer:
        """Numbers for Prometheus."""
        state: State | None
        try:
            state = self.registry.snapshot()
        except (redis.RedisError, RegistryError) as error:
            log.warning("metrics without the registry: %s", error)
            state = None
        lines = admin_metrics.traffic(state, self._status(), len(orders.waiting(self.orders)))
        text = admin_metrics.text([*self.requests.lines(), *lines])
        return Answer(200, text, content_type=admin_metrics.CONTENT_TYPE)

    def openapi(self, call: Call) -> Answer:
        """The document of all this."""
        return Answer(200, self.document)

    # -- helpers

    def _status(self) -> dict[str, Any]:
        return read_status(self.config.status_file)

    def _done(self, call: Call, outcome: Outcome, details: Mapping[str, Any] | None = None) -> Answer:
        """Audit a change that was carried out, and answer it."""
        self.audit(call, outcome.to_data(), details)
        return Answer(200, outcome.to_data())

    def audit(self, call: Call, data: Mapping[str, Any], details: Mapping[str, Any] | None = None) -> None:
        """Write to the journal who did what. The change's own line is this one's cause, and the caller's
        cause is that one's, so the chain can be followed.
        """
        fields = {key: data[key] for key in ("changed", "before", "after")} | dict(details or {})
        self.log(call, 200, fields)
        try:
            self.registry.note(
                "admin.write", call.what, fields, by=call.who, cause=data["journal"] or call.cause
            )
        except redis.RedisError as error:
            # The change itself is in the journal already, and this line in the log.
            log.error("the journal misses %s by %s: %s", call.what, call.who, error)

    def log(self, call: Call, status: int, fields: Mapping[str, Any]) -> None:
        """A line of this daemon's own log on who did what."""
        line = {"who": call.who, "what": call.what, "status": status, "cause": call.cause, **fields}
        log.info("audit %s", json.dumps(line, sort_keys=True))

    # -- the way of a request

    def answer(self, route: Route, environ: Mapping[str, Any], params: Mapping[str, str]) -> Answer:
        """Check a request against its route and carry it out; every refusal is an answer too."""
        remote = str(environ.get("REMOTE_ADDR", ""))
        scope = ""
        try:
            scope = self._authorise(route, environ, remote)
            call = self._read(route, environ, params, scope, remote)
            return route.do(call)
        except Problem as problem:
            refusal = problem
        except (admin_schema.Malformed, admin_schema.Unfit) as error:
            prefix = "body: " if isinstance(error, admin_schema.Malformed) else ""
            refusal = Problem(400, f"{prefix}{error}")
        except canary_control.Stale as error:
            refusal = Problem(412, str(error))
        except Conflict as error:
            refusal = Problem(409, str(error))
        except UnknownInstance as error:
            refusal = Problem(404, str(error))
        except RegistryError as error:
            refusal = Problem(400 if route.writes else 503, str(error))
        except redis.TimeoutError as error:
            known = "; it may have been carried out, so read before you try again" if route.writes else ""
            refusal = Problem(503, f"redis: no answer in time ({error}){known}", _retry())
        except redis.ConnectionError as error:
            # A connection that broke after the command was sent says nothing about what became of it.
            known = "; read before you try again" if route.writes else ""
            refusal = Problem(503, f"redis: cannot be reached ({error}){known}", _retry())
        except redis.RedisError as error:
            refusal = Problem(503, f"redis: refused ({error})", _retry())
        if route.writes:
            log.warning("refused %d %s %s: %s", refusal.status, scope or "nobody", remote, refusal)
        return Answer(refusal.status, {"error": _one_line(str(refusal))}, refusal.headers)

    def _authorise(self, route: Route, environ: Mapping[str, Any], remote: str) -> str:
        problem = "a token is needed: Authorization: Bearer TOKEN"
        try:
            scope = self.tokens.scope(environ.get("HTTP_AUTHORIZATION"))
        except admin_auth.Denied as error:
            scope, problem = "", str(error)
            wrong = True
        else:
            missing = bool(route.scope) and not (route.networks and self._near(remote))
            wrong = not scope and missing
        if wrong:
            self._limit("failed", remote)
            raise Problem(401, problem, {"WWW-Authenticate": 'Bearer realm="saltern"'})
        if scope and not admin_auth.allows(scope, route.scope):
            self._limit("failed", remote)
            challenge = f'Bearer realm="saltern", error="insufficient_scope", scope="{route.scope}"'
            text = (
                f"this token may only {scope}; {route.method} {route.path} needs one of scope {route.scope}"
            )
            raise Problem(403, text, {"WWW-Authenticate": challenge})
        self._limit("safe" if route.safe else "normal", (scope, remote))
        return scope

    def _limit(self, name: str, key: object) -> None:
        wait = self.limits[name].take(key)
        if wait:
            seconds = math.ceil(wait)
            raise Problem(429, f"too many requests; wait {seconds} s", {"Retry-After": str(seconds)})

    def _near(self, remote: str) -> bool:
        try:
            address = ipaddress.ip_address(remote)
        except ValueError:
            return False
        return any(address in network for network in self.config.metrics_allow)

    def _read(
        self, route: Route, environ: Mapping[str, Any], params: Mapping[str, str], scope: str, remote: str
    ) -> Call:
        query = _query(environ.get("QUERY_STRING", ""))
        raw = _body(environ, self.config.body_kib * 1024) if route.method not in ("GET", "HEAD") else b""
        bodies = []
        if raw:
            if route.body is not None and not _is_json(environ.get("CONTENT_TYPE", "")):
                raise Problem(415, "body: send it with Content-Type: application/json")
            bodies.append(admin_schema.parse(raw))
        elif route.body_required:
            known = ", ".join(route.body["properties"]) if route.body else ""
            raise Problem(400, f"body: missing; send a JSON object with {known}")
        check_call(route, params, query, bodies)
        what = f"{route.method} {route.path.format(**params)}"
        seen = _if_match(environ.get("HTTP_IF_MATCH")) if route.if_match else None
        body = bodies[0] if bodies else {}
        call = Call(f"admin:{scope or 'nobody'}@{remote}", scope, dict(params), query, body, what, seen)
        # The journal takes only what can be printed, and a change must not be made that it cannot hold.
        check_text(call.cause, "cause")
        return call


def routes(admin: Admin) -> tuple[Route, ...]:
    """Everything the API does."""
    split = body_of(["share"], share=SHARE, revision=REVISION, cause=CAUSE)
    outcome = ("What was, what is, and the journal line of the change.", "Outcome")
    off = {
        200: outcome,
        202: ("Done without Redis or without the controller; the text says how.", "Accepted"),
    }
    table = [
        Route("GET", "/split", "The canary's share, wanted and in effect, and its latch.", admin.get_split,
              {200: ("The split.", "Split")}, tagged=True),
        Route("PUT", "/split", "Set the canary's share.", admin.put_split, {200: outcome}, scope="write",
              body=split, body_required=True, if_match=True,
              description="A latched canary gets nothing, whatever its share."),
        Route("POST", "/alert", "Report that the canary is sick: it is turned off until a person or a new "
              "release turns it on.", admin.alert, off, scope="write", body_required=True, safe=True,
              body=body_of(["source", "reason"], source=SOURCE, reason=REASON, cause=CAUSE, details=DETAILS),
              description="Works without Redis."),
        Route("POST", "/canary/off", "Turn the canary off until a person or a new release turns it on.",
              admin.canary_off, off, scope="write", safe=True, body=body_of(reason=REASON, cause=CAUSE),
              description="Works without Redis."),
        Route("POST", "/canary/on", "Allow the canary requests again, once it is found healthy.",
              admin.canary_on, {200: outcome}, scope="write", body=body_of(reason=TEXT, cause=CAUSE)),
        Route("GET", "/instances", "Every instance: what is wanted of it and what HAProxy sees.",
              admin.get_instances, {200: ("The instances.", "Instances")}),
        Route("GET", "/instances/{id}", "One instance.", admin.get_instance,
              {200: ("The instance.", "Instance")}, params={"id": ID}, tagged=True),
        Route("PUT", "/instances/{id}", "Say what an instance should be.", admin.put_instance, {200: outcome},
              scope="write", params={"id": ID}, body_required=True, if_match=True,
              body=body_of(["want"], want=WANT, limit_s=LIMIT, force={"type": "boolean"}, revision=REVISION,
                           cause=CAUSE),
              description="drain ends with its last request, or after limit_s seconds; force lets the last "
              "live production server go."),
        Route("GET", "/token", "What the token of the request allows.", admin.token,
              {200: ("Its scope.", "Token")}),
        Route("GET", "/health", "Whether Redis, the controller and HAProxy do their work.", admin.health,
              {200: ("They do.", "Health"), 503: ("One does not.", "Health")}, scope="",
              description="Without a token it tells ok or degraded and nothing else."),
        Route("GET", "/metrics", "Numbers for Prometheus.", admin.metrics, {200: ("The numbers.", "Text")},
              networks=True, content_type="text/plain",
              description="Allowed networks (pillar admin:metrics_allow) need no token."),
        Route("GET", "/openapi.json", "This document.", admin.openapi, {200: ("The document.", "Document")},
              scope=""),
    ]  # fmt: skip
    return (*table, *admin_operations.routes(admin), *admin_flags.routes(admin))


# --- HTTP


def application(config: Config) -> Callable[..., Iterable[bytes]]:
    """The API as a WSGI program."""
    admin = Admin(config)
    app = bottle.Bottle()
    for route in admin.routes:
        app.route(re.sub(r"{(\w+)}", r"<\1>", route.path), route.method, _callback(admin, route))
    app.default_error_handler = _error_page

    def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        started = time.perf_counter()
        status = 500

        def start(line: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            nonlocal status
            status = int(line.split(" ", 1)[0])
            return start_response(line, headers, exc_info)

        try:
            # bottle drops what is not UTF-8 in a path; a name is not guessed at here.
            environ["PATH_INFO"].encode("latin-1").decode("utf-8")
        except UnicodeError:
            return _plain(start, 400, "path: not UTF-8")
        try:
            return app(environ, start)
        finally:
            method, path = environ.get("saltern.route", ("other", "other"))
            admin.requests.count(method, path, status, time.perf_counter() - started)

    return wsgi


def _callback(admin: Admin, route: Route) -> Callable[..., bottle.HTTPResponse]:
    def serve(**params: str) -> bottle.HTTPResponse:
        environ = bottle.request.environ
        environ["saltern.route"] = (route.method, route.path)
        if route.writes and environ["REQUEST_METHOD"] == "HEAD":
            # bottle answers HEAD as GET, and this GET changes something.
            raise bottle.HTTPError(405, Allow=route.method)
        answer = admin.answer(route, environ, params)
        text = answer.document if answer.content_type != JSON else json.dumps(answer.document) + "\n"
        headers = {**_HEADERS, **answer.headers, "Content-Type": answer.content_type}
        return bottle.HTTPResponse(text.encode(), answer.status, headers)

    return serve


def _error_page(error: bottle.HTTPError) -> bytes:
    """What bottle itself refuses (no such path, wrong method), or an exception nobody expected."""
    texts = {
        404: "there is nothing here; /openapi.json lists what there is",
        405: f"this path takes {error.headers.get('Allow', 'another method')}",
        500: "the server made a mistake; its log says which",
    }
    # bottle sends what is set on its thread's response, not on the error.
    for name, value in {**_HEADERS, "Content-Type": JSON}.items():
        bottle.response.set_header(name, value)
    return (json.dumps({"error": texts.get(error.status_code, _one_line(str(error.body)))}) + "\n").encode()


def _plain(start: Callable[..., Any], status: int, text: str) -> list[bytes]:
    raw = (json.dumps({"error": text}) + "\n").encode()
    headers = {**_HEADERS, "Content-Type": JSON, "Content-Length": str(len(raw))}
    start(f"{status} Bad Request", list(headers.items()))
    return [raw]


def _query(text: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            text, keep_blank_values=True, strict_parsing=bool(text), errors="strict", max_num_fields=16
        )
    except ValueError:
        raise Problem(400, "query: not of the form name=value&name=value in UTF-8") from None
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Problem(400, "query: a name is there twice; give it once")
    return found


def _body(environ: Mapping[str, Any], most: int) -> bytes:
    length = environ.get("CONTENT_LENGTH") or ""
    if length.isascii() and length.isdigit() and int(length) > most:
        raise Problem(413, f"body: {length} bytes; at most {most} are taken")
    # The server ends the stream at the request's end, chunked or not.
    try:
        raw: bytes = environ["wsgi.input"].read(most + 1)
    except (ParseException, OSError) as error:
        raise Problem(400, f"body: it cannot be read to its end ({error})") from None
    if len(raw) > most:
        raise Problem(413, f"body: more than {most} bytes; at most that many are taken")
    if length and len(raw) != int(length):
        # What a client did not get to send must not be taken for what it wanted.
        raise Problem(400, f"body: it ends after {len(raw)} of {length} bytes")
    return raw


def _is_json(content_type: str) -> bool:
    kind, _, parameters = content_type.partition(";")
    charset = re.search(r'charset="?([^";\s]+)', parameters, re.IGNORECASE)
    return kind.strip().lower() == JSON and (charset is None or charset.group(1).lower() in ("utf-8", "utf8"))


def _if_match(value: str | None) -> frozenset[str] | None:
    """The strong tags of an If-Match header (RFC 9110, 13.1.1); weak ones never match."""
    if value is None:
        return None
    if value.strip() == "*":
        return frozenset("*")
    return frozenset(re.findall(r'(?<!W/)"([0-9a-f]{16})"', value))


def _etag(tag: str) -> dict[str, str]:
    return {"ETag": f'"{tag}"'}


def _retry() -> dict[str, str]:
    return {"Retry-After": str(_RETRY_S)}


def _fresh(status: Mapping[str, Any]) -> bool:
    """Whether the controller is there to carry out what the registry says."""
    return "registry" in status and abs(time.time() - status["ts"]) <= STATUS_STALE_S


def _registry_problem(status: Mapping[str, Any]) -> str:
    problem = status.get("registry", {}).get("problem", "")
    return f"registry: {problem}" if problem else ""


def _part(look: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return {"ok": True, "problem": "", **look()}
    except (redis.RedisError, HAProxyError, ValueError) as error:
        return {"ok": False, "problem": _one_line(str(error) or type(error).__name__)}


def _one_line(text: str) -> str:
    return " ".join(text.split())


# --- starting


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM. Exit status 2 when the configuration is unusable."""

    def begin(values: Mapping[str, Any]) -> Callable[[], object]:
        config = parse_config(values)
        from .admin_serve import serve

        return lambda: serve(config, lambda: application(config))

    return daemon.start("saltern.admin", "The fleet's admin API.", begin, arguments)


if __name__ == "__main__":
    sys.exit(main())
