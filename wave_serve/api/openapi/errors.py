"""Every error that a documented endpoint may answer with: what each status means, and the codes that it may have."""

from wave_serve.api.openapi.shapes import Schema, ref

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
CODES: dict[int, tuple[str | None, ...]] = {
    400: (None, "context_length_exceeded", "invalid_json", "no_chat_template"),
    401: ("missing_api_key", "invalid_api_key"),
    403: ("model_not_allowed",),
    404: (None, "model_not_found"),
    408: ("request_timeout",),
    413: (None, "request_too_large"),
    415: (None,),
    429: (None, "rate_limit_exceeded", "concurrency_limit_exceeded", "queue_full", "queue_timeout"),
    500: ("internal_error", "upstream_error"),
    501: ("upstream_error",),
    502: ("upstream_died", "upstream_malformed", "upstream_refused", "upstream_error"),
    503: ("upstream_unavailable", "gateway_stopping", "worker_died", "upstream_error"),
    504: ("upstream_timeout", "generation_timeout", "upstream_error"),
}
"""null where the message and `param` say it all, and where a refusal is the engine's own."""


def error_schema(status: int) -> Schema:
    """The body of an answer of that status."""
    code = {"properties": {"code": {"enum": list(CODES[status])}}}
    return {"allOf": [ref("Error"), {"properties": {"error": code}}]}
