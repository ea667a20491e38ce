"""Digests of the beginnings of a prompt, by which a later prompt that begins alike is recognised."""

import hashlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

SHALLOWEST = 512  # bytes: a shorter beginning is not worth a detour
DEEPEST = 2**20  # bytes: about a millisecond of hashing
GROWTH = 1.25  # so at least 80 % of what two prompts share is recognised


@dataclass(frozen=True)
class Prefixes:
    """Beginnings of a prompt of `size` bytes: `digests` holds (length in bytes, digest), shortest first."""

    size: int
    digests: tuple[tuple[int, bytes], ...]


def _depths() -> Iterator[int]:
    depth = float(SHALLOWEST)
    while depth < DEEPEST:
        yield int(depth)
        depth *= GROWTH
    yield DEEPEST


DEPTHS = tuple(_depths())


def prefixes_of(model: str, payload: Mapping[str, Any]) -> Prefixes:
    """The beginnings of a request's (first) prompt. Costs one pass over its first MiB."""
    data = _prompt_bytes(payload)
    state = hashlib.blake2b(model.encode(), digest_size=8)
    digests = []
    for start, end in pairwise((0, *DEPTHS)):
        if end > len(data):
            break
        state.update(data[start:end])
        digests.append((end, state.digest()))
    return Prefixes(len(data), tuple(digests))


def _prompt_bytes(payload: Mapping[str, Any]) -> bytes:
    """What decides the first prompt's tokens, at most `DEEPEST` bytes, in an order that a follow-up shares."""
    if "messages" in payload:
        return _first_bytes(_flat([payload.get("tools"), payload["messages"]]))
    prompt = payload.get("prompt")
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list | array):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return prompt[:DEEPEST].encode("utf-8", "surrogatepass")[:DEEPEST]
    return _id_bytes(prompt if isinstance(prompt, list | array) else [])


def _first_bytes(parts: Iterator[bytes]) -> bytes:
    found = bytearray()
    for part in parts:
        found += part
        if len(found) >= DEEPEST:
            break
    return bytes(found[:DEEPEST])


def _flat(value: Any) -> Iterator[bytes]:
    """The texts of a JSON value in their order, one by one, so that no more of it is read than is needed."""
    if isinstance(value, str):
        yield value[:DEEPEST].encode("utf-8", "surrogatepass")
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield b"\0" + key.encode("utf-8", "surrogatepass") + b"\0"
            yield from _flat(entry)
    elif isinstance(value, list):
        for entry in value:
            yield b"\1"
            yield from _flat(entry)
    else:
        yield str(value).encode()


def _id_bytes(ids: Sequence[int]) -> bytes:
    try:
        return array("L", ids[: DEEPEST // 8]).tobytes()
    except OverflowError:  # no tokenizer has such ids: the engine will refuse them
        return b""
