"""One gateway: its settings, upstreams, models and metrics, alive as long as its application."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from wave_serve.auth import Auth, check_model
from wave_serve.catalogue import Catalogue, ServedModel
from wave_serve.exchange import Exchange
from wave_serve.keys_file import load_keys
from wave_serve.metrics import Metrics
from wave_serve.prompts import read_model
from wave_serve.settings import Settings
from wave_serve.upstream import Upstream


class Gateway:
    """What all endpoints share."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.auth = Auth(settings.auth, load_keys(settings.auth.keys_file, settings.models))
        self.upstreams = [
            Upstream(upstream.base_url, upstream.models, settings.timeouts) for upstream in settings.upstreams
        ]
        self.catalogue = Catalogue(settings, self.upstreams)
        for upstream in self.upstreams:
            upstream.before_ready = self.catalogue.learn

    def visible_models(self, exchange: Exchange) -> list[ServedModel]:
        """The models that the request's key may use."""
        use = exchange.key_use
        return [model for model in self.catalogue.models.values() if use is None or use.allows(model.name)]

    def model_of(self, payload: Mapping[str, Any], exchange: Exchange) -> ServedModel:
        """The model that a request names, or the only one. Raises ApiError 400, 403 or 404."""
        named = payload.get("model")
        if isinstance(named, str) and named in self.catalogue.models:
            check_model(exchange, named)
        model = self.catalogue.find(read_model(payload, [model.name for model in self.visible_models(exchange)]))
        exchange.model = model.name
        return model

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
                await upstream.close()
