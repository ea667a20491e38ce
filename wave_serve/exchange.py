"""What is known of one request while it is handled: shared by the endpoints, the relay and the access log."""

import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from starlette.requests import Request
from starlette.types import Scope

KEY = "wave_serve.exchange"
ACCEPTED_ID = re.compile(r"[\x21-\x7e]{1,128}")


@dataclass
class Exchange:
    """One request and what becomes of it; `headers` go onto its response, whatever that is."""

    request_id: str
    started: float = field(default_factory=time.monotonic)
    headers: dict[str, str] = field(default_factory=dict)
    model: str | None = None
    stream: bool = False
    prompt_tokens: int | None = None
    completion_limit: int | None = None
    upstream: str | None = None
    first_byte_s: float | None = None
    error: str | None = None
    aborted: bool = False

    def elapsed(self) -> float:
        """Seconds since the request came."""
        return time.monotonic() - self.started


def begin(scope: Scope, headers: Mapping[str, str]) -> Exchange:
    """A new exchange for the request in `scope`; a usable x-request-id is kept."""
    given = headers.get("x-request-id", "")
    exchange = Exchange(given if ACCEPTED_ID.fullmatch(given) else uuid.uuid4().hex)
    exchange.headers["x-request-id"] = exchange.request_id
    scope[KEY] = exchange
    return exchange


def exchange_of(request: Request) -> Exchange:
    """The exchange of a request that has passed the access log."""
    return cast("Exchange", request.scope[KEY])
