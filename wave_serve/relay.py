"""Passes a generation on to an upstream and its answer back; a client that goes away aborts it."""

import asyncio
from collections.abc import Mapping

import httpx
from pydantic_core import from_json
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from wave_serve.errors import ApiError
from wave_serve.event_writer import EventWriter
from wave_serve.exchange import Exchange
from wave_serve.metrics import Metrics
from wave_serve.sse import BrokenStreamError, EventStream
from wave_serve.upstream import Upstream
from wave_serve.upstream_errors import from_upstream


class Relay(Response):
    """The answer to a generation, fetched from the upstream while it is sent."""

    def __init__(
        self,
        upstream: Upstream,
        path: str,
        request_body: bytes,
        exchange: Exchange,
        metrics: Metrics,
        *,
        forward: Mapping[str, str],
        keep_alive: float,
    ) -> None:
        super().__init__()
        self._upstream = upstream
        self._path = path
        self._request_body = request_body
        self._exchange = exchange
        self._metrics = metrics
        self._forward = forward
        self._keep_alive = keep_alive
        self._answered = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the answer. Raises ApiError as long as nothing has been sent."""
        exchange = self._exchange
        answer = self._stream(send) if exchange.stream else self._whole(scope, receive, send)
        in_flight = self._metrics.in_flight.labels(exchange.model)
        work = asyncio.create_task(answer)
        gone = asyncio.create_task(_disconnected(receive))
        exchange.sent_s = exchange.elapsed()
        self._upstream.in_flight += 1
        in_flight.inc()
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            # The server reports a disconnect after a complete answer too.
            if work.done() or self._answered:
                await work
            else:
                exchange.aborted = True
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)
            self._upstream.in_flight -= 1
            in_flight.dec()

    async def _whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with self._upstream.stream(self._path, self._request_body, self._forward) as answer:
                self._first_byte()
                body = await answer.aread()
        except httpx.HTTPError as error:
            raise self._upstream.failure(error) from None
        if answer.status_code >= 400:
            raise from_upstream(answer.status_code, body, answer.headers)
        try:
            from_json(body)
        except ValueError:
            raise ApiError(502, "The upstream's answer is not JSON.", code="upstream_malformed") from None
        self._answered = True
        await Response(body, media_type="application/json")(scope, receive, send)

    async def _stream(self, send: Send) -> None:
        writer = EventWriter(send)
        beat = asyncio.create_task(writer.beat(self._keep_alive))
        try:
            await self._pump(writer)
        except httpx.HTTPError as error:
            await self._end(writer, self._upstream.failure(error))
        except ApiError as error:
            await self._end(writer, error)
        finally:
            beat.cancel()
            await asyncio.gather(beat, return_exceptions=True)

    async def _pump(self, writer: EventWriter) -> None:
        async with self._upstream.stream(self._path, self._request_body, self._forward) as answer:
            if answer.status_code >= 400:
                raise from_upstream(answer.status_code, await answer.aread(), answer.headers)
            if not answer.headers.get("content-type", "").startswith("text/event-stream"):
                raise ApiError(502, "The upstream did not answer with an event stream.", code="upstream_malformed")
            events = EventStream()
            await writer.start()
            async for chunk in answer.aiter_raw():
                self._first_byte()
                try:
                    await writer.write(events.feed(chunk))
                    if events.begun and self._exchange.first_token_s is None:
                        self._exchange.first_token_s = self._exchange.elapsed()
                except BrokenStreamError as broken:
                    await writer.write(broken.whole)
                    raise broken.error from None
        if not events.done:
            raise ApiError(502, "The upstream ended its stream before the answer was complete.", code="upstream_died")
        self._answered = True
        await writer.close()

    async def _end(self, writer: EventWriter, error: ApiError) -> None:
        """Ends the stream with an error event; before the first byte the error is a plain answer."""
        if not await writer.fail(error):
            raise error
        self._exchange.error = error.code or error.type

    def _first_byte(self) -> None:
        if self._exchange.first_byte_s is None:
            self._exchange.first_byte_s = self._exchange.elapsed()


async def _disconnected(receive: Receive) -> None:
    """Returns when the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass
