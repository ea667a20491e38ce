"""One vLLM server: whether it answers, what it serves, and what it has been sent."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from pydantic_core import from_json

from wave_serve.errors import ApiError
from wave_serve.logs import event
from wave_serve.settings import RoutingSettings, TimeoutSettings
from wave_serve.upstream.access import Access
from wave_serve.upstream.answer import FAILURES
from wave_serve.upstream.client import UpstreamClient
from wave_serve.upstream.ejection import Ejection

logger = logging.getLogger("wave_serve.upstream")
LATE_ANSWERS_TOLERATED = 3  # a server that tokenises a huge prompt may answer late without being down
REFUSALS = (401, 403, 407)
ASKS = "; it asks for a key or headers: in the settings, api_key and headers of the upstream"

BeforeReady = Callable[["Upstream"], Awaitable[None]]
OnChange = Callable[[], None]
OnWindow = Callable[[str], None]
Cards = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Origin:
    """Where a server has a model from, as its /v1/models tells.

    Attributes:
        root: name or path of its checkpoint.
        parent: the model that it is an adapter of.
    """

    root: str | None = None
    parent: str | None = None


class Upstream:
    """State of one server, kept current by `watch`. Its methods write it; everyone may read it.

    Attributes:
        base_url: root of the server.
        models: names of the models that it has to serve.
        keeps_responses: whether it has a store of responses.
        client: sends requests to it.
        reason: why no requests may be sent to it; None while it is ready.
        limits: its max_model_len by model, in tokens.
        origins: where it has each model from.
        cache_tokens: what its KV cache holds of one request; None where it does not tell.
        in_flight: requests that it has been sent and has not finished.
        outstanding_tokens: prompt tokens of these.
        life: how often it became ready; each time it may have an empty cache.
        ejection: knows of requests that fail while the server's health is good.
    """

    def __init__(
        self,
        base_url: str,
        models: tuple[str, ...],
        timeouts: TimeoutSettings,
        routing: RoutingSettings = RoutingSettings(),  # noqa: B008 - frozen
        access: Access = Access(),  # noqa: B008 - frozen
        *,
        keeps_responses: bool = False,
    ) -> None:
        self.base_url = base_url
        self.keeps_responses = keeps_responses
        self.models = models
        self.reason: str | None = "not looked at yet"
        self.limits: dict[str, int] = {}
        self.origins: dict[str, Origin] = {}
        self.cache_tokens: int | None = None
        self.in_flight = 0
        self.outstanding_tokens = 0
        self.life = 0
        self.ejection = Ejection(routing)
        self._before_ready: BeforeReady | None = None
        self._on_window: OnWindow | None = None
        self._on_change: OnChange | None = None
        self._up = asyncio.Event()
        self._timeouts = timeouts
        self._late = 0
        self._down = asyncio.Event()
        self.client = UpstreamClient(base_url, access, timeouts, lambda: self.mark_down("it cannot be reached"))

    @property
    def ready(self) -> bool:
        """Whether requests may be sent."""
        return self.reason is None

    def tell(self, before_ready: BeforeReady, on_change: OnChange, on_window: OnWindow) -> None:
        """Who is told.

        Args:
            before_ready: has to end well before the server is used.
            on_change: hears of each change.
            on_window: hears the base_url of a server whose max_model_len is another than before.
        """
        self._before_ready = before_ready
        self._on_change = on_change
        self._on_window = on_window

    async def wait_ready(self) -> None:
        """Returns as soon as the server is ready."""
        await self._up.wait()

    async def watch(self) -> None:
        """Looks at the server's health for ever."""
        while True:
            await self.look()
            try:
                # Not wait_for, which in Python 3.11 may take no notice of a cancellation.
                async with asyncio.timeout(self._timeouts.poll):
                    await self._down.wait()
            except TimeoutError:
                pass
            else:
                await asyncio.sleep(self._timeouts.poll)
            self._down.clear()

    async def look(self) -> None:
        """One look at the server's health, and at the models that it serves."""
        try:
            status, _ = await self.client.get("/health")
            if status != 200:
                self._set(_refusal("/health", status))
            elif not self.ready or await self._replaced():
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

    def retire(self) -> None:
        """It is listed no more: it gets nothing new, and what it works on goes on."""
        event(logger, logging.INFO, "upstream leaves", base_url=self.base_url, requests=self.in_flight)
        self.reason = "it is listed no more"
        self._up.clear()

    def mark_down(self, reason: str) -> None:
        """Takes the server out of use until it answers again."""
        self._set(reason)
        self._down.set()

    def take(self, prompt_tokens: int) -> None:
        """A request with that many prompt tokens is sent to it."""
        self.in_flight += 1
        self.outstanding_tokens += prompt_tokens

    def release(self, prompt_tokens: int) -> None:
        """That request is over."""
        self.in_flight -= 1
        self.outstanding_tokens -= prompt_tokens

    def learn_cache(self, tokens: int | None) -> None:
        """What its KV cache holds of one request, in tokens; None where it does not tell."""
        self.cache_tokens = tokens

    def apply(self, routing: RoutingSettings) -> None:
        """Takes over other settings of when it is avoided."""
        self.ejection.apply(routing)

    def note(self, *, failed: bool) -> None:
        """Takes notice of how a generation went."""
        if not failed:
            self.ejection.succeeded()
        elif self.ejection.failed():
            event(logger, logging.WARNING, "upstream ejected", base_url=self.base_url, reason=self.ejection.reason())

    async def _read_models(self) -> str | None:
        status, content = await self.client.get("/v1/models")
        if status != 200:
            return _refusal("/v1/models", status)
        cards = _cards(content)
        if cards is None:
            return "its /v1/models answers something else than models"
        missing = [model for model in self.models if model not in cards]
        if missing:
            return f"it does not serve {', '.join(missing)}; it serves {', '.join(map(str, cards)) or 'nothing'}"
        self._learn_limits(self._limits_in(cards))
        self.origins = {model: _origin(cards[model]) for model in self.models}
        if self._before_ready is not None:
            await self._before_ready(self)
        return None

    async def _replaced(self) -> bool:
        """Whether a ready server has another max_model_len than before: another one has taken its address."""
        status, content = await self.client.get("/v1/models")
        cards = _cards(content) if status == 200 else None
        if cards is None or self._limits_in(cards) == self.limits:
            return False
        self._set("it has another max_model_len than before")
        return True

    def _limits_in(self, cards: Cards) -> dict[str, int]:
        """The max_model_len of each model; vLLM's card of an adapter has none, and the model's it belongs to holds."""
        own = {model: cards.get(model, {}) for model in self.models}
        limits = {
            model: card.get("max_model_len") or cards.get(card.get("parent") or "", {}).get("max_model_len")
            for model, card in own.items()
        }
        return {model: limit for model, limit in limits.items() if isinstance(limit, int)}

    def _learn_limits(self, limits: dict[str, int]) -> None:
        before, self.limits = self.limits, limits
        if not before or limits == before:
            return
        name = "upstream's max_model_len changed"
        event(logger, logging.WARNING, name, base_url=self.base_url, before=before, now=limits)
        if self._on_window is not None:
            self._on_window(self.base_url)

    def _set(self, reason: str | None) -> None:
        # One that lets nobody in will not come up by itself, so that is told though it was not ready before either.
        refused = reason is not None and reason.endswith(ASKS) and reason != self.reason
        if refused or (reason is None) != (self.reason is None):
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
        if changed and self._on_change is not None:
            self._on_change()


def _cards(content: bytes) -> Cards | None:
    """The cards of the models in an answer of /v1/models; None where it is something else."""
    try:
        return {card["id"]: dict(card) for card in from_json(content)["data"]}
    except (ValueError, KeyError, TypeError):
        return None


def _refusal(path: str, status: int) -> str:
    return f"its {path} answers {status}" + (ASKS if status in REFUSALS else "")


def _origin(card: Mapping[str, Any]) -> Origin:
    root, parent = (value if isinstance(value := card.get(name), str) else None for name in ("root", "parent"))
    return Origin(root, parent)
