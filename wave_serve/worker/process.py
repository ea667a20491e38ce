"""Hands work on large bodies to a process of its own, so that the event loop stays free to answer."""

import asyncio
import pickle
import sys
from typing import Any

from wave_serve.errors import ApiError, Code
from wave_serve.headers import Header
from wave_serve.worker.operations import LENGTH

PIPE_BYTES = 2**20  # read at once


class Worker:
    """One worker process, started when it is first needed; it does one thing at a time, in order."""

    def __init__(self, large: int) -> None:
        """A worker for inputs of more than `large` bytes or characters."""
        self._large = large
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._calls: set[asyncio.Task[Any]] = set()

    @property
    def pid(self) -> int | None:
        """The process's number; None before its first call."""
        return None if self._process is None else self._process.pid

    def is_large(self, size: int) -> bool:
        """Whether an input of that size is better left to the worker."""
        return size > self._large

    async def call(self, operation: str, *arguments: Any) -> Any:
        """The result of one of the worker's operations.

        Raises:
            ValueError: what the operation refused, with its reason.
            ApiError: 503, the worker ended; the next call starts another.
        """
        # A caller who gives up must not leave half a message behind, so the call goes on without it.
        task = asyncio.create_task(self._call(operation, arguments))
        self._calls.add(task)
        task.add_done_callback(self._done)
        good, result = await asyncio.shield(task)
        if not good:
            raise ValueError(result)
        return result

    async def close(self) -> None:
        """Ends the worker."""
        for call in list(self._calls):
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        await self._end()

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._calls.discard(task)
        if not task.cancelled():
            task.exception()  # asyncio logs a failure that nobody is left to look at

    async def _call(self, operation: str, arguments: tuple[Any, ...]) -> tuple[bool, Any]:
        async with self._turn:
            source, sink = await self._pipes()
            data = pickle.dumps((operation, arguments), protocol=5)
            try:
                sink.write(LENGTH.pack(len(data)))
                sink.write(data)
                del data
                await sink.drain()
                size = LENGTH.unpack(await source.readexactly(LENGTH.size))[0]
                answer: tuple[bool, Any] = pickle.loads(await _read(source, size))  # noqa: S301 - from our own worker
            except (OSError, asyncio.IncompleteReadError):
                await self._end()
                message = "The request was too much for the process that reads large bodies."
                raise ApiError(503, message, code=Code.WORKER_DIED, headers={Header.RETRY_AFTER: "1"}) from None
            return answer

    async def _pipes(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "wave_serve.worker"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=PIPE_BYTES,
            )
        assert self._process.stdout is not None  # noqa: S101 - both are pipes
        assert self._process.stdin is not None  # noqa: S101
        return self._process.stdout, self._process.stdin

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _read(source: asyncio.StreamReader, size: int) -> bytearray:
    """Exactly `size` bytes, copied once."""
    data = bytearray(size)
    view = memoryview(data)
    done = 0
    while done < size:
        part = await source.read(min(PIPE_BYTES, size - done))
        if not part:
            raise asyncio.IncompleteReadError(b"", size)
        view[done : done + len(part)] = part
        done += len(part)
    return data
