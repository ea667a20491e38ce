"""Digests of the beginnings of a prompt, by which a later prompt that begins alike is recognised."""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from wave_serve.upstream.upstream import Upstream

SHALLOWEST = 512  # bytes: a shorter beginning is not worth a detour
DEEPEST = 2**20  # bytes: about a millisecond of hashing
GROWTH = 1.25  # so at least 80 % of what two prompts share is recognised
# Of the depths, each of so many (about a doubling) may stand for a document. Prompts about one document are not equally
# long; the coarser the steps are, the fewer of them have such a step between their lengths.
DOCUMENT_STEP = 3


@dataclass(frozen=True)
class Prefixes:
    """Beginnings of a prompt of `size` bytes: `digests` holds (length in bytes, digest), shortest first."""

    size: int
    digests: tuple[tuple[int, bytes], ...]

    def document(self, fraction: float) -> tuple[int, bytes] | None:
        """The beginning that stands for the prompt's document: every gateway takes the same one.

        It is within `fraction` of the prompt, so that prompts with other questions at their end have it too. None where
        the prompt is too short to have one.
        """
        longest = fraction * self.size
        return next((one for one in self.digests[::DOCUMENT_STEP][::-1] if one[0] <= longest), None)


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
    for said, before in (("messages", "system"), ("input", "instructions")):
        if said in payload:
            return _first_bytes(_flat([payload.get("tools"), payload.get(before), payload[said]]))
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


MOST_HOLDERS = 8  # upstreams remembered for one beginning; more are no better

Holder = tuple[str, int]  # an upstream's URL and the life of it in which it saw the beginning


class PrefixMemory:
    """A bounded map from digests to the upstreams whose cache should hold that beginning."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._holders: OrderedDict[bytes, tuple[Holder, ...]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._holders)

    def resize(self, limit: int) -> None:
        """Remembers `limit` beginnings at most from now on."""
        self._limit = limit

    def longest(self, prefixes: Prefixes, among: list[Upstream]) -> tuple[int, list[Upstream]]:
        """Bytes of the longest beginning that any of `among` has seen, and which of them have."""
        for length, digest in reversed(prefixes.digests):
            holders = self._holders.get(digest, ())
            found = [upstream for upstream in among if (upstream.base_url, upstream.life) in holders]
            if found:
                return length, found
        return 0, []

    def note(self, prefixes: Prefixes, upstream: Upstream) -> None:
        """Remembers that `upstream` sees a prompt with these beginnings."""
        one = (upstream.base_url, upstream.life)
        for _, digest in prefixes.digests:
            others = [other for other in self._holders.get(digest, ()) if other[0] != one[0]]
            self._holders[digest] = (one, *others[: MOST_HOLDERS - 1])
            self._holders.move_to_end(digest)
        while len(self._holders) > self._limit:
            self._holders.popitem(last=False)
