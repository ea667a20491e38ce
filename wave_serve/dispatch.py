"""Sends one generation to an upstream, and to another where the first failed before it began to answer."""

import time
from collections.abc import Awaitable, Callable

import httpx

from wave_serve.errors import ApiError
from wave_serve.exchange import Exchange
from wave_serve.upstream import Upstream

Attempt = Callable[[Upstream], Awaitable[None]]
# The upstream is overloaded, going away or out of order; of other errors the next upstream would say the same.
WORTH_ANOTHER = (429, 502, 503, 504)


class Dispatch:
    """The upstreams that one generation may be sent to."""

    def __init__(self, exchange: Exchange, upstreams: list[Upstream], *, tries: int, deadline: float) -> None:
        self._exchange = exchange
        self._upstreams = upstreams
        self._tries = tries
        self._deadline = deadline

    async def run(self, attempt: Attempt, begun: Callable[[], bool]) -> None:
        """Awaits `attempt` on one upstream after another until it succeeds or `begun` says that it may not be repeated.

        Raises:
            ApiError: the last attempt's failure.
        """
        give_up = time.monotonic() + self._deadline
        ready = sorted((one for one in self._upstreams if one.ready), key=lambda one: one.in_flight)
        chosen = (ready or self._upstreams)[: self._tries]
        for number, upstream in enumerate(chosen, start=1):
            self._exchange.upstream = upstream.base_url
            if self._exchange.sent_s is None:
                self._exchange.sent_s = self._exchange.elapsed()
            upstream.in_flight += 1
            try:
                await attempt(upstream)
            except (ApiError, httpx.HTTPError) as error:
                failure = upstream.failure(error) if isinstance(error, httpx.HTTPError) else error
                last = number == len(chosen) or time.monotonic() >= give_up
                if last or begun() or failure.status not in WORTH_ANOTHER:
                    raise failure from None
            else:
                return
            finally:
                upstream.in_flight -= 1
