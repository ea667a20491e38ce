"""What ``train --from`` does, from its options to its last line."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from model_registry.training.errors import TrainingError
from model_registry.training.recalibration.loop import Recalibrating
from model_registry.training.recalibration.measure import losses, measure
from model_registry.training.recalibration.recipe import Recalibration, with_changes
from model_registry.training.recalibration.texts import read_documents

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from model_registry.training.loop import Budget


def recalibrate(
    source: Path,
    out: Path,
    texts: Sequence[Path],
    budget: Budget,
    changes: list[str],
    *,
    teacher: Path | None,
    resume: bool,
    measured: bool,
    command: str,
    report: Callable[[str], None],
) -> None:
    """Train ``source`` on, towards ``teacher`` where there is one, and measure the result.

    Raises:
        TrainingError: something that the user gave does not admit it.
    """
    recipe = with_changes(Recalibration(), changes)
    if measured and importlib.util.find_spec("vllm") is None:
        raise TrainingError("measuring the result needs vLLM: install wave-serve[cpu] or [gpu], or pass --no-measure")
    documents = read_documents(
        texts, text_field=recipe.text_field, seed=recipe.seed, held_out_fraction=recipe.held_out_fraction
    )
    work = Recalibrating(source, documents, recipe, out, teacher)
    last = work.run(budget, resume=resume, command=command, report=report)
    unmeasured = measured and not (out / "model/eval.json").is_file()
    if last is None and not unmeasured:
        raise TrainingError(f"the run in {str(out)!r} has spent its budget: nothing left to do")
    if not work.accelerator.is_main_process:
        return
    if last is not None:
        report(f"held-out loss {last['held_out_loss']:.4f} after {last['step']} steps; model in {out / 'model'}")
    if unmeasured:
        report("measuring it as served")
        tokens = sum(len(work.tokenizer(text, verbose=False).input_ids) for text in documents.held_out)
        found = losses(measure(out / "model", documents.held_out, work.length, tokens, out / "measured"))
        report("nats per token by length: " + ", ".join(f"{length:,}: {nats:.3f}" for length, nats in found.items()))
