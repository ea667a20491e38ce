"""From losses per token to the figures of one row: means, perplexity, bits per byte and their intervals."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from wave_serve.eval.intervals import Interval, bootstrap_mean
from wave_serve.eval.plan import Span
from wave_serve.eval.settings import PerplexitySettings

LARGEST_EXPONENT = 700.0  # exp of more is no float64


def loss_row(
    scored: Sequence[tuple[Span, Sequence[float]]],
    sample_length: int,
    bytes_per_token: float,
    end_tokens: int,
    settings: PerplexitySettings,
) -> dict[str, Any]:
    """Figures over all scored prompts, and over the last `end_tokens` of each sample.

    Args:
        scored: a prompt and the losses in nats of its tokens but the first.
        sample_length: tokens of a sample, L.
        bytes_per_token: of the samples.
        end_tokens: at the end of a sample; inside its last prompt.
        settings: block size and bootstrap.

    Returns:
        Means in nats per token, perplexity = exp(mean), bits per byte = mean / ln 2 / bytes per token, each with its
        interval (None where there are fewer than 2 blocks). Blocks are `block_tokens` consecutive tokens of a sample,
        the same at every length; for the end loss a sample is one block.
    """
    blocks = _blocks(scored, sample_length, settings.block_tokens)
    ends = [(math.fsum(nats[-end_tokens:]), end_tokens) for span, nats in scored if span.end == sample_length]
    per_byte = 1 / (math.log(2) * bytes_per_token)
    mean, interval = _mean(blocks, settings)
    end_mean, end_interval = _mean(ends, settings)
    return {
        "tokens": sum(count for _, count in blocks),
        "nats_per_token": mean,
        "nats_per_token_interval": interval,
        "perplexity": _exp(mean),
        "perplexity_interval": interval and tuple(map(_exp, interval)),
        "bits_per_byte": None if mean is None else mean * per_byte,
        "bits_per_byte_interval": interval and tuple(bound * per_byte for bound in interval),
        "end_nats_per_token": end_mean,
        "end_nats_per_token_interval": end_interval,
    }


def _blocks(
    scored: Sequence[tuple[Span, Sequence[float]]], sample_length: int, block_tokens: int
) -> list[tuple[float, int]]:
    """(sum of losses, count) per block; blocks are counted from the end of the sample, as pieces are."""
    sums: dict[tuple[int, int], list[float]] = defaultdict(list)
    for span, nats in scored:
        for position, loss in enumerate(nats, start=span.start + 1):
            sums[span.sample, (sample_length - 1 - position) // block_tokens].append(loss)
    return [(math.fsum(losses), len(losses)) for _, losses in sorted(sums.items())]


def _mean(blocks: Sequence[tuple[float, int]], settings: PerplexitySettings) -> tuple[float | None, Interval | None]:
    if not blocks:
        return None, None
    mean = math.fsum(value for value, _ in blocks) / sum(count for _, count in blocks)
    return mean, bootstrap_mean(blocks, resamples=settings.resamples, seed=settings.seed)


def _exp(value: float | None) -> float | None:
    return None if value is None or value > LARGEST_EXPONENT else math.exp(value)
