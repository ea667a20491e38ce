"""A vLLM server that computes nothing: answers after a fixed time, and knows which requests are under way.

    python -m benchmarks.gateway.mock PORT TOKENIZER

The request's `user` field sets how it answers: `<seconds to the first token>:<tokens>:<seconds between tokens>`, and
after one more colon what it says that the prompt has in tokens.
"""

import asyncio
import json
import sys
from typing import Any

from tokenizers import Tokenizer

MODEL = "bench"
MAX_MODEL_LEN = 131_072
DEFAULT = "0:1:0"
MOST_COUNTED = 2**14  # bytes of a body; to count longer prompts would hold up others
EVENT = b'data: {"id":"x","object":"text_completion","model":"bench","choices":[{"index":0,"text":" a"}]}\n\n'
DONE = b"data: [DONE]\n\n"


class Mock:
    """Counts of what is under way, for /stats."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.running: set[str] = set()
        self.connections = 0
        self.aborted = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, kept alive."""
        self.connections += 1
        early = b""
        try:
            while True:
                head = (early + await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                path = head[0].split(" ")[1]
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                early = await self.answer(path, headers, body, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.connections -= 1
            writer.close()

    async def answer(
        self,
        path: str,
        headers: dict[str, str],
        body: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bytes:
        """One request; what of the next one was read on the way."""
        match path:
            case "/v1/models":
                await send(writer, {"data": [{"id": MODEL, "max_model_len": MAX_MODEL_LEN}]})
            case "/tokenize":
                asked = json.loads(body)
                special = asked.get("add_special_tokens", True)
                ids = self.tokenizer.encode(asked["prompt"], add_special_tokens=special).ids
                await send(writer, {"tokens": ids, "count": len(ids), "max_model_len": MAX_MODEL_LEN})
            case "/stats":
                left = {"running": len(self.running), "aborted": self.aborted, "connections": self.connections}
                await send(writer, left | {"ids": sorted(self.running)})
            case "/v1/chat/completions/render" | "/v1/responses/render":
                await send(writer, {"token_ids": self.tokens_of(json.loads(body))})
            case "/v1/completions" | "/v1/chat/completions" | "/v1/responses":
                return await self.generate(headers.get("x-request-id", str(id(writer))), body, reader, writer)
            case "/health":
                await send(writer, {})
            case _:
                await send(writer, {"detail": "Not Found"}, "404 Not Found")
        return b""

    def tokens_of(self, body: dict[str, Any]) -> list[int]:
        """Token ids of a text prompt, in any dialect; a conversation has no template here."""
        text = body.get("prompt") or body.get("input") or body["messages"][0]["content"]
        return self.tokenizer.encode(text).ids if isinstance(text, str) else text

    async def generate(
        self, name: str, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bytes:
        """Answers, and gives up as soon as the other side has."""
        start = body.rfind(b'"user":')
        said = body[start + 7 : body.find(b'"', start + 9)].strip(b' "').decode() if start >= 0 else DEFAULT
        first, tokens, gap, *rest = (float(part) for part in said.split(":"))
        prompt = int(rest[0]) if rest else None
        self.running.add(name)
        if prompt is None and len(body) < MOST_COUNTED:
            prompt = len(self.tokens_of(json.loads(body)))
        work = asyncio.create_task(generation(writer, b'"stream":true' in body, first, int(tokens), gap, prompt))
        gone = asyncio.create_task(reader.read(1))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and not gone.result():
                self.aborted += 1
                raise ConnectionError
            await work
            return gone.result() if gone.done() else b""
        finally:
            self.running.discard(name)
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)


async def generation(
    writer: asyncio.StreamWriter, stream: bool, first: float, tokens: int, gap: float, prompt_tokens: int | None
) -> None:
    """Sends the answer of one generation; its usage tells the prompt's tokens where they were counted."""
    if not stream:
        await asyncio.sleep(first + tokens * gap)
        usage = {"completion_tokens": tokens, "total_tokens": tokens + (prompt_tokens or 0)}
        if prompt_tokens is not None:
            usage |= {"prompt_tokens": prompt_tokens, "input_tokens": prompt_tokens, "output_tokens": tokens}
        choice = {"index": 0, "text": " a" * tokens, "finish_reason": "length", "logprobs": None}
        chat = {"message": {"role": "assistant", "content": " a"}}
        answer = {"id": "x", "object": "text_completion", "created": 1, "model": MODEL, "usage": usage}
        await send(writer, answer | {"choices": [choice | chat]})
        return
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    await asyncio.sleep(first)
    for _ in range(tokens):
        writer.write(b"%x\r\n%s\r\n" % (len(EVENT), EVENT))
        await writer.drain()
        if gap:
            await asyncio.sleep(gap)
    writer.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(DONE), DONE))
    await writer.drain()


async def send(writer: asyncio.StreamWriter, value: object, status: str = "200 OK") -> None:
    """A JSON answer."""
    body = json.dumps(value).encode()
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()


async def main() -> None:
    """Serves until killed."""
    mock = Mock(Tokenizer.from_file(sys.argv[2]))
    server = await asyncio.start_server(mock.serve, "127.0.0.1", int(sys.argv[1]), limit=2**20)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
