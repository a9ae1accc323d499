"""Writing the flag set on a real Redis: compare-and-set, history, undo, and what a change leaves behind."""

import json
import threading

import pytest
import redis
from openfeature_redis import flagset
from openfeature_redis.flagset import (
    BadFlagSet,
    Confirm,
    Conflict,
    Names,
    NoSuchFlag,
    Unconfirmed,
    Unrecorded,
)

pytestmark = pytest.mark.functional

COLOUR = {"state": "ENABLED", "variants": {"black": "#000", "blue": "#00f"}, "defaultVariant": "black"}
LAYOUT = {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "off"}
BY = {"who": "ana", "why": "test"}


def document(**flags):
    return {"flags": flags or {"colour": COLOUR, "layout": LAYOUT}}


@pytest.fixture(params=["text", "bytes"])
def client(request, shared_server):
    client = redis.Redis(port=shared_server.port, decode_responses=request.param == "text")
    client.flushall()
    return client


@pytest.fixture
def filled(client):
    flagset.write(client, document(), **BY)
    return client


def colour(client):
    return flagset.get_flag(client, "colour")["defaultVariant"]


def test_nothing_is_there_at_first(client):
    assert flagset.list_flags(client) == []
    assert flagset.history(client) == []
    assert flagset.read(client).text is None


def test_a_write_sets_the_document_bumps_the_revision_and_publishes_it(client, shared_server):
    listener = shared_server.client().pubsub()
    listener.subscribe("saltern:revision")
    assert listener.get_message(timeout=5)["type"] == "subscribe"
    change = flagset.write(client, document(), who="ana", why="first flags")
    assert change.revision == 1
    assert change.changed == ("colour", "layout")
    assert listener.get_message(timeout=5)["data"] == "1"
    plain = shared_server.client()
    assert plain.get("saltern:revision") == "1"
    assert json.loads(plain.get("saltern:flags")) == document()


def test_the_prefix_is_configurable(client):
    names = Names("shop:")
    flagset.write(client, document(), names=names, **BY)
    assert sorted(key if isinstance(key, str) else key.decode() for key in client.scan_iter()) == [
        "shop:flags",
        "shop:flags:history",
        "shop:revision",
    ]


def test_the_list_shows_every_flag(filled):
    rows = flagset.list_flags(filled)
    assert [(row.key, row.state, row.default, row.targeted) for row in rows] == [
        ("colour", "ENABLED", "black", False),
        ("layout", "ENABLED", "off", False),
    ]


def test_setting_a_default_changes_that_flag_only(filled):
    change = flagset.set_default(filled, "colour", "blue", **BY)
    assert change.changed == ("colour",)
    assert flagset.read(filled).document == document(
        colour={**COLOUR, "defaultVariant": "blue"}, layout=LAYOUT
    )


def test_disabling_and_enabling_a_flag(filled):
    flagset.disable(filled, "layout", **BY)
    assert flagset.get_flag(filled, "layout")["state"] == "DISABLED"
    flagset.enable(filled, "layout", **BY)
    assert flagset.get_flag(filled, "layout") == LAYOUT


def test_doing_it_twice_is_the_same_as_once(filled):
    first = flagset.set_default(filled, "colour", "blue", **BY)
    again = flagset.set_default(filled, "colour", "blue", **BY)
    assert (again.revision, again.changed) == (first.revision, ())
    assert len(flagset.history(filled)) == 2


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda c: flagset.get_flag(c, "color"), "there is no flag 'color'; there are: colour, layout"),
        (lambda c: flagset.set_default(c, "color", "blue", **BY), "there is no flag 'color'"),
        (
            lambda c: flagset.set_default(c, "colour", "red", **BY),
            "colour has no variant 'red'; it has black, blue",
        ),
        (lambda c: flagset.disable(c, "color", **BY), "there is no flag 'color'"),
        (lambda c: flagset.undo(c, who="ana", revision=77), "revision 77 is not a change of the flags"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(filled, action, message):
    before = filled.get("saltern:flags")
    with pytest.raises(NoSuchFlag, match=message):
        action(filled)
    assert filled.get("saltern:flags") == before


def test_a_bad_set_is_refused_whole(filled):
    bad = document(colour=COLOUR, layout={**LAYOUT, "defaultVariant": "maybe"})
    with pytest.raises(BadFlagSet, match=r"\$\.flags\.layout\.defaultVariant"):
        flagset.write(filled, bad, **BY)
    assert flagset.read(filled).document == document()
    assert flagset.read(filled).revision == 1


@pytest.mark.parametrize(("who", "why", "missing"), [("", "x", "who"), ("ana", " ", "why")])
def test_nobody_writes_without_saying_who_and_why(client, who, why, missing):
    with pytest.raises(ValueError, match=f"{missing} is empty"):
        flagset.write(client, document(), who=who, why=why)
    assert client.keys() == []


def test_a_write_over_something_newer_is_a_conflict(filled):
    seen = flagset.read(filled)
    flagset.set_default(filled, "colour", "blue", **BY)
    with pytest.raises(Conflict):
        flagset.write(filled, document(colour=COLOUR), expected=seen, **BY)
    assert colour(filled) == "blue"


def test_a_first_write_over_somebody_elses_first_write_is_a_conflict(client):
    seen = flagset.read(client)
    flagset.write(client, document(), **BY)
    with pytest.raises(Conflict):
        flagset.write(client, document(colour=COLOUR), expected=seen, **BY)


def test_edits_of_many_writers_at_once_are_all_kept(client, shared_server):
    keys = [f"flag{n}" for n in range(6)]
    flagset.write(client, document(**dict.fromkeys(keys, LAYOUT)), **BY)
    start = threading.Barrier(len(keys))
    failures = []

    def writer(key):
        own = shared_server.client()
        start.wait()
        try:
            flagset.set_default(own, key, "on", who=key, why="race")
        except Conflict as conflict:
            failures.append(conflict)

    threads = [threading.Thread(target=writer, args=(key,)) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert {row.default for row in flagset.list_flags(client)} == {"on"}
    assert flagset.read(client).revision == 1 + len(keys)


def test_the_history_says_who_why_when_and_what(filled):
    flagset.set_default(filled, "colour", "blue", who="bob", why="launch")
    newest, oldest = flagset.history(filled)
    assert (newest.revision, newest.who, newest.why, newest.changed) == (2, "bob", "launch", ("colour",))
    assert (oldest.revision, oldest.who) == (1, "ana")
    seconds, micros = filled.time()
    assert 0 <= seconds + micros / 1e6 - newest.when < 60
    assert flagset.history(filled, limit=1) == [newest]


def test_undo_restores_what_was_there_and_can_itself_be_undone(filled):
    flagset.set_default(filled, "colour", "blue", who="bob", why="launch")
    undone = flagset.undo(filled, who="ana")
    assert colour(filled) == "black"
    assert undone.revision == 3
    assert flagset.history(filled)[0].why == "undo of revision 2 (launch)"
    flagset.undo(filled, who="ana", why="after all")
    assert colour(filled) == "blue"


def test_undo_back_to_before_a_revision(filled):
    flagset.set_default(filled, "colour", "blue", **BY)
    flagset.disable(filled, "layout", **BY)
    flagset.undo(filled, who="ana", revision=2)
    assert flagset.read(filled).document == document()


def test_undo_of_the_very_first_write_leaves_no_flags(filled):
    flagset.undo(filled, who="ana")
    assert flagset.list_flags(filled) == []


def test_undo_with_nothing_to_undo(client):
    with pytest.raises(NoSuchFlag, match="nothing has been changed yet"):
        flagset.undo(client, who="ana")


def test_undo_does_not_overwrite_an_edit_made_past_the_history(filled):
    past = json.dumps(document(colour=COLOUR))
    filled.set("saltern:flags", past)
    with pytest.raises(Unrecorded, match="would lose somebody's edit"):
        flagset.undo(filled, who="ana")
    assert flagset.read(filled).text == past


@pytest.mark.parametrize("past", ["nonsense", '{"flags": {}}', None])
def test_what_was_written_past_the_history_is_taken_back_by_a_change_like_any_other(filled, past):
    filled.delete("saltern:flags") if past is None else filled.set("saltern:flags", past)
    change = flagset.restore(filled, who="ana", why="mend")
    assert (change.revision, change.changed) == (2, ("colour", "layout"))
    assert flagset.read(filled).document == document()
    assert flagset.history(filled)[0].why == "mend"
    assert flagset.restore(filled, who="ana", why="again").changed == (), "it is in force already"


def test_there_is_nothing_to_restore_before_the_first_change(client):
    with pytest.raises(NoSuchFlag, match="nothing to restore"):
        flagset.restore(client, who="ana", why="mend")


def test_a_broken_document_can_be_written_over_but_not_edited(client):
    client.set("saltern:flags", "nonsense")
    with pytest.raises(BadFlagSet, match="saltern:flags holds no JSON"):
        flagset.set_default(client, "colour", "blue", **BY)
    flagset.write(client, document(), **BY)
    assert flagset.read(client).document == document()


def test_letters_of_every_script_survive(client):
    flag = {"state": "ENABLED", "variants": {"it": "Grüße, 世界"}, "defaultVariant": "it"}
    flagset.write(client, document(greeting=flag), who="Zoë", why="naïve test")
    assert flagset.get_flag(client, "greeting") == flag
    assert flagset.history(client)[0].who == "Zoë"


def test_a_confirmed_write_is_on_a_replica(start_redis, until):
    primary = start_redis()
    replica = start_redis("--replicaof", "127.0.0.1", str(primary.port))
    until(lambda: "state=online" in str(primary.client().info("replication")) or
          primary.client().info("replication")["connected_slaves"], "the replica")  # fmt: skip
    flagset.write(primary.client(), document(), confirm=Confirm(replicas=1, timeout=5), **BY)
    assert json.loads(replica.client().get("saltern:flags")) == document()


def test_an_unconfirmed_write_says_so(server):
    with pytest.raises(Unconfirmed, match="revision 1 is written, but 0 of 1 replicas confirmed it"):
        flagset.write(server.client(), document(), confirm=Confirm(replicas=1, timeout=0.05), **BY)
    assert flagset.read(server.client()).document == document()


def test_a_replica_refuses_writes(start_redis, until):
    primary = start_redis()
    replica = start_redis("--replicaof", "127.0.0.1", str(primary.port))
    until(lambda: replica.client().info("replication")["master_link_status"] == "up", "the replica")
    with pytest.raises(redis.ResponseError, match=r"READONLY|read only"):
        flagset.write(replica.client(), document(), **BY)
