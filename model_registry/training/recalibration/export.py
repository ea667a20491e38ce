"""Writes a recalibrated checkpoint: trained weights, everything else as it was, a loss curve and a model card."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import torch
from transformers.utils import CHAT_TEMPLATE_DIR

from model_registry.modeling_wavelet import WaveletLlamaForCausalLM
from model_registry.training.export import plot_losses
from model_registry.training.recalibration.adapters import adapted
from model_registry.training.recalibration.start import result_config

if TYPE_CHECKING:
    from pathlib import Path

    from model_registry.training.recalibration.recipe import Recalibration

_CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
tags: [wavelet_llama, recalibrated]
---
# {name}

The checkpoint `{source}`, trained on at {length} tokens per row. Position encoding `{position}`, logit scaling
`{logit_scaling}`.

    {command}

- {step} steps, {tokens:,} tokens, {minutes:.0f} minutes{adapters}.{transfer}
- Loss in nats per token at {length} tokens: {held_out_loss:.3f} held out (`loss_curve.json`, `loss_curve.png`).
  `eval.json`, where there is one, tells the loss by length as served.

```json
{recipe}
```
"""

_TRANSFER = """
- The first {steps} steps trained the query and key projections alone, towards the attention of the checkpoint before
  its conversion (attention transfer)."""


def export(
    path: Path,
    source: Path,
    state: dict[str, torch.Tensor],
    recipe: Recalibration,
    log: list[dict[str, Any]],
    command: str,
    transfer_steps: int = 0,
) -> None:
    """Write the directory beside ``path`` and put it in its place, so that a reader never sees half of it.

    Args:
        path: the directory to write; an older export there is replaced.
        source: the checkpoint that was trained on; what is neither weights nor config nor card comes from it.
        state: the trained model's weights, adapters included where there are some.
        recipe: of the run.
        log: entries of the training log, oldest first.
        command: what the user typed.
        transfer_steps: of attention transfer.
    """
    config = result_config(source, recipe)
    dtype = config.dtype or torch.float32
    model: Any = WaveletLlamaForCausalLM(config)
    if recipe.lora_rank:
        model = adapted(model, recipe)
    model.load_state_dict(state)
    if recipe.lora_rank:
        model = model.merge_and_unload()
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.to(dtype).save_pretrained(partial)
    for file in source.iterdir():
        made = file.suffix in (".safetensors", ".bin", ".png") or file.name in ("config.json", "README.md", "eval.json")
        if file.is_file() and not made and not file.name.startswith("loss_curve") and ".index." not in file.name:
            shutil.copyfile(file, partial / file.name)
    if (source / CHAT_TEMPLATE_DIR).is_dir():
        shutil.copytree(source / CHAT_TEMPLATE_DIR, partial / CHAT_TEMPLATE_DIR)
    for weights in partial.glob("*.safetensors"):
        weights.chmod(0o644)  # safetensors writes for the owner alone
    (partial / "loss_curve.json").write_text(json.dumps(log, indent=1) + "\n")
    plot_losses(log, partial / "loss_curve.png")
    last = log[-1] if log else {"step": 0, "tokens": 0, "seconds": 0.0, "held_out_loss": 0.0}
    card = _CARD.format(
        name=path.parent.name,
        source=source.resolve().name,
        length=config.train_length,
        position=config.position_type,
        logit_scaling=config.logit_scaling,
        command=command,
        step=last["step"],
        tokens=last["tokens"],
        minutes=last["seconds"] / 60,
        adapters=f", as adapters of rank {recipe.lora_rank} that are merged in" if recipe.lora_rank else "",
        transfer=_TRANSFER.format(steps=transfer_steps) if transfer_steps else "",
        held_out_loss=last["held_out_loss"],
        recipe=json.dumps(recipe.to_json()),
    )
    (partial / "README.md").write_text(card)
    shutil.rmtree(path, ignore_errors=True)
    partial.rename(path)
