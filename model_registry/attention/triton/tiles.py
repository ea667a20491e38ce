"""What the Triton kernels share: which sequence a tile is of, rows of the paged cache and of
the table, and one step of the online softmax."""

from __future__ import annotations

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def product(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """``[M, N]`` float32: the matrix product, with all bits of float32 operands."""
    if INTERPRETED:
        # NumPy has no bfloat16; products of two are exact in float32, as they are on tensor cores.
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def sequence_of(
    query_start_loc: tl.tensor, tile: tl.tensor, S: tl.tensor, BLOCK_M: tl.constexpr, more: tl.tensor = 1
) -> tl.tensor:
    """The sequence of a tile: tiles of sequence ``s`` start at ``query_start_loc[s] // BLOCK_M + s * more``."""
    first, last = 0, S - 1
    while first < last:
        middle = (first + last + 1) // 2
        if tl.load(query_start_loc + middle) // BLOCK_M + middle * more <= tile:
            first = middle
        else:
            last = middle - 1
    return first


@triton.jit
def load_rows(
    base: tl.tensor,
    rows: tl.tensor,
    used: tl.tensor,
    stride_dim: tl.tensor,
    HEAD_SIZE: tl.constexpr,
    D: tl.constexpr,
    ALL_USED: tl.constexpr,
) -> tl.tensor:
    """``[N, D]``: the rows at the offsets ``rows`` ``[N]`` from ``base``; zero where not ``used`` and beyond the head.

    ``ALL_USED`` promises that ``used`` holds everywhere. A masked row is never read: what lies there may be NaN.
    """
    dims = tl.arange(0, D)
    pointers = base + rows[:, None] + dims[None, :] * stride_dim
    if not ALL_USED and HEAD_SIZE == D:
        tile = tl.load(pointers, mask=used[:, None], other=0.0)
    elif not ALL_USED:
        tile = tl.load(pointers, mask=used[:, None] & (dims < HEAD_SIZE)[None, :], other=0.0)
    elif HEAD_SIZE < D:
        tile = tl.load(pointers, mask=(dims < HEAD_SIZE)[None, :], other=0.0)
    else:
        tile = tl.load(pointers)
    return tile


@triton.jit
def cache_rows(
    block_table: tl.tensor,
    n: tl.tensor,
    used: tl.tensor,
    stride_k_block: tl.tensor,
    stride_k_slot: tl.tensor,
    stride_v_block: tl.tensor,
    stride_v_slot: tl.tensor,
    BLOCK_SIZE: tl.constexpr,
    ALL_USED: tl.constexpr,
) -> tl.tensor:
    """Offsets of the keys ``n`` ``[N]`` of one sequence and of their values, each ``[N]`` int64, within a head."""
    if ALL_USED:
        block = tl.load(block_table + n // BLOCK_SIZE)
    else:
        block = tl.load(block_table + n // BLOCK_SIZE, mask=used, other=0)
    block, slot = block.to(tl.int64), (n % BLOCK_SIZE).to(tl.int64)
    return block * stride_k_block + slot * stride_k_slot, block * stride_v_block + slot * stride_v_slot


@triton.jit
def position_scores(
    q: tl.tensor, table: tl.tensor, t: tl.tensor, R: tl.tensor, HEAD_SIZE: tl.constexpr, D: tl.constexpr
) -> tl.tensor:
    """``[M, N]`` float32: ``q_i . p(t_j)``, zero where ``t_j`` is not in ``0 .. R - 1``. The table is
    contiguous and of the type of ``q``."""
    p = load_rows(table, t * HEAD_SIZE, (t >= 0) & (t < R), 1, HEAD_SIZE, D, False)
    if q.dtype == tl.float32:
        # On the right q is read anew; on the left it would be held for the product with the keys too, and spill.
        return tl.trans(product(p, tl.trans(q)))
    return product(q, tl.trans(p))


@triton.jit
def near_bonus(m: tl.tensor, slope: tl.tensor, length: tl.tensor) -> tl.tensor:
    """What near keys of the queries at the positions ``m`` get added to their scores, in units of log 2."""
    return slope * tl.maximum(tl.log2((m + 1).to(tl.float32) / length), 0.0)


@triton.jit
def softmax_start(BLOCK_M: tl.constexpr, D: tl.constexpr) -> tl.tensor:
    """``output``, ``highest`` and ``total`` of ``softmax_step`` before any key."""
    output = tl.zeros([BLOCK_M, D], tl.float32)
    return output, tl.full([BLOCK_M], float("-inf"), tl.float32), tl.zeros([BLOCK_M], tl.float32)


@triton.jit
def softmax_step(score: tl.tensor, v: tl.tensor, output: tl.tensor, highest: tl.tensor, total: tl.tensor) -> tl.tensor:
    """Add one tile of keys to the running softmax: ``score`` ``[M, N]`` in units of log 2, ``v`` ``[N, D]``.

    ``output`` ``[M, D]`` is ``sum 2^(score - highest) v`` over the keys so far, ``total`` ``[M]`` its weights' sum.
    """
    new = tl.maximum(highest, tl.max(score, 1))
    weight = tl.exp2(score - new[:, None])
    rescale = tl.exp2(highest - new)
    total = total * rescale + tl.sum(weight, 1)
    output = output * rescale[:, None] + product(weight.to(v.dtype), v)
    return output, new, total


@triton.jit
def softmax_end(output: tl.tensor, total: tl.tensor, v_scale: tl.tensor, SCALED: tl.constexpr) -> tl.tensor:
    """``[M, D]``: the mean of the values; zero for rows without keys."""
    output = output / tl.where(total > 0, total, 1.0)[:, None]
    if SCALED:
        output = output * tl.load(v_scale)
    return output
