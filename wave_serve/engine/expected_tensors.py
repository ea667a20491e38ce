"""The tensors that a Llama checkpoint has by its config, which a wavelet model's are too."""

from collections.abc import Mapping
from typing import Any

Dimensions = tuple[int | None, ...]
"""A shape; None for a dimension that the config does not tell."""

FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
LAYERS = "model.layers."


def known_layout(config: Mapping[str, Any]) -> bool:
    """Whether `expected_tensors` describes checkpoints of that config: plain weights of a Llama."""
    return config["model_type"] in ("llama", "wavelet_llama") and config.get("quantization_config") is None


def expected_tensors(config: Mapping[str, Any]) -> dict[str, Dimensions]:
    """Shapes by name, of the weights that a Llama of that config is made of."""
    hidden, layers, vocab = (config[name] for name in ("hidden_size", "num_hidden_layers", "vocab_size"))
    found: dict[str, Dimensions] = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    if not config.get("tie_word_embeddings", False):
        found["lm_head.weight"] = (vocab, hidden)
    for number in range(layers):
        found |= {f"{LAYERS}{number}.{name}": shape for name, shape in _layer(config, hidden).items()}
    return found


def _layer(config: Mapping[str, Any], hidden: int) -> dict[str, Dimensions]:
    heads = config["num_attention_heads"]
    key_heads = config.get("num_key_value_heads") or heads
    size = config.get("head_dim") or hidden // heads
    inner = config.get("intermediate_size")
    matrices: dict[str, tuple[int | None, int | None]] = {
        "self_attn.q_proj": (heads * size, hidden),
        "self_attn.k_proj": (key_heads * size, hidden),
        "self_attn.v_proj": (key_heads * size, hidden),
        "self_attn.o_proj": (hidden, heads * size),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    found: dict[str, Dimensions] = {f"{name}.weight": shape for name, shape in matrices.items()}
    for name, (rows, _) in matrices.items():
        if config.get("attention_bias" if name.startswith("self_attn") else "mlp_bias", False):
            found[f"{name}.bias"] = (rows,)
    norms = ("input_layernorm", "post_attention_layernorm")
    return found | {f"{name}.weight": (hidden,) for name in norms}


def without_fused(expected: Mapping[str, Dimensions], present: Mapping[str, Any]) -> dict[str, Dimensions]:
    """The expected tensors but those that the checkpoint holds as one, such as `qkv_proj`; vLLM reads both."""
    return {name: shape for name, shape in expected.items() if not any(one in present for one in _fused_names(name))}


def _fused_names(name: str) -> list[str]:
    return [name.replace(part, whole) for whole, parts in FUSED.items() for part in parts if f".{part}." in name]
