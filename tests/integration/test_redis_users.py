"""The rights of Redis' users, on a real redis-server with the fleet's own list of users."""

from __future__ import annotations

from dataclasses import replace

import pytest
import redis
from host import PATIENCE, until
from openfeature_redis import flagset
from product import store as product_store
from product.config import Config, RedisSettings
from product.flags import Flags
from product.store import Store
from redis.backoff import NoBackoff
from redis.retry import Retry

SPLIT, FLAGS, LIST = "saltern:split", "saltern:flags", "product:items"


@pytest.fixture
def full(registry_empty):
    """A Redis with something under every name."""
    registry_empty.hset(SPLIT, "share", "30")
    registry_empty.set(FLAGS, "{}")
    registry_empty.set("saltern:revision", "7")
    registry_empty.hset("saltern:instance:prod1", "pool", "prod")
    registry_empty.hset(LIST, "1", "milk")
    registry_empty.set("other", "1")
    return registry_empty


WRITES = {
    "split": ("HSET", SPLIT, "share", "100"),
    "flags": ("SET", FLAGS, "hostile"),
    "revision": ("INCR", "saltern:revision"),
    "instance": ("DEL", "saltern:instance:prod1"),
    "journal": ("XADD", "saltern:journal", "*", "kind", "x"),
    "list": ("HSET", LIST, "1", "bread"),
    "other": ("SET", "other", "2"),
    "script on the split": ("EVAL", "return redis.call('HSET', KEYS[1], 'share', '100')", "1", SPLIT),
    "script on the list": ("EVAL", "return redis.call('HDEL', KEYS[1], '1')", "1", LIST),
    "publish a revision": ("PUBLISH", "saltern:revision", "8"),
    "rename": ("RENAME", FLAGS, "product:stolen"),
    "copy": ("COPY", SPLIT, "product:stolen"),
}
READS = {
    "split": ("HGETALL", SPLIT),
    "flags": ("GET", FLAGS),
    "revision": ("GET", "saltern:revision"),
    "flags together": ("MGET", FLAGS),
    "revision together": ("MGET", "saltern:revision"),
    "list": ("HGETALL", LIST),
    "other": ("GET", "other"),
}
DANGERS = [
    ("FLUSHALL",), ("FLUSHDB",), ("CONFIG", "GET", "*"), ("CONFIG", "SET", "maxmemory", "1"), ("ACL", "LIST"),
    ("ACL", "SETUSER", "product", "+@all"), ("ACL", "GETUSER", "admin"), ("DEBUG", "SLEEP", "0"), ("SHUTDOWN",),
    ("SAVE",), ("BGREWRITEAOF",), ("REPLICAOF", "10.0.0.66", "6379"), ("KEYS", "*"), ("MONITOR",),
    ("CLIENT", "KILL", "TYPE", "normal"), ("CLIENT", "LIST"), ("SWAPDB", "0", "1"), ("MODULE", "LIST"),
    ("SCRIPT", "FLUSH"), ("FUNCTION", "FLUSH"),
    ("MIGRATE", "10.0.0.66", "6379", "x", "0", "1"), ("RESTORE", "x", "0", "y"),
]  # fmt: skip
MAY_WRITE = {
    "controller": {
        "split",
        "flags",
        "revision",
        "instance",
        "journal",
        "script on the split",
        "publish a revision",
    },
    "product": {"list", "script on the list"},
    "flags-reader": set(),
    "observer": set(),
    "replica": set(),
    "sentinel": set(),
}
MAY_READ = {
    "controller": {"split", "flags", "revision", "flags together", "revision together"},
    "product": {"list"},
    "flags-reader": {"flags together", "revision together"},
    "observer": {"split", "flags", "revision", "flags together", "revision together"},
    "replica": set(),
    "sentinel": set(),
}


def refused(client: redis.Redis, command: tuple[str, ...]) -> bool:
    """Whether Redis refuses a command for want of rights; any other answer counts as allowed."""
    try:
        client.execute_command(*command)
    except redis.exceptions.NoPermissionError:
        return True
    except redis.ResponseError as error:
        # Inside a script, or from a channel, the refusal comes as another kind of error.
        return any(words in str(error) for words in ("ACL failure", "NOPERM", "DEBUG command not allowed"))
    return False


@pytest.mark.parametrize("user", MAY_WRITE)
@pytest.mark.parametrize("what", WRITES)
def test_a_user_writes_what_is_its_own_and_nothing_else(full, redis_server, user, what):
    assert refused(redis_server.user(user), WRITES[what]) == (what not in MAY_WRITE[user])


@pytest.mark.parametrize("user", MAY_READ)
@pytest.mark.parametrize("what", READS)
def test_a_user_reads_what_it_needs_and_nothing_else(full, redis_server, user, what):
    assert refused(redis_server.user(user), READS[what]) == (what not in MAY_READ[user])


@pytest.mark.parametrize("user", ["controller", "product", "flags-reader", "observer", "replica"])
@pytest.mark.parametrize("command", DANGERS, ids=lambda command: " ".join(command[:2]))
def test_no_user_but_the_masters_touches_the_server_itself(full, redis_server, user, command):
    assert refused(redis_server.user(user), command)
    assert redis_server.answers()


@pytest.mark.parametrize("user", ["controller", "observer"])
def test_who_reads_hears_of_changes(full, redis_server, user):
    listener = redis_server.user(user).pubsub(ignore_subscribe_messages=True)
    listener.subscribe("saltern:revision")
    # Redis says to how many it passed the message on: nobody, until it has taken the subscription in.
    until(lambda: full.publish("saltern:revision", "8"), "a listener")
    message = until(lambda: listener.get_message(timeout=0.05), "a message")
    assert message["data"] == "8"
    listener.close()


@pytest.mark.parametrize("user", ["product", "flags-reader", "observer"])
@pytest.mark.parametrize("channel", ["saltern:revision", "saltern:flags"])
def test_who_only_reads_cannot_make_others_believe_in_a_change(full, redis_server, user, channel):
    assert refused(redis_server.user(user), ("PUBLISH", channel, "9"))


def test_nobody_comes_in_without_a_password(redis_server):
    for words in ({}, {"username": "admin", "password": ""}, {"username": "default", "password": ""}):
        client = redis.Redis(port=redis_server.port, retry=Retry(NoBackoff(), 0), **words)
        with pytest.raises((redis.AuthenticationError, redis.exceptions.NoPermissionError)):
            client.ping()


def test_a_password_is_its_users_alone(redis_server):
    with pytest.raises(redis.AuthenticationError):
        redis_server.user("product").execute_command("AUTH", "admin", redis_server.passwords["product"])


def test_the_registry_and_its_controller_work_with_the_rights_they_have(full, redis_server):
    from saltern.registry import Registry

    full.flushall()
    writer = Registry(redis_server.user("admin"))
    writer.register("prod1", addr="10.99.0.13", port=8080, release="r1", pool="prod", cause="test", by="test")
    for user in ("controller", "observer"):
        state = Registry(redis_server.user(user)).snapshot()
        assert state.instances["prod1"].release == "r1", user
    own = Registry(redis_server.user("controller"))
    assert own.set_share(40, cause="test", by="test").changed
    assert Registry(redis_server.user("observer")).snapshot().split.share == 40


def test_the_products_flags_are_followed_with_the_rights_their_reader_has(full, redis_server, tmp_path):
    full.flushall()
    writer = redis_server.user("controller")
    servers = RedisSettings((("127.0.0.1", redis_server.port),))
    reader = replace(servers, username="flags-reader", password=redis_server.passwords["flags-reader"])
    flags = Flags(Config(servers, reader, "prod1", "prod", tmp_path), domain="rights")
    flags.start()
    try:
        for title in ("One", "Two"):
            document = {
                "flags": {"site_title": {"state": "ENABLED", "variants": {"a": title}, "defaultVariant": "a"}}
            }
            flagset.write(writer, document, who="test", why="test")
            until(lambda title=title: flags.features(None).site_title == title, f"the title {title}")
        flagset.undo(writer, who="test")
        until(lambda: flags.features(None).site_title == "One", "the title before")
        assert flags.status == "READY"
    finally:
        flags.close()


def test_the_product_works_with_the_rights_it_has(full, redis_server, tmp_path, monkeypatch):
    # A host that is busy is no Redis that is silent.
    monkeypatch.setattr(product_store, "TIMEOUT", PATIENCE)
    monkeypatch.setattr(product_store, "PING_TIMEOUT", PATIENCE)
    full.flushall()
    store = Store(
        RedisSettings((("127.0.0.1", redis_server.port),), "product", redis_server.passwords["product"]),
        tmp_path,
    )
    store.start()
    try:
        item = store.add("milk", "k1")
        store.restore(store.remove(item.id).id)
        assert store.trouble is None
        reading = store.read()
        assert reading.live
        assert [item.title for item in reading.listing.items] == ["milk"]
        assert store.ping(5)
    finally:
        store.close()
