"""Int8 weights in the format compressed-tensors, with activations quantised token by token (W8A8), and what they mean.

The reference computes in float32 what the format says: each row of a weight and each token's activations are whole
numbers of at most 127 in size times a scale of their own.
"""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from pathlib import Path

MOST = 127
CONFIG = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False},
            "input_activations": {
                "num_bits": 8,
                "type": "int",
                "symmetric": True,
                "strategy": "token",
                "dynamic": True,
            },
        }
    },
}


def quantise(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Whole numbers of the shape of `rows` [..., n], and the scale [..., 1] of each row."""
    scale = rows.abs().amax(-1, keepdim=True).clamp(min=1e-12) / MOST
    return (rows / scale).round().clamp(-MOST, MOST), scale


class Int8Linear(torch.nn.Module):
    """A linear layer on quantised weights and activations, in float32."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight, self.scale = quantise(weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        whole, scale = quantise(x)
        return (whole @ self.weight.T) * scale * self.scale.T


def write_int8(folder: Path) -> None:
    """Quantise the layers' matrices of the checkpoint in `folder` (one file), in place."""
    tensors = load_file(folder / "model.safetensors")
    for name, weight in list(tensors.items()):
        if name.endswith("_proj.weight"):
            whole, scale = quantise(weight.float())
            tensors |= {name: whole.to(torch.int8), f"{name}_scale": scale}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": CONFIG}))


def int8_reference(model: torch.nn.Module) -> torch.nn.Module:
    """The model as `write_int8` stores it."""
    reference = copy.deepcopy(model)
    for parent in list(reference.modules()):
        for name, child in list(parent.named_children()):
            if name.endswith("_proj"):
                setattr(parent, name, Int8Linear(child.weight.detach().float()))
    return reference
