"""One client's connection: uvicorn's, but it does not wait for ever, and its own refusal has OpenAI's shape."""

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from wave_serve.errors import invalid


class Connection(HttpToolsProtocol):
    """Hangs up where the head of a request, or what is left of one that was answered, takes too long to arrive.

    A body that is being read has a deadline of its own; who misses it is told so. `arrival` is in seconds.
    """

    arrival: float

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self._partial = False  # whether a request has arrived in part
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._wait_no_more()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """More has come; uvicorn's own limit on idle connections ends here, though it may be no request."""
        super().data_received(data)
        if self._patience is None and (self._partial or not self._answering()):
            self._wait()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._partial = True

    def on_message_complete(self) -> None:
        """The last byte of a request."""
        super().on_message_complete()
        self._partial = False
        self._wait_no_more()

    def send_400_response(self, msg: str) -> None:
        """Refuses what is not HTTP, and hangs up."""
        body = json.dumps(invalid(msg).body()).encode()
        head = "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n"
        self.transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        self.transport.close()

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait(self) -> None:
        if not self.transport.is_closing():
            self._patience = self.loop.call_later(self.arrival, self._give_up)

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


def connection_class(arrival: float) -> type[Connection]:
    """The class for connections on which nothing may take longer than `arrival` seconds to come."""
    return type("Connection", (Connection,), {"arrival": arrival})
