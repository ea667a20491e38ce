"""Tokenises prompts with the checkpoint's own tokenizer, off the event loop."""

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from tokenizers import Tokenizer

from wave_serve.errors import ExplainedError
from wave_serve.logs import event
from wave_serve.tokens import battery
from wave_serve.tokens.fast_tokenizer import FastTokenizer, UnsupportedTokenizerError, fast_tokenizer
from wave_serve.tokens.named_tokens import named_tokens
from wave_serve.tokens.pieces import PIECE, PieceCounts, cuts_alike
from wave_serve.worker.cores import cores
from wave_serve.worker.process import Worker

logger = logging.getLogger("wave_serve.counting")
T = TypeVar("T")
LOOKED_UP_AT_ONCE = 2**20  # characters: some milliseconds
THREADS = 4  # at most; both libraries release the interpreter lock
COUNTED_AT_ONCE = 2**13  # characters: a tenth of a millisecond, about what handing it to a thread costs a short request


class TokenizerError(ExplainedError, ValueError):
    """The tokenizer file cannot be used."""


class LocalTokenizer:
    """A tokenizer.json file; counts equal the engine's where the engine builds the same tokenizer from it.

    `longest_token`: most bytes of text that one token can stand for; None where none is known.
    `battery`: the texts on which it can be compared with the engine's.
    """

    def __init__(self, path: Path, heavy: Worker | None = None, piece: int = PIECE) -> None:
        """Loads the file. Raises TokenizerError.

        Args:
            path: the tokenizer.json; the other files of its checkpoint are looked for beside it.
            heavy: does what would take long; without it a thread does.
            piece: characters of the pieces whose counts are remembered.
        """
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
            description = json.loads(path.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises bare Exception
            raise TokenizerError(f"cannot load tokenizer {path}: {error}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.path = path
        self.longest_token = longest_token_bytes(description)
        self.battery = battery.texts(named_tokens(path), self._tokenizer)
        self._heavy = heavy
        self._fast = self._load_fast(description)
        self._counts = PieceCounts(piece) if cuts_alike(description) else None
        self._threads = ThreadPoolExecutor(max_workers=min(cores(), THREADS), thread_name_prefix="tokenizer")

    @property
    def library(self) -> str:
        """What counts: "splintr", or "tokenizers" where that does not read the file alike."""
        return "tokenizers" if self._fast is None else "splintr"

    def fewest_tokens(self, text: str) -> int:
        """A lower bound on the tokens of `text` that costs no tokenising; 0 where none is known."""
        if self.longest_token is None:
            return 0
        size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
        return -(-size // self.longest_token)

    async def count(self, texts: Sequence[str], *, add_special_tokens: bool) -> list[int]:
        """Number of tokens of each text. Raises ApiError 503 where the process for large texts ended."""
        if self._counts is None and self._fast is None:
            return [len(ids) for ids in await self.encode_all(texts, add_special_tokens=add_special_tokens)]
        special = self._tokenizer.num_special_tokens_to_add(False) if add_special_tokens else 0
        return [special + await self._count(text) for text in texts]

    async def encode_all(self, texts: Sequence[str], *, add_special_tokens: bool) -> list[Sequence[int]]:
        """Token ids of each text. Raises ApiError 503 where the process for large texts ended."""
        arguments = (list(texts), add_special_tokens)
        if self._fast is not None and all(map(self._fast.takes, texts)):
            return await self._in_thread(self._encode_fast, self._fast, *arguments)
        if self._heavy is not None and self._heavy.is_large(sum(map(len, texts))):
            found: list[Sequence[int]] = await self._heavy.call("encode", str(self.path), *arguments)
            return found
        return await self._in_thread(self._encode_all, *arguments)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of one text, by `tokenizers`."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some token ids, special tokens included."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text

    def _load_fast(self, description: dict[str, Any]) -> FastTokenizer | None:
        try:
            return fast_tokenizer(description, self._tokenizer, self.battery)
        except UnsupportedTokenizerError as error:
            event(logger, logging.INFO, "counting by tokenizers", tokenizer=str(self.path), reason=str(error))
            return None

    async def _count(self, text: str) -> int:
        """Tokens of a text without special ones; what was seen before is not tokenised again."""
        counts = self._counts
        if counts is None:
            return sum(await self._in_thread(self._lengths, [text]))
        in_thread = len(text) > LOOKED_UP_AT_ONCE
        known, new = await self._in_thread(counts.look_up, text) if in_thread else counts.look_up(text)
        if sum(len(piece) for _, piece in new) <= COUNTED_AT_ONCE:
            return known + counts.add(new, self._lengths)
        return known + await self._in_thread(counts.add, new, self._lengths)

    async def _in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    def _encode_fast(self, fast: FastTokenizer, texts: list[str], add_special_tokens: bool) -> list[Sequence[int]]:
        return list(fast.encode(texts, add_special_tokens=add_special_tokens))

    def _encode_all(self, texts: list[str], add_special_tokens: bool) -> list[Sequence[int]]:
        encoded = self._tokenizer.encode_batch_fast(texts, add_special_tokens=add_special_tokens)
        return [one.ids for one in encoded]

    def _lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text without special ones."""
        fast = self._fast
        if fast is None:
            return self._encoded_lengths(texts)
        if all(map(fast.takes, texts)):
            return fast.counts(texts)
        taken = iter(fast.counts([text for text in texts if fast.takes(text)]))
        others = iter(self._encoded_lengths([text for text in texts if not fast.takes(text)]))
        return [next(taken) if fast.takes(text) else next(others) for text in texts]

    def _encoded_lengths(self, texts: Sequence[str]) -> list[int]:
        return [len(one) for one in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]


def longest_token_bytes(description: dict[str, Any]) -> int | None:
    """Most bytes of text that one token can stand for; None where the tokenizer may drop or shorten text.

    Only a byte-level tokenizer without a normalizer keeps every byte; there a token's characters are its bytes.
    """
    if description.get("normalizer") is not None:
        return None
    pre = description.get("pre_tokenizer") or {}
    steps = pre.get("pretokenizers", [pre])
    if not any(step.get("type") == "ByteLevel" for step in steps):
        return None
    if any(step.get("behavior") == "Removed" for step in steps):
        return None
    added = description.get("added_tokens") or []
    if any(token.get("lstrip") or token.get("rstrip") or token.get("normalized") for token in added):
        return None
    model = description.get("model") or {}
    if model.get("unk_token"):
        return None
    learned = max(map(len, model.get("vocab") or [""]))
    return max([learned, *(len(token["content"].encode()) for token in added)]) or None
