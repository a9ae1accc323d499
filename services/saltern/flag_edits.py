"""What a person does to a flag set. Pure: a document in and a new one, or a line that says why not, out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openfeature_redis import flagset
from openfeature_redis.flagset import Stored

from saltern.errors import SalternError

# The variant that holds a value given by itself.
CUSTOM = "custom"
# How YAML's truth values, which a shell's `on` and `off` become, are named as variants.
TRUTHS = {True: ("on", "true", "yes"), False: ("off", "false", "no")}


def glance(stored: Stored) -> dict[str, Any]:
    """Every flag's state, default variant and variants, by key."""
    flags = {
        key: {
            "state": flag.get("state"),
            "defaultVariant": flag.get("defaultVariant"),
            "variants": flag.get("variants", {}),
            "targeted": bool(flag.get("targeting")),
        }
        for key, flag in sorted(stored.document["flags"].items())
    }
    return {"revision": stored.revision, "flags": flags}


def with_variant(document: Mapping[str, Any], key: str, variant: object) -> dict[str, Any]:
    """Another default variant; true, false and numbers, as a shell's words become, name variants too."""
    variants = flag_of(document, key)["variants"]
    if isinstance(variant, bool):
        name = next((each for each in TRUTHS[variant] if each in variants), str(variant).lower())
    else:
        name = str(variant)
    return flagset.with_default(document, key, name)


def with_value(document: Mapping[str, Any], key: str, value: object) -> dict[str, Any]:
    """A value of its own: the variant ``custom`` holds it and becomes the default."""
    flag = flag_of(document, key)
    if not isinstance(value, str) and all(isinstance(each, str) for each in flag["variants"].values()):
        value = str(value)  # a shell's 2025 is meant as text here
    variants = {**flag["variants"], CUSTOM: value}
    return with_definition(document, key, {**flag, "variants": variants, "defaultVariant": CUSTOM})


def with_percent(document: Mapping[str, Any], key: str, percent: object) -> dict[str, Any]:
    """A rollout: true for so many per cent of the visitors, the same ones on every machine.

    :raises SalternError: no whole percentage, or no flag with one variant true and one false
    """
    if isinstance(percent, bool) or not isinstance(percent, int) or not 0 <= percent <= 100:
        raise SalternError(f"flags.set {key}: percent {percent!r} is not a whole number between 0 and 100")
    flag = flag_of(document, key)
    named = {
        each: next((name for name, value in flag["variants"].items() if value is each), None)
        for each in TRUTHS
    }
    if None in named.values():
        raise SalternError(f"flags.set {key}: percent is for a flag with a variant true and a variant false")
    rollout = {"fractional": [[named[True], percent], [named[False], 100 - percent]]}
    return with_definition(document, key, {**flag, "targeting": rollout})


def with_definition(document: Mapping[str, Any], key: str, definition: object) -> dict[str, Any]:
    """Another definition, or a new flag."""
    return {**document, "flags": {**document["flags"], key: definition}}


def flag_of(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A flag's definition.

    :raises SalternError: there is none by this name
    """
    flags: dict[str, dict[str, Any]] = document["flags"]
    if key not in flags:
        raise SalternError(
            f"flags: there is no flag {key!r}; there are: {', '.join(sorted(flags)) or 'none'}"
        )
    return flags[key]
