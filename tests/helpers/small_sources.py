"""Small random checkpoints of the families that can be converted, written as Transformers writes them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config

if TYPE_CHECKING:
    from pathlib import Path

SIZES = {
    "vocab_size": 97,
    "hidden_size": 96,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 1,
}
CONFIGS = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config}


def write_source(directory: Path, family: str = "llama", *, shard: str = "1GB", **changes: Any) -> Path:
    """A float64 checkpoint, its biases random too, in shards of at most ``shard``."""
    torch.manual_seed(11)
    if family == "mistral":
        changes = {"sliding_window": None} | changes
    config = CONFIGS[family](**(SIZES | changes))
    model = AutoModelForCausalLM.from_config(config).to(torch.float64)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.normal_(1.0, 0.3)
    model.save_pretrained(directory, max_shard_size=shard)
    return directory


def edit_json(path: Path, **changes: Any) -> None:
    """Change entries of a JSON file; None takes one out."""
    entries = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in entries.items() if value is not None}))
