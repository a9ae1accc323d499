"""What runs on machines imports nothing but what the agent's artifact carries."""

from __future__ import annotations

import json
import re
import subprocess
import sys

from saltern.fleet import REPOSITORY

NAMED = re.compile(r"-m (saltern[.\w]*)")
MODULES = sorted({
    name
    for path in (REPOSITORY / "salt").rglob("*")
    if path.is_file() and path.suffix != ".pyc"
    for name in NAMED.findall(path.read_text())
})  # fmt: skip
"""Every module that a unit, a hook or a state of some machine runs."""

# Imports modules while all that is installed here, but is not among the agent's requirements, cannot be found; tells
# what went wrong with which of them. One process for all: most of the time goes into what each of them needs.
PROGRAM = """
import importlib, importlib.metadata, json, re, sys
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
faults = {}
for module in sys.argv[2:]:
    try:
        importlib.import_module(module)
    except ImportError as error:
        faults[module] = str(error)
json.dump(faults, sys.stdout)
"""


def faults(*modules: str) -> dict[str, str]:
    """What keeps which of these modules from being imported on a machine."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(REPOSITORY), *modules],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.strip().splitlines()[-1]
    return json.loads(done.stdout)


def test_the_daemons_of_machines_find_all_they_import():
    assert faults(*MODULES) == {}


def test_what_a_machine_does_not_have_is_found_out():
    # A person types it on the master, which has more installed.
    assert faults("saltern.journal", "saltern.cli") == {"saltern.cli": "No module named 'rich' on a machine"}


def test_there_are_daemons():
    assert {"saltern.controller", "saltern.dashboard", "saltern.pipeline.worker"} <= set(MODULES)
