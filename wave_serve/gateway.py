"""One gateway: its settings, upstreams, models and metrics, alive as long as its application."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from wave_serve.context.catalogue import Catalogue, ServedModel, read_model
from wave_serve.exchange import Exchange
from wave_serve.keys.auth import Auth
from wave_serve.keys.file import ApiKey, load_keys
from wave_serve.observe.metrics import Metrics, add_load_metrics
from wave_serve.request.parsing import Bodies
from wave_serve.routing.admission import Admission
from wave_serve.routing.dispatch import Dispatch
from wave_serve.routing.drain import Drain
from wave_serve.routing.prefixes import prefixes_of
from wave_serve.routing.router import Demand, Router
from wave_serve.settings import Settings
from wave_serve.upstream.upstream import Upstream
from wave_serve.worker.process import HeavyWork

RELOADED = ("auth", "admission", "routing", "models", "max_body_bytes")


class Gateway:
    """What all endpoints share."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.auth = Auth(settings.auth, load_keys(settings.auth.keys_file, settings.models))
        self.upstreams = [
            Upstream(upstream.base_url, upstream.models, settings.timeouts, settings.routing)
            for upstream in settings.upstreams
        ]
        self.router = Router(settings.routing)
        self.admission = Admission(settings.admission, self.router, settings.timeouts.retry_after)
        self.drain = Drain()
        add_load_metrics(self.metrics.registry, self.admission, self.upstreams)
        # Two, so that a long text being tokenised does not hold up the bodies behind it.
        self.heavy = [HeavyWork(settings.large_body_bytes) for _ in range(2)]
        self.bodies = Bodies(self.heavy[0])
        self.catalogue = Catalogue(settings, self.upstreams, self.heavy[1])
        for upstream in self.upstreams:
            upstream.before_ready = self.catalogue.learn
            upstream.on_change = self.admission.serve_queue

    def apply(self, settings: Settings, keys: Sequence[ApiKey]) -> list[str]:
        """Takes over keys, limits and policies; requests that run go on. Returns what only a restart would change."""
        kept = [
            field
            for field in Settings.model_fields
            if field not in RELOADED and getattr(settings, field) != getattr(self.settings, field)
        ]
        models = dict(self.settings.models)
        for name, model in self.catalogue.models.items():
            if name in settings.models:
                if settings.models[name].tokenizer != models[name].tokenizer:
                    kept.append(f"models.{name}.tokenizer")
                models[name] = settings.models[name]
                model.apply(models[name])
        if settings.models.keys() != models.keys():
            kept.append("models")
        taken = {field: getattr(settings, field) for field in RELOADED} | {"models": models}
        self.settings = self.settings.model_copy(update=taken)
        self.auth.apply(settings.auth, keys)
        self.router.apply(settings.routing)
        for upstream in self.upstreams:
            upstream.ejection.settings = settings.routing
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
        exchange.model = model.name
        return model

    def dispatch(self, exchange: Exchange, model: ServedModel, tokens: int, payload: Mapping[str, Any]) -> Dispatch:
        """The way to an upstream for a generation of `tokens` prompt tokens; `payload` is what will be sent."""
        prefixes = prefixes_of(model.name, payload) if len(model.upstreams) > 1 else None
        demand = Demand(tokens, exchange.key_name or "", model.upstreams, prefixes)
        return Dispatch(exchange, demand, self.admission, self.drain, self.settings)

    @asynccontextmanager
    async def lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        """Watches the upstreams while the application runs."""
        watches = [asyncio.create_task(upstream.watch()) for upstream in self.upstreams]
        try:
            yield
        finally:
            for watch in watches:
                watch.cancel()
            await asyncio.gather(*watches, return_exceptions=True)
            for upstream in self.upstreams:
                await upstream.client.close()
            for work in self.heavy:
                await work.close()
