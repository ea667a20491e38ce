"""The bonus of near keys, by which a long context's many far keys do not drown them."""

from __future__ import annotations

from typing import NamedTuple

import torch


class NearBias(NamedTuple):
    """What is added to the score of a near key: ``slope * ln(n / length)`` for a query that sees ``n > length`` keys.

    Attention over ``n`` keys spreads over the far ones in proportion to their number, so near keys lose weight as ``n``
    grows. In units of weight the bonus is ``(n / length) ** slope``: with a slope of 1 it makes up for all far keys,
    with less for a part of them, and a far key that answers the query still wins.

    Attributes:
        slope: at least 0.
        length: keys that a query may see without a bonus, at least 1: the training length.
        keys: the distances ``t = m - n`` below this are near, at least 1.
    """

    slope: float
    length: int
    keys: int

    def of(self, visible_keys: torch.Tensor) -> torch.Tensor:
        """The bonus of queries that see so many keys; any shape, float32 (float64 for float64)."""
        kind = torch.float64 if visible_keys.dtype is torch.float64 else torch.float32
        return self.slope * (visible_keys.to(kind) / self.length).clamp(min=1.0).log()
