"""The attention op on CPU: PyTorch's flash kernel over gathered keys, with the position term as its mask.

Everything is computed in float32 (float64 for float64 inputs), so parts are not rounded before they are joined.
Sequences with one query go together, see ``decode``; the others one by one, see ``prefill``.
Memory: a segment of keys and values and one bias, whatever the context. It needs no compiler, and serves where the
native kernel cannot be built.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from model_registry.attention.torch_flash.decode import decode
from model_registry.attention.torch_flash.prefill import prefill

if TYPE_CHECKING:
    from model_registry.attention.batch import PagedBatch


@torch.no_grad()
def attention(batch: PagedBatch, out: torch.Tensor) -> None:
    """``wavelet_attention`` for CPU tensors, into ``out`` ``[T, H, d]``."""
    q, k_cache, v_cache, block_table, query_start_loc, seq_lens, table, scale, near_bias = batch
    compute = torch.float64 if q.dtype is torch.float64 else torch.float32
    starts, lengths = query_start_loc.tolist(), seq_lens.tolist()
    # Reversed, so that a bias row runs along the keys; rows beyond the longest sequence are never read.
    rows = table[: max(lengths, default=0)].to(compute).flip(0)
    decoding = []
    for s, length in enumerate(lengths):
        queries = slice(starts[s], starts[s + 1])
        n_q = queries.stop - queries.start
        if length == 0:
            out[queries] = 0
        elif n_q == 1:
            decoding.append(s)
        elif n_q > 1:
            scaled = q[queries].to(compute) * scale
            attended = prefill(scaled, k_cache, v_cache, block_table[s], length, rows, near_bias)
            out[queries] = attended.to(out.dtype)
    if decoding:
        tokens = query_start_loc[decoding]
        scaled = q[tokens].to(compute) * scale
        counts = [lengths[s] for s in decoding]
        out[tokens] = decode(scaled, k_cache, v_cache, block_table[decoding], counts, rows, near_bias).to(out.dtype)
