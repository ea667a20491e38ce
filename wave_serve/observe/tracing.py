"""OpenTelemetry spans of each request, made from its exchange; nothing of a prompt, a key or an answer is in them."""

import asyncio
import os
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from wave_serve.exchange import Exchange
from wave_serve.settings import TracingSettings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

COLLECTOR_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class Tracing:
    """Starts one server span a request, child of the client's."""

    def __init__(self, provider: "TracerProvider", flush: float) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("wave_serve")
        self._propagator = TraceContextTextMapPropagator()
        self._flush = flush

    def begin(self, exchange: Exchange, method: str) -> "RequestSpan":
        """The request's span, made the parent of whatever the upstream traces."""
        from opentelemetry.trace import SpanKind, set_span_in_context

        started = time.time_ns() - int(exchange.elapsed() * 1e9)
        parent = self._propagator.extract(exchange.forward)
        span = self._tracer.start_span(method, parent, SpanKind.SERVER, start_time=started)
        self._propagator.inject(exchange.forward, set_span_in_context(span))
        return RequestSpan(self._tracer, span, method, started)

    async def close(self) -> None:
        """Sends what is left; gives up after `flush` seconds, since a collector may be down."""
        # A daemon, so that a collector that never answers cannot keep the process.
        worker = threading.Thread(target=self._provider.shutdown, daemon=True)
        worker.start()
        await asyncio.to_thread(worker.join, self._flush)


class RequestSpan:
    """The span of one request; within it the wait for admission and the upstream's work, known once it is over."""

    def __init__(self, tracer: "Tracer", span: "Span", method: str, started_ns: int) -> None:
        self._tracer = tracer
        self._span = span
        self._method = method
        self._started_ns = started_ns

    def end(self, exchange: Exchange, endpoint: str, status: int) -> None:
        """Ends the span with what is known of the request."""
        from opentelemetry.trace import Status, StatusCode

        self._span.update_name(f"{self._method} {endpoint}")
        self._span.set_attributes({"http.request.method": self._method, **_attributes(exchange, endpoint, status)})
        if status >= 500 or exchange.error is not None:
            self._span.set_status(Status(StatusCode.ERROR))
        if exchange.sent_s is not None:
            self._end_parts(exchange, exchange.sent_s)
        self._span.end()

    def _end_parts(self, exchange: Exchange, sent_s: float) -> None:
        from opentelemetry.trace import SpanKind, set_span_in_context

        within = set_span_in_context(self._span)
        if exchange.queue_s > 0:
            waited = self._tracer.start_span("admission", within, start_time=self._moment(sent_s - exchange.queue_s))
            waited.end(self._moment(sent_s))
        upstream = self._tracer.start_span("upstream", within, SpanKind.CLIENT, start_time=self._moment(sent_s))
        if exchange.upstream is not None:
            upstream.set_attribute("server.address", exchange.upstream)
        if exchange.first_token_s is not None:
            upstream.add_event("first token", timestamp=self._moment(exchange.first_token_s))
        upstream.end()

    def _moment(self, seconds: float) -> int:
        return self._started_ns + int(seconds * 1e9)


def tracing_from(settings: TracingSettings, environment: Mapping[str, str] = os.environ) -> Tracing | None:
    """Spans as the settings or OpenTelemetry's environment ask for them; None where neither does."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if settings.endpoint is None and not any(environment.get(name) for name in COLLECTOR_VARIABLES):
        return None
    # Imported here because most gateways trace nothing, and these cost a fifth of a second.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    name = environment.get("OTEL_SERVICE_NAME") or settings.service_name
    endpoint = None if settings.endpoint is None else f"{settings.endpoint}/v1/traces"
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: name}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    return Tracing(provider, settings.flush)


def _attributes(exchange: Exchange, endpoint: str, status: int) -> dict[str, str | int | float | bool]:
    found: dict[str, str | int | float | bool | None] = {
        "wave.request_id": exchange.request_id,
        "http.route": endpoint,
        "http.response.status_code": status,
        "error.type": exchange.error,
        "gen_ai.request.model": exchange.model,
        "gen_ai.request.stream": exchange.stream or None,
        "gen_ai.usage.input_tokens": exchange.prompt.tokens,
        "gen_ai.request.max_tokens": exchange.prompt.completion_limit,
        "wave.extrapolation_factor": exchange.prompt.extrapolation,
        "wave.truncated_from": exchange.prompt.truncated_from,
        "wave.overhead_s": exchange.overhead(),
        "wave.aborted": exchange.aborted or None,
    }
    return {name: value for name, value in found.items() if value is not None}
