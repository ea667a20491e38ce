"""Paged causal attention with a relative position table. Imports torch only."""

from __future__ import annotations

from model_registry.attention.api import default_implementation, wavelet_attention
from model_registry.attention.arguments import AttentionArgumentError

__all__ = ["AttentionArgumentError", "default_implementation", "wavelet_attention"]
