"""Wavelet attention in vLLM on CPUs: PyTorch writes the paged cache, and ``wavelet_attention`` attends to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from model_registry.attention import wavelet_attention
from model_registry.vllm_plugin.base import WaveletAttentionBase

if TYPE_CHECKING:
    from model_registry.attention.batch import PagedBatch
    from model_registry.vllm_plugin.metadata import WaveletAttentionMetadata


class WaveletCpuAttentionImpl(WaveletAttentionBase):
    """One layer's attention on a CPU."""

    def do_kv_cache_update(
        self,
        layer: torch.nn.Module,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        slot_mapping: torch.Tensor,
    ) -> None:
        """Write ``key`` and ``value`` ``[T, H_kv, d]`` to the slots ``[T]`` of the cache; slot -1 is padding."""
        del layer
        tokens = slot_mapping.shape[0]
        block, offset = slot_mapping.div(kv_cache.shape[2], rounding_mode="floor"), slot_mapping % kv_cache.shape[2]
        rows = torch.cat((key[:tokens], value[:tokens]), dim=-1)
        written = block >= 0
        if not bool(written.all()):
            block, offset, rows = block[written], offset[written], rows[written]
        kv_cache[block, :, offset] = rows

    def _attend(self, layer: Any, batch: PagedBatch, metadata: WaveletAttentionMetadata, output: torch.Tensor) -> None:
        del layer, metadata
        wavelet_attention(*batch, out=output)
