"""Prometheus gauges of what waits and what is under way, read when they are asked for."""

from collections.abc import Sequence
from functools import partial

from prometheus_client import CollectorRegistry, Gauge

from wave_serve.routing.admission import Admission
from wave_serve.upstream.ejection import Ejection
from wave_serve.upstream.upstream import Upstream


def add_load_metrics(registry: CollectorRegistry, admission: Admission, upstreams: Sequence[Upstream]) -> None:
    """Adds the gauges to a registry."""
    queue = Gauge("wave_queue_requests", "Generations that wait for admission.", registry=registry)
    queue.set_function(lambda: admission.waiting[0])
    tokens = Gauge("wave_queue_prompt_tokens", "Prompt tokens that wait for admission.", registry=registry)
    tokens.set_function(lambda: admission.waiting[1])
    labels = ["base_url"]
    sent = Gauge("wave_upstream_requests", "Generations under way at an upstream.", labels, registry=registry)
    outstanding = Gauge(
        "wave_upstream_prompt_tokens", "Their prompt tokens, as admission counts them.", labels, registry=registry
    )
    ejected = Gauge(
        "wave_upstream_ejected", "1 while an upstream is avoided because its requests fail.", labels, registry=registry
    )
    for upstream in upstreams:
        sent.labels(upstream.base_url).set_function(partial(_read, upstream, "in_flight"))
        outstanding.labels(upstream.base_url).set_function(partial(_read, upstream, "outstanding_tokens"))
        ejected.labels(upstream.base_url).set_function(partial(_read, upstream.ejection, "active"))


def _read(owner: Upstream | Ejection, attribute: str) -> float:
    return float(getattr(owner, attribute))
