"""Triton kernel for sequences with two queries or more: a whole prompt or a chunk of one."""

from __future__ import annotations

import triton
import triton.language as tl

from model_registry.attention.triton.tiles import (
    cache_rows,
    load_rows,
    near_bonus,
    position_scores,
    product,
    sequence_of,
    softmax_end,
    softmax_start,
    softmax_step,
)


@triton.jit
def _skew(rows: tl.tensor, columns: tl.tensor, held: tl.tuple) -> tl.tensor:
    """``[M, N]``: column ``j`` of row ``i`` is the position score of ``t0 + i - j``.

    ``held[b]`` ``[M, N]`` has in column ``c`` the score of ``t0 + b N - c``. Of the columns ``c`` of all ``held``, row
    ``i`` takes each once, from the one that has a distance the row needs, and moves them ``i`` places to the right.
    docs/gpu-attention.md has a picture. With ``N = 4``:

        row 0:   t0     t0-1   t0-2   t0-3      all from held[0], as they stand
        row 1:   t0+1   t0     t0-1   t0-2      column 3 from held[1], 0 to 2 from held[0], then one to the right
    """
    N: tl.constexpr = held[0].shape[1]
    shifted = rows[:, None] + columns[None, :]
    needed = held[0]
    for b in tl.static_range(1, len(held)):
        needed = tl.where(shifted < b * N, needed, held[b])
    return tl.gather(needed, (columns[None, :] - rows[:, None]) & (N - 1), 1)


@triton.jit(do_not_specialize=["S", "R", "near_keys", "stride_block_table"])
def prefill_kernel(
    q: tl.tensor,
    k_cache: tl.tensor,
    v_cache: tl.tensor,
    block_table: tl.tensor,
    query_start_loc: tl.tensor,
    seq_lens: tl.tensor,
    table: tl.tensor,
    out: tl.tensor,
    k_scale: tl.tensor,
    v_scale: tl.tensor,
    S: tl.tensor,
    scale_log2: tl.tensor,
    R: tl.tensor,
    bias_slope: tl.tensor,
    bias_length: tl.tensor,
    near_keys: tl.tensor,
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
    NEAR_N: tl.constexpr,
    STAGES: tl.constexpr,
    SCALED: tl.constexpr,
    BIASED: tl.constexpr,
    POSITIONS: tl.constexpr,
) -> None:
    """``BLOCK_M`` queries of one sequence in one head against all keys they see, ``BLOCK_N`` or near the
    queries ``NEAR_N`` at a time; the first is a multiple of the second.

    Grid ``(T // BLOCK_M + S, H)``: enough tiles for any split of ``T`` rows over ``S`` sequences, so that it depends
    on shapes alone; the surplus returns at once, as do sequences with fewer than two queries.
    """
    # Later tiles see more keys: they start first.
    tile, head = tl.num_programs(0) - 1 - tl.program_id(0), tl.program_id(1).to(tl.int64)
    s = sequence_of(query_start_loc, tile, S, BLOCK_M)
    start = tl.load(query_start_loc + s)
    n_q = tl.load(query_start_loc + s + 1) - start
    first = (tile - start // BLOCK_M - s) * BLOCK_M
    if n_q < 2 or first >= n_q:
        return
    seq_len = tl.load(seq_lens + s)
    rows, columns, dims = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, D)
    m0 = seq_len - n_q + first
    m = m0 + rows
    kept = (first + rows < n_q)[:, None] & (dims < HEAD_SIZE)[None, :]
    row = (start + first + rows).to(tl.int64)[:, None]
    q_tile = tl.load(q + row * stride_q_row + head * stride_q_head + dims[None, :] * stride_q_dim, mask=kept, other=0.0)

    output, highest, total = softmax_start(BLOCK_M, D)
    key_factor = tl.load(k_scale) if SCALED else 1.0
    kv_head = head // GROUP
    k_head, v_head = k_cache + kv_head * stride_k_head, v_cache + kv_head * stride_v_head
    blocks = block_table + s.to(tl.int64) * stride_block_table
    end = tl.minimum(m0 + BLOCK_M, seq_len)
    # Whole tiles whose keys are visible to the first query and R or more away from it.
    near = tl.maximum(m0 + 1 - R, 0) // BLOCK_N * BLOCK_N

    # Keep the `if` around both loops and the `+ 0.0` at the end of the near one. Without them ptxas finds a path on
    # which the accumulator of a wgmma may be written while the wgmma is under way. It then runs every wgmma of the
    # kernel by itself, which benchmarks/attention/compile_report.py counts as "serialised".
    if near > 0:
        for n0 in tl.range(0, near, BLOCK_N, num_stages=STAGES):
            n = n0 + columns
            k_rows, v_rows = cache_rows(
                blocks, n, n < seq_len, stride_k_block, stride_k_slot, stride_v_block, stride_v_slot, BLOCK_SIZE, True
            )
            k = load_rows(k_head, k_rows, n < seq_len, stride_k_dim, HEAD_SIZE, D, True).to(q_tile.dtype)
            score = product(q_tile, tl.trans(k)) * key_factor
            v = load_rows(v_head, v_rows, n < seq_len, stride_v_dim, HEAD_SIZE, D, True).to(q_tile.dtype)
            output, highest, total = softmax_step(score * scale_log2, v, output, highest, total)

    columns = tl.arange(0, NEAR_N)
    if POSITIONS:
        TURNS: tl.constexpr = (BLOCK_M + NEAR_N - 1) // NEAR_N
        held = ()
        for _ in tl.static_range(TURNS):
            held = held + (tl.zeros([BLOCK_M, NEAR_N], tl.float32),)  # type: ignore[assignment]  # noqa: RUF005
        # What the tiles before the first near one would have left.
        for n0 in tl.range(near - TURNS * NEAR_N, near, NEAR_N, num_stages=1):
            scores = position_scores(q_tile, table, m0 - n0 - columns, R, HEAD_SIZE, D)
            held = (scores,) + held[:-1]  # type: ignore[assignment]  # noqa: RUF005
    if near < end:
        for n0 in tl.range(near, end, NEAR_N, num_stages=STAGES):
            n = n0 + columns
            used = n < seq_len
            k_rows, v_rows = cache_rows(
                blocks, n, used, stride_k_block, stride_k_slot, stride_v_block, stride_v_slot, BLOCK_SIZE, False
            )
            k = load_rows(k_head, k_rows, used, stride_k_dim, HEAD_SIZE, D, False).to(q_tile.dtype)
            if POSITIONS:
                scores = position_scores(q_tile, table, m0 - n0 - columns, R, HEAD_SIZE, D)
                held = (scores,) + held  # type: ignore[assignment]  # noqa: RUF005
                position = _skew(rows, columns, held)
                # Not held[:-1]: the compiler pipelines no loop that hands a value on unchanged, and a sum is a new one.
                older = ()
                for b in tl.static_range(len(held) - 1):
                    older = older + (held[b] + 0.0,)  # type: ignore[assignment]  # noqa: RUF005
                held = older
            score = product(q_tile, tl.trans(k)) * key_factor
            if POSITIONS:
                score += position
            score = score * scale_log2
            if BIASED:
                bonus = near_bonus(m, bias_slope, bias_length)[:, None]
                score += tl.where(m[:, None] - n[None, :] < near_keys, bonus, 0.0)
            score = tl.where(n[None, :] <= m[:, None], score, float("-inf"))
            v = load_rows(v_head, v_rows, used, stride_v_dim, HEAD_SIZE, D, False).to(q_tile.dtype)
            output, highest, total = softmax_step(score, v, output, highest, total)
            if POSITIONS:
                output = output + 0.0  # waits for the product

    output = softmax_end(output, total, v_scale, SCALED)
    pointers = out + row * stride_out_row + head * stride_out_head + dims[None, :] * stride_out_dim
    tl.store(pointers, output.to(out.dtype.element_ty), mask=kept)
