"""Tasks in training rows: token ids, what each of them counts in the loss, and which document it belongs to.

Only answers count: what is hidden is random, and a model that learned to write such lines would put them into its
code. A row holds whole tasks one after the other, each a document of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy

from model_registry.training.tasks import kinds
from model_registry.training.tasks.pools import PLAIN, near_misses

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from tokenizers import Tokenizer

SHORTEST = 64
"""Tokens of the shortest task document."""

KINDS = ("pass_key", "look_up", "needles", "several_values", "chain", "frequent", "common", "definitions")
SHARES = (0.07, 0.15, 0.11, 0.17, 0.19, 0.11, 0.08, 0.12)
SHARP_SHARES = (0.08, 0.2, 0.3, 0.1, 0.1, 0.02, 0.02, 0.18)
"""Of each kind, in a mixture that teaches to tell near misses apart."""
NAMED = ("look_up", "needles", "several_values")
"""Kinds whose lines tell values by name."""


@dataclass
class Row:
    """``ids``, ``weights`` (0 or 1, of each token as a target) and ``documents`` (a number per document)."""

    ids: list[int]
    weights: list[int]
    documents: list[int]


class TaskRows:
    """Makes rows out of a corpus's token stream.

    Args:
        tokenizer: of the stream.
        streams: token ids of text to hide things in; the first is code, which definitions are asked of.
        end: id of the end-of-text token.
        sharp: whether names and values of a document nearly match one another (``pools.near_misses``), and the kinds
            that need this are more frequent.
        shares: of each of ``KINDS``, instead of ``SHARES`` or ``SHARP_SHARES``.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        streams: Sequence[numpy.ndarray],
        end: int,
        *,
        sharp: bool = False,
        shares: Sequence[float] | None = None,
    ) -> None:
        self._sharp = sharp
        self._shares = shares or (SHARP_SHARES if sharp else SHARES)
        self._tokenizer = tokenizer
        self._streams = streams
        self._end = end
        self._encode = lru_cache(maxsize=65536)(lambda text: tokenizer.encode(text, add_special_tokens=False).ids)
        size = tokenizer.get_vocab_size()
        texts = [tokenizer.decode([token], skip_special_tokens=False) for token in range(size)]
        self._ends_line = numpy.array([text.endswith("\n") for text in texts])
        self._begins_word = numpy.array([not text[:1].isspace() for text in texts])
        self._newline = self._encode("\n")[0]

    def row(self, tokens: int, draw: random.Random) -> Row:
        """A row of ``tokens`` tokens; the last document is cut where the row ends."""
        row = Row([], [], [])
        while len(row.ids) < tokens:
            room = tokens - len(row.ids)
            whole = not row.ids and draw.random() < 0.5
            size = room if whole else draw.randint(SHORTEST, max(SHORTEST, room))
            ids, weights = self.document(size, draw)
            number = row.documents[-1] + 1 if row.documents else 0
            row.ids += ids
            row.weights += weights
            row.documents += [number] * len(ids)
        return Row(row.ids[:tokens], row.weights[:tokens], row.documents[:tokens])

    def document(self, size: int, draw: random.Random, kind: str | None = None) -> tuple[list[int], list[int]]:
        """Ids and weights of one task of about ``size`` tokens, of any kind or of the given one."""
        kind = kind or draw.choices(KINDS, self._shares)[0]
        pool = {"pool": near_misses(draw) if self._sharp else PLAIN} if kind in NAMED else {}
        opening = self._encode(kinds.OPENING) if draw.random() < 0.8 else []
        if kind in ("needles", "frequent", "common"):
            # A part of the room is the questions'.
            task = getattr(kinds, kind)(draw, max(24, int(size * 0.75) - 24), **pool)
        elif kind == "definitions":
            filler, task = self._definitions(max(40, size - 80), draw)
        else:
            task = getattr(kinds, kind)(draw, **pool)
        hidden = [self._encode(line) for line in task.lines]
        tail, weights = self._asked(task.questions)
        if kind != "definitions":
            room = size - len(opening) - sum(map(len, hidden)) - len(tail)
            filler = self._stretch(room, draw, draw.choice(self._streams)) if task.filled and room > 0 else []
        body = [*opening, *self._laid_out(hidden, filler, draw)]
        return [*body, *tail], [*[0] * len(body), *weights]

    def _definitions(self, tokens: int, draw: random.Random) -> tuple[list[int], kinds.Task]:
        """A stretch of code that defines something, or the last of a few that do not."""
        for _ in range(4):
            filler = self._stretch(tokens, draw, self._streams[0])
            task = kinds.definitions(draw, self._tokenizer.decode(filler))
            if task.questions:
                break
        return filler, task

    def _asked(self, questions: list[tuple[str, str]]) -> tuple[list[int], list[int]]:
        ids: list[int] = []
        weights: list[int] = []
        for asked, answer in questions:
            before, after = self._encode(asked), self._encode(answer)
            ids += [*before, *after, self._end]
            weights += [*[0] * len(before), *[1] * (len(after) + 1)]
        return ids, weights

    def _laid_out(self, hidden: list[list[int]], filler: list[int], draw: random.Random) -> list[int]:
        """Hidden parts at random places of the filler, at the beginning of a line where there are enough."""
        if not hidden:
            return filler
        if not filler:
            return [token for part in hidden for token in part]
        ids = numpy.array(filler)
        places = 1 + numpy.flatnonzero(self._ends_line[ids[:-1]] & self._begins_word[ids[1:]])
        allowed = [0, *places.tolist(), len(filler)] if draw.random() < 0.8 else range(len(filler) + 1)
        chosen = sorted(draw.choices(allowed, k=len(hidden)))
        found: list[int] = []
        for part, begin, end in zip(hidden, [0, *chosen], chosen, strict=False):
            found += filler[begin:end]
            found += part
        return found + filler[chosen[-1] :]

    def _stretch(self, tokens: int, draw: random.Random, stream: numpy.ndarray) -> list[int]:
        start = draw.randrange(max(1, len(stream) - tokens + 1))
        part = stream[start : start + tokens]
        return numpy.where(part == self._end, self._newline, part).tolist()
