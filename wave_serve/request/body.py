"""Reads a request body, within its limits of size and time."""

import asyncio

from fastapi import Request

from wave_serve.errors import ApiError, Code

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
        raise ApiError(408, message, code=Code.REQUEST_TIMEOUT, headers=CLOSE) from None


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
    return ApiError(413, message, code=Code.REQUEST_TOO_LARGE, headers=CLOSE)
