"""Prometheus metrics of one gateway, taken from each exchange when it is over."""

import contextlib
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from wave_serve.exchange import Exchange
from wave_serve.headers import Header
from wave_serve.settings import Overflow

SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
OVERHEAD_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
TOKENS = tuple(2**power for power in range(4, 21, 2))
FACTORS = (1, 2, 4, 8, 16, 32, 64)
TRUNCATIONS = tuple(policy.value for policy in Overflow if policy is not Overflow.REJECT)


class Metrics:
    """Every `wave_*` metric, in a registry of its own so that several gateways fit in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("wave_requests_total", "Answered requests.", "endpoint", "status")
        self.rejected = self._counter("wave_rejected_total", "Requests answered with an error, by its code.", "code")
        self.aborted = self._counter("wave_aborted_total", "Generations whose client went away.", "model")
        self.retries = self._counter("wave_retries_total", "Times that a generation was sent elsewhere.", "model")
        self.truncated = self._counter(
            "wave_truncated_total", "Generations whose prompt was shortened, by the policy.", "model", "overflow"
        )
        self.count_mismatches = self._counter(
            "wave_count_mismatches_total", "Answers whose usage tells another number of prompt tokens.", "model"
        )
        self.windows = self._counter(
            "wave_upstream_window_changes_total",
            "Times that an upstream's max_model_len was another than before.",
            "base_url",
        )
        self.in_flight = Gauge("wave_in_flight_requests", "Generations running.", ["model"], registry=self.registry)
        self.prompt_tokens = self._histogram("wave_prompt_tokens", "Tokens of admitted prompts.", "model", TOKENS)
        self.prompt_tokens_by_factor = self._counter(
            "wave_prompt_tokens_by_factor_total",
            "Tokens of admitted prompts, by the least bound on prompt / training length that holds.",
            "model",
            "factor_up_to",
        )
        self.prompt_tokens_by_zone = self._counter(
            "wave_prompt_tokens_by_zone_total",
            "Tokens of admitted prompts, by the zone of trust that prompt and completion may reach.",
            "model",
            "zone",
        )
        self.seconds = self._histogram("wave_request_seconds", "Time to the answer's end.", "endpoint", SECONDS)
        self.first_token = self._histogram(
            "wave_time_to_first_token_seconds", "Time to a stream's first event from the upstream.", "model", SECONDS
        )
        self.queue = self._histogram("wave_queue_seconds", "Time that admitted requests waited.", "model", SECONDS)
        self.overhead = self._histogram(
            "wave_overhead_seconds",
            "Time from a whole request body to the upstream's request, less the wait for admission.",
            "model",
            OVERHEAD_SECONDS,
        )

    def expect(self, models: Iterable[str]) -> None:
        """Shows the counters of models from zero on; what Prometheus first sees at 1 is no increase to it."""
        for model in models:
            for counter in (self.aborted, self.retries, self.count_mismatches):
                counter.labels(model)
            for policy in TRUNCATIONS:
                self.truncated.labels(model, policy)

    def observe(self, exchange: Exchange, endpoint: str, status: int) -> None:
        """Adds a finished exchange."""
        self.requests.labels(endpoint, str(status)).inc()
        self.seconds.labels(endpoint).observe(exchange.elapsed())
        if exchange.error is not None:
            self.rejected.labels(exchange.error).inc()
        if exchange.model is None:
            return
        if exchange.aborted:
            self.aborted.labels(exchange.model).inc()
        if exchange.retries:
            self.retries.labels(exchange.model).inc(exchange.retries)
        if exchange.prompt.truncated_from is not None:
            self.truncated.labels(exchange.model, exchange.headers[Header.TRUNCATED]).inc()
        if exchange.first_token_s is not None:
            self.first_token.labels(exchange.model).observe(exchange.first_token_s)
        overhead = exchange.overhead()
        if overhead is not None:
            self.queue.labels(exchange.model).observe(exchange.queue_s)
            self.overhead.labels(exchange.model).observe(overhead)
            self._observe_prompt(exchange.model, exchange)

    def window_changed(self, base_url: str) -> None:
        """An upstream's max_model_len is another than before."""
        self.windows.labels(base_url).inc()

    def forget_upstream(self, base_url: str) -> None:
        """There is no upstream of that URL any more."""
        with contextlib.suppress(KeyError):  # its window never changed
            self.windows.remove(base_url)

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def _observe_prompt(self, model: str, exchange: Exchange) -> None:
        if exchange.prompt.tokens is None:
            return
        self.prompt_tokens.labels(model).observe(exchange.prompt.tokens)
        if exchange.prompt.extrapolation is not None:
            bound = next((str(bound) for bound in FACTORS if exchange.prompt.extrapolation <= bound), "+Inf")
            self.prompt_tokens_by_factor.labels(model, bound).inc(exchange.prompt.tokens)
        if Header.ZONE in exchange.headers:
            self.prompt_tokens_by_zone.labels(model, exchange.headers[Header.ZONE]).inc(exchange.prompt.tokens)

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(name, help_text, labels, registry=self.registry)

    def _histogram(self, name: str, help_text: str, label: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, help_text, [label], buckets=buckets, registry=self.registry)
