"""The served models: each with its policy, its token counter and the upstreams that serve it."""

import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

from wave_serve.context.cap import Cap, bounds
from wave_serve.context.card import Limits, Model, Zones
from wave_serve.context.zones import zones_of
from wave_serve.errors import ApiError, Code, invalid, unavailable
from wave_serve.logs import event
from wave_serve.request.values import shown
from wave_serve.routing.asking import ask_any, least_busy
from wave_serve.settings import ModelSettings, Settings
from wave_serve.tokens.counter import TokenCounter
from wave_serve.upstream.cache_capacity import cache_tokens
from wave_serve.upstream.upstream import Origin, Upstream
from wave_serve.worker.process import Worker

logger = logging.getLogger("wave_serve.catalogue")
T = TypeVar("T")


class ServedModel:
    """One model behind the gateway."""

    def __init__(
        self,
        name: str,
        settings: ModelSettings,
        upstreams: Sequence[Upstream],
        retry_after: int,
        heavy: Worker | None = None,
    ) -> None:
        self.name = name
        self.settings = settings
        self.upstreams = upstreams
        self.counter = TokenCounter(name, settings.tokenizer, heavy)
        self.zones = zones_of(settings.train_length, settings.validated_length, settings.zones)
        self._created = int(time.time())
        self._retry_after = retry_after

    def takes(self, upstreams: Sequence[Upstream]) -> None:
        """It is served by these upstreams from now on; whoever holds the list from before keeps that."""
        self.upstreams = upstreams

    def apply(self, settings: ModelSettings) -> None:
        """Takes over another policy; the tokenizer stays."""
        self.settings = settings
        self.zones = zones_of(settings.train_length, settings.validated_length, settings.zones)

    def least_busy(self) -> Upstream:
        """The ready upstream with the fewest requests, if possible one that does not fail. Raises ApiError 503."""
        found = least_busy(self.upstreams)
        if found is None:
            reason = self.upstreams[0].reason if self.upstreams else "it has none"
            raise unavailable(f"No upstream of model {self.name} is ready: {reason}.", self._retry_after)
        return found

    async def ask(self, question: Callable[[Upstream], Awaitable[T]], tries: int) -> T:
        """The answer of its least busy upstream, or of another where that one is out of order; see `ask_any`."""
        return await ask_any(self.least_busy(), self.upstreams, question, tries)

    def window(self, upstream: Upstream) -> int | None:
        """Longest prompt + completion that an upstream takes, in tokens; None where it has not told."""
        told = (upstream.limits.get(self.name), upstream.cache_tokens)
        return min((bound for bound in told if bound is not None), default=None)

    def upstreams_for(self, reach: int) -> list[Upstream]:
        """The upstreams into whose window a context of `reach` tokens fits as far as they told, ready or not."""
        return [one for one in self.upstreams if (window := self.window(one)) is None or window >= reach]

    def bounds(self, key_limit: int | None = None) -> dict[str, int]:
        """Every known bound on a request in tokens, by what sets it; of the upstreams seen so far the widest."""
        widest = max(self.upstreams, key=lambda one: self.window(one) or 0, default=None)
        engine = None if widest is None else widest.limits.get(self.name)
        found = bounds(self.settings, self.zones, engine, None if widest is None else widest.cache_tokens)
        return found if key_limit is None else found | {"key": key_limit}

    def limit(self, key_limit: int | None = None) -> int | None:
        """The effective cap in tokens, which a key may lower; None while nothing bounds it."""
        return min(self.bounds(key_limit).values(), default=None)

    def cap(self, key_limit: int | None = None) -> Cap:
        """What a request is held against. Raises ApiError 503 while no limit is known or none is ready."""
        limit = self.limit(key_limit)
        if limit is None:
            self.least_busy()
            raise unavailable(f"The context limit of model {self.name} is not known yet.", self._retry_after)
        return Cap(limit, self.settings, self.zones)

    def card(self, key_limit: int | None = None) -> Model:
        """The model as /v1/models shows it; `limits` are the bounds of which `max_model_len` is the least."""
        settings, actions = self.settings, self.settings.zones
        origin = next((one.origins[self.name] for one in self.upstreams if self.name in one.origins), Origin())
        zones: Zones = {"trained": actions.trained, "validated": actions.validated, "hard": actions.hard}
        return {
            "id": self.name,
            "object": "model",
            "created": self._created,
            "owned_by": "wave-serve",
            "root": origin.root or self.name,
            "parent": origin.parent,
            "max_model_len": self.limit(key_limit),
            "limits": cast("Limits", self.bounds(key_limit)),
            "train_length": settings.train_length,
            "validated_length": None if self.zones is None else self.zones.validated_length,
            "max_extrapolation": settings.max_extrapolation,
            "zones": None if self.zones is None else zones,
            "overflow": settings.overflow,
            "default_max_completion_tokens": settings.default_max_completion_tokens,
        }


class Catalogue:
    """All served models by name."""

    def __init__(self, settings: Settings, heavy: Worker) -> None:
        retry_after = settings.timeouts.retry_after
        self.models = {
            name: ServedModel(name, model, [], retry_after, heavy) for name, model in settings.models.items()
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

    def takes(self, upstreams: Iterable[Upstream]) -> None:
        """These are the upstreams from now on."""
        for name, model in self.models.items():
            model.takes([upstream for upstream in upstreams if name in upstream.models])

    async def learn(self, upstream: Upstream) -> None:
        """Before an upstream is used: how much its cache holds, and whether it tokenises as we do.

        Raises:
            ApiError, or one of upstream_answer.FAILURES: it does not answer.
        """
        upstream.learn_cache(cache_tokens(await upstream.client.read("/metrics") or ""))
        if upstream.cache_tokens is None:
            event(logger, logging.WARNING, "upstream does not tell its cache's size", base_url=upstream.base_url)
        for name in upstream.models:
            await self.models[name].counter.check(upstream)


def read_model(payload: Mapping[str, Any], names: list[str]) -> str:
    """The model's name; it may be left out where only one is served. Raises ApiError 400 or 404."""
    name = payload.get("model")
    if name is None and len(names) == 1:
        return names[0]
    if name is None:
        raise invalid(f"you must provide a model; served are: {', '.join(names)}", "model")
    if not isinstance(name, str):
        raise invalid(f"model must be a string, got {shown(name)}", "model")
    if name not in names:
        raise unknown_model(name, names)
    return name


def unknown_model(name: str, names: list[str]) -> ApiError:
    """A 404 for a model that is not served."""
    message = f"The model {shown(name)} does not exist; served are: {', '.join(names)}"
    return ApiError(404, message, param="model", code=Code.MODEL_NOT_FOUND)
