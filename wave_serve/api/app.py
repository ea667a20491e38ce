"""Puts the gateway's ASGI application together."""

from fastapi import FastAPI
from starlette.types import ASGIApp

from wave_serve.api import docs as docs_routes
from wave_serve.api.error_handlers import install_error_handlers
from wave_serve.api.page import route as page_route
from wave_serve.api.routes import router
from wave_serve.gateway import Gateway
from wave_serve.observe.access_log import AccessLog
from wave_serve.observe.tracing import tracing_from


def build_app(gateway: Gateway) -> ASGIApp:
    """The application; the access log is outermost so that it sees every answer."""
    app = FastAPI(title="wave-serve", lifespan=gateway.lifespan, redirect_slashes=False, openapi_url=None)
    app.state.gateway = gateway
    app.include_router(router)
    app.include_router(docs_routes.router)
    app.include_router(page_route.router)
    install_error_handlers(app)
    return AccessLog(app, gateway.metrics, tracing_from(gateway.settings.tracing))
