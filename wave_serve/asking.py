"""Small questions to an upstream, such as a prompt's tokens: any that answers will do."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from wave_serve.catalogue import ServedModel
from wave_serve.dispatch import OUT_OF_ORDER
from wave_serve.errors import ApiError
from wave_serve.upstream import Upstream

T = TypeVar("T")


async def ask_any(model: ServedModel, question: Callable[[Upstream], Awaitable[T]], tries: int) -> T:
    """The answer of the least busy upstream, or of another where that one is out of order.

    Raises:
        ApiError: 503 where none is ready; else that of the last upstream that was asked.
    """
    tried = [model.pick()]
    while True:
        try:
            return await question(tried[-1])
        except ApiError as error:
            others = [one for one in model.upstreams if one.ready and one not in tried]
            if error.status not in OUT_OF_ORDER or len(tried) >= tries or not others:
                raise
            tried.append(min(others, key=lambda one: (one.ejection.active, one.in_flight)))
