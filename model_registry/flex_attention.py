"""Attention that trains on a GPU at long lengths: PyTorch's FlexAttention with the position term, forward and backward.

Nothing of the size queries x keys is made. The position term comes from ``q . p(t)`` for the ``R`` distances of the
table alone, ``[B, H, Q, R]``, which the kernel looks up at ``t = m - n``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn.attention.flex_attention import flex_attention

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.nn.attention.flex_attention import BlockMask


class NearBonus(NamedTuple):
    """What is added to the scores of keys at distances below ``keys``, by query: ``of_query`` ``[B or 1, L]``."""

    of_query: torch.Tensor
    keys: int

    def to(self, device: torch.device | str | int) -> NearBonus:
        """The same on another device."""
        return self._replace(of_query=self.of_query.to(device))


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: BlockMask,
    scale: float,
    *,
    table: torch.Tensor | None = None,
    slopes: torch.Tensor | None = None,
    bonus: NearBonus | None = None,
) -> torch.Tensor:
    """``softmax((q . k + q . p) * scale + bias) v`` over visible keys; queries and keys are the same tokens.

    On CUDA the kernel is compiled for the shapes; on a CPU PyTorch has no backward pass for it.

    Args:
        q: ``[B, H, L, d]``, log_n already applied.
        k: ``[B, H_kv, L, d]`` with ``H`` a multiple of ``H_kv``; ``v`` alike.
        v: see ``k``.
        mask: which keys a query sees; none after itself. A query that sees none gives zeros.
        scale: multiplies content and position scores.
        table: ``[R, d]``, rows ``p(0) ..`` (wavelet); distances from ``R`` on have no position term.
        slopes: ``[H]`` float32; the bias is then ``-slope * (m - n)`` (ALiBi).
        bonus: beside a table, the bias of near keys.

    Returns:
        ``[B, H, L, d]`` in the dtype of ``q``.
    """
    modify = None
    if table is not None:
        modify = _position_term(q, table[: q.shape[2]], scale)
        if bonus is not None:
            modify = _with_bonus(modify, bonus)
    elif slopes is not None:
        modify = _slope_term(slopes)
    attention = _compiled() if q.is_cuda else flex_attention
    out: Any = attention(q, k, v, score_mod=modify, block_mask=mask, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
    return out


def _position_term(q: torch.Tensor, table: torch.Tensor, scale: float) -> Callable[..., torch.Tensor]:
    reach = len(table)
    # At least float32: the gradient of this product is summed up by atomic additions.
    products = ((q * scale) @ table.to(q.dtype).T).to(torch.promote_types(q.dtype, torch.float32))

    def modify(
        score: torch.Tensor, batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor
    ) -> torch.Tensor:
        distance = query - key
        near = (distance >= 0) & (distance < reach)
        return score + torch.where(near, products[batch, head, query, torch.where(near, distance, 0)], 0.0)

    return modify


def _with_bonus(modify: Callable[..., torch.Tensor], bonus: NearBonus) -> Callable[..., torch.Tensor]:
    of_query, shared = bonus.of_query, bonus.of_query.shape[0] == 1

    def modify_more(
        score: torch.Tensor, batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor
    ) -> torch.Tensor:
        given = of_query[0 if shared else batch, query]
        return modify(score, batch, head, query, key) + torch.where(query - key < bonus.keys, given, 0.0)

    return modify_more


def _slope_term(slopes: torch.Tensor) -> Callable[..., torch.Tensor]:
    def modify(
        score: torch.Tensor, _batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor
    ) -> torch.Tensor:
        return score - slopes[head] * (query - key)

    return modify


@lru_cache(maxsize=1)
def _compiled() -> Any:
    return torch.compile(flex_attention, dynamic=False)
