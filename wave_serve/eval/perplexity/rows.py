"""From losses per token to the figures of one row: means, perplexity, bits per byte and their intervals."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wave_serve.eval.intervals import Block, bootstrap_difference, bootstrap_mean, difference, mean
from wave_serve.eval.perplexity.plan import Span
from wave_serve.eval.settings import PerplexitySettings

LARGEST_EXPONENT = 700.0  # exp of more is no float64


@dataclass(frozen=True)
class Losses:
    """What was scored at one length: by (sample, block of the sample), and at the end of each sample."""

    blocks: Mapping[tuple[int, int], Block]
    ends: Sequence[Block]


def sum_up(
    scored: Iterable[tuple[Span, Sequence[float]]], sample_length: int, end_tokens: int, block_tokens: int
) -> Losses:
    """Sums of losses.

    Args:
        scored: prompts, each with the losses in nats of its tokens but the first.
        sample_length: tokens of a sample.
        end_tokens: tokens at the end of a sample; inside its last prompt.
        block_tokens: consecutive tokens of a block; counted from the end of the sample, as pieces are, so that a block
            is the same text at every length.
    """
    blocks: dict[tuple[int, int], list[float]] = defaultdict(list)
    ends = []
    for span, nats in scored:
        for position, loss in enumerate(nats, start=span.start + 1):
            blocks[span.sample, (sample_length - 1 - position) // block_tokens].append(loss)
        if span.end == sample_length:
            ends.append((math.fsum(nats[-end_tokens:]), end_tokens))
    return Losses({key: (math.fsum(losses), len(losses)) for key, losses in sorted(blocks.items())}, ends)


def loss_row(
    losses: Losses, reference: Losses | None, bytes_per_token: float, settings: PerplexitySettings
) -> dict[str, Any]:
    """The figures of one length.

    Args:
        losses: of it; at least one block.
        reference: of the length that it is compared with, if any; only blocks of both count.
        bytes_per_token: of the samples.
        settings: bootstrap.

    Returns:
        Means in nats per token, perplexity = exp(mean), bits per byte = mean / ln 2 / bytes per token, the difference
        of the means in nats per token; each with its interval, None where there are fewer than 2 blocks. For the end
        loss a sample is one block.
    """
    options = {"resamples": settings.resamples, "seed": settings.seed}
    blocks = list(losses.blocks.values())
    nats = mean(blocks)
    interval = bootstrap_mean(blocks, **options)
    per_byte = 1 / (math.log(2) * bytes_per_token)
    pairs = [] if reference is None else _common(losses, reference)
    return {
        "tokens": sum(count for _, count in blocks),
        "nats_per_token": nats,
        "nats_per_token_interval": interval,
        "perplexity": _exp(nats),
        "perplexity_interval": interval and tuple(map(_exp, interval)),
        "bits_per_byte": nats * per_byte,
        "bits_per_byte_interval": interval and tuple(bound * per_byte for bound in interval),
        "end_nats_per_token": mean(losses.ends) if losses.ends else None,
        "end_nats_per_token_interval": bootstrap_mean(losses.ends, **options),
        "difference": difference(pairs) if pairs else None,
        "difference_interval": bootstrap_difference(pairs, **options),
    }


def _common(losses: Losses, reference: Losses) -> list[tuple[Block, Block]]:
    return [(block, reference.blocks[key]) for key, block in losses.blocks.items() if key in reference.blocks]


def _exp(value: float) -> float | None:
    return None if value > LARGEST_EXPONENT else math.exp(value)
