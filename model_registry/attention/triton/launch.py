"""The arguments that the attention kernels share, from a batch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch

from model_registry.attention.triton.configuration import padded

if TYPE_CHECKING:
    from model_registry.attention.batch import PagedBatch


class Arguments(NamedTuple):
    """What the kernels are launched with besides what only one of them takes, in the order that they take it.

    Attributes:
        tensors: those of the batch, and the output.
        factors: ``k_scale`` and ``v_scale``, or any tensor if there are none.
        scalars: the scale for scores in units of log 2, the table's rows, and the ``NearBias``.
        strides: of q, both caches, the block table and the output.
        constants: what the kernels are compiled for.
    """

    tensors: tuple[torch.Tensor, ...]
    factors: tuple[torch.Tensor, torch.Tensor]
    scalars: tuple[float, int, float, float, int]
    strides: tuple[int, ...]
    constants: dict[str, int | bool]


def arguments(
    batch: PagedBatch,
    out: torch.Tensor,
    *,
    positions: bool,
    k_scale: torch.Tensor | None,
    v_scale: torch.Tensor | None,
) -> Arguments:
    """See ``paged_attention`` for what may be given."""
    q, k_cache, v_cache, block_table, query_start_loc, seq_lens, table, scale, near_bias = batch
    if block_table.stride(1) != 1:
        block_table = block_table.contiguous()
    # A kernel argument must be a tensor even where it is not read.
    table = table.to(q.dtype).contiguous() if positions else q
    scaled = k_scale is not None or v_scale is not None
    factors = (q, q)
    if scaled:
        one = torch.ones((), dtype=torch.float32, device=q.device) if k_scale is None or v_scale is None else q
        factors = (one if k_scale is None else k_scale, one if v_scale is None else v_scale)
    slope, length, near_keys = (0.0, 1, 0) if near_bias is None else near_bias
    return Arguments(
        (q, k_cache, v_cache, block_table, query_start_loc.contiguous(), seq_lens.contiguous(), table, out),
        factors,
        (scale * math.log2(math.e), table.shape[0] if positions else 0, float(slope), float(length), near_keys),
        (*q.stride(), *k_cache.stride(), *v_cache.stride(), block_table.stride(0), *out.stride()),
        {
            "GROUP": q.shape[1] // k_cache.shape[2],
            "HEAD_SIZE": q.shape[2],
            "D": padded(q.shape[2]),
            "BLOCK_SIZE": k_cache.shape[1],
            "SCALED": scaled,
            "BIASED": positions and near_bias is not None,
        },
    )
