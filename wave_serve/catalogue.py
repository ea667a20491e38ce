"""The served models: each with its policy, its tokenizer and the upstreams that serve it."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic_core import to_json

from wave_serve.context import Cap, effective_limit
from wave_serve.errors import ApiError, invalid, unavailable
from wave_serve.logs import event
from wave_serve.prompts import Prompt, unknown_model
from wave_serve.settings import ModelSettings, Settings
from wave_serve.tokens import PROBES, LocalTokenizer
from wave_serve.upstream import Upstream

logger = logging.getLogger("wave_serve.catalogue")

NO_TEMPLATE = "you must provide a chat template"  # in the words of Transformers

# What of a chat request decides its prompt, under the names of vLLM's /tokenize.
CHAT_FIELDS = (
    "messages",
    "tools",
    "add_generation_prompt",
    "continue_final_message",
    "add_special_tokens",
    "chat_template",
    "mm_processor_kwargs",
    "media_io_kwargs",
)


class ServedModel:
    """One model behind the gateway."""

    def __init__(self, name: str, settings: ModelSettings, upstreams: list[Upstream], retry_after: int) -> None:
        self.name = name
        self.settings = settings
        self.upstreams = upstreams
        self.tokenizer = None if settings.tokenizer is None else LocalTokenizer(settings.tokenizer)
        self._retry_after = retry_after

    def pick(self) -> Upstream:
        """The ready upstream with the fewest requests. Raises ApiError 503 where none is ready."""
        ready = [upstream for upstream in self.upstreams if upstream.ready]
        if not ready:
            message = f"No upstream of model {self.name} is ready: {self.upstreams[0].reason}."
            raise unavailable(message, self._retry_after)
        return min(ready, key=lambda upstream: upstream.in_flight)

    def limit(self) -> int | None:
        """The effective cap in tokens, by the tightest upstream seen so far; None while none is known."""
        engines = [limit for upstream in self.upstreams if (limit := upstream.limits.get(self.name)) is not None]
        return effective_limit(self.settings, min(engines, default=None))

    def cap(self) -> Cap:
        """What a request is held against. Raises ApiError 503 while no limit is known."""
        limit = self.limit()
        if limit is None:
            raise unavailable(f"The context limit of model {self.name} is not known yet.", self._retry_after)
        settings = self.settings
        return Cap(limit, settings.train_length, settings.default_max_completion_tokens, settings.clamp_max_tokens)

    async def count(self, prompts: Sequence[Prompt], upstream: Upstream, *, add_special_tokens: bool) -> list[int]:
        """Tokens of each prompt, exactly as the engine will count them."""
        texts = [prompt for prompt in prompts if isinstance(prompt, str)]
        if not texts:
            return [len(prompt) for prompt in prompts]
        if self.tokenizer is not None:
            return await self.tokenizer.count(texts, add_special_tokens=add_special_tokens)
        return [await self._ask_count(upstream, prompt=text, add_special_tokens=add_special_tokens) for text in texts]

    async def count_chat(self, payload: Mapping[str, Any], upstream: Upstream) -> int:
        """Tokens of a chat request after the upstream's own chat template. Raises ApiError 400 where it has none."""
        fields = {field: payload[field] for field in CHAT_FIELDS if payload.get(field) is not None}
        try:
            return await self._ask_count(upstream, chat_template_kwargs=_template_kwargs(payload), **fields)
        except ApiError as error:
            if NO_TEMPLATE not in error.message:
                raise
            message = f"The model {self.name} has no chat template and answers no chat; use /v1/completions."
            raise invalid(message, "messages", "no_chat_template") from None

    async def check_tokenizer(self, upstream: Upstream) -> None:
        """Stops counting locally where the local tokenizer and the upstream's disagree on a probe."""
        if self.tokenizer is None:
            return
        for probe in PROBES:
            body = to_json({"model": self.name, "prompt": probe})
            theirs = (await upstream.ask("/tokenize", body)).get("tokens")
            if theirs != self.tokenizer.encode(probe):
                path = str(self.tokenizer.path)
                event(logger, logging.WARNING, "tokenizer differs; counting upstream", model=self.name, tokenizer=path)
                self.tokenizer = None
                return

    def card(self) -> dict[str, Any]:
        """The model as /v1/models shows it."""
        return {
            "id": self.name,
            "object": "model",
            "created": 0,
            "owned_by": "wave-serve",
            "max_model_len": self.limit(),
            "train_length": self.settings.train_length,
            "max_extrapolation": self.settings.max_extrapolation,
        }

    async def _ask_count(self, upstream: Upstream, **request: Any) -> int:
        answer = await upstream.ask("/tokenize", to_json({"model": self.name, **request}))
        count = answer.get("count")
        if not isinstance(count, int):
            raise ApiError(502, "The upstream's /tokenize gave no count.", code="upstream_malformed")
        return count


class Catalogue:
    """All served models by name."""

    def __init__(self, settings: Settings, upstreams: Iterable[Upstream]) -> None:
        upstreams = list(upstreams)
        self.models = {
            name: ServedModel(
                name,
                model,
                [upstream for upstream in upstreams if name in upstream.models],
                settings.timeouts.retry_after,
            )
            for name, model in settings.models.items()
        }

    @property
    def names(self) -> list[str]:
        """Names of all models."""
        return list(self.models)

    def find(self, name: str) -> ServedModel:
        """The model of that name. Raises ApiError 404."""
        if name not in self.models:
            raise unknown_model(name, self.names)
        return self.models[name]

    async def check_tokenizers(self, upstream: Upstream) -> None:
        """Checks the tokenizer of every model that `upstream` serves."""
        for name in upstream.models:
            await self.models[name].check_tokenizer(upstream)


def _template_kwargs(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The chat template's arguments, to which vLLM adds some fields of the request."""
    given = payload.get("chat_template_kwargs")
    arguments: dict[str, Any] = dict(given) if isinstance(given, dict) else {}
    effort = payload.get("reasoning_effort")
    if effort is not None:
        arguments.setdefault("enable_thinking", effort != "none")
        arguments["reasoning_effort"] = effort
    if payload.get("documents") is not None:
        arguments["documents"] = payload["documents"]
    return arguments
