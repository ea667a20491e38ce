"""How fast requests are done, observed while there is something to do."""

import math
import time
from collections.abc import Callable


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


TIME_CONSTANT = 30.0  # seconds of work after which an observation weighs 1/e


class ServiceRate:
    """Requests and prompt tokens finished per second of work."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._running = 0
        self._since = 0.0
        self._seconds = self._requests = self._tokens = 0.0

    def start(self) -> None:
        """A request begins."""
        if self._running == 0:
            self._since = self._clock()
        self._running += 1

    def drop(self) -> None:
        """A request ends that was not done."""
        self._running -= 1

    def finish(self, tokens: int) -> None:
        """A request is done."""
        self._running -= 1
        now = self._clock()
        worked = now - self._since
        self._since = now
        faded = TIME_CONSTANT / (TIME_CONSTANT + worked)
        self._seconds = self._seconds * faded + worked
        self._requests = self._requests * faded + 1
        self._tokens = self._tokens * faded + tokens

    def seconds_for(self, requests: int, tokens: int) -> float | None:
        """How long so much work takes; None while nothing has been observed."""
        if self._requests == 0:
            return None
        by_tokens = tokens / self._tokens if self._tokens else 0.0
        return self._seconds * max(requests / self._requests, by_tokens)
