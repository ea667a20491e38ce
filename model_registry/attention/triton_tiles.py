"""What the Triton kernels share: rows of the paged cache, rows of the table, and one step of the online softmax."""

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
def block_of(
    block_table: tl.tensor, n: tl.tensor, used: tl.tensor, BLOCK_SIZE: tl.constexpr, ALL_USED: tl.constexpr
) -> tl.tensor:
    """``[N]`` int64: the cache block of each key ``n``; 0 where not ``used``."""
    if ALL_USED:
        block = tl.load(block_table + n // BLOCK_SIZE)
    else:
        block = tl.load(block_table + n // BLOCK_SIZE, mask=used, other=0)
    return block.to(tl.int64)


@triton.jit
def position_scores(
    q: tl.tensor, table: tl.tensor, t: tl.tensor, R: tl.tensor, HEAD_SIZE: tl.constexpr, D: tl.constexpr
) -> tl.tensor:
    """``[M, N]`` float32: ``q_i . p(t_j)``, zero where ``t_j`` is not in ``0 .. R - 1``. The table is
    contiguous and of the type of ``q``."""
    p = load_rows(table, t * HEAD_SIZE, (t >= 0) & (t < R), 1, HEAD_SIZE, D, False)
    return product(q, tl.trans(p))


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
