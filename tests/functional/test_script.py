"""What `./saltern` itself refuses, before it installs anything."""

from __future__ import annotations

import os
import subprocess

import pytest
from saltern.fleet import REPOSITORY

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="process 1 of one's own takes root")


@needs_root
@pytest.mark.parametrize("command", [("install-master",), ("restore", "/none")])
def test_a_machine_without_systemd_is_no_master_and_says_so_in_one_line(command, tmp_path):
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", "./saltern", *command],
        capture_output=True, text=True, timeout=120, check=False, cwd=REPOSITORY,
        env={**os.environ, "SALTERN_HOME": str(tmp_path / "home")},
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("saltern: this machine is run by ")
    assert line.endswith(", not by systemd; a master takes a machine of its own")
    assert not (tmp_path / "home").exists()


@needs_root
def test_who_is_not_root_is_told_so_in_one_line(tmp_path):
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", "bash", "-s", "install-master"],
        input=(REPOSITORY / "saltern").read_text().replace('"${BASH_SOURCE[0]}"', f'"{tmp_path}/saltern"'),
        capture_output=True, text=True, timeout=120, check=False, cwd="/",
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("saltern: must run as root")
