"""A sum in which older amounts weigh less."""

import math


class FadingSum:
    """Amounts added over time; each weighs exp(-age / time_constant), ages in seconds."""

    def __init__(self, time_constant: float) -> None:
        self._time_constant = time_constant
        self._value = 0.0
        self._at = 0.0

    def value(self, now: float) -> float:
        """The sum as it is now."""
        return self._value * math.exp(-max(0.0, now - self._at) / self._time_constant)

    def add(self, amount: float, now: float) -> None:
        """Adds an amount of weight 1 now."""
        self._value = self.value(now) + amount
        self._at = now
