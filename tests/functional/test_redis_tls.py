"""With `redis.tls` in the pillar: Redis, replication, Sentinel and every client speak TLS, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis
from openfeature.evaluation_context import EvaluationContext
from openfeature_redis import RedisProvider, flagset
from product.config import parse as parse_product
from product.store import Store, Unavailable
from redis_stand import CALM, RedisStand, until
from saltern import certificates, rdb
from saltern.redis_link import connect


@pytest.fixture
def stand(make_redis: Callable[..., RedisStand]) -> RedisStand:
    return make_redis(tls=True)


def saved(store: Store) -> bool:
    try:
        return store.add("milk", "k1").title == "milk"
    except Unavailable:
        return False


def test_everybody_speaks_tls_through_an_election_too(stand: RedisStand, tmp_path) -> None:
    document = {**stand.config("product"), "instance": "prod1", "pool": "prod", "state_dir": str(tmp_path)}
    settings = parse_product(document)
    store = Store(settings.redis, settings.state_dir)
    store.start()
    try:
        until(lambda: saved(store), "the first write")
        stand.client().set("kept", "1")
        old = stand.primary()
        copy = rdb.take(
            stand.config("replica"), f"{old.address}:{stand.settings['port']}", tmp_path / "copies", 1
        )
        assert copy.stat().st_size > 100
        until(lambda: all(node.admin().get("kept") == "1" for node in stand.replicas()), "replication")
        old.end("redis")
        until(lambda: stand.client().set("later", "1"), "writes after the election")
        until(lambda: store.read().live, "the product, too")
        old.start()
        until(lambda: old.admin().get("later") == "1", "a replica again")
    finally:
        store.close()


def test_flags_are_followed_through_sentinel_over_tls(stand: RedisStand) -> None:
    document = {"flags": {"f": {"state": "ENABLED", "variants": {"a": "blue"}, "defaultVariant": "a"}}}
    flagset.write(stand.client(), document, who="test", why="test")
    provider = RedisProvider.from_config(stand.config("observer"))
    provider.initialize(EvaluationContext())
    try:
        assert provider.resolve_string_details("f", "").value == "blue"
        stand.primary().end("redis")
        document["flags"]["f"]["variants"]["a"] = "red"

        def written() -> bool:
            assert provider.resolve_string_details("f", "").value == "blue", "an answer all the time"
            flagset.write(stand.client(), document, who="test", why="test")
            return True

        until(written, "a write after the election")
        until(lambda: provider.resolve_string_details("f", "").value == "red", "the new value")
    finally:
        provider.shutdown()


def test_who_speaks_plainly_is_not_heard_and_a_stranger_is_not_believed(stand: RedisStand) -> None:
    config = stand.config("admin")
    plain = {name: {**section} for name, section in config.items()}
    del plain["redis"]["tls"]
    stranger = {**config, "redis": {**config["redis"], "tls": {"ca": certificates.authority("ab" * 32)}}}
    for link in (plain, stranger):
        own = {"redis": link["redis"]}
        with pytest.raises(redis.ConnectionError):
            connect(own).ping()
        with pytest.raises(redis.ConnectionError):
            connect(link).ping()
    assert connect(config).ping()


def test_tls_is_switched_on_in_a_fleet_that_lives(make_redis: Callable[..., RedisStand]) -> None:
    stand = make_redis(sentinel=dict(CALM))
    stand.client().set("kept", "1")
    was = stand.primary()
    stand.change(tls=True)
    for node in stand.nodes.values():
        node.stop()
        node.end("sentinel")
    stand.boot()
    until(lambda: stand.client().get("kept") == "1", "the data, encrypted on its way")
    until(lambda: stand.client().set("kept", "2"), "writes")
    assert stand.primary() is was
