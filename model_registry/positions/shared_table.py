"""One position table for all that ask for the same: the layers of a model, and the steps of a generation."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from model_registry.positions.wavelet import position_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch


def shared_position_table(
    wavelet: str, scale_exponents: Sequence[int], shifts: Sequence[int], *, max_distance: int, device: str = "cpu"
) -> torch.Tensor:
    """``position_table`` on ``device``, one tensor for all that ask for the same: never write to it.

    The eight tables that were asked for last are kept, so that several models in one process do not compute theirs
    again and again.
    """
    return _shared_table(wavelet, tuple(scale_exponents), tuple(shifts), max_distance, device)


@lru_cache(maxsize=8)
def _shared_table(
    wavelet: str, scale_exponents: tuple[int, ...], shifts: tuple[int, ...], max_distance: int, device: str
) -> torch.Tensor:
    return position_table(wavelet, scale_exponents, shifts, max_distance=max_distance).to(device)
