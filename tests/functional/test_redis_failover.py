"""Sentinel over three real Redis servers, with the fleet's own configuration: who is primary, and what is kept."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import redis
from product.config import parse as parse_product
from product.store import Store, Unavailable
from redis_stand import CALM, RedisStand, until
from saltern.redis_link import connect
from saltern.topology import SERVICE


@pytest.fixture
def stand(redis_fleet: RedisStand) -> RedisStand:
    """Who is primary is left over from the test before."""
    return redis_fleet


@dataclass
class Written:
    """What a writer has written."""

    confirmed: list[str] = field(default_factory=list)
    """Said to be on a replica, too, by WAIT."""
    failed: int = 0


@contextmanager
def writing(stand: RedisStand) -> Iterator[Written]:
    """Somebody who writes one member after the other, through Sentinel, and goes on whatever happens."""
    written, stop = Written(), threading.Event()

    def write() -> None:
        client, number = stand.client(), 0
        while not stop.is_set():
            number += 1
            try:
                with client.pipeline(transaction=False) as pipe:
                    _, replicas = pipe.sadd("written", f"n{number}").wait(1, 500).execute()
                if replicas:
                    written.confirmed.append(f"n{number}")
            except redis.RedisError:
                written.failed += 1
                time.sleep(0.02)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        until(lambda: len(written.confirmed) > 20, "a writer at work")
        yield written
    finally:
        stop.set()
        thread.join()


def freeze(node) -> None:
    """The machine falls silent: no answer, no end of a connection."""
    node.signal(signal.SIGSTOP)


def thaw(node) -> None:
    node.signal(signal.SIGCONT)


def role(node) -> str:
    return node.admin().info("replication")["role"]


@pytest.mark.parametrize("loss", ["killed", "silent"])
def test_a_primary_that_is_gone_is_replaced_and_no_confirmed_write_is_lost(
    make_redis: Callable[..., RedisStand], loss: str
) -> None:
    stand = make_redis()
    old = stand.primary()
    with writing(stand) as written:
        before = len(written.confirmed)
        old.end("redis") if loss == "killed" else freeze(old)
        until(lambda: len(written.confirmed) > before + 20, "writes going on")
    assert stand.primary() is not old
    kept = stand.client().smembers("written")
    assert set(written.confirmed) <= kept
    if loss == "killed":
        old.start()
    else:
        thaw(old)
    until(lambda: role(old) == "slave", "the old primary is a replica")
    until(
        lambda: old.admin().smembers("written") >= set(written.confirmed), "it has what was written meanwhile"
    )
    for node in stand.nodes.values():
        # Nobody asked for more than the rights it has.
        assert node.admin().acl_log() == []


def test_who_was_primary_and_died_starts_as_a_replica_at_once(stand: RedisStand) -> None:
    old = stand.primary()
    old.end("redis")
    until(lambda: stand.primary() is not old, "another primary")
    for node in stand.nodes.values():
        node.end("sentinel") if node is not old else None
    old.end()
    # Its own file says that it was primary; one Sentinel that knows better is enough.
    others = [node for node in stand.nodes.values() if node is not old]
    others[0].start("sentinel")
    old.start()
    assert role(old) == "slave"
    for node in (old, others[1]):
        node.start("sentinel")


def test_a_primary_without_replicas_takes_no_write_and_takes_them_again_with_one(
    make_redis: Callable[..., RedisStand],
) -> None:
    stand = make_redis()
    primary, (first, second) = stand.primary(), stand.replicas()
    client = primary.admin()
    freeze(first)
    client.set("one replica", "is enough")
    freeze(second)

    def refused() -> bool:
        try:
            client.set("nobody", "has this")
        except redis.ResponseError as error:
            return "NOREPLICAS" in str(error)
        return False

    until(refused, "a primary that is alone refuses writes")
    assert client.get("one replica") == "is enough", "it is read all the same"
    thaw(first)
    until(lambda: client.set("again", "1"), "it takes writes again")
    thaw(second)


def test_a_cut_off_primary_loses_no_write_that_it_took_from_its_own_side(
    make_redis: Callable[..., RedisStand],
) -> None:
    """The primary and its clients on one side; both replicas and all three Sentinels on the other."""
    stand = make_redis()
    old = stand.primary()
    client = old.admin()
    # Cut off without a word: its replicas' connections stay, and nothing comes through them any more.
    for node in stand.replicas():
        freeze(node)

    def refused() -> bool:
        try:
            client.set("side", "minority")
        except redis.ResponseError as error:
            return "NOREPLICAS" in str(error)
        return False

    until(refused, "it refuses writes")
    freeze(old)
    for node in stand.nodes.values():
        thaw(node) if node is not old else None
    until(lambda: stand.primary() is not old, "another is elected")
    until(lambda: stand.client().set("side", "majority"), "writes on the other side")
    thaw(old)


def test_a_primary_that_lost_its_disk_does_not_wipe_the_others(stand: RedisStand) -> None:
    stand.client().set("kept", "1")
    old = stand.primary()
    until(lambda: all(node.admin().get("kept") == "1" for node in stand.replicas()), "the replicas have it")
    old.end("redis")
    old.wipe()
    # As soon as systemd would, which is long before anybody else is elected, where the host is not too slow for that.
    old.start()
    assert stand.primary() is not old
    assert role(old) == "slave"
    until(lambda: old.admin().get("kept") == "1", "it has got everything back")


def test_a_primary_that_died_and_is_back_at_once_leaves_it_to_one_who_has_every_confirmed_write(
    stand: RedisStand,
) -> None:
    """Its append-only file may lack what it had answered already; here it lacks everything after the first write."""
    old, client = stand.primary(), stand.client()
    client.set("early", "1")
    kept = {path: path.read_bytes() for path in (old.folder / "redis" / "appendonlydir").iterdir()}

    def confirmed() -> bool:
        with client.pipeline(transaction=False) as pipe:
            return pipe.set("confirmed", "1").wait(2, 500).execute()[1] == 2

    until(confirmed, "both replicas have the write")
    old.end("redis")
    for path, content in kept.items():
        path.write_bytes(content)
    old.start()
    until(lambda: client.get("confirmed") == "1", "the write is there")
    assert stand.primary() is not old


def test_all_machines_that_die_at_once_come_back_with_their_data(stand: RedisStand) -> None:
    stand.client().set("kept", "1")
    until(lambda: all(node.admin().get("kept") == "1" for node in stand.nodes.values()), "all have it")
    stand.close()
    stand.boot()
    until(lambda: stand.client().get("kept") == "1", "the data")
    until(lambda: stand.client().set("again", "1"), "writes")


def test_all_machines_at_once_come_back_with_the_primary_they_had_and_all_data(
    make_redis: Callable[..., RedisStand],
) -> None:
    stand = make_redis(sentinel=dict(CALM))
    stand.client().set("kept", "1")
    first = stand.primary()
    first.end()
    until(lambda: stand.primary() is not first, "another primary")
    second = stand.primary()
    until(lambda: stand.client().set("later", "2"), "a write to it")
    until(
        lambda: all(n.admin().get("later") == "2" for n in stand.nodes.values() if n.processes), "all have it"
    )
    for node in stand.nodes.values():
        if node.processes:
            node.stop()
    stand.close()
    stand.boot()
    assert stand.primary() is second
    until(lambda: stand.client().mget("kept", "later") == ["1", "2"], "all data")
    until(lambda: role(first) == "slave", "the first primary follows")


def test_settings_change_after_an_election_and_the_election_stands(
    make_redis: Callable[..., RedisStand],
) -> None:
    stand = make_redis(sentinel=dict(CALM))
    files = {node.name: (node.folder / "etc" / "redis.conf").read_text() for node in stand.nodes.values()}
    old = stand.primary()
    old.end("redis")
    until(lambda: stand.primary() is not old and stand.client().set("x", "1"), "another primary")
    new = stand.primary()
    old.start()
    stand.change()
    for node in stand.nodes.values():
        # What Salt writes does not depend on who is primary: there is nothing to fight over.
        assert (node.folder / "etc" / "redis.conf").read_text() == files[node.name]
    stand.change(maxmemory_mib=64, sentinel={**stand.settings["sentinel"], "down_after_ms": 5500})
    for node in stand.nodes.values():
        node.stop()
        node.end("sentinel")
        node.start()
        node.start("sentinel")
    until(lambda: stand.primary() is new, "the same primary")
    assert role(new) == "master"
    for node in stand.nodes.values():
        assert node.admin().config_get("maxmemory")["maxmemory"] == str(64 * 1024 * 1024)
        assert node.sentinel().sentinel_master(SERVICE)["down-after-milliseconds"] == 5500
        assert node.sentinel().sentinel_master(SERVICE)["num-slaves"] == 2


def product(stand: RedisStand, folder) -> Store:
    document = {**stand.config("product"), "instance": "prod1", "pool": "prod", "state_dir": str(folder)}
    settings = parse_product(document)
    store = Store(settings.redis, settings.state_dir)
    store.start()
    return store


def saved_by(store: Store, title: str, key: str) -> bool:
    try:
        return store.add(title, key).title == title
    except Unavailable:
        return False


@pytest.mark.parametrize("loss", ["killed", "silent"])
def test_the_product_shows_its_list_all_the_time_and_writes_again_by_itself(
    make_redis: Callable[..., RedisStand], tmp_path, loss: str
) -> None:
    stand = make_redis()
    store = product(stand, tmp_path / "product")
    try:
        until(lambda: saved_by(store, "milk", "k0"), "the first write")
        until(lambda: len(store.read().listing.items) == 1, "the list")
        old = stand.primary()
        old.end("redis") if loss == "killed" else freeze(old)

        def saved() -> bool:
            assert [item.title for item in store.read().listing.items][-1:] == ["milk"], "a read failed"
            return saved_by(store, "bread", "k1")

        until(saved, "a write after the election")
        until(lambda: store.read().live, "reads of the new primary")
        assert [item.title for item in store.read().listing.items] == ["bread", "milk"]
        if loss == "silent":
            thaw(old)
    finally:
        store.close()


def test_a_subscription_is_made_anew_with_the_new_primary(stand: RedisStand) -> None:
    """As the controller and its like do it: whoever hears an end subscribes again through Sentinel."""
    client = connect(stand.config("controller"))
    heard = client.pubsub(ignore_subscribe_messages=True)
    heard.subscribe("saltern:revision")
    old = stand.primary()
    old.end("redis")

    def hears() -> bool:
        stand.client().publish("saltern:revision", "7")
        return heard.get_message(timeout=0.1) is not None

    until(hears, "a message from the new primary")
    heard.close()
    old.start()


def test_nobody_speaks_to_a_sentinel_without_its_password_and_clients_change_nothing(
    stand: RedisStand,
) -> None:
    node, primary = stand.nodes["redis1"], stand.primary()
    with pytest.raises(redis.AuthenticationError):
        node.sentinel(password="guessed").ping()
    client = node.sentinel()
    for command in (
        ("SENTINEL", "FAILOVER", SERVICE), ("SENTINEL", "REMOVE", SERVICE), ("SENTINEL", "RESET", "*"),
        ("SENTINEL", "SET", SERVICE, "quorum", "1"), ("SENTINEL", "CONFIG", "GET", "*"), ("SHUTDOWN",),
        ("ACL", "LIST"), ("PUBLISH", "__sentinel__:hello", "x"),
    ):  # fmt: skip
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.execute_command(*command)
    assert stand.primary() is primary


def test_nobody_to_write_to_is_said_in_one_line(stand: RedisStand) -> None:
    config = stand.config("admin")
    config["sentinel"]["service"] = "pepper"
    with pytest.raises(
        redis.ConnectionError,
        match=r"^no primary of 'pepper' is known to 127\.99\.0\.1[123]:\d+, [\d.:, ]+ just now$",
    ):
        connect(config).ping()
