"""What the fleet does about a machine's pressure; and that nothing a machine says can say more than its words."""

from __future__ import annotations

import json

import pytest
import salt.config
import salt.loader
import salt.template
import salt.utils.reactor
import yaml
from host import end_reactor
from hypothesis import given, settings
from hypothesis import strategies as st
from saltern.events import Event, Rejected
from saltern.fleet import REPOSITORY
from saltern.reflexes import alert_of, canary_reason, understand
from saltern.rejections import alert_of as rejection

RULES = {"staging": ["cpu", "memory"], "proxy": ["cpu"]}
CPU = {
    "percent": 93.1,
    "high": 50,
    "low": 40,
    "cpus": 1.0,
    "services": {"product": 91.0, "redis": 1.5},
    "since": 1.0,
}
MEMORY = {
    "percent": 61.0,
    "high": 50,
    "low": 45,
    "used_mib": 244.2,
    "limit_mib": 400.0,
    "services": {"product": 200.0},
}


def event(machine: str = "staging1", what: str = "cpu/high", values: dict | None = None) -> Event:
    return Event(machine, f"salt/beacon/{machine}/{what}", CPU if values is None else values, 1)


@pytest.mark.parametrize(
    ("machine", "what", "reason"),
    [
        ("staging1", "cpu/high", "staging1 cpu 93.1 % (limit 50 %)"),
        ("staging1", "memory/high", "staging1 memory 93.1 % (limit 50 %)"),
        ("proxy1", "cpu/high", "proxy1 cpu 93.1 % (limit 50 %)"),
        ("proxy1", "memory/high", ""),
        ("prod1", "cpu/high", ""),
        ("redis1", "memory/high", ""),
        ("ops1", "cpu/high", ""),
        ("staging1", "cpu/ok", ""),
        ("staging1", "cpu/blind", ""),
    ],
)
def test_the_canary_goes_off_for_the_pressure_of_staging_and_the_proxy(machine, what, reason):
    assert canary_reason(understand(event(machine, what)), RULES) == reason
    assert canary_reason(understand(event(machine, what)), {}) == ""


@pytest.mark.parametrize(
    ("machine", "what", "values", "expected"),
    [
        ("staging1", "cpu/high", CPU,
         ("CpuHigh", "pressure on staging", "warning", "CPU of staging1 is high", "93.1 % of 1 processor", "50 %",
          "most by product 91 %, redis 1.5 %")),
        ("proxy1", "memory/high", MEMORY,
         ("MemoryHigh", "pressure on proxy", "critical", "Memory of proxy1 is high", "61 % 244 of 400 MiB", "50 %",
          "most by product 200 MiB")),
        ("prod12", "cpu/ok", {"percent": 3.0, "high": 50, "cpus": 2.0},
         ("CpuHigh", "pressure on prod", "warning", "CPU of prod12 is high", "3 % of 2 processors", "50 %", "")),
        ("prod1", "cpu/blind", {"problem": "/sys/x: no\nnumber"},
         ("CpuBlind", "blind", "warning", "CPU of prod1 cannot be read: /sys/x: no?number", "", "", "")),
    ],
)  # fmt: skip
def test_an_alert_says_what_where_and_how_much(machine, what, values, expected):
    alert = alert_of(understand(event(machine, what, values)))
    assert alert.subject == machine
    assert (
        alert.name,
        alert.cause,
        alert.severity,
        alert.summary,
        alert.value,
        alert.limit,
        alert.details,
    ) == expected


@pytest.mark.parametrize(
    ("what", "values", "words"),
    [
        ("cpu/low", CPU, "not about cpu or memory"),
        ("disk/high", CPU, "not about cpu or memory"),
        ("cpu", CPU, "not about cpu or memory"),
        ("cpu/high/high", CPU, "not about cpu or memory"),
        ("cpu/high", {}, "percent is not between 0 and 100"),
        ("cpu/high", {**CPU, "percent": "93"}, "percent is not between"),
        ("cpu/high", {**CPU, "percent": True}, "percent is not between"),
        ("cpu/high", {**CPU, "percent": 101}, "percent is not between"),
        ("cpu/high", {**CPU, "high": float("nan")}, "high is not between"),
        ("cpu/high", {**CPU, "services": "product"}, "services is not a short table"),
        ("cpu/high", {**CPU, "services": {str(n): n for n in range(99)}}, "services is not a short table"),
    ],
)
def test_nonsense_is_rejected_though_it_is_signed(what, values, words):
    with pytest.raises(Rejected, match=words):
        understand(event(what=what, values=values))


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(["percent", "high", "services", "cpus", "used_mib", "limit_mib", "problem"])


@given(st.dictionaries(FIELDS, JUNK), st.sampled_from(["cpu/high", "memory/ok", "cpu/blind"]))
def test_whatever_a_machine_signs_is_a_printable_alert_or_rejected(values, what):
    try:
        alert = alert_of(understand(event(what=what, values={**CPU, **values})))
    except Rejected:
        return
    for text in (alert.summary, alert.value, alert.limit, alert.details):
        assert text.isprintable() and len(text) < 2000


@given(st.text() | JUNK, st.text() | JUNK, st.text())
def test_an_alert_about_a_forgery_holds_no_more_than_printable_words(tag, minion_id, error):
    alert = rejection(tag, minion_id, error)
    assert alert.subject == "unknown" or minion_id == alert.subject
    assert all(text.isprintable() for text in (alert.subject, alert.summary, alert.value, alert.details))


# The reactor's files ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def render(tmp_path_factory):
    """Render a file of reactor/ as Salt's reactor does."""
    options = salt.config.master_config(None)
    options.update(cachedir=str(tmp_path_factory.mktemp("cache")), file_roots={"base": []})
    renderers = salt.loader.render(options, {})

    def rendered(name: str, tag: str, data: dict) -> dict:
        return salt.template.compile_template(
            str(REPOSITORY / "reactor" / name),
            renderers,
            "jinja|yaml",
            [],
            [],
            saltenv="base",
            tag=tag,
            data=data,
        )

    return rendered


NASTY = st.sampled_from([
    "{{ 7 * 7 }}", "{% for x in range(9) %}", "a: b", "- x", "*", "&a *a", "!!python/object/apply:os.system [id]", "'",
    '"', "\\", "\n- evil: 1\n", "\u2028", "\x00", "\x7f", "\x85", "\ud800", "é", "null", "yes", "1e3", "#", "{#", "%}",
])  # fmt: skip
PAYLOADS = st.dictionaries(
    NASTY | st.text(max_size=9),
    NASTY | st.integers() | st.booleans() | st.none() | st.text(max_size=9),
    max_size=4,
)


@pytest.mark.parametrize(
    ("file", "function"),
    [("canary_off.sls", "runner.reflex.canary_off"), ("alert.sls", "runner.alert.feel")],
)
@settings(max_examples=60, deadline=None)
@given(
    tag=NASTY | st.text(max_size=9),
    sender=NASTY | st.none() | st.integers() | st.binary(max_size=3),
    payload=PAYLOADS,
)
def test_what_an_event_carries_reaches_the_runner_as_it_is_and_as_nothing_else(
    render, file, function, tag, sender, payload
):
    data = {**payload, "id": sender}
    (reaction,) = render(file, tag, data).values()
    assert list(reaction) == [function]
    assert reaction[function][0] == {"args": [{"tag": tag}, {"minion_id": sender}, {"payload": data}]}


def test_an_event_without_a_sender_reaches_the_check_too(render):
    (reaction,) = render("alert.sls", "salt/beacon/prod1/cpu/high", {"x": 1}).values()
    assert reaction["runner.alert.feel"][0]["args"][1] == {"minion_id": None}


def test_the_reactor_hears_what_turns_the_canary_off_and_what_is_seldom(tmp_path, request):
    options = salt.config.master_config(None)
    options.update(
        cachedir=str(tmp_path), file_roots={"base": []}, sock_dir=str(tmp_path), pki_dir=str(tmp_path)
    )
    text = (REPOSITORY / "etc/master").read_text().replace("${repository}", str(REPOSITORY))
    options["reactor"] = yaml.safe_load(text)["reactor"]
    reactor = salt.utils.reactor.Reactor(options)
    request.addfinalizer(lambda: end_reactor(reactor))
    for tag, expected in (
        ("salt/beacon/staging1/cpu/high", ["canary_off"]),
        ("salt/beacon/proxy1/memory/high", ["canary_off"]),
        # A storm would stall the reactor: these are the engine's.
        ("salt/beacon/prod1/cpu/high", []),
        ("salt/beacon/staging1/cpu/ok", []),
        ("salt/beacon/staging1/cpu/blind", ["feel"]),
    ):
        chunks = reactor.reactions(tag, {"id": tag.split("/")[2]}, reactor.list_reactors(tag))
        assert [chunk["fun"].rpartition(".")[2] for chunk in chunks] == expected


def test_what_a_beacon_signs_survives_the_way_through_the_reactor(render):
    data = {
        "machine": "prod1",
        "counter": 1795223800437027984,
        "values": {**CPU, "since": 1795223800.436},
        "id": "prod1",
    }
    (reaction,) = render("alert.sls", "salt/beacon/prod1/cpu/high", data).values()
    assert json.dumps(reaction["runner.alert.feel"][0]["args"][2]["payload"]) == json.dumps(data)
