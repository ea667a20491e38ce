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

RECENT_SECONDS = 300.0  # time constant of the tokens counted as an upstream's recent load
# Requests like the present one that an upstream which knows a long match may get whatever its share, so that a few
# questions in a row about one document are not a reason to read it elsewhere. Not added to its share: a system prompt
# that is longer than what follows is a long match as well, of every request.
HEAD_START = 3
# What waits is less even than what was sent: cached tokens count in full and are done at once.
OUTSTANDING_SLACK = 2.0
# Of many, one that is new or was down would stay idle while each of the others is within its share. So a share counts
# as at most this multiple of what the least loaded one got.
MOST_OF_LEAST = 2.0


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
        chosen = self._least_loaded(demand, self._with_prefix(demand, free, usable, now) or free, now)
        self._recent[chosen.base_url].add(demand.tokens, now)
        if demand.prefixes is not None:
            self._memory.note(demand.prefixes, chosen)
        return chosen

    def _with_prefix(self, demand: Demand, free: list[Upstream], usable: list[Upstream], now: float) -> list[Upstream]:
        """Those that know the longest beginning, without any that the request would overload."""
        if demand.prefixes is None:
            return []
        length, holders = self._memory.longest(demand.prefixes, free)
        tokens = demand.tokens
        recent = {one: self._recent[one.base_url].value(now) for one in usable}
        outstanding = {one: float(one.outstanding_tokens) for one in usable}
        even_recent = (sum(recent.values()) + tokens) / len(usable)
        even_recent = min(even_recent, MOST_OF_LEAST * (min(recent.values()) + tokens))
        even_outstanding = OUTSTANDING_SLACK * (sum(outstanding.values()) + tokens) / len(usable)
        is_long = length >= self._settings.long_match * demand.prefixes.size
        for load, even in ((recent, even_recent), (outstanding, even_outstanding)):
            most = max(self._settings.max_share * even, HEAD_START * tokens if is_long else 0)
            holders = [one for one in holders if load[one] + tokens <= most]
        return holders

    def _least_loaded(self, demand: Demand, among: list[Upstream], now: float) -> Upstream:
        """Fewest tokens recently, of those that have about the fewest outstanding: less than the request is a tie."""
        fewest = min(one.outstanding_tokens for one in among)
        tied = [one for one in among if one.outstanding_tokens - fewest < max(1, demand.tokens)]
        return min(tied, key=lambda one: (self._recent[one.base_url].value(now), one.outstanding_tokens))
