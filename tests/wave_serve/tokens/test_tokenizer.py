"""Counting with the checkpoint's tokenizer."""

import asyncio
import json
import random
from pathlib import Path

import pytest

from wave_serve.tokens.tokenizer import LocalTokenizer, TokenizerError, longest_token_bytes

TEXTS = ["a", "    deep\n\n\tindent", "naïve 日本語 🙂", "<|end|>", "x" * 5000, " " * 777]


@pytest.fixture
def tokenizer(checkpoint: Path) -> LocalTokenizer:
    return LocalTokenizer(checkpoint / "tokenizer.json")


def test_counts_are_lengths_of_the_encoding(tokenizer: LocalTokenizer) -> None:
    for special in (True, False):
        counts = asyncio.run(tokenizer.count(TEXTS, add_special_tokens=special))
        assert counts == [len(tokenizer.encode(text, add_special_tokens=special)) for text in TEXTS]


def test_special_tokens_are_counted(tokenizer: LocalTokenizer) -> None:
    assert asyncio.run(tokenizer.count(["abc"], add_special_tokens=True)) == [
        1 + asyncio.run(tokenizer.count(["abc"], add_special_tokens=False))[0]
    ]


def test_the_lower_bound_never_exceeds_the_count(tokenizer: LocalTokenizer) -> None:
    source = random.Random(5)
    texts = [*TEXTS, *("".join(chr(source.choice((32, 101, 233, 0x4E2D))) for _ in range(63)) for _ in range(200))]
    counts = asyncio.run(tokenizer.count(texts, add_special_tokens=False))
    assert all(0 < tokenizer.fewest_tokens(text) <= count for text, count in zip(texts, counts, strict=True))


def test_truncation_in_the_file_is_ignored(checkpoint: Path, tmp_path: Path) -> None:
    description = json.loads((checkpoint / "tokenizer.json").read_text())
    description["truncation"] = {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(description))
    assert len(LocalTokenizer(path).encode("one two three four five")) > 3


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "NFKC"}},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [{"type": "Split", "behavior": "Removed"}, {"type": "ByteLevel"}],
            }
        },
        {"added_tokens": [{"content": "<s>", "rstrip": True}]},
        {"model": {"vocab": {"a": 0}, "unk_token": "<unk>"}},
    ],
)
def test_no_bound_where_text_may_be_dropped(change: dict) -> None:
    plain = {"normalizer": None, "pre_tokenizer": {"type": "ByteLevel"}, "model": {"vocab": {"Ġabc": 0}}}
    assert longest_token_bytes(plain) == 4
    assert longest_token_bytes(plain | change) is None


def test_added_tokens_count_in_bytes() -> None:
    description = {"pre_tokenizer": {"type": "ByteLevel"}, "model": {"vocab": {"a": 0}}}
    assert longest_token_bytes(description | {"added_tokens": [{"content": "<語é>"}]}) == 7


def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(TokenizerError, match=str(path)):
        LocalTokenizer(path)
