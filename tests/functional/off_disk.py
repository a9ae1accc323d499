"""`tmp_path` and its like in memory, for the tests of a folder whose conftest.py takes the fixture from here."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from host import memory


@pytest.fixture(scope="session")
def tmp_path_factory(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[pytest.TempPathFactory]:
    """Where `tmp_path` comes from: what is synced there does not wait for a disk that stalls."""
    place = memory()
    if place is None or request.config.option.basetemp:
        yield tmp_path_factory
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTEST_DEBUG_TEMPROOT", place)
        made = pytest.TempPathFactory.from_config(request.config, _ispytest=True)
        folder = made.getbasetemp()
    yield made
    if not request.session.testsfailed:
        shutil.rmtree(folder, ignore_errors=True)
