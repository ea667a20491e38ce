"""What vLLM cannot divide over its workers, said at the start by whoever starts it."""

from __future__ import annotations

from model_registry.vllm_plugin.errors import UnsupportedByWaveletAttentionError


def check_heads(key_heads: int, ranks: int) -> None:
    """Each rank has whole KV heads: some of its own, or one that it shares with others.

    Raises:
        UnsupportedByWaveletAttentionError: neither number is a multiple of the other.
    """
    if key_heads % ranks and ranks % key_heads:
        reason = f"it neither divides num_key_value_heads={key_heads} nor is a multiple of it"
        raise UnsupportedByWaveletAttentionError("tensor_parallel_size", ranks, reason)


def check_stages(stages: int, *, on_cpu: bool, compiled: bool) -> None:
    """On CPU vLLM 0.32 takes room for what a stage gets from the one before it only while it compiles the model.

    Raises:
        UnsupportedByWaveletAttentionError: the first request would fail.
    """
    if stages > 1 and on_cpu and not compiled:
        reason = "on a CPU vLLM's stages fail at the first request unless the model is compiled: no --enforce-eager"
        raise UnsupportedByWaveletAttentionError("pipeline_parallel_size", stages, reason)
