"""The passkey episode: a key hidden in filler, asked for at the end.

    FILLER
    # The pass key is 4 8 1 5 2. Remember it.
    FILLER
    # What is the pass key? The pass key is 4 8 1 5 2

Lines are Python comments, so that a model of code has seen their like; digits stand apart, so that each is one token.
"""

import random

DIGITS = 5


def draw_key(seed: int, trial: int) -> str:
    """The key of a trial: five digits with blanks between them, a function of the seed and the trial's number."""
    draw = random.Random(f"{seed}/{trial}")  # noqa: S311 - a test item, not a secret
    return " ".join(str(draw.randrange(10)) for _ in range(DIGITS))


def hidden(key: str) -> str:
    """The line that tells the key."""
    return f"\n# The pass key is {key}. Remember it.\n"


def question() -> str:
    """The line that asks for it, up to the answer."""
    return "\n# What is the pass key? The pass key is"


def answer(key: str) -> str:
    """What has to follow the question."""
    return f" {key}"


def is_exact(text: str, key: str) -> bool:
    """Whether a completion is the key and nothing else, blanks and line ends around it aside."""
    return " ".join(text.split()) == key
