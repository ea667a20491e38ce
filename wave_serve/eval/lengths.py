"""Reads `--lengths`: multiples of the training length, or tokens."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from wave_serve.eval.errors import LengthError

FORM = re.compile(r"(?P<tokens>\d+)t|(?P<multiple>\d+(?:\.\d+|/[1-9]\d*)?)x?")


@dataclass(frozen=True)
class Length:
    """One entry of `--lengths`: a number of tokens, or a multiple of the training length."""

    written: str
    tokens: int | None = None
    multiple: Fraction | None = None

    def resolve(self, train_length: int | None) -> int:
        """The length in tokens.

        Raises:
            LengthError: a multiple of an unknown length, one that is no whole number, or fewer than 2 tokens.
        """
        if self.multiple is None:
            found = Fraction(self.tokens or 0)
        elif train_length is None:
            raise LengthError(
                f"length {self.written!r} is a multiple of a training length that the endpoint does not tell; "
                "give --train-length, or tokens such as 2048t"
            )
        else:
            found = self.multiple * train_length
        if found.denominator != 1 or found < 2:
            raise LengthError(
                f"length {self.written!r} is {float(found):g} tokens; a whole number of 2 or more is needed"
            )
        return int(found)


def parse_lengths(text: str) -> tuple[Length, ...]:
    """The entries of a list such as `1/4,1,2x,4096t`. Raises LengthError naming the entry that cannot be read."""
    found = []
    for entry in (part.strip() for part in text.split(",")):
        match = FORM.fullmatch(entry)
        if match is None:
            raise LengthError(
                f"--lengths: cannot read {entry!r}; write multiples of the training length (1,2,0.5,1/4) "
                "or tokens (2048t), separated by commas"
            )
        if match["tokens"]:
            found.append(Length(entry, tokens=int(match["tokens"])))
        else:
            found.append(Length(entry, multiple=Fraction(match["multiple"])))
    return tuple(found)


def resolve_lengths(lengths: Sequence[Length], train_lengths: Sequence[int | None]) -> list[int]:
    """Lengths in tokens, ascending, each once; all endpoints must give the same.

    Raises:
        LengthError: see `Length.resolve`; or the endpoints' training lengths differ.
    """
    by_endpoint = {tuple(sorted({length.resolve(train) for length in lengths})) for train in train_lengths}
    if len(by_endpoint) > 1:
        raise LengthError(
            f"the endpoints were trained at different lengths ({', '.join(map(str, train_lengths))} tokens); "
            "give --train-length, or lengths in tokens such as 2048t"
        )
    return list(by_endpoint.pop())
