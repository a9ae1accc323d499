"""For every test: the plugins it needs, what importing Salt does to Python put right, and the mark of its kind."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest
import salt._logging
from hypothesis import settings

ROOT = Path(__file__).resolve().parent
# The fleet that end-to-end and browser tests share: made once, at the first of them.
pytest_plugins = ["live_fleet"]
FLEET_SECONDS = 900
# What pytest-salt-factories and those it builds on call themselves.
SALT_PLUGINS = (
    "helpers_namespace", "shell-utilities", "skip-markers", "system-statistics", "salt-factories",
    "salt-factories-event-listener", "salt-factories-factories", "salt-factories-loader-mock",
    "salt-factories-log-server", "salt-factories-markers", "salt-factories-sysinfo",
)  # fmt: skip
KINDS = ("unit", "functional", "integration", "e2e", "browser")

# Examples of each property: enough to fail soon while working, many with --hypothesis-profile=thorough. A machine that
# is busy with something else is no reason for a test to fail, so there are no deadlines.
settings.register_profile("quick", max_examples=30, deadline=None)
settings.register_profile("thorough", max_examples=1000, deadline=None)
settings.load_profile("quick")


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Load what starts masters and minions for tests that want some: it takes a second to begin and another to end.

    That is so early because plugins bring options, and have something to do before the first conftest.py is read.
    """
    config = pluginmanager.getplugin("pytestconfig")
    wanted = ROOT / "tests" / "integration"
    chosen = [Path(each.partition("::")[0]).resolve() for each in config.known_args_namespace.file_or_dir]
    if any(path in (wanted, *wanted.parents) or wanted in path.parents for path in chosen or [ROOT]):
        before = pluginmanager.get_plugins()
        for plugin in SALT_PLUGINS:
            pluginmanager.import_plugin(plugin, consider_entry_points=True)
        missed = pluginmanager.subset_hook_caller("pytest_load_initial_conftests", before)
        missed(early_config=config, parser=parser, args=[])


def mend_import_hooks() -> None:
    """Give Salt's import hook the method that Python 3.4 brought and pytest needs.

    `salt/__init__.py` puts a `NaclImporter` with the old `find_module` alone in front of all other hooks.
    Python forgives that; pytest, importing test modules by `--import-mode=importlib`, does not.
    """

    def find_spec(hook: object, name: str, path: object = None, target: object = None) -> object:
        loader = hook.find_module(name, path)
        return None if loader is None else importlib.util.spec_from_loader(name, loader)

    for hook in sys.meta_path:
        if not hasattr(hook, "find_spec"):
            type(hook).find_spec = find_spec


mend_import_hooks()
# The handler in which Salt collects every warning, to print them all as the process ends.
salt._logging.shutdown_temp_handler()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test's folder says of which kind it is; a service's own tests start daemons unless marked."""
    for item in items:
        parts = item.path.relative_to(ROOT).parts
        kind = parts[1] if parts[0] == "tests" else "functional"
        if kind in KINDS and not any(item.get_closest_marker(each) for each in KINDS):
            item.add_marker(kind)
        if kind in ("e2e", "browser"):
            # The first of them makes a fleet of eleven, on whatever machine this is.
            item.add_marker(pytest.mark.timeout(FLEET_SECONDS))
        if kind != "unit":
            # Daemons on a host that others use: what fails is tried once more, and the summary names it as RERUN.
            item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> None:
    """Continuous integration skips nothing: what a test needs and does not find there is a failure."""
    if (
        os.environ.get("CI")
        and call.excinfo is not None
        and call.excinfo.errisinstance(pytest.skip.Exception)
    ):
        try:
            pytest.fail(f"skipped, which continuous integration does not allow: {call.excinfo.value}")
        except pytest.fail.Exception:
            call.excinfo = pytest.ExceptionInfo.from_current()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show why what passed at the second attempt failed at the first."""
    for report in terminalreporter.getreports("rerun"):
        terminalreporter.section(f"failed once: {report.nodeid} ({report.when})", "-")
        terminalreporter.write_line(report.longreprtext)
