"""One gateway: its settings, upstreams, models and metrics, alive as long as its application."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from wave_serve.catalogue import Catalogue
from wave_serve.metrics import Metrics
from wave_serve.settings import Settings
from wave_serve.upstream import Upstream


class Gateway:
    """What all endpoints share."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.upstreams = [
            Upstream(upstream.base_url, upstream.models, settings.timeouts) for upstream in settings.upstreams
        ]
        self.catalogue = Catalogue(settings, self.upstreams)
        for upstream in self.upstreams:
            upstream.before_ready = self.catalogue.check_tokenizers

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
