"""Values of a parsed body in error messages: JSON's name for their kind, and a short form of them."""

import json
from array import array


def json_kind(value: object) -> str:
    """JSON's name for the kind of a parsed value."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list() | array():
            return "an array"
        case _:
            return "an object"


def shown(value: object) -> str:
    """A short form of a value for an error message; long or nested ones are described, not repeated."""
    if isinstance(value, str) and len(value) > 40:
        return f"{json_kind(value)} of {len(value)} characters"
    if isinstance(value, list | dict | array) and len(value) > 0:
        return f"{json_kind(value)} of {len(value)} items"
    return json.dumps(value)
