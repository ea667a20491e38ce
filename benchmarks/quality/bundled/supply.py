"""The data process of ``train.py``: makes the corpus, then rows of tasks for as long as training takes.

It runs beside the training process, which compiles in the meantime, and leaves files in a folder: ``code.npy``,
``prose.npy``, ``held_out.npy``, ``facts.json`` and, last of these, ``ready``; then ``rows-N.npy``,
``[CHUNK_ROWS, 3, tokens]`` uint16 each: ids, weights and document numbers. A reader deletes what it has taken.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
from tokenizers import Tokenizer

from benchmarks.quality.bundled import corpus
from model_registry.training.tasks import kinds
from model_registry.training.tasks.rows import TaskRows

if TYPE_CHECKING:
    from collections.abc import Sequence

CHUNK_ROWS = 256
MOST_WAITING = 48
"""Chunks that may wait for the reader; the makers pause above it."""

HELD_OUT_TOKENS = 4 * 64 * 512 + 1
STATE: dict = {}


def task_rows(tokenizer: str, folder: Path, *, sharp: bool = False, shares: Sequence[float] | None = None) -> TaskRows:
    """The maker of rows, from the streams in the folder; ``sharp`` and ``shares`` as in ``TaskRows``."""
    code, prose = numpy.load(folder / "code.npy"), numpy.load(folder / "prose.npy")
    encoder = Tokenizer.from_file(tokenizer)
    plain = "".join(kinds.sentences(random.Random(seed), 400) for seed in range(10))  # noqa: S311
    sentences = numpy.array(encoder.encode(plain, add_special_tokens=False).ids, dtype=numpy.uint16)
    return TaskRows(encoder, [code, code, code, code, prose, sentences], 0, sharp=sharp, shares=shares)


def write_chunk(number: int) -> None:
    """One file of rows, when there is room for it."""
    folder: Path = STATE["folder"]
    while len(list(folder.glob("rows-*.npy"))) > MOST_WAITING:
        time.sleep(0.05)
    draw = random.Random(f"tasks/{number}")  # noqa: S311 - data, not a secret
    found = [STATE["rows"].row(STATE["tokens"], draw) for _ in range(CHUNK_ROWS)]
    chunk = numpy.array([(row.ids, row.weights, row.documents) for row in found], dtype=numpy.uint16)
    partial = folder / f"partial-{number}.npy"
    numpy.save(partial, chunk)
    partial.rename(folder / f"rows-{number}.npy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--length", type=int, required=True)
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--files", type=int)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    code, prose, facts = corpus.corpus(options.tokenizer, options.processes, options.files)
    held_out = corpus.held_out(options.tokenizer, HELD_OUT_TOKENS)
    for name, ids in (("code", code), ("prose", prose), ("held_out", held_out)):
        numpy.save(options.folder / f"{name}.npy", ids)
    (options.folder / "facts.json").write_text(json.dumps(facts, indent=1))
    (options.folder / "ready").touch()
    STATE.update(rows=task_rows(options.tokenizer, options.folder), folder=options.folder, tokens=options.length + 1)
    with multiprocessing.get_context("fork").Pool(options.processes) as pool:
        for _ in pool.imap_unordered(write_chunk, range(10**5)):
            pass


if __name__ == "__main__":
    main()
