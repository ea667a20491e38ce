"""JSON schemas of request bodies and of the gateway's own answers, from their types, and of what the engine answers."""

from typing import Any, Literal

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from wave_serve.api.count_messages import InputTokens
from wave_serve.api.openapi.shapes import COUNT, IDS, TEXT, Schema, array_of, described, nullable, open_object, ref
from wave_serve.api.preflight import Context
from wave_serve.api.readiness import Health, Ready
from wave_serve.context.card import Limits, Model, Models, Zones
from wave_serve.context.truncation import Truncation
from wave_serve.errors import Error, ErrorDetails
from wave_serve.request.dialects.messages import AnthropicError, AnthropicErrorDetails
from wave_serve.request.dialects.messages_body import CountedMessages, MessagesRequest
from wave_serve.request.dialects.responses_body import ResponsesRequest
from wave_serve.request.fields import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeChat, TokenizeText

GENERATIONS = (CompletionRequest, ChatRequest, ResponsesRequest, MessagesRequest)
REQUESTS = (*GENERATIONS, CountedMessages, TokenizeText, TokenizeChat, DetokenizeRequest)
ERRORS = (Error, ErrorDetails, AnthropicError, AnthropicErrorDetails)
ANSWERS = (Model, Models, Limits, Zones, Context, Truncation, InputTokens, Health, Ready, *ERRORS)
REFS = "#/components/schemas/{model}"


def schemas() -> dict[str, Schema]:
    """All of them by name."""
    return (
        _schemas_of(REQUESTS)
        | _generated()
        | {
            "Tokens": open_object(
                {"count": COUNT, "max_model_len": COUNT, "tokens": IDS, "token_strs": nullable(array_of(TEXT))},
                ["count", "tokens"],
            ),
            "Text": open_object({"prompt": TEXT}, ["prompt"]),
        }
        | answers()
    )


def answers() -> dict[str, Schema]:
    """What the gateway itself answers: objects that have these members and no more."""
    return _schemas_of(ANSWERS)


class _Schemas(GenerateJsonSchema):
    """Without titles, which repeat names, and without defaults, which are null; objects are closed."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - pydantic's signature
        """Never."""
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> Schema:
        """That of the value."""
        return self.generate_inner(schema["schema"])

    def typed_dict_schema(self, schema: core_schema.TypedDictSchema) -> Schema:
        """Closed, unless its configuration says otherwise."""
        return {"additionalProperties": False} | super().typed_dict_schema(schema)


def _schemas_of(types: tuple[Any, ...]) -> dict[str, Schema]:
    """Schemas of types by their names; enumerations and what is part of one type alone stand in their places."""
    mode: Literal["validation"] = "validation"
    named = [(kind.__name__, mode, TypeAdapter(kind)) for kind in types]
    found = TypeAdapter.json_schemas(named, ref_template=REFS, schema_generator=_Schemas)[1]["$defs"]
    for schema in found.values():
        schema.pop("title")
    parts = {
        REFS.format(model=name): schema
        for name, schema in found.items()
        if name not in {kind.__name__ for kind in types}
    }
    return {name: _inlined(schema, parts) for name, schema in found.items() if REFS.format(model=name) not in parts}


def _inlined(value: Any, parts: dict[str, Schema]) -> Any:
    """The schema with `parts`, by their references, in place of the references."""
    if isinstance(value, list):
        return [_inlined(one, parts) for one in value]
    if not isinstance(value, dict):
        return value
    part = parts.get(value.get("$ref", ""))
    rest = {name: _inlined(one, parts) for name, one in value.items() if part is None or name != "$ref"}
    return rest if part is None else _inlined(part, parts) | rest


def _generated() -> dict[str, Schema]:
    """What a generation answers; of a stream, each event."""
    choice = {"index": COUNT, "finish_reason": nullable(TEXT), "logprobs": nullable({"type": "object"})}
    said = {"role": TEXT, "content": nullable(TEXT), "tool_calls": nullable({"type": "array"})}
    text = open_object(choice | {"text": TEXT}, ["index", "text"])
    message = open_object(choice | {"message": open_object(said, ["role"])}, ["index", "message"])
    delta = open_object(choice | {"delta": open_object(said, [])}, ["index", "delta"])
    return {
        "Completion": _answer(text),
        "CompletionEvent": {"anyOf": [_answer(text), ref("Error")]},
        "ChatCompletion": _answer(message),
        "ChatCompletionEvent": {"anyOf": [_answer(delta), ref("Error")]},
        **_responses(),
        **_messages(),
        "Usage": open_object(
            {
                "prompt_tokens": COUNT,
                "completion_tokens": nullable(COUNT),
                "total_tokens": COUNT,
                "prompt_tokens_details": nullable({"type": "object"}),
                "truncation": described(ref("Truncation"), "What of the prompts was kept, where one was truncated."),
            },
            ["prompt_tokens", "total_tokens"],
        ),
    }


def _responses() -> dict[str, Schema]:
    """What /v1/responses answers; the events are those of OpenAI's reference, each named by its type."""
    usage = open_object(
        {"input_tokens": COUNT, "output_tokens": COUNT, "total_tokens": COUNT, "truncation": _cut()},
        ["input_tokens", "output_tokens", "total_tokens"],
    )
    members = {"id": TEXT, "object": {"const": "response"}, "model": TEXT, "output": array_of({"type": "object"})}
    response = open_object(members | {"status": TEXT, "usage": nullable(usage)}, ["id", "object", "output"])
    event = open_object({"type": TEXT, "response": ref("Response")}, ["type"])
    return {"Response": response, "ResponseEvent": event}


def _messages() -> dict[str, Schema]:
    """What /v1/messages answers; the events are those of Anthropic's reference, each named by its type."""
    usage = open_object({"input_tokens": COUNT, "output_tokens": COUNT, "truncation": _cut()}, [])
    members = {"id": TEXT, "type": {"const": "message"}, "role": TEXT, "content": array_of({"type": "object"})}
    message = open_object(members | {"stop_reason": nullable(TEXT), "usage": nullable(usage)}, ["id", "content"])
    event = open_object({"type": TEXT, "message": ref("Message"), "usage": nullable(usage)}, ["type"])
    return {"Message": message, "MessageEvent": event}


def _cut() -> Schema:
    return described(ref("Truncation"), "What of the conversation was kept, where it was truncated.")


def _answer(choice: Schema) -> Schema:
    usage = nullable(ref("Usage"))
    members = {"id": TEXT, "object": TEXT, "created": COUNT, "model": TEXT, "choices": array_of(choice), "usage": usage}
    return open_object(members, ["object", "choices"])
