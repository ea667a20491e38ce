"""Trains a finished model on for a while, on tasks whose lines nearly match, and averages both: on one CPU core.

    OMP_NUM_THREADS=1 python -m benchmarks.quality.bundled.sharpen --start wave-demo --work runs/text --out runs/sharp \
      --steps 130

``--start`` is a checkpoint directory (``export.py``), ``--work`` a folder of token streams, which is filled where it is
empty. Writes the averaged checkpoint; its config and tokenizer are the start's. Runs side by side draw other rows with
other first steps; with ``--share 1`` each writes what it trained, for ``average.py``.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
import torch
from safetensors.torch import load_file

from benchmarks.quality.bundled import corpus
from benchmarks.quality.bundled.average import write
from benchmarks.quality.bundled.data import documents_of
from benchmarks.quality.bundled.export import WAVELET
from benchmarks.quality.bundled.model import Model, geometry, position_tables, weighted_loss
from benchmarks.quality.bundled.optimizer import Optimizer
from benchmarks.quality.bundled.supply import task_rows
from model_registry.positions.wavelet import position_table
from model_registry.training.tasks.rows import KINDS

if TYPE_CHECKING:
    from model_registry.training.tasks.rows import TaskRows

WARMUP = 30
TOKENS = 513
"""Of a row: 512 targets and what precedes the first."""


def batch(code: numpy.ndarray, tasks: TaskRows, step: int, options: argparse.Namespace) -> tuple[torch.Tensor, ...]:
    """Ids ``[B, 513]``, weights of the targets ``[B, 512]`` and documents ``[B, 512]``, a function of the step."""
    draw = random.Random(options.first_step + step)  # noqa: S311 - data, not a secret
    asked = round(options.rows * options.task_share)
    starts = [draw.randrange(len(code) - TOKENS) for _ in range(options.rows - asked)]
    text = torch.from_numpy(numpy.array([code[start : start + TOKENS] for start in starts], dtype=numpy.int64))
    rows = [tasks.row(TOKENS, draw) for _ in range(asked)]
    weights = torch.tensor([row.weights[1:] for row in rows]) * options.answer_weight
    return (
        torch.cat([text, torch.tensor([row.ids for row in rows])]),
        torch.cat([torch.ones_like(text[:, 1:]).float(), weights]),
        torch.cat([documents_of(text[:, :-1]), torch.tensor([row.documents[:-1] for row in rows])]),
    )


def texts(tokenizer: str, folder: Path, files: int) -> None:
    """``code.npy`` and ``prose.npy`` of this environment's packages, and ``facts.json`` with their licences."""
    folder.mkdir(parents=True, exist_ok=True)
    code, prose, facts = corpus.corpus(tokenizer, 1, files)
    numpy.save(folder / "code.npy", code)
    numpy.save(folder / "prose.npy", prose)
    (folder / "facts.json").write_text(json.dumps(facts, indent=1))


def train(model: Model, tables: dict, tasks: TaskRows, code: numpy.ndarray, options: argparse.Namespace) -> None:
    """Warm-up, constant, linear to zero over the last three fifths."""
    optimizer = Optimizer(model, options.rate)
    for step in range(options.steps):
        ids, weights, documents = batch(code, tasks, step, options)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = model.hidden(ids[:, :-1], geometry(tables, documents, torch.bfloat16))
        loss = weighted_loss(x, model.model.embed_tokens.weight, ids[:, 1:], weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(options.rate * min(1.0, (step + 1) / WARMUP, (1 - step / options.steps) / 0.6))
        print(f"step {step + 1}: {loss.item():.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--start", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=130)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--task-share", type=float, default=0.7)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--answer-weight", type=float, default=2.0)
    parser.add_argument("--share", type=float, default=0.6, help="of the trained weights in the average")
    parser.add_argument("--first-step", type=int, default=0, help="of the draw of rows")
    parser.add_argument(
        "--shares", type=float, nargs=len(KINDS), metavar="SHARE", help=f"of the tasks: {', '.join(KINDS)}"
    )
    parser.add_argument("--files", type=int, default=2600, help="of the corpus, at most")
    options = parser.parse_args()
    tokenizer = str(options.start / "tokenizer.json")
    if not (options.work / "facts.json").is_file():
        texts(tokenizer, options.work, options.files)
    config = json.loads((options.start / "config.json").read_text())
    start = {name: value.float() for name, value in load_file(options.start / "model.safetensors").items()}
    model = Model(config)
    model.load_state_dict(start)
    table = position_table(WAVELET["wavelet"], WAVELET["scale_exponents"], WAVELET["shifts"])
    heads, log_n = config["num_attention_heads"], config["logit_scaling_length"]
    tables = position_tables("wavelet", table, heads, log_n, config["head_dim"])
    code = numpy.load(options.work / "code.npy")
    tasks = task_rows(tokenizer, options.work, sharp=True, shares=options.shares)
    train(model, tables, tasks, code, options)
    mixed = {name: value.lerp(model.state_dict()[name], options.share) for name, value in start.items()}
    write(options.start, mixed, options.out)


if __name__ == "__main__":
    main()
