"""A provider following real servers: events, losses, replicas, rights, the snapshot, TLS and shutdown."""

import json
import shutil
import socket
import ssl
import subprocess
import threading
import time

import pytest
from openfeature import api
from openfeature.exception import ErrorCode, GeneralError
from openfeature.flag_evaluation import Reason
from openfeature.provider import ProviderStatus
from openfeature_redis import RedisProvider, flagset

pytestmark = pytest.mark.functional

KEY = "saltern:flags"
# Exactly what a reader needs, as the README has it.
RIGHTS = [
    "+mget",
    "+info",
    "+subscribe",
    "+client|tracking",
    "%R~saltern:flags",
    "%R~saltern:revision",
    "&saltern:flags",
]


def level():
    return api.get_client().get_integer_value("level", -1)


def status():
    return api.get_client().get_provider_status()


def following_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("openfeature-redis")]


@pytest.fixture
def follow(events, until):
    """Register a provider, by default patient enough for a busy machine."""

    def start(address, **options):
        provider = RedisProvider(address, **{"timeout": 2, **options})
        api.set_provider_and_wait(provider)
        until(lambda: status() is not ProviderStatus.NOT_READY, "initialization")
        return provider

    yield start
    api.shutdown()
    until(lambda: not following_threads(), "the end of every thread")


def test_a_change_is_seen_and_announced_with_its_keys(server, follow, events, flag_set, until):
    client = server.client()
    client.set(KEY, flag_set(1))
    follow(server.address, resync=60)
    assert level() == 1
    client.set(KEY, flag_set(2))
    until(lambda: level() == 2, "the change")
    until(lambda: events.names() == ["READY", "CONFIGURATION_CHANGED"], "the events")
    assert events.last("CONFIGURATION_CHANGED").flags_changed == ["level"]


def test_a_write_by_the_flagset_is_seen(server, follow, flag_set, until):
    client = server.client()
    follow(server.address)
    assert api.get_client().get_integer_details("level", 5).error_code is ErrorCode.FLAG_NOT_FOUND
    flagset.write(client, json.loads(flag_set(3)), who="ana", why="test")
    until(lambda: level() == 3, "the write")


def test_a_published_set_is_used_without_reading_it(server, reader, follow, flag_set, until):
    login = reader(RIGHTS)
    client = server.client()
    flagset.write(client, json.loads(flag_set(1)), who="ana", why="test")
    follow(server.address, resync=60, **login)
    client.execute_command("ACL", "SETUSER", "reader", "-mget")
    flagset.write(client, json.loads(flag_set(2)), who="ana", why="test")
    until(lambda: level() == 2, "the published set")
    until(lambda: status() is ProviderStatus.STALE, "the reading that follows being refused")


def test_what_others_publish_on_the_channel_is_not_taken_for_a_set(server, follow, events, flag_set, until):
    client = server.client()
    client.set(KEY, flag_set(1))
    follow(server.address, resync=60)
    client.publish(KEY, "hello")
    client.set(KEY, flag_set(2))
    until(lambda: level() == 2, "the real change")
    assert "ERROR" not in events.names()


def test_other_keys_under_the_same_prefix_are_no_change(server, follow, events, flag_set, until):
    client = server.client()
    client.set(KEY, flag_set(1))
    follow(server.address)
    client.set(KEY + ":history", "x")
    client.set(KEY + "2", "x")
    client.set(KEY, flag_set(2))
    until(lambda: "CONFIGURATION_CHANGED" in events.names(), "the change")
    assert events.names() == ["READY", "CONFIGURATION_CHANGED"]


def test_stale_at_once_error_after_the_grace_ready_again_and_flags_all_along(
    server, follow, events, flag_set, until
):
    server.client().set(KEY, flag_set(7))
    follow(server.address, grace=0.5)
    lost = time.monotonic()
    server.kill()
    until(lambda: status() is ProviderStatus.STALE, "STALE")
    assert level() == 7
    until(lambda: status() is ProviderStatus.ERROR, "ERROR")
    assert time.monotonic() - lost >= 0.5
    found = api.get_client().get_integer_details("level", -1)
    assert (found.value, found.reason, found.error_code) == (7, Reason.STATIC, None)
    server.start()
    server.client().set(KEY, flag_set(8))
    until(lambda: status() is ProviderStatus.READY and level() == 8, "READY with the new set")
    expected = ["READY", "STALE", "ERROR", "CONFIGURATION_CHANGED", "READY"]
    until(lambda: len(events.names()) >= len(expected), "the events")
    assert sorted(events.names()) == sorted(expected)
    assert events.names().index("STALE") < events.names().index("ERROR")
    assert server.address in events.last("ERROR").message


def test_a_restarted_redis_without_data_does_not_take_the_flags_away(server, follow, flag_set, until):
    server.client().set(KEY, flag_set(7))
    follow(server.address, grace=60)
    server.kill()
    until(lambda: status() is ProviderStatus.STALE, "STALE")
    server.start()
    until(lambda: connected(server), "the provider's return")
    assert level() == 7
    assert status() is ProviderStatus.STALE
    server.client().set(KEY, flag_set(8))
    until(lambda: status() is ProviderStatus.READY and level() == 8, "READY")


def test_a_broken_document_is_an_error_at_once_and_the_last_set_stays(
    server, follow, events, flag_set, until
):
    client = server.client()
    client.set(KEY, flag_set(7))
    follow(server.address)
    client.set(KEY, '{"flags": 7}')
    until(lambda: status() is ProviderStatus.ERROR, "ERROR")
    until(lambda: "ERROR" in events.names(), "the event")
    assert events.last("ERROR").error_code is ErrorCode.PARSE_ERROR
    assert level() == 7
    client.set(KEY, flag_set(8))
    until(lambda: status() is ProviderStatus.READY and level() == 8, "READY")


def test_a_lost_announcement_is_made_up_for(server, follow, flag_set, until, lossy_wire):
    wire = lossy_wire(server.port)
    client = server.client()
    client.set(KEY, flag_set(1))
    follow(wire.address)
    wire.deaf = True
    client.set(KEY, flag_set(2))
    until(lambda: wire.swallowed == 1, "the announcement being lost")
    until(lambda: level() == 2, "the change, two seconds being the promise", deadline=4)


def test_a_server_that_falls_silent_is_left_for_another(start_redis, follow, flag_set, until):
    primary = start_redis()
    replica = start_redis("--replicaof", "127.0.0.1", str(primary.port))
    primary.client().set(KEY, flag_set(1))
    until(lambda: replica.client().get(KEY), "replication")
    follow([primary.address, replica.address], resync=0.2, timeout=0.5)
    assert len(connected(replica)) == 1
    replica.freeze()
    primary.client().set(KEY, flag_set(2))
    until(lambda: level() == 2 and status() is ProviderStatus.READY, "following the primary instead")
    replica.thaw()


def connected(server):
    return [one for one in server.client().client_list() if one["flags"].count("t")]


def test_replicas_are_read_before_the_primary(start_redis, follow, flag_set, until):
    primary = start_redis()
    replica = start_redis("--replicaof", "127.0.0.1", str(primary.port))
    primary.client().set(KEY, flag_set(1))
    until(lambda: replica.client().get(KEY), "replication")
    follow([primary.address, replica.address])
    assert (len(connected(primary)), len(connected(replica))) == (0, 1)
    primary.client().set(KEY, flag_set(2))
    until(lambda: level() == 2, "the change through the replica")


def test_a_replica_cut_off_from_its_primary_is_left(start_redis, follow, events, flag_set, until):
    primary = start_redis()
    replica = start_redis("--replicaof", "127.0.0.1", str(primary.port))
    primary.client().set(KEY, flag_set(1))
    until(lambda: replica.client().get(KEY), "replication")
    follow([primary.address, replica.address], resync=0.1)
    replica.client().execute_command("REPLICAOF", "127.0.0.1", "1")
    until(lambda: len(connected(primary)) == 1, "following the primary instead")
    primary.client().set(KEY, flag_set(2))
    until(lambda: level() == 2, "the change")


def test_a_cut_off_replica_is_better_than_nothing_at_the_start(start_redis, flag_set, events, until):
    primary = start_redis()
    replica = start_redis("--replicaof", "127.0.0.1", str(primary.port))
    primary.client().set(KEY, flag_set(1))
    until(lambda: replica.client().get(KEY), "replication")
    primary.kill()
    until(lambda: replica.client().info("replication")["master_link_status"] == "down", "the cut")
    api.set_provider_and_wait(RedisProvider([primary.address, replica.address]))
    assert level() == 1
    until(lambda: status() is ProviderStatus.STALE, "STALE")


def test_a_lagging_replica_does_not_turn_a_flag_back(start_redis, follow, flag_set, until):
    """Two servers that know nothing of each other stand for a replica that is behind."""
    ahead, behind = start_redis(), start_redis()
    flagset.write(behind.client(), json.loads(flag_set(1)), who="ana", why="old")
    flagset.write(ahead.client(), json.loads(flag_set(1)), who="ana", why="old")
    flagset.write(ahead.client(), json.loads(flag_set(2)), who="ana", why="new")
    provider = follow([behind.address, ahead.address])
    assert level() == 2
    seen = set()
    ahead.kill()
    until(lambda: "behind 2" in str(provider._follower.last_fault), "the one behind being read")
    assert level() == 2
    flagset.write(behind.client(), json.loads(flag_set(2)), who="ana", why="catching up")
    until(lambda: seen.add(level()) or status() is ProviderStatus.READY, "READY")
    assert seen == {2}


@pytest.fixture
def reader(server):
    """The server with an ACL user that has the given rights and nothing else."""

    def make(rights):
        server.client().execute_command("ACL", "SETUSER", "reader", "reset", "on", ">secret", *rights)
        return {"username": "reader", "password": "secret"}

    return make


def test_the_documented_rights_suffice_and_do_not_allow_writing(server, reader, follow, flag_set, until):
    login = reader(RIGHTS)
    server.client().set(KEY, flag_set(1))
    follow(server.address, **login)
    server.client().set(KEY, flag_set(2))
    until(lambda: level() == 2, "the change")
    own = server.client(**login)
    for forbidden in (
        ["SET", KEY, "x"],
        ["EVAL", "return 1", "0"],
        ["GET", "saltern:other"],
        ["CONFIG", "GET", "*"],
    ):
        with pytest.raises(Exception, match=r"(?i)no permission"):
            own.execute_command(*forbidden)


@pytest.mark.parametrize("missing", RIGHTS)
def test_each_of_the_rights_is_needed_and_its_lack_is_said(server, reader, events, flag_set, missing):
    server.client().set(KEY, flag_set(1))
    login = reader([right for right in RIGHTS if right != missing])
    with pytest.raises(GeneralError, match="NOPERM"):
        api.set_provider_and_wait(RedisProvider(server.address, **login))


def test_a_wrong_password_is_said(server, reader, events):
    reader(RIGHTS)
    with pytest.raises(GeneralError, match="WRONGPASS"):
        api.set_provider_and_wait(RedisProvider(server.address, username="reader", password="wrong"))


def test_without_redis_and_snapshot_it_is_an_error_until_redis_comes(server, events, flag_set, until):
    server.kill()
    with pytest.raises(GeneralError, match="Connection refused"):
        api.set_provider_and_wait(RedisProvider(server.address))
    found = api.get_client().get_integer_details("level", 5)
    assert (found.value, found.reason, found.error_code) == (5, Reason.ERROR, ErrorCode.PROVIDER_NOT_READY)
    assert status() is ProviderStatus.ERROR
    server.start()
    server.client().set(KEY, flag_set(7))
    until(lambda: status() is ProviderStatus.READY and level() == 7, "READY")


def test_without_redis_the_snapshot_answers_and_the_provider_is_stale(
    server, follow, events, flag_set, until, tmp_path
):
    snapshot = tmp_path / "deep" / "flags.json"
    server.client().set(KEY, flag_set(7))
    follow(server.address, snapshot=snapshot)
    until(snapshot.exists, "the snapshot")
    assert snapshot.read_text() == flag_set(7)
    api.shutdown()
    server.kill()
    follow(server.address, snapshot=snapshot)
    assert level() == 7
    until(lambda: status() is ProviderStatus.STALE, "STALE")
    server.start()
    server.client().set(KEY, flag_set(8))
    until(lambda: status() is ProviderStatus.READY and level() == 8, "READY")
    until(lambda: snapshot.read_text() == flag_set(8), "the new snapshot")
    assert [path.name for path in snapshot.parent.iterdir()] == ["flags.json"]


@pytest.mark.parametrize("end", ["redis is killed", "the process shuts down"])
def test_a_flip_is_in_the_snapshot_whatever_ends_right_after_it(
    server, follow, events, flag_set, until, tmp_path, end
):
    snapshot = tmp_path / "flags.json"
    server.client().set(KEY, flag_set(7))
    follow(server.address, snapshot=snapshot)
    until(snapshot.exists, "the snapshot")
    server.client().set(KEY, flag_set(8))
    until(lambda: level() == 8, "the flip")
    if end == "redis is killed":
        server.kill()
    else:
        api.shutdown()
        assert snapshot.read_text() == flag_set(8), "before shutdown returns"
    until(lambda: snapshot.read_text() == flag_set(8), "the flip in the snapshot")


def test_stale_is_said_after_ready_however_late_the_sdk_says_that(server, events, flag_set, until, tmp_path):
    """The SDK records READY after initialize has returned; a STALE before that would be overwritten."""

    class Late(RedisProvider):
        reports = 0

        def initialize(self, evaluation_context):
            super().initialize(evaluation_context)
            looked = self.reports
            until(lambda: self.reports > looked + 3, "the thread having had every chance to be too early")

        def report(self, fault):
            self.reports += 1
            return super().report(fault)

    server.kill()
    (tmp_path / "flags.json").write_text(flag_set(7))
    api.set_provider_and_wait(Late(server.address, snapshot=tmp_path / "flags.json", grace=60))
    until(lambda: status() is ProviderStatus.STALE, "STALE")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"flags": 1}'])
def test_a_torn_snapshot_is_not_used(server, events, tmp_path, content, caplog):
    server.kill()
    snapshot = tmp_path / "flags.json"
    snapshot.write_bytes(content)
    with pytest.raises(GeneralError):
        api.set_provider_and_wait(RedisProvider(server.address, snapshot=snapshot))
    assert "is of no use" in caplog.text


def test_a_snapshot_that_cannot_be_written_is_said_and_nothing_else_suffers(
    server, follow, flag_set, tmp_path, until, caplog
):
    (tmp_path / "file").write_text("")
    server.client().set(KEY, flag_set(7))
    follow(server.address, snapshot=tmp_path / "file" / "flags.json")
    until(lambda: "could not be written" in caplog.text, "the warning")
    assert level() == 7


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_of_a_bug_says_so(server, follow, events, flag_set, until, monkeypatch):
    server.client().set(KEY, flag_set(7))
    provider = follow(server.address)

    def bug(*_):
        raise RuntimeError("oops")

    monkeypatch.setattr(provider._held, "offer", bug)
    server.client().set(KEY, flag_set(8))
    until(lambda: status() is ProviderStatus.ERROR, "ERROR")
    until(lambda: "ERROR" in events.names(), "the event")
    assert "oops" in events.last("ERROR").message
    assert level() == 7


def test_shutdown_ends_the_thread_and_the_connection_and_can_be_repeated(server, follow, flag_set, until):
    server.client().set(KEY, flag_set(7))
    provider = follow(server.address)
    assert len(connected(server)) == 1
    provider.shutdown()
    provider.shutdown()
    assert following_threads() == []
    until(lambda: connected(server) == [], "the connection's end")


def test_a_provider_can_start_again_after_shutdown(server, follow, flag_set, until):
    server.client().set(KEY, flag_set(7))
    provider = follow(server.address)
    api.shutdown()
    api.set_provider_and_wait(provider)
    server.client().set(KEY, flag_set(8))
    until(lambda: level() == 8, "the change")


def test_an_evaluation_asks_redis_nothing(server, follow, flag_set):
    server.client().set(KEY, flag_set(7))
    follow(server.address, resync=30)
    client = server.client()
    before = client.info("stats")["total_commands_processed"]
    for _ in range(500):
        assert level() == 7
    assert client.info("stats")["total_commands_processed"] - before == 1  # the first INFO itself


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, '"redis" has no "addresses"'),
        ({"redis": {"addresses": []}}, '"redis" has no "addresses"'),
        ({"redis": {"addresses": ["a:1"]}, "sentinel": {"service": "s"}}, '"sentinel" has no "addresses"'),
        (
            {"redis": {"addresses": ["a:1"]}, "sentinel": {"addresses": ["a:2"]}},
            '"sentinel" has no "service"',
        ),
        ({"redis": {"addresses": ["nonsense"]}}, "is not host:port"),
        ({"redis": {"addresses": ["a:1"], "tls": {}}}, '"redis.tls" has no "ca"'),
    ],
)
def test_a_wrong_configuration_is_named(config, message):
    with pytest.raises(ValueError, match=message):
        RedisProvider.from_config(config)


@pytest.mark.parametrize("option", ["resync", "grace", "timeout"])
def test_a_duration_that_is_none_is_named(option):
    with pytest.raises(ValueError, match=f"{option} 0"):
        RedisProvider("a:1", **{option: 0})


def test_a_configuration_makes_a_provider(server, reader, events, flag_set):
    login = reader(RIGHTS)
    server.client().set(KEY, flag_set(7))
    provider = RedisProvider.from_config({"redis": {"addresses": [server.address], **login}}, resync=0.5)
    api.set_provider_and_wait(provider)
    assert level() == 7


def test_over_a_unix_socket(start_redis, follow, flag_set, until, tmp_path):
    server = start_redis("--unixsocket", str(tmp_path / "s"))
    server.client().set(KEY, flag_set(1))
    follow(str(tmp_path / "s"))
    server.client().set(KEY, flag_set(2))
    until(lambda: level() == 2, "the change")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the test's certificate")
def test_over_tls(start_redis, follow, flag_set, until, tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = start_redis(
        "--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key),
        "--tls-ca-cert-file", str(certificate), "--tls-auth-clients", "no",
    )  # fmt: skip
    server.client().set(KEY, flag_set(1))
    follow(f"127.0.0.1:{port}", tls=ssl.create_default_context(cafile=str(certificate)))
    server.client().set(KEY, flag_set(2))
    until(lambda: level() == 2, "the change")
