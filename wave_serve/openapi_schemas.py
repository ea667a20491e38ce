"""JSON schemas of what goes in and out; those of request bodies come from the table that is checked."""

from collections.abc import Mapping
from typing import Any

from wave_serve.field_kinds import nullable
from wave_serve.request_fields import CHAT, COMPLETION, DETOKENIZE, TOKENIZE, Field

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
FLAG: Schema = {"type": "boolean"}
IDS: Schema = {"type": "array", "items": COUNT}
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


def ref(name: str) -> Schema:
    """A reference to one of the schemas."""
    return {"$ref": f"#/components/schemas/{name}"}


def schemas() -> dict[str, Schema]:
    """All of them by name."""
    usage = _object(
        {
            "prompt_tokens": COUNT,
            "completion_tokens": nullable(COUNT),
            "total_tokens": COUNT,
            "prompt_tokens_details": nullable({"type": "object"}),
            "truncation": {"type": "object", "description": "What of the prompts was kept, where one was truncated."},
        },
        ["prompt_tokens", "total_tokens"],
    )
    choice = {"index": COUNT, "finish_reason": nullable(TEXT), "logprobs": nullable({"type": "object"})}
    answer = {"id": TEXT, "created": COUNT, "model": TEXT, "usage": nullable(ref("Usage"))}
    message = _object({"role": TEXT, "content": nullable(TEXT), "tool_calls": nullable({"type": "array"})}, ["role"])
    return {
        "CompletionRequest": _body(COMPLETION, {"prompt": PROMPT}, ["prompt"]),
        "ChatRequest": _body(CHAT, {"messages": MESSAGES}, ["messages"]),
        "TokenizeText": _body(TOKENIZE, {"prompt": TEXT}, ["prompt"], without=("messages",)),
        "TokenizeChat": _body(TOKENIZE, {"messages": MESSAGES}, ["messages"], without=("prompt",)),
        "DetokenizeRequest": _body(DETOKENIZE, {"tokens": IDS}, ["tokens"]),
        "Usage": usage,
        "Completion": _object(
            answer | {"object": TEXT, "choices": _list(_object(choice | {"text": TEXT}, ["index", "text"]))},
            ["object", "choices"],
        ),
        "ChatCompletion": _object(
            answer | {"object": TEXT, "choices": _list(_object(choice | {"message": message}, ["index", "message"]))},
            ["object", "choices"],
        ),
        "Model": _model(),
        "Models": _object({"object": {"const": "list"}, "data": _list(ref("Model"))}, ["object", "data"]),
        "Context": _context(),
        "Tokens": _object(
            {"count": COUNT, "max_model_len": COUNT, "tokens": IDS, "token_strs": nullable(_list(TEXT))},
            ["count", "tokens"],
        ),
        "Text": _object({"prompt": TEXT}, ["prompt"]),
        "Health": _object({"status": {"const": "ok"}}, ["status"]),
        "Ready": _object({"status": TEXT, "upstreams": {"type": "object"}}, ["status", "upstreams"]),
        "Error": _error(),
    }


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


def _error() -> Schema:
    inner = _object(
        {
            "message": TEXT,
            "type": {
                "enum": [
                    "invalid_request_error",
                    "authentication_error",
                    "permission_error",
                    "rate_limit_error",
                    "server_error",
                ]
            },
            "param": nullable(TEXT) | {"description": "The field of the request at fault."},
            "code": nullable(TEXT) | {"description": "Machine-readable reason; see the page on clients."},
            "n_prompt_tokens": COUNT | {"description": "With context_length_exceeded: tokens of the longest prompt."},
            "n_ctx": COUNT | {"description": "With context_length_exceeded: the cap that was exceeded."},
        },
        ["message", "type", "param", "code"],
    )
    return _object({"error": inner}, ["error"])


def _model() -> Schema:
    return _object(
        {
            "id": TEXT,
            "object": {"const": "model"},
            "created": COUNT,
            "owned_by": TEXT,
            "max_model_len": nullable(COUNT) | {"description": "Effective cap on prompt + completion, tokens."},
            "train_length": nullable(COUNT),
            "max_extrapolation": nullable(NUMBER),
        },
        ["id", "object", "created", "owned_by", "max_model_len"],
    )


def _context() -> Schema:
    return _object(
        {
            "object": {"const": "context"},
            "model": TEXT,
            "tokens": COUNT | {"description": "Tokens of the longest prompt."},
            "exact": FLAG | {"description": "false: tokens are a lower bound, the prompt is too long to be counted."},
            "prompts": _list(COUNT),
            "factor": nullable(NUMBER) | {"description": "tokens / train_length."},
            "limit": COUNT,
            "fits": FLAG | {"description": "As it is, neither truncated nor clamped."},
            "accepted": FLAG | {"description": "Whether the request would be answered, maybe truncated or clamped."},
            "completion_tokens": nullable(COUNT),
            "overflow": TEXT,
            "truncation": {"type": "object", "description": "By policy, what truncation would keep."},
            "error": nullable({"type": "object"}) | {"description": "What the refusal would say."},
        },
        ["object", "model", "tokens", "limit", "fits", "accepted"],
    )


def _list(of: Schema) -> Schema:
    return {"type": "array", "items": of}


def _object(properties: Mapping[str, Schema], required: list[str]) -> Schema:
    return {"type": "object", "required": required, "properties": dict(properties), "additionalProperties": True}
