"""Listens on a socket and runs an ASGI application until it is told to stop."""

import asyncio
import contextlib
import math
import socket
from collections.abc import Coroutine, Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.loops.auto import auto_loop_factory

from wave_serve.errors import ExplainedError
from wave_serve.run.connection import Connection, connection_class
from wave_serve.settings import Settings
from wave_serve.settings.address import plain_host

PIECE_BYTES = 2**16  # of an answer, as much again as uvicorn lets wait for a client


class ListenError(ExplainedError, OSError):
    """The address cannot be listened on; the message says which and why."""


class Server(uvicorn.Server):
    """uvicorn, whose caller handles the signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals alone."""
        yield

    def stop(self) -> None:
        """Accepts no more connections; `serve` returns once running requests are done or the time for them is up."""
        self.should_exit = True

    def cut_off(self) -> None:
        """Ends the connections of clients that have not taken what they were sent."""
        for connection in list(self.server_state.connections):
            assert isinstance(connection, Connection)  # noqa: S101 - see `make_server`
            connection.cut_off()


def listen(host: str, port: int) -> socket.socket:
    """A bound and listening socket. Raises ListenError."""
    try:
        found = socket.getaddrinfo(plain_host(host), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(2048)
    except OSError as error:
        raise ListenError(f"cannot listen on {host} port {port}: {error.strerror}") from None
    except UnicodeError:  # what IDNA makes of a name that is none
        raise ListenError(f"cannot listen on {host} port {port}: no valid name of a host") from None
    return sock


def make_server(app: ASGIApp, settings: Settings, grace: float) -> Server:
    """A server that lets running requests take `grace` seconds after `stop`."""
    config = uvicorn.Config(
        _in_pieces(app),
        http=connection_class(settings),
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=math.ceil(grace),
        server_header=False,
        ws="none",
    )
    return Server(config)


def _in_pieces(app: ASGIApp) -> ASGIApp:
    """`app`, whose answers are under way until the client has taken all but the last pieces of them.

    uvicorn waits for a client that does not read before it takes the next part of an answer. It would take one of any
    size, and the request would be over while all of it is still in memory.
    """

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_pieces(message: Message) -> None:
            body = message.get("body", b"")
            last = max(0, len(body) - 1) // PIECE_BYTES * PIECE_BYTES
            for start in range(0, last, PIECE_BYTES):
                await send({**message, "body": body[start : start + PIECE_BYTES], "more_body": True})
            await send({**message, "body": body[last:]} if last else message)

        await app(scope, receive, send_pieces)

    return call


def run_loop(work: Coroutine[Any, Any, None]) -> None:
    """Runs `work` in an event loop of uvloop, which takes less CPU time than asyncio's own, where that is installed."""
    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
        runner.run(work)
