"""Log-length scaling of attention logits (``logit_scaling: log_n``): one factor per query, applied to ``q``."""

from __future__ import annotations

import math

import torch

LOGIT_SCALINGS = ("none", "log_n")
"""Values of the config's ``logit_scaling``."""


def log_n_factor(visible_keys: torch.Tensor, length: int) -> torch.Tensor:
    """``max(1, ln n / ln length)``: what a query that sees ``n`` keys multiplies its whole score by.

    It is 1 up to ``length``, and grows so slowly that attention over many keys stays as sharp as in training.

    Args:
        visible_keys: any shape, integer or float: ``n = m + 1`` for the query at position ``m``.
        length: tokens, at least 2; the training length, or less where the model was trained with the factor.

    Returns:
        The shape of ``visible_keys``, float32.
    """
    n = visible_keys.to(torch.float32).clamp(min=1.0)
    return (n.log() / math.log(length)).clamp(min=1.0)
