"""The attention op on CPU: PyTorch's flash kernel over segments of keys, with the position term as its mask.

The position term reaches back ``R`` keys only, so a tile of queries splits the keys in two: a far part that is plain
attention, and a near part whose bias ``q . p(t)`` is a matrix product with the table's rows. Key ``n`` of query ``m``
needs column ``m - n`` of that product: with the columns reversed, a view whose rows each start one element earlier
hands the kernel its ``[queries, keys]`` bias without a copy. The parts are joined by their log-sum-exp.

Everything is computed in float32 (float64 for float64 inputs): without AMX the kernel is no faster in bfloat16.
Memory: a segment of keys and values and one tile's bias, whatever the context.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from model_registry.attention.partial_softmax import PartialSoftmax

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY_SEGMENT = 4096
"""Keys gathered from the cache at a time, rounded to whole blocks."""

QUERY_TILE = 128
"""Most queries that share one bias."""

BIAS_ELEMENTS = 2**23
"""Most elements of one tile's bias; with many heads or a long table the tile has fewer queries."""

SPLIT_QUERIES = 16
"""Tiles with fewer queries take a zero bias for far keys instead of a second kernel call."""

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


class Segment(NamedTuple):
    """Keys ``first`` to ``last`` of one sequence: ``k`` and ``v`` are ``[1, H_kv, last - first, d]``."""

    first: int
    last: int
    k: torch.Tensor
    v: torch.Tensor


@torch.no_grad()
def attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_table: torch.Tensor,
    query_start_loc: torch.Tensor,
    seq_lens: torch.Tensor,
    table: torch.Tensor,
    scale: float,
    out: torch.Tensor,
) -> None:
    """``wavelet_attention`` for CPU tensors; the arguments are its own."""
    compute = torch.float64 if q.dtype is torch.float64 else torch.float32
    starts, lengths = query_start_loc.tolist(), seq_lens.tolist()
    # Reversed, so that a bias row runs along the keys; rows beyond the longest sequence are never read.
    rows = table[: max(lengths, default=0)].to(compute).flip(0)
    for s, length in enumerate(lengths):
        queries = slice(starts[s], starts[s + 1])
        if length == 0:
            out[queries] = 0
        elif starts[s] < starts[s + 1]:
            q_s = q[queries].transpose(0, 1).to(compute, memory_format=torch.contiguous_format) * scale
            segments = _segments(k_cache, v_cache, block_table[s], length, compute)
            out[queries] = _sequence(q_s, segments, length, rows).transpose(0, 1).to(out.dtype)


def _segments(
    k_cache: torch.Tensor, v_cache: torch.Tensor, blocks: torch.Tensor, length: int, compute: torch.dtype
) -> Iterator[Segment]:
    block_size = k_cache.shape[1]
    step = max(1, KEY_SEGMENT // block_size) * block_size
    for first in range(0, length, step):
        last = min(first + step, length)
        ids = blocks[first // block_size : -(-last // block_size)]
        k, v = (_gather(cache, ids, last - first, compute) for cache in (k_cache, v_cache))
        yield Segment(first, last, k, v)


def _gather(cache: torch.Tensor, ids: torch.Tensor, length: int, compute: torch.dtype) -> torch.Tensor:
    """The first ``length`` slots of blocks ``ids`` as ``[1, H_kv, length, d]``, each head contiguous."""
    _, block_size, H_kv, d = cache.shape
    keys = torch.empty(H_kv, len(ids), block_size, d, dtype=cache.dtype)
    torch.index_select(cache, 0, ids, out=keys.permute(1, 2, 0, 3))
    return keys.view(1, H_kv, -1, d)[:, :, :length].to(compute)


def _sequence(q: torch.Tensor, segments: Iterator[Segment], length: int, rows: torch.Tensor) -> torch.Tensor:
    """Attention of the last ``n_q`` of ``length`` positions.

    Args:
        q: ``[H, n_q, d]``, scaled.
        segments: the sequence's keys, in order.
        length: the count of keys.
        rows: ``[R, d]``, the table reversed.

    Returns:
        ``[H, n_q, d]``.
    """
    (H, n_q, d), R = q.shape, rows.shape[0]
    m_0 = length - n_q
    result = PartialSoftmax(H, n_q, d, q.dtype)
    for segment in segments:
        first = max(0, segment.first - m_0)
        # The queries from here on are R or more past every key of the segment.
        far = min(n_q, max(first, segment.last - 1 + R - m_0))
        if far < n_q:
            result.add(far, n_q, *_plain(q[:, far:], segment.k, segment.v))
        tile = max(1, min(QUERY_TILE, BIAS_ELEMENTS // (H * min(R + QUERY_TILE, segment.last - segment.first))))
        for i in range(first, far, tile):
            _add_tile(result, q, segment, m_0, i, min(i + tile, far), rows)
    return result.output


def _add_tile(
    result: PartialSoftmax, q: torch.Tensor, segment: Segment, m_0: int, i: int, j: int, rows: torch.Tensor
) -> None:
    """Add a segment's keys to queries ``i`` to ``j``, of which some are near to some of its keys."""
    last = min(segment.last, m_0 + j) - segment.first
    near = min(max(m_0 + i - rows.shape[0] + 1 - segment.first, 0), last)
    if j - i < SPLIT_QUERIES:
        near = 0
    tile = q[:, i:j]
    if near:
        result.add(i, j, *_plain(tile, segment.k[:, :, :near], segment.v[:, :, :near]))
    if near < last:
        bias = _bias(tile, m_0 + i, segment.first + near, last - near, rows)
        result.add(i, j, *_biased(tile, segment.k[:, :, near:last], segment.v[:, :, near:last], bias))


def _bias(q: torch.Tensor, m: int, n: int, keys: int, rows: torch.Tensor) -> torch.Tensor:
    """``q . p(t)`` of the queries at ``m, m + 1, ...`` and ``keys`` keys at ``n, n + 1, ...``; ``-inf`` for t < 0.

    Args:
        q: ``[H, n_q, d]``, scaled.
        m: the position of the first query.
        n: the position of the first key.
        keys: the count of keys.
        rows: ``[R, d]``, the table reversed.

    Returns:
        ``[1, H, n_q, keys]``, a view with overlapping rows.
    """
    (H, n_q, d), R = q.shape, rows.shape[0]
    # Column u stands for the distance t = t_max - u.
    t_max = m + n_q - 1 - n
    width = keys + n_q - 1
    t_high, t_low = min(t_max, R - 1), max(t_max - width + 1, 0)
    begin, end = t_max - t_high, t_max - t_low + 1
    buffer = torch.empty(H * n_q, width, dtype=q.dtype)
    buffer[:, :begin] = 0
    buffer[:, end:] = -torch.inf
    torch.mm(q.reshape(-1, d), rows[R - 1 - t_high : R - t_low].t(), out=buffer[:, begin:end])
    return buffer.as_strided((1, H, n_q, keys), (0, n_q * width, width - 1, 1), n_q - 1)


def _plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention ``[H, n_q, d]`` and log-sum-exp ``[H, n_q]`` over all the keys.

    The queries of the heads that share a KV head go as one: each key is read once for all of them.
    """
    (H, n_q, d), H_kv = q.shape, k.shape[1]
    output, lse = _flash(q.reshape(1, H_kv, -1, d), k, v, scale=1.0)
    return output.reshape(H, n_q, d), lse.reshape(H, n_q)


def _biased(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Like ``_plain``, with ``[1, H, n_q, keys]`` added to the scores."""
    (H, n_q, d), H_kv = q.shape, k.shape[1]
    q = q.unsqueeze(0)
    if n_q == 1:
        q, bias = q.view(1, H_kv, -1, d), bias.view(1, H_kv, H // H_kv, -1)
    output, lse = _flash(q, k, v, attn_mask=bias, scale=1.0)
    return output.reshape(H, n_q, d), lse.reshape(H, n_q)
