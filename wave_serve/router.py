"""Chooses the upstream of a generation: where its document is cached, as long as that leaves the load even."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wave_serve.fading import FadingSum
from wave_serve.prefix import Prefixes
from wave_serve.prefix_memory import PrefixMemory
from wave_serve.settings_routing import RoutingSettings
from wave_serve.upstream import Upstream

RECENT_SECONDS = 60.0  # time constant of the tokens counted as an upstream's recent load
# Requests like the present one by which an upstream that knows a long match may exceed its share, so that a few
# questions in a row about one document are not a reason to read it elsewhere.
RECENT_HEAD_START = 2
OUTSTANDING_HEAD_START = 1


@dataclass(frozen=True)
class Demand:
    """One generation's work: `tokens` of all its prompts, for `key`; any of `upstreams` may do it."""

    tokens: int
    key: str
    upstreams: Sequence[Upstream]
    prefixes: Prefixes | None = None


class Router:
    """Least outstanding tokens, with affinity to where a prompt's beginning has been."""

    def __init__(self, settings: RoutingSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._recent: defaultdict[str, FadingSum] = defaultdict(lambda: FadingSum(RECENT_SECONDS))
        self._memory = PrefixMemory(settings.prefixes)
        self._settings = settings

    def apply(self, settings: RoutingSettings) -> None:
        """Takes over other settings."""
        self._settings = settings
        self._memory.limit = settings.prefixes

    def choose(self, demand: Demand, free: list[Upstream], usable: list[Upstream]) -> Upstream:
        """One of `free`, which are those of `usable` that have room, neither of them empty."""
        if len(demand.upstreams) == 1:
            return free[0]
        now = self._clock()
        chosen = self._with_prefix(demand, free, usable, now) or self._least_loaded(demand, free, now)
        self._recent[chosen.base_url].add(demand.tokens, now)
        if demand.prefixes is not None:
            self._memory.note(demand.prefixes, chosen)
        return chosen

    def _with_prefix(self, demand: Demand, free: list[Upstream], usable: list[Upstream], now: float) -> Upstream | None:
        """The least loaded upstream that knows the longest beginning, unless that would overload it."""
        if demand.prefixes is None:
            return None
        length, holders = self._memory.longest(demand.prefixes, free)
        if not holders:
            return None
        best = self._least_loaded(demand, holders, now)
        is_long = length >= self._settings.long_match * demand.prefixes.size
        recent = {one: self._recent[one.base_url].value(now) for one in usable}
        outstanding = {one: float(one.outstanding_tokens) for one in usable}
        for load, head_start in ((recent, RECENT_HEAD_START), (outstanding, OUTSTANDING_HEAD_START)):
            share = (sum(load.values()) + demand.tokens) / len(usable)
            most = self._settings.max_share * share + (head_start * demand.tokens if is_long else 0)
            if load[best] + demand.tokens > most:
                return None
        return best

    def _least_loaded(self, demand: Demand, among: list[Upstream], now: float) -> Upstream:
        """Fewest tokens recently, of those that have about the fewest outstanding: less than the request is a tie."""
        fewest = min(one.outstanding_tokens for one in among)
        tied = [one for one in among if one.outstanding_tokens - fewest < max(1, demand.tokens)]
        return min(tied, key=lambda one: (self._recent[one.base_url].value(now), one.outstanding_tokens))
