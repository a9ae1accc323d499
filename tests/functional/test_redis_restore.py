"""A fleet that lost all its data gets it back from a copy, through Sentinel: the runner's own steps on real servers."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from redis_stand import CALM, RedisStand, until
from saltern import rdb, redis_runs
from saltern.errors import SalternError


@pytest.fixture
def stand(redis_fleet: RedisStand) -> RedisStand:
    return redis_fleet


class Salt:
    """Does on the stand's machines what the called states and functions do on real ones."""

    def __init__(self, stand: RedisStand, refuse: str = "") -> None:
        self.stand, self.refuse, self.calls = stand, refuse, []

    def __call__(
        self, machines: Sequence[str], function: str, arguments: list, keywords: dict
    ) -> dict[str, Any]:
        self.calls.append((tuple(machines), function, *arguments))
        return {id_: self.one(self.stand.nodes[id_], function, arguments, keywords) for id_ in machines}

    def one(self, node: Any, function: str, arguments: list, keywords: dict) -> Any:
        if self.refuse and self.refuse in (function, *arguments):
            return "it does not want to"
        if function == "service.stop":
            node.stop()
        elif function == "service.start":
            if "redis" not in node.processes:
                node.start()
        else:
            copy = node.folder / "redis" / "restore.rdb"
            told = keywords["pillar"]["_restore"]
            shutil.copyfile(self.stand.fleet.files / told["source"].removeprefix("salt://"), copy)
            if arguments == ["redis.restore"]:
                node.stop()
                rdb.lay(copy, node.folder / "redis", time.time())
                node.start()
            return {"state": {"__id__": "it", "result": True, "comment": ""}}
        return True


def test_a_wiped_fleet_gets_its_data_back_and_replicas_and_sentinel_with_it(make_redis) -> None:
    stand = make_redis(sentinel=dict(CALM))
    client = stand.client()
    client.hset("saltern:split", "share", "30")
    client.rpush("list", *map(str, range(1000)))
    until(lambda: all(node.admin().dbsize() == client.dbsize() for node in stand.replicas()), "replication")
    made = redis_runs.backup(stand.fleet)
    primary = stand.primary()
    assert not made["from"].startswith(f"{primary.address}:"), "a replica gives it"
    assert [each["file"] for each in redis_runs.backups(stand.fleet)] == [made["file"]]
    # All disks are gone, Sentinel's as well.
    stand.close()
    for node in stand.nodes.values():
        shutil.rmtree(node.folder / "sentinel")
        (node.folder / "sentinel").mkdir()
        node.wipe()
    stand.boot()
    stand.settle()
    assert stand.client().keys() == ["settled"]
    salt = Salt(stand)
    answer = redis_runs.restore(stand.fleet, Path(made["file"]).name, salt)
    assert answer["primary"] == stand.primary().name
    assert stand.client().hgetall("saltern:split") == {"share": "30"}
    assert stand.client().llen("list") == 1000
    for node in stand.nodes.values():
        until(lambda node=node: node.admin().llen("list") == 1000, f"{node.name} has it")
        until(lambda node=node: stand.sees_all(node), "Sentinel sees all well")
    # What was there before is kept beside, and nothing is left where machines could read it.
    assert list((stand.primary().folder / "redis").glob("before-restore-*/appendonlydir"))
    assert list((stand.fleet.files / "restore").iterdir()) == []
    # It is there after a restart, too: the copy became the append-only file.
    for node in stand.nodes.values():
        node.stop()
    for node in stand.nodes.values():
        node.start()
    until(lambda: stand.client().llen("list") == 1000, "all of it after a restart")


@pytest.mark.parametrize("step", ["redis.restore.copy", "service.stop", "redis.restore"])
def test_a_step_that_fails_is_named_and_what_was_stopped_runs_again(stand, step: str) -> None:
    stand.client().set("kept", "1")
    until(lambda: all(node.admin().get("kept") == "1" for node in stand.replicas()), "replication")
    made = redis_runs.backup(stand.fleet)
    with pytest.raises(
        SalternError, match=f"restore: {re.escape(step)} on redis[123]: .*it does not want to"
    ):
        redis_runs.restore(stand.fleet, made["file"], Salt(stand, refuse=step))
    until(lambda: stand.client().get("kept") == "1" and stand.client().set("again", "1"), "all as it was")
    assert all("redis" in node.processes for node in stand.nodes.values())
    assert list((stand.fleet.files / "restore").iterdir()) == []


def test_what_is_no_copy_stops_nothing(stand, tmp_path) -> None:
    (tmp_path / "half.rdb").write_bytes(b"REDIS0010\x00")
    for file, words in (("none.rdb", "no such file"), (str(tmp_path / "half.rdb"), "not a whole copy")):
        with pytest.raises(SalternError, match=words):
            redis_runs.restore(stand.fleet, file, None)


def test_a_copy_with_a_wrong_byte_inside_is_refused_by_redis_own_judge(stand, tmp_path) -> None:
    stand.client().set("kept", "x" * 1000)
    path = Path(redis_runs.backup(stand.fleet)["file"])
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    wrong = tmp_path / "wrong.rdb"
    wrong.write_bytes(bytes(content))
    assert subprocess.run(["redis-check-rdb", str(path)], capture_output=True, check=False).returncode == 0
    with pytest.raises(SalternError, match="redis-check-rdb"):
        rdb.judge(wrong)


def test_status_says_who_is_primary_and_who_is_away(stand) -> None:
    primary, (other, lost) = stand.primary().name, (node.name for node in stand.replicas())
    found = redis_runs.status(stand.fleet)
    assert found["primary"] == primary
    assert found["machines"][primary]["good_replicas"] == 2
    assert found["machines"][other]["of"] == primary
    assert found["machines"][lost]["sentinel"] == f"{primary} is primary; 2 other Sentinels, 2 replicas"
    stand.nodes[lost].end()
    found = redis_runs.status(stand.fleet)
    assert found["machines"][lost]["role"] == "away"
    assert found["machines"][lost]["sentinel"].startswith("away: ")
    for what in ("redis", "sentinel"):
        stand.nodes[lost].start(what)
