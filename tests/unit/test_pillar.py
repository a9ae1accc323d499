"""The pillar: what is refused and in which words, and what each machine is told."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from saltern import artifact, controller, judge, pillar, secrets, steps
from saltern.errors import SalternError
from saltern.fleet import REPOSITORY, role_of

SHIPPED = pillar.load(REPOSITORY / "pillar")
LEFT_OUT = object()


def changed(path: str, value: object) -> dict[str, Any]:
    """The shipped pillar with one value of it replaced or left out."""
    values = copy.deepcopy(SHIPPED)
    *above, last = path.split(".")
    place = values
    for key in above:
        place = place[key]
    if value is LEFT_OUT:
        del place[last]
    else:
        place[last] = value
    return values


def test_the_pillar_we_ship_has_no_fault():
    assert list(pillar.faults(SHIPPED)) == []


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        (
            "traffic.canary.share",
            130,
            "pillar/traffic.sls: traffic.canary.share: 130 is greater than the maximum of 100 "
            "(percent of requests, 0 to 100)",
        ),
        (
            "traffic.canary.share",
            LEFT_OUT,
            "pillar/traffic.sls: traffic.canary.share: missing; git shows its default",
        ),
        ("traffic.canary.shares", 5, "pillar/traffic.sls: traffic.canary.shares: no such setting; share is meant?"),
        (
            "traffic.drain.xyzzy",
            5,
            "pillar/traffic.sls: traffic.drain.xyzzy: no such setting; there are limit_s",
        ),
        ("trafic", {}, "pillar/trafic.sls: trafic: no such setting; traffic is meant?"),
        ("traffic", LEFT_OUT, "pillar/traffic.sls: traffic: missing; git shows its default"),
        ("traffic.listen", None, "pillar/traffic.sls: traffic.listen: None is not of type 'object'"),
        (
            "traffic.timeout.client_s",
            float("nan"),
            "pillar/traffic.sls: traffic.timeout.client_s: nan is not of type 'integer' (seconds, 1 to 86400)",
        ),
        (
            "traffic.canary.settle_s",
            float("nan"),
            "pillar/traffic.sls: traffic.canary.settle_s: not a number",
        ),
        (
            "traffic.check.path",
            "/health\n bind *:22",
            "pillar/traffic.sls: traffic.check.path: '/health\\n bind *:22' does not match "
            "'^/[A-Za-z0-9._~/?=&-]*$' (a path such as /health)",
        ),
        (
            "traffic.check.path",
            "/health\n",
            "pillar/traffic.sls: traffic.check.path: '/health\\n' is not one printable line",
        ),
        (
            "traffic.metrics.port",
            80,
            "pillar/traffic.sls: traffic.metrics.port: 80 is traffic.listen.port already; another port is right",
        ),
        (
            "admin.port",
            8405,
            "pillar/admin.sls: admin.port: 8405 is traffic.metrics.port already; another port is right",
        ),
        (
            "canary.judge.tolerance",
            0.9,
            "pillar/canary.sls: canary.judge.tolerance: 0.9 is less than the minimum of 1 "
            "(a ratio, canary to production, 1 to 100)",
        ),
        (
            "canary.judge.suspicion",
            0.001,
            "pillar/canary.sls: canary.judge: suspicion: 0.001 is below false_alarm 0.01; "
            "what fails must at least be suspicious",
        ),
        (
            "canary.steps.shares",
            [60, 30, 100],
            "pillar/canary.sls: canary.steps: shares [60, 30, 100] must rise from at least 1 to 100, "
            "for example [5, 10, 30, 60, 100]",
        ),
        (
            "canary.steps.pause_before",
            [7],
            "pillar/canary.sls: canary.steps: pause_before 7 is not one of the shares [5, 10, 30, 60, 100]",
        ),
        (
            "redis.appendfsync",
            False,
            "pillar/redis.sls: redis.appendfsync: False is not one of ['always', 'everysec', 'no'] "
            "(no must stand in quotes)",
        ),
        (
            "ops.group_wait",
            "1s",
            "pillar/ops.sls: ops.group_wait: '1s' is not of type 'number' (seconds, 0 to 31536000)",
        ),
        (
            "product.port",
            True,
            "pillar/product.sls: product.port: True is not of type 'integer' (a TCP port, 1 to 65535)",
        ),
    ],
)  # fmt: skip
def test_a_fault_is_one_line_with_file_key_and_remedy(path, value, line):
    assert list(pillar.faults(changed(path, value))) == [line]


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("rollout.batch", 0, "(a number of machines, or per cent such as 40%)"),
        ("rollout.max_unavailable", "0%", "(a number of machines, or per cent such as 40%)"),
        ("rollout.order", "random", "(load or id)"),
        ("rollout.freeze", [{"days": ["sunday"], "reason": "r"}], "'sunday' is not one of"),
        (
            "rollout.freeze",
            [{"hours": ["22:00", "24:00"], "reason": "r"}],
            '(a time in quotes, such as "22:00")',
        ),
        ("rollout.freeze", [{"reason": "always"}], "rollout.freeze.0"),
        (
            "rollout.freeze",
            [{"days": ["sat"], "dates": ["2026-01-01", "2026-01-02"]}],
            "rollout.freeze.0.reason: missing",
        ),
        ("rollout.gates.errors_percent", 101, "(percent, 0 to 100)"),
        ("rollout.version_path", "version", "(a path, such as /version)"),
    ],
)
def test_how_things_are_rolled_is_checked_before_any_machine_gets_it(path, value, words):
    (line,) = pillar.faults(changed(path, value))
    assert line.startswith("pillar/rollout.sls: rollout.") and words in line


def test_while_a_release_is_rolled_a_machine_has_one_of_its_own(fleet):
    own = artifact.Artifact("rown", "5" * 64, "artifacts/rown.tar.gz")
    artifact.want(fleet, {"prod1": own})
    assert pillar.for_machine(fleet, "prod1")["release"]["id"] == "rown"
    assert pillar.for_machine(fleet, "prod2")["release"]["id"] == "r0123456789ab"


@pytest.mark.parametrize("name", ["root", "Joe", "mailsink", "a b", "-a", ""])
def test_an_operators_name_is_not_the_systems(name):
    (line,) = pillar.faults(changed("common.users", {name: []}))
    assert line.startswith("pillar/common.sls: common.users: ")
    assert line.endswith("none of the system's own)")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"username": "fleet"}, "password_file: empty, and fleet needs a password"),
        (
            {"username": "fleet", "password_file": "/root/mail", "require_tls": False},
            "require_tls: false, and a password goes over TLS alone; true is right",
        ),
        ({"username": "fleet", "password_file": "/root/mail"}, None),
    ],
)
def test_a_password_at_the_smarthost_is_whole_and_goes_over_tls(changes, line):
    values = changed("ops.mail", {**SHIPPED["ops"]["mail"], **changes})
    assert list(pillar.faults(values)) == ([f"pillar/ops.sls: ops.mail.{line}"] if line else [])


def test_every_fault_is_found_and_the_first_is_told_with_their_number():
    values = changed("traffic.canary.share", 130)
    values["ops"]["alertmanager_port"] = 0
    assert len(list(pillar.faults(values))) == 2
    with pytest.raises(SalternError, match=r"pillar/ops\.sls.*\(and 1 more\)$"):
        pillar.check(values)


def test_keys_with_an_underscore_are_somebody_elses():
    assert list(pillar.faults({**SHIPPED, "_site": {"anything": 1}, "_errors": []})) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def leaves(value: object, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(value, Mapping) or not value:
        return [path]
    return [found for key, each in value.items() for found in leaves(each, (*path, key))]


@given(st.sampled_from(leaves(SHIPPED)), JSON)
def test_any_value_anywhere_is_accepted_or_refused_in_lines_that_name_its_key(path, value):
    for line in pillar.faults(changed(".".join(path), value)):
        assert line.startswith(f"pillar/{path[0]}.sls: {path[0]}.")
        assert "\n" not in line


# The schema and the code that uses the numbers must agree -----------------------------------------------------


def properties(*path: str) -> dict[str, dict]:
    found = pillar.schema()["properties"]
    for key in path:
        found = found[key]["properties"]
    return found


def test_the_judge_accepts_exactly_what_the_schema_accepts():
    schema = properties("canary", "judge")
    assert {n: (s["minimum"], s["maximum"]) for n, s in schema.items()} == judge._RANGES
    kinds = {spec.name: "integer" if spec.type == "int" else "number" for spec in fields(judge.Thresholds)}
    assert {n: s["type"] for n, s in schema.items()} == kinds


def test_the_shipped_canary_is_the_code_s_default():
    assert judge.Thresholds().with_values(SHIPPED["canary"]["judge"]) == judge.Thresholds()
    assert steps.Plan.from_data(SHIPPED["canary"]["steps"]) == steps.Plan()
    assert set(properties("canary", "steps")) == {spec.name for spec in fields(steps.Plan)}


@pytest.mark.parametrize("section", ["controller", "canary", "drain"])
def test_the_controller_accepts_exactly_what_the_schema_accepts(section):
    known = controller._SECTIONS[section]
    compared = 0
    for name, schema in properties("traffic", section).items():
        if name in known:
            kind, low, high = known[name]
            assert (schema["minimum"], schema["maximum"]) == (low, high), name
            assert schema["type"] == ("integer" if kind is int else "number"), name
            compared += 1
    assert compared >= 1


def test_the_schema_describes_every_value_and_closes_every_table():
    def walk(schema: dict, path: str) -> None:
        if schema.get("type") == "object":
            assert "additionalProperties" in schema, path
            for name, inner in schema.get("properties", {}).items():
                walk(inner, f"{path}.{name}")
        elif "enum" not in schema:
            resolved = pillar.schema()["$defs"][schema["$ref"].split("/")[-1]] if "$ref" in schema else schema
            assert resolved.get("description"), path

    walk(pillar.schema(), "pillar")


# Files --------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(REPOSITORY / "pillar", tmp_path / "pillar")


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("ops.sls", "ops: [", "ops.sls: not YAML: while parsing"),
        ("ops.sls", "ops:\n\tport: 1", "ops.sls: not YAML: while scanning"),
        ("ops.sls", "", "ops.sls: holds NoneType; a table of settings is right"),
        ("ops.sls", "- ops", "ops.sls: holds list; a table of settings is right"),
        ("common.sls", "redis: {}", "common.sls: redis: not a setting of this file; it holds common alone"),
        ("top.sls", "base: 3", "top.sls: no `base:` with lists of files"),
        ("top.sls", "prod: {}", "top.sls: no `base:` with lists of files"),
        ("top.sls", "base: {'*': [common]}", "pillar/redis.sls: redis: missing"),
    ],
)
def test_a_file_that_is_no_pillar_is_named(folder, file, text, words):
    (folder / file).write_text(text)
    with pytest.raises(SalternError) as refused:
        pillar.load(folder)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_missing_is_named_with_the_remedy(folder):
    (folder / "traffic.sls").unlink()
    with pytest.raises(
        SalternError, match=r"pillar/traffic\.sls: missing; `git checkout pillar` brings it back"
    ):
        pillar.load(folder)


def test_a_file_of_bytes_that_are_no_text_is_named(folder):
    (folder / "ops.sls").write_bytes(b"ops: \xff")
    with pytest.raises(SalternError, match=r"ops\.sls: not YAML"):
        pillar.load(folder)


def test_an_operator_may_add_files_of_their_own(folder):
    top = yaml.safe_load((folder / "top.sls").read_text())
    top["base"]["*"].append("site")
    (folder / "top.sls").write_text(yaml.safe_dump(top))
    (folder / "site.sls").write_text("_site: {colour: red}")
    assert pillar.load(folder) == {**SHIPPED, "_site": {"colour": "red"}}


# What a machine is told ---------------------------------------------------------------------------------------


def strings(value: object) -> set[str]:
    if isinstance(value, Mapping):
        return {found for each in value.values() for found in strings(each)}
    return {value} if isinstance(value, str) else set()


MAY_KNOW = {
    "proxy1": {"controller"},
    "redis1": {"replica", "sentinel"},
    "redis2": {"replica", "sentinel"},
    "prod1": {"product", "flags-reader", "observer"},
    "staging1": {"product", "flags-reader", "observer"},
    "ops1": {"observer"},
}


def test_only_ops_is_told_the_password_at_the_smarthost_and_a_missing_file_is_named(fleet, tmp_path):
    folder = shutil.copytree(REPOSITORY / "pillar", tmp_path / "mail")
    values = yaml.safe_load((folder / "ops.sls").read_text())
    values["ops"]["mail"].update(username="fleet", password_file=str(tmp_path / "password"))
    (folder / "ops.sls").write_text(yaml.safe_dump(values))
    mailing = replace(fleet, pillar_dir=folder)
    with pytest.raises(SalternError, match=r"ops\.mail\.password_file: .*password cannot be read"):
        pillar.for_machine(mailing, "ops1")
    (tmp_path / "password").write_text("s3cret\n")
    assert pillar.for_machine(mailing, "ops1")["secrets"]["smarthost"] == "s3cret"
    assert "s3cret" not in strings(pillar.for_machine(mailing, "prod1"))


@pytest.mark.parametrize("machine", MAY_KNOW)
def test_a_machine_is_told_its_own_secrets_and_no_others(fleet, machine):
    kept = secrets.load(fleet)
    told = strings(pillar.for_machine(fleet, machine))
    known = {user for user, password in kept["redis"].items() if password in told}
    assert known == MAY_KNOW[machine]
    keys = {name for name in fleet.inventory() if secrets.event_key(kept["events"], name) in told}
    assert keys == {machine}
    assert kept["events"] not in told
    pipeline = {name for name, value in kept["pipeline"].items() if value in told}
    # The key that pushes is nobody's but the person's at this host.
    assert pipeline == ({"host_key", "token"} if role_of(machine) == "ops" else set())
    assert (set(kept["admin"].values()) <= told) == (role_of(machine) == "proxy")
    assert set(kept["admin"].values()) & told in (set(), set(kept["admin"].values()))


def test_a_redis_machine_can_check_every_password_and_knows_the_hashes_only(fleet):
    hashes = pillar.for_machine(fleet, "redis1")["secrets"]["redis_sha256"]
    kept = secrets.load(fleet)["redis"]
    assert hashes == {user: hashlib.sha256(password.encode()).hexdigest() for user, password in kept.items()}


def test_machines_of_a_pool_are_told_their_release_and_nobody_is_told_of_them(fleet):
    prod, staging = pillar.for_machine(fleet, "prod1"), pillar.for_machine(fleet, "staging1")
    assert (prod["machine"]["pool"], prod["release"]["id"]) == ("prod", "r0123456789ab")
    assert (staging["machine"]["pool"], staging["release"]["id"]) == ("canary", "r123456789abc")
    assert prod["release"]["source"] == "salt://artifacts/r0123456789ab.tar.gz"
    for machine in fleet.inventory():
        told = pillar.for_machine(fleet, machine)
        assert set(told["fleet"]["hosts"]) == {"proxy1", "redis1", "redis2", "ops1"}
        assert ("release" in told) == (role_of(machine) in ("prod", "staging"))
        assert ("agent" in told) == (role_of(machine) in ("proxy", "ops", "redis"))
        assert told["machine"]["address"] == fleet.addresses()[machine]


def test_what_a_machine_is_told_is_plain_data(fleet):
    for machine in fleet.inventory():
        told = pillar.for_machine(fleet, machine)
        assert json.loads(json.dumps(told)) == told


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        ("web1", "machine 'web1': not a role"),
        ("prod77", "machine prod77: fleet test has none by this name; salt-cloud makes one"),
    ],
)
def test_a_stranger_is_told_nothing(fleet, machine, words):
    with pytest.raises(SalternError, match=words):
        pillar.for_machine(fleet, machine)


def test_a_fleet_without_a_built_release_says_who_builds_it(fleet):
    (fleet.state_dir / "releases.json").unlink()
    with pytest.raises(SalternError, match=r"release of 'prod': none was built; `./saltern up` builds it"):
        pillar.for_machine(fleet, "prod1")


def test_the_revision_of_the_modules_changes_with_any_module_a_machine_loads(tmp_path):
    (tmp_path / "_states").mkdir()
    (tmp_path / "_runners").mkdir()
    seen = {pillar.modules_revision(tmp_path)}
    for name, text in (("_states/a.py", "1"), ("_states/a.py", "2"), ("_states/b.py", "2")):
        (tmp_path / name).write_text(text)
        seen.add(pillar.modules_revision(tmp_path))
    assert len(seen) == 4
    (tmp_path / "_runners" / "r.py").write_text("only the master loads this")
    assert pillar.modules_revision(tmp_path) in seen
