"""Small random models of every kind."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from model_registry.configuration_wavelet import WaveletLlamaConfig
from model_registry.modeling_wavelet import WaveletLlamaForCausalLM

WAVELET = {"type": "wavelet", "wavelet": "ricker", "scale_exponents": [0, 1, 2, 3], "shifts": [0, 1, 2, 3, 4, 5, 6, 7]}
POSITIONS = {
    "ricker": WAVELET,
    "gaussian": WAVELET | {"wavelet": "gaussian"},
    "morlet": WAVELET | {"wavelet": "morlet"},
    "haar": WAVELET | {"wavelet": "haar"},
    "rope": {"type": "rope"},
    "alibi": {"type": "alibi"},
    "nope": {"type": "nope"},
}
each_position = pytest.mark.parametrize("position", POSITIONS.values(), ids=POSITIONS)


def config_entries(**changes: Any) -> dict[str, Any]:
    return {
        "vocab_size": 97,
        "hidden_size": 96,
        "intermediate_size": 112,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "position_encoding": WAVELET,
        "train_length": 16,
        **changes,
    }


def build(**changes: Any) -> WaveletLlamaForCausalLM:
    torch.manual_seed(7)
    return WaveletLlamaForCausalLM(WaveletLlamaConfig(**config_entries(**changes))).eval()


def tokens(batch: int, length: int) -> torch.Tensor:
    return torch.randint(2, 97, (batch, length), generator=torch.Generator().manual_seed(length))
