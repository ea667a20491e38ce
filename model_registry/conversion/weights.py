"""Places the source's weight files in the target: linked where the file system can, else copied; never read whole."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from model_registry.conversion.source import INDEX, SINGLE, Source

if TYPE_CHECKING:
    from pathlib import Path

ADDED = "model-added.safetensors"
"""Holds the tensors that the target has and the source lacks."""


def place_weights(source: Source, target: Path) -> int:
    """Put the weight files and their index into ``target``.

    Llama has a bias on all four attention projections or on none; Qwen2 has none on the last. The missing ones are
    added as zeros, in a small file of their own, so that the source's files stay as they are.

    Returns:
        How many files share their bytes on disk with the source's.
    """
    tensors = dict(source.tensors)
    added = _missing_biases(source)
    names = {file: file for file in source.files}
    if added and SINGLE in names:
        names[SINGLE] = "model-source.safetensors"  # loaders that find SINGLE look at no index
    linked = sum(_place(source.directory / old, target / new) for old, new in names.items())
    index = source.directory / INDEX
    if added:
        save_file(added, target / ADDED, metadata={"format": "pt"})
        os.chmod(target / ADDED, 0o644)  # noqa: PTH101 - safetensors writes for the owner alone
    if added or index.is_file():
        weight_map = {name: names[file] for name, file in tensors.items()} | dict.fromkeys(added, ADDED)
        metadata = json.loads(index.read_text(encoding="utf-8")).get("metadata", {}) if index.is_file() else {}
        metadata = {key: value for key, value in metadata.items() if key != "total_parameters"}
        metadata["total_size"] = sum((target / file).stat().st_size for file in sorted(set(weight_map.values())))
        document = {"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}
        (target / INDEX).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return linked


def _missing_biases(source: Source) -> dict[str, torch.Tensor]:
    if source.family != "qwen2":
        return {}
    config = source.config
    dtype = config.dtype or torch.float32
    return {
        f"model.layers.{layer}.self_attn.o_proj.bias": torch.zeros(config.hidden_size, dtype=dtype)
        for layer in range(config.num_hidden_layers)
    }


def _place(old: Path, new: Path) -> bool:
    try:
        os.link(old.resolve(), new)
    except OSError:  # another file system, or one without links
        shutil.copyfile(old, new)
        return False
    return True
