"""Every hyperparameter of a training run, with its default, in one frozen dataclass."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from model_registry.configuration_wavelet import WaveletLlamaConfig
from model_registry.training.errors import TrainingError

OPTIMIZERS = ("adamw", "muon")
"""Values of ``Recipe.optimizer``, see ``optimizer.Optimizer``."""


@dataclass(frozen=True)
class Recipe:
    """The model, its data and its optimisation; lengths and sizes are in tokens unless a name says otherwise.

    The defaults are those of the model of 2.2 M parameters that was bundled first (docs/results.md).
    """

    position: str = "wavelet"
    """``wavelet``, ``rope``, ``alibi`` or ``nope``."""
    wavelet: str = "ricker"
    scale_exponents: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7)
    shifts: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7)
    logit_scaling: str = "log_n"
    """``none`` or ``log_n``, whose factor is 1 up to ``logit_scaling_length``: training sees it if that is shorter."""
    logit_scaling_length: int | None = None
    """None is ``train_length``: then the factor changes longer contexts and nothing in training."""
    near_bias_slope: float = 0.0
    """Of the bonus of near keys in contexts past ``train_length``: it changes nothing in training."""
    near_bias_keys: int | None = None
    """How many keys are near; None without a slope."""
    train_length: int = 512
    max_position_embeddings: int = 65536
    vocab_size: int = 2048
    hidden_size: int = 192
    intermediate_size: int = 512
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 64

    seed: int = 0
    """Of the initial weights and of the order in which training reads the corpus."""
    split_seed: int = 0
    """Of the choice of held-out files: apart from ``seed``, so that runs with several are scored on the same text."""
    held_out_fraction: float = 0.03
    """Share of the files that are never trained on."""
    retrieval_fraction: float = 0.2
    """Share of the training rows that are packed retrieval episodes instead of corpus text."""
    row_divisors: tuple[int, ...] = (1,)
    """Each step cuts its rows into one of these numbers of equal parts, drawn per step; 1 leaves them whole."""
    batch_sequences: int = 8
    """Rows of ``train_length`` tokens in a step."""
    optimizer: str = "muon"
    learning_rate: float = 4e-3
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    grad_clip: float = 1.0
    warmup_steps: int = 100
    """First steps, over which the learning rate rises linearly from zero."""
    decay_fraction: float = 0.4
    """Last part of the run over which the learning rate falls linearly to zero."""
    bf16: bool = True
    """Whether products are computed in bfloat16; weights stay float32."""

    eval_every: int = 100
    """Steps from one line of the log, with its held-out loss, to the next."""
    eval_sequences: int = 16
    """Held-out rows that are scored for it."""
    checkpoint_minutes: float = 3.0
    """Between two checkpoints."""

    def __post_init__(self) -> None:
        sizes = ("hidden_size", "intermediate_size", "num_layers", "max_position_embeddings")
        for name in ("batch_sequences", "eval_every", "eval_sequences", *sizes):
            self._require(name, getattr(self, name) >= 1, "must be at least 1")
        self._require("train_length", self.train_length >= 2, "must be at least 2")
        parts = all(k >= 1 and self.train_length % k == 0 and self.train_length // k >= 2 for k in self.row_divisors)
        reason = f"must divide train_length={self.train_length} into parts of at least 2 tokens"
        self._require("row_divisors", bool(self.row_divisors) and parts, reason)
        self._require("vocab_size", self.vocab_size >= 512, "must be at least 512 (256 bytes, two markers, merges)")
        self._require("optimizer", self.optimizer in OPTIMIZERS, f"must be {' or '.join(OPTIMIZERS)}")
        for name in ("seed", "warmup_steps", "weight_decay"):
            self._require(name, getattr(self, name) >= 0, "must not be negative")
        for name in ("learning_rate", "grad_clip"):
            self._require(name, getattr(self, name) > 0, "must be positive")
        for name in ("beta1", "beta2"):
            self._require(name, 0 <= getattr(self, name) < 1, "must be at least 0 and below 1")
        self._require("decay_fraction", 0 <= self.decay_fraction <= 1, "must lie in [0, 1]")
        self._require("retrieval_fraction", 0 <= self.retrieval_fraction < 1, "must be at least 0 and below 1")
        self._require("held_out_fraction", 0 < self.held_out_fraction < 1, "must lie between 0 and 1")

    def _require(self, name: str, holds: bool, reason: str) -> None:
        if not holds:
            raise TrainingError(f"{name}={getattr(self, name)!r}: {reason}")

    def model_config(self, *, eos_token_id: int, pad_token_id: int) -> WaveletLlamaConfig:
        """The Hugging Face config of the model.

        Raises:
            WaveletConfigError: the position encoding or the head counts are wrong.
        """
        position: dict[str, Any] = {"type": self.position}
        if self.position == "wavelet":
            position |= {
                "wavelet": self.wavelet,
                "scale_exponents": list(self.scale_exponents),
                "shifts": list(self.shifts),
            }
        return WaveletLlamaConfig(
            architectures=["WaveletLlamaForCausalLM"],
            position_encoding=position,
            train_length=self.train_length,
            logit_scaling=self.logit_scaling,
            logit_scaling_length=self.logit_scaling_length,
            near_bias_slope=self.near_bias_slope,
            near_bias_keys=self.near_bias_keys,
            max_position_embeddings=self.max_position_embeddings,
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            num_key_value_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            tie_word_embeddings=True,
            bos_token_id=eos_token_id,
            eos_token_id=eos_token_id,
            pad_token_id=pad_token_id,
        )

    def learning_rate_at(self, step: int, progress: float) -> float:
        """Warm-up by steps, then constant, then linear to zero over the last ``decay_fraction`` of the run.

        Args:
            step: steps done.
            progress: part of the run that is done, in [0, 1]; by time where the budget is time.
        """
        warm = min(1.0, (step + 1) / (self.warmup_steps + 1))
        left = max(0.0, 1.0 - progress)
        cooled = 1.0 if left >= self.decay_fraction else left / self.decay_fraction
        return self.learning_rate * min(warm, cooled)

    def to_json(self) -> dict[str, Any]:
        """Field names to JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def with_overrides(recipe: Recipe, overrides: list[str]) -> Recipe:
    """Apply ``FIELD=VALUE`` texts; a list of numbers is written ``0,1,2``.

    Raises:
        TrainingError: an unknown field, or a value of the wrong type.
    """
    known = {field.name for field in fields(Recipe)}
    changes: dict[str, Any] = {}
    for text in overrides:
        name, separator, value = text.partition("=")
        if not separator:
            raise TrainingError(f"--set {text!r}: write FIELD=VALUE")
        if name not in known:
            raise TrainingError(f"--set {text!r}: no such field; choose {', '.join(sorted(known))}")
        changes[name] = _parse(text, value, getattr(recipe, name))
    return replace(recipe, **changes)


def _parse(text: str, value: str, default: Any) -> Any:
    # What is None by default is a number of tokens.
    kind = int if default is None else type(default)
    try:
        if kind is bool:
            return {"true": True, "false": False}[value.lower()]
        if kind is tuple:
            return tuple(int(part) for part in value.split(","))
        return kind(value)
    except (KeyError, ValueError) as error:
        wanted = "numbers separated by commas" if kind is tuple else kind.__name__
        raise TrainingError(f"--set {text!r}: the value must be {wanted}") from error
