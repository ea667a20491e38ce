"""A random LoRA adapter of a small model, as peft writes it, and the model that it makes of its base."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from pathlib import Path

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def write_adapter(model: torch.nn.Module, folder: Path, seed: int = 5) -> torch.nn.Module:
    """Write an adapter of all matrices of `model` to `folder`; returns the adapted model."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    adapted = get_peft_model(
        copy.deepcopy(model), LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS, init_lora_weights=False)
    )
    for name, weight in adapted.named_parameters():
        if "lora_" in name:  # of the size of the weights, so that an adapter that is left out shows
            torch.nn.init.normal_(weight, std=0.15)
    adapted.save_pretrained(folder)
    return adapted.merge_and_unload().eval()
