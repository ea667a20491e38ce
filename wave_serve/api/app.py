"""Puts the gateway's ASGI application together."""

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from wave_serve.api import docs as docs_routes
from wave_serve.api.error_handlers import install_error_handlers
from wave_serve.api.page import route as page_route
from wave_serve.api.routes import router
from wave_serve.gateway import Gateway
from wave_serve.observe.access_log import AccessLog
from wave_serve.observe.tracing import tracing_from


def build_app(gateway: Gateway) -> ASGIApp:
    """The application; the access log is outside of all that answers."""
    app = FastAPI(title="wave-serve", lifespan=gateway.lifespan, redirect_slashes=False, openapi_url=None)
    app.state.gateway = gateway
    app.include_router(router)
    app.include_router(docs_routes.router)
    app.include_router(page_route.router)
    install_error_handlers(app)
    return _without_trailing_slash(AccessLog(app, gateway.metrics, tracing_from(gateway.settings.tracing)))


def _without_trailing_slash(app: ASGIApp) -> ASGIApp:
    """`app`, for which `/v1/models/` is `/v1/models`: a redirect would lose the body of some clients' POST."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].endswith("/"):
            scope = {**scope, "path": scope["path"].rstrip("/") or "/"}
        await app(scope, receive, send)

    return call
