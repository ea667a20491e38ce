"""Counts and encodes with splintr, at a thirtieth of the CPU time of `tokenizers`, where the two agree.

docs/counting.md says why this library, and what each family of tokenizers costs. Its author is one person, so nothing
here relies on its word: a file is only taken if both libraries give the same token ids for the whole battery.
"""

import contextlib
import itertools
import os
import unicodedata
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import splintr
from pydantic_core import to_json
from tokenizers import Tokenizer

from wave_serve.tokens.pieces import PATTERNS
from wave_serve.tokens.special_tokens import PROBE, Affixes, affixes_of
from wave_serve.worker.cores import cores

NFC = {"type": "NFC"}
# Steps that do not depend on a library's version of Unicode, or of which `takes` knows where they do. With another one,
# such as BERT's normalizer or Falcon's split at punctuation, the libraries differ on dozens to hundreds of characters.
NORMALIZERS = ("Precompiled", "Prepend", "Replace", "Sequence")
MOST_THREADS = 4
LONG = (" a" * 2**15,) * 4  # texts for which splintr begins its threads, some milliseconds to count
GLUED = 50  # entries of a vocabulary in one text
PRE_TOKENIZERS = ("ByteLevel", "Digits", "Metaspace", "Sequence", "Split", "WhitespaceSplit")


class UnsupportedTokenizerError(ValueError):
    """splintr does not read this tokenizer.json, or reads it otherwise than `tokenizers`."""


class FastTokenizer:
    """splintr's tokenizer of one tokenizer.json; it is safe to use from several threads."""

    def __init__(self, description: Mapping[str, Any]) -> None:
        """Takes the content of a tokenizer.json. Raises UnsupportedTokenizerError."""
        # splintr follows a newer version of Unicode than `tokenizers`. What a text with characters that are new to
        # one of them becomes is therefore for `tokenizers` (`takes`), and so is the normal form of any text that does
        # not have it yet: Python tells which do.
        self._own_split = _splits_by_own_expression(description.get("pre_tokenizer") or {})
        self._nfc = description.get("normalizer") == NFC
        normalizer = None if self._nfc else description.get("normalizer")
        unknown = _types(normalizer) - {*NORMALIZERS} | _types(description.get("pre_tokenizer")) - {*PRE_TOKENIZERS}
        if unknown:
            raise UnsupportedTokenizerError(f"its {min(unknown)} follows a version of Unicode")
        described = {**description, "normalizer": normalizer, "truncation": None, "padding": None}
        try:
            with _few_threads():
                self._tokenizer = splintr.from_json_bytes(to_json(described))
                self._tokenizer.encode_batch_flat(list(LONG))
        except ValueError as error:
            raise UnsupportedTokenizerError(f"splintr does not read it: {error}") from None
        self._around: Affixes = affixes_of(self._tokenizer.encode(PROBE), self._tokenizer.encode_raw(PROBE))

    def takes(self, text: str) -> bool:
        """Whether a text can be left to splintr; the other texts are for `tokenizers`."""
        if text.isascii():
            return True
        if self._nfc and not unicodedata.is_normalized("NFC", text):
            return False
        return not (self._own_split and any(unicodedata.category(one) == "Cn" for one in set(text)))

    def counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, special ones around it left out. Other threads run meanwhile."""
        _, ends = self._encode(texts)
        around = len(self._around.prefix) + len(self._around.suffix)
        return [end - start - around for start, end in itertools.pairwise(ends)]

    def encode(self, texts: Sequence[str], *, add_special_tokens: bool) -> "list[array[int]]":
        """Token ids of each text. Other threads run meanwhile."""
        packed, ends = self._encode(texts)
        ids = array("I", packed)
        before, after = (0, 0) if add_special_tokens else (len(self._around.prefix), len(self._around.suffix))
        return [ids[start + before : end - after] for start, end in itertools.pairwise(ends)]

    def _encode(self, texts: Sequence[str]) -> "tuple[bytes, array[int]]":
        """The ids of all texts in four bytes each, one after the other, and where each text begins and ends."""
        # Of all of splintr's calls only this one lets other threads run.
        packed, offsets = self._tokenizer.encode_batch_flat(list(texts))
        return packed, array("Q", offsets)


def fast_tokenizer(description: Mapping[str, Any], tokenizer: Tokenizer, battery: Sequence[str]) -> FastTokenizer:
    """splintr's tokenizer of a tokenizer.json, checked against `tokenizers` on the battery and the whole vocabulary.

    Raises:
        UnsupportedTokenizerError: it cannot be loaded, or differs; names the first text that shows it.
    """
    fast = FastTokenizer(description)
    for special, texts in ((True, battery), (False, battery), (False, _glued(tokenizer))):
        taken = [text for text in texts if fast.takes(text)]
        expected = tokenizer.encode_batch_fast(taken, add_special_tokens=special)
        for text, one, ids in zip(taken, expected, fast.encode(taken, add_special_tokens=special), strict=True):
            if one.ids != list(ids):
                raise UnsupportedTokenizerError(f"splintr gives other tokens than tokenizers for {text[:200]!r}")
    return fast


@contextlib.contextmanager
def _few_threads() -> Iterator[None]:
    """Threads that splintr begins within are half as many as cores, or as the environment says.

    It would begin one for each core. Those that find no work look for it for a while, which costs several percent of a
    long prompt's time on two cores.
    """
    given = os.environ.get("RAYON_NUM_THREADS")
    os.environ["RAYON_NUM_THREADS"] = given or str(max(1, min(cores() // 2, MOST_THREADS)))
    try:
        yield
    finally:  # an engine that is begun later takes its own
        if given is None:
            del os.environ["RAYON_NUM_THREADS"]


def _glued(tokenizer: Tokenizer) -> list[str]:
    """Every entry of the vocabulary inside of a text, without a space between the ones before and after it.

    splintr may merge any two tokens that make a third, `tokenizers` merges listed pairs only. A token that no pair is
    listed for, or an order of pairs that splintr reads otherwise, shows where the token's parts stand in a word.
    """
    ids = sorted(tokenizer.get_vocab().values())
    entries: list[str] = tokenizer.decode_batch([[token] for token in ids], skip_special_tokens=False)
    return ["".join(entries[start : start + GLUED + 2]) for start in range(0, len(entries), GLUED)]


def _splits_by_own_expression(pre_tokenizer: Mapping[str, Any]) -> bool:
    """Whether a pre-tokenizer has a regular expression for which no test went through all of Unicode."""
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    return any(step.get("type") == "Split" and step["pattern"].get("Regex") not in (None, *PATTERNS) for step in steps)


def _types(step: Mapping[str, Any] | None) -> set[str]:
    """The types of a normalizer or pre-tokenizer and of those inside it."""
    if step is None:
        return set()
    inside = (*step.get("normalizers", ()), *step.get("pretokenizers", ()))
    return {step["type"]}.union(*map(_types, inside))
