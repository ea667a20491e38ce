"""Passes a generation on to an upstream and its answer back; a client that goes away aborts it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from pydantic_core import from_json
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from wave_serve.errors import ApiError, Code
from wave_serve.exchange import Exchange
from wave_serve.headers import Header
from wave_serve.observe.metrics import Metrics
from wave_serve.relay.event_writer import EventWriter
from wave_serve.relay.events import BrokenStreamError, EventStream
from wave_serve.relay.handling import Handling
from wave_serve.relay.usage import AnswerUsage
from wave_serve.request.dialects import Dialect
from wave_serve.request.presence import disconnected
from wave_serve.routing.dispatch import Dispatch
from wave_serve.settings import TimeoutSettings
from wave_serve.upstream.answer import FAILURES, UpstreamAnswer
from wave_serve.upstream.errors import from_upstream
from wave_serve.upstream.upstream import Upstream

FAREWELL_SECONDS = 1.0  # for a client to take the error that ends its stream, and an upstream to end a complete one


class Relay(Response):
    """The answer to a generation, fetched from an upstream while it is sent.

    `dispatch` chooses the upstream, and another one as long as no upstream has begun to answer (`_committed`).
    """

    def __init__(
        self,
        dispatch: Dispatch,
        dialect: Dialect,
        request_body: bytes,
        exchange: Exchange,
        metrics: Metrics,
        *,
        timeouts: TimeoutSettings,
        handling: Handling,
    ) -> None:
        super().__init__()
        self._dispatch = dispatch
        self._dialect = dialect
        self._request_body = request_body
        self._exchange = exchange
        self._metrics = metrics
        self._timeouts = timeouts
        self._handling = handling
        self._committed = False
        self._answered = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the answer. Raises ApiError as long as nothing has been sent."""
        exchange = self._exchange
        answer = self._stream(send) if exchange.stream else self._whole(scope, receive, send)
        in_flight = self._metrics.in_flight.labels(exchange.model)
        work = asyncio.create_task(answer)
        gone = asyncio.create_task(disconnected(receive))
        in_flight.inc()
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            # The server reports a disconnect after a complete answer too.
            if work.done() or self._answered:
                await work
            else:
                exchange.client_left()
        except ApiError as error:
            if self._handling.held_to_grammar and error.status == 500:
                error.headers[Header.SHOULD_RETRY] = "false"
            raise
        finally:
            unfinished = [task for task in (work, gone) if task.cancel()]
            await asyncio.gather(*unfinished, return_exceptions=True)
            in_flight.dec()

    async def _whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        found: list[bytes] = []

        async def attempt(upstream: Upstream) -> None:
            found.append(await self._fetch(upstream))

        async with _deadline(self._timeouts.generation):
            await self._dispatch.run(attempt, lambda: self._committed)
        self._answered = True
        await Response(found[0], media_type="application/json")(scope, receive, send)

    async def _fetch(self, upstream: Upstream) -> bytes:
        async with upstream.client.stream(self._dialect.path, self._request_body, self._exchange.forward) as answer:
            self._exchange.first_byte()
            self._committed = answer.status < 400
            body = await answer.read()
        if answer.status >= 400:
            raise from_upstream(answer.status, body, answer.headers)
        try:
            answered = from_json(body)
        except ValueError:
            answered = None
        if not isinstance(answered, dict):
            raise ApiError(502, "The upstream's answer is not a JSON object.", code=Code.UPSTREAM_MALFORMED)
        self._seen(answered)
        self._report_usage()
        return self._usage().extended(answered) or body

    async def _stream(self, send: Send) -> None:
        writer: EventWriter | None = None
        beats: list[asyncio.Task[None]] = []

        async def attempt(upstream: Upstream) -> None:
            nonlocal writer
            if writer is None:  # only now: while a request waits for admission its refusal is a plain 429
                writer = EventWriter(send, self._dialect)
                beats.append(asyncio.create_task(writer.beat(self._timeouts.keep_alive)))
            await self._pump(upstream, writer)

        try:
            async with _deadline(self._timeouts.generation):
                await self._dispatch.run(attempt, lambda: self._committed)
        except ApiError as error:
            self._answered = True  # a client that has its error may go; it did not leave early
            if writer is None or not await _farewell(writer, error):
                raise
            self._exchange.failed(error)
        finally:
            for beat in beats:
                beat.cancel()
            await asyncio.gather(*beats, return_exceptions=True)

    async def _pump(self, upstream: Upstream, writer: EventWriter) -> None:
        async with upstream.client.stream(self._dialect.path, self._request_body, self._exchange.forward) as answer:
            if answer.status >= 400:
                raise from_upstream(answer.status, await answer.read(), answer.headers)
            if not answer.headers.get("content-type", "").startswith("text/event-stream"):
                raise ApiError(502, "The upstream did not answer with an event stream.", code=Code.UPSTREAM_MALFORMED)
            events = EventStream(self._dialect, self._usage(), self._seen)
            chunks = self._chunks(answer)
            async for chunk in chunks:
                self._exchange.first_byte()
                broken: BrokenStreamError | None = None
                try:
                    whole = events.feed(chunk)
                except BrokenStreamError as error:
                    whole, broken = error.whole, error
                self._committed = events.has_event
                await writer.write(whole)
                if events.has_token:
                    self._exchange.first_token()
                if broken is not None:
                    raise broken.error
                if events.done:
                    self._answered = True
                    self._report_usage()
                    await writer.close()
                    await _end_of(chunks)
                    return
        raise ApiError(502, "The upstream ended its stream before the answer was complete.", code=Code.UPSTREAM_DIED)

    def _usage(self) -> AnswerUsage:
        return AnswerUsage(
            self._dialect,
            self._exchange.prompt.usage_extension,
            hidden=self._handling.hide_usage,
            echoed_prefix=self._handling.echoed_prefix,
        )

    def _seen(self, part: Any) -> None:
        """A whole answer, or an event of its stream, has come as JSON."""
        self._exchange.answer_part(self._dialect.told(part))
        if self._handling.on_part is not None:
            self._handling.on_part(part)

    def _report_usage(self) -> None:
        """Tells what the upstream counted, where it said so."""
        tokens = self._exchange.answer.input_tokens
        if tokens is not None and self._handling.on_usage is not None:
            self._handling.on_usage(tokens)

    async def _chunks(self, answer: UpstreamAnswer) -> AsyncIterator[bytes]:
        """An answer's bytes; whether it has begun takes account of those that are lost."""
        try:
            async for chunk in answer.chunks():
                yield chunk
        except FAILURES:
            self._committed = self._committed or answer.lost
            raise


@contextlib.asynccontextmanager
async def _deadline(seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        message = f"The generation took longer than {seconds:g} s."
        raise ApiError(504, message, code=Code.GENERATION_TIMEOUT, headers={Header.SHOULD_RETRY: "false"}) from None


async def _farewell(writer: EventWriter, error: ApiError) -> bool:
    """Ends a stream with `error`; False where it has not begun. A client that takes nothing is cut off."""
    try:
        async with asyncio.timeout(FAREWELL_SECONDS):
            return await writer.fail(error)
    except TimeoutError:
        return True


async def _end_of(chunks: AsyncIterator[bytes]) -> None:
    """Reads to the upstream's end of a complete stream, so that its connection can be used again."""
    with contextlib.suppress(*FAILURES):
        async with asyncio.timeout(FAREWELL_SECONDS):
            async for _ in chunks:
                pass
