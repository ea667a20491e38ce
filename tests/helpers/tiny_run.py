"""A model and a corpus so small that a run takes a second."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from model_registry.training.cli import train
from model_registry.training.run_directory import RunDirectory

if TYPE_CHECKING:
    from pathlib import Path

TINY = {
    "hidden_size": "48",
    "intermediate_size": "80",
    "num_heads": "3",
    "num_kv_heads": "1",
    "head_dim": "32",
    "scale_exponents": "0,1,2,3",
    "num_layers": "2",
    "vocab_size": "512",
    "train_length": "48",
    "batch_sequences": "3",
    "warmup_steps": "3",
    "eval_every": "4",
    "eval_sequences": "5",
    "held_out_fraction": "0.2",
    "retrieval_fraction": "0",
    "optimizer": "adamw",
    "learning_rate": "1.5e-3",
}


def write_corpus(directory: Path) -> Path:
    """Ten files of seeded arithmetic: regular enough to be learned in a few steps."""
    directory.mkdir()
    draw = random.Random(3)
    for number in range(10):
        lines = [f"def f{n}(x):\n    return x + {draw.randint(0, 99)}\n\n" for n in range(40)]
        (directory / f"module{number}.py").write_text("".join(lines))
    return directory


def tiny_train(out: Path, corpus: Path, *, steps: int | None, resume: bool = False, **changes: str) -> None:
    """The command itself, as a user's shell would call it."""
    overrides = [f"{name}={value}" for name, value in (TINY | changes).items()]
    train(out=out, corpus=corpus, steps=steps, resume=resume, overrides=overrides)


def losses(out: Path) -> list[tuple[int, float, float]]:
    return [(entry["step"], entry["loss"], entry["held_out_loss"]) for entry in RunDirectory(out).log()]
