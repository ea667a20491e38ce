"""Every error that a documented endpoint may answer with: what each status means, and the codes that it may have."""

from wave_serve.api.openapi.shapes import Schema, ref
from wave_serve.errors import Code

STATUSES = {
    400: "The request is wrong; `param` names the field. Also: it can never fit (`context_length_exceeded`).",
    401: "No valid API key.",
    403: "The key may not use this model.",
    404: "No such model.",
    408: "The body did not arrive within its deadline.",
    413: "The body is larger than the limit.",
    415: "The body is not declared as application/json, or encoded in another way than gzip.",
    429: "Over a rate or concurrency limit of the key, or the queue is full; `retry-after` says when to come again.",
    500: "The gateway or the engine failed.",
    501: "The engine does not support this.",
    502: "The upstream answered wrongly or died before it answered.",
    503: "No upstream is ready.",
    504: "The upstream was silent, or the generation took, longer than the deadline.",
}
WITHOUT_CODE = (400, 404, 413, 415, 429)
"""Statuses whose code may be null: the message and `param` say it all, or the refusal is the engine's own."""


def codes_of(status: int) -> list[str | None]:
    """The codes that an answer of that status may have."""
    named: list[str | None] = [code.value for code in Code if status in code.statuses]
    return [None, *named] if status in WITHOUT_CODE else named


def error_schema(status: int, shape: str) -> Schema:
    """The body of an answer of that status, in the shape of that schema."""
    code = {"properties": {"code": {"enum": codes_of(status)}}}
    return {"allOf": [ref(shape), {"properties": {"error": code}}]}
