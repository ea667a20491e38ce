"""Chooses the upstream of a generation: where its document is cached, as long as that leaves the load even."""

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wave_serve.routing.prefixes import Prefixes, PrefixMemory
from wave_serve.routing.rates import FadingSum
from wave_serve.settings import NewDocuments, RoutingSettings
from wave_serve.upstream.upstream import Upstream

RECENT_SECONDS = 60.0  # time constant of the tokens counted as an upstream's recent load
# While all upstreams are idle, one that has most of the prompt cached may be this many requests like the present one
# over its fair share of the last minute: nobody waits for that, and reading the document elsewhere would cost more.
RECENT_HEAD_START = 2
# An upstream that has most of the prompt cached may always get this many such requests a minute: a few questions in a
# row about one document stay together. It must stay small: a shared system prompt that is longer than what follows it
# looks like a long match for every request, and would draw all of them to one upstream.
RECENT_LEAST = 3
# The same for its fair share of the requests under way. Their cached tokens are counted in full though they cost
# almost nothing, so it may be this many requests over.
OUTSTANDING_HEAD_START = 1
# Under load an upstream's share counts as at most this multiple of what the least loaded one got. Otherwise one that
# is new, or was down, would stay idle for as long as each of the others is within its share.
MOST_OF_LEAST = 2.0


@dataclass(frozen=True)
class Demand:
    """One generation's work.

    Attributes:
        tokens: of all its prompts.
        key: name of the API key that pays for it; empty without one.
        upstreams: those that may do it.
        prefixes: digests of its prompt's beginnings; None where there is only one upstream to choose.
    """

    tokens: int
    key: str
    upstreams: Sequence[Upstream]
    prefixes: Prefixes | None = None


class Router:
    """Least outstanding tokens, with affinity to where a prompt's beginning has been.

    A document that this gateway has not seen may have been sent somewhere by another one. With `NewDocuments.HASHED`
    all of them send it to the same upstream without asking each other: the one with the highest hash of document and
    URL together (rendezvous hashing), or the next one where that has more than its share.
    """

    def __init__(self, settings: RoutingSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._recent: defaultdict[str, FadingSum] = defaultdict(lambda: FadingSum(RECENT_SECONDS))
        self._memory = PrefixMemory(settings.prefixes)
        self._settings = settings

    def apply(self, settings: RoutingSettings) -> None:
        """Takes over other settings."""
        self._settings = settings
        self._memory.resize(settings.prefixes)

    def forget(self, base_url: str) -> None:
        """There is no upstream of that URL any more."""
        self._recent.pop(base_url, None)

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
        document = demand.prefixes.document(self._settings.long_match)
        hashed = self._settings.new_documents is NewDocuments.HASHED
        if hashed and document is not None and document[0] > length:
            within = self._within_share(demand, usable, now, slack=demand.tokens)
            fitting = [one for one in free if one in within]
            if fitting:
                return [max(fitting, key=lambda one: _rank(document[1], one))]
        long = length >= self._settings.long_match * demand.prefixes.size
        within = self._within_share(demand, usable, now, slack=demand.tokens if long else 0)
        return [one for one in holders if one in within]

    def _within_share(self, demand: Demand, usable: list[Upstream], now: float, slack: int) -> list[Upstream]:
        """Those whose share of the load the request would not exceed, or by no more than `slack` tokens allow."""
        tokens = demand.tokens
        recent = {one: self._recent[one.base_url].value(now) for one in usable}
        outstanding = {one: float(one.outstanding_tokens) for one in usable}
        share_recent = (sum(recent.values()) + tokens) / len(usable)
        share_outstanding = (sum(outstanding.values()) + tokens) / len(usable)
        most_share = self._settings.max_share
        if any(outstanding.values()):
            share_recent = min(share_recent, MOST_OF_LEAST * (min(recent.values()) + tokens))
            most_recent = max(most_share * share_recent, RECENT_LEAST * slack)
        else:
            most_recent = max(most_share * share_recent + RECENT_HEAD_START * slack, RECENT_LEAST * slack)
        most_outstanding = most_share * share_outstanding + OUTSTANDING_HEAD_START * slack
        return [
            one
            for one in usable
            if recent[one] + tokens <= most_recent and outstanding[one] + tokens <= most_outstanding
        ]

    def _least_loaded(self, demand: Demand, among: list[Upstream], now: float) -> Upstream:
        """Fewest tokens recently, of those that have about the fewest outstanding: less than the request is a tie."""
        fewest = min(one.outstanding_tokens for one in among)
        tied = [one for one in among if one.outstanding_tokens - fewest < max(1, demand.tokens)]
        return min(tied, key=lambda one: (self._recent[one.base_url].value(now), one.outstanding_tokens))


def _rank(document: bytes, upstream: Upstream) -> bytes:
    """The upstream's place for a document: the same at every gateway, another for each document."""
    return hashlib.blake2b(upstream.base_url.encode(), key=document, digest_size=8).digest()
