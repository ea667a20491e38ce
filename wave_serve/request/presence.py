"""Whether a client is still there, and work that ends when it is not."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

T = TypeVar("T")


class ClientGoneError(Exception):
    """The client went away before it was answered; nobody is there to read an answer."""


async def disconnected(receive: Receive) -> None:
    """Returns when the client has gone away; its request's body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled where the client goes away first.

    Raises:
        ClientGoneError: it did.
    """
    tasks: list[asyncio.Future[Any]] = [task := asyncio.ensure_future(work)]
    try:
        await asyncio.sleep(0)
        if not task.done():  # as most are that need no one else
            tasks.append(asyncio.ensure_future(disconnected(receive)))
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ClientGoneError
        return task.result()
    finally:
        unfinished = [each for each in tasks if each.cancel()]
        await asyncio.gather(*unfinished, return_exceptions=True)
