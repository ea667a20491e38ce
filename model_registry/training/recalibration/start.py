"""What a run starts from: the processes that share it, and the checkpoint's model."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import parse_flag_from_env
from transformers import AutoTokenizer

from model_registry.configuration_wavelet import WaveletConfigError, WaveletLlamaConfig
from model_registry.modeling_wavelet import WaveletLlamaForCausalLM
from model_registry.training.errors import TrainingError
from model_registry.training.recalibration.adapters import adapted
from model_registry.training.recalibration.measure import MULTIPLES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from model_registry.training.recalibration.recipe import Recalibration


def accelerator() -> Accelerator:
    """What this process trains with, as ``accelerate launch`` set it up.

    Raises:
        TrainingError: FSDP was asked for where accelerate passes it over: every process would hold the whole model.
    """
    found = Accelerator()
    if parse_flag_from_env("ACCELERATE_USE_FSDP") and found.distributed_type != DistributedType.FSDP:
        kind = found.device.type
        raise TrainingError(
            f"--use_fsdp with {found.num_processes} process(es) on {kind}: accelerate shards over several accelerators "
            "only; leave it out, and each process holds the whole model"
        )
    return found


@contextmanager
def reading(option: str, checkpoint: Path) -> Iterator[None]:
    """Around what reads a checkpoint: Transformers has errors of many kinds for a broken one.

    Raises:
        TrainingError: it was one of them; or the same that was raised inside.
    """
    try:
        yield
    except TrainingError:
        raise
    except Exception as error:
        said = " ".join(f"{error or type(error).__name__}".split())
        raise TrainingError(f"{option} {str(checkpoint)!r} cannot be read: {said}") from error


def result_config(source: Path, recipe: Recalibration) -> WaveletLlamaConfig:
    """The config of the checkpoint, as the recipe changes it.

    Raises:
        TrainingError: it is no ``wavelet_llama`` checkpoint, its config is wrong, or the recipe's ``train_length`` does
            not fit it.
    """
    path = source / "config.json"
    if not path.is_file():
        raise TrainingError(f"--from {str(source)!r} is no checkpoint directory: it has no config.json")
    with reading("--from", source):
        entries = json.loads(path.read_text())
        kind = entries.get("model_type")
        if kind != WaveletLlamaConfig.model_type:
            raise TrainingError(
                f"--from {str(source)!r}: model_type={kind!r}; make it one with wave-serve convert first"
            )
        try:
            config = WaveletLlamaConfig.from_dict(entries)
            return WaveletLlamaConfig.from_dict(entries | _changes(config, recipe.train_length))
        except WaveletConfigError as error:
            raise TrainingError(f"--from {str(source)!r}: {error}") from error


def _changes(config: WaveletLlamaConfig, train_length: int) -> dict[str, int]:
    """The entries that another training length changes; 0 keeps the config's."""
    assert config.train_length is not None
    changes = {"train_length": train_length or config.train_length}
    if train_length > config.train_length:
        changes["max_position_embeddings"] = max(config.max_position_embeddings, MULTIPLES[-1] * train_length)
    return changes


def load(source: Path, recipe: Recalibration, *, cuda: bool) -> Any:
    """The checkpoint's model in float32, with its adapters where the recipe has some.

    Raises:
        TrainingError: an option does not fit it, its weights cannot be read, or see ``result_config``.
    """
    config = result_config(source, recipe)
    attention = recipe.attention
    if attention == "auto":
        attention = "flex_attention" if cuda else "eager"
    if attention == "flex_attention" and not cuda:
        raise TrainingError("attention='flex_attention': PyTorch has no backward pass of it on a CPU; take eager")
    with reading("--from", source):
        model = WaveletLlamaForCausalLM.from_pretrained(
            source, config=config, dtype=torch.float32, attn_implementation=attention
        )
    model.config.use_cache = False
    if recipe.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return adapted(model, recipe) if recipe.lora_rank else model


def load_tokenizer(source: Path) -> Any:
    """The checkpoint's tokenizer.

    Raises:
        TrainingError: it has none, or none that can end a document.
    """
    with reading("--from", source):
        tokenizer = AutoTokenizer.from_pretrained(source)
    if tokenizer.eos_token_id is None:
        raise TrainingError(
            f"--from {str(source)!r}: its tokenizer has no eos_token to end a document with; name one in "
            "tokenizer_config.json"
        )
    return tokenizer
