"""Paged causal attention with a relative position table. Imports torch only."""

from __future__ import annotations

from model_registry.attention.api import wavelet_attention
from model_registry.attention.validation import AttentionArgumentError

__all__ = ["AttentionArgumentError", "wavelet_attention"]
