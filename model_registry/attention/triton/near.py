"""Triton kernel for the near keys of prompts: ``m - R < n <= m``, after another kernel attended to the keys before.

A query at ``m`` and a key at ``n`` meet with the term ``q_m . p(m - n)``: along a row of queries by keys the distance
falls by one a key, along a column it rises by one a query. So a tile of products ``q . p(t)``, whose columns are
distances, has to be skewed before it can be added to a tile ``q . k``, whose columns are keys. A program does that
through memory, in two phases. It multiplies its queries by all rows of the table and writes each row of the result one
place further to the right than the row above: into a strip whose columns are keys. Then it goes over the keys, and
reads a tile of the strip with each tile of keys. For 3 queries at ``m = 10, 11, 12`` and ``R = 4`` the strip holds

    key          7     8     9    10    11    12
    m = 10    p(3)  p(2)  p(1)  p(0)  -inf  -inf
    m = 11    -inf  p(3)  p(2)  p(1)  p(0)  -inf
    m = 12    -inf  -inf  p(3)  p(2)  p(1)  p(0)

and its ``-inf`` are the mask as well. A strip is a program's own, is read right after it was written, and mostly stays
in the L2 cache in between.
"""

from __future__ import annotations

import triton
import triton.language as tl

from model_registry.attention.triton.tiles import cache_rows, load_rows, product, sequence_of, softmax_step


@triton.jit
def _write_strip(
    q_tile: tl.tensor,
    table: tl.tensor,
    line: tl.tensor,
    rows: tl.tensor,
    scale_log2: tl.tensor,
    R: tl.tensor,
    last: tl.tensor,
    HEAD_SIZE: tl.constexpr,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_T: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    """Fill the strip at ``line`` ``[M, 1]`` with the terms of the distances up to ``last``, the last query's position.

    Distance ``t`` of row ``i`` goes to column ``R - 1 + i - t``; what is left of a row's first and right of its last
    distance is set to minus infinity.
    """
    kind = line.dtype.element_ty
    EDGE: tl.constexpr = BLOCK_M if BLOCK_M > BLOCK_N else BLOCK_N
    edge = tl.arange(0, EDGE)
    never = tl.full([BLOCK_M, EDGE], float("-inf"), kind)
    tl.store(line + edge[None, :], never, mask=edge[None, :] < rows[:, None])
    tl.store(line + (R + edge)[None, :], never, mask=edge[None, :] >= rows[:, None])
    columns = tl.arange(0, BLOCK_T)
    skewed = line + rows[:, None]
    for t0 in tl.range(0, tl.minimum(R, last + 1), BLOCK_T, num_stages=STAGES):
        t = t0 + BLOCK_T - 1 - columns
        p = load_rows(table, t * HEAD_SIZE, t < R, 1, HEAD_SIZE, D, True)
        term = product(q_tile, tl.trans(p)) * scale_log2
        tl.store(skewed + (R - BLOCK_T - t0 + columns)[None, :], term.to(kind))


@triton.jit(do_not_specialize=["S", "T", "first_head", "stride_block_table"])
def near_kernel(
    q: tl.tensor,
    k_cache: tl.tensor,
    v_cache: tl.tensor,
    block_table: tl.tensor,
    query_start_loc: tl.tensor,
    seq_lens: tl.tensor,
    table: tl.tensor,
    out: tl.tensor,
    far_lse: tl.tensor,
    strips: tl.tensor,
    k_scale: tl.tensor,
    v_scale: tl.tensor,
    S: tl.tensor,
    T: tl.tensor,
    first_head: tl.tensor,
    scale_log2: tl.tensor,
    R: tl.tensor,
    width: tl.tensor,
    stride_q_row: tl.tensor,
    stride_q_head: tl.tensor,
    stride_q_dim: tl.tensor,
    stride_k_block: tl.tensor,
    stride_k_slot: tl.tensor,
    stride_k_head: tl.tensor,
    stride_k_dim: tl.tensor,
    stride_v_block: tl.tensor,
    stride_v_slot: tl.tensor,
    stride_v_head: tl.tensor,
    stride_v_dim: tl.tensor,
    stride_block_table: tl.tensor,
    stride_out_row: tl.tensor,
    stride_out_head: tl.tensor,
    stride_out_dim: tl.tensor,
    GROUP: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    D: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_T: tl.constexpr,
    STAGES: tl.constexpr,
    SCALED: tl.constexpr,
    SAME_ROWS: tl.constexpr,
    FAR: tl.constexpr,
) -> None:
    """``BLOCK_M`` queries of one sequence in one head against the last ``R`` keys that each of them sees.

    ``table`` ``[R, HEAD_SIZE]`` has a multiple of ``BLOCK_T`` rows. ``FAR`` says that ``out`` holds attention to the
    keys before those already, and ``far_lse`` ``[H, T]`` its natural log-sum-exp, infinite in rows without such keys;
    the softmax goes on from there. ``strips`` has ``BLOCK_M * width`` elements for each program, where ``width`` is a
    multiple of ``BLOCK_N`` of at least ``R + max(BLOCK_M, BLOCK_N)``. ``SAME_ROWS``: both caches have the same strides.

    Grid ``(T // BLOCK_M + S, heads)`` from ``first_head`` on: as in ``prefill_kernel``, the surplus and sequences with
    fewer than two queries return at once.
    """
    tile, nth = tl.program_id(0), tl.program_id(1).to(tl.int64)
    s = sequence_of(query_start_loc, tile, S, BLOCK_M)
    start = tl.load(query_start_loc + s)
    n_q = tl.load(query_start_loc + s + 1) - start
    first = (tile - start // BLOCK_M - s) * BLOCK_M
    if n_q < 2 or first >= n_q:
        return
    head = first_head + nth
    seq_len = tl.load(seq_lens + s)
    rows, columns, dims = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, D)
    kept = (first + rows < n_q)[:, None] & (dims < HEAD_SIZE)[None, :]
    row = (start + first + rows).to(tl.int64)
    pointers = q + row[:, None] * stride_q_row + head * stride_q_head + dims[None, :] * stride_q_dim
    q_tile = tl.load(pointers, mask=kept, other=0.0)
    base = seq_len - n_q + first - R + 1  # the key of the strip's first column
    last = tl.minimum(base + R - 1 + BLOCK_M - 1, seq_len - 1)

    line = strips + (nth * tl.num_programs(0) + tile) * BLOCK_M * width + (rows * width)[:, None]
    _write_strip(q_tile, table, line, rows, scale_log2, R, last, HEAD_SIZE, D, BLOCK_M, BLOCK_N, BLOCK_T, STAGES)
    tl.debug_barrier()  # the program's other threads read what this one wrote

    highest = tl.full([BLOCK_M], -1e30, tl.float32)  # finite: a tile may be masked in all of a row
    total = tl.zeros([BLOCK_M], tl.float32)
    output = tl.zeros([BLOCK_M, D], tl.float32)
    if FAR:
        lse = tl.load(far_lse + head * T + row, mask=first + rows < n_q, other=float("inf")) * 1.4426950408889634
        seen = tl.abs(lse) < float("inf")
        highest = tl.where(seen, lse, highest)
        total = tl.where(seen, 1.0, 0.0)
        places = out + row[:, None] * stride_out_row + head * stride_out_head + dims[None, :] * stride_out_dim
        output = tl.load(places, mask=kept & seen[:, None], other=0.0).to(tl.float32)
        if SCALED:
            output = output / tl.load(v_scale)
    factor = scale_log2
    if SCALED:
        factor = scale_log2 * tl.load(k_scale)

    k_head = k_cache + head // GROUP * stride_k_head
    v_head = v_cache + head // GROUP * stride_v_head
    blocks = block_table + s.to(tl.int64) * stride_block_table
    begin = tl.maximum(-base, 0) // BLOCK_N * BLOCK_N
    end = tl.where(seq_len > 0, last + 1 - base, 0)
    for c0 in tl.range(begin, end, BLOCK_N, num_stages=STAGES):
        n = base + c0 + columns
        # Keys that the mask leaves out are replaced by some that the sequence has: their values are finite.
        real = tl.minimum(tl.maximum(n, 0), seq_len - 1)
        k_rows, v_rows = cache_rows(
            blocks, real, n >= 0, stride_k_block, stride_k_slot, stride_v_block, stride_v_slot, BLOCK_SIZE, True
        )
        if SAME_ROWS:
            v_rows = k_rows
        k = load_rows(k_head, k_rows, n >= 0, stride_k_dim, HEAD_SIZE, D, True).to(q_tile.dtype)
        position = tl.load(line + (c0 + columns)[None, :])
        score = product(q_tile, tl.trans(k)) * factor + position.to(tl.float32)
        score = tl.where(n[None, :] >= 0, score, float("-inf"))
        v = load_rows(v_head, v_rows, n >= 0, stride_v_dim, HEAD_SIZE, D, True).to(q_tile.dtype)
        output, highest, total = softmax_step(score, v, output, highest, total)

    output = output / tl.where(total > 0, total, 1.0)[:, None]
    if SCALED:
        output = output * tl.load(v_scale)
    # Loaded anew, so that no row's place takes registers during the loop.
    row = (tl.load(query_start_loc + s, volatile=True) + first + rows).to(tl.int64)
    kept = (row < start + n_q)[:, None] & (dims < HEAD_SIZE)[None, :]
    places = out + row[:, None] * stride_out_row + head * stride_out_head + dims[None, :] * stride_out_dim
    tl.store(places, output.to(out.dtype.element_ty), mask=kept)
