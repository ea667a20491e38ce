"""One vLLM server: whether it answers, what it serves, and requests to it."""

import asyncio
import contextlib
import io
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import aiohttp
from pydantic_core import from_json

from wave_serve.ejection import Ejection
from wave_serve.errors import ApiError, unavailable
from wave_serve.logs import event
from wave_serve.settings import TimeoutSettings
from wave_serve.settings_routing import RoutingSettings
from wave_serve.upstream_answer import FAILURES, UpstreamAnswer
from wave_serve.upstream_errors import from_upstream

logger = logging.getLogger("wave_serve.upstream")
READ_AT_ONCE = 2**20  # bytes: some milliseconds
SENT_AT_ONCE = 2**20  # bytes; more is handed to the connection in parts
IDLE_SECONDS = 2.0  # vLLM's server closes idle connections after 5
LATE_ANSWERS_TOLERATED = 3  # a server that tokenises a huge prompt may answer late without being down


class Upstream:
    """State of one server, kept current by `watch`.

    `reason` is None while the server is ready, otherwise it says why not; `limits` are its max_model_len by model,
    `cache_tokens` what its KV cache holds of one request (None where it does not tell). `in_flight` and
    `outstanding_tokens` (of prompts) are what it has been sent and has not finished. `life` counts how often it was
    ready: with each one it starts from an empty cache. `ejection` knows of requests that fail while its health is good.
    """

    def __init__(
        self,
        base_url: str,
        models: tuple[str, ...],
        timeouts: TimeoutSettings,
        routing: RoutingSettings = RoutingSettings(),  # noqa: B008 - frozen
    ) -> None:
        self.base_url = base_url
        self.models = models
        self.reason: str | None = "not looked at yet"
        self.limits: dict[str, int] = {}
        self.cache_tokens: int | None = None
        self.in_flight = 0
        self.outstanding_tokens = 0
        self.life = 0
        self.ejection = Ejection(routing)
        self.before_ready: Callable[[Upstream], Awaitable[None]] | None = None
        self.on_change: Callable[[], None] | None = None
        self._up = asyncio.Event()
        self._timeouts = timeouts
        self._late = 0
        self._down = asyncio.Event()
        self._session: aiohttp.ClientSession | None = None

    @property
    def ready(self) -> bool:
        """Whether requests may be sent."""
        return self.reason is None

    async def wait_ready(self) -> None:
        """Returns as soon as the server is ready."""
        await self._up.wait()

    async def watch(self) -> None:
        """Looks at the server's health for ever."""
        while True:
            await self.look()
            try:
                await asyncio.wait_for(self._down.wait(), self._timeouts.poll)
                await asyncio.sleep(self._timeouts.poll)
            except TimeoutError:
                pass
            self._down.clear()

    async def look(self) -> None:
        """One look at the server's health; where it was not ready, also at the models that it serves."""
        try:
            status, _ = await self._get("/health")
            if status != 200:
                self._set(f"its /health answers {status}")
            elif not self.ready:
                self._set(await self._read_models())
            self._late = 0
        except ApiError as error:
            self._set(error.message)
        except aiohttp.ClientConnectorError as error:
            self._set(str(error))
        except FAILURES as error:
            # Not the server's end: a late answer, or a pooled connection that it closed as we took it.
            self._late += 1
            if not self.ready or self._late >= LATE_ANSWERS_TOLERATED:
                late = f"no answer within {self._timeouts.poll_answer:g} s"
                self._set(late if isinstance(error, TimeoutError) else "it closes connections unanswered")

    def mark_down(self, reason: str) -> None:
        """Takes the server out of use until it answers again."""
        self._set(reason)
        self._down.set()

    def note(self, *, failed: bool) -> None:
        """Takes notice of how a generation went."""
        if not failed:
            self.ejection.succeeded()
        elif self.ejection.failed():
            event(logger, logging.WARNING, "upstream ejected", base_url=self.base_url, reason=self.ejection.reason())

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
        status, content = await self._get(path)
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
        request = self._open().post(self.base_url + path, data=data, headers=head, allow_redirects=False)
        try:
            async with asyncio.timeout(self._timeouts.silence):  # a server may also take no bytes
                response = await request
            async with response:
                yield UpstreamAnswer(response)
        except FAILURES as error:
            raise self._failure(error) from None

    async def close(self) -> None:
        """Closes all connections."""
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        """The session, which can only begin in an event loop."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_SECONDS),
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=self._timeouts.connect, sock_read=self._timeouts.silence
                ),
                headers={"accept-encoding": "identity"},
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
        return self._session

    async def _get(self, path: str) -> tuple[int, bytes]:
        """Status and body of a page that comes at once. Raises one of FAILURES."""
        limit = aiohttp.ClientTimeout(total=self._timeouts.poll_answer)
        async with self._open().get(self.base_url + path, timeout=limit, allow_redirects=False) as answer:
            return answer.status, await answer.read()

    def _failure(self, error: aiohttp.ClientError | TimeoutError) -> ApiError:
        """The client's error for a connection that failed before the answer was complete."""
        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            self.mark_down("it cannot be reached")
            return unavailable("The upstream cannot be reached.", self._timeouts.retry_after)
        if isinstance(error, TimeoutError):
            message = f"The upstream sent nothing for {self._timeouts.silence:g} s."
            # Each further try would take as long.
            return ApiError(504, message, code="upstream_timeout", headers={"x-should-retry": "false"})
        message = "The upstream closed the connection before its answer was complete."
        headers = {"retry-after": str(self._timeouts.retry_after)}
        return ApiError(502, message, code="upstream_died", headers=headers)

    async def _read_models(self) -> str | None:
        _, content = await self._get("/v1/models")
        try:
            cards = {card["id"]: card.get("max_model_len") for card in from_json(content)["data"]}
        except (ValueError, KeyError, TypeError, AttributeError):
            return "its /v1/models answers something else than models"
        missing = [model for model in self.models if model not in cards]
        if missing:
            return f"it does not serve {', '.join(missing)}; it serves {', '.join(map(str, cards)) or 'nothing'}"
        self.limits = {model: cards[model] for model in self.models if isinstance(cards[model], int)}
        if self.before_ready is not None:
            await self.before_ready(self)
        return None

    def _set(self, reason: str | None) -> None:
        if (reason is None) != (self.reason is None):
            name = "upstream ready" if reason is None else "upstream down"
            event(logger, logging.WARNING if reason else logging.INFO, name, base_url=self.base_url, reason=reason)
        changed = reason != self.reason
        if reason is None and changed:
            self.life += 1
        self.reason = reason
        if reason is None:
            self._up.set()
        else:
            self._up.clear()
        if changed and self.on_change is not None:
            self.on_change()


def _not_json(path: str) -> ApiError:
    return ApiError(502, f"The upstream's answer to {path} is not JSON.", code="upstream_malformed")
