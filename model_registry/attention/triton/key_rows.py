"""Where in the cache the near kernel finds its keys: worked out once a step, for all heads and layers.

From a key's position to its place in a paged cache it takes a division, a look-up in the block table and two products.
The near kernel did that for every tile of queries and every head anew, with a quarter of its instructions. Here a
sequence with ``n_q`` queries has an entry for each of its last ``n_q + R`` positions, and the near kernel reads those.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import triton
import triton.language as tl

from model_registry.attention.triton.tiles import sequence_of

if TYPE_CHECKING:
    from model_registry.attention.batch import PagedBatch

ENTRIES = 128
"""Entries that a program writes, and what the entries of a sequence are a multiple of."""

MOST_IN_INT32 = 2**31 - 1
"""The largest offset that takes 4 bytes: those of a larger cache take 8."""


class KeyRows(NamedTuple):
    """What a step's near kernels read instead of the block table.

    Attributes:
        far_lens: ``[S]`` int32, the keys that are far for a sequence's last query; none for sequences of a single
            query, which the decode kernel does as a whole.
        keys: int32 or int64, the offset of each key within its head, in ``unit`` elements of the cache. Those of
            sequence ``s`` start at ``ENTRIES * (query_start_loc[s] // ENTRIES + s * tiles)``.
        values: likewise of each value; the same tensor where both caches have the same strides.
        tiles: tiles of entries that a sequence has besides those of its queries.
        unit: elements of the cache that all rows are a multiple of.
    """

    far_lens: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    tiles: int
    unit: int


@triton.jit(do_not_specialize=["S", "R", "TILES", "stride_block_table"])
def key_rows_kernel(
    block_table: tl.tensor,
    query_start_loc: tl.tensor,
    seq_lens: tl.tensor,
    far_lens: tl.tensor,
    key_rows: tl.tensor,
    S: tl.tensor,
    R: tl.tensor,
    TILES: tl.tensor,
    stride_block_table: tl.tensor,
    stride_block: tl.tensor,
    stride_slot: tl.tensor,
    BLOCK_SIZE: tl.constexpr,
    ENTRIES: tl.constexpr,
    UNIT: tl.constexpr,
) -> None:
    """``ENTRIES`` entries of one sequence, and ``far_lens`` of as many sequences. ``R`` keys are near.

    Entry ``i`` of a sequence is the key ``seq_len - n_q - R + i``. Where the sequence has no such key it is one that it
    has, so that nothing else is read: a score of it is masked, and its value finite.

    Grid ``(T // ENTRIES + S * TILES,)``.
    """
    tile, entry = tl.program_id(0), tl.arange(0, ENTRIES)
    sequence = tile * ENTRIES + entry
    starts = tl.load(query_start_loc + sequence, mask=sequence < S, other=0)
    prompt = tl.load(query_start_loc + sequence + 1, mask=sequence < S, other=0) - starts > 1
    far = tl.maximum(tl.load(seq_lens + sequence, mask=sequence < S, other=0) - R, 0)
    tl.store(far_lens + sequence, tl.where(prompt, far, 0), mask=sequence < S)

    s = sequence_of(query_start_loc, tile, S, ENTRIES, TILES)
    start = tl.load(query_start_loc + s)
    n_q = tl.load(query_start_loc + s + 1) - start
    seq_len = tl.load(seq_lens + s)
    if n_q < 2 or seq_len == 0:
        return
    n = seq_len - n_q - R + (tile - start // ENTRIES - s * TILES) * ENTRIES + entry
    n = tl.minimum(tl.maximum(n, 0), seq_len - 1)
    block = tl.load(block_table + s.to(tl.int64) * stride_block_table + n // BLOCK_SIZE).to(tl.int64)
    row = (block * stride_block + (n % BLOCK_SIZE) * stride_slot) // UNIT
    tl.store(key_rows + tile * ENTRIES + entry, row.to(key_rows.dtype.element_ty))


def key_rows(batch: PagedBatch, near_keys: int, tile_keys: int) -> KeyRows:
    """For the step's batch, of which the queries are not read; stays on the device.

    Args:
        batch: the batch.
        near_keys: how many keys are near.
        tile_keys: by how many entries the near kernel may read past a sequence's last.
    """
    q, k_cache, v_cache, block_table, query_start_loc, seq_lens = batch[:6]
    S, device = seq_lens.shape[0], q.device
    strides = [cache.stride()[:2] for cache in (k_cache, v_cache)]
    unit = next(unit for unit in (16, 8, 1) if all(stride % unit == 0 for pair in strides for stride in pair))
    blocks, slots = k_cache.shape[:2]
    last = max((blocks - 1) * block + (slots - 1) * slot for block, slot in strides) // unit
    dtype = torch.int32 if last <= MOST_IN_INT32 else torch.int64
    tiles = -(-(near_keys + tile_keys) // ENTRIES) + 1
    programs = q.shape[0] // ENTRIES + S * tiles
    far_lens = torch.empty(S, dtype=torch.int32, device=device)
    block_table = block_table if block_table.stride(1) == 1 else block_table.contiguous()

    def rows_of(stride_block: int, stride_slot: int) -> torch.Tensor:
        rows = torch.empty(programs * ENTRIES, dtype=dtype, device=device)
        key_rows_kernel[(programs,)](
            block_table,
            query_start_loc.contiguous(),
            seq_lens.contiguous(),
            far_lens,
            rows,
            S,
            near_keys,
            tiles,
            block_table.stride(0),
            stride_block,
            stride_slot,
            BLOCK_SIZE=k_cache.shape[1],
            ENTRIES=ENTRIES,
            UNIT=unit,
            num_warps=4,
        )
        return rows

    keys = rows_of(*strides[0])
    return KeyRows(far_lens, keys, keys if strides[0] == strides[1] else rows_of(*strides[1]), tiles, unit)
