"""The product as it runs on a machine: gunicorn over a real socket, stopped, killed and started again."""

import http.client
import json
import signal
import socket
import subprocess
from pathlib import Path

import psutil
import pytest
from product.config import THREADS

pytestmark = pytest.mark.functional


def raw(product) -> socket.socket:
    return socket.create_connection(("127.0.0.1", product.port), timeout=20)


def read_all(connection: socket.socket) -> bytes:
    received = b""
    while part := connection.recv(65536):
        received += part
    return received


def unread(product, connection: socket.socket) -> int | None:
    """Bytes of a connection that the worker has not read yet; None before it has taken the connection."""
    ends = (f"0100007F:{product.port:04X}", f"0100007F:{connection.getsockname()[1]:04X}")
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if tuple(fields[1:3]) == ends and fields[9] != "0":
            return int(fields[4].partition(":")[2], 16)
    return None


def refused(product) -> bool:
    try:
        raw(product).close()
    except ConnectionRefusedError:
        return True
    return False


def test_two_instances_of_different_pools_show_one_list(make_product):
    production, canary = make_product("prod1", "prod"), make_product("staging1", "canary")
    assert production.add("See the sea").status == 201
    assert canary.titles() == ["See the sea"]
    assert canary("GET", "/version").json["pool"] == "canary"
    text = " ".join(canary("GET", "/").body.decode().split())
    assert 'Served by <b>staging1</b> <span class="pool canary">canary</span> release <b>r1</b>' in text


def test_a_request_under_way_is_finished_after_the_signal_to_stop(make_product, poll):
    product = make_product()
    body = b'{"title": "In flight"}'
    connection = raw(product)
    connection.sendall(
        b"POST /api/items HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body) + body[:5]
    )

    # It is being read: one that is only accepted may still be closed.
    poll(lambda: unread(product, connection) == 0)
    product.terminate()
    poll(lambda: refused(product))
    connection.sendall(body[5:])
    answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 201 ")
    assert product.process.wait(20) == 0
    product.start()
    assert product.titles() == ["In flight"]


def test_connections_the_kernel_took_before_the_signal_are_served_after_it(make_product):
    product = make_product()
    worker = product.worker()
    worker.suspend()
    waiting = [raw(product) for _ in range(20)]
    for number, connection in enumerate(waiting):
        body = json.dumps({"title": f"Queued {number}"}).encode()
        connection.sendall(
            b"POST /api/items HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body) + body
        )
    worker.send_signal(signal.SIGTERM)
    product.terminate()
    worker.resume()
    assert [read_all(connection)[:12] for connection in waiting] == [b"HTTP/1.1 201"] * 20
    assert product.process.wait(20) == 0
    product.start()
    assert sorted(product.titles()) == sorted(f"Queued {number}" for number in range(20))


def test_a_kept_connection_gets_its_next_request_answered_while_stopping(make_product, poll):
    product = make_product()
    connection = product.connect()
    connection.request("GET", "/version")
    connection.getresponse().read()
    product.terminate()
    poll(lambda: refused(product))
    connection.request("GET", "/version")
    response = connection.getresponse()
    assert (response.status, response.getheader("Connection")) == (200, "close")
    assert product.process.wait(20) == 0


def test_an_idle_process_ends_by_itself_and_leaves_no_child(make_product):
    product = make_product()
    worker = product.worker()
    product.terminate()
    assert product.process.wait(20) == 0
    assert not worker.is_running()


def test_clients_that_do_not_hang_up_hold_nobody_else_up(make_product):
    product = make_product()
    lingering = [raw(product) for _ in range(50)]
    for connection in lingering:
        connection.sendall(b"GET /version HTTP/1.0\r\n\r\n")
    # To wait for each of them in turn, two seconds at most, would take longer than any request here may.
    for _ in range(5):
        assert product("GET", "/version").status == 200
    for connection in lingering:
        assert read_all(connection)[9:12] == b"200"
        connection.close()


def opened(product) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    connection = product.connect()
    connection.request("GET", "/api/changes")
    return connection, connection.getresponse()


def told(stream: http.client.HTTPResponse) -> bytes:
    """The next thing a stream says: an entity tag; nothing when it has ended as it should."""
    while line := stream.readline():
        if line.startswith(b"data: "):
            return line[6:].strip()
    return b""


def test_a_stream_tells_of_every_change_until_the_proxy_sends_nobody_new(make_product):
    product = make_product()
    connection, stream = opened(product)
    assert (stream.status, stream.getheader("Content-Type")) == (200, "text/event-stream")
    assert told(stream).decode() == product("GET", "/api/items").headers["Etag"]
    product.add("See the sea")
    assert told(stream).decode() == product("GET", "/api/items").headers["Etag"]
    ready, leaves = ({"X-Haproxy-Server-State": f"UP; name=prod/p1; node=x; weight={n}/3"} for n in (1, 0))
    assert product("GET", "/health", **leaves).status == 200
    assert told(stream) == b""
    assert product("GET", "/api/changes").status == 204
    assert product("GET", "/health", **ready).status == 200
    again, stream = opened(product)
    assert told(stream)
    connection.close()
    again.close()


def test_streams_leave_half_of_the_threads_to_others(make_product):
    product = make_product()
    streams = [opened(product) for _ in range(THREADS // 2)]
    assert product("GET", "/api/changes").status == 204
    assert product.titles() == []
    for connection, stream in streams:
        assert told(stream)
        connection.close()


def test_a_process_that_ends_ends_its_streams_as_it_should(make_product):
    product = make_product()
    connection, stream = opened(product)
    assert told(stream)
    product.terminate()
    assert told(stream) == b""
    assert product.process.wait(20) == 0
    connection.close()


def test_a_chunked_body_is_read_once_and_right(make_product):
    product = make_product()
    parts = (part for part in (b'{"title": ', b'"In parts"}'))
    answer = product("POST", "/api/items", parts, **{"Content-Type": "application/json"})
    assert (answer.status, answer.json["title"]) == (201, "In parts")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_huge_body_is_refused_and_the_product_goes_on(make_product, chunked):
    product = make_product()
    body = b"x" * 300_000
    answer = product(
        "POST", "/api/items", iter([body]) if chunked else body, **{"Content-Type": "application/json"}
    )
    assert answer.status == 413
    assert product("GET", "/").status == 200


def test_a_killed_worker_is_replaced_and_the_list_is_still_there(make_product, poll):
    product = make_product()
    product.add("See the sea")
    worker = product.worker()
    worker.kill()
    poll(lambda: psutil.Process(product.process.pid).children() and not worker.is_running())
    poll(product.serves)
    assert product.titles() == ["See the sea"]


def test_health_answers_while_redis_is_down_and_while_it_hangs(make_product, redis_server, poll):
    product = make_product()
    assert product("GET", "/health").json["status"] == "ok"
    redis_server.pause()
    hanging = product("GET", "/health")
    assert (hanging.status, hanging.json["redis"]) == (200, "down")
    assert product("GET", "/").status == 200
    redis_server.resume()
    poll(lambda: product("GET", "/health").json["status"] == "ok")
    redis_server.kill()
    down = product("GET", "/health")
    assert (down.status, down.json["status"], down.json["redis"]) == (200, "degraded", "down")


def test_a_process_started_while_redis_is_away_shows_the_last_known_list_and_recovers(
    make_product, redis_server, poll
):
    product = make_product()
    product.add("See the sea")
    assert product.titles() == ["See the sea"]
    product.terminate()
    product.process.wait(20)
    redis_server.kill()
    product.start()
    assert product.titles() == ["See the sea"]
    assert b"out of reach" in product("GET", "/").body
    redis_server.start()
    poll(lambda: product.add("Walk on").status == 201)
    assert product.titles() == ["Walk on", "See the sea"]


@pytest.mark.parametrize("threads", ["0", "many", "100", ""])
def test_a_wrong_number_of_threads_ends_the_start_with_one_line(make_product, threads):
    product = make_product()
    ended = subprocess.run(
        product.process.args,
        env={**product.environment(), "PRODUCT_THREADS": threads},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    assert ended.stderr == f"product: PRODUCT_THREADS: {threads!r} is not a number from 1 to 99\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "config.json: No such file or directory; PRODUCT_CONFIG must name a readable JSON"),
        ("{", "config.json: not JSON"),
        ("{}", "config.json: redis: missing"),
    ],
)
def test_a_configuration_that_cannot_be_used_ends_the_start_with_one_line(
    make_product, tmp_path, content, said
):
    product = make_product()
    product.end()
    config = product.folder / "config.json"
    config.unlink()
    if content is not None:
        config.write_text(content)
    ended = subprocess.run(
        product.process.args,
        env=product.environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode != 0
    assert ended.stdout == ""
    assert ended.stderr.startswith("product: ")
    assert said in ended.stderr
    assert ended.stderr.count("\n") == 1
