"""What a route of the admin API is, and the OpenAPI document made of all of them.

A route is data: the path, who may use it, what it takes, what it answers, and the function that does it. The
server checks requests against it, and the document prints it, so the two cannot differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import admin_schema, registry
from .fleet import MACHINE_ID

Schema = Mapping[str, Any]
JSON = "application/json"


@dataclass(frozen=True)
class Call:
    """One request that may be carried out: authorised, and fit for its route."""

    who: str
    """For the journal: the token's scope and the address it came from."""
    scope: str
    """read, write, or "" without a token."""
    params: Mapping[str, str]
    query: Mapping[str, str]
    body: Mapping[str, Any]
    what: str
    """Method and path."""
    seen: frozenset[str] | None = None
    """The tags of If-Match; None without that header."""

    @property
    def cause(self) -> str:
        """The journal id of what led to this, as the caller tells it."""
        return str(self.body.get("cause") or self.query.get("cause") or "")


@dataclass(frozen=True)
class Answer:
    """What goes back: a JSON document, or a text of another type."""

    status: int
    document: Any
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = JSON


class Problem(Exception):
    """A request that is refused: the status, and one line that says what, where, and what would be right."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.headers = dict(headers or {})


@dataclass(frozen=True)
class Route:
    """One thing the API does."""

    method: str
    path: str
    """With parameters in braces, as OpenAPI writes them."""
    summary: str
    do: Callable[[Call], Answer]
    answers: Mapping[int, tuple[str, str]]
    """By status: what it means, and the name of its schema. Refusals are added by ``errors``."""
    scope: str = "read"
    """What a token must allow; "" is anybody."""
    description: str = ""
    params: Mapping[str, Schema] = field(default_factory=dict)
    query: Mapping[str, Schema] = field(default_factory=dict)
    body: Schema | None = None
    body_required: bool = False
    if_match: bool = False
    safe: bool = False
    """Takes requests away from the canary: has a rate limit of its own."""
    networks: bool = False
    """Allowed networks need no token."""
    tagged: bool = False
    """Its answer carries an ETag."""
    content_type: str = JSON

    @property
    def writes(self) -> bool:
        """Whether it changes anything."""
        return self.scope == "write"

    def errors(self) -> dict[int, str]:
        """The refusals this route can answer with."""
        found = {429: "Too many requests; Retry-After says when the next one is welcome."}
        found[401] = "The token is missing or wrong." if self.scope else "The token is wrong."
        if self.writes:
            found[403] = "The token may only read."
        if self.params or self.query or self.body or self.content_type != JSON:
            found[400] = "A value is wrong; the text says which, where, and what would be right."
        found.setdefault(400, "The request holds something this takes none of.")
        if self.body is not None:
            found |= {413: "The body is too large.", 415: "The body is not application/json."}
        if self.params:
            found[404] = "There is no such thing."
        if self.if_match:
            found |= {409: "Somebody else was faster (revision).", 412: "It was changed since it was read."}
        return {status: text for status, text in sorted(found.items()) if status not in self.answers}


# --- schemas

_LINE = r"^[^\u0000-\u001f\u007f]*$"
TEXT: Schema = {"type": "string", "maxLength": 200, "pattern": _LINE}
CAUSE: Schema = {
    **TEXT,
    "description": "the journal id of what led to this, at most 200 characters on one line",
}
REASON: Schema = {
    **TEXT,
    "minLength": 1,
    "description": "one line of 1 to 200 characters that says why",
}
REVISION: Schema = {
    "type": "integer",
    "minimum": 0,
    "maximum": 2**53 - 1,
    "description": "the registry's revision this was decided on, a whole number",
}
ID: Schema = {
    "type": "string",
    "pattern": MACHINE_ID.pattern,
    "maxLength": 12,
    "description": "a machine's id: prod, staging, proxy, redis or ops and 1 to 4 digits",
}
SHARE: Schema = {
    "type": "integer",
    "minimum": 0,
    "maximum": 100,
    "description": "a percentage, a whole number from 0 to 100",
}
SOURCE: Schema = {
    "type": "string",
    "pattern": r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,63}$",
    "description": "who reports: 1 to 64 of A-Z a-z 0-9 . _ : / @ -, a letter or digit first",
}
DETAILS: Schema = {
    "type": "object",
    "maxProperties": 16,
    "additionalProperties": {"type": ["string", "number", "boolean"], "maxLength": 200},
    "description": "at most 16 names with a number, true, false, or a text of at most 200 characters",
}


def body_of(required: Sequence[str] = (), **properties: Schema) -> Schema:
    """The schema of a body with these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _answer(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


_ANY: Schema = {"type": "object"}
_NUMBER: Schema = {"type": "number"}
_WORD: Schema = {"type": "string"}
_MAYBE_NUMBER: Schema = {"type": ["number", "null"]}
_LATCH: Schema = {
    "type": ["object", "null"],
    "properties": {"reason": _WORD, "by": _WORD, "cause": _WORD, "since": _NUMBER},
}
_INSTANCE: Schema = _answer(
    pool=_WORD,
    want=_WORD,
    release=_WORD,
    address=_WORD,
    health={"enum": ["up", "down", "unknown"]},
    phase=_WORD,
    sessions={"type": ["integer", "null"]},
    since=_NUMBER,
    limit_s=_MAYBE_NUMBER,
    force={"type": "boolean"},
)
SCHEMAS: Mapping[str, Schema] = {
    "Error": {
        "type": "object",
        "properties": {"error": {"type": "string", "minLength": 1}},
        "required": ["error"],
        "additionalProperties": False,
    },
    "Outcome": _answer(
        changed={"type": "boolean"},
        revision={"type": "integer"},
        journal=_WORD,
        before=_ANY,
        after=_ANY,
    ),
    "Accepted": _answer(accepted={"const": True}, text=_WORD, order=_WORD, cut={"type": "boolean"}),
    "Split": _answer(
        share=SHARE,
        by=_WORD,
        since=_NUMBER,
        revision={"type": "integer"},
        effective_share={"type": ["integer", "null"]},
        why=_WORD,
        latch=_LATCH,
    ),
    "Instance": _INSTANCE,
    "Instances": _answer(
        revision={"type": "integer"},
        canary=_ANY,
        instances={"type": "object", "additionalProperties": {"$ref": "#/components/schemas/Instance"}},
        problems={"type": "array", "items": _WORD},
    ),
    "Health": {
        "type": "object",
        "properties": {"status": {"enum": ["ok", "degraded"]}},
        "required": ["status"],
    },
    "Flag": _answer(state={"enum": ["ENABLED", "DISABLED"]}, variants=_ANY),
    "Flags": _answer(revision={"type": "integer"}, flags=_ANY),
    "Moved": _answer(changed={"type": "boolean"}, phase=_WORD, journal=_WORD),
    "Silence": _answer(changed={"type": "boolean"}, silence=_WORD),
    "Token": _answer(scope={"enum": ["read", "write"]}),
    "Text": {"type": "string"},
    "Document": {"type": "object", "required": ["openapi", "paths"]},
}


def check_call(
    route: Route, params: Mapping[str, str], query: Mapping[str, str], bodies: Sequence[Any]
) -> None:
    """Raise admin_schema.Unfit unless parameters and body are what the route takes; ``bodies`` is empty when
    none was sent, which is not the same as null.
    """
    for name, schema in route.params.items():
        admin_schema.check(schema, params[name], name)
    for name, value in query.items():
        if name not in route.query:
            known = ", ".join(route.query) or "none"
            raise admin_schema.Unfit(f"query: {admin_schema.show(name)} is unknown; known are {known}")
        admin_schema.check(route.query[name], value, f"query.{name}")
    for body in bodies:
        if route.body is None:
            raise admin_schema.Unfit("body: this takes none; leave it out")
        admin_schema.check(route.body, body, "body")


def whole(value: Any) -> Any:
    """A number that passed as an integer, as one: JSON's 30.0 is 30."""
    return int(value) if isinstance(value, float) else value


# --- the document


def openapi(routes: Sequence[Route], version: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document of these routes."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Saltern's admin API",
            "version": version,
            "description": "The traffic of one fleet: the canary's share, its latch, instances, flags. Every "
            "change is in the journal with who, what, before, after and cause.",
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": {name: dict(schema) for name, schema in SCHEMAS.items()},
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token of scope read or write; write may also read.",
                }
            },
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    responses = {
        str(status): {
            "description": text,
            "content": {route.content_type if status == 200 else JSON: {"schema": _ref(name)}},
        }
        for status, (text, name) in route.answers.items()
    }
    if route.tagged:
        about = "Names exactly this value; send it back in If-Match to change nothing else."
        responses["200"]["headers"] = {"ETag": {"description": about, "schema": {"type": "string"}}}
    for status, text in route.errors().items():
        responses[str(status)] = {"description": text, "content": {JSON: {"schema": _ref("Error")}}}
    responses["429"]["headers"] = {
        "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}
    }
    responses.setdefault(
        "503",
        {"description": "Redis cannot be reached, or refuses.", "content": {JSON: {"schema": _ref("Error")}}},
    )
    names = re.findall(r"{(\w+)}", route.path)
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": dict(route.params[name])} for name in names
    ]
    parameters += [
        {"name": name, "in": "query", "required": False, "schema": dict(schema)}
        for name, schema in route.query.items()
    ]
    if route.if_match:
        parameters.append(
            {
                "name": "If-Match",
                "in": "header",
                "required": False,
                "schema": {"type": "string"},
                "description": "The ETag that was read, or *.",
            }
        )
    operation: dict[str, Any] = {
        "operationId": route.method.lower() + re.sub(r"\W", "", route.path.title()),
        "summary": route.summary,
        "responses": dict(sorted(responses.items())),
    }
    if route.description:
        operation["description"] = route.description
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        operation["requestBody"] = {
            "required": route.body_required,
            "content": {JSON: {"schema": dict(route.body)}},
        }
    # An empty object in the list means that no token will do as well.
    needs: list[dict[str, list[str]]] = [{"token": [route.scope]}] if route.scope else [{}, {"token": []}]
    operation["security"] = [{}, *needs] if route.networks else needs
    return operation


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


WANT: Schema = {"enum": list(registry.WANTS)}
LIMIT: Schema = {
    "type": ["number", "null"],
    "minimum": 0,
    "maximum": registry.DRAIN_LIMIT_MAX_S,
    "description": f"seconds from 0 to {registry.DRAIN_LIMIT_MAX_S}, or null for the pillar's",
}
