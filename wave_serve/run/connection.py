"""One client's connection: uvicorn's, with bounds on time and size, and refusals in OpenAI's shape."""

import asyncio
import json
import logging
import socket
import struct
from http import HTTPStatus
from typing import Any, cast

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from wave_serve.errors import ApiError, invalid
from wave_serve.exchange import KEY, Exchange
from wave_serve.logs import event
from wave_serve.run.head import HeadBounds
from wave_serve.settings import Settings

logger = logging.getLogger("wave_serve.connection")
MOST_WAITING = 100  # requests of one connection that were sent before an earlier one was answered
LINGER_SECONDS = 2.0  # for a refused client to read why, while what it still sends is dropped
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: at the end the system too drops what was not taken, up to megabytes


class Connection(HttpToolsProtocol):
    """Hangs up where the head of a request, or what is left of one that was answered, takes too long to arrive.

    A head that is too large is refused before all of it has come. A body has bounds of its own, and who misses its
    deadline is told so. A request to go on with another protocol (`Upgrade`) is answered as if it did not ask for it.
    A client that takes nothing of what it was sent is cut off, whether the answer is under way, over, or the last one.
    """

    settings: Settings

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self.timeout_keep_alive = self.settings.timeouts.idle  # type: ignore[assignment] # uvicorn's option is whole
        self._bounds = HeadBounds(self.settings.max_head_bytes, self.settings.max_headers)
        self._step = self.settings.max_head_bytes // 4  # bytes parsed before the bounds are looked at
        self._partial = False  # whether a request has arrived in part
        self._in_body = False  # whether its head was complete
        self._body_left = 0  # bytes of its body that are yet to come, where its head says how many
        self._refusal: ApiError | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._answered: RequestResponseCycle | None = None  # the last that has come, `cycle`, may wait for this one
        self._untaken = 0  # bytes that waited for the client at the last look; 0 where it has taken some since then
        self._next_look: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self._wait()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._wait_no_more()
        if self._next_look is not None:
            self._next_look.cancel()
        if self._answered is not None and self._answered is not self.cycle:
            self._answered.disconnected = True
            self._answered.message_event.set()
        super().connection_lost(exc)

    def resume_writing(self) -> None:
        """The client has taken most of what waited for it."""
        self._untaken = 0
        super().resume_writing()

    def cut_off(self) -> None:
        """Ends the connection where something waits for the client, which is not waited for."""
        untaken = self.transport.get_write_buffer_size()
        if not untaken:
            return
        exchange = None if self._answered is None else cast("Exchange | None", self._answered.scope.get(KEY))
        request_id = None
        if exchange is not None:
            request_id = exchange.request_id
            exchange.client_left()
        message = "client cut off: it does not take its answer"
        event(logger, logging.WARNING, message, request_id=request_id, untaken_bytes=untaken)
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """More has come; the limit on idle connections ends here, though it may be no request."""
        if self._refusal is not None:
            return
        self._unset_keepalive_if_required()
        try:
            left = memoryview(data)
            while left:
                # A body is joined from its parts, each time all of it, so that it is parsed in parts as large as they
                # come; what is behind it may be the next head.
                step = max(self._step, self._body_left)
                part, left = left[:step], left[step:]
                self._parse(part)
                if self._partial:
                    self._bounds.read(len(part))
        except ApiError as refusal:
            self._refuse(refusal)
        except httptools.HttpParserError as error:
            cause = error.__context__  # what one of the methods below raised
            self._refuse(cause if isinstance(cause, ApiError) else invalid("Invalid HTTP request received."))
        else:
            if self._patience is None and (self._partial or not self._answering()):
                self._wait()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._bounds.begin()
        self._partial = True
        self._in_body = False

    def on_url(self, url: bytes) -> None:
        """A part of a request's target."""
        self._bounds.url(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer behind a chunked body; nobody asks for those."""
        self._bounds.header(name, value)
        if not self._in_body:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head of a request; one that asks for an upgrade comes twice, see `_parse`."""
        if self._asks_for_upgrade():
            return
        if len(self.pipeline) >= MOST_WAITING:
            raise invalid(f"More than {MOST_WAITING} requests were sent without waiting for an answer.")
        self._in_body = True
        self._body_left = int(dict(self.headers).get(b"content-length", 0))
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of a request's body."""
        self._bounds.body()
        self._body_left -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The last byte of a request."""
        if not self._asks_for_upgrade():
            super().on_message_complete()
            self._partial = False
            self._wait_no_more()

    def on_response_complete(self) -> None:
        """The last byte of an answer; where the client has sent nonsense behind the request, that was the last one."""
        self._untaken = 0
        super().on_response_complete()
        if self._refusal is not None and not self._answering():
            self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def _parse(self, left: memoryview) -> None:
        """Has the parser read all that is left; it calls the methods above.

        At an upgrade the parser stops behind the head and would not read the body. No other protocol is spoken here,
        and such a request is to be answered like any other (RFC 9110, 7.8), so it gets the head again without the
        header that asks, and then what follows.
        """
        while left:
            try:
                self.parser.feed_data(left)
            except httptools.HttpParserUpgrade as pause:
                left = left[pause.args[0] :]
                if self.parser.get_method() == b"CONNECT":
                    raise invalid("The method CONNECT is not supported: this is no proxy.") from None
                self.parser.feed_data(self._head_without_upgrade())
            else:
                break

    def _asks_for_upgrade(self) -> bool:
        return not self._in_body and self.parser.should_upgrade()

    def _head_without_upgrade(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/" + version]
        lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def _refuse(self, refusal: ApiError) -> None:
        """Reads no more requests on this connection, and says why, where that does not break into another answer."""
        self.logger.warning(refusal.message)
        self._refusal = refusal
        self._wait_no_more()
        if self._answering():
            if not (self._partial and self._in_body):
                return  # an earlier request is being answered; `on_response_complete` hangs up
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if self.cycle.response_started or self.pipeline:
                self.transport.close()
                return
        self.parser = None  # type: ignore[assignment] # with what it holds of the head
        self.headers, self.url = [], b""
        body = json.dumps(refusal.body()).encode()
        head = f"HTTP/1.1 {refusal.status} {HTTPStatus(refusal.status).phrase}\r\ncontent-type: application/json\r\n"
        self.transport.write(f"{head}connection: close\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        # Closing a socket that holds unread bytes resets the connection, and the client may lose the answer.
        self.transport.write_eof()
        self._patience = self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _look(self) -> None:
        """Cuts the client off where it has taken nothing since the last look, of what was sent before that.

        The sizes at two looks tell so only where nothing was added between them: while uvicorn waits for the client,
        between requests, and once the connection is closing, which it does for as long as something is left.
        """
        nothing_added = self.flow.write_paused or not self._answering() or self.transport.is_closing()
        untaken = self.transport.get_write_buffer_size() if nothing_added else 0
        if untaken and untaken == self._untaken:
            self.cut_off()
        else:
            self._untaken = untaken
            self._next_look = self.loop.call_later(self.settings.timeouts.idle, self._look)

    def _wait(self) -> None:
        if not self.transport.is_closing():
            self._patience = self.loop.call_later(self.settings.timeouts.body, self._give_up)

    def _wait_no_more(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _give_up(self) -> None:
        self._patience = None
        if self._answering():
            self._wait()
        else:
            self.transport.close()


def connection_class(settings: Settings) -> type[Connection]:
    """The class for the connections of a gateway with those settings."""
    return type("Connection", (Connection,), {"settings": settings})
