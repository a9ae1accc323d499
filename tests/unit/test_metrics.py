"""Numbers for Prometheus: what the pipeline tells, and that the example asks where something answers."""

from __future__ import annotations

import ipaddress

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from saltern import master
from saltern.fleet import DEFAULT_MACHINES, DEFAULT_SUBNET, FIRST_HOST, REPOSITORY, Fleet, role_of
from saltern.pipeline.metrics import metrics
from saltern.pipeline.records import Build

EXAMPLE = yaml.safe_load((REPOSITORY / "docs" / "prometheus.yml").read_text())


def build(number: int, name: str = "staging", state: str = "passed", **more: object) -> Build:
    return Build(
        f"20261121-0715{number:02d}-abcdef1",
        f"refs/heads/{name}",
        "a" * 40,
        created=float(number),
        state=state,
        **more,
    )


def samples(text: str) -> dict[tuple[str, str], float]:
    """Value by metric and its labels' values, as Prometheus' own parser reads them."""
    return {
        (sample.name, " ".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_pipeline_that_never_built_tells_noughts():
    found = samples(metrics([], 100.0))
    assert found["saltern_builds", "queued"] == found["saltern_builds", "failed"] == 0
    assert found["saltern_build_waiting_seconds", ""] == 0
    assert not any(name == "saltern_build_passed" for name, _ in found)


def test_the_last_build_of_each_branch_the_queue_and_the_stages_are_told():
    stages = ({"name": "build", "seconds": 1.5, "words": ""}, {"name": "test", "seconds": 6.0, "words": ""})
    found = samples(metrics(
        [
            build(1, state="failed", stages=stages[:1]),
            build(2, began=3.0, ended=11.5, coverage=40.5, tests={"tests": 140, "failures": 0}, stages=stages),
            build(3, state="cancelled"),
            build(4, 'odd"\\name\n', state="failed"),
            build(5, state="queued"),
            build(6, state="queued"),
        ],
        105.0,
    ))  # fmt: skip
    assert {state: found["saltern_builds", state] for state in ("queued", "running", "passed", "failed")} == {
        "queued": 2, "running": 0, "passed": 1, "failed": 2,
    }  # fmt: skip
    assert found["saltern_build_waiting_seconds", ""] == 100
    # A build that was cancelled says nothing of its branch.
    assert found["saltern_build_passed", "staging"] == 1
    assert found["saltern_build_took_seconds", "staging"] == 8.5
    assert found["saltern_build_coverage_percent", "staging"] == 40.5
    assert found["saltern_build_tests", "staging tests"] == 140
    assert found["saltern_build_passed", 'odd"\\name\n'] == 0
    assert (found["saltern_build_stage_seconds", "build"], found["saltern_build_stages", "build"]) == (3, 2)


def _defaults() -> dict[str, str]:
    """Address of every machine of the default fleet, and of the master, by name."""
    first = ipaddress.IPv4Network(DEFAULT_SUBNET).network_address
    numbered = {name: str(first + FIRST_HOST + at) for at, name in enumerate(DEFAULT_MACHINES)}
    return {**numbered, "master": str(first + 1)}


def _settings() -> dict[str, dict]:
    return {
        name: yaml.safe_load((REPOSITORY / "pillar" / f"{name}.sls").read_text())[name]
        for name in ("traffic", "admin", "ops", "pipeline")
    }


def _ports(fleet: Fleet) -> dict[str, tuple[str, int]]:
    """Role and port of every job, as pillar and master configuration have them."""
    pillar, ours = _settings(), yaml.safe_load(master.configuration(fleet)["master"])
    return {
        "salt-master": ("master", ours["metrics"]["prometheus"]["port"]),
        "haproxy": ("proxy", pillar["traffic"]["metrics"]["port"]),
        "saltern-controller": ("proxy", pillar["admin"]["port"]),
        "saltern-dashboard": ("ops", pillar["ops"]["dashboard"]["port"]),
        "saltern-pipeline": ("ops", pillar["pipeline"]["port"]),
        "alertmanager": ("ops", pillar["ops"]["alertmanager_port"]),
    }


def test_the_example_asks_each_of_the_default_fleet_where_it_listens(fleet):
    names = {address: name for name, address in _defaults().items()}
    asked = {}
    for job in EXAMPLE["scrape_configs"]:
        (group,) = job["static_configs"]
        (target,) = group["targets"]
        address, _, port = target.partition(":")
        name = names[address]
        asked[job["job_name"]] = (name if name == "master" else role_of(name), int(port))
    assert len(asked) == len(EXAMPLE["scrape_configs"]), "every job has a name of its own"
    assert asked == _ports(fleet)


def test_the_example_says_nothing_that_prometheus_does_not_know():
    assert EXAMPLE.keys() == {"global", "scrape_configs", "alerting"}
    assert EXAMPLE["global"].keys() == {"scrape_interval", "evaluation_interval"}
    for job in EXAMPLE["scrape_configs"]:
        assert job.keys() == {"job_name", "static_configs"}


def test_salts_own_exporter_listens_where_the_fleet_is_and_nowhere_else(fleet):
    ours = yaml.safe_load(master.configuration(fleet)["master"])["metrics"]
    assert ours["enabled"] is True and ours["exporter"] == "prometheus"
    assert ours["prometheus"]["host"] == fleet.gateway


@pytest.mark.parametrize("job", [job["job_name"] for job in EXAMPLE["scrape_configs"]])
def test_every_job_is_tried_on_a_real_fleet(job):
    """By tests/e2e/test_metrics.py, which names what each must tell."""
    assert f'"{job}": ' in (REPOSITORY / "tests" / "e2e" / "test_metrics.py").read_text()
