"""The kinds of task, as text: what is hidden, what is asked, and the answer.

Every task is a function of a random generator (and, for definitions, of the text that is asked about). ``lines`` are
hidden one by one at random places of the filler, in their order; each begins and ends a line of its own.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from model_registry.training.tasks.pools import FIRST, PLAIN, words_of

if TYPE_CHECKING:
    import random

    from model_registry.training.tasks.pools import Pool

OPENING = "Document:\n"
"""Begins most task documents, so that a document to be asked about is told from a file of code."""


THINGS = ("code", "number", "key", "port", "price", "password", "badge", "room", "size", "limit", "offset", "count")
COMMON = words_of(
    """
    apple bread chair cloud door engine flower glass hammer island jacket kettle ladder market needle office paper
    quilt river school table umbrella village window yard bottle candle desk fence garden house iron judge knife
    lemon mirror number orange pencil queen road stone train uncle voice wheel zebra basket circle dinner energy
    forest guitar hotel insect jungle kitten letter mother nature ocean picture question rocket silver ticket unit
    """
)


@dataclass(frozen=True)
class Task:
    """Lines to hide, and questions about them with their answers.

    ``filled`` says whether other text may stand between the lines.
    """

    lines: list[str]
    questions: list[tuple[str, str]] = field(default_factory=list)
    filled: bool = True


def sentences(draw: random.Random, count: int) -> str:
    """Plain sentences, one a line, that repeat themselves: text to hide things in that tells nothing."""
    things = draw.sample(COMMON, 24)
    found = []
    for _ in range(count):
        first, second = draw.sample(things, 2)
        place = draw.choice(("near", "behind", "above", "below", "beside", "under"))
        found.append(f"{draw.choice(('The', 'A', 'This'))} {first} is {place} the {draw.choice(FIRST)} {second}.\n")
    return "".join(found)


def question(text: str) -> str:
    """A question as it stands after the document, up to the answer."""
    return f"\nQuestion: {text}\nAnswer:"


def pass_key(draw: random.Random) -> Task:
    """One pass key, in the words of ``wave-serve eval passkey``."""
    key = " ".join(str(draw.randrange(10)) for _ in range(5))
    return Task(
        [f"\n# The pass key is {key}. Remember it.\n"], [("\n# What is the pass key? The pass key is", f" {key}\n")]
    )


def hexadecimal(draw: random.Random) -> str:
    """An identifier: 8 hexadecimal digits, or a whole UUID's 32."""
    digits = "".join(draw.choice("0123456789abcdef") for _ in range(32))
    if draw.random() < 0.6:
        return f"{digits[:4]}-{digits[4:8]}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def look_up(draw: random.Random, pool: Pool = PLAIN) -> Task:
    """Values by name: some lines tell one, a few of them are asked for."""
    thing = draw.choice(THINGS)
    identifiers = draw.random() < 0.2
    count = draw.choice((1, 1, 2, 3, 4, 6, 8)) if not identifiers else draw.choice((1, 2, 3, 4))
    make_name, make_value = (hexadecimal, hexadecimal) if identifiers else (pool.name, pool.value)
    names = list(dict.fromkeys(make_name(draw) for _ in range(count)))
    values = {each: make_value(draw) for each in names}
    lines = [told(thing, each, values[each]) for each in names]
    asked = draw.sample(names, min(len(names), draw.randint(1, 4)))
    return Task(lines, [one(thing, each, values[each]) for each in asked])


def needles(draw: random.Random, size: int, pool: Pool = PLAIN) -> Task:
    """Nothing but lines that tell values by name, ``size`` tokens of them or fewer, and a few questions."""
    thing = draw.choice(THINGS)
    identifiers = draw.random() < 0.3
    make_name, make_value = (hexadecimal, hexadecimal) if identifiers else (pool.name, pool.value)
    count = max(2, size // (70 if identifiers else 19))
    names = list(dict.fromkeys(make_name(draw) for _ in range(count)))
    values = {each: make_value(draw) for each in names}
    asked = draw.sample(names, min(len(names), draw.randint(1, 2) if identifiers else draw.randint(2, 5)))
    return Task(
        [told(thing, each, values[each]) for each in names],
        [one(thing, each, values[each]) for each in asked],
        filled=False,
    )


def several_values(draw: random.Random, pool: Pool = PLAIN) -> Task:
    """Several values under one name, among lines with other names; all are asked for, in their order."""
    thing = draw.choice(THINGS)
    asked, *others = dict.fromkeys(pool.name(draw) for _ in range(draw.randint(2, 4)))
    values = [pool.value(draw) for _ in range(draw.randint(2, 4))]
    lines = [told(thing, asked, each) for each in values]
    for each in others:
        lines.insert(draw.randint(0, len(lines)), told(thing, each, pool.value(draw)))
    return Task(lines, [every(thing, asked, values)])


def told(thing: str, of: str, value_of_it: str) -> str:
    """The line that tells a value."""
    return f"The {thing} of {of} is {value_of_it}.\n"


def one(thing: str, of: str, value_of_it: str) -> tuple[str, str]:
    """The question for one value, and its answer."""
    return question(f"What is the {thing} of {of}?"), f" The {thing} of {of} is {value_of_it}.\n"


def every(thing: str, of: str, values: list[str]) -> tuple[str, str]:
    """The question for all values of a name, and its answer."""
    return question(f"List every {thing} of {of}."), f" Every {thing} of {of}: {', '.join(values)}.\n"


def chain(draw: random.Random) -> Task:
    """Variables that take their values from one another; asked for all that have a value, in their order."""
    chains = []
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        names = [
            "".join(draw.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(5)) for _ in range(draw.randint(2, 5))
        ]
        chains.append((str(draw.randrange(10000, 100000)), names))
    waiting = [assignments(number, names) for number, names in chains]
    lines = []
    while waiting:
        source = draw.choice(waiting)
        lines.append(source.pop(0))
        waiting = [each for each in waiting if each]
    return Task(
        lines, [same_value(number, names) for number, names in draw.sample(chains, draw.randint(1, len(chains)))]
    )


def assignments(number: str, names: list[str]) -> list[str]:
    """The lines of one chain."""
    first = f"VAR {names[0]} = {number}\n"
    return [first, *(f"VAR {later} = VAR {earlier}\n" for earlier, later in itertools.pairwise(names))]


def same_value(number: str, names: list[str]) -> tuple[str, str]:
    """The question for the variables of a chain, and its answer."""
    return (
        question(f"Which variables have the value {number}?"),
        f" The variables with the value {number}: {', '.join(names)}.\n",
    )


def frequent(draw: random.Random, size: int) -> Task:
    """A list of made-up words, some far more often than others; asked for the three most frequent."""
    words = ["".join(draw.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(draw.randint(4, 6))) for _ in range(30)]
    total = max(12, size // 8)
    drawn = zipf_counts(total, len(words), draw.choice((2.0, 2.0, 1.7, 2.5)))
    listed = [word for word, count in zip(words, drawn, strict=True) for _ in range(count)]
    draw.shuffle(listed)
    best = [word for word, _ in Counter(listed).most_common(3)]
    return Task(wrapped(listed, ". . . "), [most_frequent(best)], filled=False)


def zipf_counts(total: int, kinds: int, alpha: float) -> list[int]:
    """How often each of ``kinds`` words stands among about ``total``: the k-th in proportion to ``k ** -alpha``."""
    weights = [rank**-alpha for rank in range(1, kinds + 1)]
    counts = [round(total * weight / sum(weights)) for weight in weights]
    for rank in (2, 1, 0):  # the three that are asked for differ
        counts[rank] = max(counts[rank], counts[rank + 1] + 1)
    return counts


def common(draw: random.Random, size: int) -> Task:
    """A list of everyday words, a few of them often and the rest once or twice; asked for the frequent ones."""
    wanted = draw.choice((2, 3, 4, 5, 10, 10))
    total = max(12, size * 5 // 8)
    words = draw.sample(COMMON, min(len(COMMON), wanted + max(3, total // 8)))
    often = max(4, total // (3 * wanted))
    rarely = max(1, (total - often * wanted) // (len(words) - wanted))
    listed = words[:wanted] * often + words[wanted:] * min(rarely, max(1, often // 3))
    draw.shuffle(listed)
    order = list(dict.fromkeys(word for word in listed if word in words[:wanted]))
    return Task(wrapped(listed, " "), [most_common(order)], filled=False)


def wrapped(words: list[str], separator: str) -> list[str]:
    """Words in lines of twelve."""
    return [separator.join(words[start : start + 12]) + "\n" for start in range(0, len(words), 12)]


def most_frequent(words: list[str]) -> tuple[str, str]:
    """The question for the three most frequent words, and its answer, most frequent first."""
    return question("Which three words are the most frequent?"), f" The most frequent words: {', '.join(words)}.\n"


def most_common(words: list[str]) -> tuple[str, str]:
    """The question for the words that are listed often, and its answer, in the order of their first place."""
    return (
        question(f"Which {len(words)} words are the most common?"),
        f" The most common words: {', '.join(words)}.\n",
    )


DEFINITION = re.compile(r"^( *(?:async )?(?:def|class) (\w+)\b[^\n]{0,120}:)$", re.MULTILINE)
CONSTANT = re.compile(r"^([A-Z][A-Z_]{2,}) = ([^\n\\]{1,60})$", re.MULTILINE)


def definitions(draw: random.Random, text: str) -> Task:
    """Questions about the code itself: how something in it is defined, or what a constant is set to."""
    found = [(match[2], match[1].strip()) for match in DEFINITION.finditer(text)]
    times = Counter(each for each, _ in found)
    questions = [defined(each, line) for each, line in found if times[each] == 1 and not each.startswith("__")]
    set_to = Counter(match[1] for match in CONSTANT.finditer(text))
    questions += [constant(match[1], match[2].rstrip()) for match in CONSTANT.finditer(text) if set_to[match[1]] == 1]
    return Task([], draw.sample(questions, min(len(questions), draw.randint(1, 4))))


def defined(of: str, line: str) -> tuple[str, str]:
    """The question for a definition, and its answer: the line that begins it."""
    return question(f"How is {of} defined?"), f" {line}\n"


def constant(of: str, text: str) -> tuple[str, str]:
    """The question for a constant, and its answer."""
    return question(f"What is {of} set to?"), f" {of} = {text}\n"
