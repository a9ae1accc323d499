"""What `./saltern` itself decides, before there is any Python."""

from __future__ import annotations

import re
import subprocess

import pytest
from saltern.fleet import REPOSITORY


@pytest.mark.parametrize(
    ("system", "version", "suits"),
    [
        ("debian", "11", False),
        ("debian", "12", True),
        ("debian", "13", True),
        ("debian", "", False),  # testing and unstable say no number
        ("ubuntu", "20.04", False),
        ("ubuntu", "22.04", False),  # its Redis is 6.0
        ("ubuntu", "24.04", True),
        ("ubuntu", "26.04", True),
        ("fedora", "41", False),
    ],
)
def test_the_systems_whose_redis_has_what_the_states_use(system, version, suits):
    (function,) = re.findall(r"(?ms)^suits\(\) \{.*?^\}", (REPOSITORY / "saltern").read_text())
    done = subprocess.run(["bash", "-c", f'{function}; suits "$@"', "-", system, version], check=False)
    assert (done.returncode == 0) == suits
