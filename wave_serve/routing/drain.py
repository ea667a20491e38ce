"""The end of a gateway's life: running requests may finish, until those that have not are told that it is over."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any, cast

from wave_serve.errors import ApiError, Code
from wave_serve.headers import Header

RETRY_SECONDS = 1  # another instance, or this one's successor, can be asked at once


class Drain:
    """Knows the running requests.

    Attributes:
        stopping: set at SIGTERM; running requests go on.
        over: set when the time for them is up.
    """

    def __init__(self) -> None:
        self.stopping = False
        self.over = False
        self._tasks: set[asyncio.Task[Any]] = set()

    def begin(self) -> None:
        """The process is asked to stop: it is not ready for new work any more."""
        self.stopping = True

    def end(self) -> None:
        """Ends every running request with an error that its client can read."""
        self.stopping = self.over = True
        for task in tuple(self._tasks):
            task.cancel()

    @contextlib.contextmanager
    def covers(self) -> Iterator[None]:
        """Makes the current task, one request, known to `end`. Raises ApiError 503 where `end` has ended it."""
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        if self.over:
            raise _stopping()
        self._tasks.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if not self.over:
                raise
            task.uncancel()
            raise _stopping() from None
        finally:
            self._tasks.discard(task)


def _stopping() -> ApiError:
    message = "The gateway is shutting down; the answer is not complete."
    return ApiError(503, message, code=Code.GATEWAY_STOPPING, headers={Header.RETRY_AFTER: str(RETRY_SECONDS)})
