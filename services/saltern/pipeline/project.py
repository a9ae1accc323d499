"""`saltern.toml`: what a product says about how it is built, tested and analysed.

Everything has a default for a Python project, so the file may be short or missing. A product's own commands are lists:
no shell reads them.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import tomllib

FILE = "saltern.toml"
LONGEST_FILE = 65_536
LONGEST_STEP_S = 3600.0


@dataclass(frozen=True)
class Project:
    """What is done to a product.

    :ivar packages: folders that go into the artifact; empty: every one with an `__init__.py` but tests
    :ivar requirements: the hash-locked requirements that go with them; none when the file is missing
    :ivar commands: run first, where the source lies, one after the other
    :ivar test: whether the product has tests; without them nothing else says that it works
    :ivar test_arguments: for pytest
    :ivar test_requirements: what pytest, coverage and ruff are locked by; "" takes the pipeline's own
    :ivar coverage: per cent of the packages' lines that tests must run through, 0 to 100
    :ivar analyse: whether ruff looks at the source
    :ivar analyse_arguments: for ruff
    :ivar findings: how many of its findings are too few to fail the build
    :ivar timeout_s: seconds each step may take
    """

    packages: tuple[str, ...] = ()
    requirements: str = "requirements.txt"
    commands: tuple[tuple[str, ...], ...] = ()
    test: bool = True
    test_arguments: tuple[str, ...] = ()
    test_requirements: str = ""
    coverage: float = 0.0
    analyse: bool = True
    analyse_arguments: tuple[str, ...] = (".",)
    findings: int = 0
    timeout_s: float = 300.0


# Section → setting → (kind, the field it sets).
SETTINGS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "build": {
        "packages": ("folders", "packages"), "requirements": ("file", "requirements"),
        "commands": ("commands", "commands"), "timeout_s": ("seconds", "timeout_s"),
    },
    "test": {
        "enabled": ("flag", "test"), "arguments": ("words", "test_arguments"),
        "requirements": ("file", "test_requirements"), "coverage": ("percent", "coverage"),
    },
    "analyse": {
        "enabled": ("flag", "analyse"), "arguments": ("words", "analyse_arguments"), "findings": ("count", "findings"),
    },
}  # fmt: skip


class ProjectError(ValueError):
    """A `saltern.toml` that cannot be used: one line for each fault."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


def read(text: str | None) -> Project:
    """The project a `saltern.toml` describes.

    :param text: what is in it; None when there is none
    :raises ProjectError: it has faults
    """
    if text is None:
        return Project()
    if len(text) > LONGEST_FILE:
        raise ProjectError([f"{FILE}: longer than {LONGEST_FILE} characters; it holds settings alone"])
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProjectError([f"{FILE}: not TOML: {' '.join(str(error).split())}"]) from error
    found: dict[str, Any] = {}
    faults = list(_faults(values, found))
    if faults:
        raise ProjectError(faults)
    return Project(**found)


def _faults(values: Mapping[str, Any], found: dict[str, Any]) -> Iterator[str]:
    """Every fault, one line each; what is right is put into `found`."""
    for section, content in values.items():
        if section not in SETTINGS:
            yield f"{FILE}: [{_shown(section)}]: no such section; {_meant(section, SETTINGS)}"
        elif not isinstance(content, Mapping):
            yield f"{FILE}: {section}: {_shown(content)} is not a section; [{section}] is right"
        else:
            for name, value in content.items():
                if name not in SETTINGS[section]:
                    yield f"{FILE}: {section}.{_shown(name)}: no such setting; {_meant(name, SETTINGS[section])}"
                    continue
                kind, field = SETTINGS[section][name]
                taken, right = _READ[kind](value)
                if taken is None:
                    yield f"{FILE}: {section}.{name}: {_shown(value)} is not {right}"
                else:
                    found[field] = taken


def _shown(value: object) -> str:
    text = ascii(value) if not (isinstance(value, str) and value.isidentifier()) else value
    return text if len(text) <= 60 else f"{text[:57]}..."


def _meant(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"{close[0]} is meant?" if close else f"there are {', '.join(known)}"


def _flag(value: object) -> tuple[bool | None, str]:
    return (value if isinstance(value, bool) else None), "true or false"


def _number(value: object, most: float, right: str) -> tuple[float | None, str]:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return (float(value) if good and 0 <= value <= most else None), right  # type: ignore[arg-type, operator]


def _percent(value: object) -> tuple[float | None, str]:
    return _number(value, 100, "per cent, 0 to 100")


def _seconds(value: object) -> tuple[float | None, str]:
    taken, right = _number(value, LONGEST_STEP_S, f"seconds, above 0 to {LONGEST_STEP_S:g}")
    return (taken or None), right


def _count(value: object) -> tuple[int | None, str]:
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 1_000_000
    return (value if good else None), "a whole number from 0"  # type: ignore[return-value]


def _words(value: object) -> tuple[tuple[str, ...] | None, str]:
    good = isinstance(value, list) and all(isinstance(each, str) and "\0" not in each for each in value)
    return (tuple(value) if good else None), 'a list of words, such as ["-m", "unit"]'  # type: ignore[arg-type]


def _commands(value: object) -> tuple[tuple[tuple[str, ...], ...] | None, str]:
    read = [_words(each)[0] for each in value] if isinstance(value, list) else [None]
    right = 'a list of commands, each a list of words, such as [["make", "assets"]]'
    return (tuple(read) if all(read) else None), right  # type: ignore[arg-type]


def _file(value: object) -> tuple[str | None, str]:
    good = isinstance(value, str) and value and "\0" not in value
    path = PurePosixPath(value) if good else PurePosixPath("/")  # type: ignore[arg-type]
    inside = not path.is_absolute() and ".." not in path.parts and path.parts
    return (str(path) if inside else None), "a path inside the repository"


def _folders(value: object) -> tuple[tuple[str, ...] | None, str]:
    read = [_file(each)[0] for each in value] if isinstance(value, list) else []
    return (tuple(read) if read and all(read) else None), 'a list of folders, such as ["product"]'  # type: ignore[arg-type]


_READ = {
    "flag": _flag, "percent": _percent, "seconds": _seconds, "count": _count, "words": _words,
    "commands": _commands, "file": _file, "folders": _folders,
}  # fmt: skip
