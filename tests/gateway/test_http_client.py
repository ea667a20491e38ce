"""The client of the hot path: keeps connections, reads no further than it must, and fails with httpx's exceptions."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest

from wave_serve.http_client import MOST_BUFFERED, HttpClient

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


@contextlib.asynccontextmanager
async def server(serve: Serve) -> AsyncIterator[HttpClient]:
    """A client of a server that calls `serve` for each connection."""
    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    client = HttpClient(f"http://127.0.0.1:{port}/prefix/", connect=2.0, silence=5.0)
    try:
        yield client
    finally:
        client.close()
        listening.close()


async def request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Head and body of a request."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return head, await reader.readexactly(length)


async def ask(client: HttpClient, body: bytes = b"{}") -> bytes:
    async with client.post("/path", body, {"x-mine": "1"}) as answer:
        return await answer.aread()


@pytest.mark.parametrize("size", [2, 70_000, 5_000_000])
def test_a_request_arrives_whole_and_connections_are_kept(size: int) -> None:
    heads, bodies, connections = [], [], []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                head, body = await request(reader)
                heads.append(head)
                bodies.append(body)
                writer.write(OK)
        writer.close()

    async def run() -> None:
        async with server(serve) as client:
            for _ in range(3):
                assert await ask(client, b"x" * size) == b"{}"

    asyncio.run(run())
    assert bodies == [b"x" * size] * 3
    assert len(connections) == 1
    assert heads[0].startswith(b"POST /prefix/path HTTP/1.1\r\nhost: 127.0.0.1:")
    assert b"\r\nx-mine: 1\r\n" in heads[0]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nto the end", b"to the end"),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}", b"{}"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"{}"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n1\r\n \r\n0\r\n\r\n", b"{} "),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (OK + OK, b"{}"),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_answers_of_every_form_however_they_are_cut(answer: bytes, expected: bytes, size: int) -> None:
    keeps = b"close" not in answer and b"to the end" not in answer

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                await request(reader)
                for start in range(0, len(answer), size):
                    writer.write(answer[start : start + size])
                    await writer.drain()
                    await asyncio.sleep(0)
                if not keeps:
                    break
        writer.close()

    async def run() -> None:
        async with server(serve) as client:
            for _ in range(2):  # what the first answer leaves behind must not reach the second
                assert await ask(client) == expected

    asyncio.run(run())


def test_an_answer_that_nobody_takes_is_not_read_ahead_of() -> None:
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                writer.write(b"x" * 2**16)
                sent += 2**16
                await writer.drain()
        writer.close()

    async def run() -> None:
        async with server(serve) as client, client.post("/", b"", {}) as answer:
            pieces = answer.aiter_raw()
            await anext(pieces)
            await asyncio.sleep(0.3)
            assert sent < 1000 * 2**16 / 2
            assert answer._connection._buffered <= MOST_BUFFERED + 2**18  # and one read
            assert sum([len(piece) async for piece in pieces]) > 900 * 2**16

    asyncio.run(run())


def test_leaving_early_closes_the_connection() -> None:
    gone = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nbeginning")
        gone.append(await reader.read())
        writer.close()

    async def run() -> None:
        async with server(serve) as client:
            async with client.post("/", b"", {}) as answer:
                await anext(answer.aiter_raw())
            for _ in range(500):
                if gone:
                    return
                await asyncio.sleep(0.01)

    asyncio.run(run())
    assert gone == [b""]


def test_nobody_there_and_silence_are_httpxs_own_errors() -> None:
    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def run() -> None:
        with pytest.raises(httpx.ConnectError):
            await ask(HttpClient("http://127.0.0.1:9", connect=2.0, silence=5.0))
        async with server(never) as client:
            client._silence = 0.1
            with pytest.raises(httpx.ReadTimeout):
                await ask(client)

    asyncio.run(run())
