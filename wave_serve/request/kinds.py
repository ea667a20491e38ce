"""Kinds of values that a request's field may have: each as JSON schema, and as the complaint about another value."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

INT64 = 2**63


@dataclass(frozen=True)
class Kind:
    """What a field's value must be; `complaint` says how a value other than null misses it, or None."""

    schema: Mapping[str, Any]
    complaint: Callable[[Any], str | None]


def boolean() -> Kind:
    """true or false."""
    return Kind({"type": "boolean"}, _unless(lambda value: isinstance(value, bool), "true or false"))


def string(least: int = 0) -> Kind:
    """A string of at least `least` characters."""
    schema = {"type": "string", "minLength": least} if least else {"type": "string"}
    said = f"a string of at least {least} characters" if least else "a string"
    return Kind(schema, _unless(lambda value: isinstance(value, str) and len(value) >= least, said))


def choice(*values: str) -> Kind:
    """One of some strings."""
    said = f"one of {', '.join(values)}"
    return Kind({"type": "string", "enum": list(values)}, _unless(lambda value: value in values, said))


def integer(least: int = -INT64, most: int = INT64 - 1) -> Kind:
    """A whole number within bounds."""

    def complaint(value: Any) -> str | None:
        return None if is_integer(value) and least <= value <= most else _bounds(value, "an integer", least, most)

    return Kind({"type": "integer", "minimum": least, "maximum": most}, complaint)


def number(least: float = -math.inf, most: float = math.inf, *, above: float = -math.inf) -> Kind:
    """A finite number within bounds; `above` is the one that is not allowed itself."""
    bounds = {"minimum": least, "maximum": most, "exclusiveMinimum": above}
    schema = {"type": "number"} | {name: bound for name, bound in bounds.items() if math.isfinite(bound)}

    def complaint(value: Any) -> str | None:
        if is_number(value) and above < value and least <= value <= most:
            return None
        if is_number(value) and value <= above:
            return f"must be above {above:g}"
        return _bounds(value, "a number", least, most)

    return Kind(schema, complaint)


def array(of: Kind, said: str) -> Kind:
    """A list of values of one kind."""

    def holds(value: Any) -> bool:
        return isinstance(value, list) and all(one is not None and of.complaint(one) is None for one in value)

    return Kind({"type": "array", "items": dict(of.schema)}, _unless(holds, said))


def mapping(said: str = "an object", **fields: Kind) -> Kind:
    """An object, some of whose members have a kind of their own."""
    members = {name: nullable(field.schema) for name, field in fields.items()}
    schema = {"type": "object", "properties": members, "additionalProperties": True}

    def complaint(value: Any) -> str | None:
        if not isinstance(value, dict):
            return f"must be {said}"
        for name, field in fields.items():
            wrong = None if value.get(name) is None else field.complaint(value[name])
            if wrong is not None:
                return f"has a member {name} that {wrong}"
        return None

    return Kind(schema, complaint)


def numbers_by_token() -> Kind:
    """An object from token ids, as strings, to numbers."""

    def holds(value: Any) -> bool:
        return isinstance(value, dict) and all(token.isdecimal() and is_number(one) for token, one in value.items())

    schema = {
        "type": "object",
        "propertyNames": {"pattern": "^[0-9]+$"},
        "additionalProperties": {"type": "number"},
    }
    return Kind(schema, _unless(holds, "an object from token ids to numbers"))


def either(said: str, *kinds: Kind) -> Kind:
    """A value of one of several kinds."""

    def holds(value: Any) -> bool:
        return any(kind.complaint(value) is None for kind in kinds)

    return Kind({"anyOf": [dict(kind.schema) for kind in kinds]}, _unless(holds, said))


def nullable(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema, or null."""
    return {"anyOf": [dict(schema), {"type": "null"}]}


def is_integer(value: Any) -> bool:
    """Whether a parsed value is a whole number of JSON; true is not 1."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a parsed value is a finite number of JSON."""
    return is_integer(value) or (isinstance(value, float) and math.isfinite(value))


def _unless(holds: Callable[[Any], bool], said: str) -> Callable[[Any], str | None]:
    return lambda value: None if holds(value) else f"must be {said}"


def _bounds(value: Any, said: str, least: float, most: float) -> str:
    if not (is_integer(value) if said == "an integer" else is_number(value)):
        return f"must be {said}"
    return f"must be at least {least}" if value < least else f"must be at most {most}"
