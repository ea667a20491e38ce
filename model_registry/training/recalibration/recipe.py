"""Every hyperparameter of a recalibration, with its default, in one frozen dataclass."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from model_registry.training.errors import TrainingError

ATTENTIONS = ("auto", "eager", "flex_attention")
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Recalibration:
    """How a checkpoint is trained on; lengths are in tokens.

    Attributes:
        train_length: tokens per row; 0 takes the checkpoint's. It becomes the checkpoint's ``train_length``.
        batch_sequences: rows per step and process.
        accumulate: steps whose gradients are summed before the weights change.
        learning_rate: at its peak; warmed up by ``warmup_steps`` and then lowered to zero along a cosine.
        transfer_fraction: with a teacher: the part of the budget that is attention transfer, before the rest.
        transfer_learning_rate: at its peak in that part, with a course of its own like the other's.
        transfer_queries: per row, drawn for each step; their attention is compared. 0 takes all.
        distillation: with a teacher: the share of the loss that is the divergence from the teacher's predictions; the
            rest is that of the next token.
        lora_rank: 0 trains all weights; above it, adapters of that rank on every projection, merged in the end.
        lora_alpha: the adapters' scale is this over their rank.
        bf16: whether matrix products run in bfloat16; the weights stay float32.
        gradient_checkpointing: compute activations twice instead of keeping them.
        attention: ``eager`` (dense), ``flex_attention`` (long rows, CUDA), or ``auto``: the latter on CUDA.
        text_field: of JSONL lines and of data sets.
        held_out_fraction: share of the documents that are measured on, not trained on.
    """

    train_length: int = 0
    batch_sequences: int = 4
    accumulate: int = 1
    learning_rate: float = 2e-4
    weight_decay: float = 0.1
    beta2: float = 0.95
    grad_clip: float = 1.0
    warmup_steps: int = 20
    transfer_fraction: float = 0.6
    transfer_learning_rate: float = 5e-3
    transfer_queries: int = 128
    distillation: float = 0.9
    lora_rank: int = 0
    lora_alpha: float = 32.0
    bf16: bool = True
    gradient_checkpointing: bool = False
    attention: str = "auto"
    text_field: str = "text"
    held_out_fraction: float = 0.03
    seed: int = 0
    eval_every: int = 50
    eval_sequences: int = 16
    checkpoint_minutes: float = 5.0

    def __post_init__(self) -> None:
        for name in ("batch_sequences", "accumulate", "eval_every", "eval_sequences"):
            self._require(name, getattr(self, name) >= 1, "must be at least 1")
        for name in ("seed", "lora_rank", "warmup_steps", "weight_decay", "transfer_queries"):
            self._require(name, getattr(self, name) >= 0, "must not be negative")
        self._require("train_length", self.train_length == 0 or self.train_length >= 2, "must be 0 or at least 2")
        for name in ("learning_rate", "transfer_learning_rate", "grad_clip", "lora_alpha"):
            self._require(name, getattr(self, name) > 0, "must be positive")
        self._require("beta2", 0 <= self.beta2 < 1, "must be at least 0 and below 1")
        for name in ("transfer_fraction", "distillation"):
            self._require(name, 0 <= getattr(self, name) <= 1, "must lie in [0, 1]")
        self._require("attention", self.attention in ATTENTIONS, f"choose {', '.join(ATTENTIONS)}")
        self._require("held_out_fraction", 0 < self.held_out_fraction < 1, "must lie between 0 and 1")

    def _require(self, name: str, holds: bool, reason: str) -> None:
        if not holds:
            raise TrainingError(f"{name}={getattr(self, name)!r}: {reason}")

    def learning_rate_at(self, step: int, progress: float) -> float:
        """Warm-up by steps, then a cosine to zero.

        Args:
            step: steps done.
            progress: part of the run that is done, in [0, 1].
        """
        return self.learning_rate * self._course(step, progress)

    def transfer_rate_at(self, step: int, progress: float) -> float:
        """``learning_rate_at`` for attention transfer, ``progress`` being the part of it that is done."""
        return self.transfer_learning_rate * self._course(step, progress)

    def _course(self, step: int, progress: float) -> float:
        warm = min(1.0, (step + 1) / (self.warmup_steps + 1))
        return warm * (1 + math.cos(math.pi * min(1.0, progress))) / 2

    def to_json(self) -> dict[str, Any]:
        """Field names to JSON values."""
        return asdict(self)


def with_changes(recipe: Recalibration, changes: list[str]) -> Recalibration:
    """Apply ``FIELD=VALUE`` texts.

    Raises:
        TrainingError: an unknown field, or a value of the wrong type.
    """
    known = {field.name for field in fields(Recalibration)}
    values: dict[str, Any] = {}
    for text in changes:
        name, separator, value = text.partition("=")
        if not separator or name not in known:
            raise TrainingError(f"--set {text!r}: write FIELD=VALUE with a field of {', '.join(sorted(known))}")
        kind = type(getattr(recipe, name))
        try:
            values[name] = {"true": True, "false": False}[value.lower()] if kind is bool else kind(value)
        except (KeyError, ValueError) as error:
            raise TrainingError(f"--set {text!r}: the value must be {kind.__name__}") from error
    return replace(recipe, **values)
