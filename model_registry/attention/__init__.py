"""Paged causal attention with any relative position table: ``wavelet_attention`` and its implementations.

On CPUs ``PreparedAttention`` spares a step's layers the checks that they share, and ``CacheWriter`` writes the cache.
The vLLM plugin calls them, and so may anyone: this is the package's public door. It may import torch (``triton/`` also
Triton) and nothing else of this package: it takes a table, and knows no wavelets.
"""

from __future__ import annotations

from model_registry.attention.api import default_implementation, wavelet_attention
from model_registry.attention.arguments import AttentionArgumentError
from model_registry.attention.cache import CacheWriter
from model_registry.attention.near_bias import NearBias
from model_registry.attention.prepared import PreparedAttention

__all__ = [
    "AttentionArgumentError",
    "CacheWriter",
    "NearBias",
    "PreparedAttention",
    "default_implementation",
    "wavelet_attention",
]
