"""Tokenises prompts with the checkpoint's own tokenizer, off the event loop."""

import asyncio
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer

from wave_serve.heavy import HeavyWork
from wave_serve.upstream_tokens import UpstreamTokens

Encoded = Encoding | UpstreamTokens | Sequence[int]
"""A prompt in tokens; `len` is their number."""

PROBES = ("a", "def f(x):\n    return x\n", "  two  spaces\tand a tab\r\n", "naïve 日本語 🙂", "0123456789 <s> </s>")


class TokenizerError(ValueError):
    """The tokenizer file cannot be used."""


class LocalTokenizer:
    """A tokenizer.json file; counts equal the engine's where the engine loads the same file."""

    def __init__(self, path: Path, heavy: HeavyWork | None = None) -> None:
        """Loads the file; texts that are large go to `heavy`, where it is given. Raises TokenizerError."""
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
            description = json.loads(path.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises bare Exception
            raise TokenizerError(f"cannot load tokenizer {path}: {error}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.path = path
        self._heavy = heavy
        self.longest_token = longest_token_bytes(description)
        # One thread: encode_batch_fast spreads over cores by itself and releases the interpreter lock.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenizer")

    def fewest_tokens(self, text: str) -> int:
        """A lower bound on the tokens of `text` that costs no tokenising; 0 where none is known."""
        if self.longest_token is None:
            return 0
        return -(-len(text.encode("utf-8", "surrogatepass")) // self.longest_token)

    async def encode_all(self, texts: Sequence[str], *, add_special_tokens: bool) -> Sequence[Encoded]:
        """Each text in tokens. Raises ApiError 503 where the process for large texts ended."""
        if self._heavy is not None and self._heavy.wants(sum(map(len, texts))):
            found: list[Sequence[int]] = await self._heavy.call(
                "encode", str(self.path), list(texts), add_special_tokens
            )
            return found
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._encode_all, list(texts), add_special_tokens)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of one text."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def _encode_all(self, texts: list[str], add_special_tokens: bool) -> list[Encoding]:
        encoded: list[Encoding] = self._tokenizer.encode_batch_fast(texts, add_special_tokens=add_special_tokens)
        return encoded


def ids_of(encoded: Encoded) -> Sequence[int]:
    """Token ids of a prompt in any form."""
    return encoded.ids if isinstance(encoded, Encoding | UpstreamTokens) else encoded


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
