"""A vLLM server that computes nothing, models a prefix cache, and writes down what happens to each request.

    python -m benchmarks.drill.engine ADDRESS PORT RECORD

Each line of RECORD is written at once, so that it is there though the process is killed: the time, what happened
(asked, begun, done, left), the request's id and, with `asked`, its tokens and how many of them the cache held.
"""

import asyncio
import hashlib
import json
import os
import sys
import time
from typing import Any

MODEL = "drill"
MAX_MODEL_LEN = 100_000
TOKEN_BYTES = 16
BLOCK_BYTES = 256
READ = 20_000.0  # tokens a second that the cache does not hold
GAP = 0.02  # seconds between two tokens
EVENT = b'data: {"id":"x","object":"text_completion","model":"drill","choices":[{"index":0,"text":" a"}]}\n\n'


class Engine:
    """One process's life: its cache is empty when it begins."""

    def __init__(self, record: int) -> None:
        self._record = record
        self._cached: set[bytes] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, kept alive."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                await self._answer(head[0].split(" ")[1], headers, body, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(
        self,
        path: str,
        headers: dict[str, str],
        body: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        match path:
            case "/health":
                await send(writer, {})
            case "/v1/models":
                await send(writer, {"data": [{"id": MODEL, "max_model_len": MAX_MODEL_LEN}]})
            case "/tokenize":
                ids = list(range(len(json.loads(body)["prompt"]) // TOKEN_BYTES + 1))
                await send(writer, {"tokens": ids, "count": len(ids), "max_model_len": MAX_MODEL_LEN})
            case "/v1/completions":
                await self._generate(headers.get("x-request-id", "none"), json.loads(body), reader, writer)
            case _:
                await send(writer, {"detail": "Not Found"}, "404 Not Found")

    async def _generate(
        self, name: str, asked: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        tokens, cached = self._look_up(asked["prompt"].encode())
        self._note("asked", name, tokens, cached)
        work = asyncio.create_task(self._write(name, asked, tokens, cached, writer))
        gone = asyncio.create_task(reader.read(1))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                self._note("left", name)
                raise ConnectionError
            await work
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    async def _write(
        self, name: str, asked: dict[str, Any], tokens: int, cached: int, writer: asyncio.StreamWriter
    ) -> None:
        await asyncio.sleep((tokens - cached) / READ)
        count = asked["max_tokens"]
        if not asked.get("stream"):
            await asyncio.sleep(count * GAP)
            choice = {"index": 0, "text": " a" * count, "finish_reason": "length"}
            usage = {"prompt_tokens": tokens, "completion_tokens": count, "total_tokens": tokens + count}
            await send(writer, {"id": "x", "object": "text_completion", "choices": [choice], "usage": usage})
            self._note("begun", name)
        else:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            for number in range(count):
                await chunk(writer, EVENT)
                if number == 0:
                    self._note("begun", name)
                await asyncio.sleep(GAP)
            await chunk(writer, b"data: [DONE]\n\n")
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        self._note("done", name)

    def _look_up(self, prompt: bytes) -> tuple[int, int]:
        """Tokens of the prompt, and of those the cache held until now."""
        state = hashlib.blake2b(digest_size=8)
        hit, digests = 0, []
        for start in range(0, len(prompt) - BLOCK_BYTES + 1, BLOCK_BYTES):
            state.update(prompt[start : start + BLOCK_BYTES])
            digests.append(state.digest())
        for digest in digests:
            if digest not in self._cached:
                break
            hit += BLOCK_BYTES
        self._cached.update(digests)
        return len(prompt) // TOKEN_BYTES + 1, hit // TOKEN_BYTES

    def _note(self, event: str, name: str, *figures: int) -> None:
        os.write(self._record, (json.dumps([time.time(), event, name, *figures]) + "\n").encode())


async def send(writer: asyncio.StreamWriter, value: object, status: str = "200 OK") -> None:
    """A JSON answer."""
    body = json.dumps(value).encode()
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()


async def chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    """One chunk of a chunked body."""
    writer.write(b"%x\r\n%s\r\n" % (len(data), data))
    await writer.drain()


async def main() -> None:
    """Serves until killed."""
    record = os.open(sys.argv[3], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    server = await asyncio.start_server(Engine(record).serve, sys.argv[1], int(sys.argv[2]), limit=2**22)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
