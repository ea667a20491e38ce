"""The corpus as one stream of tokens, and what each step reads of it: seed and step decide, so a run can resume."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy
import torch

from model_registry.training.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerFast

_CUT = 1
"""A third number to seed with: retrieval rows are drawn from seed and step too, and must not draw the same."""


def pack(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """Whole documents, each with the end-of-text token after it, in one stream: ``[N]`` int64."""
    encoded = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    return torch.tensor([token for ids in encoded for token in (*ids, tokenizer.eos_token_id)])


def training_batch(stream: torch.Tensor, length: int, sequences: int, *, seed: int, step: int) -> torch.Tensor:
    """What step ``step`` trains on; an epoch has every window once, in an order and from an offset of its own.

    Args:
        stream: ``[N]`` token ids.
        length: tokens per sequence, ``L``.
        sequences: sequences per batch, ``B``.
        seed: decides the order, with the epoch.
        step: counted from 0.

    Returns:
        ``[B, L + 1]``: inputs and, shifted by one, targets.

    Raises:
        TrainingError: the stream is too short for one batch.
    """
    windows = (len(stream) - 1 - length) // length
    per_epoch = windows // sequences
    if per_epoch < 1:
        raise TrainingError(f"the corpus has {len(stream)} tokens: too few for a batch of {sequences} x {length}")
    epoch, batch = divmod(step, per_epoch)
    draw = numpy.random.default_rng([seed, epoch])
    offset = int(draw.integers(length))
    chosen = draw.permutation(windows)[batch * sequences : (batch + 1) * sequences]
    return torch.stack([stream[offset + w * length : offset + (w + 1) * length + 1] for w in chosen])


def cut_rows(batch: torch.Tensor, divisors: Sequence[int], *, seed: int, step: int) -> torch.Tensor:
    """``batch`` with every row cut into ``k`` equal parts; ``k`` is drawn from ``divisors``, once for the step.

    Args:
        batch: ``[B, L + 1]``.
        divisors: numbers that divide ``L``.
        seed: the recipe's.
        step: counted from 0.

    Returns:
        ``[B * k, L / k + 1]``: inputs and, shifted by one, targets.
    """
    draw = numpy.random.default_rng([seed, step, 0, _CUT])
    length = (batch.shape[1] - 1) // divisors[int(draw.integers(len(divisors)))]
    return batch.unfold(1, length + 1, length).flatten(0, 1)


def held_out_batch(stream: torch.Tensor, length: int, sequences: int) -> torch.Tensor:
    """``[B, L + 1]``: up to ``sequences`` windows spread evenly over the held-out stream.

    Raises:
        TrainingError: the stream is shorter than one window.
    """
    windows = (len(stream) - 1) // length
    if windows < 1:
        raise TrainingError(f"the held-out files have {len(stream)} tokens: fewer than one sequence of {length}")
    count = min(sequences, windows)
    starts = [i * windows // count * length for i in range(count)]
    return torch.stack([stream[start : start + length + 1] for start in starts])
