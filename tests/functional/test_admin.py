"""The admin API as its callers see it, before a whole traffic plane: Redis, HAProxy, controller, backends."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from admin_stand import READ, WRITE, AdminStand
from host import PATIENCE, until
from saltern.registry import STEPS, Registry
from traffic_stand import Stand

pytestmark = pytest.mark.functional

JOURNAL = "saltern:journal"


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stand, AdminStand]]:
    """A traffic plane with two production servers and a canary, and its admin API."""
    stand = Stand(tmp_path_factory.mktemp("plane"))
    api = AdminStand.before(stand)
    try:
        stand.start()
        for id_ in ("prod1", "prod2", "staging1"):
            stand.add(id_)
        stand.await_up("prod1", "prod2", "staging1")
        stand.await_share(30)
        yield stand, api.start()
    finally:
        api.process.end()
        stand.close()


@pytest.fixture
def stand(plane: tuple[Stand, AdminStand]) -> Iterator[Stand]:
    """The plane, put back to how it was."""
    made = plane[0]
    yield made
    made.registry.canary_on(by="test")
    made.registry.set_share(30, by="test")
    for id_ in ("prod1", "prod2", "staging1"):
        made.registry.want(id_, "ready", by="test")
    made.await_up("prod1", "prod2", "staging1")
    made.await_share(30)


@pytest.fixture
def api(plane: tuple[Stand, AdminStand], stand: Stand) -> AdminStand:
    """Its admin API."""
    return plane[1]


def last(client: redis.Redis, kind: str) -> dict[str, Any]:
    """The newest journal line of a kind, with its id."""
    for id_, line in client.xrevrange(JOURNAL, count=20):
        if line["kind"] == kind:
            return {**line, "id": id_, "fields": json.loads(line["fields"])}
    raise AssertionError(f"no {kind} in the journal")


# --- the split


def test_the_share_is_changed_live_and_the_journal_says_who_what_before_after_and_why(
    stand: Stand, api: AdminStand
) -> None:
    reply = api.ask("PUT", "/split", {"share": 55, "cause": "17-0"})
    assert reply.status == 200
    assert reply.data["changed"] is True
    assert (reply.data["before"], reply.data["after"]) == ({"share": 30}, {"share": 55})
    stand.await_share(55)
    change = last(stand.client, "split.share")
    assert (change["id"], change["cause"], change["who"]) == (
        reply.data["journal"],
        "17-0",
        "admin:write@127.0.0.1",
    )
    line = last(stand.client, "admin.write")
    assert (line["subject"], line["who"], line["cause"]) == (
        "PUT /split",
        "admin:write@127.0.0.1",
        change["id"],
    )
    assert line["fields"] == {"changed": True, "before": {"share": 30}, "after": {"share": 55}}
    shown = until(
        lambda: (d := api.ask("GET", "/split", token=READ).data)["effective_share"] == 55 and d, "55"
    )
    assert (shown["share"], shown["by"], shown["latch"]) == (55, "admin:write@127.0.0.1", None)


def test_setting_what_is_already_so_changes_nothing_and_is_in_the_journal_all_the_same(
    stand: Stand, api: AdminStand
) -> None:
    before = stand.registry.snapshot().revision
    reply = api.ask("PUT", "/split", {"share": 30})
    assert (reply.status, reply.data["changed"], reply.data["revision"]) == (200, False, before)
    assert last(stand.client, "admin.write")["fields"]["changed"] is False


def test_a_writer_who_has_not_seen_the_latest_split_is_told_so_and_changes_nothing(
    stand: Stand, api: AdminStand
) -> None:
    seen = api.ask("GET", "/split")
    # Something else may change meanwhile: the tag is the split's own.
    stand.registry.want("prod1", "drain", by="test")
    assert api.ask("PUT", "/split", {"share": 31}, headers={"If-Match": seen.headers["etag"]}).status == 200
    late = api.ask("PUT", "/split", {"share": 32}, headers={"If-Match": seen.headers["etag"]})
    assert late.status == 412 and "read it again" in late.error
    assert (
        api.ask("PUT", "/split", {"share": 32}, headers={"If-Match": f"W/{seen.headers['etag']}"}).status
        == 412
    )
    assert api.ask("PUT", "/split", {"share": 33, "revision": seen.data["revision"]}).status == 409
    assert stand.registry.snapshot().split.share == 31
    now = stand.registry.snapshot().revision
    assert api.ask("PUT", "/split", {"share": 34, "revision": now}, headers={"If-Match": "*"}).status == 200


def test_of_many_writers_with_the_same_tag_one_wins(stand: Stand, api: AdminStand) -> None:
    tag = api.ask("GET", "/split").headers["etag"]
    statuses: list[int] = []

    def write(share: int) -> None:
        statuses.append(api.ask("PUT", "/split", {"share": share}, headers={"If-Match": tag}).status)

    threads = [threading.Thread(target=write, args=(40 + n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] + [412] * 7


def test_a_split_that_somebody_broke_can_be_mended_here(stand: Stand, api: AdminStand) -> None:
    stand.client.hset("saltern:split", "share", "lots")
    broken = api.ask("GET", "/split")
    assert broken.status == 503 and "share lots is not between 0 and 100" in broken.error
    mended = api.ask("PUT", "/split", {"share": 30})
    assert mended.status == 200 and "unusable" in mended.data["before"]
    assert api.ask("GET", "/split").data["share"] == 30


# --- the canary


def test_an_alert_takes_the_canary_out_until_somebody_turns_it_on(stand: Stand, api: AdminStand) -> None:
    alert = {"source": "staging1", "reason": "12 % errors", "details": {"errors": 12.5, "fatal": True}}
    reply = api.ask("POST", "/alert", alert)
    assert (reply.status, reply.data["after"]["reason"]) == (200, "staging1: 12 % errors")
    stand.await_share(0)
    assert last(stand.client, "admin.write")["fields"]["errors"] == 12.5
    again = api.ask("POST", "/alert", {"source": "ops1", "reason": "also here"})
    assert (again.data["changed"], again.data["after"]["reason"]) == (False, "staging1: 12 % errors")
    latch = api.ask("GET", "/split").data["latch"]
    assert (latch["reason"], latch["by"]) == ("staging1: 12 % errors", "admin:write@127.0.0.1")
    on = api.ask("POST", "/canary/on", {"reason": "fixed"})
    assert (on.data["before"]["off"], on.data["after"]) == (True, {"off": False})
    stand.await_share(30)


@pytest.mark.parametrize("body", [None, {}, {"reason": "by a person"}])
def test_turning_the_canary_off_by_hand_takes_no_more_than_a_token(
    stand: Stand, api: AdminStand, body: Any
) -> None:
    assert api.ask("POST", "/canary/off", body).status == 200
    stand.await_share(0)
    assert stand.registry.snapshot().latches["canary"].reason == (body or {}).get(
        "reason", "turned off by hand"
    )
    assert api.ask("POST", "/canary/on").status == 200


# --- instances


def test_an_instance_is_drained_and_brought_back(stand: Stand, api: AdminStand) -> None:
    reply = api.ask("PUT", "/instances/prod1", {"want": "drain", "limit_s": 1.5})
    assert reply.data["before"] == {"want": "ready", "limit_s": None, "force": False}
    assert reply.data["after"] == {"want": "drain", "limit_s": 1.5, "force": False}
    stand.await_servers({"prod1": "drain/up", "prod2": "ready/up", "staging1": "ready/up"})
    row = until(
        lambda: (d := api.ask("GET", "/instances/prod1", token=READ).data)["phase"] == "idle" and d, "idle"
    )
    assert (row["pool"], row["want"], row["limit_s"], row["health"]) == ("prod", "drain", 1.5, "up")
    assert api.ask("PUT", "/instances/prod1", {"want": "ready"}).status == 200
    stand.await_up("prod1")


def test_the_last_live_server_is_kept_and_the_answer_says_why(stand: Stand, api: AdminStand) -> None:
    for id_ in ("prod1", "prod2"):
        assert api.ask("PUT", f"/instances/{id_}", {"want": "maint"}).status == 200
    kept = until(
        lambda: [r for r in api.ask("GET", "/instances").data["instances"].values() if "kept" in r], "kept"
    )
    assert "last live production server" in kept[0]["kept"]
    assert any("is kept" in problem for problem in api.ask("GET", "/instances").data["problems"])


def test_an_instances_tag_is_its_own(stand: Stand, api: AdminStand) -> None:
    tag = api.ask("GET", "/instances/prod1").headers["etag"]
    stand.registry.set_share(31, by="test")
    assert api.ask("PUT", "/instances/prod1", {"want": "drain"}, headers={"If-Match": tag}).status == 200
    assert api.ask("PUT", "/instances/prod1", {"want": "maint"}, headers={"If-Match": tag}).status == 412


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        (
            "/instances/*",
            400,
            "id: * is not a machine's id: prod, staging, proxy, redis or ops and 1 to 4 digits",
        ),
        ("/instances/prod1%0a", 400, 'id: "prod1\\n" is not a machine\'s id'),
        ("/instances/prod1%00", 400, "is not a machine's id"),
        ("/instances/prod1%ff", 400, "path: not UTF-8"),
        ("/instances/prod1%20*", 400, "is not a machine's id"),
        ("/instances/..%2f..%2fetc", 404, "there is nothing here"),
        ("/instances/prod99", 404, "prod99 is not registered"),
        ("/instances/prod1?x=1", 400, "query: x is unknown; known are none"),
        ("/instances/prod1?x=%ff", 400, "query: not of the form"),
        ("/split/", 404, "there is nothing here"),
    ],
)
def test_a_hostile_path_is_refused_on_one_line(api: AdminStand, path: str, status: int, text: str) -> None:
    for method, body in (("GET", None), ("PUT", {"want": "maint"})):
        reply = api.ask(method, path, body)
        assert reply.status == status
        assert text in reply.error


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "body: missing; send a JSON object with want, limit_s, force, revision, cause"),
        (b"null", "body: null is not an object"),
        (b"{", "body: Expecting property name"),
        (b'{"want": "ready", "want": "maint"}', "body: the key want is there twice"),
        (b'{"want": "gone"}', "body.want: gone is not one of ready, drain, maint"),
        (b'{"want": "drain", "limit_s": -1}', "body.limit_s: -1 is not seconds from 0 to 86400"),
        (b'{"want": "drain", "limit_s": 1e400}', "body: 1e400 is too large a number"),
        (b'{"want": "drain", "force": 1}', "body.force: 1 is not true or false"),
        (b'{"want": "drain", "release": "x"}', "body: release is unknown"),
        (b'{"want": "drain", "cause": "a\\u2028b"}', "cause: "),
        (b'{"want": "\xff"}', "is not UTF-8"),
        (b"[" * 5000, "levels deep"),
    ],
)
def test_a_hostile_body_changes_nothing(stand: Stand, api: AdminStand, body: bytes, text: str) -> None:
    before = stand.registry.snapshot()
    reply = api.ask("PUT", "/instances/prod1", raw=body, headers={"Content-Type": "application/json"})
    assert reply.status == 400
    assert text in reply.error
    assert stand.registry.snapshot() == before


# --- who may


EVERY = [
    ("GET", "/split"), ("PUT", "/split"), ("POST", "/alert"), ("POST", "/canary/off"), ("POST", "/canary/on"),
    ("GET", "/instances"), ("GET", "/instances/prod1"), ("PUT", "/instances/prod1"), ("GET", "/metrics"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), EVERY)
@pytest.mark.parametrize("token", ["", "wrong", READ.upper(), WRITE + " x"])
def test_nobody_without_a_token_of_the_fleet_sees_or_changes_anything(
    stand: Stand, api: AdminStand, method: str, path: str, token: str
) -> None:
    before = stand.registry.snapshot()
    reply = api.ask(method, path, {"share": 1}, token)
    assert reply.status == 401
    assert reply.headers["www-authenticate"].startswith("Bearer")
    assert set(reply.data) == {"error"}
    assert stand.registry.snapshot() == before


@pytest.mark.parametrize(("method", "path"), [each for each in EVERY if each[0] != "GET"])
def test_a_token_that_may_read_changes_nothing(stand: Stand, api: AdminStand, method: str, path: str) -> None:
    before = stand.registry.snapshot()
    reply = api.ask(method, path, {"share": 1}, READ)
    assert reply.status == 403
    assert "may only read" in reply.error
    assert stand.registry.snapshot() == before


def test_health_tells_a_stranger_one_word_and_a_reader_everything(stand: Stand, api: AdminStand) -> None:
    until(lambda: api.ask("GET", "/health", token=READ).status == 200, "health")
    assert api.ask("GET", "/health", token="").data == {"status": "ok"}
    told = api.ask("GET", "/health", token=READ).data
    assert all(told[part]["ok"] for part in ("redis", "haproxy", "controller"))
    assert api.ask("GET", "/health", token="wrong").status == 401


def test_no_token_is_in_the_log(api: AdminStand) -> None:
    api.ask("GET", "/split", token="wrong-token-of-somebody")
    for token in (READ, WRITE, "wrong-token-of-somebody"):
        assert token not in api.log()
        assert token not in api.file.read_text()


# --- HTTP


def test_no_answer_is_stored_by_anybody_or_readable_for_another_site(api: AdminStand) -> None:
    for reply in (
        api.ask("GET", "/split", headers={"Origin": "http://evil.test"}),
        api.ask("GET", "/nothing", headers={"Origin": "http://evil.test"}),
        api.ask("GET", "/instances/x%ff"),
        api.ask(
            "OPTIONS",
            "/split",
            headers={"Origin": "http://evil.test", "Access-Control-Request-Method": "PUT"},
        ),
    ):
        assert reply.headers["cache-control"] == "no-store"
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert not [name for name in reply.headers if name.startswith("access-control")]


@pytest.mark.parametrize("method", ["DELETE", "PATCH", "OPTIONS", "TRACE", "POST"])
def test_another_method_is_refused_with_those_that_are_right(api: AdminStand, method: str) -> None:
    reply = api.ask(method, "/split")
    assert (reply.status, reply.headers["allow"]) == (405, "GET,PUT")
    assert reply.error == "this path takes GET,PUT"


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin1"]
)
def test_a_body_of_another_kind_is_refused(api: AdminStand, kind: str) -> None:
    reply = api.ask("PUT", "/split", raw=b'{"share": 1}', headers={"Content-Type": kind})
    assert reply.status == 415


def test_a_large_body_is_refused_announced_or_not(stand: Stand, api: AdminStand) -> None:
    raw = b'{"share": 1, "cause": "' + b"x" * 70_000 + b'"}'
    assert api.ask("PUT", "/split", raw=raw, headers={"Content-Type": "application/json"}).status == 413
    chunk = (
        b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (raw[:40_000], raw[40_000:])) + b"0\r\n\r\n"
    )
    head = f"PUT /split HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {WRITE}\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", api.port), PATIENCE) as link:
        link.sendall(head.encode() + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + chunk)
        assert b" 413 " in link.makefile("rb").readline()
    assert stand.registry.snapshot().split.share == 30


def test_a_body_in_chunks_is_read(stand: Stand, api: AdminStand) -> None:
    head = f"PUT /split HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {WRITE}\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", api.port), PATIENCE) as link:
        link.sendall(head.encode() + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
        link.sendall(b'5\r\n{"sha\r\n8\r\nre": 35}\r\n0\r\n\r\n')
        assert b" 200 " in link.makefile("rb").readline()
    stand.await_share(35)


@pytest.mark.parametrize(
    ("sent", "status", "text"),
    [
        (b"nonsense\r\n\r\n", 400, "request: "),
        (b"GET / HTTP/9.9\r\n\r\n", 400, "request: "),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n", 414, "request: "),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 9000 + b"\r\n\r\n", 431, "request: "),
        (b"GET / HTTP/1.1\r\n" + b"X: x\r\n" * 60 + b"\r\n", 431, "request: "),
        (b"GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "request: "),
        (
            b"POST /canary/on HTTP/1.1\r\n%sTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            400,
            "body: it cannot be read to its end",
        ),
        (
            b"POST /canary/on HTTP/1.1\r\n%sTransfer-Encoding: chunked\r\n\r\n9\r\n{",
            400,
            "body: it cannot be read to its end",
        ),
        (
            b"POST /canary/on HTTP/1.1\r\n%sContent-Length: 9\r\n\r\n{}",
            400,
            "body: it ends after 2 of 9 bytes",
        ),
        (
            b"POST /canary/off HTTP/1.1\r\n%sContent-Length: 9\r\n\r\n",
            400,
            "body: it ends after 0 of 9 bytes",
        ),
    ],
)
def test_what_is_no_whole_request_is_refused_in_json_too_and_changes_nothing(
    stand: Stand, api: AdminStand, sent: bytes, status: int, text: str
) -> None:
    before = stand.registry.snapshot()
    may = f"Authorization: Bearer {WRITE}\r\nContent-Type: application/json\r\n".encode()
    with socket.create_connection(("127.0.0.1", api.port), PATIENCE) as link:
        link.sendall(sent.replace(b"%s", may))
        link.shutdown(socket.SHUT_WR)
        head, _, body = link.makefile("rb").read().partition(b"\r\n\r\n")
    assert int(head.split(b" ")[1]) == status
    document = json.loads(body)
    assert list(document) == ["error"] and document["error"].startswith(text)
    assert stand.registry.snapshot() == before


def test_metrics_are_what_prometheus_reads(api: AdminStand) -> None:
    api.ask("GET", "/split")
    reply = api.ask("GET", "/metrics", token=READ)
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    names = set()
    for line in reply.text.splitlines():
        if line.startswith("#"):
            assert line.split(" ")[1] in ("HELP", "TYPE")
            continue
        name, value = line.rsplit(" ", 1)
        float(value)
        names.add(name.split("{")[0])
    assert {"saltern_admin_requests_total", "saltern_registry_up", "saltern_effective_share_percent"} <= names


def test_the_document_is_open_to_everybody(api: AdminStand) -> None:
    document = api.ask("GET", "/openapi.json", token="").data
    assert document["openapi"] == "3.1.0"
    assert "/split" in document["paths"]


# --- an API of one's own


@pytest.fixture
def make_api(stand: Stand, tmp_path: Path) -> Iterator[Callable[..., AdminStand]]:
    """Start APIs with a configuration of one's own before the same plane."""
    made: list[AdminStand] = []

    def make(**changes: Any) -> AdminStand:
        api = AdminStand.before(stand, changes)
        api.file = tmp_path / f"admin{len(made)}.json"
        api.process.arguments[-1] = str(api.file)
        made.append(api)
        return api.start()

    yield make
    for api in made:
        api.process.end()


def test_too_many_requests_are_told_when_to_come_back_and_an_alert_still_passes(
    stand: Stand, make_api: Callable[..., AdminStand]
) -> None:
    slow = {"per_minute": 1, "burst": 3}
    api = make_api(rate={"normal": slow, "failed": slow})
    statuses = [api.ask("GET", "/split").status for _ in range(4)]
    assert statuses == [200, 200, 200, 429]
    reply = api.ask("GET", "/split")
    assert 1 <= int(reply.headers["retry-after"]) <= 60
    # Another token has its own allowance, and the safe direction has one that reading does not use up.
    assert api.ask("GET", "/split", token=READ).status == 200
    assert api.ask("POST", "/alert", {"source": "ops1", "reason": "slow"}).status == 200
    stand.await_share(0)
    assert [api.ask("GET", "/split", token="wrong").status for _ in range(4)] == [401, 401, 401, 429]
    # Whoever guesses does not lock out who knows.
    assert api.ask("POST", "/canary/off").status == 200


def test_metrics_are_open_to_allowed_networks_and_to_no_others(make_api: Callable[..., AdminStand]) -> None:
    near = make_api(metrics={"allow": ["127.0.0.0/8"]})
    assert near.ask("GET", "/metrics", token="").status == 200
    assert near.ask("GET", "/split", token="").status == 401
    assert near.ask("GET", "/metrics", token="wrong").status == 401
    assert make_api(metrics={"allow": ["10.0.0.0/8"]}).ask("GET", "/metrics", token="").status == 401


def test_clients_that_never_finish_their_request_do_not_keep_others_waiting(
    make_api: Callable[..., AdminStand],
) -> None:
    api = make_api(server={"threads": 2, "request_s": 1})
    links = [socket.create_connection(("127.0.0.1", api.port), PATIENCE) for _ in range(6)]
    try:
        for link in links:
            link.sendall(b"GET /split HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        # Every thread is busy with one of them; each has its time, and then it is somebody else's turn.
        assert api.ask("GET", "/split").status == 200
        for link in links:
            link.settimeout(PATIENCE)
            assert link.recv(1000) == b""
    finally:
        for link in links:
            link.close()


def test_a_wrong_configuration_is_one_line_and_exit_status_2(tmp_path: Path, stand: Stand) -> None:
    api = AdminStand.before(stand, {"listen": {"port": 99999}})
    api.file = tmp_path / "admin.json"
    api.file.write_text(json.dumps(api.document))
    api.process.arguments[-1] = str(api.file)
    api.process.log = tmp_path / "log"
    api.process.start()
    assert api.process.popen is not None
    assert api.process.popen.wait(PATIENCE) == 2
    assert api.log() == f"saltern.admin: {api.file}: listen.port: 99999 is not a number between 0 and 65535\n"


def test_a_redis_user_that_may_not_write_is_told_so(
    stand: Stand, make_api: Callable[..., AdminStand]
) -> None:
    stand.client.execute_command(
        "ACL", "SETUSER", "looker", "on", ">pw", "~saltern:*", "&*", "+@read", "+@connection", "+eval", "+eval_ro",
        "+evalsha", "+script",
    )  # fmt: skip
    api = make_api(redis={"username": "looker", "password": "pw"})
    assert api.ask("GET", "/split").status == 200
    reply = api.ask("PUT", "/split", {"share": 31})
    assert reply.status == 503 and "redis: refused" in reply.error
    assert Registry(stand.client).snapshot().split.share == 30


RIGHTS = (
    "resetkeys", "resetchannels", "-@all", "+@connection",
    *(f"~saltern:{key}" for key in ("instance:*", "instances", "split", "latch:canary", "forced", "revision",
                                    "journal", "flags", "flags:history", "steps", "steps:windows")),
    "%R~saltern:observed", "&saltern:revision", "&saltern:flags",
    *(f"+{each}" for each in ("get", "mget", "hget", "hgetall", "exists", "smembers", "sismember", "xrevrange", "time",
                              "set", "hset", "hdel", "del", "sadd", "srem", "incr", "xadd", "publish", "eval",
                              "eval_ro", "evalsha", "script|load")),
)  # fmt: skip


def test_the_api_needs_no_more_rights_on_redis_than_these(
    stand: Stand, make_api: Callable[..., AdminStand]
) -> None:
    stand.client.execute_command("ACL", "SETUSER", "api", "on", ">pw", *RIGHTS)
    stand.client.script_flush()
    stand.client.acl_log_reset()
    api = make_api(redis={"username": "api", "password": "pw"})
    for method, path, body in (
        ("GET", "/split", None),
        ("PUT", "/split", {"share": 20}),
        ("POST", "/alert", {"source": "ops1", "reason": "slow"}),
        ("POST", "/canary/off", None),
        ("POST", "/canary/on", None),
        ("POST", "/canary/steps", {"do": "start"}),
        ("POST", "/canary/steps", {"do": "pause", "reason": "lunch"}),
        ("POST", "/canary/steps", {"do": "abort"}),
        ("GET", "/instances", None),
        ("PUT", "/instances/prod1", {"want": "drain", "limit_s": 3, "force": True}),
        ("PUT", "/instances/prod1", {"want": "ready"}),
        ("GET", "/health", None),
        ("GET", "/metrics", None),
    ):
        assert api.ask(method, path, body).status == 200, path
    if "/flags" in api.ask("GET", "/openapi.json").data["paths"]:
        flag = {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "off"}
        for method, path, body in (
            ("PUT", "/flags/disable_set", flag),
            ("GET", "/flags", None),
            ("POST", "/disable/set/1", None),
        ):
            assert api.ask(method, path, body).status == 200, path
    stand.client.delete(STEPS)
    # redis-py introduces itself on every connection, which nobody minds being refused.
    refused = [each for each in stand.client.acl_log() if "client" not in each["object"]]
    assert refused == []
