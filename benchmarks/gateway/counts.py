"""Compares the gateway's counts with a real engine's, on random prompts and chats.

A prompt is counted by the gateway's local tokenizer (its `/v1/context`) and by the engine's `/tokenize`, a chat by the
gateway's `/v1/context`, which asks the engine's renderer, and by the engine's `/tokenize`. Some of both are also
answered by the engine, and the usage is compared.

    wave-serve serve CHECKPOINT -- --enable-auto-tool-choice --tool-call-parser hermes
    python -m benchmarks.gateway.counts --gateway http://127.0.0.1:8000 --engine http://127.0.0.1:PORT --tokenizer FILE
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp

sys.path.append(str(Path(__file__).parents[2] / "tests"))
from helpers.hostile import hostile_texts

from wave_serve.tokens.named_tokens import named_tokens

AT_ONCE = 8
COMPLETED, ANSWERED = 100, 5  # of so many prompts, and chats, one is also answered


class Server:
    """One server that speaks OpenAI's API and vLLM's."""

    def __init__(self, session: aiohttp.ClientSession, url: str, model: str) -> None:
        self._session, self._url, self._model = session, url, model

    async def post(self, path: str, **body: Any) -> dict[str, Any]:
        """The JSON answer, with its status under `status`."""
        async with self._session.post(self._url + path, json={"model": self._model, **body}) as answer:
            return {**await answer.json(), "status": answer.status}


def prompts(number: int, tokenizer: Path, seed: int) -> list[str]:
    """Texts of one character up to some thousand: hostile ones, code, and both mixed."""
    source = random.Random(seed)  # noqa: S311 - texts to compare
    code = Path(json.__file__).read_text() + Path(random.__file__).read_text()
    hostile = hostile_texts(number, named_tokens(tokenizer), seed)
    starts = [source.randrange(len(code)) for _ in range(number)]
    pieces = [code[start : start + source.choice((1, 20, 300, 3000))] for start in starts]
    return [source.choice((one, piece, one + piece, piece + one)) for one, piece in zip(hostile, pieces, strict=True)]


def chats(number: int, tokenizer: Path, seed: int) -> list[dict[str, Any]]:
    """Conversations of one to six messages, most with tools, some with a tool's answer."""
    source = random.Random(seed)  # noqa: S311 - texts to compare
    texts = prompts(8 * number, tokenizer, seed)

    def text() -> str:
        return source.choice(texts)[:300] or "a"

    def tool(name: str) -> dict[str, Any]:
        described = {"type": "object", "properties": {text()[:12] or "x": {"type": "string", "description": text()}}}
        return {"type": "function", "function": {"name": name, "description": text(), "parameters": described}}

    def chat() -> dict[str, Any]:
        messages = [{"role": "system", "content": text()}] if source.random() < 0.4 else []
        for _ in range(source.randint(0, 2)):
            messages += [{"role": "user", "content": text()}, {"role": "assistant", "content": text()}]
        body: dict[str, Any] = {"messages": [*messages, {"role": "user", "content": text()}]}
        if source.random() < 0.8:
            body["tools"] = [tool(f"tool_{index}") for index in range(source.randint(1, 3))]
            body["tool_choice"] = source.choice(("auto", "none"))
        return body

    return [chat() for _ in range(number)]


async def compare_prompt(gateway: Server, engine: Server, text: str, index: int) -> tuple[Any, ...]:
    """Counts of one prompt, which should all be one number."""
    special = index % 2 == 0
    here = await gateway.post("/v1/context", prompt=text, add_special_tokens=special)
    there = await engine.post("/tokenize", prompt=text, add_special_tokens=special)
    found = (here.get("tokens", here), there.get("count", there))
    if index % COMPLETED == 0:
        answer = await engine.post("/v1/completions", prompt=text, add_special_tokens=special, max_tokens=1)
        found += (answer.get("usage", answer).get("prompt_tokens", answer),)
    return found


async def compare_chat(gateway: Server, engine: Server, chat: dict[str, Any], index: int) -> tuple[Any, ...]:
    """The same of one chat."""
    here = await gateway.post("/v1/context", **chat)
    there = await engine.post("/tokenize", **{field: chat[field] for field in ("messages", "tools") if field in chat})
    found = (here.get("tokens", here), there.get("count", there))
    if index % ANSWERED == 0:
        answer = await engine.post("/v1/chat/completions", **chat, max_tokens=1)
        found += (answer.get("usage", answer).get("prompt_tokens", answer),)
    return found


async def differences(
    compare: Callable[..., Awaitable[tuple[Any, ...]]], gateway: Server, engine: Server, cases: Sequence[Any]
) -> dict[str, Any]:
    """How many cases were compared, how many differ, and the first that do."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(index: int, case: Any) -> tuple[Any, ...]:
        async with gate:
            return await compare(gateway, engine, case, index)

    started = time.monotonic()
    found = await asyncio.gather(*(one(index, case) for index, case in enumerate(cases)))
    wrong = [(case, counts) for case, counts in zip(cases, found, strict=True) if len(set(map(str, counts))) > 1]
    tokens = [counts[0] for counts in found if isinstance(counts[0], int)]
    return {
        "compared": len(found),
        "numbers": sum(map(len, found)),
        "differences": len(wrong),
        "tokens": {"fewest": min(tokens), "most": max(tokens), "all": sum(tokens)},
        "seconds": round(time.monotonic() - started, 1),
        "first": wrong[:5],
    }


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """Both comparisons."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600)) as session:
        gateway = Server(session, options.gateway, options.model)
        engine = Server(session, options.engine, options.model)
        texts = prompts(options.prompts, options.tokenizer, 3)
        return {
            "model": options.model,
            "prompts": await differences(compare_prompt, gateway, engine, texts),
            "chats": await differences(compare_chat, gateway, engine, chats(options.chats, options.tokenizer, 4)),
        }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gateway", required=True)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=10_000)
    parser.add_argument("--chats", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result = asyncio.run(run(options))
    print(json.dumps(result, indent=1))
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
