"""An HTTP/1.1 client for one server, lean enough to stand in the way of every generation.

It reads with the parser that serves our own side (httptools), keeps connections, and fails with httpx's exceptions.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httptools
import httpx

MOST_BUFFERED = 2**18  # bytes of an answer that nobody has taken yet; more and we stop reading
SMALL = 2**16  # bytes that are cheaper to copy than to send in two parts
MOST_IDLE = 64
IDLE_SECONDS = 2.0  # shorter than servers keep connections, so that they do not close one as we take it


class Connection(asyncio.Protocol):
    """One connection: an answer's head once `head` is set, its body in pieces, `complete` at its end."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.lost: BaseException | None = None
        self.idle_since = 0.0
        self.begin()

    def begin(self) -> None:
        """Makes ready for an answer."""
        self.status_code = 0
        self.headers: dict[str, str] = {}
        self.complete = False
        self._head = self._kept = False
        self._parser: Any = httptools.HttpResponseParser(self)
        self._pieces: deque[bytes] = deque()
        self._buffered = 0
        self._reading = True
        self._waiter: asyncio.Future[None] | None = None

    @property
    def reusable(self) -> bool:
        """Whether another request may be sent."""
        return self.complete and self._kept and self.lost is None and not self._pieces

    async def head(self, seconds: float) -> None:
        """Returns once status and headers have come. Raises httpx.ReadTimeout or RemoteProtocolError."""
        while not self._head:
            await self._more(seconds)

    async def pieces(self, seconds: float) -> AsyncIterator[bytes]:
        """The body as it comes; `seconds` is the longest wait. Raises as `head`."""
        while True:
            while self._pieces:
                piece = self._pieces.popleft()
                self._buffered -= len(piece)
                if not self._reading and self._buffered < MOST_BUFFERED // 2 and self.lost is None:
                    self._reading = True
                    self.transport.resume_reading()
                yield piece
            if self.complete:
                return
            await self._more(seconds)

    def write(self, head: bytes, body: bytes) -> None:
        """Sends a request; a large body is not copied for it."""
        if len(body) < SMALL:
            self.transport.write(head + body)
        else:
            self.transport.write(head)
            self.transport.write(body)

    def close(self) -> None:
        """Ends the connection; what has not been sent yet is dropped."""
        if self.transport is not None:
            (self.transport.abort if self.transport.get_write_buffer_size() else self.transport.close)()
        self.lost = self.lost or httpx.RemoteProtocolError("closed by us")

    async def _more(self, seconds: float) -> None:
        if self.lost is not None:
            raise self.lost
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(seconds):
                await self._waiter
        except TimeoutError:
            raise httpx.ReadTimeout(f"nothing for {seconds:g} s") from None
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, message: str) -> None:
        self.lost = self.lost or httpx.RemoteProtocolError(message)
        self._wake()

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(str(error))
            self.transport.abort()
            return
        if self._reading and self._buffered > MOST_BUFFERED:
            self._reading = False
            self.transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        """The server sends no more: the end of a body that has no length of its own, else a fault."""
        sized = "content-length" in self.headers or "transfer-encoding" in self.headers
        if self._head and not self.complete and not sized:
            self.complete = True
        self._fail("The server closed the connection.")

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._fail(str(exc) if exc is not None else "The server closed the connection.")

    # httptools' side

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; of repeated ones the last counts."""
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_message_begin(self) -> None:
        """A second answer that nobody has asked for spoils the connection."""
        if self.complete:
            raise httptools.HttpParserError("The server sent more than its answer.")

    def on_headers_complete(self) -> None:
        """The head is whole; one of 1xx only announces another."""
        status = self._parser.get_status_code()
        if status >= 200:
            self.status_code, self._head = status, True
            self._kept = bool(self._parser.should_keep_alive())

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        self._pieces.append(data)
        self._buffered += len(data)

    def on_message_complete(self) -> None:
        """The answer is whole."""
        if self._head:
            self.complete = True
        else:
            self.headers = {}


class Answer:
    """A server's answer while its body comes."""

    def __init__(self, connection: Connection, silence: float) -> None:
        self.status_code = connection.status_code
        self.headers: Mapping[str, str] = connection.headers
        self._connection = connection
        self._silence = silence

    def aiter_raw(self) -> AsyncIterator[bytes]:
        """The body in pieces. Raises httpx.HTTPError."""
        return self._connection.pieces(self._silence)

    async def aread(self) -> bytes:
        """The whole body. Raises httpx.HTTPError."""
        return b"".join([piece async for piece in self.aiter_raw()])


class HttpClient:
    """Requests to one server; connections that are not in use are kept for a moment."""

    def __init__(self, base_url: str, *, connect: float, silence: float) -> None:
        """A client of `base_url`; deadlines in seconds."""
        parts = urlsplit(base_url)
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname or "", parts.port or (443 if self._secure else 80)
        self._prefix = parts.path.rstrip("/")
        self._fixed = f" HTTP/1.1\r\nhost: {parts.netloc}\r\naccept-encoding: identity\r\n"
        self._connect, self._silence = connect, silence
        self._idle: list[Connection] = []

    @asynccontextmanager
    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> AsyncIterator[Answer]:
        """The answer to a JSON body; leaving early closes the connection, which aborts the request.

        Raises:
            httpx.HTTPError: connecting failed, the answer is malformed, breaks off or is silent for too long.
        """
        connection = self._kept() or await self._opened()
        try:
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            head = f"POST {self._prefix}{path}{self._fixed}{lines}content-type: application/json\r\n"
            connection.begin()
            connection.write(f"{head}content-length: {len(body)}\r\n\r\n".encode("latin-1"), body)
            await connection.head(self._silence)
            yield Answer(connection, self._silence)
        finally:
            self._release(connection)

    def close(self) -> None:
        """Closes the kept connections."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def _kept(self) -> Connection | None:
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            if connection.lost is None and now - connection.idle_since < IDLE_SECONDS:
                return connection
            connection.close()
        return None

    async def _opened(self) -> Connection:
        secure = ssl.create_default_context() if self._secure else None
        try:
            async with asyncio.timeout(self._connect):
                loop = asyncio.get_running_loop()
                return (await loop.create_connection(Connection, self._host, self._port, ssl=secure))[1]
        except TimeoutError:
            raise httpx.ConnectTimeout(f"no connection within {self._connect:g} s") from None
        except OSError as error:
            raise httpx.ConnectError(str(error)) from None

    def _release(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        if not connection.reusable or len(self._idle) >= MOST_IDLE:
            connection.close()
            return
        connection.idle_since = loop.time()
        self._idle.append(connection)
        loop.call_later(IDLE_SECONDS, self._expire, connection, connection.idle_since)

    def _expire(self, connection: Connection, since: float) -> None:
        if connection.idle_since == since and connection in self._idle:
            self._idle.remove(connection)
            connection.close()
