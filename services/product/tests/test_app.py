"""The product over WSGI, with a real Redis behind it."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from product.app import MAX_BODY, create_app
from product.config import Config
from product.items import MAX_TITLE

pytestmark = pytest.mark.functional


@pytest.fixture
def config(redis_server):
    """An instance's configuration."""
    return Config(redis_server.settings, redis_server.settings, "prod1", "prod", Path("/unused"), "r1")


@pytest.fixture
def call(config, make_store, make_flags, caller):
    """The application over the test's Redis, called in this process."""
    return caller(create_app(config, make_store(), make_flags()))


def test_an_item_lives_its_life_through_the_api(call):
    added = call.send("POST", "/api/items", {"title": " See  the sea "})
    assert (added.status, added.headers["Location"]) == (201, "/api/items/1")
    assert added.json["title"] == "See the sea"
    assert call("GET", "/api/items/1").json == added.json
    changed = call.send("PATCH", "/api/items/1", {"done": True, "title": "See it", "version": 1})
    assert (changed.status, changed.json["title"], changed.json["done"]) == (200, "See it", True)
    listed = call("GET", "/api/items").json
    assert (listed["items"], listed["live"]) == ([changed.json], True)
    assert (call("DELETE", "/api/items/1").status, call("DELETE", "/api/items/1").status) == (204, 404)
    assert call("GET", "/api/items").json["items"] == []


@pytest.mark.parametrize(
    ("method", "path", "body", "kind", "status", "said"),
    [
        ("POST", "/api/items", b"", "application/json", 400, "body: not JSON"),
        ("POST", "/api/items", b"{", "application/json", 400, "body: not JSON"),
        ("POST", "/api/items", b"\xff", "application/json", 400, "body: not JSON"),
        ("POST", "/api/items", b"[" * 9000, "application/json", 400, "body: not JSON"),
        ("POST", "/api/items", b'{"title": ' + b"1" * 5000 + b"}", "application/json", 400, "body: not JSON"),
        ("POST", "/api/items", b"[]", "application/json", 422, "body: a JSON object"),
        ("POST", "/api/items", b'{"title": "x"}', "text/plain", 415, "Content-Type: 'text/plain'"),
        ("POST", "/api/items", b'{"title": "x"}', "", 415, "Content-Type: ''"),
        ("POST", "/api/items", b'{"title": "\\u0007"}', "application/json", 422, "U+0007"),
        ("POST", "/api/items", b'{"title": "\\ud800"}', "application/json", 422, "U+D800"),
        ("POST", "/api/items", b" " * (MAX_BODY + 1), "application/json", 413, "at most 16384"),
        ("PATCH", "/api/items/1", b'{"done": 1}', "application/json", 422, "done: int"),
        ("PATCH", "/api/items/1", b'{"done": true}', "application/json", 404, "item 1 is not on the list"),
        ("GET", "/api/items/1", b"", "", 404, "item 1 is not on the list"),
        ("DELETE", "/api/items/999999999999", b"", "", 404, "item 999999999999"),
        ("GET", "/api/items/9999999999999", b"", "", 404, "no such page"),
        ("GET", "/api/items/-1", b"", "", 404, "no such page"),
        ("GET", "/api/items/*", b"", "", 404, "no such page"),
        ("GET", "/api/\r\nitems", b"", "", 404, "no such page"),
        ("PUT", "/api/items", b"", "", 405, "PUT: not allowed here"),
    ],
)
def test_a_wrong_request_gets_one_line_that_says_what_is_wrong(call, method, path, body, kind, status, said):
    answer = call(method, path, body, kind)
    assert answer.status == status
    assert said in answer.json["error"]
    assert answer.json["error"].isprintable()
    assert answer.headers["Content-Type"].startswith("application/json")
    assert call("GET", "/api/items").json["items"] == []


def test_a_body_larger_than_it_says_is_not_read_whole(call):
    answer = call("POST", "/api/items", b"x" * 100, content_length="")
    assert answer.status == 400


def test_a_title_of_every_kind_comes_back_as_it_was_sent(call):
    for title in ("<b>&amp;", "x" * MAX_TITLE, "👩\u200d🚀", "a/b\\c\"'", "\u2028", "\u202eabc"):
        answer = call.send("POST", "/api/items", {"title": title})
        if answer.status == 201:
            assert call("GET", answer.headers["Location"]).json["title"] == title
        else:
            assert title == "\u2028"


def test_an_edit_of_an_old_version_is_refused_with_the_item_as_it_is(call):
    call.send("POST", "/api/items", {"title": "a"})
    call.send("PATCH", "/api/items/1", {"title": "b"})
    answer = call.send("PATCH", "/api/items/1", {"title": "c", "version": 1})
    assert (answer.status, answer.json["item"]["title"]) == (409, "b")
    assert answer.json["error"].startswith("version: item 1 is at version 2")


def test_an_idempotency_key_makes_adding_safe_to_repeat(call):
    first = call.send("POST", "/api/items", {"title": "a"}, idempotency_key="k")
    assert call.send("POST", "/api/items", {"title": "a"}, idempotency_key="k").json == first.json
    assert call.send("POST", "/api/items", {"title": "a"}, idempotency_key="a b").status == 422
    assert len(call("GET", "/api/items").json["items"]) == 1


def test_an_unchanged_list_is_not_sent_again(call):
    call.send("POST", "/api/items", {"title": "a"})
    tag = call("GET", "/api/items").headers["Etag"]
    again = call("GET", "/api/items", if_none_match=tag)
    assert (again.status, again.body, again.headers["Etag"]) == (304, b"", tag)
    call.send("POST", "/api/items", {"title": "b"})
    assert call("GET", "/api/items", if_none_match=tag).status == 200


def test_plain_forms_do_everything_and_send_the_browser_on(call):
    added = call.form("/items", title="See the sea", key="k1")
    assert (added.status, added.headers["Location"]) == (303, "/#item-1")
    assert call.form("/items", title="See the sea", key="k1").headers["Location"] == "/#item-1"
    assert call.form("/items/1/done", done=1).status == 303
    assert 'aria-checked="true"' in call("GET", "/").text
    assert call.form("/items/1/done", done=0).status == 303
    assert 'aria-checked="true"' not in call("GET", "/").text
    assert call.form("/items/1/edit", title="See it", version=3).headers["Location"] == "/#item-1"
    assert "See it" in call("GET", "/").text
    assert call.form("/items/1/delete").headers["Location"] == "/?deleted=1"
    assert "See it" not in call("GET", "/?deleted=1").text
    assert call.form("/items/1/restore").headers["Location"] == "/#item-1"
    assert "See it" in call("GET", "/").text


def test_a_refused_form_is_shown_again_with_its_text_and_key(call):
    answer = call.form("/items", title="x" * 201 + "<i>", key="k1")
    assert answer.status == 422
    assert "Not saved: 204 characters; at most 200 are allowed." in answer.text
    assert f'value="{"x" * 201}&lt;i&gt;"' in answer.text
    assert 'name="key" value="k1"' in answer.text


def test_an_edit_that_meets_another_edit_keeps_both_texts(call):
    call.form("/items", title="a", key="k")
    call.form("/items/1/edit", title="b", version=1)
    answer = call.form("/items/1/edit", title="mine", version=1)
    assert answer.status == 409
    assert "it now reads “b”" in answer.text
    assert 'value="mine"' in answer.text
    assert 'name="version" value="2"' in answer.text
    assert call.form("/items/1/edit", title="mine", version=2).status == 303


def test_the_text_of_an_edit_of_a_deleted_item_moves_to_the_field_for_a_new_one(call):
    call.form("/items", title="a", key="k")
    call.form("/items/1/delete")
    answer = call.form("/items/1/edit", title="mine", version=1)
    assert answer.status == 404
    assert 'name="title" value="mine"' in answer.text
    assert "it may have been deleted meanwhile" in answer.text


@pytest.mark.parametrize(
    ("path", "body", "kind", "status"),
    [
        ("/items", b"title=%ff", "application/x-www-form-urlencoded", 400),
        ("/items", "title=é".encode(), "application/x-www-form-urlencoded", 400),
        ("/items", b"a=1&" * 9, "application/x-www-form-urlencoded", 400),
        ("/items", b"title=x", "multipart/form-data; boundary=x", 415),
        ("/items", b"title=" + b"x" * MAX_BODY, "application/x-www-form-urlencoded", 413),
        ("/items", b"", "", 422),
        ("/items", b"title=x&key=a+b", "application/x-www-form-urlencoded", 422),
        ("/items/1/done", b"done=2", "application/x-www-form-urlencoded", 422),
        ("/items/1/edit", b"title=x", "application/x-www-form-urlencoded", 422),
        ("/items/1/edit", b"title=x&version=%C2%B2", "application/x-www-form-urlencoded", 422),
        ("/items/1/delete", b"", "", 404),
        ("/items/1/restore", b"", "", 404),
    ],
)
def test_a_wrong_form_is_answered_with_the_page_and_changes_nothing(call, path, body, kind, status):
    answer = call("POST", path, body, kind)
    assert answer.status == status
    assert '<p class="notice problem">Not saved: ' in answer.text
    assert call("GET", "/api/items").json["items"] == []


def test_a_form_on_another_sites_page_changes_nothing(call):
    body = b"title=x"
    answer = call("POST", "/items", body, "application/x-www-form-urlencoded", sec_fetch_site="cross-site")
    assert answer.status == 403
    assert call("GET", "/api/items").json["items"] == []


def test_without_redis_the_page_serves_the_last_known_list_and_keeps_what_was_typed(call, redis_server, poll):
    call.form("/items", title="See the sea", key="k1")
    assert "See the sea" in call("GET", "/").text
    redis_server.kill()
    page = call("GET", "/")
    assert page.status == 200
    assert "See the sea" in page.text
    assert "out of reach" in page.text
    assert call("GET", "/api/items").json["live"] is False
    refused = call.form("/items", title="Walk <far>", key="k2")
    assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
    assert 'value="Walk &lt;far&gt;"' in refused.text
    assert 'name="key" value="k2"' in refused.text
    edited = call.form("/items/1/edit", title="Walk on", version=1)
    assert edited.status == 503
    assert 'value="Walk on"' in edited.text
    for answer in (
        call.send("POST", "/api/items", {"title": "x"}),
        call.send("PATCH", "/api/items/1", {"done": True}),
        call("DELETE", "/api/items/1"),
    ):
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert "out of reach" in answer.json["error"]
        assert "127.0.0.1" not in answer.text
    redis_server.start()
    poll(lambda: call("GET", "/api/items").json["live"])
    assert "out of reach" not in call("GET", "/").text
    assert call.form("/items", title="Walk <far>", key="k2").status == 303


def test_without_redis_and_without_a_copy_the_product_says_so(
    config, make_store, make_flags, redis_server, caller
):
    redis_server.kill()
    call = caller(create_app(config, make_store(), make_flags()))
    page = call("GET", "/")
    assert page.status == 503
    assert "There is no copy of it here yet" in page.text
    assert call("GET", "/api/items").status == call("GET", "/api/items/1").status == 503
    assert call("GET", "/health").status == 200


def test_health_is_degraded_but_never_dead_without_redis(call, redis_server, poll):
    healthy = call("GET", "/health")
    assert (healthy.status, healthy.json["status"], healthy.json["redis"]) == (200, "ok", "up")
    redis_server.pause()
    for _ in range(20):
        hanging = call("GET", "/health")
        assert (hanging.status, hanging.json["status"], hanging.json["redis"]) == (200, "degraded", "down")
    redis_server.resume()
    poll(lambda: call("GET", "/health").json["status"] == "ok")
    redis_server.kill()
    dead = call("GET", "/health")
    assert (dead.status, dead.json["status"], dead.json["redis"]) == (200, "degraded", "down")


def test_version_says_what_runs_where(call):
    answer = call("GET", "/version").json
    assert {"release": "r1", "instance": "prod1", "pool": "prod"}.items() <= answer.items()


def test_every_answer_forbids_sniffing_and_caching(call):
    for path in ("/", "/api/items", "/health", "/version", "/nope", "/api/nope"):
        headers = call("GET", path).headers
        assert (headers["X-Content-Type-Options"], headers["Cache-Control"]) == ("nosniff", "no-store")
    assert "default-src 'none'" in call("GET", "/").headers["Content-Security-Policy"]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
documents = values | st.fixed_dictionaries({}, optional={"title": values, "done": values, "version": values})


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.sampled_from(["POST", "PATCH"]),
    body=documents.map(lambda document: json.dumps(document).encode()) | st.binary(max_size=60),
)
def test_no_body_whatever_makes_the_api_fail(call, method, body):
    path = "/api/items" if method == "POST" else "/api/items/1"
    answer = call(method, path, body)
    assert answer.status in (200, 201, 400, 404, 409, 422)
    if answer.status >= 400:
        assert answer.json["error"].isprintable()
    assert call("GET", "/").status == 200


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from(["/items", "/items/1/done", "/items/1/edit", "/items/1/delete", "/items/1/restore"]),
    fields=st.dictionaries(
        st.sampled_from(["title", "key", "done", "version"]),
        st.text(st.characters(codec="utf-8"), max_size=30),
    ),
)
def test_no_form_whatever_makes_the_page_fail(call, path, fields):
    answer = call.form(path, **fields)
    assert answer.status in (303, 404, 409, 422)
    assert call("GET", "/").status == 200
