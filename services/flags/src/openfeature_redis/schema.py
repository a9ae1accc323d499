"""What a flag set may look like: flagd's published rules as data, and the reader that applies them.

Sources: the flag definition and custom operation pages of https://flagd.dev/reference/ and the operations of
https://jsonlogic.com. Beyond the published JSON schema it refuses what would load but fail at evaluation (a
default or a targeted variant that does not exist, a reference to no evaluator) and what flagd-core cannot
load (an unknown field of a flag). Every fault carries its JSON path.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

STATES = ("ENABLED", "DISABLED")
FLAG_FIELDS = ("state", "variants", "defaultVariant", "targeting", "metadata", "source", "selector")
FLAGD_PROPERTIES = ("$flagd.flagKey", "$flagd.timestamp")
VERSION_RELATIONS = ("=", "!=", "<", "<=", ">", ">=", "^", "~")
# flagd-core reads an optional v, one to three numbers, and the parts semver.org allows after them.
VERSION = re.compile(r"[vV]?\d+(\.\d+){0,2}(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?")
# Integers beyond this lose digits in evaluators whose numbers are doubles.
SAFE_INTEGER = 2**53 - 1
# Weights are summed in 32 bits (flagd, fractional operation).
MAX_WEIGHT_SUM = 2**31 - 1
# Evaluation recurses, and Python stops at about a thousand frames.
MAX_DEPTH = 60
# The kinds of value a flag's variants may have, all of one kind in one flag.
KINDS: Mapping[str, Callable[[Any], bool]] = {
    "boolean": lambda value: isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
    "number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "object": lambda value: isinstance(value, dict),
}


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong, and where: `$.flags.colour.state`."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


@dataclass(frozen=True)
class Operation:
    """How many arguments an operation takes, and what they must be when they are not just rules or values.

    most: None is any number. bare: a single argument may stand without its list.
    check: reads the arguments instead of the general rule.
    """

    least: int = 1
    most: int | None = None
    bare: bool = True
    check: str | None = None


OPERATIONS: Mapping[str, Operation] = {
    "var": Operation(1, 2, check="var"),
    "missing": Operation(0, check="missing"),
    "missing_some": Operation(2, 2, bare=False, check="missing_some"),
    "if": Operation(1),
    "==": Operation(2, 2, bare=False),
    "===": Operation(2, 2, bare=False),
    "!=": Operation(2, 2, bare=False),
    "!==": Operation(2, 2, bare=False),
    "<": Operation(2, 3, bare=False),
    "<=": Operation(2, 3, bare=False),
    ">": Operation(2, 2, bare=False),
    ">=": Operation(2, 2, bare=False),
    "!": Operation(1, 1),
    "!!": Operation(1, 1),
    "or": Operation(1),
    "and": Operation(1),
    "+": Operation(1),
    "-": Operation(1, 2),
    "*": Operation(1),
    "/": Operation(2, 2, bare=False),
    "%": Operation(2, 2, bare=False),
    "max": Operation(1),
    "min": Operation(1),
    "map": Operation(2, 2, bare=False),
    "filter": Operation(2, 2, bare=False),
    "reduce": Operation(2, 3, bare=False),
    "all": Operation(2, 2, bare=False),
    "some": Operation(2, 2, bare=False),
    "none": Operation(2, 2, bare=False),
    "merge": Operation(1),
    "in": Operation(2, 2, bare=False),
    "cat": Operation(1),
    "substr": Operation(2, 3, bare=False),
    "starts_with": Operation(2, 2, bare=False, check="text"),
    "ends_with": Operation(2, 2, bare=False, check="text"),
    "sem_ver": Operation(3, 3, bare=False, check="sem_ver"),
    "fractional": Operation(1, bare=False, check="fractional"),
}


def faults(document: Any) -> list[Fault]:
    """Everything that is wrong with a flag set, in the order of the document; empty when it is good."""
    return list(_set(document))


def _set(document: Any) -> Iterator[Fault]:
    if not isinstance(document, dict):
        yield Fault("$", f"a flag set is an object, not {_name(document)}")
        return
    if not isinstance(document.get("flags"), dict):
        what = _name(document["flags"]) if "flags" in document else "missing"
        yield Fault("$.flags", f"is {what}; it must be an object of flags by key")
        return
    evaluators = document.get("$evaluators", {})
    if not isinstance(evaluators, dict):
        yield Fault("$.$evaluators", f"is {_name(evaluators)}; it must be an object of rules by name")
        return
    names = list(evaluators)
    for position, (name, rule) in enumerate(evaluators.items()):
        path = _at("$.$evaluators", name)
        if not name:
            yield Fault(path, "an evaluator needs a name")
        # flagd-core puts evaluators in one after another, so one can only use those that come after it.
        yield from _targeting(rule, path, names[position + 1 :])
        # ... and it does so by text substitution that eats backslashes.
        if re.search(r'\\[^"]', json.dumps(rule)):
            yield Fault(
                path,
                "holds a backslash or a letter outside ASCII, which flagd-core loses; put it in the flag",
            )
    yield from _metadata(document.get("metadata", {}), "$.metadata")
    for key, flag in document["flags"].items():
        yield from _flag(key, flag, _at("$.flags", key), names)


def _flag(key: str, flag: Any, path: str, names: list[str]) -> Iterator[Fault]:
    if not key:
        yield Fault(path, "a flag needs a key")
    if not isinstance(flag, dict):
        yield Fault(path, f"a flag is an object, not {_name(flag)}")
        return
    for field in flag:
        if field not in FLAG_FIELDS:
            yield Fault(_at(path, field), f"is not a field of a flag; those are {', '.join(FLAG_FIELDS[:5])}")
    if flag.get("state") not in STATES:
        yield Fault(f"{path}.state", f"is {_show(flag, 'state')}; it must be {' or '.join(STATES)}")
    variants = flag.get("variants")
    if not isinstance(variants, dict) or not variants:
        yield Fault(
            f"{path}.variants",
            f"is {_show(flag, 'variants')}; it must be an object with at least one variant",
        )
        variants = None
    else:
        yield from _variants(variants, f"{path}.variants")
    default = flag.get("defaultVariant")
    if default is not None and not isinstance(default, str):
        yield Fault(
            f"{path}.defaultVariant",
            f"is {_name(default)}; it must name a variant, or be null for the code's",
        )
    elif default and variants is not None and default not in variants:
        yield Fault(f"{path}.defaultVariant", f"{default!r} is not one of the variants {', '.join(variants)}")
    yield from _metadata(flag.get("metadata", {}), f"{path}.metadata")
    if "targeting" in flag:
        rule_faults = list(_targeting(flag["targeting"], f"{path}.targeting", names))
        yield from rule_faults
        if not rule_faults and variants is not None:
            yield from _results(flag["targeting"], f"{path}.targeting", variants)


def _variants(variants: Mapping[str, Any], path: str) -> Iterator[Fault]:
    first = None
    for name, value in variants.items():
        here = _at(path, name)
        if not name:
            yield Fault(here, "a variant needs a name")
        kind = next((kind for kind, fits in KINDS.items() if fits(value)), None)
        if kind is None:
            yield Fault(here, f"is {_name(value)}; a variant is a boolean, a string, a number or an object")
            continue
        first = first or kind
        if kind != first:
            yield Fault(here, f"is {_name(value)}, but the variants before it are of type {first}")
        elif kind == "number" and not _safe(value):
            yield Fault(
                here,
                f"{value} is not a finite number within ±{SAFE_INTEGER} that keeps its digits everywhere",
            )


def _safe(value: int | float) -> bool:
    return (
        abs(value) <= SAFE_INTEGER if isinstance(value, int) else value - value == 0
    )  # infinity and NaN are not


def _metadata(metadata: Any, path: str) -> Iterator[Fault]:
    if not isinstance(metadata, dict):
        yield Fault(path, f"is {_name(metadata)}; it must be an object")
        return
    for key, value in metadata.items():
        if not key:
            yield Fault(_at(path, key), "metadata needs a name")
        if not isinstance(value, (str, int, float)):
            yield Fault(_at(path, key), f"is {_name(value)}; it must be a string, a number or a boolean")


def _targeting(rule: Any, path: str, names: list[str]) -> Iterator[Fault]:
    if not isinstance(rule, dict):
        yield Fault(path, f"is {_name(rule)}; targeting is an object with one operation, or empty")
    elif rule:
        yield from _Rules(names).value(rule, path, MAX_DEPTH)


@dataclass(frozen=True)
class _Rules:
    """Reads rules. names: the evaluators that may be referred to."""

    names: list[str]

    def value(self, value: Any, path: str, depth: int) -> Iterator[Fault]:
        """An argument: a primitive, a list of arguments, or an operation."""
        if depth == 0:
            yield Fault(path, f"is nested deeper than {MAX_DEPTH} levels")
        elif isinstance(value, list):
            for index, item in enumerate(value):
                yield from self.value(item, f"{path}[{index}]", depth - 1)
        elif isinstance(value, dict):
            yield from self.operation(value, path, depth)

    def operation(self, rule: Mapping[str, Any], path: str, depth: int) -> Iterator[Fault]:
        if len(rule) != 1:
            yield Fault(path, f"has {len(rule)} keys ({', '.join(rule)}); a rule is one operation")
            return
        ((name, raw),) = rule.items()
        here = _at(path, name)
        if name == "$ref":
            if raw not in self.names:
                usable = ", ".join(self.names) or "none"
                yield Fault(here, f"{raw!r} is not an evaluator that can be used here; those are: {usable}")
            return
        known = OPERATIONS.get(name)
        if known is None:
            yield Fault(here, f"is not an operation; those are {' '.join(OPERATIONS)}")
            return
        if not isinstance(raw, list) and not known.bare:
            yield Fault(here, f"is {_name(raw)}; its arguments must be a list")
            return
        arguments = raw if isinstance(raw, list) else [raw]
        if len(arguments) < known.least or (known.most is not None and len(arguments) > known.most):
            yield Fault(here, f"has {len(arguments)} arguments; it takes {_arity(known)}")
            return
        for index, argument in enumerate(arguments):
            yield from self.value(argument, f"{here}[{index}]" if isinstance(raw, list) else here, depth - 1)
        if known.check:
            check: Callable[[list[Any], str], Iterator[Fault]] = getattr(self, f"check_{known.check}")
            yield from check(arguments, here)

    def check_var(self, arguments: list[Any], path: str) -> Iterator[Fault]:
        name = arguments[0]
        if not isinstance(name, (str, int)) or isinstance(name, bool):
            yield Fault(path, f"is {_name(name)}; it must be the name of an attribute")
        elif isinstance(name, str) and name.startswith("$flagd.") and name not in FLAGD_PROPERTIES:
            yield Fault(path, f"{name!r} is not set by flagd; it sets {' and '.join(FLAGD_PROPERTIES)}")

    def check_missing(self, arguments: list[Any], path: str) -> Iterator[Fault]:
        for index, name in enumerate(arguments):
            if not isinstance(name, str):
                yield Fault(f"{path}[{index}]", f"is {_name(name)}; it must be the name of an attribute")

    def check_missing_some(self, arguments: list[Any], path: str) -> Iterator[Fault]:
        least, names = arguments
        if not KINDS["number"](least):
            yield Fault(f"{path}[0]", f"is {_name(least)}; it must be how many attributes are needed")
        if not isinstance(names, list):
            yield Fault(f"{path}[1]", f"is {_name(names)}; it must be a list of names of attributes")
        else:
            yield from self.check_missing(names, f"{path}[1]")

    def check_text(self, arguments: list[Any], path: str) -> Iterator[Fault]:
        for index, argument in enumerate(arguments):
            if not isinstance(argument, (str, dict)):
                yield Fault(f"{path}[{index}]", f"is {_name(argument)}; it must be a string or a rule")

    def check_sem_ver(self, arguments: list[Any], path: str) -> Iterator[Fault]:
        for index in (0, 2):
            version = arguments[index]
            if isinstance(version, dict):
                continue
            if not isinstance(version, str) or not VERSION.fullmatch(version):
                yield Fault(f"{path}[{index}]", f"{version!r} is not a version such as 1.2.0, nor a rule")
        if arguments[1] not in VERSION_RELATIONS:
            yield Fault(f"{path}[1]", f"{arguments[1]!r} is not one of {' '.join(VERSION_RELATIONS)}")

    def check_fractional(self, arguments: list[Any], path: str) -> Iterator[Fault]:
        first = 0 if isinstance(arguments[0], list) else 1
        if first and not isinstance(arguments[0], dict):
            yield Fault(f"{path}[0]", f"is {_name(arguments[0])}; what to bucket by must be a rule")
        buckets = arguments[first:]
        if not buckets:
            yield Fault(path, "has no buckets; it needs at least one, such as [variant, weight]")
            return
        weights: list[int | None] = []
        for index, bucket in enumerate(buckets, start=first):
            here = f"{path}[{index}]"
            if not isinstance(bucket, list) or not 1 <= len(bucket) <= 2:
                yield Fault(here, "a bucket is [variant] or [variant, weight]")
                return
            if isinstance(bucket[0], list):
                yield Fault(
                    f"{here}[0]", "is a list; it must be the name of a variant, or a rule that gives one"
                )
            weight = bucket[1] if len(bucket) == 2 else 1
            if isinstance(weight, dict):
                weights.append(None)
            elif isinstance(weight, bool) or not isinstance(weight, int) or weight < 0:
                yield Fault(f"{here}[1]", f"{weight!r} is not a whole number of 0 or more, nor a rule")
                return
            else:
                weights.append(weight)
        known = [weight for weight in weights if weight is not None]
        if sum(known) > MAX_WEIGHT_SUM:
            yield Fault(path, f"weights add up to {sum(known)}; the most is {MAX_WEIGHT_SUM}")
        if len(known) == len(weights) and sum(known) == 0:
            yield Fault(path, "all weights are 0, so nobody gets anything; give at least one bucket a weight")


def _results(rule: Any, path: str, variants: Mapping[str, Any]) -> Iterator[Fault]:
    """Literal variant names that targeting can answer with and that do not exist."""
    if isinstance(rule, (str, bool)):
        name = rule if isinstance(rule, str) else str(rule).lower()
        if name not in variants:
            yield Fault(path, f"{name!r} is not one of the variants {', '.join(variants)}")
    if not isinstance(rule, dict) or len(rule) != 1:
        return
    ((operation, raw),) = rule.items()
    arguments = raw if isinstance(raw, list) else [raw]
    here = _at(path, operation)
    if operation == "if":
        # [condition, then, condition, then, ..., else]: every odd one, and the last of an odd number
        for index, argument in enumerate(arguments):
            if index % 2 == 1 or index == len(arguments) - 1:
                yield from _results(argument, f"{here}[{index}]", variants)
    elif operation == "fractional":
        for index, bucket in enumerate(arguments):
            if isinstance(bucket, list) and bucket:
                yield from _results(bucket[0], f"{here}[{index}][0]", variants)


def _arity(operation: Operation) -> str:
    if operation.most is None:
        return f"at least {operation.least}"
    return (
        str(operation.least)
        if operation.least == operation.most
        else f"{operation.least} to {operation.most}"
    )


def _name(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    names = {str: "a string", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)


def _show(flag: Mapping[str, Any], field: str) -> str:
    if field not in flag:
        return "missing"
    value = flag[field]
    return repr(value) if isinstance(value, str) else "empty" if value == {} else _name(value)


def _at(path: str, key: str) -> str:
    plain = re.fullmatch(r"[$\w-]+|[^\w\s\[\]'.]+", key)
    return f"{path}.{key}" if plain else f"{path}[{json.dumps(key)}]"
