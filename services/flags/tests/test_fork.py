"""A provider made before a fork: gunicorn --preload and plain os.fork."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import openfeature_redis
import pytest
from openfeature import api
from openfeature.event import ProviderEvent
from openfeature.provider import ProviderStatus
from openfeature_redis import RedisProvider
from openfeature_redis import provider as provider_module

pytestmark = pytest.mark.functional

KEY = "saltern:flags"
APPLICATION = """
    import json, os, threading
    from openfeature import api
    from openfeature.event import ProviderEvent
    from openfeature_redis import RedisProvider

    changes = []
    changed = ProviderEvent.PROVIDER_CONFIGURATION_CHANGED
    api.add_handler(changed, lambda details: changes.append(details.flags_changed))
    told = threading.Event()
    ready = ProviderEvent.PROVIDER_READY
    api.add_handler(ready, lambda details: details.provider_name == "redis" and told.set())
    api.{register}(RedisProvider("{address}"))
    told.wait({wait})  # from here on the SDK has a thread for events, which the workers will not have
    client = api.get_client()
    made_in = os.getpid()

    def application(environ, start_response):
        found = client.get_integer_details("level", -1)
        start_response("200 OK", [("Content-Type", "application/json")])
        body = dict(pid=os.getpid(), forked=os.getpid() != made_in, level=found.value, changes=changes,
                    status=client.get_provider_status().name)
        return [json.dumps(body).encode()]
"""


@pytest.fixture
def gunicorn(tmp_path):
    pytest.importorskip("gunicorn")
    running = []

    def start(server, register):
        wait = 20 if register.endswith("wait") else 0
        text = textwrap.dedent(APPLICATION).format(address=server.address, register=register, wait=wait)
        (tmp_path / "shop.py").write_text(text)
        socket_path = tmp_path / "http"
        source = str(Path(openfeature_redis.__file__).parents[1])
        command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", "2", "--no-control-socket",
                   "--bind", f"unix:{socket_path}", "shop:application"]  # fmt: skip
        with (tmp_path / "gunicorn.log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": source}, stdout=log, stderr=log
            )
        running.append(process)
        return socket_path

    yield start
    for process in running:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def get(path):
    """One request over the Unix socket, each on a connection of its own so that both workers get some."""
    connection = http.client.HTTPConnection("localhost", timeout=5)
    connection.sock = socket.socket(socket.AF_UNIX)
    try:
        connection.sock.connect(str(path))
        connection.request("GET", "/")
        return json.loads(connection.getresponse().read())
    except OSError:
        return None
    finally:
        connection.close()


def workers(path):
    """The latest answer of each worker, from a handful of requests."""
    answers = [get(path) for _ in range(20)]
    return {answer["pid"]: answer for answer in answers if answer}


@pytest.mark.parametrize("register", ["set_provider_and_wait", "set_provider"])
def test_every_worker_of_a_preloaded_gunicorn_follows_its_flags(server, gunicorn, flag_set, until, register):
    client = server.client()
    client.set(KEY, flag_set(1))
    path = gunicorn(server, register)
    until(lambda: len(workers(path)) == 2, "both workers answering")
    until(lambda: {one["level"] for one in workers(path).values()} == {1}, "the flags in both workers")
    for flip in (1, 2, 3):
        client.set(KEY, flag_set(1 + flip))
        # handlers registered before the fork run in the children, for every change
        until(
            lambda flip=flip: all_saw(workers(path), 1 + flip, flip), f"flip {flip} and its event everywhere"
        )
    assert all(one["forked"] and one["status"] == "READY" for one in workers(path).values())


def all_saw(found, value, changes):
    seen = [(one["level"], one["changes"]) for one in found.values()]
    return seen == [(value, [["level"]] * changes)] * 2


def in_child(work):
    """Run work() in a forked child and return what it returned, by way of JSON."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        text = answer.read()
    os.waitpid(pid, 0)
    return json.loads(text)


def level():
    return api.get_client().get_integer_value("level", -1)


def test_a_child_follows_on_its_own_connection_and_the_parents_stays(server, events, flag_set, until):
    client = server.client()
    client.set(KEY, flag_set(1))
    api.set_provider_and_wait(RedisProvider(server.address))
    (parents,) = [one["id"] for one in client.client_list() if one["flags"].count("t")]

    def work():
        mine = server.client()
        first = level()
        mine.set(KEY, flag_set(2))
        until(lambda: level() == 2, "the change in the child")
        return [first, len([one for one in mine.client_list() if one["flags"].count("t")])]

    assert in_child(work) == [1, 2]
    until(lambda: level() == 2, "the change in the parent")
    client.set(KEY, flag_set(3))
    until(lambda: level() == 3, "a later change in the parent")
    assert parents in [one["id"] for one in client.client_list()]


def test_a_child_of_a_parent_that_was_still_starting_becomes_ready(start_redis, events, flag_set, until):
    server = start_redis()
    server.client().set(KEY, flag_set(1))
    server.freeze()
    provider = RedisProvider(server.address, timeout=20)
    api.set_provider(provider)
    until(
        lambda: provider._follower and provider._follower._connection, "the parent being in the middle of it"
    )
    assert api.get_client().get_provider_status() is ProviderStatus.NOT_READY

    def work():
        server.thaw()
        until(lambda: api.get_client().get_provider_status() is ProviderStatus.READY, "READY in the child")
        return level()

    assert in_child(work) == 1


def test_a_child_of_a_parent_that_has_shut_down_starts_nothing(server, events, flag_set):
    server.client().set(KEY, flag_set(1))
    api.set_provider_and_wait(RedisProvider(server.address))
    api.shutdown()
    names = in_child(lambda: [thread.name for thread in threading.enumerate()])
    assert not [name for name in names if name.startswith("openfeature-redis")]


def test_the_first_handler_in_a_child_runs_although_the_parents_event_threads_were_idle(
    server, events, flag_set, until
):
    """Fails when the SDK renames what sdk.mend_after_fork mends."""
    server.client().set(KEY, flag_set(1))
    api.set_provider_and_wait(RedisProvider(server.address))
    until(
        lambda: events.names() == ["READY"],
        "the parent's handlers having run, so that their threads are idle",
    )
    api.clear_providers()  # and with it the handlers: the child's must be the first to be run there
    api.set_provider_and_wait(RedisProvider(server.address))

    def work():
        seen = []
        changed = ProviderEvent.PROVIDER_CONFIGURATION_CHANGED
        api.add_handler(changed, lambda details: seen.append(details.flags_changed))
        server.client().set(KEY, flag_set(2))
        until(lambda: seen, "the handler in the child")
        return seen

    assert in_child(work) == [["level"]]


def test_nothing_is_left_to_be_imported_when_a_name_is_resolved():
    """A fork in the middle of an import leaves the child with half a module."""
    script = """if True:
        import socket, sys, openfeature_redis
        before = set(sys.modules)
        socket.getaddrinfo("127.0.0.1", 1)
        print(sorted(set(sys.modules) - before))
    """
    source = str(Path(openfeature_redis.__file__).parents[1])
    run = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == "[]"


def test_a_fork_waits_until_no_event_is_being_told(server, events, flag_set):
    """A child would inherit the locks that the telling thread holds."""
    server.client().set(KEY, flag_set(1))
    api.set_provider_and_wait(RedisProvider(server.address))
    forked = threading.Event()
    forker = threading.Thread(target=lambda: (in_child(lambda: True), forked.set()))
    with provider_module._quiet:
        forker.start()
        assert not forked.wait(0.3)
    assert forked.wait(20)
    forker.join()


def test_forking_while_flags_change_all_the_time_never_hangs(server, events, flag_set, until):
    client = server.client()
    client.set(KEY, flag_set(0))
    api.set_provider_and_wait(RedisProvider(server.address))
    done = threading.Event()

    def flip():
        own, value = server.client(), 0
        while not done.is_set():
            value += 1
            own.set(KEY, flag_set(value))

    flipper = threading.Thread(target=flip)
    flipper.start()
    try:
        for _ in range(20):
            assert in_child(lambda: level() >= 0)
    finally:
        done.set()
        flipper.join()
