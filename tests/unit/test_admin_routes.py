from __future__ import annotations

import json
import re

import jsonschema
import pytest
from saltern.admin import Admin
from saltern.admin_config import Config
from saltern.admin_routes import SCHEMAS, Route, openapi
from saltern.registry import DRAIN_LIMIT_MAX_S, check_id, check_limit, check_share, check_want

pytestmark = pytest.mark.unit

ADMIN = Admin(Config(redis={"redis": {"addresses": ["127.0.0.1:1"]}}, tokens={}))
BY_NAME = {f"{route.method} {route.path}": route for route in ADMIN.routes}


def test_the_api_is_what_the_fleet_was_promised() -> None:
    assert {
        "GET /split", "PUT /split", "POST /alert", "POST /canary/off", "POST /canary/on", "GET /instances",
        "GET /instances/{id}", "PUT /instances/{id}", "GET /health", "GET /metrics", "GET /openapi.json",
    } <= set(BY_NAME)  # fmt: skip


@pytest.mark.parametrize("route", ADMIN.routes, ids=list(BY_NAME))
def test_what_changes_something_needs_a_token_that_may_write(route: Route) -> None:
    changes = route.method in ("PUT", "POST", "DELETE", "PATCH") or route.path.startswith("/disable/")
    assert route.writes is changes


def test_only_health_and_the_document_need_no_token_and_only_metrics_may_be_read_by_network() -> None:
    assert {route.path for route in ADMIN.routes if not route.scope} == {"/health", "/openapi.json"}
    assert {route.path for route in ADMIN.routes if route.networks} == {"/metrics"}


def test_the_document_has_exactly_the_routes_of_the_table_and_nothing_else() -> None:
    document = openapi(ADMIN.routes, "1")
    told = {f"{method.upper()} {path}" for path, item in document["paths"].items() for method in item}
    assert told == set(BY_NAME)
    for name, route in BY_NAME.items():
        operation = document["paths"][route.path][route.method.lower()]
        told_parameters = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
        assert told_parameters == set(re.findall(r"{(\w+)}", route.path)) == set(route.params), name
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
        assert body == (None if route.body is None else dict(route.body)), name
        assert {int(status) for status in operation["responses"]} == {*route.answers, *route.errors(), 503}, (
            name
        )


def test_the_document_is_json_and_every_reference_in_it_leads_somewhere() -> None:
    text = json.dumps(ADMIN.document)
    for name in re.findall(r"#/components/schemas/(\w+)", text):
        assert name in SCHEMAS
    for schema in SCHEMAS.values():
        jsonschema.Draft202012Validator.check_schema(dict(schema))
    identifiers = re.findall(r'"operationId": "(\w+)"', text)
    assert len(identifiers) == len(set(identifiers)) == len(ADMIN.routes)


@pytest.mark.parametrize(
    ("route", "name", "values", "judge"),
    [
        ("PUT /split", "share", [0, 1, 100], check_share),
        ("PUT /instances/{id}", "want", ["ready", "drain", "maint"], check_want),
        ("PUT /instances/{id}", "limit_s", [0, 0.5, DRAIN_LIMIT_MAX_S, None], check_limit),
    ],
)
def test_what_the_schema_allows_the_registry_takes(route: str, name: str, values: list, judge) -> None:
    schema = BY_NAME[route].body["properties"][name]
    for value in values:
        jsonschema.validate(value, dict(schema))
        judge(value)


@pytest.mark.parametrize(
    "id_", ["prod1", "staging12", "ops9999", "redis1", "proxy1", "prod12345", "web1", "prod"]
)
def test_the_schema_and_the_registry_agree_on_ids(id_: str) -> None:
    fits = jsonschema.Draft202012Validator(dict(BY_NAME["GET /instances/{id}"].params["id"])).is_valid(id_)
    try:
        check_id(id_)
        taken = True
    except ValueError:
        taken = False
    assert fits is taken
