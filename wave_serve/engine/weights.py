"""Checks a checkpoint's weights against its config before an engine starts, from the headers of its files alone.

vLLM starts without a word where a tensor is missing, and then serves noise: a model whose `lm_head.weight` is missing
gives every token the same probability.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wave_serve.engine.errors import CheckpointError
from wave_serve.engine.expected_tensors import LAYERS, expected_tensors, known_layout, without_fused
from wave_serve.engine.tensor_file import Shape, check_no_pointer, read_shapes

SHOWN = 3  # names of a kind in one message
INDEX = "model.safetensors.index.json"
CONVERT = {
    "*.gguf": "from_pretrained(DIRECTORY, gguf_file=FILE)",
    "*.bin": "from_pretrained(DIRECTORY)",
    "*.pth": "from_pretrained(DIRECTORY)",
    "*.pt": "from_pretrained(DIRECTORY)",
    "*.h5": "from_pretrained(DIRECTORY, from_tf=True)",
    "*.msgpack": "from_pretrained(DIRECTORY, from_flax=True)",
}
NO_WEIGHTS = ("training_args.bin", "optimizer.bin", "scheduler.bin", "optimizer.pt", "scheduler.pt")


def check_weights(directory: Path, config: Mapping[str, Any]) -> None:
    """Raises CheckpointError where the weights are of no use, or do not go with the config."""
    shapes = _read_all(directory)
    path = directory / "config.json"
    if known_layout(config):
        _check_llama(path, config, shapes)
    elif config.get("tie_word_embeddings") is False and not any(_is_head(name) for name in shapes):
        raise CheckpointError(f"{path} says tie_word_embeddings: false, but there is no tensor lm_head.weight")


def _check_llama(path: Path, config: Mapping[str, Any], shapes: Mapping[str, Shape]) -> None:
    layers = config["num_hidden_layers"]
    if layers > len(shapes):
        raise CheckpointError(f"{path}: num_hidden_layers is {layers}, but there are only {len(shapes)} tensors")
    expected = without_fused(expected_tensors(config), shapes)
    missing = [name for name in expected if name not in shapes]
    if missing:
        hint = "; tie_word_embeddings: true would use the embeddings instead" if missing == ["lm_head.weight"] else ""
        raise CheckpointError(f"{path.parent}: tensors that {path.name} asks for are missing: {_some(missing)}{hint}")
    for name, wanted in expected.items():
        found = shapes[name]
        if len(found) != len(wanted) or any(b not in (None, a) for a, b in zip(found, wanted, strict=True)):
            by_config = ", ".join("any" if size is None else str(size) for size in wanted)
            raise CheckpointError(
                f"{path.parent}: tensor {name} has the shape {list(found)}, by {path.name} it is [{by_config}]"
            )
    beyond = [name for name in shapes if name.startswith(LAYERS) and _layer(name) >= layers]
    if beyond:
        raise CheckpointError(
            f"{path}: num_hidden_layers is {layers}, but there are tensors of later layers: {_some(beyond)}"
        )


def _layer(name: str) -> int:
    number = name.removeprefix(LAYERS).partition(".")[0]
    return int(number) if number.isdecimal() else 0


def _is_head(name: str) -> bool:
    return "lm_head" in name or "embed_out" in name or name.endswith("output.weight")


def _read_all(directory: Path) -> dict[str, Shape]:
    """The shapes of all tensors of the checkpoint."""
    index = directory / INDEX
    if not index.exists():
        files = sorted(directory.glob("*.safetensors"))
        if not files:
            raise CheckpointError(no_weights(directory))
        return {name: shape for file in files for name, shape in read_shapes(file).items()}
    by_file: dict[str, list[str]] = {}
    for name, file in _weight_map(index).items():
        by_file.setdefault(file, []).append(name)
    shapes: dict[str, Shape] = {}
    absent = [file for file in sorted(by_file) if not (directory / file).exists()]
    if absent:
        raise CheckpointError(f"{index} names files that are missing: {_some(absent)}")
    for file, names in sorted(by_file.items()):
        found = read_shapes(directory / file)
        lost = [name for name in names if name not in found]
        if lost:
            raise CheckpointError(f"{index} names tensors that {file} does not hold: {_some(lost)}")
        shapes |= found
    return shapes


def _weight_map(index: Path) -> dict[str, str]:
    check_no_pointer(index)
    try:
        found = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except OSError as error:
        raise CheckpointError(f"cannot read {index}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        found = None
    if not isinstance(found, dict) or not found or not all(isinstance(file, str) for file in found.values()):
        raise CheckpointError(f"{index} is no index of weights: it needs an object weight_map, from tensors to files")
    return found


def no_weights(directory: Path) -> str:
    """What is wrong with a directory without safetensors: what there is instead, and how to convert it."""
    for pattern, load in CONVERT.items():
        files = [file.name for file in sorted(directory.glob(pattern)) if file.name not in NO_WEIGHTS]
        if files:
            call = load.replace("DIRECTORY", repr(str(directory))).replace("FILE", repr(files[0]))
            return (
                f"checkpoint {directory} holds no weights as *.safetensors, only {_some(files)}; convert it: "
                f"python -c \"from transformers import AutoModelForCausalLM as M; M.{call}.save_pretrained('NEW')\", "
                "and copy the tokenizer's files"
            )
    return f"checkpoint {directory} holds no weights (*.safetensors)"


def _some(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
