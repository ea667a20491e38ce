"""One vLLM server: whether it answers, what it serves, and requests to it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx
from pydantic_core import from_json

from wave_serve.ejection import Ejection
from wave_serve.errors import ApiError, unavailable
from wave_serve.logs import event
from wave_serve.settings import TimeoutSettings
from wave_serve.settings_routing import RoutingSettings
from wave_serve.upstream_errors import from_upstream

logger = logging.getLogger("wave_serve.upstream")
READ_AT_ONCE = 2**20  # bytes: some milliseconds
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
        self._client = httpx.AsyncClient(
            base_url=base_url,
            timeout=httpx.Timeout(timeouts.silence, connect=timeouts.connect, pool=timeouts.connect),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=2.0),
            headers={"accept-encoding": "identity"},
            trust_env=False,
        )

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
            answer = await self._client.get("/health", timeout=self._timeouts.poll_answer)
            if answer.status_code != 200:
                self._set(f"its /health answers {answer.status_code}")
            elif not self.ready:
                self._set(await self._read_models())
            self._late = 0
        except ApiError as error:
            self._set(error.message)
        except (httpx.TimeoutException, httpx.ReadError, httpx.RemoteProtocolError) as error:
            # Not the server's end: a late answer, or a pooled connection that it closed as we took it.
            self._late += 1
            if not self.ready or self._late >= LATE_ANSWERS_TOLERATED:
                late = f"no answer within {self._timeouts.poll_answer:g} s"
                self._set(late if isinstance(error, httpx.TimeoutException) else "it closes connections unanswered")
        except httpx.HTTPError as error:
            self._set(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)

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
        try:
            answer = await self._client.post(path, content=body, headers={"content-type": "application/json"})
        except httpx.HTTPError as error:
            raise self.failure(error) from None
        if answer.status_code >= 400:
            raise from_upstream(answer.status_code, answer.content, answer.headers)
        content: bytes = answer.content
        return content

    async def read(self, path: str) -> str | None:
        """The text of one of the server's pages; None where it has no such page. Raises httpx.HTTPError."""
        answer = await self._client.get(path, timeout=self._timeouts.poll_answer)
        return answer.text if answer.status_code == 200 else None

    def stream(self, path: str, body: bytes, headers: Mapping[str, str]) -> Any:
        """Context manager of a streamed answer; leaving it early closes the connection, which aborts the request."""
        return self._client.stream("POST", path, content=body, headers={"content-type": "application/json", **headers})

    def failure(self, error: httpx.HTTPError) -> ApiError:
        """The client's error for a connection that failed before the answer was complete."""
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            self.mark_down("it cannot be reached")
            return unavailable("The upstream cannot be reached.", self._timeouts.retry_after)
        if isinstance(error, httpx.TimeoutException):
            message = f"The upstream sent nothing for {self._timeouts.silence:g} s."
            # Each further try would take as long.
            return ApiError(504, message, code="upstream_timeout", headers={"x-should-retry": "false"})
        message = "The upstream closed the connection before its answer was complete."
        headers = {"retry-after": str(self._timeouts.retry_after)}
        return ApiError(502, message, code="upstream_died", headers=headers)

    async def close(self) -> None:
        """Closes all connections."""
        await self._client.aclose()

    async def _read_models(self) -> str | None:
        answer = await self._client.get("/v1/models", timeout=self._timeouts.poll_answer)
        try:
            cards = {card["id"]: card.get("max_model_len") for card in answer.json()["data"]}
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
