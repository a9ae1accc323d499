"""The product over HTTP: a page of plain forms for people, a JSON API for programs, and what a proxy asks.

Run as ``python3 -m gunicorn -c python:product.gunicorn_conf product.app:application``.
"""

import json
import platform
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import parse_qsl

from bottle import Bottle, HTTPError, HTTPResponse, request

from product import __version__, config, items, page
from product.config import Config, ConfigError
from product.flags import COOKIE, COOKIE_SECONDS, Features, Flags, visitor_of
from product.items import Change, Conflict, NoSuchItem, Refused
from product.page import Draft
from product.store import Reading, Store, Unavailable
from product.streams import Streams

MAX_BODY = 16 * 1024
"""Largest request body read, in bytes: the longest title, percent-encoded, is below 3 KiB."""

HEALTH_BUDGET = 0.035
"""Longest the health check waits for Redis, in seconds; proxies count on an answer within 0.05."""

RETRY_AFTER = 1
"""What a refused writer is told to wait, in seconds; Redis is tried twice as often."""

NOT_SAVED = "Not saved: the shared list is out of reach. Your text is still here; try again soon."

SWITCHED_OFF = "changes are switched off for the moment (flag disable_set); reading goes on"

ITEM = f"<item_id:re:[0-9]{{1,{items.MAX_ID_DIGITS}}}>"

COMMON_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}


Form = dict[str, str]


class SwitchedOff(Refused):
    """An operator has switched changes off."""

    status = 403

    def __init__(self) -> None:
        super().__init__(f"list: {SWITCHED_OFF}")


class BadBody(Refused):
    """The request body cannot be read."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def create_app(settings: Config, store: Store | None = None, flags: Flags | None = None) -> Bottle:
    """The WSGI application over one store and its flags, by default those that ``settings`` names, started.

    Its ``streams`` are for whoever ends it.
    """
    if store is None:
        store = Store(settings.redis, settings.state_dir)
        store.start()
    if flags is None:
        flags = Flags(settings)
        flags.start()
    app = Bottle()
    # The other threads answer.
    app.streams = Streams(settings.threads // 2)
    app.default_error_handler = _error
    _probes(app, settings, store, flags)
    _api(app, store, flags)
    _changes(app, store, flags)
    _pages(app, settings, store, flags)
    return app


def _probes(app: Bottle, settings: Config, store: Store, flags: Flags) -> None:
    identity = {"release": settings.release, "instance": settings.instance, "pool": settings.pool}

    @app.get("/health")
    def health() -> HTTPResponse:
        """Always 200 while the process serves; the status says how well it does.

        All instances share one Redis: taking one out of traffic because Redis is away would take out all of
        them, and with them the readers who are still served.
        """
        app.streams.heard(request.get_header("X-Haproxy-Server-State"))
        up = store.ping(HEALTH_BUDGET)
        known = store.known
        following = flags.status
        well = up and store.trouble is None and following == "READY"
        return _json(
            {
                "status": "ok" if well else "degraded",
                "redis": "up" if up else "down",
                "list": {"items": len(known.items), "as_of": round(known.as_of, 3)} if known else None,
                "snapshot": store.disk_trouble or "ok",
                "flags": following,
                **identity,
            }
        )

    started = round(time.time(), 3)

    @app.get("/version")
    def version() -> HTTPResponse:
        about = {"product": __version__, "python": platform.python_version(), "started": started}
        return _json({**identity, **about})


def _api(app: Bottle, store: Store, flags: Flags) -> None:
    def answer(work: Callable[[], HTTPResponse]) -> HTTPResponse:
        """Do what writes, unless an operator has switched that off."""

        def guarded() -> HTTPResponse:
            _guard(_features(flags))
            return work()

        return _answer_json(guarded)

    @app.get("/api/items")
    def show_all() -> HTTPResponse:
        reading = store.read()
        if reading.listing is None:
            return _unavailable_json("no list to show: Redis is away and this instance has no copy yet")
        tag = page.mark(reading, _features(flags))
        if request.get_header("If-None-Match") == tag:
            return HTTPResponse(status=304, headers={**COMMON_HEADERS, "ETag": tag})
        return _json(
            {
                "items": [item.as_json() for item in reading.listing.items],
                "live": reading.live,
                "as_of": round(reading.listing.as_of, 3),
            },
            headers={"ETag": tag},
        )

    @app.get(f"/api/items/{ITEM}")
    def show(item_id: str) -> HTTPResponse:
        reading = store.read()
        if reading.listing is None:
            return _unavailable_json("no list to look in: Redis is away and this instance has no copy yet")
        for item in reading.listing.items:
            if item.id == int(item_id):
                return _json(item.as_json())
        return _refusal_json(NoSuchItem(int(item_id)))

    @app.post("/api/items")
    def add() -> HTTPResponse:
        def work() -> HTTPResponse:
            key = items.repeat_key(request.get_header("Idempotency-Key") or secrets.token_urlsafe(12))
            item = store.add(items.new_title(_read_json()), key)
            return _json(item.as_json(), 201, {"Location": f"/api/items/{item.id}"})

        return answer(work)

    @app.route(f"/api/items/{ITEM}", method="PATCH")
    def change(item_id: str) -> HTTPResponse:
        return answer(lambda: _json(store.change(int(item_id), items.change(_read_json())).as_json()))

    @app.delete(f"/api/items/{ITEM}")
    def remove(item_id: str) -> HTTPResponse:
        def work() -> HTTPResponse:
            store.remove(int(item_id))
            return HTTPResponse(status=204, headers=COMMON_HEADERS)

        return answer(work)


def _changes(app: Bottle, store: Store, flags: Flags) -> None:
    @app.get("/api/changes")
    def changes() -> HTTPResponse:
        """Server-sent events: the entity tag that ``/api/items`` has for this visitor now, and whenever it changes.

        204, by which a browser knows not to come back at once, where there is no room or this instance is to leave.
        """
        visitor = visitor_of(request.cookies)

        def tag() -> str:
            # The keeper compares the known list with Redis twice a second: streams cost Redis nothing.
            return page.mark(Reading(store.known, store.trouble is None), flags.features(visitor))

        stream = app.streams.stream(tag)
        if stream is None:
            return HTTPResponse(status=204, headers=COMMON_HEADERS)
        return HTTPResponse(stream, 200, {**COMMON_HEADERS, "Content-Type": "text/event-stream"})


def _pages(app: Bottle, settings: Config, store: Store, flags: Flags) -> None:
    def show(draft: Draft, status: int = 200) -> HTTPResponse:
        reading = store.read()
        visitor = visitor_of(request.cookies)
        new = visitor is None
        visitor = visitor or secrets.token_urlsafe(16)
        features = flags.features(visitor)
        if reading.listing is None:
            status = 503
        elif draft.editing and all(item.id != draft.editing for item in reading.listing.items):
            # The item went away while its text was typed: the text moves into the field for a new item.
            draft = replace(draft, editing=None, typed=draft.edit_text or draft.typed)
        headers = {"Content-Security-Policy": page.security_policy(features)}
        if status == 503:
            headers["Retry-After"] = str(RETRY_AFTER)
        answer = HTTPResponse(
            page.render(settings, reading, draft, features),
            status,
            {**COMMON_HEADERS, **headers, "Content-Type": "text/html; charset=utf-8"},
        )
        if new:
            answer.set_cookie(
                COOKIE, visitor, max_age=COOKIE_SECONDS, path="/", httponly=True, samesite="lax"
            )
        return answer

    def submit(work: Callable[[Form], str], draft: Callable[[Form], Draft]) -> HTTPResponse:
        """Do what a form asks and send the browser on, or show the page again with text and reason."""
        form: Form = {}
        try:
            form = _read_form()
            _guard(_features(flags))
            return HTTPResponse(status=303, headers={**COMMON_HEADERS, "Location": work(form)})
        except Conflict as conflict:
            current = conflict.current
            problem = (
                f"Somebody changed this item: it now reads “{current.title}”. Save again to replace that."
            )
            return show(replace(draft(form), edit_version=current.version, problem=problem), conflict.status)
        except Refused as refused:
            return show(replace(draft(form), problem=_sentence(refused)), refused.status)
        except Unavailable:
            return show(replace(draft(form), problem=NOT_SAVED), 503)

    def plain(form: Form) -> Draft:
        return Draft(_new_key())

    @app.get("/getPic")
    def picture() -> HTTPResponse:
        """The picture, or nothing while the flag hides it."""
        if not _features(flags).show_picture:
            return HTTPResponse(status=204, headers=COMMON_HEADERS)
        return HTTPResponse(page.PICTURE, 200, {**COMMON_HEADERS, "Content-Type": "image/svg+xml"})

    @app.get("/")
    def home() -> HTTPResponse:
        return show(Draft(_new_key(), editing=_query_id("edit"), deleted=_query_id("deleted")))

    @app.post("/items")
    def add() -> HTTPResponse:
        def work(form: Form) -> str:
            key = items.repeat_key(form.get("key") or _new_key())
            return f"/#item-{store.add(items.clean_title(form.get('title', '')), key).id}"

        def draft(form: Form) -> Draft:
            # The same key again: should the lost answer have been a yes, the second try finds the item there.
            return Draft(form.get("key") or _new_key(), typed=form.get("title", ""))

        return submit(work, draft)

    @app.post(f"/items/{ITEM}/done")
    def tick(item_id: str) -> HTTPResponse:
        def work(form: Form) -> str:
            if form.get("done") not in ("0", "1"):
                raise Refused("done: it is 1 to tick off, 0 to take the tick away")
            store.change(int(item_id), Change(done=form["done"] == "1"))
            return f"/#item-{item_id}"

        return submit(work, plain)

    @app.post(f"/items/{ITEM}/edit")
    def edit(item_id: str) -> HTTPResponse:
        def work(form: Form) -> str:
            title = items.clean_title(form.get("title", ""))
            store.change(int(item_id), Change(title, version=_version(form)))
            return f"/#item-{item_id}"

        def draft(form: Form) -> Draft:
            version = form.get("version", "")
            return Draft(
                _new_key(),
                editing=int(item_id),
                edit_text=form.get("title", ""),
                edit_version=int(version) if _is_number(version) else None,
            )

        return submit(work, draft)

    @app.post(f"/items/{ITEM}/delete")
    def delete(item_id: str) -> HTTPResponse:
        return submit(lambda form: f"/?deleted={store.remove(int(item_id)).id}", plain)

    @app.post(f"/items/{ITEM}/restore")
    def restore(item_id: str) -> HTTPResponse:
        return submit(lambda form: f"/#item-{store.restore(int(item_id)).id}", plain)


def _features(flags: Flags) -> Features:
    """What the flags say for whoever sent this request."""
    return flags.features(visitor_of(request.cookies))


def _guard(features: Features) -> None:
    """Let a write pass.

    Raises:
        SwitchedOff: the flag ``disable_set`` is on.
    """
    if features.disable_set:
        raise SwitchedOff


def _answer_json(work: Callable[[], HTTPResponse]) -> HTTPResponse:
    try:
        return work()
    except Conflict as conflict:
        return _json({"error": str(conflict), "item": conflict.current.as_json()}, conflict.status)
    except Refused as refused:
        return _refusal_json(refused)
    except Unavailable:
        return _unavailable_json("not saved: the shared list is out of reach; send the request again soon")


def _refusal_json(refused: Refused) -> HTTPResponse:
    return _json({"error": str(refused)}, refused.status)


def _unavailable_json(text: str) -> HTTPResponse:
    return _json({"error": text}, 503, {"Retry-After": str(RETRY_AFTER)})


def _json(document: object, status: int = 200, headers: dict[str, str] | None = None) -> HTTPResponse:
    body = json.dumps(document, ensure_ascii=False) + "\n"
    return HTTPResponse(
        body, status, {**COMMON_HEADERS, **(headers or {}), "Content-Type": "application/json; charset=utf-8"}
    )


def _error(error: HTTPError) -> str:
    """What no route answers: one line, as JSON to programs and as text to people."""
    known = {
        404: f"{request.path[:80]!r}: no such page; there are /, /getPic, /api/items, /health and /version",
        405: f"{request.method}: not allowed here; {request.path[:80]!r} takes {error.get_header('Allow')}",
        500: "the request failed inside the product; its log says why",
    }
    text = known.get(error.status_code, str(error.body))
    for name, value in COMMON_HEADERS.items():
        error.set_header(name, value)
    if request.path.startswith("/api/"):
        error.content_type = "application/json; charset=utf-8"
        return json.dumps({"error": text}, ensure_ascii=False) + "\n"
    error.content_type = "text/plain; charset=utf-8"
    return text + "\n"


def _read_body() -> bytes:
    """The request body, at most MAX_BODY bytes of it in memory.

    Bottle's own reader is not used: it would decode a chunked body that the server has decoded already.

    Raises:
        BadBody: it is larger, or comes from another site's page.
    """
    if request.get_header("Sec-Fetch-Site") == "cross-site":
        raise BadBody(403, "Sec-Fetch-Site: another site's page sent this; use the list's own page")
    length = request.content_length
    if length > MAX_BODY:
        raise BadBody(413, f"body: {length} bytes; at most {MAX_BODY} are allowed")
    body = request.environ["wsgi.input"].read(length if length >= 0 else MAX_BODY + 1)
    if len(body) > MAX_BODY:
        raise BadBody(413, f"body: more than {MAX_BODY} bytes; at most that many are allowed")
    return body


def _content_type() -> str:
    return request.content_type.split(";")[0].strip().lower()


def _read_json() -> object:
    body = _read_body()
    if _content_type() != "application/json":
        raise BadBody(415, f"Content-Type: {_content_type()[:60]!r} is not understood; send application/json")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadBody(400, 'body: not JSON; send an object such as {"title": "See the sea"}') from error


def _read_form() -> Form:
    body = _read_body()
    if body and _content_type() != "application/x-www-form-urlencoded":
        raise BadBody(415, f"Content-Type: {_content_type()[:60]!r} is not understood; send a plain form")
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=8)
    except ValueError as error:
        raise BadBody(400, "body: not a form in UTF-8; send the page's own form") from error
    return dict(pairs)


def _query_id(name: str) -> int | None:
    value = request.query.get(name, "")
    return int(value) if _is_number(value) else None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= items.MAX_ID_DIGITS


def _version(form: Form) -> int:
    version = form.get("version", "")
    if not _is_number(version) or int(version) < 1:
        raise Refused("version: missing or no number; use the page's own form")
    return int(version)


def _new_key() -> str:
    return secrets.token_urlsafe(12)


def _sentence(refused: Refused) -> str:
    """A refusal as the page shows it: without the name of the field, which the person sees."""
    text = str(refused).split(": ", 1)[-1]
    return f"Not saved: {text}."


def __getattr__(name: str) -> Bottle:
    """``application``, made when the server asks for it, so that importing this module starts nothing."""
    if name != "application":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        settings = config.load()
    except ConfigError as error:
        raise SystemExit(f"product: {error}") from error
    return create_app(settings)
