"""The training loop: next-token cross-entropy, bounded by steps or by minutes."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy

from model_registry.modeling_wavelet import WaveletLlamaForCausalLM
from model_registry.training.batches import cut_rows, held_out_batch, pack, training_batch
from model_registry.training.checkpoint import CheckpointFile
from model_registry.training.errors import TrainingError
from model_registry.training.export import export
from model_registry.training.model_card import model_card
from model_registry.training.optimizer import Optimizer
from model_registry.training.recipe import Recipe
from model_registry.training.retrieval import SHORTEST, with_retrieval_rows
from model_registry.training.run_directory import Progress
from model_registry.training.tokenizer import train_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedTokenizerFast

    from model_registry.training.corpus import Corpus
    from model_registry.training.run_directory import RunDirectory


@dataclass(frozen=True)
class Budget:
    """When a run ends: after ``steps``, or ``minutes`` of training, or the first of the two if both are given."""

    steps: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("steps", self.steps), ("minutes", self.minutes)):
            if value is not None and not 0 < value < math.inf:
                raise TrainingError(f"{name}={value!r}: must be positive, and have an end")
        if self.steps is None and self.minutes is None:
            raise TrainingError("a budget is needed: --steps, --minutes or both")

    def progress(self, at: Progress) -> float:
        """Part of the run that is done, 1 at its end."""
        by_steps = 0.0 if self.steps is None else at.step / self.steps
        by_time = 0.0 if self.minutes is None else at.seconds / (60 * self.minutes)
        return max(by_steps, by_time)


def run_training(
    recipe: Recipe,
    corpus: Corpus,
    directory: RunDirectory,
    budget: Budget,
    *,
    resume: bool,
    command: str,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Train, log, checkpoint and export; the model's directory is brought up to date at every checkpoint.

    Args:
        recipe: hyperparameters.
        corpus: texts.
        directory: where everything is written.
        budget: when to stop; ``resume`` may come with a larger one.
        resume: continue the run in ``directory``.
        command: what the user typed, for the model card.
        report: called with a line of text for the user now and then.

    Returns:
        The last log entry: ``step``, ``tokens``, ``seconds``, ``loss``, ``held_out_loss`` (nats per token).

    Raises:
        TrainingError: the corpus or the directory does not admit the run.
        WaveletConfigError: the recipe describes no model.
    """
    identity = {**recipe.to_json(), "corpus_sha256": corpus.digest}
    checkpoint = CheckpointFile(directory.path)
    if resume:
        directory.check_resumable(identity, Recipe().to_json(), checkpoint=checkpoint.exists())
    else:
        directory.check_new()
    torch.manual_seed(recipe.seed)
    tokenizer = train_tokenizer(corpus.train, recipe.vocab_size)
    stream = pack(corpus.train, tokenizer)
    training_rows(recipe, stream, tokenizer, 0)  # refuses a corpus that is too small, before anything is written
    held_out = held_out_batch(pack(corpus.held_out, tokenizer), recipe.train_length, recipe.eval_sequences)
    model = WaveletLlamaForCausalLM(
        recipe.model_config(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    )
    optimizer = Optimizer(recipe, model)
    at = Progress()
    if resume:
        at = checkpoint.load(model, optimizer)
        directory.forget_after(at.step)
    else:
        directory.create(identity)
    report(f"{model.num_parameters():,} parameters, {len(stream):,} training tokens, starting at step {at.step}")

    began = time.monotonic() - at.seconds
    saved_at = at.seconds
    entry: dict[str, Any] = {}
    while (progress := budget.progress(at)) < 1:
        rate = recipe.learning_rate_at(at.step, progress)
        loss = _step(model, optimizer, training_rows(recipe, stream, tokenizer, at.step), rate, recipe)
        at = Progress(at.step + 1, time.monotonic() - began, (*at.losses, loss))
        ended = budget.progress(at) >= 1
        if at.step % recipe.eval_every == 0 or ended:
            entry = {
                "step": at.step,
                "tokens": at.step * recipe.batch_sequences * recipe.train_length,
                "seconds": round(at.seconds, 1),
                "learning_rate": rate,
                "loss": sum(at.losses) / len(at.losses),
                "held_out_loss": held_out_loss(model, held_out, recipe),
            }
            directory.append(entry)
            at = replace(at, losses=())
            report("step {step}  {seconds:.0f} s  loss {loss:.4f}  held out {held_out_loss:.4f}".format(**entry))
        if ended or at.seconds - saved_at >= 60 * recipe.checkpoint_minutes:
            saved_at = at.seconds
            # A run whose checkpoint is at its end has its model.
            _export(recipe, corpus, directory, model, tokenizer, command)
            checkpoint.save(at, model, optimizer)
    if not entry:
        raise TrainingError(f"the run in {str(directory.path)!r} already is at step {at.step}: nothing left to do")
    return entry


def _export(
    recipe: Recipe,
    corpus: Corpus,
    directory: RunDirectory,
    model: WaveletLlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    command: str,
) -> None:
    card = model_card(directory.path.resolve().name, model, recipe, corpus, directory.log(), command)
    export(directory.model, model, tokenizer, directory.log(), card)


def training_rows(recipe: Recipe, stream: torch.Tensor, tokenizer: PreTrainedTokenizerFast, step: int) -> torch.Tensor:
    """``[B * k, L / k + 1]``: what step ``step`` trains on, a function of it and the recipe; ``k`` is its row divisor.

    Raises:
        TrainingError: the stream is too short for one batch.
    """
    batch = training_batch(stream, recipe.train_length, recipe.batch_sequences, seed=recipe.seed, step=step)
    rows = cut_rows(batch, recipe.row_divisors, seed=recipe.seed, step=step)
    # Rows that were cut shorter than the shortest episode stay corpus text.
    cut_short = len(rows) > len(batch) and rows.shape[1] <= SHORTEST
    fraction = 0.0 if cut_short else recipe.retrieval_fraction
    return with_retrieval_rows(rows, stream, tokenizer, fraction, seed=recipe.seed, step=step)


def _step(
    model: WaveletLlamaForCausalLM, optimizer: Optimizer, batch: torch.Tensor, rate: float, recipe: Recipe
) -> float:
    model.train()
    loss = _loss(model, batch, recipe)
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.grad_clip)
    optimizer.step(rate)
    value = loss.item()
    if not torch.isfinite(loss):
        raise TrainingError(f"the loss became {value}: lower learning_rate={recipe.learning_rate}")
    return value


def _loss(model: WaveletLlamaForCausalLM, batch: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=recipe.bf16):
        logits = model(input_ids=batch[:, :-1], use_cache=False).logits
    return cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())


@torch.no_grad()
def held_out_loss(model: WaveletLlamaForCausalLM, batch: torch.Tensor, recipe: Recipe) -> float:
    """Mean nats per token over ``batch`` ``[B, L + 1]``, in slices of the training batch's size."""
    model.eval()
    parts = torch.split(batch, recipe.batch_sequences)
    return sum(float(_loss(model, part, recipe)) * len(part) for part in parts) / len(batch)
