"""Through Sentinel: replicas are found and read, and a failover costs no evaluation."""

import json
import threading

import pytest
import redis
from openfeature import api
from openfeature.exception import GeneralError
from openfeature.flag_evaluation import Reason
from openfeature.provider import ProviderStatus
from openfeature_redis import RedisProvider, flagset

pytestmark = pytest.mark.functional


@pytest.fixture
def fleet(start_redis, until):
    """A primary, two replicas and three Sentinels with a quorum of two."""
    primary = start_redis()
    replicas = [start_redis("--replicaof", "127.0.0.1", str(primary.port)) for _ in range(2)]
    until(
        lambda: all(one.client().info("replication")["master_link_status"] == "up" for one in replicas),
        "replication",
    )
    configuration = "\n".join(
        [
            f"sentinel monitor saltern 127.0.0.1 {primary.port} 2",
            "sentinel down-after-milliseconds saltern 500",
            "sentinel failover-timeout saltern 2000",
        ]
    )
    sentinels = [start_redis(sentinel=configuration) for _ in range(3)]

    def settled():
        master = [one.client().sentinel_master("saltern") for one in sentinels]
        return all(one["num-slaves"] == 2 and one["num-other-sentinels"] == 2 for one in master)

    until(settled, "the Sentinels knowing each other")
    return primary, replicas, sentinels


def level():
    return api.get_client().get_integer_details("level", -1)


def followed(servers):
    """The servers a provider is connected to."""
    return [
        one
        for one in servers
        if one.process and any(c["flags"].count("t") for c in one.client().client_list())
    ]


def write(sentinels, document):
    """Write through whoever is primary; None while there is none."""
    hosts = [("127.0.0.1", one.port) for one in sentinels]
    client = redis.Sentinel(hosts, socket_timeout=1).master_for(
        "saltern", socket_timeout=1, decode_responses=True
    )
    try:
        return flagset.write(client, json.loads(document), who="ana", why="test")
    except (redis.ConnectionError, redis.TimeoutError, redis.ReadOnlyError):
        return None


def test_a_failover_costs_no_evaluation_and_flips_go_on(fleet, events, flag_set, until):
    primary, replicas, sentinels = fleet
    write(sentinels, flag_set(1))
    api.set_provider_and_wait(RedisProvider([one.address for one in sentinels], sentinel="saltern"))
    assert level().value == 1
    assert followed([primary, *replicas])[0] in replicas

    failed, asked, done = [], 0, threading.Event()

    def evaluate():
        nonlocal asked
        while not done.wait(0.001):
            found = level()
            asked += 1
            if found.reason is not Reason.STATIC or found.value not in (1, 2):
                failed.append(found)

    reader = threading.Thread(target=evaluate)
    reader.start()
    primary.kill()
    change = until(lambda: write(sentinels, flag_set(2)), "a new primary taking writes")
    until(lambda: level().value == 2, "the flip after the failover")
    until(lambda: api.get_client().get_provider_status() is ProviderStatus.READY, "READY")
    done.set()
    reader.join()
    assert change.changed == ("level",)
    assert failed == []
    assert asked > 100


def test_the_death_of_the_replica_being_read_moves_the_reader_to_another(fleet, events, flag_set, until):
    primary, replicas, sentinels = fleet
    write(sentinels, flag_set(1))
    api.set_provider_and_wait(RedisProvider([one.address for one in sentinels], sentinel="saltern"))
    (first,) = followed(replicas)
    first.kill()
    until(lambda: followed([primary, *replicas]), "following another server")
    write(sentinels, flag_set(2))
    until(lambda: level().value == 2, "the flip")


def test_two_dead_sentinels_do_not_matter(fleet, events, flag_set):
    _, _, sentinels = fleet
    write(sentinels, flag_set(1))
    sentinels[0].kill()
    sentinels[1].kill()
    api.set_provider_and_wait(RedisProvider([one.address for one in sentinels], sentinel="saltern"))
    assert level().value == 1


def test_a_name_sentinel_does_not_know_is_said(fleet, events):
    _, _, sentinels = fleet
    with pytest.raises(GeneralError, match=r"no Sentinel answered for 'pepper'.*No such master"):
        api.set_provider_and_wait(RedisProvider([one.address for one in sentinels], sentinel="pepper"))


def test_the_documented_rights_on_sentinel_suffice(start_redis, events, flag_set, until):
    primary = start_redis()
    sentinel = start_redis(sentinel=f"sentinel monitor saltern 127.0.0.1 {primary.port} 1")
    sentinel.client().execute_command(
        "ACL", "SETUSER", "finder", "reset", "on", ">secret",
        "+sentinel|get-master-addr-by-name", "+sentinel|replicas",
    )  # fmt: skip
    primary.client().set("saltern:flags", flag_set(1))
    provider = RedisProvider.from_config(
        {
            "redis": {},
            "sentinel": {
                "addresses": [sentinel.address],
                "service": "saltern",
                "username": "finder",
                "password": "secret",
            },
        }
    )
    api.set_provider_and_wait(provider)
    assert level().value == 1
