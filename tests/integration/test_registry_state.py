"""registry.present, applied by real minions: it only sends an event and reads Redis, so it may be applied here."""

from __future__ import annotations

import pytest
from host import PATIENCE
from saltern.registry import Registry

RELEASE = "r0123456789ab"


@pytest.fixture(scope="module")
def synced(minions):
    """The minions with Saltern's states and utilities, fetched from the master's file server."""
    for minion in ("prod1", "staging1", "ops1"):
        minions.call(minion, "saltutil.sync_states")
        minions.call(minion, "saltutil.sync_utils")
        assert minions.call(minion, "sys.list_state_functions", "registry") == ["registry.present"]
    return minions


@pytest.fixture
def present(synced):
    """Apply the state on a minion: what Salt says of it."""

    def apply(minion: str = "prod1", name: str = "", **settings: object) -> dict:
        values = {"port": 8080, "release": RELEASE, "timeout": PATIENCE, **settings}
        test = values.pop("test", False)
        answer = synced.call(minion, "state.single", "registry.present", name or minion, test=test, **values)
        assert isinstance(answer, dict), answer
        (said,) = answer.values()
        return said

    return apply


@pytest.fixture
def registry(registry_empty):
    return Registry(registry_empty)


@pytest.mark.parametrize(("minion", "pool"), [("prod1", "prod"), ("staging1", "canary")])
def test_an_instance_registers_itself_and_the_second_time_changes_nothing(
    present, registry, fleet, minion, pool
):
    said = present(minion)
    assert said["result"] is True, said["comment"]
    assert said["changes"] == {
        "port": {"old": None, "new": "8080"},
        "release": {"old": None, "new": RELEASE},
    }
    state = registry.snapshot()
    assert state.instances[minion].pool == pool
    assert state.instances[minion].addr == fleet.addresses()[minion]
    again = present(minion)
    assert again["result"] is True
    assert again["changes"] == {}
    assert again["comment"] == f"{minion} is registered with release {RELEASE} on port 8080"
    assert registry.snapshot() == state


def test_a_new_release_is_a_change_of_that_alone(present, registry):
    present()
    said = present(release="rnew")
    assert said["changes"] == {"release": {"old": RELEASE, "new": "rnew"}}
    assert registry.snapshot().instances["prod1"].release == "rnew"


def test_a_drained_instance_that_registers_again_stays_drained(present, registry):
    present()
    registry.register("prod2", addr="10.99.0.14", port=8080, release=RELEASE, pool="prod")
    registry.want("prod1", "drain")
    present(release="rnew")
    assert registry.snapshot().instances["prod1"].want == "drain"


def test_in_test_mode_it_says_what_it_would_do_and_does_nothing(present, registry):
    said = present(test=True)
    assert said["result"] is None
    assert said["comment"] == "prod1 would be registered"
    assert said["changes"]["release"] == {"old": None, "new": RELEASE}
    assert registry.snapshot().instances == {}
    present()
    said = present(test=True)
    assert (said["result"], said["changes"]) == (True, {})


def test_a_machine_cannot_register_another(present, registry):
    said = present("prod1", name="staging1", timeout=1)
    assert said["result"] is False
    assert "staging1" in said["comment"]
    assert said["changes"] == {}
    assert registry.snapshot().instances == {}


def test_a_machine_that_is_no_instance_says_so(present, registry):
    said = present("ops1", timeout=1)
    assert said["result"] is False
    assert "see the master's log" in said["comment"] or "no role in a pool" in said["comment"]
    assert registry.snapshot().instances == {}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"port": 0}, "port 0 is not between 1 and 65535"),
        ({"port": 65536}, "port 65536 is not between 1 and 65535"),
        ({"port": "eighty"}, "port 'eighty' is not between 1 and 65535"),
        ({"release": "../x"}, "release '../x' is not a release id"),
        ({"release": "r1\n"}, "release 'r1\\n' is not a release id"),
    ],
)
def test_what_the_registry_would_refuse_is_refused_at_once(present, registry, settings, words):
    said = present(**settings)
    assert said["result"] is False
    assert words in said["comment"]
    assert registry.snapshot().revision == 0


def test_while_redis_is_down_it_fails_with_one_clear_line_and_works_again_after(
    present, registry, redis_server
):
    redis_server.stop()
    try:
        said = present(timeout=1)
    finally:
        redis_server.start()
    assert said["result"] is False
    assert "Redis does not answer" in said["comment"]
    assert "\n" not in said["comment"]
    assert said["changes"] == {}
    assert present()["result"] is True
