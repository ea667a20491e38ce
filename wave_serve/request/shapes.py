"""JSON schemas of fields that the engine checks, or `generation`: what the document says of them.

The gateway passes them on unseen, so that an engine which takes more than these says so itself.
"""

from typing import Any

from pydantic import WithJsonSchema

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
SOME_TEXT: Schema = {"type": "string", "minLength": 1}
ANYTHING: Schema = {"type": "object", "additionalProperties": True}
IDS: Schema = {"type": "array", "items": {"type": "integer", "minimum": 0}}


def some(items: Schema) -> Schema:
    """A list that is not empty."""
    return {"type": "array", "minItems": 1, "items": items}


def having(required: list[str], **properties: Schema) -> Schema:
    """An object that has these members; it may have others."""
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": True}


def nullable(schema: Schema) -> Schema:
    """The schema, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


PROMPTS = WithJsonSchema(
    {
        "description": "A text, several texts, token ids, or several lists of token ids.",
        "anyOf": [SOME_TEXT, some(SOME_TEXT), {**IDS, "minItems": 1}, some({**IDS, "minItems": 1})],
    }
)
PARTS = {"type": "array", "items": {"anyOf": [TEXT, having(["type", "text"], type={"const": "text"}, text=TEXT)]}}
CONTENT = {"anyOf": [TEXT, PARTS], "description": "Text, or parts."}
MESSAGES = WithJsonSchema(
    some(
        {
            "anyOf": [
                having(["role"], role=TEXT, content=CONTENT),
                having(["role"], role={"const": "assistant"}, content=nullable(CONTENT)),
            ]
        }
    )
)
TOOL_CHOICE = WithJsonSchema(
    {
        "anyOf": [
            {"type": "string", "enum": ["none", "auto", "required"]},
            having(["function"], type={"const": "function"}, function=having(["name"], name=SOME_TEXT)),
        ]
    }
)
RESPONSE_FORMAT = WithJsonSchema(
    {
        "anyOf": [
            having(["type"], type={"enum": ["text", "json_object"]}),
            having(
                ["type", "json_schema"],
                type={"const": "json_schema"},
                json_schema=having(["name"], name=TEXT, schema=nullable(ANYTHING)),
            ),
        ]
    }
)
STRUCTURED_OUTPUTS = WithJsonSchema(
    {
        "anyOf": [
            having(["json"], json={"anyOf": [ANYTHING, TEXT]}),
            having(["regex"], regex=TEXT),
            having(["choice"], choice=some(SOME_TEXT)),
            having(["grammar"], grammar=TEXT),
        ]
    }
)
EFFORT = WithJsonSchema({"type": "string", "enum": ["none", "minimal", "low", "medium", "high", "xhigh", "max"]})
DOCUMENTS = WithJsonSchema({"type": "array", "items": {"type": "object", "additionalProperties": TEXT}})
ARGUMENT = {"anyOf": [TEXT, {"type": "number"}, {"type": "boolean"}]}
ARGUMENTS = WithJsonSchema(
    {
        "type": "object",
        "additionalProperties": {"anyOf": [*ARGUMENT["anyOf"], {"type": "array", "items": ARGUMENT}]},
    }
)
OBJECTS_BY_NAME = WithJsonSchema({"type": "object", "additionalProperties": ANYTHING})
