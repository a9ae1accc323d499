"""Feature flags in the product: on a real Redis, over WSGI and in real workers."""

import re
import subprocess

import pytest
from openfeature_redis import flagset
from product import page
from product.app import create_app
from product.config import Config
from product.flags import COOKIE, DEFAULT, Features, visitor_of

pytestmark = pytest.mark.functional

HALF = {
    "state": "ENABLED",
    "variants": {"on": True, "off": False},
    "defaultVariant": "off",
    "targeting": {"fractional": [["on", 50], ["off", 50]]},
}
WRITES = [
    ("POST", "/api/items", {"title": "x"}),
    ("PATCH", "/api/items/1", {"done": True}),
    ("DELETE", "/api/items/1", {}),
]
FORMS = [
    ("/items", {"title": "half a tho", "key": "k1"}),
    ("/items/1/done", {"done": "1"}),
    ("/items/1/edit", {"title": "b", "version": "1"}),
    ("/items/1/delete", {}),
    ("/items/1/restore", {}),
]


@pytest.fixture
def call(make_store, make_flags, redis_server, caller, tmp_path):
    """The application over the test's Redis, called in this process."""
    config = Config(redis_server.settings, redis_server.settings, "prod1", "prod", tmp_path, "r1")
    return caller(create_app(config, make_store(), make_flags()))


def test_without_any_flag_the_products_own_values_hold(make_flags):
    flags = make_flags()
    assert flags.features("a-visitor-of-ours") == DEFAULT
    assert flags.status == "READY"


def test_a_flip_is_seen_by_every_instance_and_a_flag_of_another_type_is_not_used(make_flags, set_flags, poll):
    instances = [make_flags(f"machine{number}") for number in range(3)]
    wanted = Features("#00f", True, True, "Sea", True)
    set_flags(**vars(wanted))
    poll(lambda: [flags.features(None) for flags in instances] == [wanted] * 3)
    set_flags(font_color=7, disable_set="yes", show_picture=1)
    poll(lambda: [flags.features(None) for flags in instances] == [DEFAULT] * 3)


def test_a_rollout_goes_by_visitor_and_treats_each_alike_on_every_instance(make_flags, set_flags, poll):
    set_flags(new_layout=HALF)
    instances = [make_flags(f"machine{number}") for number in range(2)]
    visitors = [f"visitor-number-{number:04}" for number in range(400)]
    seen = [[flags.features(visitor).new_layout for visitor in visitors] for flags in instances]
    assert seen[0] == seen[1]
    assert 140 < sum(seen[0]) < 260, "half of 400, within six standard deviations"


def test_flags_can_be_targeted_by_pool_and_instance(make_flags, set_flags):
    at_pool = {"if": [{"==": [{"var": "pool"}, "prod"]}, "on", "off"]}
    set_flags(new_layout={**HALF, "targeting": at_pool})
    assert make_flags().features(None).new_layout


def test_with_redis_gone_the_last_set_holds_and_a_process_that_starts_has_it_too(
    make_flags, set_flags, redis_server, poll
):
    set_flags(site_title="Kept")
    running = make_flags("machine")
    redis_server.kill()
    poll(lambda: running.status == "STALE")
    assert running.features(None).site_title == "Kept"
    started = make_flags("machine")
    assert started.features(None).site_title == "Kept"
    fresh = make_flags("another")
    assert (fresh.features(None), fresh.status) == (DEFAULT, "ERROR")
    redis_server.start()
    set_flags(site_title="Back")
    for flags in (running, started, fresh):
        poll(lambda flags=flags: (flags.features(None).site_title, flags.status) == ("Back", "READY"))


def test_while_changes_are_switched_off_nothing_is_written_and_everybody_is_told_why(call, set_flags, poll):
    assert call.form("/items", title="See the sea", key="k0").status == 303
    before = call("GET", "/api/items").json["items"]
    set_flags(disable_set=True)
    poll(lambda: "closed for changes" in call("GET", "/").text)
    for method, path, body in WRITES:
        refused = call.send(method, path, body)
        assert refused.status == 403, path
        assert refused.json["error"].startswith("list: changes are switched off")
    for path, fields in FORMS:
        refused = call.form(path, **fields)
        assert refused.status == 403, path
        assert "Not saved: changes are switched off for the moment" in refused.text
    assert "half a tho" in call.form("/items", title="half a tho").text, "what was typed is not lost"
    assert call("GET", "/api/items").json["items"] == before
    set_flags(disable_set=False)
    poll(lambda: call.send("PATCH", "/api/items/1", {"done": True}).status == 200)


def test_the_picture_is_served_or_nothing_is(call, set_flags, poll):
    assert (call("GET", "/getPic").status, call("GET", "/getPic").body) == (204, b"")
    set_flags(show_picture=True)
    shown = poll(lambda: (answer := call("GET", "/getPic")).status == 200 and answer)
    assert shown.headers["Content-Type"] == "image/svg+xml"
    assert shown.text == page.PICTURE
    assert page.PICTURE in call("GET", "/").text


def test_a_visitor_is_given_an_id_once_and_keeps_the_layout_it_leads_to(call, set_flags):
    set_flags(new_layout=HALF)
    first = call("GET", "/")
    cookie = first.headers["Set-Cookie"]
    assert re.search(r"; HttpOnly; Max-Age=31536000; Path=/; SameSite=lax$", cookie), cookie
    assert visitor_of({COOKIE: cookie.partition(";")[0].partition("=")[2]})
    again = call("GET", "/", cookie=cookie.partition(";")[0])
    assert "Set-Cookie" not in again.headers
    layout = re.compile('<body class="(wide|narrow)"')
    assert layout.search(again.text)[1] == layout.search(first.text)[1]
    for wrong in ("short", "x" * 65, "sixteen characters", '"; drop'):
        assert "Set-Cookie" in call("GET", "/", cookie=f"{COOKIE}={wrong}").headers, wrong


def test_an_open_page_notices_a_flip_by_the_lists_entity_tag(call, set_flags, poll):
    page_tag = re.search(r'data-mark="([^"]+)"', call("GET", "/").text)[1].replace("&quot;", '"')
    cookie = f"{COOKIE}=a-visitor-of-ours"
    tag = call("GET", "/api/items", cookie=cookie).headers["Etag"]
    assert tag == page_tag, "the same look for any visitor"
    assert call("GET", "/api/items", cookie=cookie, if_none_match=tag).status == 304
    set_flags(font_color="#800")
    poll(lambda: call("GET", "/api/items", cookie=cookie, if_none_match=tag).status == 200)


def test_health_tells_how_the_flags_are_followed_and_not_from_where(call, redis_server, poll):
    assert call("GET", "/health").json["flags"] == "READY"
    redis_server.kill()
    poll(lambda: call("GET", "/health").json["flags"] == "STALE")
    health = call("GET", "/health")
    assert (health.status, health.json["status"]) == (200, "degraded")
    assert "127.0.0.1" not in health.text


def test_a_worker_follows_the_flags_after_its_fork_and_so_does_the_one_that_replaces_it(
    make_product, set_flags, poll
):
    product = make_product()
    set_flags(site_title="First")
    poll(lambda: "<h1>First</h1>" in product("GET", "/").text)
    worker = product.worker()
    worker.kill()
    worker.wait()
    set_flags(site_title="Second")
    poll(lambda: serves(product, "<h1>Second</h1>"))
    assert product("GET", "/health").json["flags"] == "READY"


def serves(product, text: str) -> bool:
    try:
        return text in product("GET", "/").text
    except OSError:
        return False


def test_a_product_that_starts_while_redis_is_away_has_its_flags(make_product, set_flags, redis_server, poll):
    product = make_product()
    set_flags(site_title="Kept")
    poll(lambda: serves(product, "<h1>Kept</h1>"))
    poll(lambda: "Kept" in (product.folder / "state" / "flags.json").read_text())
    redis_server.kill()
    product.end()
    product.start()
    assert serves(product, "<h1>Kept</h1>")
    poll(lambda: product("GET", "/health").json["flags"] == "STALE")


def test_a_plain_redis_cli_flips_a_flag_too(make_flags, set_flags, redis_server, poll):
    set_flags(show_picture=False)
    flags = make_flags()
    text = redis_server.client.get(flagset.NAMES.document).replace("false", "true")
    command = ["redis-cli", "-p", str(redis_server.port), "-x", "set", flagset.NAMES.document]
    subprocess.run(command, input=text, text=True, check=True, capture_output=True)
    poll(lambda: flags.features(None).show_picture)
