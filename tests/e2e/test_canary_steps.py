"""A release on its way to production by steps, on the running fleet and under load: a good one, a bad one, a person."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fleet_commands import Live, wait_for
from fleet_hands import changed_product
from saltern import artifact, journal
from saltern.fleet import Fleet
from saltern.registry import JOURNAL, Registry
from saltern.stepping import look

GOOD = "        # It is as good as the one before.\n"
BAD = '        if secrets.randbelow(3) == 0:\n            raise RuntimeError("a defect in every third request")\n'


@pytest.fixture(scope="module")
def deploy(
    live: Live, fleet: Fleet, registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], str]]:
    """Put a release of the product, changed by a few lines, on staging; all is as it was in the end."""
    kept, share = artifact.releases(fleet)["canary"], registry.snapshot().split.share

    def put(release: artifact.Artifact) -> str:
        artifact.want(fleet, {"canary": release})
        answer = live.answer("staging1", "state.apply", "product", "queue=True")["staging1"]
        assert all(state["result"] for state in answer.values()), answer
        return release.id

    def change(lines: str) -> str:
        # What was aborted in an earlier run never starts again: every run has releases of its own.
        return put(changed_product(fleet, tmp_path_factory.mktemp("release"), lines))

    yield change
    put(kept)
    registry.canary_on()
    registry.set_share(share)


@contextmanager
def load(live: Live, folder: Path) -> Iterator[None]:
    """Some three hundred requests a second, for as long as it takes."""
    script = folder / "steady.lua"
    script.write_text("function delay() return 40 end\n")
    command = ["wrk", "-t1", "-c16", "-d800s", "-s", str(script), f"{live.product.rstrip('/')}:80/version"]
    wrk = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        wrk.kill()
        wrk.wait()


def runner(live: Live, function: str, *arguments: str) -> dict:
    """What `salt-run` answers."""
    return json.loads(live.salt("salt-run", "--out=json", f"canary.{function}", *arguments).stdout)


def test_a_good_release_gets_more_step_by_step_unless_a_person_says_no(
    live: Live, registry: Registry, deploy: Callable[[str], str], tmp_path: Path
) -> None:
    release = deploy(GOOD)
    started = runner(live, "start")
    assert (started["release"], started["phase"], started["share"]) == (release, "stepping", 5)
    paused = runner(live, "pause", "lunch")
    assert (paused["phase"], paused["share"], paused["reason"]) == ("paused", 5, "lunch")
    with load(live, tmp_path):
        resumed = runner(live, "resume", f"question={paused['question']}")
        assert (resumed["phase"], resumed["share"]) == ("stepping", 5)
        wait_for(lambda: look(registry).steps.share >= 50, 60, "5 % passes")
        wait_for(lambda: look(registry).steps.share == 100, 60, "50 % passes")
        wait_for(lambda: look(registry).steps.phase == "promoted", 60, "100 % passes")
        wait_for(lambda: live.instances_seen(20) == {"staging1"}, 30, "the canary alone serves")
        # As many requests as are needed by default, and as many samples.
        passed = ("judge", "90", "min_requests=500")
        verdict = wait_for(
            lambda: v if (v := runner(live, *passed))["verdict"] != "hold" else None, 60, "enough requests"
        )
        assert verdict["verdict"] == "pass", verdict
        # Every machine tells a sample a second, the canary and five of production, if the host lets them.
        metrics = verdict["metrics"]
        assert metrics["cpu"]["canary_n"] > 5 and metrics["memory"]["baseline_n"] > 5, metrics
        again = runner(live, "judge", "share=50", "min_requests=10000000")
        assert again["verdict"] == "hold", "the window of a step, by other thresholds"

        aborted = runner(live, "abort", "wrong prices")
        assert (aborted["phase"], aborted["share"]) == ("aborted", 0)
        wait_for(lambda: "staging1" not in live.instances_seen(20), 5, "the canary gets nothing")
    assert registry.snapshot().latches["canary"].reason == f"{release} is aborted: wrong prices"
    runner(live, "on")
    assert runner(live, "start")["error"] == f"canary.start: {release} was aborted; build a new release"
    lines = [fields for _, fields in registry.client.xrange(JOURNAL, min=started["journal"])]
    kinds = [line["kind"] for line in lines if line["kind"].startswith("canary.")]
    assert kinds == [
        "canary.started", "canary.paused", "canary.resumed", "canary.stepped", "canary.stepped", "canary.promoted",
        "canary.off", "canary.aborted", "canary.on",
    ]  # fmt: skip
    why = [row["what"].split()[0] for row in journal.why(registry.client, "canary.promoted")["chain"]]
    assert why[-6:] == kinds[:6]


def test_a_release_that_fails_is_out_at_once(
    live: Live, registry: Registry, deploy: Callable[[str], str], tmp_path: Path
) -> None:
    release = deploy(BAD)
    assert registry.snapshot().latches == {}
    wait_for(lambda: registry.snapshot().split.share == 0, 5, "a new release gets nothing by itself")
    assert runner(live, "start")["share"] == 5
    with load(live, tmp_path):
        wait_for(lambda: look(registry).steps.phase == "aborted", 30, "the bad release is found out")
        wait_for(lambda: "staging1" not in live.instances_seen(20), 5, "the canary gets nothing")
    view = look(registry)
    assert (view.steps.release, view.steps.share, view.registry.split.share) == (release, 0, 0)
    assert "requests" in view.registry.latches["canary"].reason
    assert view.steps.latched[-1] == release
    status = runner(live, "status")
    assert (status["effective_share"], status["steps"]["phase"]) == (0, "aborted")
