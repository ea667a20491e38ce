"""Retrieval episodes among the training rows: they teach a model to look back, which plain text seldom asks for.

An episode hides something in a stretch of the corpus and asks for it at the end: a pass key, one of several codes by
name, or a note to copy. Episodes of 64 tokens up to a whole row are packed into rows, the end-of-text token after
each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy
import torch

from model_registry.training import retrieval_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SHORTEST = 64
KEY_DIGITS = 5
CODE_DIGITS = 3
MOST_ENTRIES = 4
NOTE_TOKENS = (6, 20)


@dataclass(frozen=True)
class Episode:
    """Token ids of an episode: the parts that are hidden in the filler, and the question with its answer."""

    hidden: list[list[int]]
    tail: list[int]


def with_retrieval_rows(
    batch: torch.Tensor,
    stream: torch.Tensor,
    tokenizer: PreTrainedTokenizerFast,
    fraction: float,
    *,
    seed: int,
    step: int,
) -> torch.Tensor:
    """``batch`` with a share of its rows replaced, each with probability ``fraction``.

    Args:
        batch: ``[B, L + 1]`` int64; not changed.
        stream: ``[N]`` token ids of the corpus, from which the filler is taken.
        tokenizer: the corpus's.
        fraction: in [0, 1]; 0 gives ``batch`` itself.
        seed: of the draw.
        step: counted from 0; the rows are a function of ``seed`` and ``step``, so a run can resume.
    """
    if fraction == 0:
        return batch
    rows = []
    for number, row in enumerate(batch):
        draw = numpy.random.default_rng([seed, step, number])
        replaced = draw.random() < fraction
        rows.append(retrieval_row(stream, tokenizer, len(row), draw) if replaced else row)
    return torch.stack(rows)


def retrieval_row(
    stream: torch.Tensor, tokenizer: PreTrainedTokenizerFast, tokens: int, draw: numpy.random.Generator
) -> torch.Tensor:
    """``[tokens]`` int64: whole episodes one after the other, the last one cut where the row ends."""
    row: list[int] = []
    while len(row) < tokens:
        size = int(draw.integers(min(SHORTEST, tokens - 1), tokens))
        kind = (_pass_key, _look_up, _copy)[draw.integers(3)]
        row += _laid_out(kind(stream, tokenizer, draw), size, stream, draw)
        row.append(tokenizer.eos_token_id)
    return torch.tensor(row[:tokens])


def _laid_out(episode: Episode, size: int, stream: torch.Tensor, draw: numpy.random.Generator) -> list[int]:
    """The episode in ``size`` tokens with its end-of-text token, hidden parts at random places in the filler."""
    room = max(0, size - 1 - sum(map(len, episode.hidden)) - len(episode.tail))
    filler = _stretch(stream, room, draw)
    places = sorted(int(place) for place in draw.integers(0, len(filler) + 1, len(episode.hidden)))
    found: list[int] = []
    for part, begin, end in zip(episode.hidden, [0, *places], places, strict=False):
        found += filler[begin:end] + part
    return found + filler[places[-1] :] + episode.tail


def _stretch(stream: torch.Tensor, tokens: int, draw: numpy.random.Generator) -> list[int]:
    start = int(draw.integers(max(1, len(stream) - tokens + 1)))
    return stream[start : start + tokens].tolist()


def _pass_key(_stream: torch.Tensor, tokenizer: PreTrainedTokenizerFast, draw: numpy.random.Generator) -> Episode:
    key = _digits(KEY_DIGITS, draw)
    return Episode(
        [_ids(tokenizer, retrieval_text.hidden_key(key))],
        _ids(tokenizer, retrieval_text.key_question()) + _ids(tokenizer, retrieval_text.answer(key)),
    )


def _look_up(_stream: torch.Tensor, tokenizer: PreTrainedTokenizerFast, draw: numpy.random.Generator) -> Episode:
    names = draw.permutation(retrieval_text.NAMES)[: draw.integers(2, MOST_ENTRIES + 1)].tolist()
    codes = [_digits(CODE_DIGITS, draw) for _ in names]
    asked = int(draw.integers(len(names)))
    return Episode(
        [_ids(tokenizer, retrieval_text.entry(name, code)) for name, code in zip(names, codes, strict=True)],
        _ids(tokenizer, retrieval_text.entry_question(names[asked]))
        + _ids(tokenizer, retrieval_text.answer(codes[asked])),
    )


def _copy(stream: torch.Tensor, tokenizer: PreTrainedTokenizerFast, draw: numpy.random.Generator) -> Episode:
    note = _stretch(stream, int(draw.integers(*NOTE_TOKENS)), draw)
    begin, end, again = (
        _ids(tokenizer, text) for text in (retrieval_text.NOTE, retrieval_text.NOTE_END, retrieval_text.NOTE_AGAIN)
    )
    return Episode([begin + note + end], again + note)


def _digits(count: int, draw: numpy.random.Generator) -> str:
    """``count`` digits with blanks between them."""
    return " ".join(map(str, draw.integers(0, 10, count)))


def _ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids
