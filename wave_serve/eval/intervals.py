"""Confidence intervals: a seeded block bootstrap for means, Wilson's for shares."""

import math
import random
from collections.abc import Sequence

CONFIDENCE = 0.95
NORMAL_QUANTILE = 1.959963984540054  # of (1 + CONFIDENCE) / 2

Interval = tuple[float, float]


def bootstrap_mean(blocks: Sequence[tuple[float, int]], *, resamples: int, seed: int) -> Interval | None:
    """95 % percentile interval of sum(values) / sum(counts) over blocks (sum of values, count), drawn with replacement.

    None for fewer than 2 blocks: they say nothing about their spread.
    """
    if len(blocks) < 2:
        return None
    draw = random.Random(seed)  # noqa: S311 - a resampling, not a secret
    means = []
    for _ in range(resamples):
        chosen = draw.choices(blocks, k=len(blocks))
        means.append(sum(value for value, _ in chosen) / sum(count for _, count in chosen))
    means.sort()
    tail = (1 - CONFIDENCE) / 2
    return means[int(tail * resamples)], means[min(math.ceil((1 - tail) * resamples), resamples) - 1]


def wilson(hits: int, trials: int) -> Interval:
    """Wilson's 95 % interval of a share of `hits` in `trials` >= 1."""
    z2 = NORMAL_QUANTILE**2
    share = hits / trials
    middle = share + z2 / (2 * trials)
    half = NORMAL_QUANTILE * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    scale = 1 + z2 / trials
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)
