"""OpenTelemetry spans of each request, made from its exchange; nothing of a prompt, a key or an answer is in them."""

import asyncio
import os
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from wave_serve.exchange import Exchange
from wave_serve.observe.span_attributes import of_inference, of_request, of_request_by_1_36, operation, wants_latest
from wave_serve.settings import TracingSettings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

COLLECTOR_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class Tracing:
    """Starts one server span a request, child of the client's.

    Args:
        provider: takes the spans.
        flush: seconds that the last spans may take to leave at the end.
        latest: generations are described by the current conventions for generative AI.
    """

    def __init__(self, provider: "TracerProvider", flush: float, *, latest: bool = False) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("wave_serve")
        self._propagator = TraceContextTextMapPropagator()
        self._flush = flush
        self._latest = latest

    def begin(self, exchange: Exchange, method: str) -> "RequestSpan":
        """The request's span, made the parent of whatever the upstream traces."""
        from opentelemetry.trace import SpanKind, set_span_in_context

        started = time.time_ns() - int(exchange.elapsed() * 1e9)
        parent = self._propagator.extract(exchange.forward)
        span = self._tracer.start_span(method, parent, SpanKind.SERVER, start_time=started)
        self._propagator.inject(exchange.forward, set_span_in_context(span))
        return RequestSpan(self._tracer, span, method, started, latest=self._latest)

    async def close(self) -> None:
        """Sends what is left; gives up after `flush` seconds, since a collector may be down."""
        # A daemon, so that a collector that never answers cannot keep the process.
        worker = threading.Thread(target=self._provider.shutdown, daemon=True)
        worker.start()
        await asyncio.to_thread(worker.join, self._flush)


class RequestSpan:
    """The span of one request; within it the wait for admission and the upstream's work, known once it is over."""

    def __init__(self, tracer: "Tracer", span: "Span", method: str, started_ns: int, *, latest: bool) -> None:
        self._tracer = tracer
        self._span = span
        self._method = method
        self._started_ns = started_ns
        self._latest = latest

    def end(self, exchange: Exchange, endpoint: str, status: int) -> None:
        """Ends the span with what is known of the request."""
        from opentelemetry.trace import Status, StatusCode

        self._span.update_name(f"{self._method} {endpoint}")
        self._span.set_attributes(of_request(exchange, self._method, endpoint, status))
        if not self._latest:
            self._span.set_attributes(of_request_by_1_36(exchange))
        if status >= 500 or exchange.error is not None:
            self._span.set_status(Status(StatusCode.ERROR))
        if exchange.sent_s is not None:
            self._end_parts(exchange, endpoint, exchange.sent_s)
        self._span.end()

    def _end_parts(self, exchange: Exchange, endpoint: str, sent_s: float) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        within = set_span_in_context(self._span)
        if exchange.queue_s > 0:
            waited = self._tracer.start_span("admission", within, start_time=self._moment(sent_s - exchange.queue_s))
            waited.end(self._moment(sent_s))
        name = f"{operation(endpoint)} {exchange.model}" if self._latest else "upstream"
        upstream = self._tracer.start_span(name, within, SpanKind.CLIENT, start_time=self._moment(sent_s))
        if self._latest:
            upstream.set_attributes(of_inference(exchange, endpoint))
            if exchange.error is not None:
                upstream.set_status(Status(StatusCode.ERROR))
        elif exchange.upstream is not None:
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
    return Tracing(provider, settings.flush, latest=wants_latest(environment))
