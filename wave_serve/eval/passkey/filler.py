"""Neutral text to hide a key in: sentences of everyday words, without digits, as Python comments."""

import random

SUBJECTS = (
    "the river",
    "a quiet street",
    "the old mill",
    "this garden",
    "the north wind",
    "a small boat",
    "the market",
)
VERBS = ("passes", "meets", "follows", "leaves", "reaches", "faces", "crosses")
OBJECTS = ("the long wall", "an open field", "the wooden bridge", "a row of trees", "the harbour", "the next village")
TIMES = ("in the morning", "before noon", "every autumn", "after the rain", "at sunset", "on most days")


def neutral_text(characters: int, seed: int) -> str:
    """At least that many characters of it, a function of the seed."""
    draw = random.Random(seed)  # noqa: S311 - filler, not a secret
    lines = []
    size = 0
    while size < characters:
        words = f"{draw.choice(SUBJECTS)} {draw.choice(VERBS)} {draw.choice(OBJECTS)} {draw.choice(TIMES)}"
        lines.append(f"# {words.capitalize()}.\n")
        size += len(lines[-1])
    return "".join(lines)
