"""What the attention implementations get of one batch, and what builds it from vLLM's own metadata."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from vllm.v1.attention.backend import (
    AttentionCGSupport,
    AttentionMetadata,
    AttentionMetadataBuilder,
    CommonAttentionMetadata,
)

from model_registry.vllm_plugin.errors import UnsupportedByWaveletAttentionError

if TYPE_CHECKING:
    import torch
    from vllm.v1.kv_cache_interface import KVCacheSpec

    from model_registry.attention import PreparedAttention
    from model_registry.attention.triton.key_rows import KeyRows


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
        single_queries: whether a request may have a single query token.
        key_rows: by the keys that are near, what the kernel for them reads. Filled by the first layer of a step that
            asks, for the others.
        prepared: the step's arguments as checked by its first layer, on CPUs.
    """

    num_actual_tokens: int
    query_start_loc: torch.Tensor
    seq_lens: torch.Tensor
    block_table: torch.Tensor
    max_query_len: int
    max_seq_len: int
    single_queries: bool = True
    key_rows: dict[int, KeyRows] = field(default_factory=dict)
    prepared: PreparedAttention | None = None


class WaveletAttentionMetadataBuilder(AttentionMetadataBuilder[WaveletAttentionMetadata]):
    """Takes what the op needs from vLLM's metadata of a batch; the kernels need no schedule made ahead.

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
            single_queries=common.max_query_len == 1 or bool((common.query_start_loc_cpu.diff() == 1).any()),
        )

    def build_for_cudagraph_capture(self, common_attn_metadata: CommonAttentionMetadata) -> WaveletAttentionMetadata:
        """Metadata to record a CUDA graph with.

        Shapes are those of the longest context, which any later batch fits in; but each request has only as many keys
        as it has queries.
        """
        metadata = self.build(0, common_attn_metadata)
        metadata.single_queries = True
        metadata.seq_lens.fill_(metadata.max_query_len)
        return metadata
