"""A day with git: clone, commit, push over real ssh; what passes serves on the canary, what fails deploys nothing."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet_commands import NAME, Live, run, saltern, wait_for
from fleet_hands import Plant, text_of
from saltern import workplace
from saltern.registry import Registry

AUTHOR = {
    "GIT_AUTHOR_NAME": "Ada", "GIT_AUTHOR_EMAIL": "ada@fleet.test", "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@fleet.test",
}  # fmt: skip
PUSH_SECONDS = 800


@pytest.fixture(scope="module")
def copy(live: Live, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A person's working copy."""
    target = tmp_path_factory.mktemp("person") / "product"
    done = saltern("clone", "--fleet", NAME, str(target))
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture(scope="module", autouse=True)
def as_it_was(plant: Plant, copy: Path) -> Iterator[None]:
    """Afterwards branch and canary have what they had: a commit makes the same release whenever it is built."""
    commit, before = git(copy, "rev-parse", "HEAD").stdout.strip(), release_of(plant)
    plant.canary_on()
    yield
    git(copy, "push", "--force", "origin", f"{commit}:refs/heads/staging")
    wait_for(lambda: release_of(plant) == before, 60, "the canary has its release again")


def release_of(plant: Plant, pool: str = "canary") -> set[str]:
    instances = Registry(plant.registry.client).snapshot().instances.values()
    return {each.release for each in instances if each.pool == pool}


def git(copy: Path, *arguments: str, ok: bool = True) -> subprocess.CompletedProcess:
    done = run("git", *arguments, cwd=copy, env=AUTHOR, timeout=PUSH_SECONDS)
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return done


def edit(copy: Path, name: str, old: str, new: str) -> None:
    path = copy / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def asked(live: Live, function: str, *arguments: str):
    done = live.salt("salt-run", "--out=json", function, *arguments)
    return json.loads(done.stdout)


def canary_says(live: Live, path: str) -> str:
    """What the canary answers through the proxy."""
    for _ in range(200):
        with urllib.request.urlopen(live.product.rstrip("/") + path, timeout=60) as answer:
            if answer.headers["X-Saltern-Pool"] == "canary":
                return answer.read().decode()
    raise AssertionError("200 requests, and none went to the canary")


def test_a_one_line_change_pushed_to_staging_serves_on_the_canary(live, plant, copy):
    production, before = release_of(plant, "prod"), release_of(plant)
    edit(copy, "product/page.tpl", "</main>", "</main><p>made by Ada</p>")
    git(copy, "commit", "-qam", "Say who made it")
    done = git(copy, "push", "origin", "HEAD:staging")
    said = [
        line.removeprefix("remote: ").strip()
        for line in done.stderr.splitlines()
        if line.startswith("remote: ")
    ]
    words = "\n".join(said)
    for stage in ("source", "build", "test", "analyse", "passed", "deploy"):
        assert any(f" s  {stage}" in line for line in said), words
    assert said[-1].startswith(f"it runs at {live.product} (canary, release r"), words
    (after,) = release_of(plant)
    assert after not in before
    assert release_of(plant, "prod") == production
    plant.canary_on()
    assert "made by Ada" in canary_says(live, "/")
    (build,) = asked(live, "build.list", "branch=staging", "limit=1")
    assert (build["state"], build["release"], build["serving"]) == ("passed", after, "serving")
    assert "140 passed" in asked(live, "build.log", build["id"]) or " passed" in asked(
        live, "build.log", build["id"]
    )
    shown = asked(live, "build.show", build["id"])
    assert shown["pusher"] == "clone"
    assert shown["author"] == "Ada <ada@fleet.test>"
    assert shown["tests"]["failures"] == 0
    # The diary leads from the push to the deploy.
    assert plant.journal("build.passed", shown["created"] - 5, build=build["id"])
    rows = wait_for(lambda: asked(live, "journal.why", f"{after} done").get("chain"), 60, "the roll is done")
    why = [row["what"].split()[0] for row in rows]
    assert why[:2] == ["salt/beacon/ops1/build/passed", "build.passed"] and why[-1].endswith(".done"), why


def test_a_failing_test_deploys_nothing_and_its_author_gets_a_mail_with_what_failed(live, plant, copy):
    before, since = release_of(plant), time.time()
    with (copy / "tests/test_colour.py").open("a") as file:
        file.write("\n\ndef test_that_fails():\n    assert colour is None\n")
    git(copy, "commit", "-qam", "No colour will do", "--no-verify")
    done = git(copy, "push", "origin", "HEAD:staging")
    assert "failed in test: test: " in done.stderr, done.stderr
    (build,) = asked(live, "build.list", "branch=staging", "limit=1")
    assert build["state"] == "failed"
    (mail,) = wait_for(lambda: plant.mails(since, "No colour will do"), 30, "the mail")
    assert mail["To"] == "ada@fleet.test"
    assert "test_that_fails" in text_of(mail)
    assert "deployed nothing" in text_of(mail)
    wait_for(lambda: plant.journal("build.failed", since - 5, build=build["id"]), 30, "the journal has it")
    assert release_of(plant) == before
    git(copy, "reset", "-q", "--hard", "HEAD~1")


def test_the_gate_before_a_commit_stops_what_the_fleet_would(copy):
    edit(copy, "product/colour.py", "import", "import os\nimport")
    done = git(copy, "commit", "-qam", "An import too many", ok=False)
    assert "pre-commit: ruff has findings" in done.stderr
    git(copy, "checkout", "-q", ".")


def test_a_hostile_branch_a_huge_push_and_a_shell_are_refused_in_one_line(live, plant, copy):
    before = asked(live, "build.list", "limit=1")
    done = git(copy, "push", "origin", "HEAD:refs/heads/{{salt}}$(reboot)", ok=False)
    assert sum("refused: branch" in line for line in done.stderr.splitlines()) == 1, done.stderr
    git(copy, "checkout", "-q", "-b", "huge")
    with (copy / "huge").open("wb") as file:
        for _ in range(300):
            file.write(os.urandom(1024 * 1024))
    git(copy, "add", "huge")
    git(copy, "commit", "-qm", "300 MB", "--no-verify")
    done = git(copy, "push", "origin", "huge", ok=False)
    assert "exceeds maximum allowed size" in done.stderr
    git(copy, "checkout", "-q", "staging")
    git(copy, "branch", "-qD", "huge")
    url, ssh = workplace.access(plant.fleet)
    host = url.removeprefix("ssh://").partition("/")[0]
    for command in ((), ("id",), ("git-upload-pack /etc",), ("sh -c id",)):
        done = run(*ssh.split(), host, *command, timeout=200)
        assert done.returncode != 0
        assert "uid=" not in done.stdout + done.stderr
    assert asked(live, "build.list", "limit=1") == before


def test_a_disk_that_is_full_takes_nothing_and_says_so(live, plant, copy):
    with plant.set(pipeline={"free_mib": 1_000_000_000 // 1024}):
        plant.refresh("ops1")
        done = live.salt("salt", "ops1", "state.apply", "pipeline", "queue=True", timeout=400)
        assert done.returncode == 0, done.stdout
        git(copy, "commit", "-q", "--allow-empty", "-m", "Nothing", "--no-verify")
        done = git(copy, "push", "origin", "HEAD:feature/disk", ok=False)
        assert "refused: disk full on ops1: " in done.stderr
    done = live.salt("salt", "ops1", "state.apply", "pipeline", "queue=True", timeout=400)
    assert done.returncode == 0, done.stdout


def test_the_build_machine_is_as_its_states_say(live):
    """A second highstate changes nothing: neither keys nor the repository."""
    done = live.salt("salt", "--out=json", "--static", "ops1", "state.apply", "queue=True", timeout=400)
    returned = json.loads(done.stdout)["ops1"]
    changed = {each["__id__"]: each["changes"] for each in returned.values() if each["changes"]}
    assert changed == {}
