"""Paged causal attention with any relative position table: ``wavelet_attention`` and its implementations.

The vLLM plugin calls it, and so may anyone: this is its public door. It may import torch (``triton/`` also Triton) and
nothing else of this package: it takes a table, and knows no wavelets.
"""

from __future__ import annotations

from model_registry.attention.api import default_implementation, wavelet_attention
from model_registry.attention.arguments import AttentionArgumentError

__all__ = ["AttentionArgumentError", "default_implementation", "wavelet_attention"]
