"""Confidence intervals: a seeded block bootstrap for means and their differences, Wilson's for shares."""

import math
import random
from collections.abc import Callable, Sequence
from typing import TypeVar

CONFIDENCE = 0.95
NORMAL_QUANTILE = 1.959963984540054  # of (1 + CONFIDENCE) / 2

Interval = tuple[float, float]
Item = TypeVar("Item")


Block = tuple[float, int]
"""Sum of the losses of a block's tokens, and their number."""


def mean(blocks: Sequence[Block]) -> float:
    """Sum of all losses / number of all tokens, of one block or more."""
    return math.fsum(value for value, _ in blocks) / sum(count for _, count in blocks)


def bootstrap_mean(blocks: Sequence[Block], *, resamples: int, seed: int) -> Interval | None:
    """95 % percentile interval of the mean per token; blocks are drawn with replacement.

    None for fewer than 2 blocks: they say nothing about their spread.
    """
    return _percentiles(blocks, mean, resamples, seed)


def bootstrap_difference(pairs: Sequence[tuple[Block, Block]], *, resamples: int, seed: int) -> Interval | None:
    """95 % percentile interval of mean(first blocks) - mean(second blocks); the two of a pair are drawn together.

    None for fewer than 2 pairs.
    """
    return _percentiles(pairs, difference, resamples, seed)


def difference(pairs: Sequence[tuple[Block, Block]]) -> float:
    """Mean per token of the first blocks less that of the second ones."""
    return mean([first for first, _ in pairs]) - mean([second for _, second in pairs])


def _percentiles(
    items: Sequence[Item], statistic: Callable[[Sequence[Item]], float], resamples: int, seed: int
) -> Interval | None:
    if len(items) < 2:
        return None
    draw = random.Random(seed)  # noqa: S311 - a resampling, not a secret
    found = sorted(statistic(draw.choices(items, k=len(items))) for _ in range(resamples))
    tail = (1 - CONFIDENCE) / 2
    return found[int(tail * resamples)], found[min(math.ceil((1 - tail) * resamples), resamples) - 1]


def wilson(hits: int, trials: int) -> Interval:
    """Wilson's 95 % interval of a share of `hits` in `trials` >= 1."""
    z2 = NORMAL_QUANTILE**2
    share = hits / trials
    middle = share + z2 / (2 * trials)
    half = NORMAL_QUANTILE * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    scale = 1 + z2 / trials
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)
