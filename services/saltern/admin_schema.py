"""What a request may hold: strict JSON, and the part of JSON Schema that the API's own document uses.

The same schemas are printed in ``/openapi.json`` and checked here, so what is promised is what is kept.
Checked keywords: type, const, enum, minimum, maximum, minLength, maxLength, pattern (found anywhere, as JSON
Schema has it), properties, required, additionalProperties, minProperties, maxProperties, items. A
``description`` says what would be right and becomes part of the refusal.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

DEEPEST = 64
"""Levels a document may be nested; the interpreter's own limit is about a thousand frames."""

Schema = Mapping[str, Any]

_KINDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "object": ("an object", lambda v: isinstance(v, dict)),
    "array": ("a list", lambda v: isinstance(v, list)),
    "string": ("a text", lambda v: isinstance(v, str)),
    "boolean": ("true or false", lambda v: isinstance(v, bool)),
    "null": ("null", lambda v: v is None),
    "number": ("a number", lambda v: isinstance(v, int | float) and not isinstance(v, bool)),
    # JSON Schema knows one kind of number: 30.0 is as whole as 30.
    "integer": (
        "a whole number",
        lambda v: (
            not isinstance(v, bool) and (isinstance(v, int) or (isinstance(v, float) and v.is_integer()))
        ),
    ),
}


class Malformed(ValueError):
    """The text is no JSON, or holds what must not be in it; the message says what and where."""


class Unfit(ValueError):
    """The value does not fit its schema; the message says where, what, and what would be right."""


def parse(raw: bytes) -> Any:
    """Read JSON: UTF-8, every key once, finite numbers, at most ``DEEPEST`` levels. Raises Malformed."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise Malformed(f"the key {show(twice)} is there twice; give it once")
        return found

    def refuse(word: str) -> Any:
        raise Malformed(f"{word} is not a number JSON knows")

    def finite(text: str) -> float:
        number = float(text)
        if not math.isfinite(number):
            raise Malformed(f"{show(text)} is too large a number")
        return number

    try:
        value = json.loads(
            raw.decode("utf-8"), object_pairs_hook=once, parse_constant=refuse, parse_float=finite
        )
    except Malformed:
        raise
    except UnicodeDecodeError as error:
        raise Malformed(f"byte {error.start + 1} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise Malformed(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise Malformed(f"nested more than {DEEPEST} levels deep") from None
    except ValueError:
        raise Malformed("a number has too many digits") from None
    if _deeper(value, DEEPEST):
        raise Malformed(f"nested more than {DEEPEST} levels deep")
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Malformed("half of a surrogate pair is no character") from None
    return value


def _deeper(value: Any, levels: int) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels < 0 or any(_deeper(each, levels - 1) for each in inside)


def check(schema: Schema, value: Any, where: str) -> None:
    """Raise Unfit with the first thing that is wrong, unless the value fits the schema."""
    kinds = schema.get("type")
    if kinds is not None:
        wanted = [kinds] if isinstance(kinds, str) else kinds
        if not any(_KINDS[kind][1](value) for kind in wanted):
            raise _unfit(schema, value, where)
    if "const" in schema and not _same(value, schema["const"]):
        raise _unfit(schema, value, where)
    if "enum" in schema and not any(_same(value, each) for each in schema["enum"]):
        raise _unfit(schema, value, where)
    if isinstance(value, str):
        shortest, longest = schema.get("minLength", 0), schema.get("maxLength", math.inf)
        if not shortest <= len(value) <= longest or not _found(schema.get("pattern", ""), value):
            raise _unfit(schema, value, where)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if not schema.get("minimum", -math.inf) <= value <= schema.get("maximum", math.inf):
            raise _unfit(schema, value, where)
    elif isinstance(value, dict):
        _check_object(schema, value, where)
    elif isinstance(value, list) and "items" in schema:
        for at, each in enumerate(value):
            check(schema["items"], each, f"{where}[{at}]")


def _found(pattern: str, value: str) -> bool:
    # JSON Schema's $ is the very end; Python's also stands before a last line feed.
    return re.search(re.sub(r"\$$", r"\\Z", pattern), value) is not None


def _check_object(schema: Schema, value: dict[str, Any], where: str) -> None:
    known: Mapping[str, Schema] = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            raise Unfit(f"{where}: {name} is missing{_about(known.get(name, {}))}")
    others = schema.get("additionalProperties", True)
    for name, each in value.items():
        inside = f"{where}.{name if name.isidentifier() else show(name)}"
        if name in known:
            check(known[name], each, inside)
        elif others is False:
            raise Unfit(f"{where}: {show(name)} is unknown; known are {', '.join(known) or 'none'}")
        elif others is not True:
            check(others, each, inside)
    if not schema.get("minProperties", 0) <= len(value) <= schema.get("maxProperties", math.inf):
        raise _unfit(schema, value, where)


def _unfit(schema: Schema, value: Any, where: str) -> Unfit:
    return Unfit(f"{where}: {show(value)} is not {wanted(schema)}")


def wanted(schema: Schema) -> str:
    """What a schema asks for, in words."""
    if "description" in schema:
        return str(schema["description"])
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return "one of " + ", ".join(
            each if isinstance(each, str) else json.dumps(each) for each in schema["enum"]
        )
    kinds = schema.get("type", "a value")
    words = " or ".join(_KINDS[kind][0] for kind in ([kinds] if isinstance(kinds, str) else kinds))
    if "minimum" in schema and "maximum" in schema:
        words += f" from {schema['minimum']:g} to {schema['maximum']:g}"
    if "maxLength" in schema:
        words += f" of {schema.get('minLength', 0)} to {schema['maxLength']} characters"
    if "maxProperties" in schema:
        words += f" of at most {schema['maxProperties']} entries"
    return words


def _about(schema: Schema) -> str:
    return f"; give {wanted(schema)}" if schema else ""


def _same(value: Any, other: Any) -> bool:
    return type(value) is type(other) and value == other


def show(value: Any) -> str:
    """A value on one line, short and printable whatever it is."""
    text = value if isinstance(value, str) and value.isprintable() and value.strip() == value != "" else None
    if text is None:
        text = json.dumps(value, ensure_ascii=True, default=repr)
    return text if len(text) <= 80 else text[:77] + "..."
