"""Asks what is still to be asked, a bounded number of requests at once."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

import httpx
from rich.progress import Progress

from wave_serve.eval.endpoint import CONNECT_SECONDS, Endpoint
from wave_serve.eval.errors import LengthError, OptionError
from wave_serve.eval.lengths import parse_lengths, resolve_lengths
from wave_serve.eval.settings import EvalSettings
from wave_serve.settings import redacted
from wave_serve.settings.secret import ENVIRONMENT, read_secret

KEY_VARIABLE = "OPENAI_API_KEY"
Item = TypeVar("Item")


@contextlib.asynccontextmanager
async def open_endpoints(settings: EvalSettings) -> AsyncIterator[list[Endpoint]]:
    """The endpoints of a run, each with its model and limits. Raises EndpointError and OptionError."""
    async with _client(settings) as client:
        endpoints = [Endpoint(address, client) for address in settings.addresses]
        for endpoint in endpoints:
            await endpoint.open(settings.model)
            endpoint.train_length = settings.train_length or endpoint.train_length
        yield endpoints


def _client(settings: EvalSettings) -> httpx.AsyncClient:
    """What asks the endpoints, with key, proxies and certificates of the environment. Raises OptionError."""
    headers = httpx.Headers(encoding="utf-8")
    if os.environ.get(KEY_VARIABLE):
        try:
            headers["authorization"] = f"Bearer {read_secret(ENVIRONMENT + KEY_VARIABLE)}"
        except ValueError as error:
            raise OptionError(str(error)) from None
    timeout = httpx.Timeout(settings.timeout, connect=CONNECT_SECONDS)
    try:
        # Without limits of its own, which would be 100 connections: `each` bounds the requests under way.
        return httpx.AsyncClient(timeout=timeout, headers=headers, limits=httpx.Limits())
    except (ValueError, ImportError, OSError, httpx.InvalidURL) as error:
        reason = redacted(str(error))
        raise OptionError(
            f"the proxies or certificates of the environment (HTTPS_PROXY, SSL_CERT_FILE and so on): {reason}"
        ) from None


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
