"""Every job of docs/prometheus.yml on the shared fleet: it answers, in Prometheus' own format, with what it is for."""

from __future__ import annotations

import urllib.request

import pytest
import yaml
from fleet_commands import REPOSITORY, Live
from prometheus_client.parser import text_string_to_metric_families
from saltern.fleet import DEFAULT_MACHINES, FIRST_HOST, Fleet

TOLD = {
    "salt-master": {"salt_master_connected_minions_count", "salt_events_fired"},
    "haproxy": {"haproxy_server_status", "haproxy_backend_http_responses"},
    "saltern-controller": {"saltern_effective_share_percent", "saltern_controller_ok", "saltern_instances"},
    "saltern-dashboard": {"saltern_machines", "saltern_dashboard_viewers"},
    "saltern-pipeline": {"saltern_builds", "saltern_build_waiting_seconds"},
    "alertmanager": {"alertmanager_alerts"},
}
JOBS = {
    job["job_name"]: job["static_configs"][0]["targets"][0]
    for job in yaml.safe_load((REPOSITORY / "docs" / "prometheus.yml").read_text())["scrape_configs"]
}


@pytest.mark.parametrize("job", TOLD)
def test_a_job_of_the_example_gets_what_it_is_for(live: Live, job: str) -> None:
    fleet = Fleet.load(live.state_dir)
    address, _, port = JOBS[job].partition(":")
    number = int(address.rpartition(".")[2])
    # The example is of the default fleet; here is another one.
    here = fleet.gateway if number == 1 else fleet.addresses()[DEFAULT_MACHINES[number - FIRST_HOST]]
    with urllib.request.urlopen(f"http://{here}:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    names = {family.name for family in text_string_to_metric_families(text)}
    assert names >= TOLD[job], sorted(names)
