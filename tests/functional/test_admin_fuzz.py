"""The API against its own document: no request makes it fail, and none without the right token changes anything."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from admin_stand import READ, WRITE, AdminStand
from traffic_stand import Stand

pytestmark = pytest.mark.functional


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stand, AdminStand]]:
    """A traffic plane and its admin API; changes are not undone between tests."""
    stand = Stand(tmp_path_factory.mktemp("plane"))
    api = AdminStand.before(stand)
    try:
        stand.start()
        stand.add("prod1")
        stand.add("staging1")
        yield stand, api.start()
    finally:
        api.process.end()
        stand.close()


def fuzz(api: AdminStand, folder: Path, token: str, examples: int, *more: str) -> None:
    """Run schemathesis on the API's document; what it found becomes the failure."""
    pytest.importorskip("schemathesis")
    document = folder / "openapi.json"
    document.write_text(api.ask("GET", "/openapi.json", token="").text)
    header = [] if not token else ["-H", f"Authorization: Bearer {token}"]
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "run", str(document),
        "--url", f"http://127.0.0.1:{api.port}", "--phases", "examples,coverage,fuzzing",
        "--max-examples", str(examples), "--continue-on-failure", "--seed", "1", *header, *more,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def test_whoever_may_write_finds_no_request_that_it_cannot_answer_as_promised(
    plane: tuple[Stand, AdminStand], tmp_path: Path
) -> None:
    # Data that fits the schema may still be refused: by an unknown id, a flag's variants, an unprintable text.
    fuzz(plane[1], tmp_path, WRITE, 40, "--checks", "all", "--exclude-checks", "positive_data_acceptance")
    assert "Traceback" not in plane[1].log()


@pytest.mark.parametrize("token", ["", READ, "somebody-elses-token"], ids=["none", "read", "wrong"])
def test_whoever_may_not_write_changes_nothing_whatever_they_send(
    plane: tuple[Stand, AdminStand], tmp_path: Path, token: str
) -> None:
    stand, api = plane
    before = (
        stand.registry.snapshot(),
        stand.client.xlen("saltern:journal"),
        stand.client.get("saltern:flags"),
    )
    fuzz(
        api, tmp_path, token, 15, "--checks", "not_a_server_error,status_code_conformance,unsupported_method"
    )
    after = (
        stand.registry.snapshot(),
        stand.client.xlen("saltern:journal"),
        stand.client.get("saltern:flags"),
    )
    assert after == before
    assert list(api.orders.iterdir()) == []
    assert "Traceback" not in api.log()
