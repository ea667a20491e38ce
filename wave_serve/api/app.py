"""Puts the gateway's ASGI application together."""

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from wave_serve.api import docs as docs_routes
from wave_serve.api.error_handlers import install_error_handlers
from wave_serve.api.page import route as page_route
from wave_serve.api.routes import router
from wave_serve.gateway import Gateway
from wave_serve.headers import Header
from wave_serve.observe.access_log import AccessLog
from wave_serve.observe.tracing import tracing_from
from wave_serve.settings import CorsSettings
from wave_serve.settings.service import ANY_ORIGIN


def build_app(gateway: Gateway) -> ASGIApp:
    """The application; the access log is outside of all that answers.

    Inside it is what tells browsers who may ask, so that it does so of every answer, errors too.
    """
    app = FastAPI(title="wave-serve", lifespan=gateway.lifespan, redirect_slashes=False, openapi_url=None)
    app.state.gateway = gateway
    app.include_router(router)
    app.include_router(docs_routes.router)
    app.include_router(page_route.router)
    install_error_handlers(app)
    for_browsers = _for_browsers(app, gateway.settings.cors)
    return _without_trailing_slash(AccessLog(for_browsers, gateway.metrics, tracing_from(gateway.settings.tracing)))


def _for_browsers(app: ASGIApp, settings: CorsSettings) -> ASGIApp:
    """`app`, which also tells browsers whose pages may ask; their questions beforehand (preflight) come without a key.

    Keys are sent in headers and no cookies are used, so that answers need not be kept from pages without credentials.
    """
    if not settings.origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=settings.origins,
        allow_methods=("GET", "HEAD", "POST"),
        allow_headers=("*",),
        # Where every page of the web may ask, a browser on this network must not be its way in.
        allow_private_network=ANY_ORIGIN not in settings.origins,
        expose_headers=tuple(Header),
        max_age=settings.max_age,
    )


def _without_trailing_slash(app: ASGIApp) -> ASGIApp:
    """`app`, for which `/v1/models/` is `/v1/models`: a redirect would lose the body of some clients' POST."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].endswith("/"):
            scope["path"] = scope["path"].rstrip("/") or "/"  # in place: the server finds the exchange in its scope
        await app(scope, receive, send)

    return call
