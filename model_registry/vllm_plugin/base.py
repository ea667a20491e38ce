"""What wavelet attention in vLLM is on every device: what it refuses, and one layer's pass over one batch."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from vllm.logger import init_logger
from vllm.platforms import current_platform
from vllm.v1.attention.backend import AttentionImpl, AttentionType

from model_registry.attention import default_implementation
from model_registry.attention.batch import PagedBatch
from model_registry.vllm_plugin.errors import UnsupportedByWaveletAttentionError
from model_registry.vllm_plugin.metadata import WaveletAttentionMetadata

if TYPE_CHECKING:
    from model_registry.attention import NearBias

logger = init_logger(f"vllm.{__name__}")  # under "vllm." vLLM's handlers show it


class WaveletAttentionBase(AttentionImpl[WaveletAttentionMetadata]):
    """One layer's attention; vLLM makes one for each layer and calls it for each batch.

    ``cpu`` and ``gpu`` write the cache and compute the attention, each with what its device has.

    Attributes:
        kv_cache_dtypes: values of vLLM's option of this name that the device's kernels can read, and the types that
            they stand for; ``auto`` is the model's.
        dtype: of the model.
        cache_dtype: of the cache.
        table: ``[R, d]`` float32, the position table, one tensor for all layers.
        near_bias: what near keys' scores get added, or None; the table has a row for each of them.
        buffers: by name, the tensors that attention reads beside the caches; the layer registers them as its buffers.
    """

    kv_cache_dtypes: ClassVar[dict[str, torch.dtype | None]] = {
        "auto": None,
        "float16": torch.float16,
        "bfloat16": torch.bfloat16,
    }

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
        near_bias: NearBias | None = None,
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
        # While vLLM builds a model, torch's default type is the model's.
        self.dtype = torch.get_default_dtype()
        self.cache_dtype = self.kv_cache_dtypes[kv_cache_dtype] or self.dtype
        self._check_cache()
        self.table = table
        self.near_bias = near_bias
        self.buffers = {"position_table": table}
        # Asked at start, since the CPU's kernel may have to be compiled: no request should wait for that.
        implementation = default_implementation(current_platform.device_type)
        logger.info_once("Wavelet attention runs on impl=%r", implementation)

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

        ``key`` and ``value`` are in the cache already (``do_kv_cache_update``). Rows of padding, past the batch's
        tokens, stay as they are.
        """
        del key, value
        assert output_scale is None, "vLLM asks fused_output_quant_supported first"
        assert output_block_scale is None, "vLLM asks fused_output_quant_supported first"
        if attn_metadata is None:
            # vLLM's profiling run, before there is a cache. ``output`` is memory that nobody has written: what stands
            # there, NaN perhaps, would go through the rest of the model.
            self._profile(query)
            return output.fill_(0)
        self._attend(layer, query, kv_cache, attn_metadata, output)
        return output

    def _batch(self, query: torch.Tensor, kv_cache: torch.Tensor, metadata: WaveletAttentionMetadata) -> PagedBatch:
        """The batch's own tokens of ``query``, without padding, and what they attend to."""
        k_cache, v_cache = self._caches(kv_cache)
        return PagedBatch(
            query[: metadata.num_actual_tokens],
            k_cache,
            v_cache,
            metadata.block_table,
            metadata.query_start_loc,
            metadata.seq_lens,
            self.table,
            self.scale,
            self.near_bias,
        )

    @abstractmethod
    def _check_cache(self) -> None:
        """Refuse a cache that the kernels cannot write and read for a model of this type, on this device."""

    def _profile(self, query: torch.Tensor) -> None:
        """Take the memory that attention of ``query`` ``[T, H, d]`` takes, for vLLM to see how much is left."""

    def _caches(self, kv_cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V ``[num_blocks, block, H_kv, d]``, views of vLLM's cache ``[num_blocks, H_kv, block, 2 * d]``."""
        token_major = kv_cache.transpose(1, 2)
        return token_major[..., : self.head_size], token_major[..., self.head_size :]

    @abstractmethod
    def _attend(
        self,
        layer: Any,
        query: torch.Tensor,
        kv_cache: torch.Tensor,
        metadata: WaveletAttentionMetadata,
        output: torch.Tensor,
    ) -> None:
        """Attention of the batch, into the first rows of ``output``; ``layer`` has the scales of a float8 cache."""
