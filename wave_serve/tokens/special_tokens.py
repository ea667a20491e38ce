"""The special tokens that a tokenizer puts around a text; a truncated prompt keeps them."""

from collections.abc import Sequence
from dataclasses import dataclass

PROBE = "a"


@dataclass(frozen=True)
class Affixes:
    """Token ids before and after every text."""

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]

    def around(self, ids: Sequence[int]) -> tuple[int, int]:
        """How many tokens at the start and at the end of `ids` are these."""
        before, after = len(self.prefix), len(self.suffix)
        return (
            before if tuple(ids[:before]) == self.prefix else 0,
            after if after and tuple(ids[-after:]) == self.suffix else 0,
        )


def affixes_of(with_special: Sequence[int], without: Sequence[int]) -> Affixes:
    """The affixes by a text's token ids with and without special tokens; none where the one is not in the other."""
    size = len(without)
    for start in range(len(with_special) - size + 1):
        if list(with_special[start : start + size]) == list(without):
            return Affixes(tuple(with_special[:start]), tuple(with_special[start + size :]))
    return Affixes((), ())
