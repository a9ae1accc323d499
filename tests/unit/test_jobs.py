"""Calling functions on machines over the bus: answers are matched, what is missed said again, what hangs is ended."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from saltern import jobs
from saltern.errors import SalternError
from saltern.jobs import Jobs


class Master:
    """Minions that answer as `answers` says; what each was told is in `said`."""

    def __init__(
        self, answers: Mapping[str, Any], deaf: Sequence[str] = (), busy: Sequence[str] = ()
    ) -> None:
        self.answers, self.deaf, self.busy = answers, set(deaf), set(busy)
        self.said: list[tuple[str, tuple[str, ...], tuple]] = []
        self.jobs = Jobs(self.publish)

    def publish(
        self,
        jid: str,
        ids: Sequence[str],
        function: str,
        arguments: Sequence[Any],
        keywords: Mapping[str, Any],
    ) -> None:
        assert jobs.RETURN_TAG.match(f"salt/job/{jid}/ret/prod1")
        first = not any(name == function for name, _, _ in self.said)
        self.said.append((function, tuple(ids), tuple(arguments)))
        for id_ in ids:
            if function == "saltutil.find_job":
                self.answer(jid, id_, {"jid": arguments[0]} if id_ in self.busy else {})
            elif id_ in self.answers and not (first and id_ in self.deaf):
                self.answer(jid, id_, self.answers[id_])

    def answer(self, jid: str, id_: str, value: Any) -> None:
        # Minions answer whenever they like, on the thread that reads the bus.
        event = (f"salt/job/{jid}/ret/{id_}", {"id": id_, "return": value})
        threading.Thread(target=self.jobs.hear, args=event).start()

    def call(self, *ids: str, seconds: float = 2.0, **options: Any) -> dict[str, Any]:
        return self.jobs.call(ids, "state.apply", ["product"], {"queue": True}, seconds=seconds, **options)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "SILENCE_S", 0.05)
    monkeypatch.setattr(jobs, "ASK_S", 0.2)
    monkeypatch.setattr(jobs, "POLL_S", 0.01)


def test_every_machine_answers_for_itself():
    master = Master({"prod1": 1, "prod2": {"a": 2}})
    assert master.call("prod1", "prod2") == {"prod1": 1, "prod2": {"a": 2}}
    assert master.said == [("state.apply", ("prod1", "prod2"), ("product",))]


def test_one_that_says_nothing_is_missing_and_others_are_not():
    master = Master({"prod1": 1})
    assert master.call("prod1", "prod2", seconds=0.1) == {"prod1": 1}
    assert len(master.said) == 1


def test_what_was_missed_is_said_again_to_who_is_not_at_work_on_it():
    master = Master({"prod1": 1, "prod2": 2}, deaf=["prod1"])
    assert master.call("prod1", "prod2", again=True) == {"prod1": 1, "prod2": 2}
    applied = [ids for function, ids, _ in master.said if function == "state.apply"]
    assert applied == [("prod1", "prod2"), ("prod1",)]


def test_what_is_at_work_is_not_told_again_and_is_ended_at_the_deadline():
    master = Master({}, busy=["prod1"])
    assert master.call("prod1", seconds=0.4, again=True) == {}
    functions = [function for function, _, _ in master.said]
    assert functions.count("state.apply") == 1
    assert functions[-1] == "saltutil.kill_job"


def test_answers_to_other_calls_and_other_events_are_nobodys():
    master = Master({"prod1": 1})
    assert not master.jobs.hear("salt/job/20260101000000000000/ret/prod1", {"return": 1})
    assert not master.jobs.hear("salt/beacon/prod1/cpu/high", {})
    assert master.call("prod1") == {"prod1": 1}
    assert not master.jobs.hear("salt/job/20260101000000000000/new", {})


def test_whoever_waits_can_be_called_away():
    def alive() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Master({}).call("prod1", alive=alive)


def test_a_call_that_reaches_nobody_says_so_and_waits_for_nothing():
    def publish(*_: Any) -> None:
        raise SalternError("the master does not answer")

    calls = Jobs(publish)
    with pytest.raises(SalternError, match="the master does not answer"):
        calls.call(["prod1"], "test.ping", seconds=5)
    assert not calls._waiting


def test_no_two_calls_have_the_same_id():
    calls = Jobs(lambda *_: None)
    assert len({calls._new() for _ in range(2000)}) == 2000
