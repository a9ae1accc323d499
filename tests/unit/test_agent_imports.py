"""What runs on machines imports nothing but what the agent's artifact carries."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from saltern.fleet import REPOSITORY

NAMED = re.compile(r"-m (saltern[.\w]*)")
MODULES = sorted({
    name
    for path in (REPOSITORY / "salt").rglob("*")
    if path.is_file() and path.suffix != ".pyc"
    for name in NAMED.findall(path.read_text())
})  # fmt: skip
"""Every module that a unit, a hook or a state of some machine runs."""

# Imports a module while all that is installed here, but is not among the agent's requirements, cannot be found.
PROGRAM = """
import importlib, importlib.metadata, re, sys
from pathlib import Path

def name(text):
    return re.sub(r"[-_.]+", "-", text).lower()

repository = Path(sys.argv[1])
sys.path[:0] = [str(repository / "services"), str(repository / "services" / "flags" / "src")]
text = (repository / "requirements" / "agent.txt").read_text()
carried = {name(each) for each in re.findall(r"^([\\w.-]+)==", text, re.MULTILINE)}
found = importlib.metadata.packages_distributions()
hidden = {top for top, owners in found.items() if not carried & {name(owner) for owner in owners}}
hidden -= {"saltern", "openfeature_redis", *sys.stdlib_module_names}

class Hide:
    def find_spec(self, full, path=None, target=None):
        if full.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {full!r} on a machine", name=full)

sys.meta_path.insert(0, Hide())
assert {"yaml", "cryptography", "salt"} <= hidden, hidden
importlib.import_module(sys.argv[2])
"""


@pytest.mark.parametrize("module", MODULES)
def test_a_daemon_of_a_machine_finds_all_it_imports(module):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(REPOSITORY), module], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr.strip().splitlines()[-1]


def test_there_are_daemons():
    assert {"saltern.controller", "saltern.dashboard", "saltern.pipeline.worker"} <= set(MODULES)
