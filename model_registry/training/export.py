"""Write a trained model as a Hugging Face directory: bf16 weights, tokenizer, configs, loss curve, model card."""

from __future__ import annotations

import copy
import json
import shutil
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerFast

    from model_registry.modeling_wavelet import WaveletLlamaForCausalLM


def export(
    path: Path,
    model: WaveletLlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    log: list[dict[str, Any]],
    card: str,
) -> None:
    """Write the directory beside ``path`` and put it in its place, so that a reader never sees half of it.

    Args:
        path: the directory to write; an older export there is replaced.
        model: float32 weights; a bfloat16 copy is written and the model is left alone.
        tokenizer: saved so that ``AutoTokenizer`` loads it.
        log: entries of the training log, oldest first.
        card: markdown of the model card.
    """
    partial = path.with_name(path.name + ".partial")
    if partial.exists():
        shutil.rmtree(partial)
    served = copy.deepcopy(model).to(torch.bfloat16)
    served.generation_config = GenerationConfig(
        bos_token_id=model.config.bos_token_id,
        eos_token_id=model.config.eos_token_id,
        pad_token_id=model.config.pad_token_id,
    )
    served.save_pretrained(partial)
    # safetensors writes for the owner alone; a server often runs as another user.
    (partial / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(partial)
    (partial / "loss_curve.json").write_text(json.dumps(log, indent=1) + "\n")
    if log:
        plot_losses(log, partial / "loss_curve.png")
    (partial / "README.md").write_text(card)
    if path.exists():
        shutil.rmtree(path)
    partial.rename(path)


def plot_losses(log: list[dict[str, Any]], path: Path) -> None:
    """Draw the training and held-out losses of a log against its tokens."""
    # A figure of its own rather than pyplot's: no global state, no display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, label in (("loss", "training"), ("held_out_loss", "held out")):
        # Attention transfer has no training loss.
        entries = [entry for entry in log if name in entry]
        axes.plot([entry["tokens"] / 1e6 for entry in entries], [entry[name] for entry in entries], label=label)
    axes.set(xlabel="million tokens", ylabel="loss, nats per token", title="Loss at the training length")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=100)
