"""One gateway: its settings, upstreams, models and metrics, alive as long as its application."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI, Request

from wave_serve.context.card import Model
from wave_serve.context.catalogue import Catalogue, ServedModel, read_model
from wave_serve.context.choice import Candidate, by_window
from wave_serve.context.fitting import Outcome
from wave_serve.errors import ApiError
from wave_serve.exchange import Exchange, exchange_of
from wave_serve.keys.auth import Auth
from wave_serve.keys.file import ApiKey, load_keys
from wave_serve.keys.shared import SharedLimits
from wave_serve.observe.load_metrics import LoadMetrics, StoreMetrics
from wave_serve.observe.metrics import Metrics
from wave_serve.request.body import read_body
from wave_serve.request.generation import Generation
from wave_serve.request.parsing import Bodies
from wave_serve.request.presence import while_connected
from wave_serve.routing.admission import Admission
from wave_serve.routing.dispatch import Dispatch
from wave_serve.routing.drain import Drain
from wave_serve.routing.eligible import Eligible
from wave_serve.routing.kept_responses import KeptResponses
from wave_serve.routing.pool import Listeners, Pool
from wave_serve.routing.prefixes import prefixes_of
from wave_serve.routing.router import Demand, Router
from wave_serve.settings import Settings
from wave_serve.upstream.upstream import Upstream
from wave_serve.worker.process import Worker

T = TypeVar("T")
RELOADED = ("auth", "admission", "routing", "models", "aliases", "upstreams", "max_body_bytes", "page")


class Gateway:
    """The parts that a request passes through, built once from the settings; every endpoint is handed this object."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.metrics.expect(settings.models)
        shared = None if settings.limits.store is None else SharedLimits(settings.limits)
        self.auth = Auth(settings.auth, load_keys(settings.auth.keys_file, settings.models), shared)
        self.pool = Pool(settings)
        self.router = Router(settings.routing)
        self.admission = Admission(settings.admission, self.router, settings.timeouts.retry_after)
        self.drain = Drain()
        self.responses = KeptResponses()
        self.metrics.registry.register(LoadMetrics(self.admission, self.pool))
        if shared is not None:
            self.metrics.registry.register(StoreMetrics(shared.store))
        # Two, so that a long text being tokenised does not hold up the bodies behind it.
        self.workers = [Worker(settings.large_body_bytes) for _ in range(2)]
        self.bodies = Bodies(self.workers[0])
        self.catalogue = Catalogue(settings, self.workers[1])
        self.pool.tell(
            Listeners(
                before_ready=self.catalogue.learn,
                on_members=self.catalogue.takes,
                on_change=self.admission.serve_queue,
                on_window=self.metrics.window_changed,
                on_gone=self._forget,
            )
        )

    @property
    def upstreams(self) -> Sequence[Upstream]:
        """The upstreams in use."""
        return self.pool.members

    def apply(self, settings: Settings, keys: Sequence[ApiKey]) -> list[str]:
        """Takes over keys, limits, policies and upstreams; requests that run go on.

        Returns:
            What only a restart would change.

        Raises:
            SettingsError: what a new upstream needs cannot be read; then nothing has changed.
        """
        kept = [
            field
            for field in Settings.model_fields
            if field not in RELOADED and getattr(settings, field) != getattr(self.settings, field)
        ]
        known = self.catalogue.models.keys()
        upstreams = tuple(one for one in settings.upstreams if known >= set(one.models))
        if upstreams != settings.upstreams:
            kept.append("upstreams")
        self.pool.apply(self.settings.model_copy(update={"upstreams": upstreams, "routing": settings.routing}))
        models = dict(self.settings.models)
        for name, model in self.catalogue.models.items():
            if name in settings.models:
                if settings.models[name].tokenizer != models[name].tokenizer:
                    kept.append(f"models.{name}.tokenizer")
                models[name] = settings.models[name]
                model.apply(models[name])
        if settings.models.keys() != models.keys():
            kept.append("models")
        taken = {field: getattr(settings, field) for field in RELOADED} | {"models": models, "upstreams": upstreams}
        self.settings = self.settings.model_copy(update=taken)
        self.auth.apply(settings.auth, keys)
        self.router.apply(settings.routing)
        self.admission.apply(settings.admission)
        return kept

    def visible_models(self, exchange: Exchange) -> list[ServedModel]:
        """The models that the request's key may use."""
        use = exchange.key_use
        return [model for model in self.catalogue.models.values() if use is None or use.allows(model.name)]

    def model_of(self, payload: Mapping[str, Any], exchange: Exchange) -> ServedModel:
        """The model that a request names, or the only one. Raises ApiError 400, 403 or 404."""
        named = payload.get("model")
        if isinstance(named, str) and named in self.catalogue.models:
            exchange.check_model(named)
        model = self.catalogue.find(read_model(payload, [model.name for model in self.visible_models(exchange)]))
        exchange.is_for(model.name)
        return model

    def find(self, payload: Mapping[str, Any], exchange: Exchange) -> list[Candidate]:
        """The models that a request may go to, narrowest window first: the one that it names, or those of an alias.

        Raises:
            ApiError: 400, 403 or 404, it names none; 503, none is ready.
        """
        found: list[Candidate] = []
        refusals: list[ApiError] = []
        for model in self.models_of(payload, exchange):
            try:
                cap = model.cap(exchange.key_limit)
                exchange.is_held_against(cap.headers())
                model.least_busy()
            except ApiError as error:
                refusals.append(error)
            else:
                found.append(Candidate(model, cap))
        if not found:
            raise refusals[0]
        return by_window(found)

    def models_of(self, payload: Mapping[str, Any], exchange: Exchange) -> list[ServedModel]:
        """The models that a request may go to, ready or not. Raises ApiError 400, 403 or 404."""
        members = self.members(payload.get("model"))
        if not members:
            return [self.model_of(payload, exchange)]
        allowed = [model for model in self.visible_models(exchange) if model in members]
        if not allowed:
            exchange.check_model(members[0].name)
        exchange.is_for(str(payload["model"]))
        return allowed

    def members(self, alias: Any) -> list[ServedModel]:
        """The models under an alias; empty where it is none."""
        names = self.settings.aliases.get(alias, ()) if isinstance(alias, str) else ()
        return [self.catalogue.models[name] for name in names if name in self.catalogue.models]

    def cards(self, exchange: Exchange) -> list[Model]:
        """The models and aliases that the request's key may use; an alias has the limits of its widest model."""
        models = self.visible_models(exchange)
        cards = [model.card(exchange.key_limit) for model in models]
        for alias in self.settings.aliases:
            members = [model.card(exchange.key_limit) for model in self.members(alias) if model in models]
            if members:
                cards.append({**max(members, key=lambda card: card["max_model_len"] or 0), "id": alias})
        return cards

    async def read(self, request: Request) -> tuple[bytes, dict[str, Any]]:
        """A request's body, and the JSON object in it; a field that is null is in neither.

        vLLM refuses a null of many fields, where OpenAI's clients take it for a field that is not there.

        Raises:
            ApiError: 400, 408, 413 or 415.
        """
        body = await read_body(request, self.settings.max_body_bytes, self.settings.timeouts.body)
        exchange_of(request).body_read()
        payload = await self.bodies.parse(body, request.headers.get("content-type"))
        exchange_of(request).take_id(payload.get("request_id"))
        nulls = [field for field, value in payload.items() if value is None]
        if not nulls:
            return body, payload
        body = await self.bodies.edit(body, payload, {}, without=nulls)
        return body, {field: value for field, value in payload.items() if value is not None}

    async def ask(self, request: Request, model: ServedModel, question: Callable[[Upstream], Awaitable[T]]) -> T:
        """The answer of any of a model's upstreams, as long as the client is there to get it.

        Raises:
            ApiError: 503 where no upstream is ready; else that of the last one that was asked.
            ClientGoneError: the client left first.
        """
        return await while_connected(request.receive, model.ask(question, self.settings.routing.tries))

    def dispatch(
        self,
        exchange: Exchange,
        model: ServedModel,
        generation: Generation,
        outcome: Outcome,
        payload: Mapping[str, Any],
    ) -> Dispatch:
        """The way to an upstream whose window takes an accepted generation; `payload` is what will be sent."""
        reach = outcome.accepted().reach
        upstreams = Eligible(self.pool, lambda: those_for(generation, model.upstreams_for(reach)))
        prefixes = prefixes_of(model.name, payload) if len(upstreams) > 1 else None
        demand = Demand(sum(outcome.tokens), exchange.key_name or "", upstreams, prefixes)
        return Dispatch(exchange, demand, self.admission, self.drain, self.settings)

    @asynccontextmanager
    async def lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        """Watches the upstreams while the application runs."""
        self.pool.start()
        try:
            yield
        finally:
            await self.pool.close()
            await self.auth.close()
            for work in self.workers:
                await work.close()

    def _forget(self, base_url: str) -> None:
        """There is no upstream of that URL any more."""
        self.router.forget(base_url)
        self.metrics.forget_upstream(base_url)


def those_for(generation: Generation, upstreams: Sequence[Upstream]) -> list[Upstream]:
    """Those of the upstreams that have what a generation needs of the responses that are kept."""
    kept, holder = generation.kept, generation.holder
    keepers = [one for one in upstreams if kept is None or one.keeps_responses]
    return [one for one in keepers if holder is None or one.base_url == holder]
