"""Undoes the Content-Encoding of a request body, of which gzip is understood, within the bound on what comes out."""

import asyncio
import zlib
from collections.abc import AsyncIterator

from wave_serve.errors import ApiError, Code, invalid

GZIP = ("gzip", "x-gzip")
GZIP_FORMAT = 16 + zlib.MAX_WBITS  # as zlib names it
MOST_MEMBERS = 1000  # each costs work, though nothing may come out of it
AT_ONCE = 2**20  # bytes that come out before others are answered


def is_gzip(content_encoding: str) -> bool:
    """Whether the body is gzip, by its header; False where it is as it is. Raises ApiError 415 for all else."""
    codings = [coding.strip().lower() for coding in content_encoding.split(",")]
    codings = [coding for coding in codings if coding not in ("", "identity")]
    if not codings:
        return False
    if len(codings) == 1 and codings[0] in GZIP:
        return True
    raise ApiError(415, f"Content-Encoding must be gzip or identity, got {content_encoding!r}")


async def unzipped(parts: AsyncIterator[bytes], limit: int) -> AsyncIterator[bytes]:
    """What gzip's bytes stand for; never more than `limit` bytes and one more, however much that would become.

    Raises:
        ApiError: 400, it is not gzip or ends too soon.
    """
    member, members = zlib.decompressobj(GZIP_FORMAT), 1
    left = limit + 1
    async for data in parts:
        while data and left:
            if member.eof:  # gzip may have several members, one behind the other
                members += 1
                if members > MOST_MEMBERS:
                    raise _broken(f"has more than {MOST_MEMBERS} members of gzip")
                member = zlib.decompressobj(GZIP_FORMAT)
            try:
                part = member.decompress(data, min(AT_ONCE, left))
            except zlib.error:
                raise _broken("is not gzip, though its Content-Encoding says so") from None
            data = member.unused_data if member.eof else member.unconsumed_tail
            left -= len(part)
            if part:
                yield part
            await asyncio.sleep(0)
        if not left:
            return
    if not member.eof:
        raise _broken("ends before its gzip data does")


def _broken(how: str) -> ApiError:
    return invalid(f"The body {how}.", code=Code.INVALID_JSON)
