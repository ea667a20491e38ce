"""Reads, parses and minimally edits a JSON request body."""

import asyncio
import json
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Request
from pydantic_core import to_json

from wave_serve.errors import ApiError, invalid
from wave_serve.worker.operations import parse_json

CLOSE = {"connection": "close"}  # what is left of the body would be taken for the next request


async def read_body(request: Request, limit: int, seconds: float) -> bytes:
    """The body, of at most `limit` bytes; more is refused as soon as it is known.

    Raises:
        ApiError: 413, it is larger; 408, the whole of it did not come within `seconds`.
        ClientDisconnect: the client went away first.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit, f"{int(declared)} bytes")
    try:
        async with asyncio.timeout(seconds):
            return await _read(request, limit)
    except TimeoutError:
        message = f"The request body did not arrive within {seconds:g} s."
        raise ApiError(408, message, code="request_timeout", headers=CLOSE) from None


def parse_object(body: bytes, content_type: str | None) -> dict[str, Any]:
    """The JSON object in `body`. Raises ApiError 400, or 415 for another content type."""
    check_content_type(content_type)
    try:
        value = parse_json(body)
    except ValueError as error:
        raise invalid(str(error), code="invalid_json") from None
    return check_object(value)


def check_content_type(content_type: str | None) -> None:
    """Raises ApiError 415 for anything but JSON."""
    media_type = (content_type or "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise ApiError(415, f"Content-Type must be application/json, got {media_type or 'none'!r}")


def check_object(value: Any) -> dict[str, Any]:
    """The value, where it is a JSON object. Raises ApiError 400."""
    if not isinstance(value, dict):
        raise invalid(f"The body must be a JSON object, got {json_kind(value)}", code="invalid_json")
    return value


def with_fields(
    body: bytes, payload: Mapping[str, Any], changes: Mapping[str, Any], without: Sequence[str] = ()
) -> bytes:
    """`body` with some fields set and others left out.

    It stays byte for byte where nothing changes, and but for its end where the fields to set are new.
    """
    gone = [field for field in without if field in payload]
    if gone or any(field in payload for field in changes):
        kept = {field: value for field, value in payload.items() if field not in gone}
        return to_json({**kept, **changes}, inf_nan_mode="constants")
    if not changes:
        return body
    end = body.rindex(b"}")
    return b"%s%s%s" % (body[:end], b"," if payload else b"", to_json(changes)[1:])


def json_kind(value: object) -> str:
    """JSON's name for the kind of a parsed value."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list() | array():
            return "an array"
        case _:
            return "an object"


def shown(value: object) -> str:
    """A short form of a value for an error message; long or nested ones are described, not repeated."""
    if isinstance(value, str) and len(value) > 40:
        return f"{json_kind(value)} of {len(value)} characters"
    if isinstance(value, list | dict | array) and len(value) > 0:
        return f"{json_kind(value)} of {len(value)} items"
    return json.dumps(value)


async def _read(request: Request, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise _too_large(limit, f"more than {limit} bytes")
        parts.append(part)
    return b"".join(parts)


def _too_large(limit: int, size: str) -> ApiError:
    message = f"The request body is too large: {size}, at most {limit} bytes are accepted."
    return ApiError(413, message, code="request_too_large", headers=CLOSE)
