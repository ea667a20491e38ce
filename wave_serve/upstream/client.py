"""Requests to one vLLM server, over a pool of connections."""

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import aiohttp
from pydantic_core import from_json

from wave_serve.errors import ApiError, Code, unavailable
from wave_serve.headers import Header
from wave_serve.settings import TimeoutSettings
from wave_serve.upstream.access import Access
from wave_serve.upstream.answer import FAILURES, UpstreamAnswer
from wave_serve.upstream.errors import from_upstream

READ_AT_ONCE = 2**20  # bytes: some milliseconds
SENT_AT_ONCE = 2**20  # bytes; more is handed to the connection in parts
IDLE_SECONDS = 2.0  # vLLM's server closes idle connections after 5


class UpstreamClient:
    """Asks the server at `base_url`; calls `on_unreachable` each time that no connection to it can be made.

    Attributes:
        under_way: requests that have not been answered to the end.
    """

    def __init__(
        self, base_url: str, access: Access, timeouts: TimeoutSettings, on_unreachable: Callable[[], None]
    ) -> None:
        self._base_url = base_url
        self._access = access
        self._timeouts = timeouts
        self._on_unreachable = on_unreachable
        self._session: aiohttp.ClientSession | None = None
        self._closed = False
        self.under_way = 0

    async def ask(self, path: str, body: bytes) -> dict[str, Any]:
        """A JSON answer of the server to a small request.

        Raises:
            ApiError: its error in OpenAI's shape, or 502/503/504 where it gives no answer.
        """
        try:
            value = from_json(await self.ask_bytes(path, body))
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise _not_json(path)
        return value

    async def ask_object(self, path: str, body: bytes) -> bytes:
        """The same as it came; a long one, such as a million token ids, is only looked at at its ends."""
        answer = (await self.ask_bytes(path, body)).strip()
        try:
            whole = len(answer) > READ_AT_ONCE or isinstance(from_json(answer), dict)
        except ValueError:
            whole = False
        if not (whole and answer.startswith(b"{") and answer.endswith(b"}")):
            raise _not_json(path)
        return answer

    async def ask_bytes(self, path: str, body: bytes) -> bytes:
        """The same, whatever it is."""
        async with self.stream(path, body) as answer:
            content = await answer.read()
        if answer.status >= 400:
            raise from_upstream(answer.status, content, answer.headers)
        return content

    async def read(self, path: str) -> str | None:
        """The text of one of the server's pages; None where it has no such page. Raises one of FAILURES."""
        status, content = await self.get(path)
        return content.decode("utf-8", "replace") if status == 200 else None

    @contextlib.asynccontextmanager
    async def stream(
        self, path: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[UpstreamAnswer]:
        """An answer that is yet to be read; leaving it early closes the connection, which aborts the request.

        Raises:
            ApiError: 502/503/504, the server cannot be reached or its answer ends too soon.
        """
        data = body if len(body) <= SENT_AT_ONCE else io.BytesIO(body)
        head = {"content-type": "application/json", **(headers or {})}
        request = self._open().post(
            self._base_url + path,
            data=data,
            headers=head,
            allow_redirects=False,
            server_hostname=self._access.tls_name,
        )
        self.under_way += 1
        try:
            async with asyncio.timeout(self._timeouts.silence):  # a server may also take no bytes
                response = await request
            async with response:
                yield UpstreamAnswer(response)
        except FAILURES as error:
            raise self._failure(error) from None
        finally:
            self.under_way -= 1

    async def close(self) -> None:
        """Closes all connections; nothing can be asked any more."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        """The session, which can only begin in an event loop. Raises ApiError 503 after `close`."""
        if self._closed:
            raise unavailable("The upstream is listed no more.", self._timeouts.retry_after)
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_SECONDS, ssl=self._access.tls or True),
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=self._timeouts.connect, sock_read=self._timeouts.silence
                ),
                headers={"accept-encoding": "identity", **self._access.headers},
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
        return self._session

    async def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of a page that comes at once. Raises one of FAILURES, or ApiError 503 after `close`."""
        limit = aiohttp.ClientTimeout(total=self._timeouts.poll_answer)
        url, name = self._base_url + path, self._access.tls_name
        async with self._open().get(url, timeout=limit, allow_redirects=False, server_hostname=name) as answer:
            return answer.status, await answer.read()

    def _failure(self, error: aiohttp.ClientError | TimeoutError) -> ApiError:
        """The client's error for a connection that failed before the answer was complete."""
        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            self._on_unreachable()
            return unavailable("The upstream cannot be reached.", self._timeouts.retry_after)
        if isinstance(error, TimeoutError):
            message = f"The upstream sent nothing for {self._timeouts.silence:g} s."
            # Each further try would take as long.
            return ApiError(504, message, code=Code.UPSTREAM_TIMEOUT, headers={Header.SHOULD_RETRY: "false"})
        message = "The upstream closed the connection before its answer was complete."
        headers = {Header.RETRY_AFTER: str(self._timeouts.retry_after)}
        return ApiError(502, message, code=Code.UPSTREAM_DIED, headers=headers)


def _not_json(path: str) -> ApiError:
    return ApiError(502, f"The upstream's answer to {path} is not JSON.", code=Code.UPSTREAM_MALFORMED)
