"""The position table in the form that the native kernel reads, kept as long as the table itself."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from model_registry.attention.native.constants import MOST_LANES, RANK_SPAN, TABLE_MARGIN
from model_registry.attention.native.table_factors import ROWS_AT_ONCE, factor_table

TOLERANCE = {torch.float32: 2.0**-24, torch.float16: 2.0**-16, torch.bfloat16: 2.0**-13, torch.float64: 0.0}
"""By element type: the largest error of a row's approximation, as a share of the longest row's norm. It is an eighth of
the rounding error of a 16-bit type, and one rounding error of float32. float64 is for checks, without approximation."""


class PackedTable(NamedTuple):
    """Arguments of the kernel.

    Attributes:
        columns: ``[units, TABLE_MARGIN + R + TABLE_MARGIN, pack]``; ``columns[u, TABLE_MARGIN + R - 1 - t]`` is unit
            ``u`` of row ``t``'s coordinates. The distance falls along it as the key's position rises. With a bonus for
            near keys unit 0 is ones for these and zeros for others, and the coordinates begin with unit 1.
        projection: ``[d, columns]``, the basis in the type of the kernel's sums; ``None`` where it is the identity and
            there is no bonus.
        ranks: ``[ceil(R / RANK_SPAN)]`` int32, units needed at a distance and beyond.
    """

    columns: torch.Tensor
    projection: torch.Tensor | None
    ranks: torch.Tensor


_packed: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def packed_table(table: torch.Tensor, dtype: torch.dtype, pack: int, depth: int = 1, near_keys: int = 0) -> PackedTable:
    """``table`` ``[R, d]`` for element type ``dtype`` in units of ``pack`` elements, computed at the first call.

    The units are padded with zeros to a multiple of ``depth``, which are multiplied at once. ``near_keys`` is how many
    distances have a bonus.

    A change of the table in place is seen unless it is an inference tensor, which does not count its versions.
    """
    version = 0 if table.is_inference() else table._version
    key = (dtype, pack, depth, near_keys, version)
    cached: tuple[object, PackedTable] | None = _packed.get(table)  # type: ignore[no-untyped-call]
    if cached is None or cached[0] != key:
        cached = (key, _pack(table, dtype, pack, depth, near_keys))
        _packed[table] = cached
    return cached[1]


def _pack(table: torch.Tensor, dtype: torch.dtype, pack: int, depth: int, near_keys: int) -> PackedTable:
    R, d = table.shape
    real = torch.float64 if dtype is torch.float64 else torch.float32
    factors = factor_table(table, TOLERANCE[dtype])
    rank = max(span[2] for span in factors.spans)
    first_unit = 1 if near_keys else 0
    units = max(1, -(-(first_unit * pack + rank) // (pack * depth))) * depth
    columns = torch.zeros(units, TABLE_MARGIN + R + TABLE_MARGIN, pack, dtype=torch.bfloat16 if pack == 2 else real)
    for first in range(0, R, ROWS_AT_ONCE):
        end = min(first + ROWS_AT_ONCE, R)
        rows = torch.nn.functional.pad(
            factors.coordinates(table[first:end]), (first_unit * pack, (units - first_unit) * pack - rank)
        )
        columns[:, TABLE_MARGIN + R - end : TABLE_MARGIN + R - first] = (
            rows.flip(0).view(-1, units, pack).transpose(0, 1)
        )
    if near_keys:
        columns[0, TABLE_MARGIN + R - near_keys : TABLE_MARGIN + R] = 1
    ranks = torch.empty(-(-R // RANK_SPAN), dtype=torch.int32)
    for first, end, span_rank in factors.spans:
        ranks[first // RANK_SPAN : -(-end // RANK_SPAN)] = first_unit - (-span_rank // pack)
    projection = None
    if factors.basis is not None or near_keys:
        projection = torch.zeros(d, -(-units * pack // MOST_LANES) * MOST_LANES, dtype=real)
        basis = torch.eye(d, dtype=real) if factors.basis is None else factors.basis
        projection[:, first_unit * pack : first_unit * pack + rank] = basis
    return PackedTable(columns, projection, ranks)
