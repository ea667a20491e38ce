"""Triton kernels for sequences with one query: the keys of a sequence in equal parts, joined by their log-sum-exp."""

from __future__ import annotations

import triton
import triton.language as tl

from model_registry.attention.triton.tiles import (
    cache_rows,
    load_rows,
    near_bonus,
    position_scores,
    product,
    softmax_end,
    softmax_start,
    softmax_step,
)


@triton.jit
def _part(
    q: tl.tensor,
    k_cache: tl.tensor,
    v_cache: tl.tensor,
    block_table: tl.tensor,
    table: tl.tensor,
    k_scale: tl.tensor,
    scale_log2: tl.tensor,
    begin: tl.tensor,
    end: tl.tensor,
    seq_len: tl.tensor,
    R: tl.tensor,
    bias_slope: tl.tensor,
    bias_length: tl.tensor,
    near_keys: tl.tensor,
    stride_k_block: tl.tensor,
    stride_k_slot: tl.tensor,
    stride_k_dim: tl.tensor,
    stride_v_block: tl.tensor,
    stride_v_slot: tl.tensor,
    stride_v_dim: tl.tensor,
    output: tl.tensor,
    highest: tl.tensor,
    total: tl.tensor,
    NEAR: tl.constexpr,
    BIASED: tl.constexpr,
    POSITIONS: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    D: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    STAGES: tl.constexpr,
) -> tl.tensor:
    """Keys ``begin`` to ``end`` of one sequence and KV head; only ``NEAR`` keys read the table and need masks."""
    if NEAR and BIASED:
        bonus = near_bonus(seq_len - 1, bias_slope, bias_length)
    for n0 in tl.range(begin, end, BLOCK_N, num_stages=STAGES):
        n = n0 + tl.arange(0, BLOCK_N)
        used = n < seq_len
        k_rows, v_rows = cache_rows(
            block_table,
            n,
            used,
            stride_k_block,
            stride_k_slot,
            stride_v_block,
            stride_v_slot,
            BLOCK_SIZE,
            not NEAR,
        )
        k = load_rows(k_cache, k_rows, used, stride_k_dim, HEAD_SIZE, D, not NEAR).to(q.dtype)
        v = load_rows(v_cache, v_rows, used, stride_v_dim, HEAD_SIZE, D, not NEAR).to(q.dtype)
        score = product(q, tl.trans(k)) * k_scale
        if NEAR and POSITIONS:
            score += position_scores(q, table, seq_len - 1 - n, R, HEAD_SIZE, D)
        score = score * scale_log2
        if NEAR:
            if BIASED:
                score = tl.where((seq_len - 1 - n < near_keys)[None, :], score + bonus, score)
            score = tl.where(used[None, :], score, float("-inf"))
        output, highest, total = softmax_step(score, v, output, highest, total)
    return output, highest, total


@triton.jit(do_not_specialize=["R", "near_keys", "parts", "stride_block_table"])
def decode_kernel(
    q: tl.tensor,
    k_cache: tl.tensor,
    v_cache: tl.tensor,
    block_table: tl.tensor,
    query_start_loc: tl.tensor,
    seq_lens: tl.tensor,
    table: tl.tensor,
    out: tl.tensor,
    part_out: tl.tensor,
    part_lse: tl.tensor,
    k_scale: tl.tensor,
    v_scale: tl.tensor,
    scale_log2: tl.tensor,
    R: tl.tensor,
    bias_slope: tl.tensor,
    bias_length: tl.tensor,
    near_keys: tl.tensor,
    parts: tl.tensor,
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
    STAGES: tl.constexpr,
    SPLIT: tl.constexpr,
    SCALED: tl.constexpr,
    BIASED: tl.constexpr,
    POSITIONS: tl.constexpr,
) -> None:
    """One part of one sequence's keys for the ``GROUP`` heads of one KV head, which are the rows of the query tile.

    Grid ``(S, H_kv, parts)``. Writes ``out`` unless ``SPLIT``, else ``part_out`` ``[S, H, parts, HEAD_SIZE]`` and
    ``part_lse`` ``[S, H, parts]``, both float32, the log-sum-exp in units of log 2. A part without keys has a
    log-sum-exp of minus infinity and no output. Sequences whose count of queries is not 1 are left alone.
    """
    s, kv_head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    row = tl.load(query_start_loc + s).to(tl.int64)
    if tl.load(query_start_loc + s + 1) != row + 1:
        return
    seq_len = tl.load(seq_lens + s)
    heads, dims = tl.arange(0, BLOCK_M), tl.arange(0, D)
    head = (kv_head * GROUP + heads).to(tl.int64)
    kept = (heads < GROUP)[:, None] & (dims < HEAD_SIZE)[None, :]
    pointers = q + row * stride_q_row + head[:, None] * stride_q_head + dims[None, :] * stride_q_dim
    q_tile = tl.load(pointers, mask=kept, other=0.0)

    keys = tl.cdiv(tl.cdiv(seq_len, BLOCK_N), parts) * BLOCK_N
    begin = part * keys
    end = tl.minimum(begin + keys, seq_len)
    # Whole tiles whose keys are all R or more away; the last key is always near, so no far tile is ragged.
    near = tl.maximum(begin, tl.maximum(seq_len - tl.maximum(R, 1), 0) // BLOCK_N * BLOCK_N)

    output, highest, total = softmax_start(BLOCK_M, D)
    key_factor = tl.load(k_scale) if SCALED else 1.0
    k_head = k_cache + kv_head.to(tl.int64) * stride_k_head
    v_head = v_cache + kv_head.to(tl.int64) * stride_v_head
    blocks = block_table + s.to(tl.int64) * stride_block_table
    for NEAR in tl.static_range(2):
        output, highest, total = _part(
            q_tile,
            k_head,
            v_head,
            blocks,
            table,
            key_factor,
            scale_log2,
            near if NEAR else begin,
            end if NEAR else tl.minimum(near, end),
            seq_len,
            R,
            bias_slope,
            bias_length,
            near_keys,
            stride_k_block,
            stride_k_slot,
            stride_k_dim,
            stride_v_block,
            stride_v_slot,
            stride_v_dim,
            output,
            highest,
            total,
            NEAR,
            BIASED,
            POSITIONS,
            HEAD_SIZE,
            D,
            BLOCK_SIZE,
            BLOCK_N,
            STAGES,
        )

    output = softmax_end(output, total, v_scale, SCALED)
    if not SPLIT:
        pointers = out + row * stride_out_row + head[:, None] * stride_out_head + dims[None, :] * stride_out_dim
        tl.store(pointers, output.to(out.dtype.element_ty), mask=kept)
    else:
        # All KV heads are in the grid, so its second size gives H.
        index = (s.to(tl.int64) * tl.num_programs(1) * GROUP + head) * parts + part
        tl.store(part_lse + index, highest + tl.log2(tl.where(total > 0, total, 1.0)), mask=heads < GROUP)
        if end > begin:
            tl.store(part_out + index[:, None] * HEAD_SIZE + dims[None, :], output, mask=kept)


@triton.jit(do_not_specialize=["parts"])
def merge_kernel(
    query_start_loc: tl.tensor,
    out: tl.tensor,
    part_out: tl.tensor,
    part_lse: tl.tensor,
    parts: tl.tensor,
    stride_out_row: tl.tensor,
    stride_out_head: tl.tensor,
    stride_out_dim: tl.tensor,
    HEAD_SIZE: tl.constexpr,
    D: tl.constexpr,
    MOST_PARTS: tl.constexpr,
) -> None:
    """Join the parts of one sequence and head: ``out = sum_p 2^(l_p - l) o_p`` with ``2^l = sum_p 2^l_p``.

    Grid ``(S, H)``; a sequence without keys gets zeros.
    """
    s, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    row = tl.load(query_start_loc + s).to(tl.int64)
    if tl.load(query_start_loc + s + 1) != row + 1:
        return
    part, dims = tl.arange(0, MOST_PARTS), tl.arange(0, D)
    index = (s.to(tl.int64) * tl.num_programs(1) + head) * parts + part
    lse = tl.load(part_lse + index, mask=part < parts, other=float("-inf"))
    highest = tl.max(lse, 0)
    weight = tl.exp2(lse - tl.where(highest == float("-inf"), 0.0, highest))
    kept = (lse > float("-inf"))[:, None] & (dims < HEAD_SIZE)[None, :]
    output = tl.load(part_out + index[:, None] * HEAD_SIZE + dims[None, :], mask=kept, other=0.0)
    total = tl.sum(weight, 0)
    joined = tl.sum(output * weight[:, None], 0) / tl.where(total > 0, total, 1.0)
    pointers = out + row * stride_out_row + head * stride_out_head + dims * stride_out_dim
    tl.store(pointers, joined.to(out.dtype.element_ty), mask=dims < HEAD_SIZE)
