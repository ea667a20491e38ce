"""Wavelet attention in vLLM on CPUs: writes the paged cache with PyTorch and attends with ``wavelet_attention``."""

from __future__ import annotations

from typing import ClassVar

import torch
from vllm.logger import init_logger
from vllm.platforms import current_platform
from vllm.v1.attention.backend import AttentionImpl, AttentionType

from model_registry.attention import default_implementation, wavelet_attention
from model_registry.vllm_plugin.errors import UnsupportedByWaveletAttentionError
from model_registry.vllm_plugin.metadata import WaveletAttentionMetadata

logger = init_logger(f"vllm.{__name__}")  # vLLM shows what is logged under its own name


class WaveletAttentionImpl(AttentionImpl[WaveletAttentionMetadata]):
    """One layer's attention on the CPU; ``table`` is the position table ``[R, d]`` float32, shared by all layers."""

    kv_cache_dtypes: ClassVar[tuple[str, ...]] = ("auto", "float16", "bfloat16")

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int | None = None,
        alibi_slopes: list[float] | None = None,
        sliding_window: int | None = None,
        kv_cache_dtype: str = "auto",
        logits_soft_cap: float | None = None,
        attn_type: str = AttentionType.DECODER,
        kv_sharing_target_layer_name: str | None = None,
        *,
        table: torch.Tensor,
    ) -> None:
        refused = {
            "alibi_slopes": (alibi_slopes, None, "the position term is the wavelet table"),
            "sliding_window": (sliding_window, None, "every key is visible"),
            "logits_soft_cap": (logits_soft_cap or None, None, "the op has no cap"),
            "attn_type": (attn_type, AttentionType.DECODER, "only causal decoders have wavelet positions"),
            "kv_sharing_target_layer_name": (kv_sharing_target_layer_name, None, "each layer keeps its own cache"),
            "decode_context_parallel_size": (self.total_cp_world_size, 1, "the context is not split over ranks"),
        }
        for feature, (value, supported, reason) in refused.items():
            if value != supported:
                raise UnsupportedByWaveletAttentionError(feature, value, reason)
        if kv_cache_dtype not in self.kv_cache_dtypes:
            reason = f"on {current_platform.device_type} use one of {', '.join(self.kv_cache_dtypes)}"
            raise UnsupportedByWaveletAttentionError("kv_cache_dtype", kv_cache_dtype, reason)
        self.num_heads = num_heads
        self.head_size = head_size
        self.scale = float(scale)
        self.num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        self.kv_cache_dtype = kv_cache_dtype
        self.table = table
        # Asked for now, so that a kernel that has to be compiled is there before the first request.
        implementation = default_implementation(current_platform.device_type)
        logger.info_once("Wavelet attention runs on impl=%r", implementation)

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

    def forward(
        self,
        layer: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        attn_metadata: WaveletAttentionMetadata | None,
        output: torch.Tensor,
        output_scale: torch.Tensor | None = None,
        output_block_scale: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend ``query`` ``[T, H, d]`` to the cache ``[num_blocks, H_kv, block, 2 * d]``, into ``output``.

        ``key`` and ``value`` are in the cache already (``do_kv_cache_update``).
        """
        del layer, key, value
        assert output_scale is None, "vLLM asks fused_output_quant_supported first"
        assert output_block_scale is None, "vLLM asks fused_output_quant_supported first"
        if attn_metadata is None:  # vLLM's profiling run, before there is a cache
            return output
        tokens = attn_metadata.num_actual_tokens
        token_major = kv_cache.transpose(1, 2)
        wavelet_attention(
            query[:tokens],
            token_major[..., : self.head_size],
            token_major[..., self.head_size :],
            attn_metadata.block_table,
            attn_metadata.query_start_loc,
            attn_metadata.seq_lens,
            self.table,
            self.scale,
            out=output[:tokens],
        )
        return output
