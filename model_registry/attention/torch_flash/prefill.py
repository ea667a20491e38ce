"""Several queries of one sequence on CPU: far keys plain, near keys with the position term as the kernel's mask.

The position term reaches back ``R`` keys only, so a tile of queries splits the keys in two: a far part that is plain
attention, and a near part whose bias ``q . p(t)`` is a matrix product with the table's rows. Key ``n`` of query ``m``
needs column ``m - n`` of that product: with the columns reversed, a view whose rows each start one element earlier
hands the kernel its ``[queries, keys]`` bias without a copy. The parts are joined by their log-sum-exp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from model_registry.attention.torch_flash.kernel import BlockReader, flash
from model_registry.attention.torch_flash.partial_softmax import PartialSoftmax

if TYPE_CHECKING:
    from model_registry.attention.near_bias import NearBias

KEY_SEGMENT = 4096
"""Keys gathered from the cache at a time, rounded to whole blocks."""

QUERY_TILE = 128
"""Most queries that share one bias."""

BIAS_ELEMENTS = 2**23
"""Most elements of one tile's bias; with many heads or a long table the tile has fewer queries."""


class Segment(NamedTuple):
    """Keys ``first`` to ``last`` of one sequence: ``k`` and ``v`` are ``[H_kv, last - first, d]``."""

    first: int
    last: int
    k: torch.Tensor
    v: torch.Tensor


def prefill(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    blocks: torch.Tensor,
    length: int,
    rows: torch.Tensor,
    near_bias: NearBias | None = None,
) -> torch.Tensor:
    """Attention of the last ``n_q`` of a sequence's ``length`` positions.

    Args:
        q: ``[n_q, H, d]``, scaled, in the type to compute in.
        k_cache: ``[B, block, H_kv, d]``.
        v_cache: ``[B, block, H_kv, d]``.
        blocks: ``[max_blocks]``, the sequence's row of the block table.
        length: the count of keys.
        rows: ``[R, d]``, the table reversed.
        near_bias: of the batch.

    Returns:
        ``[n_q, H, d]``.
    """
    q = q.transpose(0, 1).contiguous()
    (H, n_q, d), R, block_size = q.shape, rows.shape[0], k_cache.shape[1]
    m_0 = length - n_q
    result = PartialSoftmax(H, n_q, d, q.dtype)
    step = max(1, KEY_SEGMENT // block_size) * block_size
    reader = BlockReader(k_cache, v_cache, min(step, -(-length // block_size) * block_size), q.dtype)
    for n in range(0, length, step):
        last = min(n + step, length)
        ids = blocks[n // block_size : -(-last // block_size)]
        k, v = (x[:, : last - n] for x in reader.read(ids))
        # Queries before `first` see no key of the segment; those from `far` on are R or more past all of them.
        first = max(0, n - m_0)
        far = min(n_q, max(first, last - 1 + R - m_0))
        if far < n_q:
            result.add(far, n_q, *_plain(q[:, far:], k, v))
        tile = max(1, min(QUERY_TILE, BIAS_ELEMENTS // (H * min(R + QUERY_TILE, last - n))))
        for i in range(first, far, tile):
            _add_tile(result, q, Segment(n, last, k, v), m_0, i, min(i + tile, far), rows, near_bias)
    return result.output.transpose(0, 1)


def _add_tile(
    result: PartialSoftmax,
    q: torch.Tensor,
    segment: Segment,
    m_0: int,
    i: int,
    j: int,
    rows: torch.Tensor,
    near_bias: NearBias | None,
) -> None:
    """Add a segment's keys to queries ``i`` to ``j``, the first of which is near to some of them."""
    last = min(segment.last, m_0 + j) - segment.first
    near = max(m_0 + i - rows.shape[0] + 1 - segment.first, 0)
    assert near < last
    tile, k, v = q[:, i:j], segment.k[:, :last], segment.v[:, :last]
    if near:
        result.add(i, j, *_plain(tile, k[:, :near], v[:, :near]))
    bias = _bias(tile, m_0 + i, segment.first + near, last - near, rows, near_bias)
    output, lse = flash(tile[None], k[None, :, near:], v[None, :, near:], bias)
    result.add(i, j, output[0], lse[0])


def _plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention ``[H, n_q, d]`` and log-sum-exp ``[H, n_q]`` of all the queries over all the keys, without bias.

    The queries of the heads that share a KV head go as one: each key is read once for all of them.
    """
    (H, n_q, d), H_kv = q.shape, k.shape[0]
    output, lse = flash(q.reshape(1, H_kv, -1, d), k[None], v[None])
    return output.reshape(H, n_q, d), lse.reshape(H, n_q)


def _bias(q: torch.Tensor, m: int, n: int, keys: int, rows: torch.Tensor, near_bias: NearBias | None) -> torch.Tensor:
    """``q . p(t)`` of the queries at ``m, m + 1, ...`` and ``keys`` keys at ``n, n + 1, ...``, and the bonus of those
    that are near; ``-inf`` for t < 0.

    Args:
        q: ``[H, n_q, d]``, scaled.
        m: the position of the first query.
        n: the position of the first key.
        keys: the count of keys.
        rows: ``[R, d]``, the table reversed.
        near_bias: of the batch.

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
    if near_bias is not None:
        bonus = near_bias.of(torch.arange(m + 1, m + n_q + 1, dtype=q.dtype))
        buffer[:, max(begin, t_max - near_bias.keys + 1) : end] += bonus.repeat(H)[:, None]
    return buffer.as_strided((1, H, n_q, keys), (0, n_q * width, width - 1, 1), n_q - 1)
