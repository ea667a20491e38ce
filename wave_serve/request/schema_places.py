"""Where a request's body may hold JSON schemas, in any of the dialects."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic_core import from_json

Found = tuple[str, Mapping[str, Any]]
LONGEST_TEXT = 2**20  # characters of a schema that comes as a string; longer ones are left to the engine
CONSTRAINTS = ("response_format", "structured_outputs", "tools", "text", "output_config")
"""Fields that may hold an answer to a grammar."""


def schemas_in(payload: Mapping[str, Any]) -> Iterator[Found]:
    """The schemas in a body, each with the path of its field, such as `tools[0].function.parameters`.

    What has another shape than it should is passed over: the engine refuses it in its own words.
    """
    response_format = _inside(payload, "response_format")
    yield from _schema("response_format.json_schema.schema", _inside(response_format, "json_schema").get("schema"))
    yield from _structural_tag("response_format", response_format)
    constraint = _inside(payload, "structured_outputs")
    yield from _schema("structured_outputs.json", constraint.get("json"))
    yield from _structural_tag("structured_outputs.structural_tag", constraint.get("structural_tag"))
    for field in ("text", "output_config"):  # a response's and a message's
        yield from _schema(f"{field}.format.schema", _inside(_inside(payload, field), "format").get("schema"))
    yield from _tools("tools", payload.get("tools"))


def _tools(where: str, tools: Any) -> Iterator[Found]:
    """The parameters of a chat's, a response's or a message's tools; a response's may stand in namespaces."""
    for index, tool in enumerate(tools if isinstance(tools, list) else ()):
        if isinstance(tool, dict):
            place = f"{where}[{index}]"
            function = _inside(tool, "function")
            yield from _schema(f"{place}.function.parameters", function.get("parameters"))
            yield from _schema(f"{place}.parameters", tool.get("parameters"))
            yield from _schema(f"{place}.input_schema", tool.get("input_schema"))
            for inner, one in enumerate(tool["tools"] if isinstance(tool.get("tools"), list) else ()):
                if isinstance(one, dict):
                    yield from _schema(f"{place}.tools[{inner}].parameters", one.get("parameters"))


def _structural_tag(where: str, tag: Any) -> Iterator[Found]:
    """The schemas in a structural tag: of its older form's `structures`, and wherever its `format` has one."""
    tag = _parsed(tag)
    if not isinstance(tag, dict):
        return
    structures = tag.get("structures")
    for index, structure in enumerate(structures if isinstance(structures, list) else ()):
        if isinstance(structure, dict):
            yield from _schema(f"{where}.structures[{index}].schema", structure.get("schema"))
    pending = [(f"{where}.format", tag.get("format"))]
    while pending:
        place, value = pending.pop()
        if isinstance(value, dict):
            yield from _schema(f"{place}.json_schema", value.get("json_schema"))
            pending.extend((f"{place}.{name}", one) for name, one in value.items() if name != "json_schema")
        elif isinstance(value, list):
            pending.extend((f"{place}[{index}]", one) for index, one in enumerate(value))


def _schema(where: str, value: Any) -> Iterator[Found]:
    value = _parsed(value)
    if isinstance(value, dict):
        yield where, value


def _parsed(value: Any) -> Any:
    """The JSON in a string, or the value itself; None where the string holds none, or is too long to look into."""
    if not isinstance(value, str):
        return value
    if len(value) > LONGEST_TEXT:
        return None
    try:
        return from_json(value)
    except ValueError:
        return None


def _inside(value: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    """The object in a field; an empty one where it is none."""
    found = value.get(field)
    return found if isinstance(found, dict) else {}
