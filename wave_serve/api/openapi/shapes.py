"""Small JSON schemas that the larger ones are made of."""

from collections.abc import Mapping
from typing import Any

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
IDS: Schema = {"type": "array", "items": COUNT}


def ref(name: str) -> Schema:
    """A reference to one of the schemas."""
    return {"$ref": f"#/components/schemas/{name}"}


def array_of(item: Mapping[str, Any]) -> Schema:
    """An array of one kind of value."""
    return {"type": "array", "items": dict(item)}


def described(schema: Mapping[str, Any], description: str) -> Schema:
    """The schema with its description; that of a reference stands beside it, as JSON schema since 2019 allows."""
    return dict(schema) | {"description": description}


def open_object(properties: Mapping[str, Any], required: list[str]) -> Schema:
    """An object that the engine makes: it may have more members."""
    return {"type": "object", "required": required, "properties": dict(properties), "additionalProperties": True}


def nullable(schema: Mapping[str, Any]) -> Schema:
    """The schema, or null."""
    return {"anyOf": [dict(schema), {"type": "null"}]}
