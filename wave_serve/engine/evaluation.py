"""The longest context at which a checkpoint was shown to be good, from the evaluation that ships with it."""

import json
import math
from pathlib import Path
from typing import Any

from wave_serve.engine.checkpoint import Checkpoint
from wave_serve.engine.errors import CheckpointError

FILE = "eval.json"  # as `wave-serve eval perplexity` writes it


def validated_length(checkpoint: Checkpoint, train_length: int, tolerance: float) -> int | None:
    """The longest measured length up to which the loss never rises by more than `tolerance` above its best so far.

    A length L is good where nats_per_token(L) <= (1 + tolerance) * the least nats_per_token at measured lengths up to
    L; the first that is not ends the search. Lengths are whole prompts, in tokens.

    Returns:
        None where the checkpoint ships no evaluation, or one without a length within the training length to hold
        others against.

    Raises:
        CheckpointError: the file is no complete perplexity evaluation of this one model by whole prompts.
    """
    path = checkpoint.directory / FILE
    if not path.is_file():
        return None
    losses = _losses(path, checkpoint.name)
    if not losses or min(losses) > train_length:
        return None
    longest, best = None, math.inf
    for length, nats in sorted(losses.items()):
        best = min(best, nats)
        if nats > (1 + tolerance) * best:
            break
        longest = length
    return longest


def _losses(path: Path, name: str) -> dict[int, float]:
    """Nats per token by length, of the rows that are complete."""
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
        kind, protocol, rows = document["kind"], document["protocol"], document["rows"]
        endpoints = {row["endpoint"] for row in rows}
        chosen = next(iter(endpoints)) if len(endpoints) == 1 else name
        found = {
            int(row["length"]): float(row["nats_per_token"])
            for row in rows
            if row["endpoint"] == chosen and row["complete"]
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{path}: not a result of `wave-serve eval perplexity` ({reason})") from None
    if kind != "perplexity" or protocol != "whole":
        raise CheckpointError(f"{path}: needs a perplexity by whole prompts, got {kind!r} with protocol {protocol!r}")
    if endpoints and chosen not in endpoints:
        raise CheckpointError(f"{path}: compares {', '.join(sorted(endpoints))}, none of which is named {name}")
    return found
