"""The outermost layer: request id, `x-wave-*` headers, access log, metrics and span, for every answer."""

import logging

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wave_serve.errors import CLIENT_CLOSED
from wave_serve.exchange import Exchange, begin
from wave_serve.logs import event
from wave_serve.observe.metrics import Metrics
from wave_serve.observe.tracing import RequestSpan, Tracing

logger = logging.getLogger("wave_serve.access")
PROBES = ("/health", "/ready", "/metrics")  # asked every few seconds, so logged only where debugging


class AccessLog:
    """ASGI middleware; knows bodies neither of requests nor of responses."""

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing | None) -> None:
        self._app = app
        self._metrics = metrics
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, self._flushing(send))
            return
        exchange = begin(scope, Headers(scope=scope))
        span = self._span(scope, exchange)
        status = CLIENT_CLOSED

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in exchange.headers.items():
                    headers[name] = value
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        finally:
            exchange.end()
            self._record(scope, exchange, span, CLIENT_CLOSED if exchange.aborted else status)

    def _flushing(self, send: Send) -> Send:
        """`send` of a lifespan: the last spans leave before the server hears that it may end."""

        async def send_after_spans(message: Message) -> None:
            if message["type"] == "lifespan.shutdown.complete" and self._tracing is not None:
                await self._tracing.close()
            await send(message)

        return send_after_spans

    def _span(self, scope: Scope, exchange: Exchange) -> RequestSpan | None:
        if self._tracing is None or scope["path"] in PROBES:
            return None
        return self._tracing.begin(exchange, scope["method"])

    def _record(self, scope: Scope, exchange: Exchange, span: RequestSpan | None, status: int) -> None:
        route = scope.get("route")
        endpoint = getattr(route, "path", "other")
        self._metrics.observe(exchange, endpoint, status)
        if span is not None:
            span.end(exchange, endpoint, status)
        event(
            logger,
            logging.DEBUG if endpoint in PROBES else logging.INFO,
            "request",
            request_id=exchange.request_id,
            method=scope["method"],
            path=endpoint,
            status=status,
            seconds=round(exchange.elapsed(), 4),
            key=exchange.key_name,
            model=exchange.model,
            stream=exchange.stream or None,
            prompt_tokens=exchange.prompt.tokens,
            completion_limit=exchange.prompt.completion_limit,
            upstream=exchange.upstream,
            retries=exchange.retries or None,
            truncated_from=exchange.prompt.truncated_from,
            queue_s=round(exchange.queue_s, 4) or None,
            overhead_s=_rounded(exchange.overhead()),
            first_byte_s=_rounded(exchange.first_byte_s),
            first_token_s=_rounded(exchange.first_token_s),
            error=exchange.error,
        )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)
