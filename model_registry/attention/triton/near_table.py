"""What the near kernel needs of a position table: the nearest rows as they are, and a few waves in place of the rest.

A tile of queries ``m0 + i`` and keys ``n0 + j`` needs the rows ``p(t)``, ``t = t0 + i - j``. Once ``t0 = m0 - n0`` is
large they change slowly with ``t``, and eight frequencies ``w`` stand for them:

    p(t) = sum_w  a_w cos(w (t - t0)) + b_w sin(w (t - t0))

and in these queries and keys separate, as they do in rotary positions:

    q . p(t) = sum_w  u_w(i) cos(w j) + u'_w(i) sin(w j)
    u_w(i)  = (q . a_w) cos(w i) + (q . b_w) sin(w i)
    u'_w(i) = (q . a_w) sin(w i) - (q . b_w) cos(w i)

So a tile costs a product with 32 rows, ``a_w`` and ``b_w`` twice, and one of depth 32, beside that of its keys, and no
distance has to be brought to its key.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from model_registry.attention.triton.configuration import NearTile

FREQUENCIES = 8
_NEGLIGIBLE = 1 / 8
"""Of what rounding may move the table's longest row by: what a row may be short of, or a wave may be off, unnoticed."""

_RIDGE = 1e-3
"""Weight of the coefficients in the fit: without it they would be large and cancel, which costs digits."""


@dataclass(frozen=True)
class NearTable:
    """A table in the form that the near kernel reads, for one element type and one ``NearTile``.

    Attributes:
        rows: keys that a query sees in the near part, a multiple of the tile's ``n``; from there on distances are far.
        exact_keys: of the keys up to a tile's first query, those nearest to it, which have no waves; a multiple too.
        exact: ``[E, d]`` the first ``E`` rows, enough for the exact keys and the tile's other queries.
        waves: ``[W, d]`` 32 rows for each ``n`` keys with waves, the farthest first: ``a_w``, ``a_w``, ``b_w`` and
            ``-b_w`` of 8 frequencies each.
        turn: ``[m, 32]`` float32, ``cos(w i)``, ``sin(w i)``, ``sin(w i)`` and ``cos(w i)`` of the tile's rows, each
            ``i`` after the first.
        curves: ``[32, n]``, ``cos(w j)``, ``sin(w j)`` and the same again.
    """

    rows: int
    exact_keys: int
    exact: torch.Tensor
    waves: torch.Tensor
    turn: torch.Tensor
    curves: torch.Tensor

    def to(self, device: torch.device) -> NearTable:
        """The same on another device."""
        tensors: dict[str, Any] = {name: x.to(device) for name, x in vars(self).items() if isinstance(x, torch.Tensor)}
        return replace(self, **tensors)


def near_table(table: torch.Tensor, dtype: torch.dtype, tile: NearTile, least_rows: int = 1) -> NearTable:
    """For a ``table`` ``[R, d]`` of any type, and queries of type ``dtype``; on the device of ``table``.

    Rounding to ``dtype`` moves a row ``p`` by up to ``u |p|``, with ``u`` half its epsilon. Distances past the last row
    that is longer than an eighth of what the longest may be moved by count as far, and waves must fit that closely.
    Of ricker with the exponents 0 to 7 these are 574 of 769 rows in bfloat16, so 576 are near, and with 32 keys to a
    tile all but 32 of those have waves. Haar has none: it jumps. At least ``least_rows`` keys are near.
    """
    # An engine builds its models with the GPU as the default device.
    with torch.device("cpu"):
        exact_table = table.double().cpu()
        d = table.shape[1]
        length = exact_table.norm(dim=1)
        negligible = float(_NEGLIGIBLE * torch.finfo(dtype).eps / 2 * length.max())
        last = int((length > negligible).nonzero().amax()) if negligible > 0 else 0
        rows = -(-max(last + 1, least_rows) // tile.n) * tile.n

        frequency = 2 * math.pi * (torch.arange(FREQUENCIES).double() + 0.5) / (2 * (tile.m + tile.n))
        fits = _fits(exact_table, rows, frequency, negligible, tile)
        waves = torch.cat([torch.empty(0, d, dtype=torch.float64), *(torch.cat([a, a, b, -b]) for a, b in fits)])
        exact_keys = rows - len(fits) * tile.n
        after = torch.arange(tile.m) % (tile.m // tile.heads) * tile.heads
        turn = after.double()[:, None] * frequency
        wave = torch.arange(tile.n).double()[:, None] * frequency
        kind = strip_type(dtype)
        return NearTable(
            rows,
            exact_keys,
            _rows(exact_table, torch.arange(-(-(exact_keys + tile.m) // tile.t) * tile.t)).to(dtype),
            waves.to(dtype),
            torch.cat([turn.cos(), turn.sin(), turn.sin(), turn.cos()], dim=1).float(),
            torch.cat([wave.cos(), wave.sin()] * 2, dim=1).T.contiguous().to(kind),
        ).to(table.device)


def strip_type(dtype: torch.dtype) -> torch.dtype:
    """The type of position terms in memory: in float16 they err by less than the table does in bfloat16."""
    return torch.float32 if dtype is torch.float32 else torch.float16


def _rows(table: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """``[len(t), d]``, zeros for distances that are not in the table."""
    inside = (t >= 0) & (t < table.shape[0])
    return torch.where(inside[:, None], table[t.clamp(0, table.shape[0] - 1)], 0.0)


def _fits(
    table: torch.Tensor, rows: int, frequency: torch.Tensor, tolerance: float, tile: NearTile
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """``a`` and ``b``, each ``[8, d]``, of the tiles of keys from the farthest on, as long as the waves fit."""
    away = torch.arange(1 - tile.n, tile.m)  # i - j
    basis = torch.cat([(away[:, None] * frequency).cos(), (away[:, None] * frequency).sin()], dim=1)
    damped = basis.T @ basis + _RIDGE**2 * torch.eye(2 * FREQUENCIES, dtype=torch.float64)
    solution = torch.linalg.solve(damped, basis.T)  # least squares, the same for every tile
    fits: list[tuple[torch.Tensor, torch.Tensor]] = []
    for t0 in range(rows - 1, 0, -tile.n):
        wanted = _rows(table, t0 + away)
        coefficients = solution @ wanted
        if float((basis @ coefficients - wanted).norm(dim=1).max()) > tolerance:
            break
        fits.append((coefficients[:FREQUENCIES], coefficients[FREQUENCIES:]))
    return fits
