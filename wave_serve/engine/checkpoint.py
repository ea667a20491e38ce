"""Looks at a checkpoint directory before an engine is started on it, without importing any model code."""

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wave_serve.engine.errors import CheckpointError
from wave_serve.engine.tensor_file import check_no_pointer
from wave_serve.engine.weights import check_weights, no_weights

REQUIRED_FIELDS = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


@dataclass(frozen=True)
class Checkpoint:
    """What the gateway needs to know of a checkpoint; lengths in tokens, `config` as config.json has it."""

    directory: Path
    name: str
    train_length: int
    max_position_embeddings: int
    vocab_size: int
    tokenizer: Path | None
    config: Mapping[str, Any]


def bundled_checkpoint() -> Path:
    """Directory of the demo checkpoint that ships in the `model_registry` package, which is not imported."""
    package = importlib.util.find_spec("model_registry")
    if package is None or not package.submodule_search_locations:
        raise CheckpointError("no CHECKPOINT given, and the model_registry package with the demo is not installed")
    demo = Path(package.submodule_search_locations[0]) / "demo"
    found = sorted(config.parent for config in demo.glob("*/config.json"))
    if len(found) != 1:
        raise CheckpointError(f"no CHECKPOINT given, and {demo} holds {len(found)} checkpoints instead of one")
    return found[0]


def inspect_checkpoint(directory: Path) -> Checkpoint:
    """Checks that `directory` holds a checkpoint and reads its lengths.

    Raises:
        CheckpointError: no directory, no readable config.json, a field that is missing or of a wrong kind, or weights
            that do not go with them.
    """
    try:
        return _inspect(directory)
    except OSError as error:  # whoever runs this may not look into it, or its name is too long
        raise CheckpointError(f"cannot read checkpoint {directory}: {error}") from None


def _inspect(directory: Path) -> Checkpoint:
    if directory.suffix == ".gguf" and directory.is_file():
        raise CheckpointError(no_weights(directory.parent))
    if not directory.is_dir():
        what = "is not a directory" if directory.exists() else "does not exist"
        raise CheckpointError(f"checkpoint {directory} {what}; give the path of a local checkpoint directory")
    path = directory / "config.json"
    snapshots = [one.parent for one in sorted(directory.glob("snapshots/*/config.json"))]
    if snapshots and not path.exists():
        found = ", ".join(map(str, snapshots))
        raise CheckpointError(f"{directory} is a repository in a cache; give one of its snapshots: {found}")
    config = _read_config(path)
    for field in REQUIRED_FIELDS:
        if field not in config:
            raise CheckpointError(f"{path}: field {field} is missing")
    for field in REQUIRED_FIELDS[1:]:
        _positive_int(path, config, field)
    if not isinstance(config["model_type"], str):
        raise CheckpointError(f"{path}: field model_type must be a string, got {config['model_type']!r}")
    longest = _positive_int(path, config, "max_position_embeddings")
    train_length = _positive_int(path, config, "train_length") if "train_length" in config else longest
    check_weights(directory, config)
    tokenizer = directory / "tokenizer.json"
    if tokenizer.is_file():
        check_no_pointer(tokenizer)
    return Checkpoint(
        directory=directory.resolve(),
        name=_name(directory.resolve()),
        train_length=train_length,
        max_position_embeddings=longest,
        vocab_size=config["vocab_size"],
        tokenizer=tokenizer.resolve() if tokenizer.is_file() else None,
        config=config,
    )


def _name(directory: Path) -> str:
    """The directory's name; of a snapshot in Hugging Face's cache, the repository's.

    A snapshot lies in `models--OWNER--NAME/snapshots/COMMIT`.
    """
    kind, *repository = directory.parent.parent.name.split("--")
    if directory.parent.name == "snapshots" and kind == "models" and repository:
        return "/".join(repository)
    return directory.name


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; {path.parent} is not a checkpoint directory")
    try:
        check_no_pointer(path)
        config = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise CheckpointError(
            f"{path}: not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(config).__name__}")
    return config


def _positive_int(path: Path, config: dict[str, Any], field: str) -> int:
    value = config.get(field)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CheckpointError(f"{path}: field {field} must be a positive integer, got {value!r}")
    return value
