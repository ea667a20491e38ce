"""Times two calls by turns in one process, so that a machine that is busy slows both alike."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

LEAST_ROUNDS = 5


class Rounds(NamedTuple):
    """Seconds that two calls took, round by round."""

    times: list[tuple[float, float]]

    @property
    def ratios(self) -> tuple[float, float, float]:
        """Quartiles of the first call's time as a multiple of the second's."""
        ratios = sorted(a / b for a, b in self.times)
        return tuple(ratios[len(ratios) * i // 4] for i in (1, 2, 3))


def interleaved(
    first: Callable[[], object],
    second: Callable[[], object],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Rounds:
    """Calls both by turns for so many seconds, and LEAST_ROUNDS rounds at least."""

    def took(call: Callable[[], object]) -> float:
        start = clock()
        call()
        return clock() - start

    times: list[tuple[float, float]] = []
    started = time.perf_counter()
    while len(times) < LEAST_ROUNDS or time.perf_counter() - started < seconds:
        if len(times) % 2:  # by turns, as whichever comes second may find memory of the first in the cache
            b = took(second)
            times.append((took(first), b))
        else:
            times.append((took(first), took(second)))
    return Rounds(times)
