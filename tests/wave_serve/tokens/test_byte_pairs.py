"""Text counted by tiktoken has as many tokens as the tokenizer gives it, or is left to the tokenizer."""

import json
import random
import string
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.byte_level import STEPS, build
from tokenizers import Tokenizer

from wave_serve.engine.checkpoint import bundled_checkpoint
from wave_serve.tokens.byte_pairs import LONGEST, byte_pairs
from wave_serve.tokens.tokenizer import LocalTokenizer

ASCII = "".join(map(chr, range(128)))
# Where the expressions decide: contractions, white space before each kind, runs, digits beside letters.
ALPHABETS = (ASCII, string.printable, "ab \n", " \t\n\r'sS1", " ;.'/1a\n", "aaab", "'sStTlLrReEvVmMdD 1\n", "0123 a")


def read(path: Path) -> dict:
    found: dict = json.loads(path.read_text())
    return found


def all_ways(directory: Path, kind: str) -> Path:
    """The same tokens with every pair that makes one listed, as Llama 3's are; some come of no pair."""
    path = build(directory, kind)
    description = read(path)
    model = description["model"]
    tokens = ["".join(pair) for pair in model["merges"]]
    for number, token in enumerate(("qzjx", "Ġ~~z", "~7~")):
        model["vocab"][token] = len(model["vocab"]) + number
    ways = [[(token[:cut], token[cut:]) for cut in range(1, len(token))] for token in tokens]
    model["merges"] = [way for one in ways for way in one if way[0] in model["vocab"] and way[1] in model["vocab"]]
    model["ignore_merges"] = True
    path.write_text(json.dumps(description))
    return path


@pytest.mark.parametrize("kind", [*STEPS, "bundled", "llama3 all ways", "gpt2 all ways"])
def test_counts_are_those_of_the_tokenizer(kind: str, tmp_path: Path) -> None:
    kind, *ways = kind.split(" ", 1)
    path = (
        bundled_checkpoint() / "tokenizer.json" if kind == "bundled" else (all_ways if ways else build)(tmp_path, kind)
    )
    pairs, tokenizer = byte_pairs(read(path)), Tokenizer.from_file(str(path))
    assert pairs is not None
    source = random.Random(11)
    texts = ["", " " * LONGEST, "a" * LONGEST, "\n" * LONGEST, "a\n b" * 999, Path(json.__file__).read_text()]
    texts += ["qzjx qzjxa ~~z ~~za ~7~ ~~7~"] + [" " * length + "x" for length in range(99)]
    texts += ["".join(source.choices(source.choice(ALPHABETS), k=source.choice((3, 12, 90)))) for _ in range(4000)]
    expected = [len(one) for one in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
    assert [pairs.count(text) for text in texts] == expected


@pytest.mark.parametrize("kind", STEPS)
def test_every_character_that_is_taken_is_read_alike(kind: str, tmp_path: Path) -> None:
    path = build(tmp_path, kind)
    pairs, tokenizer = byte_pairs(read(path)), Tokenizer.from_file(str(path))
    assert pairs is not None
    characters = [chr(code) for code in range(0x80, sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    counts = {
        text: pairs.count(text) for text in (f"a {one}b1{one} {one}\n{one}'{one}  {one};{one}" for one in characters)
    }
    taken = [text for text, count in counts.items() if count is not None]
    expected = [len(one) for one in tokenizer.encode_batch_fast(taken, add_special_tokens=False)]
    assert [counts[text] for text in taken] == expected
    assert len(taken) > 56_000


def test_what_tiktoken_may_read_otherwise_is_left_to_the_tokenizer(tmp_path: Path) -> None:
    pairs = byte_pairs(read(build(tmp_path, "qwen2")))
    assert pairs is not None
    newer, changed, apart = "\u0221", "\u200b", "e\u0301"
    for text in (newer, changed, apart, "🙂", "a <|end|> b", " " * (LONGEST + 1)):
        assert pairs.count(text) is None
    assert pairs.count("naïve 日本語") is not None


def test_counts_of_mixed_texts_keep_their_order(tmp_path: Path) -> None:
    tokenizer = LocalTokenizer(build(tmp_path, "digits"))
    texts = ["plain text", "naïve 🙂", "", "日本語 with <|end|>", "more of it 123", "<|begin|>"]
    assert tokenizer._lengths(texts) == [len(tokenizer.encode(text, add_special_tokens=False)) for text in texts]


def merged_twice(model: dict) -> None:
    """One token, two ways that are not listed in a row: tiktoken has one rank for both."""
    model["merges"] += [["~", "^"], ["~^", "|"], ["^", "|"], ["~", "^|"]]
    for token in ("~^", "^|", "~^|"):
        model["vocab"][token] = len(model["vocab"])


def not_reached(model: dict) -> None:
    """A token that the merges do not lead to, since an earlier one takes its middle; tiktoken would take it whole."""
    model["merges"] = [["~", "^"], ["^", "|"], ["x", "~"], ["x~", "^|"]]
    model["vocab"] = {token: index for token, index in model["vocab"].items() if len(token) == 1}
    for left, right in model["merges"]:
        model["vocab"][left + right] = len(model["vocab"])


def whole_of_two(model: dict) -> None:
    """A token of two others that are not listed as its pair: tiktoken would merge them inside of words too."""
    model["vocab"]["zq"] = 10_000
    model["ignore_merges"] = True


def of_no_bytes(model: dict) -> None:
    """A token of characters that stand for no byte."""
    model["vocab"]["日本語"] = 10_000
    model["ignore_merges"] = True


def without_a_byte(model: dict) -> None:
    model["vocab"] = {token: index for token, index in model["vocab"].items() if "Q" not in token}
    model["merges"] = [pair for pair in model["merges"] if "Q" not in "".join(pair)]


@pytest.mark.parametrize(
    "change",
    [
        merged_twice,
        not_reached,
        without_a_byte,
        lambda model: model["vocab"].update({"not by a merge": 10_000}),
        lambda model: model["vocab"].update({"qzjx": 10_000}),
        whole_of_two,
        of_no_bytes,
        lambda model: model.update(dropout=0.1),
        lambda model: model.update(byte_fallback=True),
        lambda model: model.update(continuing_subword_prefix="##"),
        lambda model: model.update(end_of_word_suffix="</w>"),
        lambda model: model.update(type="WordPiece"),
    ],
)
def test_another_model_is_left_to_the_tokenizer(change: Callable[[dict], None], tmp_path: Path) -> None:
    description = read(build(tmp_path, "gpt2"))
    assert byte_pairs(description) is not None
    change(description["model"])
    assert byte_pairs(description) is None


@pytest.mark.parametrize(
    "steps",
    [
        [{"type": "Digits", "individual_digits": False}, {"type": "ByteLevel", "add_prefix_space": False}],
        [{"type": "Whitespace"}, {"type": "ByteLevel", "add_prefix_space": False}],
    ],
)
def test_another_pre_tokenizer_is_left_to_the_tokenizer(steps: list[dict], tmp_path: Path) -> None:
    description = read(build(tmp_path, "gpt2"))
    description["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    assert byte_pairs(description) is None
