"""The four dialects as a client meets them: a body each, a stream as vLLM sends it, and the SDK that reads it."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import anthropic
import openai

from helpers.fake_upstream import DONE

MESSAGES = [{"role": "user", "content": "hello"}]
RESPONSE = {"id": "resp_1", "object": "response", "created_at": 1, "model": "fake", "output": [], "tools": []}
RESPONSE |= {"parallel_tool_calls": True, "tool_choice": "auto"}
MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "model": "fake", "content": [], "stop_reason": None}
USED = {"input_tokens": 6, "output_tokens": 1}


def plain(event: dict) -> bytes:
    """An event without a name."""
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def named(event: dict) -> bytes:
    """An event that is named by its type."""
    return b"event: " + event["type"].encode() + b"\n" + plain(event)


@dataclass(frozen=True)
class Spoken:
    """One dialect.

    Attributes:
        path: of its endpoint.
        body: a request.
        begun: its stream up to the first token, `a`.
        rest: the rest of it.
        error: the exception that the SDK raises where the stream ends in an error event.
        texts: reads a stream by the SDK, given the gateway's URL.
    """

    path: str
    body: dict
    begun: bytes
    rest: bytes
    error: type[Exception]
    texts: Callable[[str], Iterator[str]]


def _openai(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=20)


def _completions(url: str) -> Iterator[str]:
    stream = _openai(url).completions.create(model="fake", prompt="hello", max_tokens=5, stream=True)
    return (choice.text for chunk in stream for choice in chunk.choices)


def _chat(url: str) -> Iterator[str]:
    messages: Any = MESSAGES
    stream = _openai(url).chat.completions.create(model="fake", messages=messages, max_tokens=5, stream=True)
    return (choice.delta.content or "" for chunk in stream for choice in chunk.choices)


def _responses(url: str) -> Iterator[str]:
    stream = _openai(url).responses.create(model="fake", input="hello", max_output_tokens=5, stream=True)
    return (event.delta for event in stream if event.type == "response.output_text.delta")


def _messages(url: str) -> Iterator[str]:
    client = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0, timeout=20)
    messages: Any = MESSAGES
    stream = client.messages.create(model="fake", messages=messages, max_tokens=5, stream=True)
    return (event.delta.text for event in stream if event.type == "content_block_delta")


def _said(**words: object) -> bytes:
    return plain({"id": "x", "object": "x", "created": 1, "model": "fake", "choices": [{"index": 0, **words}]})


def _item(kind: str, **members: object) -> bytes:
    place = {"item_id": "m", "output_index": 0, "content_index": 0, "sequence_number": 2, "logprobs": []}
    return named({"type": kind, **place, **members})


SPOKEN = {
    "completions": Spoken(
        "/v1/completions",
        {"model": "fake", "prompt": "hello", "max_tokens": 5},
        _said(text="a"),
        _said(text="b", finish_reason="length") + DONE,
        openai.APIError,
        _completions,
    ),
    "chat": Spoken(
        "/v1/chat/completions",
        {"model": "fake", "messages": MESSAGES, "max_tokens": 5},
        _said(delta={"role": "assistant"}) + _said(delta={"content": "a"}),
        _said(delta={"content": "b"}, finish_reason="length") + DONE,
        openai.APIError,
        _chat,
    ),
    "responses": Spoken(
        "/v1/responses",
        {"model": "fake", "input": "hello", "max_output_tokens": 5},
        named({"type": "response.created", "sequence_number": 0, "response": RESPONSE})
        + named({"type": "response.in_progress", "sequence_number": 1, "response": RESPONSE})
        + _item("response.output_text.delta", delta="a"),
        _item("response.output_text.delta", delta="b")
        + named({"type": "response.completed", "sequence_number": 3, "response": RESPONSE | {"status": "completed"}}),
        openai.APIError,
        _responses,
    ),
    "messages": Spoken(
        "/v1/messages",
        {"model": "fake", "messages": MESSAGES, "max_tokens": 5},
        named({"type": "message_start", "message": MESSAGE | {"usage": USED}})
        + named({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
        + named({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}}),
        named({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "b"}})
        + named({"type": "content_block_stop", "index": 0})
        + named({"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": USED})
        + named({"type": "message_stop"}),
        anthropic.APIStatusError,
        _messages,
    ),
}
