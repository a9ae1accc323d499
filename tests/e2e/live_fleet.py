"""A real local fleet, made through `./saltern` under its own name, subnet and folder, and taken down at the end."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet_commands import NAME, REPOSITORY, SUBNET, Live, saltern


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """The fleet; SALTERN_E2E_KEEP=1 leaves it running for a look afterwards."""
    if os.geteuid() != 0:
        message = "a fleet needs root"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    done = saltern("up", "--fleet", NAME, "--subnet", SUBNET, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    status = json.loads(saltern("status", "--fleet", NAME, "--json").stdout)
    workplace = tmp_path_factory.mktemp("workplace")
    shutil.copy(REPOSITORY / "Saltfile", workplace)
    (workplace / ".saltern").symlink_to(status["state_dir"])
    yield Live(NAME, Path(status["state_dir"]), status["urls"]["product"], workplace)
    if not os.environ.get("SALTERN_E2E_KEEP"):
        done = saltern("down", "--fleet", NAME)
        assert done.returncode == 0, done.stderr
