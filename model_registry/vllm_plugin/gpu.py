"""Wavelet attention in vLLM on GPUs: the Triton kernels, and vLLM's own kernel to write the cache, float8 too."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from vllm import envs
from vllm.config import get_current_vllm_config_or_none
from vllm.platforms import current_platform

from model_registry.attention.batch import PagedBatch
from model_registry.attention.triton.op import HEAD_SIZES, paged_attention
from model_registry.vllm_plugin.cpu import WaveletAttentionImpl
from model_registry.vllm_plugin.errors import UnsupportedByWaveletAttentionError

if TYPE_CHECKING:
    from model_registry.vllm_plugin.metadata import WaveletAttentionMetadata

LEAST_CAPABILITY = {"bfloat16": 80, "fp8": 89, "fp8_e4m3": 89}
"""By type of the cache: the least compute capability, ten times the version, with conversions to and from it."""


@lru_cache(maxsize=1)
def _converted(table: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The table in the type of the queries: one copy for all layers, which share one ``table``."""
    return table.to(dtype)


class WaveletGpuAttentionImpl(WaveletAttentionImpl):
    """One layer's attention on a GPU; nothing in it waits for the device, so that it can be recorded in a graph."""

    kv_cache_dtypes: ClassVar[tuple[str, ...]] = (*WaveletAttentionImpl.kv_cache_dtypes, "fp8", "fp8_e4m3")

    def __init__(self, num_heads: int, head_size: int, *arguments: Any, table: torch.Tensor, **options: Any) -> None:
        super().__init__(num_heads, head_size, *arguments, table=table, **options)
        if not HEAD_SIZES[0] <= head_size <= HEAD_SIZES[1]:
            reason = f"the kernels take {HEAD_SIZES[0]} to {HEAD_SIZES[1]}"
            raise UnsupportedByWaveletAttentionError("head_size", head_size, reason)
        self.float8 = self.kv_cache_dtype.startswith("fp8")
        self._check_cache()
        if envs.VLLM_BATCH_INVARIANT:
            reason = "into how many parts a decode is split, and so its rounding, depends on the batch"
            raise UnsupportedByWaveletAttentionError("VLLM_BATCH_INVARIANT", True, reason)
        # vLLM builds layers with the model's type as the default type.
        self.table = _converted(table, torch.get_default_dtype())

    def _check_cache(self) -> None:
        reason, least = None, LEAST_CAPABILITY.get(self.kv_cache_dtype, 0)
        if current_platform.is_cuda() and not current_platform.has_device_capability(least):
            reason = f"it needs compute capability {least / 10}"
        elif self.float8 and current_platform.fp8_dtype() is not torch.float8_e4m3fn:
            reason = f"the kernels read float8_e4m3fn, and this platform has {current_platform.fp8_dtype()}"
        if reason:
            raise UnsupportedByWaveletAttentionError("kv_cache_dtype", self.kv_cache_dtype, reason)
        config = get_current_vllm_config_or_none()
        # vLLM asks a backend that it chose itself, but not one that a layer names.
        scheme = getattr(getattr(config, "quant_config", None), "kv_cache_scheme", None) or {}
        if scheme.get("strategy") == "attn_head":
            reason = "the cache has one scale for its keys and one for its values"
            raise UnsupportedByWaveletAttentionError("kv_cache_scheme", scheme, reason)

    def _caches(self, kv_cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V ``[num_blocks, block, H_kv, d]`` of ``[num_blocks, H_kv, block, 2 * d]``; float8 is kept as bytes."""
        if self.float8:
            kv_cache = kv_cache.view(torch.float8_e4m3fn)
        token_major = kv_cache.transpose(1, 2)
        return token_major[..., : self.head_size], token_major[..., self.head_size :]

    def do_kv_cache_update(
        self,
        layer: Any,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        slot_mapping: torch.Tensor,
    ) -> None:
        """Write ``key`` and ``value`` ``[T, H_kv, d]`` to the slots ``[T]`` of the cache; slot -1 is padding."""
        from vllm.v1.attention.ops.triton_reshape_and_cache_flash import triton_reshape_and_cache_flash

        k_cache, v_cache = self._caches(kv_cache)
        triton_reshape_and_cache_flash(
            key, value, k_cache, v_cache, slot_mapping, self.kv_cache_dtype, layer._k_scale, layer._v_scale
        )

    def forward(
        self,
        layer: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        attn_metadata: WaveletAttentionMetadata | None,
        output: torch.Tensor,
        output_scale: torch.Tensor | None = None,
        output_block_scale: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend ``query`` ``[T, H, d]`` to the cache ``[num_blocks, H_kv, block, 2 * d]``, into ``output``."""
        del key, value
        assert output_scale is None, "vLLM asks fused_output_quant_supported first"
        assert output_block_scale is None, "vLLM asks fused_output_quant_supported first"
        if attn_metadata is None:  # vLLM's profiling run, before there is a cache
            return output.fill_(0)
        tokens = attn_metadata.num_actual_tokens
        k_cache, v_cache = self._caches(kv_cache)
        batch = PagedBatch(
            query[:tokens],
            k_cache,
            v_cache,
            attn_metadata.block_table,
            attn_metadata.query_start_loc,
            attn_metadata.seq_lens,
            self.table,
            self.scale,
        )
        paged_attention(
            batch,
            output[:tokens],
            max_query_len=attn_metadata.max_query_len,
            max_seq_len=attn_metadata.max_seq_len,
            k_scale=layer._k_scale if self.float8 else None,
            v_scale=layer._v_scale if self.float8 else None,
        )
        return output
