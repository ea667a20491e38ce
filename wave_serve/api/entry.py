"""What runs before every endpoint: finds the gateway, and lets a request in or not, before its body is read."""

from typing import cast

from fastapi import Request

from wave_serve.exchange import exchange_of
from wave_serve.gateway import Gateway


def gateway_of(request: Request) -> Gateway:
    """The gateway that answers a request."""
    return cast("Gateway", request.app.state.gateway)


async def enter(request: Request) -> None:
    """A dependency of all routers. Raises ApiError 401, 429 or 503."""
    exchange = exchange_of(request)
    use = gateway_of(request).auth.admit(request.scope["path"], request.headers)
    if use is not None:
        exchange.take_key(use)
        if request.method == "POST":  # what is only read costs a key nothing
            await exchange.count()
