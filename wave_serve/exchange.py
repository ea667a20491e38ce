"""What is known of one request while it is handled: shared by the endpoints, the relay and the access log."""

import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from starlette.requests import Request
from starlette.types import Scope

from wave_serve.keys.use import KeyUse

KEY = "wave_serve.exchange"
TRACE_CONTEXT = ("traceparent", "tracestate")
ACCEPTED_ID = re.compile(r"[\x21-\x7e]{1,128}")


@dataclass
class Exchange:
    """One request and what becomes of it; `headers` go onto its response, whatever that is, `forward` onto the
    upstream's request.

    `key_use` is its use of an API key, if it came with one; `usage_extension` joins the answer's `usage`.

    Moments are seconds since `started`: `read_s` the body was complete, `sent_s` an upstream was asked, `first_byte_s`
    and `first_token_s` its first byte and, of a stream, its first event came. `queue_s` is a duration within `sent_s`.
    """

    request_id: str
    started: float = field(default_factory=time.monotonic)
    headers: dict[str, str] = field(default_factory=dict)
    forward: dict[str, str] = field(default_factory=dict)
    model: str | None = None
    stream: bool = False
    prompt_tokens: int | None = None
    completion_limit: int | None = None
    upstream: str | None = None
    retries: int = 0
    read_s: float = 0.0
    queue_s: float = 0.0
    sent_s: float | None = None
    first_byte_s: float | None = None
    first_token_s: float | None = None
    extrapolation: float | None = None
    truncated_from: int | None = None
    error: str | None = None
    aborted: bool = False
    key_use: KeyUse | None = None
    usage_extension: dict[str, Any] | None = None

    @property
    def key_name(self) -> str | None:
        """The name of the request's key; None without one."""
        return None if self.key_use is None else self.key_use.key.name

    @property
    def key_limit(self) -> int | None:
        """The key's own cap on prompt + completion, in tokens; None where it has none."""
        return None if self.key_use is None else self.key_use.key.max_context

    def take_key(self, use: KeyUse) -> None:
        """The request came with a key, whose rates its answer tells, whatever that is."""
        self.key_use = use
        self.headers |= use.headers()

    def count(self) -> None:
        """Counts the request against its key, if it has one. Raises ApiError 429."""
        if self.key_use is not None:
            self.key_use.begin()
            self.headers |= self.key_use.headers()

    def check_model(self, model: str) -> None:
        """Raises ApiError 403 where the request's key may not use the model."""
        if self.key_use is not None:
            self.key_use.check_model(model)

    def spend(self, tokens: int) -> None:
        """Holds a generation's tokens against its key's rate. Raises ApiError 429."""
        if self.key_use is None:
            return
        try:
            self.key_use.spend(tokens)
        finally:
            self.headers |= self.key_use.headers()

    def overhead(self) -> float | None:
        """Seconds that the gateway itself took before it asked an upstream; None where it asked none."""
        return None if self.sent_s is None else self.sent_s - self.read_s - self.queue_s

    def end(self) -> None:
        """Ends the request's use of its key; called once, when all is over."""
        if self.key_use is not None:
            self.key_use.end(worked_on=self.sent_s is not None)

    def elapsed(self) -> float:
        """Seconds since the request came."""
        return time.monotonic() - self.started


def begin(scope: Scope, headers: Mapping[str, str]) -> Exchange:
    """A new exchange for the request in `scope`; a usable x-request-id is kept."""
    given = headers.get("x-request-id", "")
    exchange = Exchange(given if ACCEPTED_ID.fullmatch(given) else uuid.uuid4().hex)
    exchange.headers["x-request-id"] = exchange.request_id
    exchange.forward = {name: value for name in TRACE_CONTEXT if (value := headers.get(name))}
    exchange.forward["x-request-id"] = exchange.request_id
    scope[KEY] = exchange
    return exchange


def exchange_of(request: Request) -> Exchange:
    """The exchange of a request that has passed the access log."""
    return cast("Exchange", request.scope[KEY])
