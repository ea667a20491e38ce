"""Factors a relative position table into coordinates and a basis, so that far keys need few products.

A wavelet table's rows are smooth at large distances, so they lie close to a subspace of few dimensions. With the
default table of 64 dimensions and an error of 1e-4 of the longest row, 29 dimensions hold all rows, 9 hold those from
distance 64 on, and one holds those from 512 on. The basis is built from the farthest rows to the nearest, each span of
distances adding the directions that it lacks. So a row needs the first ``r`` columns only,
``p(t) = basis[:, :r] c(t)``, with ``r`` falling as ``t`` grows.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch

from model_registry.attention.native.constants import RANK_SPAN

if TYPE_CHECKING:
    from collections.abc import Iterator

NEAREST_SPAN = RANK_SPAN
"""Distances below this share a rank; spans beyond it double, so that each begins where an entry of ``ranks`` does."""

LARGEST_SHARE = 0.75
"""Of the dimensions, that a basis may have: a larger one costs more than it saves, as ``q`` is multiplied with it."""

ROWS_AT_ONCE = 8192
"""Rows in a float64 intermediate, whatever the table's length."""


class TableFactors(NamedTuple):
    """``p(t) ~ basis[:, :r] @ coordinates(t)[:r]``, where ``r`` is the rank at ``t``.

    Attributes:
        basis: ``[d, r_max]`` float64 with orthonormal columns, or ``None`` for the identity.
        spans: ``(first, end, rank)``: distances ``first`` to ``end - 1`` need ``rank`` columns. The farthest span comes
            first, so ranks never fall along the list.
    """

    basis: torch.Tensor | None
    spans: list[tuple[int, int, int]]

    def coordinates(self, rows: torch.Tensor) -> torch.Tensor:
        """``[n, r_max]`` float64, or ``[n, d]`` for the identity, of rows ``[n, d]``."""
        return rows.double() if self.basis is None else rows.double() @ self.basis


def factor_table(table: torch.Tensor, tolerance: float) -> TableFactors:
    """Factors of ``table`` ``[R, d]``: each row's residual is at most ``tolerance`` times the longest row's norm.

    A table that is not finite, and one that needs too many columns for that, get the identity; ``tolerance`` 0 too.
    """
    R, d = table.shape
    identity = TableFactors(None, [(0, R, d)])
    if tolerance == 0:
        return identity
    limit = tolerance * max(float(rows.norm(dim=1).max()) for rows in _chunks(table, 0, R))
    if not math.isfinite(limit):
        return identity
    basis = torch.zeros(d, 0, dtype=torch.float64)
    spans = []
    end = R
    while end:
        first = 0 if end <= NEAREST_SPAN else max(NEAREST_SPAN, 1 << ((end - 1).bit_length() - 1))
        basis = _extended(basis, table, first, end, limit)
        if basis.shape[1] > LARGEST_SHARE * d:
            return identity
        spans.append((first, end, basis.shape[1]))
        end = first
    return TableFactors(basis, spans)


def _extended(basis: torch.Tensor, table: torch.Tensor, first: int, end: int, limit: float) -> torch.Tensor:
    """``basis`` with the fewest new directions that bring each residual of rows ``first`` to ``end`` to ``limit``."""
    d = table.shape[1]
    gram = torch.zeros(d, d, dtype=torch.float64)
    for residual in _residuals(basis, table, first, end):
        gram += residual.t() @ residual
    directions = torch.linalg.eigh(gram).eigenvectors.flip(1)
    left = torch.zeros(d + 1, dtype=torch.float64)  # largest squared residual of a row after k directions
    for residual in _residuals(basis, table, first, end):
        squares = (residual @ directions).square().flip(1).cumsum(1).amax(dim=0)
        left[:d] = torch.maximum(left[:d], squares.flip(0))
    k = int((left.sqrt() > limit).sum())
    # Orthogonalised again: the residuals are small differences of large rows, with the large rows' rounding errors.
    return torch.linalg.qr(torch.cat([basis, directions[:, :k]], dim=1))[0][:, : basis.shape[1] + k]


def _residuals(basis: torch.Tensor, table: torch.Tensor, first: int, end: int) -> Iterator[torch.Tensor]:
    for rows in _chunks(table, first, end):
        yield rows - (rows @ basis) @ basis.t()


def _chunks(table: torch.Tensor, first: int, end: int) -> Iterator[torch.Tensor]:
    for i in range(first, end, ROWS_AT_ONCE):
        yield table[i : min(i + ROWS_AT_ONCE, end)].double()
