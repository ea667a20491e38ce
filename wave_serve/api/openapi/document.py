"""The OpenAPI document: every endpoint with its bodies, headers and errors."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from wave_serve import version
from wave_serve.api.openapi.errors import STATUSES, error_schema
from wave_serve.api.openapi.schemas import schemas
from wave_serve.api.openapi.shapes import TEXT, Schema, ref
from wave_serve.headers import Header
from wave_serve.keys.auth import KEY_HEADERS

READING = (401, 500)
POSTING = (400, 401, 403, 404, 408, 413, 415, 429, 500, 501, 502, 503, 504)
UNCOUNTED = (401, 408, 415)  # described before a prompt can be counted
RETRYABLE = (429, 500, 501, 502, 503, 504)
STREAMED = (
    "With `stream`: server-sent events of one JSON object each (x-item-schema), up to `data: [DONE]` or the API's own "
    "last event; a failure ends it with an event that has the member `error` instead. Comments keep an idle stream "
    "alive."
)
ALWAYS = (Header.REQUEST_ID,)
RATES = tuple(name for name in Header if name.startswith("x-ratelimit"))
PREFLIGHT = tuple(
    name for name in Header if name.startswith(("x-wave-context", "x-wave-train", "x-wave-extrapolation"))
)
GENERATION = tuple(name for name in Header if name.startswith("x-wave"))
RETRY = (Header.RETRY_AFTER, Header.RETRY_AFTER_MS, Header.SHOULD_RETRY)


def document(asks: Callable[[str], bool]) -> dict[str, Any]:
    """The document; `asks`: whether the endpoint of a path asks for an API key."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "wave-serve",
            "version": version(),
            "description": "OpenAI's API before models that are served far past their training length.",
        },
        "paths": {path: {method: _operation(one, asks(path))} for path, (method, one) in _endpoints().items()},
        "components": {
            "schemas": schemas(),
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer"},
                **{name: {"type": "apiKey", "in": "header", "name": name} for name in KEY_HEADERS},
            },
            "headers": {
                header.value: {"schema": {"type": header.kind}, "description": header.description} for header in Header
            },
        },
    }


@dataclass(frozen=True)
class _Endpoint:
    """What is special of one endpoint: `counted` are the headers that tell of its prompt, `error` is its shape."""

    summary: str
    content: dict[str, Any]
    errors: tuple[int, ...]
    counted: tuple[str, ...] = ()
    more: dict[str, Any] = field(default_factory=dict)
    error: str = "Error"


def _endpoints() -> dict[str, tuple[str, _Endpoint]]:
    bodies = ("CompletionRequest", "ChatRequest", "ResponsesRequest", "MessagesRequest")
    context = {"anyOf": [ref(body) for body in bodies]}
    tokenize = {"anyOf": [ref("TokenizeText"), ref("TokenizeChat")]}
    model = {"name": "model", "in": "path", "required": True, "schema": TEXT, "description": "Its name."}
    response = model | {"name": "response_id", "description": "Its id."}
    about = {"parameters": [response]}
    cancel = _Endpoint("End the work on one.", _json("Response"), (*READING, 400, 404, 429, 503), more=about)
    metrics = {"text/plain": {"schema": TEXT}}
    return {
        "/v1/completions": _generation("Complete a prompt.", "CompletionRequest", "Completion"),
        "/v1/chat/completions": _generation("Answer a chat.", "ChatRequest", "ChatCompletion"),
        "/v1/responses": _generation("Answer with a response.", "ResponsesRequest", "Response"),
        "/v1/responses/{response_id}": _get(
            "A response that an engine keeps.", _json("Response"), (400, 404, 503), parameters=[response]
        ),
        "/v1/responses/{response_id}/cancel": ("post", cancel),
        "/v1/messages": _anthropic(_generation("Answer Anthropic's messages.", "MessagesRequest", "Message")),
        "/v1/messages/count_tokens": _anthropic(
            _post("Count the tokens of Anthropic's messages.", ref("CountedMessages"), "InputTokens", PREFLIGHT)
        ),
        "/v1/context": _post("Say whether a request would fit, without generating.", context, "Context", PREFLIGHT),
        "/tokenize": _post("Token ids of a text or a chat.", tokenize, "Tokens"),
        "/detokenize": _post("The text of token ids.", ref("DetokenizeRequest"), "Text"),
        "/v1/models": _get("The served models with their limits.", _json("Models")),
        "/v1/models/{model}": _get("One served model with its limits.", _json("Model"), (403, 404), parameters=[model]),
        "/health": _get("Whether this process answers.", _json("Health")),
        "/ready": _get("Whether an upstream answers its requests.", _json("Ready"), (503,)),
        "/metrics": _get("Prometheus metrics.", metrics),
    }


def _generation(summary: str, body: str, answer: str) -> tuple[str, _Endpoint]:
    events = {"text/event-stream": {"x-item-schema": ref(f"{answer}Event")}}
    method, one = _post(summary, ref(body), answer, GENERATION)
    return method, replace(one, content=one.content | events, more=one.more | {"description": STREAMED})


def _anthropic(endpoint: tuple[str, _Endpoint]) -> tuple[str, _Endpoint]:
    """The same with errors in Anthropic's shape."""
    method, one = endpoint
    return method, replace(one, error="AnthropicError")


def _post(summary: str, body: Schema, answer: str, counted: tuple[str, ...] = ()) -> tuple[str, _Endpoint]:
    content = {"application/json": {"schema": body}}
    return "post", _Endpoint(
        summary, _json(answer), POSTING, counted, {"requestBody": {"required": True, "content": content}}
    )


def _get(summary: str, content: dict[str, Any], errors: tuple[int, ...] = (), **more: object) -> tuple[str, _Endpoint]:
    return "get", _Endpoint(summary, content, (*READING, *errors), more=more)


def _operation(one: _Endpoint, asks: bool) -> dict[str, Any]:
    """The endpoint as the document has it; where it asks for no key there are neither its errors nor its rates."""
    rates = RATES if asks else ()
    responses = {"200": _response("Success.", one.content, (*ALWAYS, *one.counted, *rates))}
    for status in sorted(one.errors):
        if status == 401 and not asks:
            continue
        names: tuple[str, ...] = ALWAYS if status == 401 else (*ALWAYS, *rates)
        names += () if status in UNCOUNTED else one.counted
        names += (Header.WWW_AUTHENTICATE,) if status == 401 else RETRY if status in RETRYABLE else ()
        content = {"application/json": {"schema": error_schema(status, one.error)}}
        responses[str(status)] = _response(STATUSES[status], content, names)
    operation = {"summary": one.summary, "responses": responses, **one.more}
    return operation | {"security": [{name: []} for name in ("key", *KEY_HEADERS)]} if asks else operation


def _response(description: str, content: dict[str, Any], headers: tuple[str, ...]) -> dict[str, Any]:
    named = {name: {"$ref": f"#/components/headers/{name}"} for name in headers}
    return {"description": description, "headers": named, "content": content}


def _json(answer: str) -> dict[str, Any]:
    return {"application/json": {"schema": ref(answer)}}
