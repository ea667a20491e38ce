"""Which tokens of a text go into which prompt."""

from dataclasses import dataclass

from wave_serve.eval.settings import Protocol


@dataclass(frozen=True)
class Span:
    """Tokens `start` to `end` (exclusive) of sample number `sample`: one prompt."""

    sample: int
    start: int
    end: int


def sample_starts(total: int, length: int, most: int) -> list[int]:
    """Starts of up to `most` samples of `length` tokens, spread evenly over `total` tokens, none overlapping."""
    count = min(most, total // length)
    if count <= 1:
        return [0] * count
    return [index * (total - length) // (count - 1) for index in range(count)]


def prompts(samples: int, sample_length: int, length: int, protocol: Protocol, train_length: int | None) -> list[Span]:
    """The prompts that score every sample at `length`.

    A sample is cut from its end into pieces of `length` tokens; a shorter rest at its front is left out. Under `whole`
    a piece is one prompt. Under `non-overlapping` a piece is cut from its end into prompts of `train_length` tokens,
    of which the first may be shorter.
    """
    spans = []
    for sample in range(samples):
        for end in range(sample_length - (sample_length // length - 1) * length, sample_length + 1, length):
            start = end - length
            if protocol is Protocol.WHOLE or train_length is None or length <= train_length:
                spans.append(Span(sample, start, end))
                continue
            front = start + length % train_length
            if front - start > 1:
                spans.append(Span(sample, start, front))
            spans += [Span(sample, at, at + train_length) for at in range(front, end, train_length)]
    return spans


def longest_prompt(length: int, protocol: Protocol, train_length: int | None) -> int:
    """Tokens of the longest prompt of a piece of `length` tokens, which is also its last."""
    if protocol is Protocol.WHOLE or train_length is None:
        return length
    return min(length, train_length)
