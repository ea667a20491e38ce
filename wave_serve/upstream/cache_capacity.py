"""Reads from a vLLM server's metrics how many tokens of one request its KV cache can hold."""

import math

from prometheus_client.parser import text_string_to_metric_families

INFO = "vllm:cache_config_info"


def cache_tokens(exposition: str) -> int | None:
    """Most tokens of a request that the KV cache can hold, the least over the server's engines.

    Args:
        exposition: the server's /metrics.

    Returns:
        None where the server does not say it. One block is never given to a request (vLLM keeps it as a null block).
    """
    lines = "".join(f"{line}\n" for line in exposition.splitlines() if line.startswith(INFO + "{"))
    found = [_capacity(sample.labels) for family in text_string_to_metric_families(lines) for sample in family.samples]
    return min((capacity for capacity in found if capacity is not None), default=None)


def _capacity(labels: dict[str, str]) -> int | None:
    """Tokens by the server's own figure, which knows of layers with unlike caches, or else blocks times block size."""
    blocks = _number(labels, "num_gpu_blocks")
    tokens = _number(labels, "kv_cache_size_tokens")
    block_size = _number(labels, "block_size")
    if tokens is None:
        return None if blocks is None or block_size is None else (blocks - 1) * block_size
    return tokens if blocks is None else -(-tokens * (blocks - 1) // blocks)


def _number(labels: dict[str, str], name: str) -> int | None:
    try:
        value = float(labels[name])
    except (KeyError, ValueError):
        return None
    return int(value) if math.isfinite(value) and value >= 1 else None
