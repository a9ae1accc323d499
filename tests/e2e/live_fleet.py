"""A real local fleet, made through `./saltern` under its own name, subnet and folder, and taken down at the end."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet_commands import NAME, REPOSITORY, SUBNET, Live, saltern

# What keeps the fleet from acting on the load that the tests themselves make: reflexes have tests of their own.
CALM = {
    # Never: an hour of samples. That a processor is wanted by more than there are is no news here.
    "beacons.sls": [("high: 50", "high: 100"), ("for: 2", "for: 3600"), ("batch: 10", "batch: 2")],
    "scaling.sls": [("auto: true", "auto: false")],
    # What joins a mail, or ends it, is told soon.
    "ops.sls": [("group_interval: 30", "group_interval: 2")],
    # What is sick is found to be so soon; a host that is busy with tests is slow, and that is no news.
    "rollout.sls": [("min_healthy_s: 2", "min_healthy_s: 1"), ("serve_s: 30", "serve_s: 15")],
    # Steps of seconds, and thresholds for that: so few samples, on a host that is busy, prove nothing finer.
    "canary.sls": [
        ("shares: [5, 10, 30, 60, 100]", "shares: [5, 50, 100]"),
        ("step_seconds: 300", "step_seconds: 4"),
        ("hold_seconds: 900", "hold_seconds: 120"),
        ("min_requests: 500", "min_requests: 40"),
        ("min_samples: 20", "min_samples: 3"),
        ("tolerance: 1.1", "tolerance: 3.0"),
        ("latency_min_ms: 1.0", "latency_min_ms: 100.0"),
        ("host_min_points: 2.0", "host_min_points: 60.0"),
        ("cpu_limit_percent: 90.0", "cpu_limit_percent: 100.0"),
    ],
}


def calm_pillar(folder: Path) -> Path:
    """A copy of the pillar with which nothing happens by itself."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(REPOSITORY / "pillar", folder)
    for name, changes in CALM.items():
        text = (folder / name).read_text()
        for old, new in changes:
            assert old in text, f"{name} has no {old!r}"
            text = text.replace(old, new)
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """The fleet; SALTERN_E2E_KEEP=1 leaves it running for a look afterwards."""
    if os.geteuid() != 0:
        message = "a fleet needs root"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    # Where it stays for as long as the fleet does: pytest clears its own folders away after a few runs.
    pillar = calm_pillar(Path(tempfile.gettempdir()) / f"saltern-pillar-{NAME}")
    done = saltern("up", "--fleet", NAME, "--subnet", SUBNET, "--pillar", str(pillar), timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    status = json.loads(saltern("status", "--fleet", NAME, "--json").stdout)
    workplace = tmp_path_factory.mktemp("workplace")
    shutil.copy(REPOSITORY / "Saltfile", workplace)
    (workplace / ".saltern").symlink_to(status["state_dir"])
    yield Live(NAME, Path(status["state_dir"]), status["urls"]["product"], workplace)
    if not os.environ.get("SALTERN_E2E_KEEP"):
        done = saltern("down", "--fleet", NAME)
        assert done.returncode == 0, done.stderr
        shutil.rmtree(pillar)
