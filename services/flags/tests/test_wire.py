"""RESP3 as a real Redis speaks it."""

import threading

import pytest
from openfeature_redis.wire import Address, Connection, Login, Lost, Refused, encode

SAMPLES = [
    ("string", b"Hello World"),
    ("integer", 12345),
    ("double", 3.141),
    ("null", None),
    ("array", [0, 1, 2]),
    ("set", [0, 1, 2]),
    ("map", {0: False, 1: True, 2: False}),
    ("bignum", 1234567999999999999999999999999999999),
    ("true", True),
    ("false", False),
    ("verbatim", b"This is a verbatim\nstring"),
]


@pytest.mark.unit
def test_a_command_is_an_array_of_bulk_strings():
    assert (
        encode(["SET", "ü", 5, b"\x00"]) == b"*4\r\n$3\r\nSET\r\n$2\r\n\xc3\xbc\r\n$1\r\n5\r\n$1\r\n\x00\r\n"
    )


@pytest.fixture
def connection(shared_server):
    connection = Connection(Address.parse(shared_server.address), None, timeout=5)
    connection.enter(Login())
    yield connection
    connection.close()


@pytest.mark.functional
@pytest.mark.parametrize(("kind", "value"), SAMPLES)
def test_every_kind_of_value_is_read(connection, kind, value):
    assert connection.call(["DEBUG", "PROTOCOL", kind]) == [value]


@pytest.mark.functional
def test_remarks_about_a_value_are_passed_over(connection):
    (value,) = connection.call(["DEBUG", "PROTOCOL", "attrib"])
    assert value == b"Some real reply following the attribute"


@pytest.mark.functional
def test_a_pushed_message_is_kept_apart_from_answers(connection):
    connection.call(["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "a"])
    assert connection.call(["SET", "a", "1"], ["SET", "b", "1"], ["GET", "a"])[2] == b"1"
    assert connection.pushes(5) == [[b"invalidate", [b"a"]]]
    assert connection.pushes(0.01) == []


@pytest.mark.functional
def test_values_larger_than_a_packet_are_read_whole(connection):
    blob = bytes(range(256)) * 8192
    assert connection.call(["SET", "blob", blob], ["GET", "blob"])[1] == blob


@pytest.mark.functional
def test_an_error_is_raised_after_all_answers_were_read(connection):
    with pytest.raises(Refused, match="unknown command"):
        connection.call(["NOSUCH"], ["PING"])
    assert connection.call(["ECHO", "still in step"]) == [b"still in step"]


@pytest.mark.functional
def test_a_server_that_does_not_answer_in_time_is_lost(server):
    connection = Connection(Address.parse(server.address), None, timeout=0.2)
    server.freeze()
    with pytest.raises(Lost, match="did not answer within"):
        connection.call(["PING"])
    server.thaw()
    connection.close()


@pytest.mark.functional
def test_a_server_that_dies_is_lost(server):
    connection = Connection(Address.parse(server.address), None, timeout=5)
    server.kill()
    with pytest.raises(OSError):
        connection.call(["PING"])
    connection.close()


@pytest.mark.functional
def test_another_thread_can_end_the_waiting(connection):
    found = []

    def wait():
        try:
            connection.pushes(60)
        except Lost as lost:
            found.append(lost)

    thread = threading.Thread(target=wait)
    thread.start()
    connection.interrupt()
    thread.join(10)
    assert len(found) == 1


@pytest.mark.functional
def test_a_wrong_password_is_refused(start_redis):
    server = start_redis("--requirepass", "right")
    connection = Connection(Address.parse(server.address), None, timeout=5)
    with pytest.raises(Refused, match="WRONGPASS"):
        connection.enter(Login(password="wrong"))
    connection.enter(Login(password="right"))
    assert connection.call(["ECHO", "in"]) == [b"in"]
    connection.close()
