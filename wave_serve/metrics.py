"""Prometheus metrics of one gateway."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
TOKENS = tuple(2**power for power in range(4, 21, 2))


class Metrics:
    """Every `wave_*` metric, in a registry of its own so that several gateways fit in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "wave_requests_total", "Answered requests.", ["endpoint", "status"], registry=self.registry
        )
        self.rejected = Counter(
            "wave_rejected_total", "Requests answered with an error, by its code.", ["code"], registry=self.registry
        )
        self.aborted = Counter(
            "wave_aborted_total", "Generations whose client went away.", ["model"], registry=self.registry
        )
        self.in_flight = Gauge("wave_in_flight_requests", "Generations running.", ["model"], registry=self.registry)
        self.prompt_tokens = Histogram(
            "wave_prompt_tokens", "Tokens of admitted prompts.", ["model"], buckets=TOKENS, registry=self.registry
        )
        self.seconds = Histogram(
            "wave_request_seconds", "Time to the answer's end.", ["endpoint"], buckets=SECONDS, registry=self.registry
        )
        self.first_byte = Histogram(
            "wave_first_byte_seconds",
            "Time to a generation's first byte from the upstream.",
            ["model"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.upstream_ready = Gauge(
            "wave_upstream_ready", "1 while an upstream is ready.", ["base_url"], registry=self.registry
        )

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
