"""The demo on the shared fleet: some of its cheaper steps, and being stopped in the middle of one.

How fast anything was is not judged here.
"""

from __future__ import annotations

import json
import signal
import subprocess

from fleet_commands import REPOSITORY, Live, saltern, wait_for
from saltern import artifact, members
from saltern.fleet import Fleet
from saltern.registry import Registry


def found(fleet: Fleet) -> tuple:
    """What the demo could leave otherwise."""
    state = Registry(members.link(fleet)).snapshot()
    pillar = {path.name: path.read_text() for path in fleet.pillar_dir.glob("*.sls")}
    return (
        set(fleet.inventory()), state.split.share, set(state.latches), artifact.releases(fleet), pillar,
        {id_: each.want for id_, each in state.instances.items()}, set(artifact.known(fleet)),
    )  # fmt: skip


def test_steps_are_shown_measured_told_as_json_and_on_a_page_and_leave_the_fleet_as_it_was(
    live: Live, tmp_path
) -> None:
    fleet = Fleet.load(live.state_dir)
    before, page = found(fleet), tmp_path / "demo.html"
    names = ["traffic-split", "canary-off", "master-down"]
    done = saltern("demo", *names, "--fleet", live.name, "--json", "--report", str(page), timeout=600)
    (line,) = done.stdout.splitlines()
    steps = {step["name"]: step for step in json.loads(line)["steps"]}
    assert list(steps) == names, done.stderr
    # Neither is about time: a share that was drawn so often, and requests that fail.
    assert steps["traffic-split"]["passed"] and steps["master-down"]["passed"], done.stderr
    off = steps["canary-off"]
    assert off["figure"] > 0 and (off["unit"], off["goal"]) == ("s", "<= 3.2"), done.stderr
    assert done.returncode == int(not off["passed"]), done.stderr
    assert "journal: salt/beacon/staging1/cpu/high" in done.stderr
    assert page.read_text().count("<section") == 3
    assert found(fleet) == before


def test_a_demo_that_is_interrupted_puts_back_what_it_did(live: Live) -> None:
    fleet = Fleet.load(live.state_dir)
    before = found(fleet)
    registry = Registry(members.link(fleet))
    demo = subprocess.Popen(
        ["./saltern", "demo", "traffic-split", "--fleet", live.name],
        cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        wait_for(lambda: registry.snapshot().split.share == 60, 180, "it is in the middle of a step")
        demo.send_signal(signal.SIGINT)
        _, said = demo.communicate(timeout=120)
    finally:
        demo.kill()
        demo.communicate()
    assert demo.returncode == 130, said
    assert said.splitlines()[-1] == "saltern: interrupted"
    assert found(fleet) == before


def test_a_fleet_that_is_not_up_is_told_in_one_line() -> None:
    done = saltern("demo", "--fleet", "nobody")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1 and "no fleet is kept here; `./saltern up` makes one" in done.stderr
