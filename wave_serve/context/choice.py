"""Which of several models under one alias a request goes to: that with the narrowest window that it fits."""

from collections.abc import Sequence
from dataclasses import dataclass

from wave_serve.context.cap import Cap
from wave_serve.context.catalogue import ServedModel
from wave_serve.context.fitting import Outcome
from wave_serve.request.generation import Generation


@dataclass(frozen=True)
class Candidate:
    """A model that a request may go to, and what it would be held against there."""

    model: ServedModel
    cap: Cap


def by_window(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates, that with the narrowest window first."""
    return sorted(candidates, key=lambda one: one.cap.limit)


def fits_whole(generation: Generation, outcome: Outcome) -> bool:
    """Whether a request gets all that it asks for: neither cut nor clamped, nor with less than the usual limit."""
    receipt = outcome.receipt
    if receipt is None or receipt.clamped_from is not None or outcome.truncated is not None:
        return False
    usual = outcome.cap.policy.default_max_completion_tokens
    return generation.max_tokens is not None or receipt.completion_tokens >= usual
