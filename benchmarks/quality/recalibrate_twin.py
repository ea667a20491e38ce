"""Recalibrates a converted twin on the rows that it was trained on: its text, and retrieval episodes among it.

    wave-serve train --position rope --out runs/twin-rope --steps 3000 --set logit_scaling=none
    wave-serve convert runs/twin-rope/model runs/twin-converted
    python -m benchmarks.quality.recalibrate_twin --rope runs/twin-rope --converted runs/twin-converted \
        --out runs/twin-recalibrated --steps 300

The same loop as ``wave-serve train --from ... --teacher ...``, which cuts its rows from text alone: cut anywhere, an
episode would often lose what it hides. Rows follow those that the twin saw, so none is read twice in the same place.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_registry.training.corpus import read_corpus, standard_library
from model_registry.training.loop import Budget, training_rows
from model_registry.training.recalibration.loop import Recalibrating
from model_registry.training.recalibration.recipe import Recalibration, with_changes
from model_registry.training.recalibration.texts import Documents
from model_registry.training.recipe import Recipe

if TYPE_CHECKING:
    import torch


class OnTheTwinsRows(Recalibrating):
    """A recalibration whose rows are those of the recipe of the twin, from ``first_step`` on."""

    def __init__(self, twin: Recipe, first_step: int, *arguments: Any) -> None:
        self.twin, self.first_step = twin, first_step
        super().__init__(*arguments)

    def _rows(self, step: int) -> torch.Tensor:
        return training_rows(self.twin, self.stream, self.tokenizer, self.first_step + step)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rope", type=Path, required=True, help="the run of the rope twin")
    parser.add_argument("--converted", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--retrieval", type=float, default=0.5, help="share of the rows that are retrieval episodes")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="of the recalibration")
    options = parser.parse_args()
    stored = json.loads((options.rope / "recipe.json").read_text())
    known = {field.name for field in fields(Recipe)}
    twin = Recipe(**{k: tuple(v) if isinstance(v, list) else v for k, v in stored.items() if k in known})
    last = json.loads((options.rope / "log.jsonl").read_text().splitlines()[-1])
    corpus = read_corpus(standard_library(), seed=twin.split_seed, held_out_fraction=twin.held_out_fraction)
    if corpus.digest != stored["corpus_sha256"]:
        raise SystemExit(f"{str(options.rope)!r} was trained on another Python's standard library")
    documents = Documents(corpus.train, corpus.held_out, corpus.digest)
    recipe = with_changes(Recalibration(batch_sequences=twin.batch_sequences), options.set)
    rows_of = replace(twin, retrieval_fraction=options.retrieval)
    work = OnTheTwinsRows(
        rows_of, last["step"], options.converted, documents, recipe, options.out, options.rope / "model"
    )
    command = "python -m benchmarks.quality.recalibrate_twin " + shlex.join(sys.argv[1:])
    print(work.run(Budget(steps=options.steps), resume=False, command=command, report=print))


if __name__ == "__main__":
    main()
