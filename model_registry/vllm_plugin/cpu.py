"""Wavelet attention in vLLM on CPUs: writes the paged cache and attends to it, with what a step's layers share once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from model_registry.attention import CacheWriter, PreparedAttention
from model_registry.vllm_plugin.base import WaveletAttentionBase
from model_registry.vllm_plugin.errors import UnsupportedByWaveletAttentionError

if TYPE_CHECKING:
    import torch

    from model_registry.vllm_plugin.metadata import WaveletAttentionMetadata


class WaveletCpuAttentionImpl(WaveletAttentionBase):
    """One layer's attention on a CPU."""

    _kv_cache: torch.Tensor | None = None
    """The cache that ``_views`` and ``_writer`` are of: vLLM hands the same one to every call."""

    _views: tuple[torch.Tensor, torch.Tensor]
    """Its keys and values, ``[num_blocks, block, H_kv, d]`` each."""

    _writer: CacheWriter

    def _check_cache(self) -> None:
        if self.cache_dtype is not self.dtype:
            reason = f"on a CPU the cache has the model's type, {self.dtype}: use auto"
            raise UnsupportedByWaveletAttentionError("kv_cache_dtype", self.kv_cache_dtype, reason)

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
        self._look_at(kv_cache)
        self._writer.write(key, value, slot_mapping)

    def _attend(
        self,
        layer: Any,
        query: torch.Tensor,
        kv_cache: torch.Tensor,
        metadata: WaveletAttentionMetadata,
        output: torch.Tensor,
    ) -> None:
        del layer
        self._look_at(kv_cache)
        tokens = metadata.num_actual_tokens
        if tokens != query.shape[0]:
            query, output = query[:tokens], output[:tokens]
        tensors = (query, *self._views, self.table, self.scale, self.near_bias, output)
        if metadata.prepared is None or not metadata.prepared.takes(*tensors):
            metadata.prepared = PreparedAttention(self._batch(query, kv_cache, metadata), output)
        metadata.prepared.attend(query, *self._views, output)

    def _look_at(self, kv_cache: torch.Tensor) -> None:
        if kv_cache is not self._kv_cache:
            self._views = self._caches(kv_cache)
            self._writer = CacheWriter(*self._views)
            self._kv_cache = kv_cache
