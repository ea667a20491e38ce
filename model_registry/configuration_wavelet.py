"""Hugging Face config of a Llama-shaped model whose position encoding is chosen by ``position_encoding``."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from transformers import AutoConfig, LlamaConfig

from model_registry.attention.near_bias import NearBias
from model_registry.positions.logit_scaling import LOGIT_SCALINGS
from model_registry.positions.wavelet import WaveletError, validate_wavelet

POSITION_TYPES = ("wavelet", "rope", "alibi", "nope")
"""Values of ``position_encoding.type``."""

_WAVELET_KEYS = ("wavelet", "scale_exponents", "shifts")


class WaveletConfigError(WaveletError):
    """A config that no model can be built from; ``field``, ``value`` and ``reason`` say which entry and why."""


class WaveletLlamaConfig(LlamaConfig):
    """Llama's config with ``position_encoding``, ``train_length``, and what changes the logits of long contexts.

    Llama's ``rope_parameters``, scaling included, apply when the type is ``rope`` and must be unscaled otherwise.

    Attributes:
        position_encoding: ``{"type": "rope" | "alibi" | "nope"}``, or ``{"type": "wavelet", "wavelet": name,
            "scale_exponents": [..], "shifts": [..]}`` with ``len(scale_exponents) * len(shifts) == head_dim``.
        train_length: tokens of the sequences that the weights were trained on.
        logit_scaling: ``none`` or ``log_n``, see ``model_registry.positions.logit_scaling``.
        logit_scaling_length: with ``log_n``, the tokens up to which the factor is 1, from 2 to ``train_length``; null
            means ``train_length``. A shorter one changes the model within its training length, so train with it.
        near_bias_slope: the ``slope`` of ``model_registry.attention.NearBias``, whose ``length`` is ``train_length``;
            0, no bonus for near keys, unless positions are wavelets.
        near_bias_keys: its ``keys``; null without a slope.

    Raises:
        WaveletConfigError: one of these entries is missing or wrong, or the head counts do not divide.
    """

    model_type = "wavelet_llama"
    # Two entries have no default: only the checkpoint knows them, and a guess would give wrong text without an error.
    has_no_defaults_at_init: ClassVar[bool] = True

    position_encoding: dict | None = None
    train_length: int | None = None
    logit_scaling: str = "none"
    logit_scaling_length: int | None = None
    near_bias_slope: float = 0.0
    near_bias_keys: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self._check_heads()  # Llama divides by them
        super().__post_init__(**kwargs)
        self.validate()

    def validate(self) -> None:
        """Check all entries. Models do when they are built, since entries may be changed after the config is.

        Transformers calls it before it writes a config, and vLLM's ``--hf-overrides`` change one that was read.

        Raises:
            WaveletConfigError: see the class.
        """
        self._check_heads()
        self._check_position_encoding()
        self._check_train_length()
        self._check_near_bias()
        super().validate()

    @property
    def position_type(self) -> str:
        """One of ``POSITION_TYPES``."""
        return self._entries()["type"]

    @property
    def position_table_parameters(self) -> dict[str, Any]:
        """Keyword arguments ``wavelet``, ``scale_exponents``, ``shifts`` of ``positions.wavelet.position_table``.

        Raises:
            WaveletConfigError: the position type is not ``wavelet``.
        """
        if self.position_type != "wavelet":
            raise WaveletConfigError("position_encoding.type", self.position_type, "has no position table")
        return {key: self._entries()[key] for key in _WAVELET_KEYS}

    @property
    def log_n_length(self) -> int | None:
        """The ``length`` of ``log_n_factor(n, length)``, or None where queries are not scaled."""
        if self.logit_scaling != "log_n":
            return None
        return self.train_length if self.logit_scaling_length is None else self.logit_scaling_length

    @property
    def near_bias(self) -> NearBias | None:
        """What the scores of near keys get added in contexts past ``train_length``; None for nothing."""
        if not self.near_bias_slope:
            return None
        assert self.train_length is not None
        assert self.near_bias_keys is not None
        return NearBias(float(self.near_bias_slope), self.train_length, self.near_bias_keys)

    def _entries(self) -> dict[str, Any]:
        assert self.position_encoding is not None
        return self.position_encoding

    def _check_heads(self) -> None:
        for field in ("num_attention_heads", "num_key_value_heads", "head_dim"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise WaveletConfigError(field, value, "must be positive")
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        if self.hidden_size % heads:
            raise WaveletConfigError("hidden_size", self.hidden_size, f"must be a multiple of {heads} heads")
        if kv_heads is not None and heads % kv_heads:
            raise WaveletConfigError(
                "num_key_value_heads", kv_heads, f"must divide num_attention_heads={heads} into equal groups"
            )

    def _check_position_encoding(self) -> None:
        entries = self.position_encoding
        if not isinstance(entries, dict):
            raise WaveletConfigError("position_encoding", entries, "must be an object with a 'type'")
        kind = entries.get("type")
        if kind not in POSITION_TYPES:
            reason = "is missing" if "type" not in entries else "is unknown"
            raise WaveletConfigError("position_encoding.type", kind, f"{reason}; choose {', '.join(POSITION_TYPES)}")
        expected = {"type", *_WAVELET_KEYS} if kind == "wavelet" else {"type"}
        for key in sorted(expected - entries.keys()):
            raise WaveletConfigError(f"position_encoding.{key}", None, f"is missing; type {kind!r} needs it")
        for key in sorted(entries.keys() - expected, key=str):
            raise WaveletConfigError(f"position_encoding.{key}", entries[key], f"is not an entry of type {kind!r}")
        if kind == "wavelet":
            self._check_wavelet(entries)
        if kind != "rope":
            rope_type = (self.rope_parameters or {}).get("rope_type", "default")
            if rope_type != "default":
                raise WaveletConfigError(
                    "rope_parameters.rope_type", rope_type, f"has no effect with position type {kind!r}: remove it"
                )

    def _check_wavelet(self, entries: dict[str, Any]) -> None:
        try:
            validate_wavelet(*(entries[key] for key in _WAVELET_KEYS))
        except WaveletError as error:
            raise WaveletConfigError(f"position_encoding.{error.field}", error.value, error.reason) from error
        scales, shifts = len(entries["scale_exponents"]), len(entries["shifts"])
        if scales * shifts != self.head_dim:
            raise WaveletConfigError(
                "position_encoding.scale_exponents",
                entries["scale_exponents"],
                f"{scales} scale_exponents x {shifts} shifts = {scales * shifts}, but head_dim is {self.head_dim}",
            )

    def _check_train_length(self) -> None:
        if self.logit_scaling not in LOGIT_SCALINGS:
            raise WaveletConfigError(
                "logit_scaling", self.logit_scaling, f"is unknown; choose {', '.join(LOGIT_SCALINGS)}"
            )
        length = self.train_length
        if isinstance(length, bool) or not isinstance(length, int) or length < 1:
            raise WaveletConfigError("train_length", length, "must be a positive whole number of tokens")
        if length == 1 and self.logit_scaling == "log_n":
            raise WaveletConfigError("train_length", length, "must be at least 2 with logit_scaling 'log_n' (ln 1 = 0)")
        self._check_logit_scaling_length(length)

    def _check_near_bias(self) -> None:
        slope, keys = self.near_bias_slope, self.near_bias_keys
        if isinstance(slope, bool) or not isinstance(slope, (int, float)) or not 0 <= slope < math.inf:
            raise WaveletConfigError("near_bias_slope", slope, "must be a number of at least 0")
        if slope and self.position_type != "wavelet":
            raise WaveletConfigError(
                "near_bias_slope", slope, f"has no effect with position type {self.position_type!r}: remove it"
            )
        if not slope and keys is not None:
            raise WaveletConfigError("near_bias_keys", keys, "has no effect without near_bias_slope: remove it")
        if slope and (isinstance(keys, bool) or not isinstance(keys, int) or keys < 1):
            raise WaveletConfigError("near_bias_keys", keys, "must be a positive whole number of tokens")

    def _check_logit_scaling_length(self, train_length: int) -> None:
        length = self.logit_scaling_length
        if length is None:
            return
        if isinstance(length, bool) or not isinstance(length, int) or not 2 <= length <= train_length:
            raise WaveletConfigError(
                "logit_scaling_length", length, f"must be a whole number from 2 to train_length={train_length}, or null"
            )
        if self.logit_scaling != "log_n":
            raise WaveletConfigError(
                "logit_scaling_length", length, f"has no effect with logit_scaling {self.logit_scaling!r}: remove it"
            )


AutoConfig.register(WaveletLlamaConfig.model_type, WaveletLlamaConfig, exist_ok=True)
