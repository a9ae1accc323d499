"""The pipeline over a real git repository: hooks, worker, sandbox processes, mail to a real server."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from host import PATIENCE, free_port, until
from pipeline_stand import QUICK, PipelineStand
from saltern import artifact, workplace
from saltern.fleet import home
from saltern.local.image import WHEELHOUSE
from saltern.pipeline import seed, web
from saltern.pipeline.records import failing_part
from test_artifact_build import make_wheel

# Lives until it is killed: what a build waits for.
SLEEPS = {**QUICK, "saltern.toml": '[build]\ncommands = [["sleep", "600"]]\n' + QUICK["saltern.toml"]}


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python with pip and nothing else, as builds have it on ops1."""
    folder = tmp_path_factory.mktemp("python")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    return str(folder / "bin" / "python")


@pytest.fixture
def make_stand(tmp_path: Path) -> Iterator[Callable[..., PipelineStand]]:
    made: list[PipelineStand] = []

    def make(**options: Any) -> PipelineStand:
        folder = tmp_path / f"stand{len(made)}"
        folder.mkdir()
        made.append(PipelineStand(folder, **options))
        return made[-1]

    yield make
    for stand in made:
        stand.close()


@pytest.fixture
def stand(make_stand: Callable[..., PipelineStand]) -> PipelineStand:
    return make_stand()


# --- a push


def test_a_push_shows_each_stage_and_ends_with_an_artifact_of_just_that_commit(stand):
    stand.start()
    commit = stand.commit(QUICK, "The answer\n\nAnd more.")
    status, said = stand.push("staging").ended()
    assert status == 0, said
    for words in ("of staging → canary", "source ", "build ", "test ", "analyse ", "passed   release r"):
        assert f"remote: {words}" in said or words in said, said
    (build,) = stand.builds()
    assert (build.state, build.commit, build.author, build.pusher, build.subject, build.target) == (
        "passed", commit, "Ada <ada@fleet.test>", "ada", "The answer", "canary",
    )  # fmt: skip
    path = stand.records.artifacts / f"{build.release}.tar.gz"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == build.sha256
    assert path.stat().st_size == build.size
    with tarfile.open(path) as packed:
        assert packed.getnames() == ["thing/__init__.py", "RELEASE"]
    assert json.loads((stand.records.outbox / f"{build.id}.json").read_text())["result"] == "passed"


def test_the_shipped_product_passes_and_is_the_very_release_that_up_makes(make_stand, bare_python, tmp_path):
    stand = make_stand(python=bare_python)
    for name, content in workplace.seed_files().items():
        path = stand.copy / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    stand.commit({})
    stand.start()
    status, said = stand.push("staging").ended()
    assert status == 0
    (build,) = stand.builds()
    assert build.state == "passed", said + stand.records.log(build.id).read_text()[-3000:]
    assert build.tests["tests"] > 50
    assert build.coverage >= 30
    assert build.findings == 0
    packages, wheels = (workplace.PRODUCT / "product", workplace.FLAGS), home() / WHEELHOUSE
    made, _ = artifact.make(packages, workplace.LOCKS[0], "r", site=tmp_path / "site", wheels=[wheels])
    assert build.release == made.id
    # Tests that fail, and findings, are as many as there are: with the tools kept from the first build.
    few = (workplace.SEED / "saltern.toml").read_text().replace('"unit"]', '"unit", "tests/test_items.py"]')
    few = few.replace("coverage = 30", "coverage = 0")
    stand.commit({"tests/test_items.py": WRONG, "saltern.toml": few})
    stand.push("staging").ended()
    stand.commit(
        {"tests/test_items.py": WRONG.replace("1 == 2", "1 == 1").replace("import", "import os\nimport", 1)}
    )
    stand.push("staging").ended()
    failed, found = stand.builds()[1:]
    assert (failed.state, failed.stage) == ("failed", "test")
    assert failed.why.startswith("test: 1 of "), failed.why
    assert "assert 1 == 2" in failing_part(stand.records.log(failed.id).read_text())
    assert (found.state, found.stage) == ("failed", "analyse")
    assert found.why == "analyse: 1 findings, 0 allowed (saltern.toml: analyse.findings)"
    assert not failed.release and not found.release
    assert len(list(stand.records.artifacts.glob("*.tar.gz"))) == 1


WRONG = "import pytest\n\n\n@pytest.mark.unit\ndef test_wrong():\n    assert 1 == 2\n"
NOTHING_INSTALLED = '[test]\nenabled = true\nrequirements = "none.txt"\n[analyse]\nenabled = false\n'


@pytest.mark.parametrize(
    ("files", "stage", "words"),
    [
        ({**QUICK, "saltern.toml": "[tests]\n"}, "source", "[tests]: no such section; test is meant?"),
        ({**QUICK, "saltern.toml": "[test]\ncoverage = 130\nargs = 1\n"}, "source", "(and 1 more)"),
        ({**QUICK, "saltern.toml": "nonsense"}, "source", "saltern.toml: not TOML"),
        ({"saltern.toml": QUICK["saltern.toml"]}, "build", "no Python package"),
        ({**QUICK, "saltern.toml": '[build]\npackages = ["other"]\n'}, "source", "other is not a Python package"),
        ({**QUICK, "saltern.toml": '[build]\ncommands = [["false"]]\n'}, "build", "false: exit status 1"),
        ({**QUICK, "saltern.toml": '[build]\ncommands = [["no-such-program"]]\n'}, "build", "No such file"),
        ({**QUICK, "saltern.toml": '[build]\ntimeout_s = 0.3\ncommands = [["sleep", "60"]]\n'}, "build",
         "still running after 0.3 s"),
        ({**QUICK, "saltern.toml": NOTHING_INSTALLED}, "test", "none.txt is not a file of the repository"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_fails_in_one_line_and_makes_nothing(stand, files, stage, words):
    stand.start()
    stand.commit(files)
    status, said = stand.push("staging").ended()
    assert status == 0
    (build,) = stand.builds()
    assert build.state == "failed"
    assert words in build.why and "\n" not in build.why, build.why
    assert build.stage in (stage, "source")
    assert f"failed in {build.stage}: " in said
    assert not list(stand.records.artifacts.iterdir())


def test_a_product_with_no_tests_fails_and_says_what_to_do(make_stand, bare_python):
    stand = make_stand(python=bare_python)
    stand.start()
    stand.commit({"thing/__init__.py": "answer = 42\n"})
    stand.push("staging").ended()
    (build,) = stand.builds()
    assert (build.state, build.stage) == ("failed", "test")
    assert "no tests were found; write one, or say so: [test] enabled = false" in build.why
    # Without a word in saltern.toml the defaults hold: a test that runs is enough.
    stand.commit({"tests/test_it.py": "import thing\n\n\ndef test_it():\n    assert thing.answer == 42\n"})
    stand.push("staging").ended()
    assert [(b.state, b.coverage) for b in stand.builds()] == [("failed", None), ("passed", 100.0)]
    # A threshold that is not reached fails it.
    stand.commit({
        "saltern.toml": "[test]\ncoverage = 90\n",
        "thing/__init__.py": "answer = 42\nif answer != 42:\n    answer = 1\n    answer = 2\n",
    })  # fmt: skip
    stand.push("staging").ended()
    assert stand.builds()[-1].why == "test: coverage 50.0 % is below 90 (saltern.toml: test.coverage)"


def test_what_a_test_leaves_running_neither_holds_the_build_up_nor_outlives_it(stand):
    leaves = (
        '[build]\ncommands = [["sh", "-c", "sleep 6000 & echo $! >/dev/stderr"]]\n' + QUICK["saltern.toml"]
    )
    stand.start()
    stand.commit({**QUICK, "saltern.toml": leaves})
    stand.push("staging").ended()
    (build,) = stand.builds()
    assert build.state == "passed"
    pid = next(int(line) for line in stand.records.log(build.id).read_text().splitlines() if line.isdecimal())
    until(lambda: not Path(f"/proc/{pid}").exists(), "what was left behind is gone")


def test_what_a_lock_names_and_nobody_has_is_fetched_by_the_worker_and_kept(
    make_stand, bare_python, tmp_path, monkeypatch
):
    registry = tmp_path / "registry"
    line = make_wheel(registry, "novelty", {"novelty.py": "answer = 43\n"})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(registry))
    stand = make_stand(python=bare_python)
    stand.start()
    stand.commit({**QUICK, "requirements.txt": line})
    stand.push("staging").ended()
    (build,) = stand.builds()
    assert build.state == "passed", stand.records.log(build.id).read_text()
    with tarfile.open(stand.records.artifacts / f"{build.release}.tar.gz") as packed:
        assert "novelty.py" in packed.getnames()
    # Kept: the next build needs no registry.
    shutil.rmtree(registry)
    stand.commit({"thing/more.py": ""})
    stand.push("staging").ended()
    assert stand.builds()[-1].state == "passed"
    # Another hash than is locked is not taken, and no lock says where to fetch from.
    for text, words in (
        (
            "novelty==1.1 --hash=sha256:" + "0" * 64,
            "fetch: requirements.txt: 1: ERROR: No matching distribution",
        ),
        (
            line.replace("novelty==1.0", "other==1.0") + "--index-url http://evil.test/\n",
            "'--index-url http://evil.test/'",
        ),
    ):
        stand.commit({"requirements.txt": text})
        stand.push("staging").ended()
        build = stand.builds()[-1]
        assert (build.state, build.stage) == ("failed", "fetch")
        assert words in build.why


def test_a_repository_is_seeded_once_and_what_a_team_pushed_stays(tmp_path):
    repository, tree = tmp_path / "new.git", tmp_path / "tree"
    subprocess.run(["git", "init", "-q", "--bare", str(repository)], check=True)
    tree.mkdir()
    for name, text in {**QUICK, ".gitignore": "*.toml\n", artifact.MARKER: ""}.items():
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_text(text)
    first = seed.seed(repository, tree, ["staging", "production"])
    shown = subprocess.run(
        ["git", "ls-tree", "-r", "--name-only", "staging"], cwd=repository, capture_output=True, text=True
    )
    assert shown.stdout.split() == [".gitignore", "saltern.toml", "thing/__init__.py"]
    (tree / "thing" / "__init__.py").write_text("answer = 43\n")
    assert seed.seed(repository, tree, ["staging"]) == ""
    heads = subprocess.run(
        ["git", "show-ref", "--heads"], cwd=repository, capture_output=True, text=True
    ).stdout
    assert heads.split() == [first, "refs/heads/production", first, "refs/heads/staging"]


# --- what is refused


@pytest.mark.parametrize(
    "branch",
    ["$(touch$IFS/x)", "a`reboot`", "{{7}}", "{%set", "a;reboot", "a&b", "-x", "ünicode", "x" * 65, "a'b", 'a"b'],
)  # fmt: skip
def test_a_hostile_branch_name_is_refused_with_one_line_and_leaves_nothing(stand, branch):
    stand.commit(QUICK)
    status, said = stand.push(f"HEAD:refs/heads/{branch}").ended()
    assert status != 0
    assert sum("refused: branch" in line for line in said.splitlines()) == 1, said
    assert not list(stand.records.queue.iterdir())
    refs = subprocess.run(
        ["git", "for-each-ref"], cwd=stand.repository, capture_output=True, check=True
    ).stdout
    assert refs == b""


@pytest.mark.parametrize(
    ("refs", "words"),
    [
        (["HEAD:refs/notes/x"], "neither a branch nor a tag"),
        (["HEAD:refs/for/main"], "neither a branch nor a tag"),
        ([f"HEAD:refs/heads/b{n}" for n in range(11)], "11 refs in one push"),
        (["HEAD:refs/heads/good", "HEAD:refs/heads/{{bad}}"], "branch '{{bad}}'"),
    ],
)
def test_unknown_refs_and_too_many_are_refused_as_a_whole(stand, refs, words):
    stand.commit(QUICK)
    status, said = stand.push(*refs).ended()
    assert status != 0
    assert words in said
    assert not list(stand.records.queue.iterdir())


def test_a_production_branch_is_not_rewritten_or_deleted_and_a_tag_is_for_good(stand):
    stand.start()
    stand.commit(QUICK)
    stand.push("HEAD:production", "HEAD:refs/tags/v1").ended()
    stand.git("commit", "--amend", "-q", "-m", "Other")
    for refs, words in (
        (["+HEAD:production"], "would lose commits that ran on prod"),
        ([":production"], "is not deleted"),
        (["+HEAD:refs/tags/v1"], "a tag is a release for good"),
        ([":refs/tags/v1"], "a tag is a release for good"),
    ):
        status, said = stand.push(*refs).ended()
        assert status != 0 and words in said, said
    assert stand.push("+HEAD:feature/x").ended()[0] == 0
    assert sorted((b.name, b.target, b.state) for b in stand.ended(3)) == [
        ("feature/x", "", "passed"), ("production", "prod", "passed"), ("v1", "", "passed"),
    ]  # fmt: skip


def test_a_push_over_the_limit_is_refused_and_stores_nothing(stand):
    subprocess.run(["git", "config", "receive.maxInputSize", "100000"], cwd=stand.repository, check=True)
    stand.commit(QUICK)
    (stand.copy / "big").write_bytes(os.urandom(300_000))
    stand.commit({})
    status, said = stand.push("staging").ended()
    assert status != 0
    assert "exceeds maximum allowed size" in said
    assert not stand.builds() and not list(stand.records.queue.iterdir())


def test_without_disk_a_push_is_refused_and_a_build_ends_in_a_state_of_that_name(stand):
    stand.configure(free_mib=10**9)
    stand.commit(QUICK)
    status, said = stand.push("staging").ended()
    assert status != 0 and "refused: disk full on ops1" in said
    stand.configure()
    stand.settings = replace(stand.settings, free_mib=10**9)
    stand.start()
    stand.push("staging").ended()
    (build,) = stand.builds()
    assert (build.state, build.stage) == ("failed", "disk")
    assert build.why.startswith("disk full on ops1: ")


# --- whoever dies


def test_a_pusher_who_stops_looking_stops_nothing(stand):
    stand.start()
    stand.commit(SLEEPS)
    push = stand.push("staging")
    until(lambda: stand.builds() and stand.builds()[0].stage == "build", "the build is at work")
    os.killpg(push.process.pid, signal.SIGINT)
    push.ended()
    time.sleep(0.3)
    assert stand.builds()[0].state == "running"
    assert stand.worker.cancel(stand.builds()[0].id, "enough")
    assert stand.ended()[0].why == "enough"


def test_a_push_while_no_worker_runs_is_built_when_one_does(stand):
    stand.configure(follow_s=0.2)
    stand.commit(QUICK)
    status, said = stand.push("staging").ended()
    assert status == 0 and "it goes on: http://ops1:8090/builds/" in said
    stand.start()
    assert stand.ended()[0].state == "passed"


def test_a_build_whose_worker_ended_is_run_again_from_the_start(stand):
    stand.configure(follow_s=0.2)
    once = '[build]\ncommands = [["sh", "-c", "test -e ../../once || { touch ../../once; sleep 600; }"]]\n'
    stand.commit({**QUICK, "saltern.toml": once + QUICK["saltern.toml"]})
    stand.push("staging").ended()
    stand.start()
    until(lambda: (stand.folder / "once").exists(), "the first attempt is at work")
    stand.stop()
    # What it ran is gone with it.
    until(lambda: stand.sandboxes[0].poll() is not None, "the sandbox ended with its worker")
    assert stand.builds()[0].state == "running"
    stand.start()
    (build,) = stand.ended()
    assert (build.state, build.attempts) == ("passed", 2)


def test_a_build_that_never_ends_its_worker_is_given_up_after_three_times(stand):
    stand.configure(follow_s=0.1)
    stand.commit(QUICK)
    stand.push("staging").ended()
    for path, build in stand.records.asked():
        stand.records.folder(build.id).mkdir()
        stand.records.save(replace(build, state="running", attempts=3))
        path.unlink()
    stand.start()
    (build,) = stand.ended()
    assert (build.state, build.why) == ("failed", "given up: it was begun 3 times and never ended")


@pytest.mark.parametrize(
    "says",
    [
        b"", b"not json\n", b"[]\n", b'{"file": "../x", "bytes": 1}\n', b'{"file": "artifact", "bytes": "1"}\n',
        b'{"result": 7}\n', b'{"result": {"state": "passed"}}\n', b'{"result": {"tests": {"tests": "x"}}}\n',
        b'{"result": {"coverage": []}}\n', b'{"done": "x"}\n', b"x" * 2**21,
    ],
    ids=lambda says: says[:40].decode(),
)  # fmt: skip
def test_a_sandbox_that_dies_or_talks_nonsense_fails_the_build(stand, says):
    def listening() -> socket.socket:
        ours, theirs = socket.socketpair()

        def talk() -> None:
            with theirs:
                theirs.recv(1 << 20)
                try:
                    theirs.sendall(says)
                except OSError:
                    return

        threading.Thread(target=talk, daemon=True).start()
        return ours

    stand.start(connect_sandbox=listening)
    stand.commit(QUICK)
    stand.push("staging").ended()
    (build,) = stand.builds()
    assert build.state == "failed"
    assert build.why.startswith(("sandbox: ", "the sandbox ended"))
    # The worker goes on.
    stand.worker.connect_sandbox = stand.sandbox
    stand.push("HEAD:feature/x").ended()
    assert stand.builds()[-1].state == "passed"


def test_no_sandbox_at_all_fails_the_build_by_name(stand):
    def refused() -> socket.socket:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")

    stand.start(connect_sandbox=refused)
    stand.commit(QUICK)
    stand.push("staging").ended()
    assert stand.builds()[0].why.endswith("Connection refused")


# --- several pushes


def test_a_newer_push_to_the_same_branch_cancels_the_older_build(stand):
    stand.start()
    stand.commit(SLEEPS)
    first = stand.push("staging")
    until(lambda: stand.builds() and stand.builds()[0].stage == "build", "the first build is at work")
    stand.commit(QUICK)
    assert "passed" in stand.push("staging").ended()[1]
    assert "cancelled in build: a newer push to staging: build " in first.ended()[1]
    assert [b.state for b in stand.builds()] == ["cancelled", "passed"]
    until(lambda: stand.sandboxes[0].poll() is not None, "its sandbox ended")


def test_two_pushes_at_once_are_both_built_one_after_the_other(stand):
    stand.start()
    stand.commit(QUICK)
    pushes = [stand.push("HEAD:staging"), stand.push("HEAD:production")]
    for push in pushes:
        status, said = push.ended()
        assert status == 0 and "passed   release" in said, said
    first, second = sorted(stand.builds(), key=lambda build: build.began)
    assert first.id != second.id
    assert first.ended <= second.began
    # One content, one release, one file.
    assert first.release == second.release


def test_artifacts_beyond_the_last_few_go_and_tagged_ones_stay(make_stand):
    stand = make_stand(keep=2)
    stand.start()
    for number in range(4):
        stand.commit({**QUICK, "thing/__init__.py": f"answer = {number}\n"})
        stand.push("HEAD:refs/tags/v0" if number == 0 else "HEAD:staging").ended()
    builds = stand.builds()
    kept = {f"{builds[n].release}.tar.gz" for n in (0, 2, 3)}
    until(lambda: {p.name for p in stand.records.artifacts.glob("r*")} == kept, "the old artifact is gone")


# --- mail


@contextmanager
def mail_server(port: int = 0) -> Iterator[SimpleNamespace]:
    """A real SMTP server, and what came in."""
    box: list[Any] = []

    class Handler:
        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
            box.append(envelope)
            return "250 OK"

    port = port or free_port()
    controller = Controller(Handler(), hostname="127.0.0.1", port=port, ready_timeout=PATIENCE)
    controller.start()
    try:
        yield SimpleNamespace(box=box, port=port)
    finally:
        controller.stop()


def mail_settings(port: int) -> dict[str, Any]:
    return {"smarthost": f"127.0.0.1:{port}", "from": "saltern@fleet.test", "to": "operator@fleet.test",
            "require_tls": False, "username": "", "password": "", "ca_file": ""}  # fmt: skip


def test_a_failed_build_mails_its_author_the_part_of_the_log_that_says_why(make_stand):
    noise = '[build]\ncommands = [["sh", "-c", "seq 500; echo Error: the cause; exit 3"]]\n'
    with mail_server() as server:
        stand = make_stand(mail=mail_settings(server.port))
        stand.start()
        stand.commit({**QUICK, "saltern.toml": noise}, "Break it")
        stand.push("staging").ended()
        until(lambda: server.box, "the mail came")
        (build,) = stand.builds()
        (mail,) = server.box
        assert mail.rcpt_tos == ["ada@fleet.test"]
        text = mail.content.decode()
        told = (
            "Break it",
            "build of staging failed",
            "Error: the cause",
            f"/builds/{build.id}",
            "deployed nothing",
        )
        assert [words for words in told if words not in text] == []
        assert len(text.splitlines()) < 80
        # What passes mails nobody.
        stand.commit(QUICK)
        stand.push("staging").ended()
        until(lambda: stand.builds()[0].mail == "sent", "it is written down")
        time.sleep(1.0)
        assert len(server.box) == 1


def test_a_mail_waits_for_a_mail_server_that_is_away_and_for_a_worker_that_was_restarted(make_stand):
    with mail_server() as server:
        port = server.port
    stand = make_stand(mail=mail_settings(port))
    stand.start()
    stand.commit({**QUICK, "saltern.toml": "nonsense"})
    stand.git("commit", "-q", "--amend", "--no-edit", "--author", "Eve <not an address>")
    stand.push("staging").ended()
    assert stand.ended()[0].mail == "due"
    stand.stop()
    with mail_server(port) as server:
        stand.start()
        until(lambda: server.box, "the mail came")
        # Whoever cannot be reached has the operator told.
        assert server.box[0].rcpt_tos == ["operator@fleet.test"]


# --- over HTTP


def get(url: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(url, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")


def test_builds_artifacts_and_logs_can_be_read_over_http_and_cancelling_needs_the_token(stand):
    worker = stand.start()
    stand.commit(
        {
            **QUICK,
            "saltern.toml": '[build]\ncommands = [["echo", "<script>alert(1)</script>"]]\n'
            + QUICK["saltern.toml"],
        }
    )
    stand.push("staging").ended()
    (build,) = stand.builds()
    with web.serving(worker) as port:
        base = f"http://127.0.0.1:{port}"
        assert json.loads(get(f"{base}/api/builds")[1])["builds"][0]["id"] == build.id
        assert json.loads(get(f"{base}/api/builds/{build.id}")[1])["release"] == build.release
        assert get(f"{base}/api/builds?limit=0") == (200, '{"builds": []}')
        assert get(f"{base}/api/builds?limit=all")[0] == 400
        status, text = get(f"{base}/metrics")
        assert status == 200 and 'saltern_build_passed{branch="staging"} 1\n' in text
        assert "<script>alert(1)" in get(f"{base}/api/builds/{build.id}/log")[1]
        page = get(f"{base}/builds/{build.id}")[1]
        assert "&lt;script&gt;alert(1)" in page and "<script" not in page
        assert build.id in get(f"{base}/builds")[1]
        with urllib.request.urlopen(f"{base}/artifacts/{build.release}.tar.gz", timeout=PATIENCE) as answer:
            assert hashlib.sha256(answer.read()).hexdigest() == build.sha256
        for path in (
            "/api/builds/../../x",
            "/artifacts/r000000000000.tar.gz",
            "/artifacts/..%2f..%2fx",
            "/nothing",
        ):
            assert get(base + path)[0] == 404
        stand.commit(SLEEPS)
        push = stand.push("staging")
        until(lambda: stand.builds()[-1].stage == "build", "the second build is at work")
        cancel = f"{base}/api/builds/{stand.builds()[-1].id}/cancel"
        assert get(cancel, "POST")[0] == 403
        assert get(cancel, "POST", Authorization="Bearer wrong")[0] == 403
        assert json.loads(get(cancel, "POST", Authorization="Bearer secret")[1])["cancelled"] is True
        assert "cancelled" in push.ended()[1]
        assert json.loads(get(cancel, "POST", Authorization="Bearer secret")[1])["cancelled"] is False


def test_who_is_not_of_the_fleets_network_is_told_nothing(make_stand):
    stand = make_stand(subnet="10.99.0.0/24")
    app = web.make_app(stand.start())
    answers = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/api/builds", "SERVER_NAME": "", "SERVER_PORT": "1",
               "REMOTE_ADDR": "10.98.0.1",
               "wsgi.errors": sys.stderr, "wsgi.input": None, "wsgi.url_scheme": "http"}  # fmt: skip
    body = b"".join(app(environ, lambda status, headers, *_: answers.append(status)))
    assert answers[0].startswith("403") and b"not of the fleet" in body
    body = b"".join(
        app({**environ, "REMOTE_ADDR": "10.99.0.1"}, lambda status, headers, *_: answers.append(status))
    )
    assert answers[1].startswith("200") and json.loads(body) == {"builds": []}
