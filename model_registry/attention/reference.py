"""The attention op's specification: dense, one sequence at a time, in float32 (float64 for float64 inputs)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from model_registry.attention.batch import PagedBatch
    from model_registry.attention.near_bias import NearBias


@torch.no_grad()
def attention(batch: PagedBatch, out: torch.Tensor) -> None:
    """``wavelet_attention`` by its equation, with ``[H, n_q, seq_len]`` scores, into ``out`` ``[T, H, d]``."""
    block_size = batch.k_cache.shape[1]
    starts = batch.query_start_loc.tolist()
    for s, length in enumerate(batch.seq_lens.tolist()):
        rows = slice(starts[s], starts[s + 1])
        if length == 0:
            out[rows] = 0
            continue
        blocks = batch.block_table[s, : -(-length // block_size)].long()
        k = batch.k_cache[blocks].flatten(0, 1)[:length]
        v = batch.v_cache[blocks].flatten(0, 1)[:length]
        out[rows] = dense(batch.q[rows], k, v, batch.table, batch.scale, batch.near_bias).to(out.dtype)


def dense(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    table: torch.Tensor,
    scale: float,
    near_bias: NearBias | None = None,
) -> torch.Tensor:
    """One sequence: ``softmax_n((q_m . k_n + q_m . p(m - n)) * scale + b(m, n)) v_n`` over ``n <= m``.

    Args:
        q: ``[n_q, H, d]``, the last ``n_q`` positions.
        k: ``[L, H_kv, d]``, ``L >= n_q``.
        v: ``[L, H_kv, d]``.
        table: ``[R, d]``; ``p(t)`` is row ``t``, and zero for ``t >= R``.
        scale: factor of both terms.
        near_bias: gives ``b(m, n)``, zero without it.

    Returns:
        ``[n_q, H, d]`` float32, or float64 for float64 inputs.
    """
    (n_q, H, _), (L, H_kv, _), R = q.shape, k.shape, table.shape[0]
    compute = torch.float64 if q.dtype is torch.float64 else torch.float32
    q, k, v, table = (tensor.to(compute) for tensor in (q, k, v, table))
    k = k.repeat_interleave(H // H_kv, dim=1)
    v = v.repeat_interleave(H // H_kv, dim=1)

    m = torch.arange(L - n_q, L, device=q.device)
    n = torch.arange(L, device=q.device)
    t = m[:, None] - n[None, :]
    p = torch.nn.functional.pad(table, (0, 0, 0, 1))  # row R is the zero that every t >= R shares
    content = torch.einsum("mhd,nhd->hmn", q, k)
    position = torch.einsum("mhd,td->hmt", q, p).gather(2, t.clamp(0, R).expand(H, n_q, L))
    score = (content + position) * scale
    if near_bias is not None:
        score = score + torch.where(t < near_bias.keys, near_bias.of(m[:, None].to(compute) + 1), 0.0)
    score = score.masked_fill(t < 0, -torch.inf)
    return torch.einsum("hmn,nhd->mhd", score.softmax(dim=-1), v)
