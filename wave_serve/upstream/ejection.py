"""Avoids an upstream that answers its health checks but fails its requests."""

import time
from collections.abc import Callable

from wave_serve.settings import RoutingSettings


class Ejection:
    """Counts failures in a row. `active` while the upstream is to be avoided; the next failure renews that."""

    def __init__(self, settings: RoutingSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._failures = 0
        self._times = 0
        self._until = 0.0

    def apply(self, settings: RoutingSettings) -> None:
        """Takes over other settings; what is counted stays."""
        self._settings = settings

    @property
    def active(self) -> bool:
        """Whether to avoid the upstream."""
        return self._clock() < self._until

    def reason(self) -> str:
        """Why, and for how long."""
        return f"{self._failures} requests in a row failed; tried again in {self._until - self._clock():.0f} s"

    def succeeded(self) -> None:
        """Forgets all failures."""
        self._failures = self._times = 0
        self._until = 0.0

    def failed(self) -> bool:
        """Counts a failure; True where the upstream is avoided from now on."""
        self._failures += 1
        if self._failures < self._settings.eject_after or self.active:
            return False
        span = min(self._settings.eject_first * 2**self._times, self._settings.eject_most)
        self._until = self._clock() + span
        self._times = min(self._times + 1, 30)  # 2**30 is past any longest span
        return True
