"""The one argument that every attention implementation takes besides its output: a batch of paged sequences."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

    from model_registry.attention.near_bias import NearBias


class PagedBatch(NamedTuple):
    """``S`` sequences whose keys and values lie in a paged cache, and the ``T`` queries that attend to them.

    ``wavelet_attention`` says what the values mean; it builds a batch from its arguments and checks it once.

    Attributes:
        q: ``[T, H, d]`` queries of all sequences, packed; float32, bfloat16, float16 or float64.
        k_cache: ``[num_blocks, block_size, H_kv, d]`` keys of the type of ``q``; ``H_kv`` divides ``H``.
        v_cache: ``[num_blocks, block_size, H_kv, d]`` values, likewise.
        block_table: ``[S, max_blocks]`` int32, the cache's blocks of each sequence.
        query_start_loc: ``[S + 1]`` int32, where each sequence's queries begin in ``q``, and where the last ends.
        seq_lens: ``[S]`` int32, the keys of each sequence; 0 for a padding entry.
        table: ``[R, d]`` float32 (float64 if ``q`` is), the position table; distances of ``R`` and more have no term.
        scale: factor of every score.
        near_bias: what near keys' scores get added; None adds nothing.
    """

    q: torch.Tensor
    k_cache: torch.Tensor
    v_cache: torch.Tensor
    block_table: torch.Tensor
    query_start_loc: torch.Tensor
    seq_lens: torch.Tensor
    table: torch.Tensor
    scale: float
    near_bias: NearBias | None = None
