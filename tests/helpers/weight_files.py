"""Writes safetensors files of zeros, whole or broken, without the library whose files they stand for."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

Shapes = Mapping[str, tuple[int, ...]]


def header(shapes: Shapes) -> bytes:
    """Length and JSON of the header; every tensor is BF16."""
    begin, found = 0, {}
    for name, shape in shapes.items():
        end = begin + 2 * math.prod(shape)
        found[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps({"__metadata__": {"format": "pt"}} | found).encode()
    return len(text).to_bytes(8, "little") + text


def write(path: Path, shapes: Shapes) -> Path:
    """A whole file."""
    path.write_bytes(header(shapes) + bytes(2 * sum(math.prod(shape) for shape in shapes.values())))
    return path


def llama(config: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """The tensors of a Llama without biases whose embeddings are its head."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    keys, inner = config.get("num_key_value_heads", heads) * hidden // heads, config.get("intermediate_size", 96)
    one = {
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    layers = range(config["num_hidden_layers"])
    found = {f"model.layers.{layer}.{name}.weight": shape for layer in layers for name, shape in one.items()}
    return found | {"model.embed_tokens.weight": (config["vocab_size"], hidden), "model.norm.weight": (hidden,)}
