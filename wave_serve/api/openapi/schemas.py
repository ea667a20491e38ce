"""JSON schemas of request bodies, from the table that is checked, and of what the engine answers."""

from collections.abc import Mapping

from wave_serve.api.openapi.answers import answers
from wave_serve.api.openapi.shapes import COUNT, IDS, TEXT, Schema, array_of, described, open_object, ref
from wave_serve.request.fields import CHAT, COMPLETION, DETOKENIZE, TOKENIZE, Field
from wave_serve.request.kinds import nullable

PROMPT: Schema = {
    "description": "A text, several texts, token ids, or several lists of token ids.",
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
        {**IDS, "minItems": 1},
        {"type": "array", "minItems": 1, "items": {**IDS, "minItems": 1}},
    ],
}
MESSAGES: Schema = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["role"],
        "properties": {
            "role": TEXT,
            "content": {"anyOf": [TEXT, {"type": "array"}, {"type": "null"}], "description": "Text, or parts."},
        },
        "additionalProperties": True,
    },
}


def schemas() -> dict[str, Schema]:
    """All of them by name."""
    return {
        "CompletionRequest": _body(COMPLETION, {"prompt": PROMPT}, ["prompt"]),
        "ChatRequest": _body(CHAT, {"messages": MESSAGES}, ["messages"]),
        "TokenizeText": _body(TOKENIZE, {"prompt": TEXT}, ["prompt"], without=("messages",)),
        "TokenizeChat": _body(TOKENIZE, {"messages": MESSAGES}, ["messages"], without=("prompt",)),
        "DetokenizeRequest": _body(DETOKENIZE, {"tokens": IDS}, ["tokens"]),
        **_generated(),
        "Tokens": open_object(
            {"count": COUNT, "max_model_len": COUNT, "tokens": IDS, "token_strs": nullable(array_of(TEXT))},
            ["count", "tokens"],
        ),
        "Text": open_object({"prompt": TEXT}, ["prompt"]),
        **answers(),
    }


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


def _answer(choice: Schema) -> Schema:
    usage = nullable(ref("Usage"))
    members = {"id": TEXT, "object": TEXT, "created": COUNT, "model": TEXT, "choices": array_of(choice), "usage": usage}
    return open_object(members, ["object", "choices"])


def _body(
    fields: Mapping[str, Field], own: Mapping[str, Schema], required: list[str], without: tuple[str, ...] = ()
) -> Schema:
    """A request body; fields that are not named pass to the engine unseen."""
    checked = {
        name: nullable(field.kind.schema) | {"description": field.description}
        for name, field in fields.items()
        if name not in without
    }
    return {
        "type": "object",
        "required": required,
        "properties": checked | dict(own),
        "additionalProperties": True,
    }
