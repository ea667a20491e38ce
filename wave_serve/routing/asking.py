"""Small questions to an upstream, such as a prompt's tokens: any that answers will do."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TypeVar

from wave_serve.errors import ApiError
from wave_serve.routing.dispatch import OUT_OF_ORDER
from wave_serve.upstream.upstream import Upstream

T = TypeVar("T")


def least_busy(upstreams: Sequence[Upstream], without: Collection[Upstream] = ()) -> Upstream | None:
    """The ready upstream with the fewest requests, if possible one that does not fail; None where none is ready."""
    ready = [one for one in upstreams if one.ready and one not in without]
    return min(ready, key=lambda one: (one.ejection.active, one.in_flight), default=None)


async def ask_any(
    first: Upstream, upstreams: Sequence[Upstream], question: Callable[[Upstream], Awaitable[T]], tries: int
) -> T:
    """The answer of `first`, or of another of `upstreams` where that one is out of order.

    Raises:
        ApiError: that of the last upstream that was asked; at most `tries` are.
    """
    tried = [first]
    while True:
        try:
            return await question(tried[-1])
        except ApiError as error:
            another = least_busy(upstreams, tried)
            if error.status not in OUT_OF_ORDER or len(tried) >= tries or another is None:
                raise
            tried.append(another)
