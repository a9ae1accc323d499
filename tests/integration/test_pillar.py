"""The pillar on its way to real minions: each gets its own, and a wrong one stops every highstate with a clear line."""

from __future__ import annotations

import pytest
import yaml
from saltern import pillar, secrets, up


@pytest.fixture
def edited(fleet, minions):
    """Change a file of the pillar the master serves; it is put back after the test."""
    before = {path: path.read_text() for path in fleet.pillar_dir.glob("*.sls")}

    def edit(name: str, change) -> None:
        path = fleet.pillar_dir / f"{name}.sls"
        text = change(path.read_text())
        path.unlink() if text is None else path.write_text(text)

    yield edit
    for path, text in before.items():
        path.write_text(text)


def setting(*path: str, value: object):
    """A change of one value in a file."""

    def change(text: str) -> str:
        values = yaml.safe_load(text)
        place = values
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        return yaml.safe_dump(values)

    return change


@pytest.mark.parametrize("minion", ["proxy1", "redis1", "prod1", "staging1", "ops1"])
def test_a_minion_gets_the_whole_pillar_and_what_it_alone_may_know(minions, fleet, told, minion):
    got = minions.call(minion, "pillar.items", unmask=True)
    assert got == told(minion)
    assert got["machine"]["id"] == minion
    assert got["machine"]["key"] == secrets.event_key(secrets.load(fleet)["events"], minion)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("traffic", setting("traffic", "canary", "share", value=130),
         "pillar/traffic.sls: traffic.canary.share: 130 is greater than the maximum of 100 (percent of requests, 0"),
        ("traffic", setting("traffic", "canary", "shar", value=3),
         "pillar/traffic.sls: traffic.canary.shar: no such setting; share is meant?"),
        ("product", lambda text: "product: {port: 8080}\n",
         "pillar/product.sls: product.threads: missing; git shows its default (and 1 more)"),
        ("ops", setting("opps", value={}), "pillar/opps.sls: opps: no such setting; ops is meant?"),
    ],
)  # fmt: skip
def test_a_wrong_value_stops_every_highstate_with_the_line_that_names_it(
    minions, edited, name, change, words
):
    edited(name, change)
    for minion in ("prod1", "redis1"):
        refused = minions.call(minion, "state.apply", test=True)
        assert isinstance(refused, list), refused
        assert refused[0] == "Pillar failed to render with the following messages:"
        # What `./saltern up` makes of it is the same line.
        changed, faults = up.outcome(refused)
        assert changed == 0
        assert words in faults[-1]


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("product", lambda text: "product: [", "SLS 'product'"),
        ("product", lambda text: text + "{{ nonsense() }}\n", "SLS 'product'"),
        ("product", lambda text: None, "'product'"),
    ],
)
def test_a_file_that_salt_cannot_read_stops_every_highstate_too(minions, edited, fleet, name, change, words):
    edited(name, change)
    refused = minions.call("prod1", "state.apply", test=True)
    assert isinstance(refused, list), refused
    assert any(words in line for line in refused[1:])
    # `./saltern up` and `doctor`, which read the files themselves, name the file and the place in it.
    with pytest.raises(pillar.SalternError, match=r"product\.sls: (missing|not YAML)"):
        pillar.load(fleet.pillar_dir)


def test_a_machine_that_is_not_in_the_inventory_gets_no_highstate(minions, fleet):
    path = fleet.machines_dir / "ops1" / "machine.json"
    text = path.read_text()
    path.unlink()
    try:
        refused = minions.call("ops1", "state.apply", test=True)
    finally:
        path.write_text(text)
    assert (
        "machine ops1: fleet test has none by this name; salt-cloud makes one" in up.outcome(refused)[1][-1]
    )


def test_once_it_is_right_again_states_are_shown_again(minions):
    assert minions.call("prod1", "state.show_top") == {"base": ["common", "product"]}
