"""Gauges of what waits, of the upstreams, their look-ups and the store of limits, read when they are asked for."""

from collections import defaultdict
from collections.abc import Iterator

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from wave_serve.keys.store import Store
from wave_serve.routing.admission import Admission
from wave_serve.routing.pool import Pool


class LoadMetrics(Collector):
    """A collector, so that an upstream that has left is in no exposition any more."""

    def __init__(self, admission: Admission, pool: Pool) -> None:
        self._admission = admission
        self._pool = pool

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now."""
        requests, tokens = self._admission.waiting
        yield GaugeMetricFamily("wave_queue_requests", "Generations that wait for admission.", requests)
        yield GaugeMetricFamily("wave_queue_prompt_tokens", "Prompt tokens that wait for admission.", tokens)
        yield from self._upstreams()
        yield from self._discoveries()

    def _upstreams(self) -> Iterator[Metric]:
        """A URL that stands in two entries is one upstream here; of one that leaves only what is under way counts."""
        by_url, leaving = defaultdict(list), self._pool.leaving
        for upstream in self._pool.all:
            by_url[upstream.base_url].append(upstream)
        labels = ["base_url"]
        sent = GaugeMetricFamily("wave_upstream_requests", "Generations under way at an upstream.", labels=labels)
        outstanding = GaugeMetricFamily(
            "wave_upstream_prompt_tokens", "Their prompt tokens, as admission counts them.", labels=labels
        )
        ejected = GaugeMetricFamily(
            "wave_upstream_ejected", "1 while an upstream is avoided because its requests fail.", labels=labels
        )
        ready = GaugeMetricFamily("wave_upstream_ready", "1 while an upstream is ready.", labels=labels)
        window = GaugeMetricFamily(
            "wave_upstream_max_model_len", "Its max_model_len, tokens.", labels=["base_url", "model"]
        )
        for url, same in by_url.items():
            sent.add_metric([url], sum(one.in_flight for one in same))
            outstanding.add_metric([url], sum(one.outstanding_tokens for one in same))
            used = [one for one in same if one not in leaving]
            if used:
                ejected.add_metric([url], any(one.ejection.active for one in used))
                ready.add_metric([url], any(one.ready for one in used))
            for model, limit in {model: one.limits.get(model, 0) for one in used for model in one.models}.items():
                window.add_metric([url, model], limit)
        yield from (sent, outstanding, ejected, ready, window)

    def _discoveries(self) -> Iterator[Metric]:
        labels = ["source"]
        working = GaugeMetricFamily("wave_discovery_up", "1 while the last look-up succeeded.", labels=labels)
        listed = GaugeMetricFamily("wave_discovery_listed", "Servers in the list that is used.", labels=labels)
        failures = CounterMetricFamily("wave_discovery_failures_total", "Look-ups that failed.", labels=labels)
        for place, same in {one.place: one for one in self._pool.discoveries}.items():
            working.add_metric([place], same.problem is None)
            listed.add_metric([place], same.listed)
            failures.add_metric([place], same.failures)
        yield from (working, listed, failures)


class StoreMetrics(Collector):
    """The store of the limits, where there is one."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now."""
        yield GaugeMetricFamily("wave_limits_store_up", "1 while the store of limits answers.", self._store.up)
        failures = self._store.failures
        yield CounterMetricFamily("wave_limits_store_failures_total", "Questions that it did not answer.", failures)
