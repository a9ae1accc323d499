"""`./saltern` itself: interrupted and resumed, two fleets side by side, nothing left behind, bad input in one line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from fleet_commands import NAME, REPOSITORY, SUBNET, Live, run, saltern, wait_for
from saltern.local import image

SECOND, SECOND_SUBNET = "e2esecond", "10.231.78.0/24"


def traces(name: str, subnet: str) -> list[str]:
    """Everything on this host that belongs to the fleet called `name`."""
    prefix = subnet.rpartition(".")[0]
    found = [
        line
        for line in run("ip", "-br", "address").stdout.splitlines()
        if f"sal-{name} " in line or prefix in line
    ]
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    found += [line for line in tables.splitlines() if line.endswith(f"saltern_{name}")]
    found += [line for line in Path("/proc/mounts").read_text().splitlines() if f"/{name}/" in line]
    found += [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/saltern-{name}")]
    folder = Path(os.environ.get("SALTERN_HOME", "/var/lib/saltern")) / name
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if f"{folder}/".encode() in (command := path.read_bytes()):
                found.append(command.replace(b"\0", b" ").decode(errors="replace"))
    return found + ([str(folder)] if folder.exists() else [])


@pytest.fixture
def second() -> Iterator[str]:
    yield SECOND
    saltern("down", "--fleet", SECOND)
    assert traces(SECOND, SECOND_SUBNET) == []


def test_an_interrupted_up_is_resumed_beside_another_fleet_and_down_leaves_nothing(
    live: Live, second: str
) -> None:
    arguments = [
        "./saltern",
        "up",
        "--fleet",
        second,
        "--subnet",
        SECOND_SUBNET,
        "--machines",
        "proxy1,redis1,prod1,prod2",
    ]
    first = subprocess.Popen(
        arguments,
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Whoever runs the tests in a shell's background has it ignored, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    for line in first.stderr:
        if "prod1 booted" in line:
            break
    os.killpg(first.pid, signal.SIGINT)
    assert first.wait(timeout=300) == 130
    assert "again" in first.stderr.read()
    done = run(*arguments, timeout=600)
    assert done.returncode == 0, done.stderr
    status = json.loads(saltern("status", "--fleet", second, "--json").stdout)
    assert [each["id"] for each in status["machines"]] == ["prod1", "prod2", "proxy1", "redis1"]
    page = run("curl", "-s", "--retry", "5", "--retry-all-errors", status["urls"]["product"])
    assert "<html" in page.stdout
    assert live.headers()[":status"] == "200", "the first fleet serves on"
    assert traces(second, SECOND_SUBNET) != []
    done = saltern("down", "--fleet", second)
    assert done.returncode == 0, done.stderr
    assert traces(second, SECOND_SUBNET) == []
    assert live.headers()[":status"] == "200", "the first fleet serves on"


def test_a_subnet_in_use_is_refused_before_anything_is_made(live: Live) -> None:
    done = saltern("up", "--fleet", "e2ethird", "--subnet", SUBNET)
    assert done.returncode == 1
    assert f"subnet {SUBNET}: already used by sal-{NAME}" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert traces("e2ethird", "10.231.79.0/24") == []


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        (
            "traffic.sls",
            "share: 30",
            "share: 130",
            "traffic.canary.share: 130 is greater than the maximum of 100",
        ),
        ("redis.sls", "appendfsync: everysec", "appendfsync: sometimes", "redis.appendfsync: 'sometimes'"),
        ("product.sls", "  port: 8080", "", "product.port: missing"),
        ("common.sls", "common:", "commons:", "common"),
        ("ops.sls", "ops:", "ops: [", "not YAML"),
    ],
)
def test_a_wrong_pillar_value_is_named_and_nothing_is_made(
    tmp_path: Path, file: str, old: str, new: str, words: str
) -> None:
    pillar = tmp_path / "pillar"
    shutil.copytree(REPOSITORY / "pillar", pillar)
    text = (pillar / file).read_text()
    assert old in text
    (pillar / file).write_text(text.replace(old, new, 1))
    done = saltern("up", "--fleet", "e2ethird", "--subnet", "10.231.79.0/24", "--pillar", str(pillar))
    assert done.returncode == 1
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert traces("e2ethird", "10.231.79.0/24") == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("up", "--fleet", "Not Good"), "a name is 1 to 10 lower-case letters and digits"),
        (("up", "--fleet", "e2ethird", "--subnet", "300.1.1.0/24"), "an IPv4 network such as"),
        (("up", "--fleet", "e2ethird", "--subnet", "8.8.8.0/24"), "not a private IPv4 network"),
        (("up", "--fleet", "e2ethird", "--subnet", "10.231.79.0/24", "--machines", "web1"), "not a role"),
        (("up", "--fleet", NAME, "--subnet", "10.231.79.0/24"), f"its subnet is {SUBNET}"),
        (("status", "--fleet", "e2ethird"), "no fleet is kept here"),
        (("bench", "nonsense"), "none by this name"),
    ],
)
def test_bad_arguments_get_one_line_and_leave_nothing(
    live: Live, arguments: tuple[str, ...], words: str
) -> None:
    done = saltern(*arguments)
    assert done.returncode == 1
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert traces("e2ethird", "10.231.79.0/24") == []


def test_who_is_not_root_is_told_so() -> None:
    done = run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "bash", "./saltern", "up")
    assert done.returncode == 1
    assert "must run as root" in done.stderr


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 120 MiB, at a path short enough for a state folder."""
    folder = Path(tempfile.mkdtemp())
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=120m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
    folder.rmdir()


def test_too_little_disk_is_said_before_the_image_is_begun(small_disk: Path) -> None:
    # The virtual environment is there already; its wheels need not be fetched again.
    (small_disk / "wheels").symlink_to(Path(os.environ.get("SALTERN_HOME", "/var/lib/saltern")) / "wheels")
    done = saltern(
        "up", "--fleet", "e2ethird", "--subnet", "10.231.79.0/24", env={"SALTERN_HOME": str(small_disk)}
    )
    assert done.returncode == 1
    assert "and the image needs" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert [path.name for path in small_disk.iterdir()] == ["wheels"]
    assert traces("e2ethird", "10.231.79.0/24") == []


def test_a_disk_that_fills_during_the_image_build_leaves_no_half_image(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SALTERN_HOME", str(small_disk))
    monkeypatch.setattr(image, "SPACE_NEEDED_MIB", 1)
    with pytest.raises(image.SalternError, match="mmdebstrap"):
        image.build()
    assert [p for p in (small_disk / "images").iterdir() if p.is_dir()] == []
    mounted = [line for line in Path("/proc/mounts").read_text().splitlines() if f"{small_disk}/" in line]
    assert mounted == []


def test_doctor_finds_nothing_missing_where_a_fleet_runs(live: Live) -> None:
    done = saltern("doctor", "--fleet", live.name)
    assert done.returncode == 0, done.stdout
    assert "missing" not in done.stdout
    wait_for(lambda: "pillar: valid" in done.stdout, 1, "the pillar was looked at")
