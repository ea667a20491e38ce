"""Paged attention problems with every slot that must not be read poisoned with NaN."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING

import torch

from model_registry.attention.batch import PagedBatch

if TYPE_CHECKING:
    from model_registry.attention import NearBias

NAN = float("nan")


@dataclass(frozen=True)
class PagedCase:
    """Arguments of ``wavelet_attention``, in its order."""

    q: torch.Tensor
    k_cache: torch.Tensor
    v_cache: torch.Tensor
    block_table: torch.Tensor
    query_start_loc: torch.Tensor
    seq_lens: torch.Tensor
    table: torch.Tensor
    scale: float
    near_bias: NearBias | None = None

    def arguments(self) -> tuple:
        return tuple(vars(self).values())

    def batch(self) -> PagedBatch:
        return PagedBatch(*self.arguments())

    def to(self, dtype: torch.dtype) -> PagedCase:
        """The same values in another element type; the table stays as it is unless all is float64."""
        table = self.table.double() if dtype is torch.float64 else self.table
        tensors = {name: getattr(self, name).to(dtype) for name in ("q", "k_cache", "v_cache")}
        return replace(self, table=table, **tensors)

    def sequence(self, s: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Sequence ``s`` on its own: q ``[n_q, H, d]``, and k and v ``[L, H_kv, d]`` in order of position."""
        first, last = self.query_start_loc[s : s + 2].tolist()
        n = torch.arange(int(self.seq_lens[s]))
        block_size = self.k_cache.shape[1]
        blocks, slots = self.block_table[s].long()[n // block_size], n % block_size
        return self.q[first:last], self.k_cache[blocks, slots], self.v_cache[blocks, slots]


def paged_case(
    lengths: list[int],
    queries: list[int],
    *,
    H: int = 4,
    H_kv: int = 2,
    d: int = 32,
    block_size: int = 16,
    R: int = 100,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    near_bias: NearBias | None = None,
) -> PagedCase:
    """Sequences of ``lengths`` keys whose last ``queries`` positions are asked for, in scattered blocks.

    The caches are permuted views of one head-major tensor ``[B, H_kv, block, 2 * d]``; unused slots, unused blocks
    and nothing else are NaN, and unused entries of the block table are out of range.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    counts = [-(-length // block_size) for length in lengths]
    B = sum(counts) + 2
    order = iter(torch.randperm(B, generator=generator).tolist())
    block_table = torch.full((len(lengths), max(counts, default=0) + 1), -7, dtype=torch.int32)
    kv = torch.full((B, H_kv, block_size, 2 * d), NAN, dtype=dtype)
    for s, length in enumerate(lengths):
        for i in range(counts[s]):
            block = next(order)
            used = min(block_size, length - i * block_size)
            block_table[s, i] = block
            kv[block, :, :used] = normal(H_kv, used, 2 * d)
    table = normal(R, d) if dtype is torch.float64 else normal(R, d).float()
    return PagedCase(
        q=normal(sum(queries), H, d),
        k_cache=kv[..., :d].permute(0, 2, 1, 3),
        v_cache=kv[..., d:].permute(0, 2, 1, 3),
        block_table=block_table,
        query_start_loc=torch.tensor([0, *accumulate(queries)], dtype=torch.int32),
        seq_lens=torch.tensor(lengths, dtype=torch.int32),
        table=table,
        scale=d**-0.5,
        near_bias=near_bias,
    )
