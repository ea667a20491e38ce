"""Writes a stream of server-sent events to a client and keeps it alive while there is none."""

import asyncio

from starlette.types import Message, Send

from wave_serve.errors import ApiError
from wave_serve.relay.events import KEEP_ALIVE
from wave_serve.request.dialects import Dialect


class EventWriter:
    """The client's side of a stream; a lock keeps comments between whole events."""

    def __init__(self, send: Send, dialect: Dialect) -> None:
        self._send = send
        self._dialect = dialect
        self._lock = asyncio.Lock()
        self._started = False
        self._closed = False
        self._last = asyncio.get_running_loop().time()

    async def write(self, data: bytes) -> None:
        """Sends whole events; the first of them begins the response, unless a comment has begun it already."""
        async with self._lock:
            if data:
                await self._start()
                await self._send_body(data, more=True)

    async def close(self) -> None:
        """Ends the stream."""
        async with self._lock:
            self._closed = True
            await self._send_body(b"", more=False)

    async def fail(self, error: ApiError) -> bool:
        """Ends a stream that has begun with an error event; False where it has not begun."""
        async with self._lock:
            self._closed = True
            if self._started:
                await self._send_body(self._dialect.error_event(error), more=False)
            return self._started

    async def beat(self, interval: float) -> None:
        """Sends a comment whenever the stream has been idle for `interval` seconds, and begins it where need be."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(max(0.0, self._last + interval - loop.time()))
            async with self._lock:
                if not self._closed and loop.time() - self._last >= interval:
                    await self._start()
                    await self._send_body(KEEP_ALIVE, more=True)

    async def _start(self) -> None:
        if self._started:
            return
        self._started = True
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        message: Message = {"type": "http.response.start", "status": 200, "headers": headers}
        await self._send(message)

    async def _send_body(self, data: bytes, *, more: bool) -> None:
        self._last = asyncio.get_running_loop().time()
        await self._send({"type": "http.response.body", "body": data, "more_body": more})
