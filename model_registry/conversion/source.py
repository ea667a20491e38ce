"""The checkpoint that is converted: its config and where its tensors are. No tensor is read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from transformers import AutoConfig

from model_registry.configuration_wavelet import WaveletLlamaConfig
from model_registry.conversion.errors import ConversionError

if TYPE_CHECKING:
    from pathlib import Path

FAMILIES = ("llama", "mistral", "qwen2", "wavelet_llama")
"""Values of ``model_type`` that are Llama's architecture, biases aside; our own is taken with rope."""

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

IGNORED = ("rotary_emb.inv_freq",)
"""Ends of tensor names that old checkpoints carry and no loader reads."""


@dataclass(frozen=True)
class Source:
    """A Hugging Face directory.

    Attributes:
        directory: where it is.
        config: as Transformers reads it, defaults of its own family filled in.
        family: one of ``FAMILIES``.
        tensors: file name by tensor name.
    """

    directory: Path
    config: Any
    family: str
    tensors: dict[str, str]

    @property
    def head_dim(self) -> int:
        """Size of an attention head; configs that leave it out divide the hidden size evenly."""
        given = getattr(self.config, "head_dim", None)
        return int(given or self.config.hidden_size // self.config.num_attention_heads)

    @property
    def files(self) -> list[str]:
        """Names of the weight files, each once."""
        return sorted(set(self.tensors.values()))


def read_source(directory: Path) -> Source:
    """Look at a checkpoint directory and refuse what cannot be converted.

    Raises:
        ConversionError: it is no directory with a config and safetensors, its config is wrong, it is of another family,
            quantised, has a sliding window, or lacks a file or a tensor.
    """
    path = directory / "config.json"
    if not path.is_file():
        raise ConversionError(f"source {str(directory)!r} is no Hugging Face directory: it has no config.json")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConversionError(f"{str(path)!r} is not valid JSON: {error}") from error
    family = raw.get("model_type") if isinstance(raw, dict) else None
    if family not in FAMILIES:
        raise ConversionError(
            f"model_type={family!r}: only {', '.join(FAMILIES)} can be converted; they share Llama's architecture"
        )
    if raw.get("quantization_config"):
        raise ConversionError("quantization_config: convert the unquantised checkpoint, and quantise the result")
    try:
        config = AutoConfig.from_pretrained(directory)
    except Exception as error:  # it has errors of many kinds for a config that is wrong
        raise ConversionError(f"{str(path)!r} cannot be read: {' '.join(f'{error}'.split())}") from error
    if isinstance(config, WaveletLlamaConfig) and config.position_type != "rope":
        raise ConversionError(
            f"position_encoding.type={config.position_type!r}: only a model with rope can be converted"
        )
    _check_windows(config)
    tensors = _tensors(directory)
    _check_names(tensors, config, family)
    return Source(directory, config, family, tensors)


def _check_windows(config: Any) -> None:
    """A sliding window limits what a layer sees by position; wavelet_llama has no such layer."""
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    if window is not None and getattr(config, "use_sliding_window", True):
        raise ConversionError(f"sliding_window={window!r}: a model with a sliding window cannot be converted")
    if kinds - {"full_attention"}:
        raise ConversionError(f"layer_types: {', '.join(sorted(kinds))}: only full_attention can be converted")


def _tensors(directory: Path) -> dict[str, str]:
    if (directory / SINGLE).is_file():
        return dict.fromkeys(_names_in(directory / SINGLE), SINGLE)
    index = directory / INDEX
    if not index.is_file():
        raise ConversionError(f"source {str(directory)!r} holds no {SINGLE} and no {INDEX}")
    try:
        listed = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConversionError(f"{str(index)!r} is no safetensors index: {error!r}") from error
    for file in sorted(set(listed.values()), key=str):
        if not isinstance(file, str) or "/" in file:
            raise ConversionError(f"shard {file!r} is no name of a file beside {INDEX}")
        if not (directory / file).is_file():
            raise ConversionError(f"shard {file!r} is missing: {INDEX} lists it")
        missing = {name for name, where in listed.items() if where == file} - _names_in(directory / file)
        if missing:
            raise ConversionError(f"shard {file!r} lacks tensor {min(missing)!r}, which {INDEX} says is in it")
    return listed


def _names_in(path: Path) -> set[str]:
    # Reads the header alone.
    try:
        with safe_open(path, framework="numpy") as file:
            return set(file.keys())
    except SafetensorError as error:
        raise ConversionError(f"{str(path)!r} is no safetensors file: {error}") from error


def _check_names(tensors: dict[str, str], config: Any, family: str) -> None:
    found = {name for name in tensors if not name.endswith(IGNORED)}
    expected = set(expected_names(config, family))
    for name in sorted(expected - found):
        raise ConversionError(f"tensor {name!r} is missing from the source")
    # A tied head may be stored all the same.
    for name in sorted(found - expected - {"lm_head.weight"}):
        raise ConversionError(f"tensor {name!r} has no place in a Llama: the source is of another architecture")


def expected_names(config: Any, family: str) -> list[str]:
    """Every tensor that the source must have."""
    names = ["model.embed_tokens.weight", "model.norm.weight"]
    if not config.tie_word_embeddings:
        names.append("lm_head.weight")
    attention_bias = family == "qwen2" or getattr(config, "attention_bias", False)
    for layer in range(config.num_hidden_layers):
        start = f"model.layers.{layer}."
        names += [start + part + ".weight" for part in ("input_layernorm", "post_attention_layernorm")]
        for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
            names.append(f"{start}self_attn.{part}.weight")
            if attention_bias and (part != "o_proj" or family != "qwen2"):
                names.append(f"{start}self_attn.{part}.bias")
        for part in ("gate_proj", "up_proj", "down_proj"):
            names.append(f"{start}mlp.{part}.weight")
            if getattr(config, "mlp_bias", False):
                names.append(f"{start}mlp.{part}.bias")
    return names
