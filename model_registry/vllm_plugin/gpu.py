"""Wavelet attention in vLLM on GPUs: the Triton kernels, and vLLM's own to write the cache and for far keys."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.utils.weak import WeakTensorKeyDictionary
from vllm import envs
from vllm.config import get_current_vllm_config_or_none
from vllm.platforms import current_platform

from model_registry.attention.triton.op import HEAD_SIZES, paged_attention
from model_registry.attention.triton.split import NearKeysError, Split, make_split, take_strips
from model_registry.vllm_plugin.base import WaveletAttentionBase
from model_registry.vllm_plugin.errors import UnsupportedByWaveletAttentionError
from model_registry.vllm_plugin.flash import (
    VARIABLE,
    FlashAttention,
    asked_way,
    flash_attention,
    log_one_kernel,
    log_two_parts,
)

if TYPE_CHECKING:
    from model_registry.attention import NearBias
    from model_registry.attention.batch import PagedBatch
    from model_registry.vllm_plugin.metadata import WaveletAttentionMetadata

LEAST_CAPABILITY = {"bfloat16": 80, "fp8": 89, "fp8_e4m3": 89}
"""By type of the cache: the oldest GPU that converts to and from it, as ten times its CUDA compute capability."""


_converted: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""By table: its copies by element type. A table is shared by all layers of a model, and so is its copy."""


def _in_type(table: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """``table`` in the type of the queries, converted once for as long as the table lives."""
    if table.dtype is dtype:
        return table
    copies: dict[torch.dtype, torch.Tensor] = _converted.setdefault(table, {})  # type: ignore[no-untyped-call]
    if dtype not in copies:
        copies[dtype] = table.to(dtype)
    return copies[dtype]


_splits: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""By table: how to attend in two parts, by FlashAttention's version, element type, heads of a group and near bias."""


def _split(
    kernel: FlashAttention, table: torch.Tensor, dtype: torch.dtype, group: int, near_bias: NearBias | None
) -> Split:
    """Worked out once for as long as the table lives, for all layers of a model.

    Raises:
        NearKeysError: other keys have a bonus than the near kernel attends to.
    """
    splits: dict[tuple[object, ...], Split] = _splits.setdefault(table, {})  # type: ignore[no-untyped-call]
    key = (kernel.version, dtype, group, near_bias)
    if key not in splits:
        splits[key] = make_split(kernel, table, dtype, group, near_bias)
    return splits[key]


class WaveletGpuAttentionImpl(WaveletAttentionBase):
    """One layer's attention on a GPU; nothing in it waits for the device, so that it can be recorded in a graph."""

    kv_cache_dtypes: ClassVar[dict[str, torch.dtype | None]] = WaveletAttentionBase.kv_cache_dtypes | {
        "fp8": torch.float8_e4m3fn,
        "fp8_e4m3": torch.float8_e4m3fn,
    }

    def __init__(self, num_heads: int, head_size: int, *arguments: Any, table: torch.Tensor, **options: Any) -> None:
        super().__init__(num_heads, head_size, *arguments, table=table, **options)
        if not HEAD_SIZES[0] <= head_size <= HEAD_SIZES[1]:
            reason = f"the kernels take {HEAD_SIZES[0]} to {HEAD_SIZES[1]}"
            raise UnsupportedByWaveletAttentionError("head_size", head_size, reason)
        if envs.VLLM_BATCH_INVARIANT:
            reason = "into how many parts a decode is split, and so its rounding, depends on the batch"
            raise UnsupportedByWaveletAttentionError("VLLM_BATCH_INVARIANT", True, reason)
        self.table = self.buffers["converted_table"] = _in_type(table, self.dtype)
        kernel = flash_attention(head_size, self.dtype, self.cache_dtype, table.shape[0])
        self.split = None if kernel is None else self._two_parts(kernel, table)
        if self.split is not None:
            self.buffers |= self.split.tensors()
        self._compiled = False

    def _two_parts(self, kernel: FlashAttention, table: torch.Tensor) -> Split | None:
        try:
            split = _split(kernel, table, self.dtype, self.num_heads // self.num_kv_heads, self.near_bias)
        except NearKeysError as error:
            reason = f"in two parts ({VARIABLE}=split) it must be {error.rows}, or a larger multiple of the tile's keys"
            if asked_way() == "split":
                raise UnsupportedByWaveletAttentionError("near_bias_keys", error.keys, reason) from error
            log_one_kernel(f"near_bias_keys={error.keys}: {reason}")
            return None
        log_two_parts(kernel)
        return split

    @property
    def float8(self) -> bool:
        """Whether the cache is float8."""
        return self.cache_dtype is torch.float8_e4m3fn

    def _check_cache(self) -> None:
        reason, least = None, LEAST_CAPABILITY.get(self.kv_cache_dtype, 0)
        if current_platform.is_cuda() and not current_platform.has_device_capability(least):
            reason = f"it needs compute capability {least / 10}"
        elif self.float8 and current_platform.fp8_dtype() is not torch.float8_e4m3fn:
            reason = f"the kernels read float8_e4m3fn, and this platform has {current_platform.fp8_dtype()}"
        if reason:
            raise UnsupportedByWaveletAttentionError("kv_cache_dtype", self.kv_cache_dtype, reason)
        config = get_current_vllm_config_or_none()
        # vLLM checks this for backends that it chooses itself, but not for one that a layer names.
        scheme = getattr(getattr(config, "quant_config", None), "kv_cache_scheme", None) or {}
        if scheme.get("strategy") == "attn_head":
            reason = "the cache has one scale for its keys and one for its values"
            raise UnsupportedByWaveletAttentionError("kv_cache_scheme", scheme, reason)

    def _caches(self, kv_cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # vLLM keeps a float8 cache as bytes.
        return super()._caches(kv_cache.view(torch.float8_e4m3fn) if self.float8 else kv_cache)

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

    def _profile(self, query: torch.Tensor) -> None:
        if self.split is not None:
            take_strips(query, self.num_kv_heads, query.shape[0], self.split.short)

    def _split_of_step(self, batch: PagedBatch, metadata: WaveletAttentionMetadata) -> Split | None:
        if self.split is None or metadata.max_query_len == 1:
            return None
        near_keys = self.split.near_table(metadata.max_seq_len).rows
        if near_keys not in metadata.key_rows:
            metadata.key_rows[near_keys] = self.split.key_rows(batch, metadata.max_seq_len)
        return replace(self.split, of_step=metadata.key_rows[near_keys])

    def _attend(
        self,
        layer: Any,
        query: torch.Tensor,
        kv_cache: torch.Tensor,
        metadata: WaveletAttentionMetadata,
        output: torch.Tensor,
    ) -> None:
        batch, out = self._batch(query, kv_cache, metadata), output[: metadata.num_actual_tokens]
        scales = {"k_scale": layer._k_scale, "v_scale": layer._v_scale} if self.float8 else {}
        if not (self._compiled or (query.is_cuda and torch.cuda.is_current_stream_capturing())):
            # vLLM starts with a short batch. What longer ones need is compiled then too: no request waits for it.
            for longest in (1, None):
                paged_attention(batch, out, max_seq_len=longest, split=self.split, **scales)
            self._compiled = True
        paged_attention(
            batch,
            out,
            max_query_len=metadata.max_query_len,
            max_seq_len=metadata.max_seq_len,
            single_queries=metadata.single_queries,
            split=self._split_of_step(batch, metadata),
            **scales,
        )
