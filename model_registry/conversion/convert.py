"""Writes the converted checkpoint."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from model_registry.conversion.card import card
from model_registry.conversion.errors import ConversionError
from model_registry.conversion.remote_code import AUTO_MAP, remote_code
from model_registry.conversion.source import read_source
from model_registry.conversion.target_config import Options, dropped, target_config
from model_registry.conversion.weights import place_weights

if TYPE_CHECKING:
    from pathlib import Path

    from model_registry.configuration_wavelet import WaveletLlamaConfig

KEPT_FILES = (
    "tokenizer*",
    "vocab.*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "additional_chat_templates",
    "generation_config.json",
    "LICENSE*",
    "NOTICE*",
)
"""What comes along as it is: tokenizer, chat template, generation config and licence."""


@dataclass(frozen=True)
class Converted:
    """What was done: the new config, what of the old one was dropped, weight files and how many are links."""

    config: WaveletLlamaConfig
    dropped: list[str]
    files: int
    linked: int


def convert(directory: Path, target: Path, options: Options, command: str) -> Converted:
    """Make ``target`` out of the checkpoint in ``directory``; it appears whole or not at all.

    Args:
        directory: a Hugging Face directory of a Llama-shaped model.
        target: must not exist.
        options: what the user chose.
        command: what the user typed, for the model card.

    Raises:
        ConversionError: the source or an option is wrong, or the target exists.
    """
    if target.exists() or target.is_symlink():
        raise ConversionError(f"target {str(target)!r} exists: choose another, or remove it")
    source = read_source(directory)
    config = target_config(source, options)
    lost = dropped(source.config, config)
    partial = target.with_name(target.name + ".partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    try:
        linked = place_weights(source, partial)
        config.auto_map = AUTO_MAP
        config.save_pretrained(partial)
        for name, text in remote_code().items():
            (partial / name).write_text(text, encoding="utf-8")
        for pattern in KEPT_FILES:
            for path in sorted(directory.glob(pattern)):
                if path.is_file():
                    shutil.copyfile(path, partial / path.name)
                elif path.is_dir():
                    shutil.copytree(path, partial / path.name)
        (partial / "README.md").write_text(card(target.name, source, config, lost, command), encoding="utf-8")
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return Converted(config, lost, len(source.files), linked)
