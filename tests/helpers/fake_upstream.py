"""A scriptable stand-in for a vLLM server on a real socket, for the faults that a healthy engine does not show."""

import asyncio
import json
import ssl
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

COUNTS = ("/v1/chat/completions/render", "/v1/responses/render", "/v1/messages/count_tokens")
UNRECORDED = ("/health", "/v1/models", "/metrics", *COUNTS)  # what a gateway asks by itself
GENERATIONS = ("/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/messages")
Handler = Callable[["Connection"], Awaitable[None]]


@dataclass
class Connection:
    """One request, and the socket to answer on."""

    path: str
    headers: dict[str, str]
    body: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        """Writes bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()

    async def chunk(self, data: bytes) -> None:
        """Writes one chunk of a chunked body."""
        await self.send(b"%x\r\n%s\r\n" % (len(data), data))

    async def gone(self) -> None:
        """Returns when the other side has closed the connection."""
        while await self.reader.read(2**16):
            pass


@dataclass
class FakeUpstream:
    """Serves in a thread; `answers` maps paths to handlers and may be changed at any time."""

    model: str = "fake"
    max_model_len: int = 1000
    answers: dict[str, Handler] = field(default_factory=dict)
    requests: list[Connection] = field(default_factory=list)
    aborted: threading.Event = field(default_factory=threading.Event)
    open_generations: int = 0
    port: int = 0
    tls: ssl.SSLContext | None = None
    host: str = "127.0.0.1"

    def __enter__(self) -> "FakeUpstream":
        standard = {
            "/health": reply(b"{}"),
            "/v1/models": reply_json({"data": [{"id": self.model, "max_model_len": self.max_model_len}]}),
            "/tokenize": self._tokenize,
            "/detokenize": self._detokenize,
            "/v1/completions": reply_json({"object": "text_completion", "choices": [{"index": 0, "text": "ok"}]}),
        }
        self.answers = standard | self.answers
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        """Root of the server."""
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}"

    @property
    def generations(self) -> int:
        """How often a generation was asked for."""
        return sum(request.path in GENERATIONS for request in self.requests)

    def stop(self) -> None:
        """Closes the listening socket and every connection, as a killed process does."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()

    def start(self) -> None:
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()

    async def _listen(self) -> None:
        self._tasks: set[asyncio.Task] = set()
        self._server = await asyncio.start_server(self._serve, self.host, self.port, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            connection = Connection(head[0].split(" ")[1], headers, body, reader, writer)
            if connection.path not in UNRECORDED:
                self.requests.append(connection)
            generation = connection.path in GENERATIONS
            self.open_generations += generation
            try:
                await self.answers.get(connection.path, reply(b"", "404 Not Found"))(connection)
            finally:
                self.open_generations -= generation
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _tokenize(self, connection: Connection) -> None:
        request = json.loads(connection.body)
        text = request.get("prompt") or "".join(message["content"] for message in request["messages"])
        ids = [1, *text.encode()] if request.get("add_special_tokens", True) else [*text.encode()]
        await reply_json({"tokens": ids, "count": len(ids), "max_model_len": self.max_model_len})(connection)

    async def _detokenize(self, connection: Connection) -> None:
        text = bytes(token % 256 for token in json.loads(connection.body)["tokens"]).decode("utf-8", "replace")
        await reply_json({"prompt": text})(connection)

    async def wait_for_abort(self, connection: Connection) -> None:
        """A handler that never answers and notes when the other side gives up."""
        await connection.gone()
        self.aborted.set()


def when(event: threading.Event) -> Handler:
    """A step that waits for an event of another thread."""

    async def handle(_connection: Connection) -> None:
        await asyncio.to_thread(event.wait, 10)

    return handle


def reply(body: bytes, status: str = "200 OK", content_type: str = "application/json") -> Handler:
    """A handler with a fixed answer."""

    async def handle(connection: Connection) -> None:
        head = f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\nconnection: close"
        await connection.send(head.encode() + b"\r\n\r\n" + body)

    return handle


def reply_json(value: object, status: str = "200 OK") -> Handler:
    """A handler with a fixed JSON answer."""
    return reply(json.dumps(value).encode(), status)


def stream(*steps: bytes | float | Handler, end: bool = True) -> Handler:
    """A handler that sends an event stream: bytes are sent, numbers waited for (seconds), handlers called.

    Without `end` the connection is cut as by a killed process.
    """

    async def handle(connection: Connection) -> None:
        head = (
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
            b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n"
        )
        await connection.send(head)
        for step in steps:
            if isinstance(step, bytes):
                await connection.chunk(step)
            elif isinstance(step, float):
                await asyncio.sleep(step)
            else:
                await step(connection)
        if end:
            await connection.send(b"0\r\n\r\n")

    return handle


def raw(*steps: bytes | float | Handler) -> Handler:
    """A handler that writes bytes as they are, waits for numbers (seconds) and calls handlers, then hangs up."""

    async def handle(connection: Connection) -> None:
        for step in steps:
            if isinstance(step, bytes):
                await connection.send(step)
            elif isinstance(step, float):
                await asyncio.sleep(step)
            else:
                await step(connection)

    return handle


async def hang_up(connection: Connection) -> None:
    """A handler that closes the connection without an answer."""


async def never(connection: Connection) -> None:
    """A handler that sends nothing until the other side gives up."""
    await connection.gone()


def delta(text: str) -> bytes:
    """One event of a completion."""
    return b"data: " + json.dumps({"choices": [{"index": 0, "text": text}]}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
