"""splintr gives the tokens of `tokenizers`, or its text is left to that."""

import asyncio
import json
import random
import string
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.byte_level import STEPS, build
from helpers.hostile import hostile_texts
from tokenizers import Tokenizer

from wave_serve.engine.checkpoint import bundled_checkpoint
from wave_serve.tokens import battery
from wave_serve.tokens.fast_tokenizer import FastTokenizer, UnsupportedTokenizerError, fast_tokenizer
from wave_serve.tokens.tokenizer import LocalTokenizer

ASCII = "".join(map(chr, range(128)))
# Where the expressions decide: contractions, white space before each kind, runs, digits beside letters.
ALPHABETS = (ASCII, string.printable, "ab \n", " \t\n\r'sS1", " ;.'/1a\n", "aaab", "'sStTlLrReEvVmMdD 1\n", "0123 a")
KINDS = [*STEPS, "bundled"]


def find(directory: Path, kind: str) -> Path:
    return bundled_checkpoint() / "tokenizer.json" if kind == "bundled" else build(directory, kind)


def read(path: Path) -> dict:
    found: dict = json.loads(path.read_text())
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_token_ids_are_those_of_tokenizers(kind: str, tmp_path: Path) -> None:
    path = find(tmp_path, kind)
    fast, tokenizer = FastTokenizer(read(path)), Tokenizer.from_file(str(path))
    source = random.Random(11)
    texts = ["", " " * 20_000, "a" * 20_000, "\n" * 20_000, "a\n b" * 999, Path(json.__file__).read_text()]
    texts += [" " * length + "x" for length in range(99)]
    texts += ["".join(source.choices(source.choice(ALPHABETS), k=source.choice((3, 12, 90)))) for _ in range(2000)]
    texts += hostile_texts(2000, ["<|begin|>", "<|end|>"])
    taken = [text for text in texts if fast.takes(text)]
    assert len(taken) > 3500
    for special in (True, False):
        expected = [one.ids for one in tokenizer.encode_batch_fast(taken, add_special_tokens=special)]
        assert [list(ids) for ids in fast.encode(taken, add_special_tokens=special)] == expected
    assert fast.counts(taken) == [len(ids) for ids in expected]


def characters() -> Iterator[str]:
    """All but ASCII; of the many that are ideographs, syllables, private or not assigned every 41st."""
    many = ("Lo", "Co", "Cn")
    for code in range(0x80, sys.maxunicode + 1):
        kind = unicodedata.category(chr(code))
        if kind != "Cs" and (kind not in many or code % 41 == 0):
            yield chr(code)


@pytest.mark.parametrize("kind", STEPS)
def test_characters_of_every_kind_that_are_taken_are_read_alike(kind: str, tmp_path: Path) -> None:
    path = build(tmp_path, kind)
    fast, tokenizer = FastTokenizer(read(path)), Tokenizer.from_file(str(path))
    texts = (f"a {one}b1{one} {one}\n{one}'{one}  {one};{one} e{one}\u0323" for one in characters())
    taken = [text for text in texts if fast.takes(text)]
    expected = [len(one) for one in tokenizer.encode_batch_fast(taken, add_special_tokens=False)]
    assert fast.counts(taken) == expected
    assert len(taken) > 30_000


def test_a_text_that_is_not_in_normal_form_is_left_to_tokenizers(tmp_path: Path) -> None:
    fast = FastTokenizer(read(build(tmp_path, "qwen2")))
    assert not fast.takes("e\u0301")
    assert fast.takes("\u00e9")
    assert FastTokenizer(read(build(tmp_path, "gpt2"))).takes("e\u0301")


def test_characters_newer_than_python_are_left_to_tokenizers_where_the_expression_is_not_a_known_one(
    tmp_path: Path,
) -> None:
    description = read(build(tmp_path, "llama3"))
    assert FastTokenizer(description).takes("a\u0378")
    description["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\p{L}+|\p{P}+|\s+"
    fast = FastTokenizer(description)
    assert not fast.takes("a\u0378")
    assert fast.takes("aé🙂")


def test_counts_of_mixed_texts_keep_their_order(tmp_path: Path) -> None:
    tokenizer = LocalTokenizer(build(tmp_path, "qwen2"), piece=4)
    assert tokenizer.library == "splintr"
    text = "plain text\nnai\u0308ve 🙂 e\u0301 more\nand <|end|> of it 123\nlast e\u0301"
    for special in (True, False):
        expected = tokenizer.encode(text, add_special_tokens=special)
        assert asyncio.run(tokenizer.count([text], add_special_tokens=special)) == [len(expected)]
        assert [list(ids) for ids in asyncio.run(tokenizer.encode_all([text], add_special_tokens=special))] == [
            expected
        ]


BERT = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": True}


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "NFKC"}},
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}},
        {"normalizer": BERT | {"strip_accents": None}},
        {
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Punctuation", "behavior": "Contiguous"},
                    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
                ],
            }
        },
    ],
)
def test_a_step_that_follows_unicode_is_left_to_tokenizers(change: dict, tmp_path: Path) -> None:
    path = build(tmp_path, "gpt2")
    path.write_text(json.dumps(read(path) | change))
    tokenizer = LocalTokenizer(path)
    assert tokenizer.library == "tokenizers"
    text = "ABC ﬁ e\u0301, \u061d"
    assert asyncio.run(tokenizer.count([text], add_special_tokens=True)) == [len(tokenizer.encode(text))]


def unlisted(model: dict) -> None:
    """A token that no pair is listed for: splintr makes it inside of words too."""
    model["vocab"]["zq"] = 10_000
    model["ignore_merges"] = True


def disordered(model: dict) -> None:
    """Pairs that stand before the pairs that make their parts."""
    model["merges"].reverse()


@pytest.mark.parametrize("change", [unlisted, disordered])
def test_merges_that_are_read_otherwise_are_left_to_tokenizers(change: Callable[[dict], None], tmp_path: Path) -> None:
    path = build(tmp_path, "gpt2")
    description = read(path)
    change(description["model"])
    path.write_text(json.dumps(description))
    tokenizer = LocalTokenizer(path)
    assert tokenizer.library == "tokenizers"
    text = "zqx zq xzq " + Path(json.__file__).read_text()
    assert asyncio.run(tokenizer.count([text], add_special_tokens=True)) == [len(tokenizer.encode(text))]


def swapped(model: dict) -> None:
    """Neighbours change places, so that ids are not in the order of merges."""
    made = {left + right for left, right in model["merges"]}
    for index in range(300, len(model["merges"]) - 1, 2):
        first, second = model["merges"][index : index + 2]
        if not {"".join(first), "".join(second)} & {*first, *second} & made:
            model["merges"][index : index + 2] = second, first


def merged_in_two_ways(model: dict) -> None:
    """A token that two pairs make, with others listed between them."""
    model["merges"] += [["~", "^"], ["~^", "|"], ["^", "|"], ["~", "^|"]]
    for token in ("~^", "^|", "~^|"):
        model["vocab"][token] = len(model["vocab"]) + 5000


def not_reached(model: dict) -> None:
    """A token that the merges do not lead to, since an earlier one takes its middle."""
    model["merges"] = [["~", "^"], ["^", "|"], ["x", "~"], ["x~", "^|"]]
    model["vocab"] = {token: index for token, index in model["vocab"].items() if len(token) == 1}
    for left, right in model["merges"]:
        model["vocab"][left + right] = len(model["vocab"])


@pytest.mark.parametrize("change", [swapped, merged_in_two_ways, not_reached])
def test_merges_in_another_order_than_ids_are_counted_alike(change: Callable[[dict], None], tmp_path: Path) -> None:
    path = build(tmp_path, "gpt2")
    description = read(path)
    change(description["model"])
    path.write_text(json.dumps(description))
    fast, tokenizer = FastTokenizer(description), Tokenizer.from_file(str(path))
    source = random.Random(7)
    texts = ["".join(source.choices("~^|x ", k=30)) for _ in range(1000)] + [Path(json.__file__).read_text()]
    expected = [one.ids for one in tokenizer.encode_batch_fast(texts)]
    assert [list(ids) for ids in fast.encode(texts, add_special_tokens=True)] == expected


def test_a_file_on_which_the_libraries_differ_is_left_to_tokenizers(tmp_path: Path) -> None:
    path, other = build(tmp_path, "gpt2"), Tokenizer.from_file(str(bundled_checkpoint() / "tokenizer.json"))
    with pytest.raises(UnsupportedTokenizerError, match="other tokens"):
        fast_tokenizer(read(path), other, battery.texts([], other))
