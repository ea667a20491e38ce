"""vLLM attention backend for wavelet positions: writes the paged KV cache and attends to it; on GPUs see ``vllm_gpu``.

The cache is vLLM's logical view ``[num_blocks, H_kv, block, 2 * d]``: K in the first ``d`` columns of a row, V in the
rest. K carries no position, so a cached block is valid wherever its tokens stand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from vllm.logger import init_logger
from vllm.platforms import current_platform
from vllm.v1.attention.backend import (
    AttentionBackend,
    AttentionCGSupport,
    AttentionImpl,
    AttentionMetadata,
    AttentionMetadataBuilder,
    AttentionType,
    CommonAttentionMetadata,
    MultipleOf,
)
from vllm.v1.kv_cache_interface import KVCacheLayout

from model_registry.attention import default_implementation, wavelet_attention

if TYPE_CHECKING:
    from vllm.config.cache import CacheDType
    from vllm.v1.kv_cache_interface import KVCacheSpec

logger = init_logger(f"vllm.{__name__}")  # vLLM shows what is logged under its own name

BACKEND_NAME = "WAVELET"
"""Name of the backend in vLLM's ``AttentionBackendEnum``."""


class UnsupportedByWaveletAttentionError(ValueError):
    """The engine was asked for something that wavelet attention does not do; ``feature`` and ``value`` say what."""

    def __init__(self, feature: str, value: object, reason: str) -> None:
        super().__init__(f"wavelet attention does not support {feature}={value!r}: {reason}")
        self.feature = feature
        self.value = value


@dataclass
class WaveletAttentionMetadata(AttentionMetadata):
    """What ``wavelet_attention`` needs of one batch of ``S`` requests and ``T`` query tokens.

    Attributes:
        num_actual_tokens: ``T``, without padding.
        query_start_loc: ``[S + 1]`` int32.
        seq_lens: ``[S]`` int32, keys visible to the last query of each request.
        block_table: ``[S, max_blocks]`` int32.
        max_query_len: most query tokens of a request.
        max_seq_len: most keys of a request, or a bound on it.
    """

    num_actual_tokens: int
    query_start_loc: torch.Tensor
    seq_lens: torch.Tensor
    block_table: torch.Tensor
    max_query_len: int
    max_seq_len: int


class WaveletAttentionMetadataBuilder(AttentionMetadataBuilder[WaveletAttentionMetadata]):
    """Takes what the op needs from the common metadata; nothing is planned ahead.

    The GPU kernels' launches depend on the shapes and on the two maxima alone, so a CUDA graph of a batch whose
    requests have equally many query tokens can be replayed for any such batch of its size.
    """

    _cudagraph_support: ClassVar[AttentionCGSupport] = AttentionCGSupport.UNIFORM_BATCH

    def __init__(
        self, kv_cache_spec: KVCacheSpec, layer_names: list[str], vllm_config: Any, device: torch.device
    ) -> None:
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)

    def build(
        self, common_prefix_len: int, common_attn_metadata: CommonAttentionMetadata, fast_build: bool = False
    ) -> WaveletAttentionMetadata:
        """Metadata of one batch.

        Raises:
            UnsupportedByWaveletAttentionError: the batch is not causal.
        """
        del common_prefix_len, fast_build
        common = common_attn_metadata
        if common.causal is not True:
            raise UnsupportedByWaveletAttentionError("causal", common.causal, "positions look back only")
        return WaveletAttentionMetadata(
            num_actual_tokens=common.num_actual_tokens,
            query_start_loc=common.query_start_loc,
            seq_lens=common.seq_lens,
            block_table=common.block_table_tensor,
            max_query_len=common.max_query_len,
            max_seq_len=common.max_seq_len,
        )

    def build_for_cudagraph_capture(self, common_attn_metadata: CommonAttentionMetadata) -> WaveletAttentionMetadata:
        """Metadata to record a graph with: the shapes of the largest context, but keys enough for the queries only."""
        metadata = self.build(0, common_attn_metadata)
        metadata.seq_lens.fill_(metadata.max_query_len)
        return metadata


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


class WaveletAttentionBackend(AttentionBackend):
    """Registered under ``BACKEND_NAME``; the model asks for it layer by layer, so other models are untouched."""

    forward_includes_kv_cache_update: bool = False
    supported_dtypes: ClassVar[list[torch.dtype]] = [torch.float32, torch.bfloat16, torch.float16]
    supported_kv_cache_dtypes: ClassVar[list[CacheDType]] = ["auto", "float16", "bfloat16", "fp8", "fp8_e4m3"]

    @staticmethod
    def get_name() -> str:
        return BACKEND_NAME

    @staticmethod
    def get_impl_cls() -> type[WaveletAttentionImpl]:
        """The implementation for the platform.

        Raises:
            UnsupportedByWaveletAttentionError: there is none.
        """
        if current_platform.is_cpu():
            return WaveletAttentionImpl
        if current_platform.is_cuda_alike() or current_platform.is_xpu():
            from model_registry.vllm_gpu import WaveletGpuAttentionImpl

            return WaveletGpuAttentionImpl
        reason = "there are kernels for CPUs and for what Triton compiles to"
        raise UnsupportedByWaveletAttentionError("device", current_platform.device_type, reason)

    @staticmethod
    def get_builder_cls() -> type[WaveletAttentionMetadataBuilder]:
        return WaveletAttentionMetadataBuilder

    @staticmethod
    def get_supported_kernel_block_sizes(kv_cache_spec: KVCacheSpec | None = None) -> list[int | MultipleOf]:
        """Any block size works; small ones only cost more table look-ups."""
        del kv_cache_spec
        return [MultipleOf(16)]

    @classmethod
    def supported_kv_cache_layouts(cls) -> tuple[KVCacheLayout, ...]:
        """Head-major, so that a block's keys of one head are contiguous."""
        return (KVCacheLayout.LBHNC,)
