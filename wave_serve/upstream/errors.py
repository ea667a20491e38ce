"""Rewrites an upstream's error answer into OpenAI's shape."""

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

from wave_serve.errors import ApiError, Code
from wave_serve.headers import Header

CONTEXT_PHRASES = ("maximum context length", "exceeds the max_model_len", "prompt is too long", "exceed context limit")
GATEWAY_AT_FAULT = (401, 403)
PASSED_ON = (400, 404, 413, 429, 500, 501, 502, 503, 504)  # what the OpenAPI document names; 422 is a 400 to OpenAI
STATUS_OF_TYPE = {"invalid_request_error": 400, "rate_limit_error": 429, "overloaded_error": 503}  # Anthropic's
VALIDATION = re.compile(r"\d+ validation errors?:")


def from_upstream(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> ApiError:
    """The error that the client sees for an upstream's answer of `status` >= 400."""
    message, param = _read(body)
    if status in GATEWAY_AT_FAULT:
        return ApiError(502, f"The upstream refused the gateway: {message}", code=Code.UPSTREAM_REFUSED)
    over_context = status <= 500 and any(phrase in message for phrase in CONTEXT_PHRASES)
    if over_context:  # some servers call it a 413, 422 or 500; it is the request's fault, and no other server's
        status = 400
    if status == 405:  # what the server has at that path is another endpoint, such as one that is only read
        status = 404
    if status not in PASSED_ON:
        status = 400 if status < 500 else 502
    wait = headers.get("retry-after") if headers and status >= 429 else None  # below, another try is no use
    if over_context:
        code: Code | None = Code.CONTEXT_LENGTH_EXCEEDED
    elif status == 404 and param == "model":
        code = Code.MODEL_NOT_FOUND
    else:
        code = Code.UPSTREAM_ERROR if status >= 500 else None
    return ApiError(status, message, param=param, code=code, headers={Header.RETRY_AFTER: wait} if wait else None)


def event_error(event: Any) -> ApiError | None:
    """The error in a stream's event, in whatever dialect it is one; None where it is none."""
    if not isinstance(event, dict):
        return None
    error = event.get("error")
    if not isinstance(error, dict):
        if event.get("type") != "error":
            return None
        error = event
    code = error.get("code")
    status = code if isinstance(code, int) and code >= 400 else STATUS_OF_TYPE.get(str(error.get("type")), 500)
    return from_upstream(status, json.dumps(error).encode())


def _read(body: bytes) -> tuple[str, str | None]:
    """Message and parameter of an error body in any of the shapes that vLLM's server uses."""
    try:
        value: Any = json.loads(body)
    except ValueError:
        text = body[:500].decode("utf-8", "replace").strip()
        return text or "The upstream gave no reason.", None
    error = value.get("error", value) if isinstance(value, dict) else value
    if not isinstance(error, dict):
        return str(error), None
    message = error.get("message") or error.get("detail") or "The upstream gave no reason."
    param = error.get("param")
    return _readable(str(message)), param.removeprefix("body.") if isinstance(param, str) else None


def _readable(message: str) -> str:
    """vLLM lists validation errors as Python dictionaries; here as `field: reason, got value`."""
    first, *lines = message.split("\n")
    if not VALIDATION.fullmatch(first):
        return message
    found: dict[str, None] = {}  # an ordered set: alternatives of a union repeat the same complaint
    for line in lines:
        try:
            entry = ast.literal_eval(line.strip())
            field = str(entry["loc"]).removeprefix("body.")
            found[f"{field}: {entry['msg']}, got {entry.get('input')!r}"] = None
        except (ValueError, SyntaxError, TypeError, KeyError):
            found[line.strip()] = None
    return "; ".join(found)
