"""Counts text with tiktoken, at a fifth of the CPU time, where its counts are provably those of the tokenizer.

Both apply the merge of lowest rank first, the leftmost of several. They differ in two ways: tiktoken merges any two
tokens that make a third, listed as a merge or not, and takes a word that is a token whole. Neither matters where each
token is the result of one listed merge and the listed merges, applied to its own bytes, lead to it. For if two tokens
stand side by side in some word and make a third, no merge has crossed the third's ends, so the same merges applied to
it alone leave the same two tokens, which thus are a listed pair.

The split into words is the tokenizer's regular expression. Its two engines know other versions of Unicode, so it is
read alike where all characters are old ones that have never changed between letter, number, space and the rest.
"""

import functools
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

import tiktoken
from tokenizers import Tokenizer

from wave_serve.pieces import cuts_alike

LONGEST = 2**14  # characters; beyond, tiktoken's expressions may run out of steps on a text of white space only

GPT_2 = r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# After a split at each digit, which is therefore an end of text to what stands before it.
GPT_2_DIGITS = r"'(?:s|t|re|ve|m|ll|d)|\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"


class BytePairs:
    """tiktoken's encoder of one tokenizer."""

    def __init__(self, encoding: tiktoken.Encoding, added: list[str], *, nfc: bool) -> None:
        """`added` are tokens that are found before a text is split; `nfc` is whether it is normalised first."""
        self._encoding = encoding
        self._added = re.compile("|".join(map(re.escape, added)) or "(?!)")
        self._changing = changing_characters()
        self._nfc = nfc

    def count(self, text: str) -> int | None:
        """Tokens of a text; None where this is not known to be the tokenizer's count."""
        if len(text) > LONGEST or self._added.search(text):
            return None
        if not text.isascii() and (self._changing.search(text) or not self._is_normal(text)):
            return None
        return len(self._encoding.encode_ordinary(text))

    def _is_normal(self, text: str) -> bool:
        return not self._nfc or unicodedata.is_normalized("NFC", text)


def byte_pairs(description: Mapping[str, Any], serialized: str) -> BytePairs | None:
    """The encoder of a tokenizer.json, given parsed and as it is; None where it might count otherwise."""
    model = description.get("model") or {}
    pattern = _pattern(description)
    if pattern is None or model.get("type", "BPE") != "BPE":
        return None
    if any(model.get(field) for field in ("dropout", "byte_fallback", "ignore_merges", "unk_token")):
        return None
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        return None
    added = [token["content"] for token in description.get("added_tokens") or []]
    ranks = _ranks(model, set(added))
    if ranks is None or not _reached(list(ranks)[256:], serialized):
        return None
    bytes_of = dict(zip(_alphabet(), range(256), strict=True))
    by_bytes = {bytes(bytes_of[character] for character in token): rank for token, rank in ranks.items()}
    encoding = tiktoken.Encoding("own", pat_str=pattern, mergeable_ranks=by_bytes, special_tokens={})
    return BytePairs(encoding, added, nfc=description.get("normalizer") is not None)


@functools.cache
def changing_characters() -> re.Pattern[str]:
    """A character that Unicode 3.2 did not know, or knew as another of letter, number, space and the rest."""

    def kind(category: str) -> str:
        return category[0] if category[0] in "LNZ" else ""

    def changed(character: str) -> bool:
        old, new = unicodedata.ucd_3_2_0.category(character), unicodedata.category(character)
        return old in ("Cn", "Cs") or kind(old) != kind(new)

    ends = [code for code in range(0x80, 0x10000) if changed(chr(code)) != changed(chr(code - 1))]
    ranges = zip(ends[::2], [*ends[1::2], 0x10000], strict=False)
    beyond = "\U00010000-\U0010ffff"
    return re.compile(f"[{beyond}{''.join(f'{chr(start)}-{chr(end - 1)}' for start, end in ranges)}]")


def _pattern(description: Mapping[str, Any]) -> str | None:
    """The one expression that splits a text as the tokenizer does."""
    if not cuts_alike(description):
        return None
    pre = description["pre_tokenizer"]
    match pre.get("pretokenizers", [pre]):
        case [{"type": "ByteLevel"}]:
            return GPT_2
        case [{"type": "Digits", "individual_digits": True}, {"type": "ByteLevel", **others}]:
            return None if others.get("use_regex") is False else GPT_2_DIGITS
        case [{"type": "Split", "pattern": {"Regex": pattern}}, {"type": "ByteLevel", "use_regex": False}]:
            return str(pattern)  # a known one, or it would not cut alike
    return None


def _ranks(model: Mapping[str, Any], added: set[str]) -> dict[str, int] | None:
    """Tokens in the order of their merges, after the 256 bytes; None where one has no merge or more than one."""
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model.get("merges", [])]
    tokens = [*_alphabet(), *map("".join, merges)]
    if len(set(tokens)) < len(tokens) or set(model.get("vocab", {})) - added != set(tokens) - added:
        return None
    return {token: rank for rank, token in enumerate(tokens)}


def _reached(tokens: list[str], serialized: str) -> bool:
    """Whether the merges lead to each token. By a tokenizer of its own: one keeps the first words that it sees."""
    model = Tokenizer.from_str(serialized).model
    return all(len(model.tokenize(token)) == 1 for token in tokens)


def _alphabet() -> list[str]:
    """The character that stands for each byte in byte-level tokens, in the bytes' order (GPT-2's)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]
