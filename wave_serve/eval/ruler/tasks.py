"""Six tasks after RULER (Hsieh et al. 2024, arXiv 2404.06654), each of any size.

The tasks are RULER's, the words and the haystack are ours: a model trained on 512 tokens has no room for its essays.
`size` counts what a document is made of (sentences, lines or words); more of it is a longer document.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from wave_serve.eval.passkey.filler import neutral_text
from wave_serve.eval.ruler import words

VALUE_DIGITS = 7
CHAIN_NAMES = 5
COMMON_WORDS = 10
FREQUENT_WORDS = 3
CODED_WORDS = 30
ZETA = 2.0
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Example:
    """A document with its question, up to the answer, and what the answer has to hold."""

    prompt: str
    expected: tuple[str, ...]
    answer_characters: int


def single(size: int, draw: random.Random) -> Example:
    """niah_single_1: one value by name among sentences that repeat themselves."""
    name, value = _name(draw), _value(draw)
    return Example(_hidden([words.told(name, value)], size, draw) + words.asked(name), (value,), VALUE_DIGITS)


def many_keys(size: int, draw: random.Random) -> Example:
    """niah_multikey_2: every line tells a value, one is asked for."""
    return _all_needles(_names(size, draw), lambda: _value(draw), VALUE_DIGITS, draw)


def many_identifiers(size: int, draw: random.Random) -> Example:
    """niah_multikey_3: the same with UUIDs for names and values."""
    return _all_needles([_uuid(draw) for _ in range(size)], lambda: _uuid(draw), 36, draw)


def variables(size: int, draw: random.Random) -> Example:
    """vt: variables that take their value from one another, among sentences; all of them are asked for."""
    names = ["".join(draw.choices(LETTERS.upper(), k=5)) for _ in range(CHAIN_NAMES)]
    number = str(draw.randrange(10**4, 10**5))
    document = _hidden(words.assignments(number, names), size, draw)
    return Example(document + words.asked_variables(number), tuple(names), 7 * CHAIN_NAMES)


def frequent(size: int, draw: random.Random) -> Example:
    """fwe: made-up words whose frequencies fall by a power law; the three most frequent are asked for."""
    coded = ["".join(draw.choices(LETTERS, k=draw.randint(4, 6))) for _ in range(CODED_WORDS)]
    weights = [rank**-ZETA for rank in range(1, CODED_WORDS + 1)]
    counts = [round(size * weight / sum(weights)) for weight in weights]
    for rank in reversed(range(FREQUENT_WORDS)):  # the words that are asked for differ in their frequency
        counts[rank] = max(counts[rank], counts[rank + 1] + 1)
    listed = [word for word, count in zip(coded, counts, strict=True) for _ in range(count)]
    draw.shuffle(listed)
    best = tuple(word for word, _ in Counter(listed).most_common(FREQUENT_WORDS))
    prompt = words.OPENING + words.wrapped(listed, ". . . ") + words.asked_frequent()
    return Example(prompt, best, 8 * FREQUENT_WORDS)


def common(size: int, draw: random.Random) -> Example:
    """cwe: a list of everyday words, ten of them ten times as often as the others; the ten are asked for."""
    chosen = draw.sample(words.COMMON, min(len(words.COMMON), COMMON_WORDS + max(3, size // 8)))
    often, rare = chosen[:COMMON_WORDS], chosen[COMMON_WORDS:]
    times = max(3, size // (2 * COMMON_WORDS))
    listed = often * times + rare * max(1, min(times // 3, (size - times * COMMON_WORDS) // len(rare)))
    draw.shuffle(listed)
    prompt = words.OPENING + words.wrapped(listed, " ") + words.asked_common(COMMON_WORDS)
    return Example(prompt, tuple(often), 10 * COMMON_WORDS)


TASKS: dict[str, Callable[[int, random.Random], Example]] = {
    "niah_single_1": single,
    "niah_multikey_2": many_keys,
    "niah_multikey_3": many_identifiers,
    "vt": variables,
    "fwe": frequent,
    "cwe": common,
}


def score(text: str, expected: tuple[str, ...]) -> float:
    """RULER's measure: the share of what is expected that the answer holds, cases aside."""
    return sum(each.lower() in text.lower() for each in expected) / len(expected)


def _hidden(lines: list[str], size: int, draw: random.Random) -> str:
    """A document of `size` sentences with the lines at uniformly drawn places, in their order."""
    sentences = neutral_text(size * 60, draw.randrange(2**30)).splitlines(keepends=True)[:size]
    places = sorted(draw.randint(0, len(sentences)) for _ in lines)
    for line, place in zip(reversed(lines), reversed(places), strict=True):
        sentences.insert(place, line)
    return words.OPENING + "".join(sentences)


def _all_needles(names: list[str], value: Callable[[], str], characters: int, draw: random.Random) -> Example:
    values = [value() for _ in names]
    asked = draw.randrange(len(names))
    lines = [words.told(name, each) for name, each in zip(names, values, strict=True)]
    return Example(words.OPENING + "".join(lines) + words.asked(names[asked]), (values[asked],), characters)


def _name(draw: random.Random) -> str:
    return f"{draw.choice(words.FIRST)}-{draw.choice(words.SECOND)}"


def _names(count: int, draw: random.Random) -> list[str]:
    """Different names; those of two words run out, and get another word in front then."""
    names: dict[str, None] = {}
    while len(names) < count:
        name = _name(draw)
        names[name if name not in names else f"{draw.choice(words.FIRST)}-{name}"] = None
    return list(names)


def _value(draw: random.Random) -> str:
    return str(draw.randrange(10 ** (VALUE_DIGITS - 1), 10**VALUE_DIGITS))


def _uuid(draw: random.Random) -> str:
    digits = f"{draw.getrandbits(128):032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
