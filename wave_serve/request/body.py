"""Reads a request body, within its limits of size and time."""

import asyncio
import codecs
from collections.abc import AsyncIterator

from fastapi import Request

from wave_serve.errors import ApiError, Code, invalid
from wave_serve.request.encoding import is_gzip, unzipped

CLOSE = {"connection": "close"}  # what is left of the body would be taken for the next request


async def read_body(request: Request, limit: int, seconds: float) -> bytes:
    """The body, of at most `limit` bytes as it comes and unzipped; more is refused as soon as it is known.

    A mark of the byte order in front (U+FEFF in UTF-8), as some editors and .NET write it, is left out.

    Raises:
        ApiError: 413, it is larger; 408, the whole of it did not come within `seconds`; 415, another Content-Encoding
            than gzip; 400, it is not gzip though it should be.
        ClientDisconnect: the client went away first.
    """
    zipped = is_gzip(request.headers.get("content-encoding", ""))
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit, f"{int(declared)} bytes")
    try:
        async with asyncio.timeout(seconds):
            came = _bounded(request.stream(), limit, "")
            parts = _bounded(unzipped(came, limit), limit, " unzipped") if zipped else came
            body = b"".join([part async for part in parts]).removeprefix(codecs.BOM_UTF8)
    except TimeoutError:
        message = f"The request body did not arrive within {seconds:g} s."
        raise ApiError(408, message, code=Code.REQUEST_TIMEOUT, headers=CLOSE) from None
    if body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise invalid("The body must be UTF-8, as JSON is; it begins as UTF-16 or UTF-32 does.", code=Code.INVALID_JSON)
    return body


async def _bounded(parts: AsyncIterator[bytes], limit: int, how: str) -> AsyncIterator[bytes]:
    """The parts, up to `limit` bytes."""
    size = 0
    async for part in parts:
        size += len(part)
        if size > limit:
            raise _too_large(limit, f"more than {limit} bytes{how}")
        yield part


def _too_large(limit: int, size: str) -> ApiError:
    message = f"The request body is too large: {size}, at most {limit} bytes are accepted."
    return ApiError(413, message, code=Code.REQUEST_TOO_LARGE, headers=CLOSE)
