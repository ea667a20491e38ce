"""The OpenAPI document: every endpoint with its bodies, headers and errors."""

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from wave_serve.openapi_schemas import ref, schemas

STATUSES = {
    400: "The request is wrong; `param` names the field. Also: it can never fit (`context_length_exceeded`).",
    401: "No valid API key.",
    403: "The key may not use this model.",
    404: "No such model.",
    408: "The body did not arrive within its deadline.",
    413: "The body is larger than the limit.",
    415: "The body is not declared as application/json.",
    429: "Over a rate or concurrency limit of the key, or the queue is full; `retry-after` says when to come again.",
    500: "The gateway or the engine failed.",
    501: "The engine does not support this.",
    502: "The upstream answered wrongly or died before it answered.",
    503: "No upstream is ready.",
    504: "The upstream was silent, or the generation took, longer than the deadline.",
}
READING = (401, 500)
POSTING = (400, 401, 403, 404, 408, 413, 415, 429, 500, 501, 502, 503, 504)
STREAMED = "With `stream`: events of one JSON object each, then `data: [DONE]`; a failure ends it with `error`."
HEADERS: dict[str, tuple[str, str]] = {
    "x-request-id": ("string", "The request's own x-request-id, or a new one."),
    "x-wave-context-tokens": ("integer", "Tokens of the longest prompt."),
    "x-wave-context-limit": ("integer", "Effective cap on prompt + completion, tokens."),
    "x-wave-train-length": ("integer", "Length that the model was trained at, tokens."),
    "x-wave-extrapolation-factor": ("number", "Prompt tokens / training length."),
    "x-wave-zone": ("string", "Zone of trust that the context reaches: trained, validated or hard."),
    "x-wave-warning": ("string", "Why that zone deserves care."),
    "x-wave-clamped-max-tokens": ("integer", "The completion limit after clamping."),
    "x-wave-truncated": ("string", "The policy by which the prompt was cut."),
    "x-wave-original-tokens": ("integer", "Tokens before the cut."),
    "x-wave-kept-tokens": ("string", "Ranges of tokens that were kept."),
    "x-wave-kept-messages": ("string", "Ranges of messages that were kept."),
    "x-ratelimit-limit-requests": ("integer", "Requests a minute of the key."),
    "x-ratelimit-remaining-requests": ("integer", "Requests left."),
    "x-ratelimit-reset-requests": ("string", "Time until all are left again."),
    "x-ratelimit-limit-tokens": ("integer", "Tokens a minute of the key."),
    "x-ratelimit-remaining-tokens": ("integer", "Tokens left."),
    "x-ratelimit-reset-tokens": ("string", "Time until all are left again."),
    "retry-after": ("integer", "Seconds after which another try makes sense."),
    "retry-after-ms": ("integer", "The same in milliseconds."),
    "x-should-retry": ("string", "false: a client should not try again by itself."),
    "www-authenticate": ("string", "How to authenticate."),
}
ALWAYS = ("x-request-id",)
GENERATION = tuple(name for name in HEADERS if name.startswith("x-wave"))
LIMITED = tuple(name for name in HEADERS if name.startswith("x-ratelimit"))
RETRYABLE = ("retry-after", "retry-after-ms", "x-should-retry")


def document(asks: Callable[[str], bool]) -> dict[str, Any]:
    """The document; `asks`: whether the endpoint of a path asks for an API key."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "wave-serve",
            "version": version("wave-serve"),
            "description": "OpenAI's API before models that are served far past their training length.",
        },
        "paths": {
            path: {method: _secured(operation, asks=asks(path))} for path, (method, operation) in _paths().items()
        },
        "components": {
            "schemas": schemas(),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "headers": {name: _header(kind, text) for name, (kind, text) in HEADERS.items()},
        },
    }


def _paths() -> dict[str, tuple[str, dict[str, Any]]]:
    context = {"anyOf": [ref("CompletionRequest"), ref("ChatRequest")]}
    tokenize = {"anyOf": [ref("TokenizeText"), ref("TokenizeChat")]}
    model = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}, "description": "Its name."}
    return {
        "/v1/completions": _post("Complete a prompt.", ref("CompletionRequest"), "Completion", streams=True),
        "/v1/chat/completions": _post("Answer a chat.", ref("ChatRequest"), "ChatCompletion", streams=True),
        "/v1/context": _post("Say whether a request would fit, without generating.", context, "Context"),
        "/tokenize": _post("Token ids of a text or a chat.", tokenize, "Tokens"),
        "/detokenize": _post("The text of token ids.", ref("DetokenizeRequest"), "Text"),
        "/v1/models": _get("The served models with their limits.", "Models"),
        "/v1/models/{model}": _get("One served model with its limits.", "Model", (403, 404), model),
        "/health": _get("Whether this process answers.", "Health"),
        "/ready": _get("Whether an upstream answers its requests.", "Ready", (503,)),
        "/metrics": ("get", _operation("Prometheus metrics.", _text_answer("text/plain"), READING)),
    }


def _post(summary: str, body: dict[str, Any], answer: str, *, streams: bool = False) -> tuple[str, dict[str, Any]]:
    content: dict[str, Any] = {"application/json": {"schema": ref(answer)}}
    operation = _operation(summary, content | ({"text/event-stream": {}} if streams else {}), POSTING)
    if streams:
        operation["description"] = STREAMED
    operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return "post", operation


def _get(
    summary: str, answer: str, errors: tuple[int, ...] = (), parameter: dict[str, Any] | None = None
) -> tuple[str, dict[str, Any]]:
    operation = _operation(summary, {"application/json": {"schema": ref(answer)}}, (*READING, *errors))
    if parameter is not None:
        operation["parameters"] = [parameter]
    return "get", operation


def _operation(summary: str, content: dict[str, Any], errors: tuple[int, ...]) -> dict[str, Any]:
    posts = 413 in errors
    own = (*ALWAYS, *GENERATION, *LIMITED) if posts else ALWAYS
    responses = {"200": {"description": "Success.", "headers": _headers(own), "content": content}}
    for status in sorted(errors):
        more = ("www-authenticate",) if status == 401 else RETRYABLE if status in (429, 502, 503, 504) else ()
        responses[str(status)] = {
            "description": STATUSES[status],
            "headers": _headers((*own, *more)),
            "content": {"application/json": {"schema": ref("Error")}},
        }
    return {"summary": summary, "responses": responses}


def _secured(operation: dict[str, Any], *, asks: bool) -> dict[str, Any]:
    if asks:
        return operation | {"security": [{"key": []}]}
    responses = {status: answer for status, answer in operation["responses"].items() if status != "401"}
    return operation | {"responses": responses}


def _headers(names: tuple[str, ...]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _header(kind: str, text: str) -> dict[str, Any]:
    return {"schema": {"type": kind}, "description": text}


def _text_answer(media_type: str) -> dict[str, Any]:
    return {media_type: {"schema": {"type": "string"}}}
