"""A text counted in pieces has as many tokens as the whole, for every pre-tokenizer that is counted so."""

import asyncio
import json
import random
from pathlib import Path

import pytest
from helpers.byte_level import CORPUS, STEPS, build

from wave_serve.engine.checkpoint import bundled_checkpoint
from wave_serve.tokens.pieces import LLAMA_3, PieceCounts, cuts_alike, pieces_of
from wave_serve.tokens.tokenizer import LocalTokenizer


def texts(seed: int) -> list[str]:
    """Texts full of line breaks and spaces between all kinds of characters, and all of the corpus."""
    source = random.Random(seed)
    kinds = [
        "\n",
        "\n",
        "\r\n",
        " ",
        " ",
        "a",
        "a",
        "Z",
        "é",
        "7",
        ";",
        "/",
        "'s",
        "\t",
        "日",
        "\x1c",
        "\x85",
        "\u2028",
        "\u0301",
        "\u1100",
        "\u1161",
        "<|end|>",
    ]
    return [
        CORPUS,
        "\n".join("ab;.'1Z" * 9),
        " ".join("aZb;.'1\té" * 9),
        *("".join(source.choices(kinds, k=400)) for _ in range(60)),
    ]


@pytest.mark.parametrize("kind", STEPS)
def test_pieces_have_as_many_tokens_as_the_whole(kind: str, tmp_path: Path) -> None:
    tokenizer = LocalTokenizer(build(tmp_path, kind), piece=5)
    for special in (True, False):
        expected = [len(tokenizer.encode(text, add_special_tokens=special)) for text in texts(3)]
        for _ in range(2):  # the second time from memory
            assert asyncio.run(tokenizer.count(texts(3), add_special_tokens=special)) == expected
    assert sum(len(list(pieces_of(text, 5))) for text in texts(3)) > 200


def test_the_bundled_tokenizer_counts_in_pieces() -> None:
    path = bundled_checkpoint() / "tokenizer.json"
    assert cuts_alike(json.loads(path.read_text()))
    tokenizer = LocalTokenizer(path)
    text = "".join(file.read_text() for file in sorted(Path(__file__).parents[1].rglob("*.py")))
    assert len(list(pieces_of(text))) > 9
    assert asyncio.run(tokenizer.count([text], add_special_tokens=False)) == [
        len(tokenizer.encode(text, add_special_tokens=False))
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "NFKC"}},
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}},
        {"added_tokens": [{"content": "ab", "lstrip": True}]},
        {"added_tokens": [{"content": "ab", "rstrip": True}]},
        {"added_tokens": [{"content": "a\nb"}]},
        {"added_tokens": [{"content": "a b"}]},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}},
        {"pre_tokenizer": {"type": "ByteLevel", "use_regex": False}},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": None},
        {
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Split", "pattern": {"Regex": "\\s+"}, "behavior": "Isolated"},
                    {"type": "ByteLevel"},
                ],
            }
        },
        {
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Split", "pattern": {"Regex": LLAMA_3}, "behavior": "MergedWithNext"},
                    {"type": "ByteLevel"},
                ],
            }
        },
    ],
)
def test_another_tokenizer_counts_the_whole(change: dict) -> None:
    plain = {"normalizer": None, "added_tokens": [], "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False}}
    assert cuts_alike(plain)
    assert not cuts_alike(plain | change)


def test_pieces_are_the_text_and_shared_by_texts_that_begin_alike() -> None:
    text = "".join(f"line {index}\n" for index in range(3000))
    one, other = list(pieces_of(text, 2048)), list(pieces_of(text[:20_000] + "And now something else.", 2048))
    assert "".join(one) == text
    assert one[:3] == other[:3]
    assert [len(piece) // 2048 for piece in one] == [1, 2, 4, 4, 3]  # and the rest
    assert list(pieces_of("")) == [""]
    assert list(pieces_of("x" * 10_000)) == ["x" * 10_000]


def test_a_known_piece_is_not_tokenised_again_and_the_oldest_are_forgotten() -> None:
    seen = []

    def tokenize(texts: list[str]) -> list[int]:
        seen.extend(texts)
        return [len(text) for text in texts]

    def count(text: str) -> int:
        known, new = counts.look_up(text)
        return known + counts.add(new, tokenize)

    counts = PieceCounts(size=5, most=6)
    a, b, c, d = "a" * 6 + "\n", "b" * 12 + "\n", "c" * 22 + "\n", "d" * 22 + "\n"
    assert count(a + b + c) == 43
    assert count(a + b + d) == 43
    assert seen == [a, b, c, d]
    assert counts.look_up(a + b) == (20, [])
    count("".join(letter * 22 + "\n" for letter in "efghijk"))
    assert len(counts) == 6
    assert counts.look_up(a)[0] == 0


def test_the_file_of_a_tokenizer_says_how_it_cuts(tmp_path: Path) -> None:
    for kind in STEPS:
        assert cuts_alike(json.loads(build(tmp_path, kind).read_text()))
