"""Triton kernel for the near keys of prompts: ``m - R < n <= m``, after another kernel attended to the keys before.

``near_table`` says what stands for the table, and ``key_rows`` where the keys are. A program has a tile of queries of
one head or a few, and goes over the keys from the farthest on. Those with waves cost two small products more than plain
attention does, all in registers.

The keys nearest to the queries get a term each. The products ``q . p(t)`` come in columns of one distance, though, and
a key is one distance further from each query than from the query above. So a program first writes them to a strip of
memory of its own, each row one place further to the right than the row above, and reads them back in line with the
keys; mostly the L2 cache still has them. For 3 queries at ``m = 10, 11, 12`` and 4 distances the strip holds

    key          7     8     9    10    11    12
    m = 10    p(3)  p(2)  p(1)  p(0)  -inf  -inf
    m = 11          p(3)  p(2)  p(1)  p(0)  -inf
    m = 12                p(3)  p(2)  p(1)  p(0)

and its ``-inf`` are the causal mask as well.

The queries of a tile are every ``STEP``-th of as many positions as it has rows, in ``HEADS = STEP`` heads of one group:
then a row is written ``STEP`` places further to the right than the row above, and 4 of float16 are a word of 8 bytes.
"""

from __future__ import annotations

import triton
import triton.language as tl

from model_registry.attention.triton.near_table import FREQUENCIES
from model_registry.attention.triton.tiles import (
    INTERPRETED,
    load_rows,
    near_bonus,
    product,
    sequence_of,
)

WAVES = tl.constexpr(4 * FREQUENCIES)


@triton.jit
def _product_onto(a: tl.tensor, b: tl.tensor, sum: tl.tensor) -> tl.tensor:  # noqa: A002
    """``product(a, b) + sum``, in the same accumulators."""
    if INTERPRETED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, sum, input_precision="ieee")


@triton.jit
def _softmax_step(
    score: tl.tensor, factor: tl.tensor, v: tl.tensor, output: tl.tensor, highest: tl.tensor, total: tl.tensor
) -> tl.tensor:
    """``softmax_step`` for scores that ``factor`` (positive) brings to units of log 2: one operation a score less."""
    new = tl.maximum(highest, tl.max(score, 1) * factor)
    weight = tl.exp2(score * factor - new[:, None])
    rescale = tl.exp2(highest - new)
    total = total * rescale + tl.sum(weight, 1)
    return _product_onto(weight.to(v.dtype), v, output * rescale[:, None]), new, total


@triton.jit
def _keys_and_values(
    keys: tl.tensor,
    values: tl.tensor,
    entries: tl.tensor,
    k_head: tl.tensor,
    v_head: tl.tensor,
    stride_k_dim: tl.tensor,
    stride_v_dim: tl.tensor,
    UNIT: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    D: tl.constexpr,
    SAME_ROWS: tl.constexpr,
) -> tl.tuple:
    """``[N, D]`` each, of the ``entries`` ``[N]`` of a ``KeyRows``."""
    rows = tl.load(keys + entries).to(tl.int64) * UNIT
    k = load_rows(k_head, rows, entries >= 0, stride_k_dim, HEAD_SIZE, D, True)
    if not SAME_ROWS:
        rows = tl.load(values + entries).to(tl.int64) * UNIT
    return k, load_rows(v_head, rows, entries >= 0, stride_v_dim, HEAD_SIZE, D, True)


@triton.jit(do_not_specialize=["S", "T", "first_head", "key_tiles"])
def near_kernel(
    q: tl.tensor,
    k_cache: tl.tensor,
    v_cache: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    query_start_loc: tl.tensor,
    seq_lens: tl.tensor,
    exact: tl.tensor,
    waves: tl.tensor,
    turn: tl.tensor,
    curves: tl.tensor,
    out: tl.tensor,
    far_lse: tl.tensor,
    strips: tl.tensor,
    k_scale: tl.tensor,
    v_scale: tl.tensor,
    S: tl.tensor,
    T: tl.tensor,
    first_head: tl.tensor,
    key_tiles: tl.tensor,
    scale_log2: tl.tensor,
    bias_slope: tl.tensor,
    bias_length: tl.tensor,
    R: tl.tensor,
    exact_keys: tl.tensor,
    exact_rows: tl.tensor,
    pitch: tl.tensor,
    stride_q_row: tl.tensor,
    stride_q_head: tl.tensor,
    stride_q_dim: tl.tensor,
    stride_k_head: tl.tensor,
    stride_k_dim: tl.tensor,
    stride_v_head: tl.tensor,
    stride_v_dim: tl.tensor,
    stride_out_row: tl.tensor,
    stride_out_head: tl.tensor,
    stride_out_dim: tl.tensor,
    GROUP: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    D: tl.constexpr,
    ENTRIES: tl.constexpr,
    UNIT: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_T: tl.constexpr,
    STAGES: tl.constexpr,
    T_STAGES: tl.constexpr,
    SCALED: tl.constexpr,
    BIASED: tl.constexpr,
    SAME_ROWS: tl.constexpr,
    FAR: tl.constexpr,
) -> None:
    """``BLOCK_M`` queries of one sequence, ``BLOCK_M // HEADS`` in each of ``HEADS`` heads, against the last ``R`` keys
    that each of them sees.

    ``exact`` to ``curves``, and the sizes ``R`` to ``exact_rows``, are those of a ``NearTable``; ``keys``, ``values``,
    ``key_tiles`` and ``UNIT`` those of a ``KeyRows``, and ``SAME_ROWS`` says that the first two are one. ``FAR`` says
    that ``out`` holds attention to the keys before those already, and ``far_lse`` ``[H, T]`` its natural log-sum-exp,
    infinite in rows without such keys; the softmax goes on from there. ``strips`` has ``BLOCK_M * pitch`` elements for
    each program; ``pitch`` is at least ``exact_rows + max(BLOCK_M, BLOCK_N)``.

    Grid ``((T // BLOCK_M + S) * HEADS, groups of HEADS heads)`` from ``first_head`` on: as in ``prefill_kernel``, the
    surplus and sequences with fewer than two queries return at once.
    """
    STEP: tl.constexpr = HEADS
    # Later tiles see more keys: they start first.
    program, nth = tl.num_programs(0) - 1 - tl.program_id(0), tl.program_id(1).to(tl.int64)
    tile = program // STEP
    s = sequence_of(query_start_loc, tile, S, BLOCK_M)
    start = tl.load(query_start_loc + s)
    n_q = tl.load(query_start_loc + s + 1) - start
    first = (tile - start // BLOCK_M - s) * BLOCK_M + program % STEP
    if n_q < 2 or first >= n_q:
        return
    seq_len = tl.load(seq_lens + s)
    rows, columns, dims = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, D)
    after = rows % (BLOCK_M // HEADS) * STEP  # the first query
    head = first_head + nth * HEADS + rows // (BLOCK_M // HEADS)
    kept = (first + after < n_q)[:, None] & (dims < HEAD_SIZE)[None, :]
    row = (start + first + after).to(tl.int64)
    pointers = q + row[:, None] * stride_q_row + head[:, None] * stride_q_head + dims[None, :] * stride_q_dim
    q_tile = tl.load(pointers, mask=kept, other=0.0)
    # Column c stands for the key base + c. Query i of the tile sees the columns after[i] to R - 1 + after[i].
    base = seq_len - n_q + first - R + 1
    last = tl.minimum(base + R - 1 + BLOCK_M - STEP, seq_len - 1)
    begin = tl.maximum(-base, 0) // BLOCK_N * BLOCK_N
    end = tl.where(seq_len > 0, last + 1 - base, 0)
    with_waves = R - exact_keys
    factor, unscale = scale_log2, 1.0
    if SCALED:
        key_factor = tl.load(k_scale)
        factor, unscale = scale_log2 * key_factor, 1.0 / key_factor

    line = strips + (nth * tl.num_programs(0) + program) * BLOCK_M * pitch + (rows * pitch)[:, None]
    kind = strips.dtype.element_ty
    EDGE: tl.constexpr = BLOCK_M if BLOCK_M > BLOCK_N else BLOCK_N
    edge = tl.arange(0, EDGE)[None, :]
    tl.store(line + exact_rows + edge, tl.full([BLOCK_M, EDGE], float("-inf"), kind), mask=edge >= after[:, None])
    wide = tl.arange(0, BLOCK_T)
    skewed = line + after[:, None]
    for t0 in tl.range(0, tl.minimum(exact_rows, last + 1), BLOCK_T, num_stages=T_STAGES):
        p = load_rows(exact, (t0 + BLOCK_T - 1 - wide) * HEAD_SIZE, wide >= 0, 1, HEAD_SIZE, D, True)
        term = product(q_tile, tl.trans(p)) * unscale
        tl.store(skewed + (exact_rows - BLOCK_T - t0 + wide)[None, :], term.to(kind))
    tl.debug_barrier()  # the program's other threads read what this one wrote

    highest = tl.full([BLOCK_M], -1e30, tl.float32)  # finite: a tile may be masked in all of a row
    total = tl.zeros([BLOCK_M], tl.float32)
    output = tl.zeros([BLOCK_M, D], tl.float32)
    if FAR:
        lse = tl.load(far_lse + head * T + row, mask=first + after < n_q, other=float("inf")) * 1.4426950408889634
        seen = tl.abs(lse) < float("inf")
        lse = tl.where(seen, lse, highest)
        if BIASED:  # all keys here are near: instead of their bonus, the far ones get a malus
            lse -= near_bonus(seq_len - n_q + first + after, bias_slope, bias_length)
        highest = lse
        total = tl.where(seen, 1.0, 0.0)
        places = out + row[:, None] * stride_out_row + head[:, None] * stride_out_head + dims[None, :] * stride_out_dim
        output = tl.load(places, mask=kept & seen[:, None], other=0.0).to(tl.float32)
        if SCALED:
            output = output / tl.load(v_scale)

    kv_head = (first_head + nth * HEADS) // GROUP
    k_head, v_head = k_cache + kv_head * stride_k_head, v_cache + kv_head * stride_v_head
    first_entry = (start // ENTRIES + s * key_tiles) * ENTRIES + first + 1
    from_column = tl.maximum(after, -base)[:, None]
    # Guarded, as the loops of prefill_kernel: see there.
    if begin < with_waves:
        wave = tl.arange(0, WAVES)
        curve = tl.load(curves + wave[:, None] * BLOCK_N + columns[None, :])
        turns = (rows * WAVES)[:, None] + wave[None, :]
        turned = tl.load(turn + turns) * unscale
        for c0 in tl.range(begin, tl.minimum(with_waves, end), BLOCK_N, num_stages=STAGES):
            k, v = _keys_and_values(
                keys,
                values,
                first_entry + c0 + columns,
                k_head,
                v_head,
                stride_k_dim,
                stride_v_dim,
                UNIT,
                HEAD_SIZE,
                D,
                SAME_ROWS,
            )
            w = load_rows(waves, (wave + c0 // BLOCK_N * WAVES) * HEAD_SIZE, wave >= 0, 1, HEAD_SIZE, D, True)
            u = product(q_tile, tl.trans(w)) * turned
            score = _product_onto(u.to(kind), curve, product(q_tile, tl.trans(k.to(q_tile.dtype))))
            score = tl.where(columns[None, :] >= from_column - c0, score, float("-inf"))
            output, highest, total = _softmax_step(score, factor, v.to(q_tile.dtype), output, highest, total)
    begin = tl.maximum(begin, with_waves)
    if begin < end:
        for c0 in tl.range(begin, end, BLOCK_N, num_stages=STAGES):
            k, v = _keys_and_values(
                keys,
                values,
                first_entry + c0 + columns,
                k_head,
                v_head,
                stride_k_dim,
                stride_v_dim,
                UNIT,
                HEAD_SIZE,
                D,
                SAME_ROWS,
            )
            position = tl.load(line + (exact_rows - R + c0 + columns)[None, :])
            score = product(q_tile, tl.trans(k.to(q_tile.dtype))) + position.to(tl.float32)
            score = tl.where(columns[None, :] >= from_column - c0, score, float("-inf"))
            output, highest, total = _softmax_step(score, factor, v.to(q_tile.dtype), output, highest, total)

    output = output * (1.0 / tl.where(total > 0, total, 1.0))[:, None]
    if SCALED:
        output = output * tl.load(v_scale)
    # Loaded anew, so that no row's place takes registers during the loops.
    row = (tl.load(query_start_loc + s, volatile=True) + first + after).to(tl.int64)
    kept = (row < start + n_q)[:, None] & (dims < HEAD_SIZE)[None, :]
    places = out + row[:, None] * stride_out_row + head[:, None] * stride_out_head + dims[None, :] * stride_out_dim
    tl.store(places, output.to(out.dtype.element_ty), mask=kept)
