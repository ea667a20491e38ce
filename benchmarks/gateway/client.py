"""Sends prepared HTTP requests over kept connections and times them; costs little beside what it measures."""

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

KEY = "sk-wave-" + secrets.token_hex(32)  # the key that every proxy is configured with


@dataclass
class Load:
    """What came back: seconds of each answered request beyond the upstream's own, and how many had another status
    than 200, by status."""

    seconds: list[float] = field(default_factory=list)
    others: dict[int, int] = field(default_factory=dict)
    wall: float = 0.0


@dataclass
class Request:
    """One request as bytes, which takes the upstream `upstream_s` seconds; a client that leaves does so after
    `leave_after` seconds."""

    data: bytes
    upstream_s: float = 0.0
    leave_after: float | None = None


def post(port: int, path: str, body: bytes, name: str = "") -> bytes:
    """An HTTP request as bytes."""
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
    head += f"content-length: {len(body)}\r\nauthorization: Bearer {KEY}\r\n"
    return (head + (f"x-request-id: {name}\r\n" if name else "") + "\r\n").encode() + body


def get(port: int, path: str) -> bytes:
    """A GET as bytes."""
    return f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\r\n".encode()


class Connection:
    """A kept connection; it opens again where the other side has closed it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, data: bytes) -> tuple[int, bytes]:
        """Status and body of the answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=2**20)
        reader, writer = self._streams
        try:
            writer.write(data)
            await writer.drain()
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            body = await _body(reader, head)
        except BaseException:
            self.close()
            raise
        if b"\r\nconnection: close" in head:
            self.close()
        return int(head.split(b" ", 2)[1]), body

    def close(self) -> None:
        """Leaves, whatever is under way."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


async def closed_loop(
    port: int, make: Callable[[int], Request], concurrency: int, requests: int, apart: float = 0.0
) -> Load:
    """Each of `concurrency` clients sends its next request as soon as it has its answer, `requests` in all.

    They begin `apart` seconds one after another: clients that all begin at once are a burst that no service sees.
    """
    load, numbers = Load(), iter(range(requests))
    begun = time.perf_counter()

    async def client(place: int) -> None:
        await asyncio.sleep(place * apart)
        connection = Connection(port)
        for number in numbers:
            request = make(number)
            started = time.perf_counter()
            status = await _one(connection, request)
            if status == 200:
                load.seconds.append(time.perf_counter() - started - request.upstream_s)
            else:
                load.others[status] = load.others.get(status, 0) + 1
        connection.close()

    await asyncio.gather(*(client(place) for place in range(concurrency)))
    load.wall = time.perf_counter() - begun
    return load


async def _one(connection: Connection, request: Request) -> int:
    """Status of the answer; 499 where the client left, 0 where the connection broke."""
    try:
        async with asyncio.timeout(request.leave_after):
            return (await connection.send(request.data))[0]
    except TimeoutError:
        return 499
    except (ConnectionError, asyncio.IncompleteReadError):
        return 0


async def _body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    if b"\r\ntransfer-encoding: chunked" not in head:
        length = head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
        return await reader.readexactly(int(length or b"0"))
    parts = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        parts.append(await reader.readexactly(size + 2))
    await reader.readuntil(b"\r\n")
    return b"".join(part[:-2] for part in parts)
