"""One position table for all that ask for the same: the layers of a model, and the steps of a generation."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from model_registry.positions.wavelet import position_table

if TYPE_CHECKING:
    from collections.abc import Sequence


def shared_position_table(
    wavelet: str,
    scale_exponents: Sequence[int],
    shifts: Sequence[int],
    *,
    max_distance: int,
    device: str = "cpu",
    least_rows: int = 0,
) -> torch.Tensor:
    """``position_table`` on ``device``, one tensor for all that ask for the same: never write to it.

    Rows of zeros follow the table's own where it has fewer than ``least_rows``.

    The eight tables that were asked for last are kept, so that several models in one process do not compute theirs
    again and again.
    """
    return _shared_table(wavelet, tuple(scale_exponents), tuple(shifts), max_distance, device, least_rows)


@lru_cache(maxsize=8)
def _shared_table(
    wavelet: str,
    scale_exponents: tuple[int, ...],
    shifts: tuple[int, ...],
    max_distance: int,
    device: str,
    least_rows: int,
) -> torch.Tensor:
    table = position_table(wavelet, scale_exponents, shifts, max_distance=max_distance)
    missing = max(0, least_rows - table.shape[0])
    return torch.cat([table, table.new_zeros(missing, table.shape[1])]).to(device)
