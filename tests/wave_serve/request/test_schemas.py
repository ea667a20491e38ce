"""A schema that refers to itself without anything in between is refused in every field that may hold one."""

import json
from collections.abc import Callable
from typing import Any

import openai
import pytest
from helpers.dialects import MESSAGES
from helpers.fake_upstream import FakeUpstream, reply_json
from helpers.running import Running, running, settings_for

from wave_serve.errors import ApiError
from wave_serve.request.dialects import CHAT, COMPLETIONS, RESPONSES, Dialect
from wave_serve.request.dialects import MESSAGES as ANTHROPIC

TEXT = {"type": "string"}
CYCLE = {"$defs": {"a": {"$ref": "#/$defs/a"}}}
PROMPTS = {
    COMPLETIONS: {"prompt": "x"},
    CHAT: {"messages": MESSAGES},
    RESPONSES: {"input": "x"},
    ANTHROPIC: {"messages": MESSAGES, "max_tokens": 5},
}


def response_format(schema: Any) -> dict:
    """As OpenAI's chats have it."""
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


def structures(schema: Any) -> dict:
    """A structural tag in its older form."""
    return {
        "type": "structural_tag",
        "triggers": ["<a"],
        "structures": [{"begin": "<a>", "schema": schema, "end": "<"}],
    }


def tag(schema: Any) -> dict:
    """A structural tag in its newer form, with the schema some levels down."""
    content = {"type": "json_schema", "json_schema": schema}
    tags = [{"begin": "<a>", "content": content, "end": "<"}]
    return {"type": "structural_tag", "format": {"type": "triggered_tags", "triggers": ["<a"], "tags": tags}}


PLACES: dict[str, tuple[list[Dialect], Callable[[Any], dict]]] = {
    "response_format.json_schema.schema": ([COMPLETIONS, CHAT], response_format),
    "response_format.structures[0].schema": ([COMPLETIONS, CHAT], lambda one: {"response_format": structures(one)}),
    "response_format.format.tags[0].content.json_schema": ([CHAT], lambda one: {"response_format": tag(one)}),
    "structured_outputs.json": ([COMPLETIONS, CHAT, RESPONSES], lambda one: {"structured_outputs": {"json": one}}),
    "structured_outputs.structural_tag.structures[0].schema": (
        [COMPLETIONS, CHAT],
        lambda one: {"structured_outputs": {"structural_tag": json.dumps(structures(one))}},
    ),
    "structured_outputs.structural_tag.format.tags[0].content.json_schema": (
        [CHAT],
        lambda one: {"structured_outputs": {"structural_tag": json.dumps(tag(one))}},
    ),
    "tools[1].function.parameters": (
        [CHAT],
        lambda one: {"tools": [{"type": "function", "function": {"name": n, "parameters": p}} for n, p in named(one)]},
    ),
    "tools[1].parameters": (
        [RESPONSES],
        lambda one: {"tools": [{"type": "function", "name": n, "parameters": p} for n, p in named(one)]},
    ),
    "tools[0].tools[1].parameters": (
        [RESPONSES],
        lambda one: {
            "tools": [
                {"type": "namespace", "name": "n", "tools": [{"name": n, "parameters": p} for n, p in named(one)]}
            ]
        },
    ),
    "tools[1].input_schema": (
        [ANTHROPIC],
        lambda one: {"tools": [{"name": n, "input_schema": p} for n, p in named(one)]},
    ),
    "text.format.schema": ([RESPONSES], lambda one: {"text": {"format": {"type": "json_schema", "schema": one}}}),
    "output_config.format.schema": (
        [ANTHROPIC],
        lambda one: {"output_config": {"format": {"type": "json_schema", "schema": one}}},
    ),
}
CYCLES: dict[str, tuple[dict, str]] = {
    "the whole": ({"$ref": "#"}, "#"),
    "a definition": ({**CYCLE, "$ref": "#/$defs/a"}, "#"),
    "two definitions": ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, "#"),
    "older definitions": ({"definitions": {"a": {"$ref": "#/definitions/a"}}, "$ref": "#/definitions/a"}, "#"),
    "by its id": ({"$id": "https://a.b/c", "$ref": "https://a.b/c#"}, "#"),
    "a name that is escaped": ({"$defs": {"a/b %": {"$ref": "#/$defs/a~1b%20%25"}}, "$ref": "#/$defs/a~1b %"}, "#"),
    "allOf": ({"allOf": [TEXT, {"$ref": "#"}]}, "#"),
    "anyOf of cycles only": ({"anyOf": [{"$ref": "#"}, {"allOf": [{"$ref": "#"}]}]}, "#"),
    "oneOf of cycles only": ({"oneOf": [{"$ref": "#/oneOf/0"}]}, "#"),
    "a property": ({**CYCLE, "type": "object", "properties": {"x/y": {"$ref": "#/$defs/a"}}}, "#/properties/x~1y"),
    "an item": ({**CYCLE, "type": "array", "items": {"anyOf": [{"$ref": "#/$defs/a"}]}}, "#/items"),
    "an item by its place": (
        {**CYCLE, "type": "array", "prefixItems": [TEXT, {"$ref": "#/$defs/a"}]},
        "#/prefixItems/1",
    ),
    "any other property": ({**CYCLE, "additionalProperties": {"$ref": "#/$defs/a"}}, "#/additionalProperties"),
    "below a reference": (
        {"$defs": {"b": {"properties": {"c": {"$ref": "#/$defs/b/properties/c"}}}}, "$ref": "#/$defs/b"},
        "#/$defs/b/properties/c",
    ),
}
LEGITIMATE: dict[str, Any] = {
    "a tree from its root": {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#"}}}},
    "a tree in a definition": {
        "$defs": {"node": {"properties": {"next": {"$ref": "#/$defs/node"}}, "required": ["next"]}},
        "$ref": "#/$defs/node",
    },
    "a linked list": {
        "$defs": {"node": {"properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}}},
        "$ref": "#/$defs/node",
    },
    "two that hold each other": {
        "$defs": {
            "a": {"items": {"$ref": "#/$defs/b"}},
            "b": {"allOf": [{"properties": {"a": {"$ref": "#/$defs/a"}}}]},
        },
        "anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}],
    },
    "a choice beside the cycle": {"anyOf": [{"$ref": "#"}, TEXT]},
    "the same definition twice": {"$defs": {"a": TEXT}, "allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]},
    "a cycle that nothing refers to": {**CYCLE, **TEXT},
    "a reference in data": {"const": {"$ref": "#/const"}},
    "a property named $ref": {"type": "object", "properties": {"$ref": TEXT}},
    "a reference into a choice": {"properties": {"a": {"anyOf": [TEXT, {}]}, "b": {"$ref": "#/properties/a/anyOf/1"}}},
    "true as a choice": {"anyOf": [True, {"$ref": "#"}]},
    # What the engine judges, with a 400 or by allowing any value.
    "a reference that leads nowhere": {
        "properties": {"a": {"$ref": "#/$defs/none"}, "b": {"$ref": "#/properties/9/0"}}
    },
    "a reference to an anchor": {"$ref": "#a"},
    "a reference to elsewhere": {"properties": {"a": {"$ref": "https://a.b/c#/d"}, "b": {"$ref": "c.json"}}},
    "no schema": {"$ref": 3, "$defs": [], "anyOf": {}, "allOf": [3], "properties": [{}], "items": 3},
    "an array": [{"$ref": "#"}],
    "no object": 3,
    "no JSON": "{",
}
WHERE = [(dialect, place) for place, (dialects, _) in PLACES.items() for dialect in dialects]


def named(schema: Any) -> list[tuple[str, Any]]:
    """The names and parameters of two tools, the second with the schema."""
    return [("first", {"type": "object", "properties": {}}), ("second", schema)]


@pytest.mark.parametrize("cycle", CYCLES)
@pytest.mark.parametrize(("dialect", "place"), WHERE, ids=lambda one: one if isinstance(one, str) else one.path)
def test_a_cycle_is_refused_with_its_place(dialect: Dialect, place: str, cycle: str) -> None:
    schema, at = CYCLES[cycle]
    with pytest.raises(ApiError) as caught:
        dialect.read(PROMPTS[dialect] | PLACES[place][1](schema))
    assert caught.value.status == 400
    assert caught.value.message.startswith(f"{place} refers to itself in a cycle at {at}: ")
    assert caught.value.param == place.split(".")[0].split("[")[0]


@pytest.mark.parametrize("legitimate", LEGITIMATE)
@pytest.mark.parametrize(("dialect", "place"), WHERE, ids=lambda one: one if isinstance(one, str) else one.path)
def test_other_schemas_pass(dialect: Dialect, place: str, legitimate: str) -> None:
    body = PROMPTS[dialect] | PLACES[place][1](LEGITIMATE[legitimate])
    assert dialect.read(body).payload == body


def test_a_chain_may_have_thousands_of_references() -> None:
    chain: dict = {f"d{one}": {"$ref": f"#/$defs/d{one + 1}"} for one in range(5000)}
    start = {"$ref": "#/$defs/d0"}
    COMPLETIONS.read({"prompt": "x", **response_format({"$defs": {**chain, "d5000": TEXT}, **start})})
    with pytest.raises(ApiError, match="refers to itself in a cycle at #: "):
        COMPLETIONS.read({"prompt": "x", **response_format({"$defs": {**chain, "d5000": start}, **start})})


def test_a_schema_may_be_a_string_of_json() -> None:
    with pytest.raises(ApiError, match=r"^structured_outputs\.json refers to itself in a cycle at #: "):
        COMPLETIONS.read({"prompt": "x", "structured_outputs": {"json": '{"$ref": "#"}'}})


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {str(one): {} for one in range(60_000)}},
        {"anyOf": [{} for _ in range(60_000)]},
        {"allOf": [{"$ref": "#" + "/allOf" * 200} for _ in range(1000)]},
    ],
    ids=["properties", "choices", "references"],
)
def test_the_work_on_schemas_is_bounded(schema: dict) -> None:
    with pytest.raises(ApiError, match=r"^tools\[1\]\.parameters is too large: ") as caught:
        RESPONSES.read({"input": "x", **PLACES["tools[1].parameters"][1](schema)})
    assert (caught.value.status, caught.value.param) == (400, "tools")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "tries"), [({"extra_body": {"structured_outputs": {"grammar": "root ::= root"}}}, 1), ({}, 3)]
)
def test_an_engines_500_on_a_grammar_is_not_tried_again(
    upstream: FakeUpstream, fields: dict, tries: int, stream: bool
) -> None:
    error = {"error": {"message": "Internal server error", "type": "InternalServerError", "code": 500}}
    upstream.answers["/v1/completions"] = reply_json(error, "500 Internal Server Error")
    with running(settings_for(upstream)) as one:
        client = openai.OpenAI(base_url=f"{one.url}/v1", api_key="none", max_retries=2)
        with pytest.raises(openai.InternalServerError):
            client.completions.create(model="fake", prompt="x", max_tokens=5, stream=stream, **fields)
    assert upstream.generations == tries


def test_a_cycle_never_reaches_the_engine(gateway: Running, upstream: FakeUpstream) -> None:
    answer = gateway.post({"prompt": "x", **response_format({"$ref": "#"})})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "response_format")
    assert upstream.generations == 0
