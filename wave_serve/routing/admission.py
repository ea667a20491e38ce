"""Lets only so much work through to each upstream at once; a bounded queue, fair between keys, holds the rest."""

import asyncio
import bisect
import contextlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field

from wave_serve.errors import ApiError, Code, retry_headers, unavailable
from wave_serve.routing.rates import ServiceRate
from wave_serve.routing.router import Demand, Router
from wave_serve.settings import AdmissionSettings
from wave_serve.upstream.upstream import Upstream

LONGEST_RETRY = 300.0  # seconds; by then the backlog is another one


@dataclass(order=True)
class Waiter:
    """A generation in the queue, ordered by turn.

    Attributes:
        turn: when its key's fair share lets it through, in tokens; see `Admission`.
        number: order of arrival, which decides between equal turns.
        demand: its work.
        without: upstreams that have failed it already.
        granted: done with the upstream that it may use, or with the error that refuses it.
    """

    turn: float
    number: int
    demand: Demand = field(compare=False)
    without: Collection[Upstream] = field(compare=False)
    granted: asyncio.Future[Upstream] = field(compare=False)


class Admission:
    """Places at the upstreams, and the queue for them. All requests of a process share one.

    Fair between keys by start-time fair queueing: a request's turn is its key's last one plus its tokens, so a key with
    much work waits behind its own, not others behind it.
    """

    def __init__(self, settings: AdmissionSettings, router: Router, fallback_retry: float) -> None:
        self.rate = ServiceRate()
        self._settings = settings
        self._router = router
        self._fallback_retry = fallback_retry
        self._waiting: list[Waiter] = []
        self._waiting_tokens = 0
        self._turns: defaultdict[str, float] = defaultdict(float)
        self._now_served = 0.0
        self._number = 0

    @property
    def waiting(self) -> tuple[int, int]:
        """Generations in the queue, and their prompt tokens."""
        return len(self._waiting), self._waiting_tokens

    def apply(self, settings: AdmissionSettings) -> None:
        """Takes over other bounds; what is under way or waits already stays."""
        self._settings = settings
        self.serve_queue()

    @contextlib.asynccontextmanager
    async def place(
        self, demand: Demand, deadline: float, without: Collection[Upstream] = ()
    ) -> AsyncIterator[Upstream]:
        """A place at one of the demand's upstreams, other than `without`, for as long as the block runs.

        Args:
            deadline: by `time.monotonic`, until when to wait for it.

        Raises:
            ApiError: 429 where the queue is full or the deadline passes, 503 where no upstream is ready.
        """
        upstream = await self._wait(demand, deadline, without)
        done = False
        try:
            yield upstream
            done = True
        finally:
            self._release(upstream, demand, done=done)

    def serve_queue(self) -> None:
        """Lets waiting generations through in turn, as far as there is room; called whenever there may be more room."""
        reserved: set[str] = set()
        for waiter in tuple(self._waiting):
            if waiter.granted.done() or all(one.base_url in reserved for one in waiter.demand.upstreams):
                continue
            try:
                upstream = self._try(waiter, reserved)
            except ApiError as error:
                waiter.granted.set_exception(error)
                continue
            if upstream is None:
                # Nobody behind it may take the upstreams that it waits for. Otherwise short prompts would fill each
                # gap, and a long one that needs more room would never get its turn.
                reserved |= {one.base_url for one in waiter.demand.upstreams}
            else:
                waiter.granted.set_result(upstream)

    async def _wait(self, demand: Demand, deadline: float, without: Collection[Upstream]) -> Upstream:
        loop = asyncio.get_running_loop()
        turn = max(self._now_served, self._turns[demand.key]) + demand.tokens
        self._number += 1
        waiter = Waiter(turn, self._number, demand, without, loop.create_future())
        if not self._waiting and (upstream := self._try(waiter, ())) is not None:
            self._turns[demand.key] = turn
            return upstream
        self._make_room(waiter)
        self._turns[demand.key] = turn
        bisect.insort(self._waiting, waiter)
        self._waiting_tokens += demand.tokens
        self.serve_queue()
        timer = loop.call_later(max(0.0, deadline - time.monotonic()), self._expire, waiter)
        try:
            return await waiter.granted
        except asyncio.CancelledError:
            if waiter.granted.done() and not waiter.granted.cancelled() and waiter.granted.exception() is None:
                self._release(waiter.granted.result(), demand, done=False)
            raise
        finally:
            timer.cancel()
            self._waiting.remove(waiter)
            self._waiting_tokens -= demand.tokens
            self.serve_queue()

    def _make_room(self, newcomer: Waiter) -> None:
        """Refuses whoever's turn would be last where the queue is full: the newcomer or one that waits."""
        settings = self._settings
        alive = [waiter for waiter in self._waiting if not waiter.granted.done()]
        while alive and (
            len(alive) >= settings.queue_requests
            or sum(waiter.demand.tokens for waiter in alive) + newcomer.demand.tokens > settings.queue_prompt_tokens
        ):
            last = alive.pop()
            if last < newcomer:
                raise self._busy(newcomer.demand, Code.QUEUE_FULL)
            last.granted.set_exception(self._busy(last.demand, Code.QUEUE_FULL))
        if settings.queue_requests == 0:
            raise self._busy(newcomer.demand, Code.QUEUE_FULL)

    def _try(self, waiter: Waiter, reserved: Collection[str]) -> Upstream | None:
        """Takes a place for a waiter, None where there is none. Raises ApiError 503 where no upstream is ready."""
        demand = waiter.demand
        usable = [one for one in demand.upstreams if one.ready and one not in waiter.without]
        usable = [one for one in usable if not one.ejection.active] or usable
        if not usable:
            states = "; ".join(f"{one.base_url}: {one.reason or 'failed this request'}" for one in demand.upstreams)
            raise unavailable(f"No upstream is ready: {states or 'none is left'}.", round(self._fallback_retry))
        free = [one for one in usable if one.base_url not in reserved and self._has_room(one, demand.tokens)]
        if not free:
            return None
        upstream = self._router.choose(demand, free, usable)
        upstream.take(demand.tokens)
        self.rate.start()
        self._now_served = max(self._now_served, waiter.turn - demand.tokens)
        return upstream

    def _release(self, upstream: Upstream, demand: Demand, *, done: bool) -> None:
        upstream.release(demand.tokens)
        if done:
            self.rate.finish(demand.tokens)
        else:
            self.rate.drop()
        self.serve_queue()

    def _has_room(self, upstream: Upstream, tokens: int) -> bool:
        if upstream.in_flight == 0:
            return True
        return (
            upstream.in_flight < self._settings.max_requests
            and upstream.outstanding_tokens + tokens <= self._settings.max_prompt_tokens
        )

    def _expire(self, waiter: Waiter) -> None:
        if not waiter.granted.done():
            waiter.granted.set_exception(self._busy(waiter.demand, Code.QUEUE_TIMEOUT))

    def _busy(self, demand: Demand, code: Code) -> ApiError:
        """A 429 that says when the backlog will have been worked off."""
        requests, tokens = self.waiting
        seconds = self.rate.seconds_for(requests + 1, tokens + demand.tokens)
        wait = self._fallback_retry if seconds is None else min(seconds, LONGEST_RETRY)
        message = f"The upstreams are busy: {requests} requests with {tokens} prompt tokens wait for them."
        return ApiError(429, f"{message} Try again in {wait:.1f} s.", code=code, headers=retry_headers(wait))
