"""Depths drawn uniformly: fixed ones can fool, where a model knows some places and no others."""

import random
from collections import Counter
from collections.abc import Sequence

UNIFORM = "uniform"
"""Value of `--depths` that draws each depth."""

BINS = tuple(f"{start}-{start + 10}" for start in range(0, 100, 10))
"""Tenths of the filler, in percent."""


def uniform_depth(seed: int, length: int, trial: int) -> float:
    """Percent of the filler before the key, from 0 to 100: a function of the seed, the length and the trial."""
    return random.Random(f"{seed}/depth/{length}/{trial}").uniform(0, 100)  # noqa: S311 - a test item, not a secret


def bin_of(depth: float) -> str:
    """The tenth that a depth lies in; 100 is in the last."""
    return BINS[min(int(depth // 10), len(BINS) - 1)]


def chi_square(bins: Sequence[str]) -> dict[str, float]:
    """Pearson's statistic of drawn depths against even ones: above 16.92 it is that uneven in 5 of 100 draws."""
    counts = Counter(bins)
    expected = len(bins) / len(BINS)
    statistic = sum((counts[each] - expected) ** 2 / expected for each in BINS)
    return {"statistic": statistic, "degrees_of_freedom": len(BINS) - 1}
