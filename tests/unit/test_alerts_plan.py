"""What Alertmanager is told: tables, and any history of alerts and outages against a model of Alertmanager."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from saltern.alert_store import Alert
from saltern.alertmanager import Look
from saltern.alerts import Memory, Settings, Told, after, hold_s, newcomer, observe, parse_config, plan
from saltern.redis_link import ConfigError

SETTINGS = Settings("test")
HOLD = hold_s(SETTINGS)
NOW = 10_000.0


def alert(firing: bool = True, since: float = NOW - 100, ended: float = 0.0, **more: object) -> Alert:
    return Alert("CpuHigh", "prod1", "pressure", "warning", "CPU of prod1 is high", firing=firing, since=since,
                 ended=ended, **more)  # fmt: skip


ID = alert().fingerprint
OVER = alert(False, ended=NOW - 10)


@pytest.mark.parametrize(
    ("alerts", "told", "expected"),
    [
        ([], {}, []),
        ([alert()], {}, [True]),
        ([alert()], {ID: Told(NOW - 100, NOW - 90, True)}, [True]),
        ([OVER], {}, [True]),
        ([OVER], {ID: Told(NOW - 100, NOW - 90)}, [True]),
        ([OVER], {ID: Told(NOW - 900, NOW - 800, True, NOW - 700, True)}, [True]),
        ([OVER], {ID: Told(NOW - 100, NOW - 90, True)}, [False]),
        ([OVER], {ID: Told(NOW - 100, NOW - 90, True, NOW - 5)}, [False]),
        ([OVER], {ID: Told(NOW - 100, NOW - 90, True, NOW - 5, True)}, []),
        ([alert(until=NOW + 1)], {ID: Told(NOW - 100, NOW - 90, True)}, [True]),
        ([alert(until=NOW - 1)], {ID: Told(NOW - 100, NOW - 90, True)}, [False]),
    ],
    ids=["nothing", "new", "goes on", "over before it was told", "over before it was mailed", "over again",
         "over", "over, told", "over, mailed", "not over by itself yet", "over by itself"],
)  # fmt: skip
def test_an_end_is_told_once_the_beginning_was_mailed(alerts, told, expected):
    assert [each.firing for each in plan(alerts, told, NOW)] == expected


@pytest.mark.parametrize(
    ("memory", "look", "failed", "mailed"),
    [
        (Memory({ID: Told(1, NOW - HOLD)}, Look(5, 0)), Look(5, 0), 0.0, True),
        (Memory({ID: Told(1, NOW - HOLD + 1)}, Look(5, 0)), Look(5, 0), 0.0, False),
        (Memory({ID: Told(1, NOW - HOLD)}, Look(5, 0)), Look(5, 1), NOW, False),
        (Memory({ID: Told(1, NOW - HOLD)}, Look(5, 1), NOW - HOLD + 1), Look(5, 1), NOW - HOLD + 1, False),
        (Memory({ID: Told(1, NOW - HOLD)}, Look(5, 1), NOW - HOLD), Look(5, 1), NOW - HOLD, True),
        (Memory({ID: Told(1, NOW - HOLD)}, Look(5, 0)), Look(9, 0), 0.0, False),
        (Memory({ID: Told(1, NOW - HOLD)}, Look(5, 9)), Look(9, 9), NOW, False),
    ],
    ids=[
        "mailed",
        "too soon",
        "a mail fails",
        "one failed lately",
        "none fails any more",
        "restarted",
        "restarted, a mail fails",
    ],
)
def test_a_beginning_counts_as_mailed_after_its_time_if_no_mail_failed_in_it(memory, look, failed, mailed):
    seen = observe(memory, look, NOW, SETTINGS)
    assert (seen.failed, seen.told[ID].mailed) == (failed, mailed)


def test_an_alertmanager_that_restarted_is_told_again_what_it_had_not_mailed():
    told = {"a": Told(1, 50.0), "b": Told(1, 50.0, True, 60.0), "c": Told(1, 50.0, True, 60.0, True)}
    seen = observe(Memory(told, Look(5)), Look(6), NOW, SETTINGS)
    assert seen.told == {"a": Told(1), "b": Told(1, 50.0, True), "c": told["c"]}


def test_what_redis_no_longer_has_is_forgotten():
    assert after([], [], {ID: Told(1)}, NOW) == {}


def test_a_new_ops_machine_mails_nothing_of_the_past():
    memory = newcomer([OVER, replace(alert(), subject="prod2")], NOW)
    assert [a.subject for a in plan([OVER, replace(alert(), subject="prod2")], memory.told, NOW)] == ["prod2"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([], "not a table"),
        ({"alertmanager": "x", "state": "y"}, "fleet: None is not a text"),
        ({"fleet": "f", "alertmanager": "x", "state": "y", "times": {"resend": 1}}, "times.resend: no such"),
        (
            {"fleet": "f", "alertmanager": "x", "state": "y", "times": {"resend_s": 0}},
            "times.resend_s: 0 is not",
        ),
        (
            {"fleet": "f", "alertmanager": "x", "state": "y", "times": {"believe_s": "1"}},
            "believe_s: '1' is not",
        ),
        (
            {"fleet": "f", "alertmanager": "x", "state": "y", "times": {"believe_s": float("inf")}},
            "inf is not",
        ),
    ],
)
def test_a_wrong_configuration_is_refused_by_name(values, words):
    with pytest.raises(ConfigError) as wrong:
        parse_config(values)
    assert words in str(wrong.value)


@dataclass
class Model:
    """Alertmanager as far as mails go, one group for each alert: what it was told dies with it, what it mailed does
    not; a beginning that is over before it is mailed is dropped.
    """

    started: float = 1.0
    told: dict[str, bool] = field(default_factory=dict)
    flush: dict[str, float] = field(default_factory=dict)
    mailed: dict[str, bool] = field(default_factory=dict)
    failed: int = 0

    def take(self, alerts: list[Alert], now: float) -> None:
        for each in alerts:
            self.told[each.subject] = each.firing
            self.flush.setdefault(each.subject, now + SETTINGS.group_wait_s)

    def run(self, now: float, mail_works: bool) -> list[tuple[str, bool]]:
        sent = []
        for name, at in list(self.flush.items()):
            if now < at:
                continue
            self.flush[name] = now + SETTINGS.group_interval_s
            firing = self.told[name]
            if self.mailed.get(name, False) != firing:
                if not mail_works:
                    self.failed += 1
                    continue
                self.mailed[name] = firing
                sent.append((name, firing))
            if not firing:
                del self.told[name], self.flush[name]
        return sent


class Outages(RuleBasedStateMachine):
    """Alerts begin and end while the mail server, Alertmanager and the daemon come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.alerts: dict[str, Alert] = {}
        self.model: Model | None = Model()
        self.kept = Model()
        self.mail_works = True
        self.memory = Memory({})
        self.mails: list[tuple[str, bool]] = []

    @rule(name=st.sampled_from(["a", "b"]))
    def begins(self, name):
        known = self.alerts.get(name)
        if known is None or not known.firing:
            self.alerts[name] = replace(
                alert(), subject=name, since=self.now, count=known.count + 1 if known else 1
            )

    @rule(name=st.sampled_from(["a", "b"]))
    def ends(self, name):
        if name in self.alerts and self.alerts[name].firing:
            self.alerts[name] = replace(self.alerts[name], firing=False, ended=self.now)

    @rule(seconds=st.integers(1, 120))
    def time_passes(self, seconds):
        for _ in range(seconds):
            self.now += 1
            if self.model is None:
                continue
            self.mails += self.model.run(self.now, self.mail_works)
            if self.now % 5 == 0:
                self.daemon()

    def daemon(self):
        look = Look(self.model.started, self.model.failed)
        memory = observe(self.memory, look, self.now, SETTINGS)
        sent = plan(self.alerts.values(), memory.told, self.now)
        self.model.take(sent, self.now)
        self.memory = replace(memory, told=after(self.alerts.values(), sent, memory.told, self.now))

    @rule(works=st.booleans())
    def mail_server(self, works):
        self.mail_works = works

    @precondition(lambda self: self.model is not None)
    @rule()
    def alertmanager_dies(self):
        self.kept, self.model = Model(self.now, mailed=self.model.mailed), None

    @precondition(lambda self: self.model is None)
    @rule()
    def alertmanager_is_back(self):
        self.model = replace(self.kept, started=self.now)

    @invariant()
    def nothing_is_mailed_twice(self):
        for name in ("a", "b"):
            own = [firing for each, firing in self.mails if each == name]
            assert own == [at % 2 == 0 for at in range(len(own))]

    def teardown(self):
        self.mail_works = True
        if self.model is None:
            self.alertmanager_is_back()
        self.time_passes(5 * int(HOLD) + 60)
        self.nothing_is_mailed_twice()
        for name, each in self.alerts.items():
            own = [firing for other, firing in self.mails if other == name]
            assert own, f"{name} was never mailed"
            assert own[-1] == each.firing, f"the last mail about {name} says {own[-1]}"


def test_an_alert_that_fires_anew_before_its_end_could_be_mailed_is_closed_all_the_same():
    state = Outages()
    state.begins(name="a")
    state.ends(name="a")
    state.time_passes(seconds=43)
    state.mail_server(works=False)
    state.time_passes(seconds=23)
    state.begins(name="a")
    state.ends(name="a")
    state.teardown()


def test_a_mail_that_went_out_says_nothing_of_another_that_failed():
    state = Outages()
    state.begins(name="a")
    state.time_passes(seconds=36)
    state.begins(name="b")
    state.ends(name="b")
    state.mail_server(works=False)
    state.ends(name="a")
    state.time_passes(seconds=35)
    state.teardown()


Outages.TestCase.settings = hypothesis_settings(stateful_step_count=30, deadline=None)
TestOutages = Outages.TestCase
