"""A relative position table as the product of few columns with a basis, the fewer the farther the keys.

The rows of a wavelet table at large distances are smooth, so they span few dimensions: of the 64 of the default table
all lie within 1e-4 of 29, those from 64 on of 9, those from 512 on of one. The basis is built from the far end, so
that its first columns serve the far rows: ``p(t) = basis[:, :r] c(t)`` with ``r`` falling as ``t`` grows.
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
"""A basis of a larger share of the dimensions is not worth the product with it."""

ROWS_AT_ONCE = 8192
"""Rows in a float64 intermediate, whatever the table's length."""


class TableFactors(NamedTuple):
    """``p(t) ~ basis[:, :r] @ coordinates(t)[:r]``, where ``r`` is the rank at ``t``.

    Attributes:
        basis: ``[d, r_max]`` float64 with orthonormal columns, or ``None`` for the identity.
        spans: ``(first, end, rank)`` of spans of distances, the farthest first; ranks never fall.
    """

    basis: torch.Tensor | None
    spans: list[tuple[int, int, int]]

    def coordinates(self, rows: torch.Tensor) -> torch.Tensor:
        """``[n, r_max]`` float64, or ``[n, d]`` for the identity, of rows ``[n, d]``."""
        return rows.double() if self.basis is None else rows.double() @ self.basis


def factor_table(table: torch.Tensor, tolerance: float) -> TableFactors:
    """Factors that leave of each row of ``table`` ``[R, d]`` at most ``tolerance`` times the longest row's norm.

    ``tolerance`` 0 gives the identity, and so does a table that is not finite.
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
    """``basis`` and the fewest directions that leave at most ``limit`` of rows ``first`` to ``end``."""
    d = table.shape[1]
    gram = torch.zeros(d, d, dtype=torch.float64)
    for rest in _rests(basis, table, first, end):
        gram += rest.t() @ rest
    directions = torch.linalg.eigh(gram).eigenvectors.flip(1)
    left = torch.zeros(d + 1, dtype=torch.float64)  # squared norm of the longest row's rest after k directions
    for rest in _rests(basis, table, first, end):
        squares = (rest @ directions).square().flip(1).cumsum(1).amax(dim=0)
        left[:d] = torch.maximum(left[:d], squares.flip(0))
    k = int((left.sqrt() > limit).sum())
    # A second orthogonalisation: the first leaves rounding errors of the size of the rows, not of their rest.
    return torch.linalg.qr(torch.cat([basis, directions[:, :k]], dim=1))[0][:, : basis.shape[1] + k]


def _rests(basis: torch.Tensor, table: torch.Tensor, first: int, end: int) -> Iterator[torch.Tensor]:
    for rows in _chunks(table, first, end):
        yield rows - (rows @ basis) @ basis.t()


def _chunks(table: torch.Tensor, first: int, end: int) -> Iterator[torch.Tensor]:
    for i in range(first, end, ROWS_AT_ONCE):
        yield table[i : min(i + ROWS_AT_ONCE, end)].double()
