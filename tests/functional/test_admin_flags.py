"""Flags on the admin API, on a real Redis."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import redis
from admin_stand import READ, AdminStand, Reply
from openfeature_redis import flagset
from traffic_stand import redis_server

pytestmark = pytest.mark.functional

COLOUR = {"state": "ENABLED", "variants": {"red": "#f00", "blue": "#00f"}, "defaultVariant": "red"}
GUARD = {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "off"}
TARGETED = {**GUARD, "targeting": {"if": [{"==": [{"var": "user"}, "me"]}, "on", "off"]}}
FLAGS = {"font_color": COLOUR, "disable_set": GUARD, "show_picture": GUARD, "new_layout": TARGETED}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[AdminStand, redis.Redis]]:
    """An admin API before a Redis."""
    folder = tmp_path_factory.mktemp("flags")
    process, port = redis_server(folder)
    api = AdminStand(folder, port)
    client = redis.Redis(port=port, decode_responses=True)
    try:
        yield api.start(), client
    finally:
        api.process.end()
        client.close()
        process.end()


@pytest.fixture
def client(server: tuple[AdminStand, redis.Redis]) -> redis.Redis:
    """Its Redis, holding the flags above."""
    server[1].flushdb()
    flagset.write(server[1], {"flags": FLAGS}, who="test", why="test")
    return server[1]


@pytest.fixture
def api(server: tuple[AdminStand, redis.Redis], client: redis.Redis) -> AdminStand:
    """The API."""
    return server[0]


def stored(client: redis.Redis) -> dict:
    """The flags as they are kept."""
    return json.loads(client.get("saltern:flags"))["flags"]


def test_flags_are_listed_and_told_one_by_one(api: AdminStand) -> None:
    told = api.ask("GET", "/flags", token=READ).data["flags"]
    assert list(told) == sorted(FLAGS)
    assert told["new_layout"] == {**GUARD, "targeted": True}
    assert api.ask("GET", "/flags/font_color", token=READ).data == COLOUR
    assert api.ask("GET", "/flags/nope").status == 404


def test_a_flag_is_switched_and_both_diaries_say_who_and_why(api: AdminStand, client: redis.Redis) -> None:
    before = int(client.get("saltern:revision"))
    reply = api.ask("PUT", "/flags/font_color", {"defaultVariant": "blue", "cause": "8-0"})
    assert (reply.status, reply.data["changed"], reply.data["revision"]) == (200, True, before + 1)
    assert reply.data["before"] == COLOUR
    assert stored(client)["font_color"]["defaultVariant"] == "blue"
    change = flagset.history(client, 1)[0]
    assert (change.who, change.why, change.changed) == ("admin:write@127.0.0.1", "8-0", ("font_color",))
    line = client.xrevrange("saltern:journal", count=1)[0][1]
    assert (line["kind"], line["subject"], line["cause"]) == ("admin.write", "PUT /flags/font_color", "8-0")
    flagset.undo(client, who="test")
    assert stored(client) == FLAGS


def test_a_flag_is_defined_whole_or_not_at_all(api: AdminStand, client: redis.Redis) -> None:
    assert api.ask("PUT", "/flags/site_title", COLOUR).status == 200
    assert stored(client)["site_title"] == COLOUR
    for body, status in (
        ({"state": "ENABLED", "variants": {"a": 1, "b": "x"}, "defaultVariant": "a"}, 400),
        ({"state": "ENABLED", "variants": {"a": 1}, "defaultVariant": "b"}, 400),
        ({"state": "ON", "variants": {"a": 1}}, 400),
        ({"variants": {}}, 400),
        ({"targeting": {}}, 400),
        ({"defaultVariant": "green"}, 400),
        ({}, 400),
        ({"colour": "red"}, 400),
    ):
        reply = api.ask("PUT", "/flags/site_title", body)
        assert reply.status == status, body
        assert reply.error
    assert stored(client)["site_title"] == COLOUR
    assert api.ask("PUT", "/flags/new", {"state": "DISABLED"}).status == 404


def test_a_writer_who_has_not_seen_the_latest_flag_changes_nothing(
    api: AdminStand, client: redis.Redis
) -> None:
    tag = api.ask("GET", "/flags/font_color").headers["etag"]
    # Another flag may change meanwhile.
    assert api.ask("PUT", "/flags/disable_set", {"defaultVariant": "on"}).status == 200
    assert (
        api.ask("PUT", "/flags/font_color", {"defaultVariant": "blue"}, headers={"If-Match": tag}).status
        == 200
    )
    assert (
        api.ask("PUT", "/flags/font_color", {"defaultVariant": "red"}, headers={"If-Match": tag}).status
        == 412
    )
    assert api.ask("PUT", "/flags/font_color", {"defaultVariant": "red", "revision": 1}).status == 409
    assert stored(client)["font_color"]["defaultVariant"] == "blue"


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_feature_is_disabled_and_enabled_at_a_url(
    api: AdminStand, client: redis.Redis, method: str
) -> None:
    def variant(flag: str) -> str:
        return stored(client)[flag]["defaultVariant"]

    def ask(path: str) -> Reply:
        return api.ask(method, path)

    # disable_set is the guard of the feature "set"; show_picture is the feature itself.
    assert ask("/disable/set/1").status == 200 and variant("disable_set") == "on"
    assert ask("/disable/set/0").status == 200 and variant("disable_set") == "off"
    assert ask("/disable/show_picture/0").status == 200 and variant("show_picture") == "on"
    assert ask("/disable/show_picture/1").status == 200 and variant("show_picture") == "off"
    assert ask("/disable/show_picture/1").data["changed"] is False
    assert ask("/disable/nope/1").status == 404
    assert ask("/disable/set/2").status == 400
    assert ask("/disable/*/1").status == 400
    assert "no variant that is false" in ask("/disable/font_color/1").error
    assert "targeting" in ask("/disable/new_layout/1").error
    assert ask("/disable/new_layout/1").status == 409


def test_a_feature_switched_at_a_url_counts_even_if_its_flag_was_disabled(
    api: AdminStand, client: redis.Redis
) -> None:
    assert api.ask("PUT", "/flags/disable_set", {"state": "DISABLED"}).status == 200
    assert api.ask("POST", "/disable/set/1").status == 200
    assert stored(client)["disable_set"] == {**GUARD, "defaultVariant": "on"}


def test_a_url_that_changes_something_needs_a_token_that_may_write_and_is_never_merely_looked_at(
    api: AdminStand, client: redis.Redis
) -> None:
    assert api.ask("GET", "/disable/set/1", token="").status == 401
    assert api.ask("GET", "/disable/set/1", token=READ).status == 403
    assert api.ask("HEAD", "/disable/set/1").status == 405
    assert stored(client) == FLAGS


def test_a_set_that_somebody_broke_is_told_and_not_overwritten(api: AdminStand, client: redis.Redis) -> None:
    client.set("saltern:flags", "{")
    for method, path, body in (
        ("GET", "/flags", None),
        ("PUT", "/flags/font_color", {"defaultVariant": "blue"}),
        ("POST", "/disable/set/1", None),
    ):
        reply = api.ask(method, path, body)
        assert reply.status == 503 and "holds no JSON" in reply.error
    assert client.get("saltern:flags") == "{"
