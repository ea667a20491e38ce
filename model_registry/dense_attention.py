"""Dense causal attention with relative positions: the formula, written for training and as the parity oracle.

It materialises the scores, so its memory is ``[B, H, Q, K]``; ``model_registry.attention`` serves long contexts.
"""

from __future__ import annotations

import torch


def rows_by_key(table: torch.Tensor, queries: int, keys: int, first_query: int) -> torch.Tensor:
    """The rows of ``table`` that ``skewed_scores`` multiplies, one per relative position, furthest first.

    Args:
        table: ``[R, d]``; rows from ``R`` on, and those of negative distance, are zero.
        queries: ``Q``, the number of queries, which follow one another.
        keys: ``K``, the number of keys, visible or not.
        first_query: index of the first query among the keys.

    Returns:
        ``[K + 1, d]``: row ``c`` is ``p(first_query + Q - 1 - c)``.
    """
    distance = first_query + queries - 1 - torch.arange(keys + 1, device=table.device)
    padded = torch.cat([table, table.new_zeros(1, table.shape[1])])
    inside = (distance >= 0) & (distance < table.shape[0])
    return padded[torch.where(inside, distance, table.shape[0])]


def skewed_scores(q: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """``q_m . p(m - n)`` for every key ``n <= m``; entries of later keys are finite and meaningless.

    One product with all rows, read along its diagonals: entry ``(i, j)`` is column ``Q - 1 - i + j`` of row ``i``, and
    with ``K + 1`` columns that is a constant stride of ``K`` in the flattened product, so nothing is gathered.

    Args:
        q: ``[B, H, Q, d]``.
        rows: ``[K + 1, d]`` from ``rows_by_key``.

    Returns:
        ``[B, H, Q, K]`` in the dtype of ``q``.
    """
    queries, keys = q.shape[2], rows.shape[0] - 1
    products = (q @ rows.T).flatten(2)
    return products[..., queries - 1 : queries - 1 + queries * keys].view(*q.shape[:3], keys)


def dense_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    visible: torch.Tensor,
    scale: float,
    *,
    rows: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    dropout: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``softmax((q . k + q . p) * scale + bias) v`` (eq. 10) over the visible keys.

    Args:
        q: ``[B, H, Q, d]``, float32, float64, bfloat16 or float16; log_n already applied.
        k: ``[B, H_kv, K, d]`` with ``H`` a multiple of ``H_kv``; ``v`` alike.
        v: see ``k``.
        visible: ``[B or 1, 1, Q, K]`` bool. A query that sees no key attends to all of them.
        scale: multiplies content and position scores, usually ``d ** -0.5``.
        rows: ``[K + 1, d]`` from ``rows_by_key``, in the dtype of ``q``; None means no position term.
        bias: broadcasts to ``[B, H, Q, K]``, added after scaling in its own dtype (ALiBi); None means none.
        dropout: probability of dropping an attention weight.

    Returns:
        Output ``[B, H, Q, d]`` and weights ``[B, H, Q, K]``, both in the dtype of ``q``.
    """
    groups = q.shape[1] // k.shape[1]
    q = q * scale
    scores = q @ k.repeat_interleave(groups, dim=1).transpose(2, 3)
    if rows is not None:
        scores = scores + skewed_scores(q, rows)
    if bias is not None:
        scores = scores + bias
    scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
    # PyTorch's softmax accumulates in float32 for 16-bit scores.
    weights = torch.nn.functional.dropout(scores.softmax(dim=-1), dropout, training=dropout > 0).to(v.dtype)
    return weights @ v.repeat_interleave(groups, dim=1), weights
