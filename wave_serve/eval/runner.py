"""Asks what is still to be asked, a bounded number of requests at once."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

import httpx
from rich.progress import Progress

from wave_serve.eval.endpoint import CONNECT_SECONDS, Endpoint
from wave_serve.eval.errors import LengthError
from wave_serve.eval.lengths import parse_lengths, resolve_lengths
from wave_serve.eval.settings import EvalSettings

KEY_VARIABLE = "OPENAI_API_KEY"
Item = TypeVar("Item")


@contextlib.asynccontextmanager
async def open_endpoints(settings: EvalSettings) -> AsyncIterator[list[Endpoint]]:
    """The endpoints of a run, each with its model and limits. Raises EndpointError."""
    key = os.environ.get(KEY_VARIABLE)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    timeout = httpx.Timeout(settings.timeout, connect=CONNECT_SECONDS)
    async with httpx.AsyncClient(timeout=timeout, headers=headers) as client:
        endpoints = [Endpoint(address, client) for address in settings.addresses]
        for endpoint in endpoints:
            await endpoint.open(settings.model)
            endpoint.train_length = settings.train_length or endpoint.train_length
        yield endpoints


def token_lengths(settings: EvalSettings, endpoints: Sequence[Endpoint]) -> list[int]:
    """The lengths of a run in tokens, ascending. Raises LengthError."""
    return resolve_lengths(parse_lengths(settings.lengths), [endpoint.train_length for endpoint in endpoints])


def check_limit(endpoint: Endpoint, length: int, needed: int) -> None:
    """Raises LengthError where a length needs more tokens in a request than the endpoint admits."""
    if endpoint.limit is not None and needed > endpoint.limit:
        raise LengthError(
            f"endpoint {endpoint.name}: length {length} needs {needed} tokens, its limit is {endpoint.limit} tokens"
        )


async def each(items: Iterable[Item], parallel: int, work: Callable[[Item], Awaitable[None]]) -> None:
    """Runs `work` on every item in their order, up to `parallel` at once; the first error ends all of it."""
    waiting = iter(items)

    async def worker() -> None:
        for item in waiting:
            await work(item)

    workers = [asyncio.create_task(worker()) for _ in range(parallel)]
    try:
        await asyncio.gather(*workers)
    finally:
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


def bar(progress: Progress, label: str, total: int) -> Callable[[int], None]:
    """A new bar; the function it returns moves it on."""
    task = progress.add_task(label, total=total)
    return lambda amount: progress.advance(task, amount)
