"""A server's answer to one request, read as it comes; what goes wrong with it is raised, never waited for."""

import asyncio
from collections.abc import AsyncIterator, Mapping

import aiohttp

LOOK_SECONDS = 1.0
FAILURES = (aiohttp.ClientError, TimeoutError)


class UpstreamAnswer:
    """Status and headers are there; the body is read once, by `chunks` or `read`. Both raise one of FAILURES."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self._read = 0
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    @property
    def lost(self) -> bool:
        """Whether aiohttp received bytes that nobody has read: it drops what arrives together with a failure."""
        return self._response.content.total_bytes > self._read

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body's bytes as they come."""
        content = self._response.content
        while not content.at_eof():
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    chunk = await content.readany()
            except aiohttp.ServerTimeoutError:
                raise
            except TimeoutError:
                # aiohttp (3.14) wakes no reader where a chunk is malformed: it only closes the connection.
                if self._ended():
                    raise aiohttp.ClientPayloadError("the connection is closed") from None
                continue
            self._read += len(chunk)
            if chunk:
                yield chunk

    async def read(self) -> bytes:
        """The whole body."""
        return b"".join([chunk async for chunk in self.chunks()])

    def _ended(self) -> bool:
        """Whether the connection was lost before the body's end."""
        connection = self._response.connection
        connected = connection is not None and connection.protocol is not None and connection.protocol.is_connected()
        return not connected and not self._response.content.is_eof()
