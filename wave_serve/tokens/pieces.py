"""Cuts a text where its tokenizer cuts it in any case, so that pieces can be counted apart and remembered.

A byte-level tokenizer first splits a text by a regular expression and never joins across such a split. None of the
expressions below takes characters on both sides of two places. One is between an ASCII letter and a space with an ASCII
letter behind it: what takes a letter ends at the space, which goes with the letters after it. The other is between a
line break that follows a printable ASCII character and an ASCII letter: to the left only white space and line breaks go
with the break, and no alternative takes a break before a letter.
"""

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from blake3 import blake3

PIECE = 2**13  # characters, at least, of a text's first piece: some 60 microseconds to count, 8 to look up
LARGEST = 4  # times as many: each piece is twice as large as the one before, up to this
MOST = 2**14  # pieces remembered, some 3 MB: the last 130 to 500 MB of text
# Before this space or after this line break; what it begins with lets the search skip to it.
CUT = re.compile(r"[ \n](?=[A-Za-z])(?:(?<=[A-Za-z] )|(?<=[!-~]\n))")

LLAMA_3 = "|".join(
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
QWEN_2 = LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")
PATTERNS = (LLAMA_3, QWEN_2)


def cuts_alike(description: Mapping[str, Any]) -> bool:
    """Whether the tokenizer in a tokenizer.json is known to cut every text at `CUT`."""
    # NFC (Qwen's) joins a letter with marks behind it, and never what a cut parts.
    if (description.get("normalizer") or {"type": "NFC"}) != {"type": "NFC"}:
        return False
    for token in description.get("added_tokens") or []:
        if set(" \n") & set(token["content"]) or token.get("lstrip") or token.get("rstrip"):
            return False
    pre = description.get("pre_tokenizer") or {}
    steps = pre.get("pretokenizers", [pre])
    by_pattern = [step for step in steps if step.get("type") == "Split"]
    bytes_only = [step for step in steps if step.get("type") == "ByteLevel"]
    if len(bytes_only) != 1 or any(step.get("type") not in ("Split", "ByteLevel", "Digits") for step in steps):
        return False
    if bytes_only[0].get("add_prefix_space"):
        return False
    if not by_pattern:
        return bytes_only[0].get("use_regex") is not False  # GPT-2's expression
    return all(_is_known(step) for step in by_pattern)


def pieces_of(text: str, size: int = PIECE) -> Iterator[str]:
    """The text in pieces of `size` characters or somewhat more; texts that begin alike have their first in common.

    The farther on, the larger they are: a long text costs fewer look-ups, a short one stays cheap to change.
    """
    start = 0
    largest = LARGEST * size
    while start + size < len(text):
        cut = CUT.search(text, start + size)
        if cut is None:
            break
        end = cut.start() if cut[0] == " " else cut.end()
        yield text[start:end]
        start = end
        size = min(2 * size, largest)
    yield text[start:]


Piece = tuple[bytes, str]  # digest and text
Tokenize = Callable[[Sequence[str]], Sequence[int]]


class PieceCounts:
    """Tokens of pieces seen before, by digest; of more than `most` the least recently used are forgotten."""

    def __init__(self, size: int = PIECE, most: int = MOST) -> None:
        self._size = size
        self._most = most
        self._counts: OrderedDict[bytes, int] = OrderedDict()
        self._lock = threading.Lock()  # looked up in the event loop while threads add

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, new: Sequence[Piece], tokenize: Tokenize) -> int:
        """Tokens of pieces that `look_up` does not know; it will. Several threads may each add others."""
        found = tokenize([piece for _, piece in new])
        for (digest, _), tokens in zip(new, found, strict=True):
            self._remember(digest, tokens)
        return sum(found)

    def look_up(self, text: str) -> tuple[int, list[Piece]]:
        """Tokens of the pieces that are known, and the others with their digests."""
        known, new = 0, []
        for piece in pieces_of(text, self._size):
            digest = blake3(piece.encode("utf-8", "surrogatepass")).digest()
            tokens = self._recall(digest)
            if tokens is None:
                new.append((digest, piece))
            else:
                known += tokens
        return known, new

    def _recall(self, digest: bytes) -> int | None:
        with self._lock:
            if digest not in self._counts:
                return None
            self._counts.move_to_end(digest)
            return self._counts[digest]

    def _remember(self, digest: bytes, tokens: int) -> None:
        with self._lock:
            self._counts[digest] = tokens
            if len(self._counts) > self._most:
                self._counts.popitem(last=False)


def _is_known(split: Mapping[str, Any]) -> bool:
    """Whether a step splits by one of the expressions above, each match a piece."""
    pattern = (split.get("pattern") or {}).get("Regex")
    return pattern in PATTERNS and split.get("behavior") == "Isolated" and not split.get("invert")
