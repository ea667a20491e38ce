"""The config of the converted checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model_registry.configuration_wavelet import WaveletConfigError, WaveletLlamaConfig
from model_registry.conversion.errors import ConversionError

if TYPE_CHECKING:
    from model_registry.conversion.source import Source

POSITIONS = ("wavelet", "nope")

KEPT = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "initializer_range",
    "rms_norm_eps",
    "use_cache",
    "tie_word_embeddings",
    "attention_dropout",
    "dtype",
)
"""Entries that mean the same in all families."""

KEPT_IDS = ("pad_token_id", "bos_token_id", "eos_token_id")
"""Likewise, and null says that there is no such token, where the result would have Llama's by default."""

LONGEST = 64
"""``max_position_embeddings`` of the result, in training lengths: positions set no bound, so it is a cap alone."""

NEAR = 1.5
"""Near keys by default, in training lengths."""

EXPONENTS = tuple(range(8))


@dataclass(frozen=True)
class Options:
    """What the user chose; None where the source decides.

    Attributes:
        position: one of ``POSITIONS``.
        wavelet: name of the wavelet.
        scale_exponents: exponents of the scales; 0 to 7 by default.
        shifts: shifts in tokens; by default as many from 0 on as the head size needs.
        train_length: tokens; by default the length that the source was trained at before any rope scaling.
        logit_scaling: ``none`` or ``log_n``.
        near_bias_slope: see ``WaveletLlamaConfig``.
        near_bias_keys: likewise; by default ``NEAR`` training lengths.
    """

    position: str = "wavelet"
    wavelet: str = "ricker"
    scale_exponents: tuple[int, ...] | None = None
    shifts: tuple[int, ...] | None = None
    train_length: int | None = None
    logit_scaling: str = "log_n"
    near_bias_slope: float = 0.0
    near_bias_keys: int | None = None


def target_config(source: Source, options: Options) -> WaveletLlamaConfig:
    """The config that the weights are served with.

    Raises:
        ConversionError: an option that fits no such model.
    """
    if options.position not in POSITIONS:
        raise ConversionError(f"--position {options.position!r}: choose {' or '.join(POSITIONS)}")
    old = source.config
    train_length = options.train_length or trained_length(old)
    near_keys = options.near_bias_keys
    if options.near_bias_slope and near_keys is None:
        near_keys = max(1, int(NEAR * train_length))
    entries: dict[str, Any] = {name: getattr(old, name) for name in KEPT if getattr(old, name, None) is not None}
    entries |= {name: getattr(old, name, None) for name in KEPT_IDS}
    try:
        return WaveletLlamaConfig(
            **entries,
            architectures=["WaveletLlamaForCausalLM"],
            head_dim=source.head_dim,
            attention_bias=source.family == "qwen2" or bool(getattr(old, "attention_bias", False)),
            mlp_bias=bool(getattr(old, "mlp_bias", False)),
            position_encoding=position_encoding(source.head_dim, options),
            train_length=train_length,
            logit_scaling=options.logit_scaling,
            logit_scaling_length=logit_scaling_length(old, train_length, options.logit_scaling),
            near_bias_slope=options.near_bias_slope,
            near_bias_keys=near_keys,
            max_position_embeddings=max(int(old.max_position_embeddings), LONGEST * train_length),
        )
    except WaveletConfigError as error:
        raise ConversionError(str(error)) from error


def position_encoding(head_dim: int, options: Options) -> dict[str, Any]:
    """The entry ``position_encoding``, with defaults by head size."""
    if options.position != "wavelet":
        return {"type": options.position}
    exponents, shifts = options.scale_exponents, options.shifts
    if exponents is None:
        exponents = EXPONENTS if shifts is None else _counted("shifts", shifts, head_dim)
    if shifts is None:
        shifts = _counted("scale-exponents", exponents, head_dim)
    return {
        "type": "wavelet",
        "wavelet": options.wavelet,
        "scale_exponents": list(exponents),
        "shifts": list(shifts),
    }


def _counted(given: str, values: tuple[int, ...], head_dim: int) -> tuple[int, ...]:
    """The other list: 0, 1, 2 and so on, as many as give the head size."""
    if not values or head_dim % len(values):
        raise ConversionError(
            f"head size {head_dim} is no multiple of {len(values)} --{given}: give --scale-exponents and --shifts "
            "whose numbers of entries multiply to it"
        )
    return tuple(range(head_dim // len(values)))


def trained_length(config: Any) -> int:
    """Tokens that the source was trained at before its rope was stretched."""
    if isinstance(config, WaveletLlamaConfig):
        assert config.train_length is not None
        return config.train_length
    rope = getattr(config, "rope_parameters", None) or {}
    return int(rope.get("original_max_position_embeddings") or config.max_position_embeddings)


def dropped(old: Any, new: WaveletLlamaConfig) -> list[str]:
    """What the source's config ``old`` has and the result's does not, each with the reason."""
    found = []
    kind = (getattr(old, "rope_parameters", None) or {}).get("rope_type", "default")
    if kind != "default":
        found.append(f"the source's rope scaling {kind!r}: there is no rotation left to scale")
    length = getattr(old, "logit_scaling_length", None)
    if length != new.logit_scaling_length:
        given = f"logit_scaling={new.logit_scaling!r} and train_length={new.train_length}"
        found.append(f"the source's logit_scaling_length={length}: the result has {given}")
    return found


def logit_scaling_length(old: Any, train_length: int, logit_scaling: str) -> int | None:
    """The source's, where its weights know ``log_n`` from a length on that the result's training length holds."""
    length = getattr(old, "logit_scaling_length", None)
    return length if logit_scaling == "log_n" and length is not None and length <= train_length else None
