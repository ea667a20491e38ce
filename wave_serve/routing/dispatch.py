"""Sends one generation to an upstream, and to another where the first failed before it began to answer."""

import logging
import time
from collections.abc import Awaitable, Callable

from wave_serve.errors import ApiError, Code
from wave_serve.exchange import Exchange
from wave_serve.logs import event
from wave_serve.routing.admission import Admission
from wave_serve.routing.drain import Drain
from wave_serve.routing.router import Demand
from wave_serve.settings import Settings
from wave_serve.upstream.upstream import Upstream

logger = logging.getLogger("wave_serve.dispatch")

Attempt = Callable[[Upstream], Awaitable[None]]
# Statuses after which another upstream is tried: the first is overloaded, going away or out of order. With any other
# error the next upstream would answer the same.
WORTH_ANOTHER = (429, 502, 503, 504)
OUT_OF_ORDER = (502, 503, 504)


class Dispatch:
    """One generation's way to an upstream: it waits for a place, is sent, and may be sent elsewhere."""

    def __init__(
        self, exchange: Exchange, demand: Demand, admission: Admission, drain: Drain, settings: Settings
    ) -> None:
        self._exchange = exchange
        self._demand = demand
        self._admission = admission
        self._drain = drain
        self._routing = settings.routing
        self._patience = settings.admission.queue_deadline

    async def run(self, attempt: Attempt, committed: Callable[[], bool]) -> None:
        """Awaits `attempt` on one upstream after another until one succeeds.

        Args:
            attempt: sends the generation to an upstream.
            committed: whether an upstream has begun to answer, so that no other may be asked.

        Raises:
            ApiError: the first failure, 429 or 503 where there was no place, or 503 where the gateway is ending.
        """
        with self._drain.covers():
            await self._run(attempt, committed)

    async def _run(self, attempt: Attempt, committed: Callable[[], bool]) -> None:
        tried: list[Upstream] = []
        deadline = time.monotonic() + self._patience
        first: ApiError | None = None
        while True:
            try:
                await self._send(attempt, tried, deadline)
            except _FailedError as failed:
                first = first or failed.error
                deadline = time.monotonic() - self._sent_for() + self._routing.retry_deadline
                again = not committed() and failed.error.status in WORTH_ANOTHER and len(tried) < self._routing.tries
                if not again or time.monotonic() >= deadline or not self._others(tried):
                    raise failed.error from None
                event(
                    logger,
                    logging.WARNING,
                    "sent to another upstream",
                    request_id=self._exchange.request_id,
                    base_url=tried[-1].base_url,
                    status=failed.error.status,
                    code=failed.error.code,
                )
                self._exchange.retried()
            except ApiError as error:
                raise (first or error) from None
            else:
                return

    async def _send(self, attempt: Attempt, tried: list[Upstream], deadline: float) -> None:
        asked = time.monotonic()
        async with self._admission.place(self._demand, deadline, tried) as upstream:
            self._exchange.sent_to(upstream.base_url, time.monotonic() - asked)
            tried.append(upstream)
            try:
                await attempt(upstream)
            except ApiError as error:
                if error.code != Code.CONTEXT_LENGTH_EXCEEDED:  # which says nothing about the upstream, good or bad
                    upstream.note(failed=error.status in OUT_OF_ORDER)
                raise _FailedError(error) from None
            upstream.note(failed=False)

    def _sent_for(self) -> float:
        """Seconds since the generation was first sent."""
        sent = self._exchange.sent_s
        return 0.0 if sent is None else self._exchange.elapsed() - sent

    def _others(self, tried: list[Upstream]) -> bool:
        return any(one.ready and one not in tried for one in self._demand.upstreams)


class _FailedError(Exception):
    """An attempt failed, as opposed to the wait for it."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.message)
        self.error = error
