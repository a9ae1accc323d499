"""The shared list over a real Redis that is shared, killed, stopped and brought back."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from product.config import RedisSettings
from product.items import MAX_ITEMS, Change, Conflict, ListFull, NoSuchItem
from product.store import Store, Unavailable

pytestmark = pytest.mark.functional

ACL = (
    "on >salt resetchannels ~product:* -@all +ping +evalsha +script|load "
    "+get +set +del +incr +time +hget +hset +hdel +hlen +hvals"
)
"""The rights that the README asks for; nothing less works, nothing more is needed."""


def titles(store: Store) -> list[str]:
    reading = store.read()
    return [item.title for item in reading.listing.items]


def test_what_one_instance_writes_every_other_shows_at_once(make_store):
    one, two = make_store("prod1"), make_store("staging1")
    first = one.add("a", "k1")
    second = two.add("b", "k2")
    assert titles(one) == titles(two) == ["b", "a"]
    two.change(first.id, Change(done=True))
    one.change(second.id, Change(title="c"))
    assert [(item.title, item.done) for item in one.read().listing.items] == [("c", False), ("a", True)]
    assert one.read().listing.items == two.read().listing.items
    one.remove(first.id)
    assert titles(two) == ["c"]
    two.restore(first.id)
    assert [(item.title, item.done) for item in one.read().listing.items] == [("c", False), ("a", True)]


def test_the_same_request_to_add_sent_twice_adds_once(make_store):
    one, two = make_store("prod1"), make_store("prod2")
    assert one.add("a", "k1") == two.add("a", "k1")
    assert two.add("b", "k1").title == "b"
    assert titles(one) == ["b", "a"]


def test_adding_at_the_same_time_loses_nothing(make_store):
    stores = [make_store("prod1"), make_store("prod2")]
    start = threading.Barrier(8)

    def add(worker: int) -> list[int]:
        start.wait()
        return [stores[worker % 2].add(f"{worker}-{number}", f"{worker}-{number}").id for number in range(25)]

    with ThreadPoolExecutor(8) as pool:
        ids = [item_id for made in pool.map(add, range(8)) for item_id in made]
    assert sorted(ids) == list(range(1, 201))
    expected = {f"{worker}-{number}" for worker in range(8) for number in range(25)}
    assert set(titles(stores[0])) == set(titles(stores[1])) == expected


def test_a_tick_and_an_edit_at_the_same_time_both_stay(make_store):
    one, two = make_store("prod1"), make_store("prod2")
    item = one.add("a", "k")
    start = threading.Barrier(2)

    def both(store: Store, change: Change) -> None:
        start.wait()
        store.change(item.id, change)

    with ThreadPoolExecutor(2) as pool:
        tick = pool.submit(both, one, Change(done=True))
        edit = pool.submit(both, two, Change(title="b"))
        tick.result(), edit.result()
    (now,) = one.read().listing.items
    assert (now.title, now.done, now.version) == ("b", True, 3)


def test_of_two_edits_of_the_same_version_the_second_is_told(make_store):
    one, two = make_store("prod1"), make_store("prod2")
    item = one.add("a", "k")
    one.change(item.id, Change(title="b", version=item.version))
    with pytest.raises(Conflict) as conflict:
        two.change(item.id, Change(title="c", version=item.version))
    assert (conflict.value.current.title, conflict.value.current.version) == ("b", 2)
    assert titles(two) == ["b"]


def test_asking_for_what_is_already_so_changes_nothing(make_store):
    store = make_store()
    item = store.change(store.add("a", "k").id, Change(done=True))
    token = store.read().listing.token
    assert store.change(item.id, Change(title="a", done=True)) == item
    assert store.restore(item.id) == item
    assert store.read().listing.token == token


def test_what_is_not_on_the_list_is_said_to_be_missing(make_store):
    store = make_store()
    for action in (
        lambda: store.change(7, Change(done=True)),
        lambda: store.remove(7),
        lambda: store.restore(7),
    ):
        with pytest.raises(NoSuchItem, match="item 7"):
            action()


def test_a_full_list_takes_no_more_and_loses_nothing(make_store, redis_server):
    store = make_store()
    kept = store.remove(store.add("kept", "k").id)
    for number in range(MAX_ITEMS):
        store.add(f"{number}", f"k{number}")
    with pytest.raises(ListFull, match="delete one first"):
        store.add("one more", "k")
    with pytest.raises(ListFull):
        store.restore(kept.id)
    assert len(titles(store)) == MAX_ITEMS
    store.remove(2)
    assert store.restore(kept.id) == kept


def test_a_read_costs_one_command_whether_or_not_the_list_changed(make_store, redis_server):
    store = make_store()
    store.add("a", "k")
    store.close()
    for expected_items in (1, 1, 1):
        redis_server.client.config_resetstat()
        assert len(titles(store)) == expected_items
        statistics = redis_server.client.info("commandstats")
        assert statistics["cmdstat_evalsha"]["calls"] == 1
        assert not {name for name in statistics if "eval" in name} - {"cmdstat_evalsha"}


def test_without_redis_reads_go_on_writes_say_so_and_it_recovers_by_itself(make_store, redis_server, poll):
    store = make_store()
    item = store.add("a", "k")
    assert store.read().live
    redis_server.kill()
    reading = store.read()
    assert (reading.live, [seen.title for seen in reading.listing.items]) == (False, ["a"])
    for action in (
        lambda: store.add("b", "k2"),
        lambda: store.change(item.id, Change(done=True)),
        lambda: store.remove(item.id),
        lambda: store.restore(item.id),
    ):
        with pytest.raises(Unavailable):
            action()
    redis_server.start()
    poll(lambda: store.read().live)
    assert titles(store) == ["a"]
    store.add("b", "k2")
    assert titles(store) == ["b", "a"]


def test_a_write_that_meets_a_redis_just_gone_says_so_and_succeeds_after_its_return(
    make_store, redis_server, poll
):
    store = make_store()
    store.add("a", "k")
    redis_server.kill()
    with pytest.raises(Unavailable):
        store.add("b", "k2")
    redis_server.start()
    poll(lambda: store.trouble is None)
    store.add("b", "k2")
    assert titles(store) == ["b", "a"]


def test_a_redis_that_hangs_counts_as_away_until_it_answers_again(make_store, redis_server, poll):
    store = make_store()
    store.add("a", "k")
    assert titles(store) == ["a"]
    redis_server.pause()
    assert not store.read().live
    assert titles(store) == ["a"]
    assert not store.ping(0.035)
    with pytest.raises(Unavailable):
        store.add("b", "k2")
    redis_server.resume()
    poll(lambda: store.read().live)
    assert store.ping(5)


def test_an_add_whose_answer_was_lost_is_not_added_again(make_store, redis_server, tmp_path, poll):
    unsure = Store(redis_server.settings, tmp_path / "unsure")
    unsure.add("first", "k0")
    redis_server.pause()
    with pytest.raises(Unavailable):
        unsure.add("a", "k")
    redis_server.resume()
    # The command lay in the socket: Redis carries it out now, though the writer was told otherwise.
    poll(lambda: redis_server.client.hlen("product:items") == 2)
    unsure.close()
    again = make_store()
    again.add("a", "k")
    assert titles(again) == ["a", "first"]


def test_every_instance_knows_the_latest_list_before_redis_goes_away(make_store, redis_server, poll):
    writer, idle = make_store("prod1"), make_store("prod2")
    writer.add("a", "k")
    poll(lambda: idle.known.items)
    redis_server.kill()
    assert titles(idle) == ["a"]


def test_a_process_that_starts_without_redis_has_the_list_from_disk(make_store, redis_server, tmp_path, poll):
    before = make_store("prod1")
    before.add("a", "k")
    before.read()
    before.close()
    redis_server.kill()
    after, fresh = make_store("prod1"), make_store("never-seen")
    assert (after.read().live, titles(after)) == (False, ["a"])
    assert fresh.read().listing is None
    redis_server.start()
    poll(lambda: after.read().live and fresh.read().live)
    assert titles(after) == titles(fresh) == ["a"]


def test_a_torn_copy_on_disk_is_left_alone_and_replaced(make_store, redis_server, tmp_path):
    make_store("prod1").add("a", "k")
    (tmp_path / "prod2").mkdir()
    (tmp_path / "prod2" / "list.json").write_text('{"items": [')
    store = make_store("prod2")
    assert titles(store) == ["a"]
    assert json.loads((tmp_path / "prod2" / "list.json").read_text())["items"][0]["title"] == "a"


def test_a_folder_that_cannot_be_written_is_reported_and_costs_nothing_else(make_store, tmp_path):
    (tmp_path / "blocked").write_text("a file where the folder should be")
    store = make_store("blocked")
    store.add("a", "k")
    assert titles(store) == ["a"]
    assert str(tmp_path / "blocked") in store.disk_trouble


def test_an_empty_redis_is_believed_but_the_last_known_list_is_kept_aside(make_store, redis_server, tmp_path):
    store = make_store("prod1")
    store.add("a", "k")
    assert titles(store) == ["a"]
    redis_server.client.flushall()
    assert titles(store) == []
    (aside,) = (tmp_path / "prod1").glob("list.lost-*.json")
    assert [item["title"] for item in json.loads(aside.read_text())["items"]] == ["a"]


def test_another_list_after_a_failover_is_seen_even_when_as_many_writes_led_to_it(make_store, redis_server):
    one, other = make_store("prod1"), make_store("prod2")
    one.add("a", "k")
    assert titles(one) == ["a"]
    redis_server.client.flushall()
    other.add("z", "k")
    assert titles(one) == ["z"]


def test_a_foreign_value_in_the_hash_is_left_out_and_the_rest_is_shown(make_store, redis_server, caplog):
    store = make_store()
    store.add("a", "k")
    redis_server.client.hset("product:items", "99", "no item")
    redis_server.client.set("product:token", "changed")
    assert titles(store) == ["a"]
    assert "no item" in caplog.text


def test_a_redis_that_refuses_writes_still_serves_reads(make_store, redis_server):
    store = make_store()
    store.add("a", "k")
    redis_server.client.config_set("min-replicas-to-write", 1)
    with pytest.raises(Unavailable, match="replicas"):
        store.add("b", "k2")
    assert store.read().live
    assert titles(store) == ["a"]
    redis_server.client.config_set("min-replicas-to-write", 0)
    store.add("b", "k2")
    assert titles(store) == ["b", "a"]


def test_the_rights_in_the_readme_are_enough_and_a_wrong_password_is_only_an_outage(make_store, redis_server):
    redis_server.client.execute_command("ACL", "SETUSER", "product", "reset", *ACL.split())
    redis_server.client.script_flush()
    addresses = redis_server.settings.addresses
    store = make_store("right", RedisSettings(addresses, "product", "salt"))
    item = store.add("a", "k")
    store.change(item.id, Change(title="b", done=True))
    store.remove(item.id)
    store.restore(item.id)
    assert titles(store) == ["b"]
    assert store.ping(5)
    assert redis_server.client.execute_command("ACL", "LOG") == []
    stranger = make_store("wrong", RedisSettings(addresses, "product", "pepper"))
    assert stranger.read().listing is None
    assert "pepper" not in stranger.trouble


def test_any_order_of_changes_from_two_instances_ends_where_a_plain_dictionary_does(make_store, redis_server):
    one, two = make_store("prod1"), make_store("prod2")
    stores = st.sampled_from([one, two])
    ids = st.integers(1, 6)

    class SharedList(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            redis_server.client.flushall()
            self.items: dict[int, tuple[str, bool, int]] = {}
            self.deleted: dict[int, tuple[str, bool, int]] = {}
            self.last = 0

        @rule(store=stores, title=st.sampled_from("ab"), key=st.sampled_from("xyz"))
        def add(self, store, title, key):
            self.last += 1
            self.items[self.last] = (title, False, 1)
            assert store.add(title, f"{self.last}{key}").id == self.last

        @rule(
            store=stores,
            item_id=ids,
            title=st.sampled_from([None, "a", "b"]),
            done=st.sampled_from([None, True, False]),
            version=st.sampled_from([None, 1, 2]),
        )
        def change(self, store, item_id, title, done, version):
            change = Change(title, done, version)
            if item_id not in self.items:
                with pytest.raises(NoSuchItem):
                    store.change(item_id, change)
                return
            old = self.items[item_id]
            if version not in (None, old[2]):
                with pytest.raises(Conflict):
                    store.change(item_id, change)
                return
            new = (title or old[0], old[1] if done is None else done)
            self.items[item_id] = (*new, old[2] + (new != old[:2]))
            store.change(item_id, change)

        @rule(store=stores, item_id=ids)
        def remove(self, store, item_id):
            if item_id in self.items:
                self.deleted[item_id] = self.items.pop(item_id)
                store.remove(item_id)
            else:
                with pytest.raises(NoSuchItem):
                    store.remove(item_id)

        @rule(store=stores, item_id=ids)
        def restore(self, store, item_id):
            if item_id in self.deleted:
                self.items[item_id] = self.deleted.pop(item_id)
            if item_id in self.items:
                store.restore(item_id)
            else:
                with pytest.raises(NoSuchItem):
                    store.restore(item_id)

        @invariant()
        def both_show_the_same(self):
            expected = [(key, *self.items[key]) for key in sorted(self.items, reverse=True)]
            for store in (one, two):
                seen = store.read().listing.items
                assert [(item.id, item.title, item.done, item.version) for item in seen] == expected

    run_state_machine_as_test(
        SharedList, settings=hypothesis_settings(max_examples=40, stateful_step_count=25, deadline=None)
    )
