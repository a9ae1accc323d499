"""salt-ssh knows the fleet's machines from its inventory."""

from __future__ import annotations

import json
import os
import subprocess

from saltern import master
from saltern.fleet import REPOSITORY


def targets(fleet, *arguments: str) -> dict:
    """What salt-ssh would talk to, of its own roster loader; nobody is talked to."""
    code = (
        "import json, sys, salt.config, salt.roster\n"
        "opts = salt.config.master_config(sys.argv[1])\n"
        "print(json.dumps(salt.roster.Roster(opts, opts['roster']).targets(*sys.argv[2:])))\n"
    )
    done = subprocess.run(
        [master.program("python"), "-c", code, str(fleet.etc / "master"), *arguments],
        capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "services")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_targets_mean_the_machines_of_the_inventory_with_what_holds_for_all(make_fleet):
    fleet = make_fleet()
    master.configure(fleet)
    found = targets(fleet, "prod*", "glob")
    assert {name: about["host"] for name, about in found.items()} == {
        "prod1": "10.99.0.13",
        "prod2": "10.99.0.14",
    }
    with (fleet.etc / "master").open("a") as config:
        config.write("\nroster_defaults: {user: admin, sudo: True}\n")
    (about,) = targets(fleet, "redis1", "glob").values()
    assert (about["user"], about["sudo"], about["host"]) == ("admin", True, "10.99.0.11")
    assert set(targets(fleet, "proxy1,ops1", "list")) == {"proxy1", "ops1"}
