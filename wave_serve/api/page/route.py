"""Serves the page, where the settings let it, under a policy that lets it load and reach nothing but this gateway."""

import re
from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib.resources import files

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from wave_serve.api.entry import gateway_of
from wave_serve.api.readable import ReadableRoute
from wave_serve.gateway import Gateway

PATH = "/"
# No key is asked for: there is nothing secret in the page, and a key is entered on it.
router = APIRouter(include_in_schema=False, route_class=ReadableRoute)


@router.api_route(PATH, methods=["GET", "HEAD"])  # command-line agents ask HEAD / whether anybody is there
async def page(request: Request) -> Response:
    """The page; an unknown URL where it is off."""
    if not is_on(gateway_of(request)):
        raise HTTPException(404)
    return Response(source(), media_type="text/html", headers=headers())


def is_on(gateway: Gateway) -> bool:
    """As the setting says; where it says nothing, for a gateway that asks for no keys and only this machine reaches."""
    wanted = gateway.settings.page
    return gateway.settings.on_loopback and not gateway.auth.guarded if wanted is None else wanted


@cache
def source() -> bytes:
    """The file as it is sent."""
    return files(__package__).joinpath("index.html").read_bytes()


@cache
def headers() -> dict[str, str]:
    """What the browser is told: it runs the script and the styles of this file, by their hash, and no others."""
    policy = {
        "default-src": "'none'",
        "script-src": _hash_of("script"),
        "style-src": _hash_of("style"),
        "img-src": "data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return {
        "content-security-policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "cross-origin-opener-policy": "same-origin",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "cache-control": "no-cache",
    }


def _hash_of(element: str) -> str:
    """The hash of the only element of that name, as a Content-Security-Policy writes it."""
    [inside] = re.findall(rf"<{element}>(.*?)</{element}>", source().decode(), re.DOTALL)
    return f"'sha256-{b64encode(sha256(inside.encode()).digest()).decode()}'"
