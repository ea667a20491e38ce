"""The loop: next-token cross-entropy on packed rows through accelerate, on one process or on many."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy
import torch
from accelerate import DistributedType
from rich import progress as bars
from torch.nn.functional import cross_entropy, kl_div, nll_loss

from model_registry.training.batches import held_out_batch, pack, training_batch
from model_registry.training.errors import TrainingError
from model_registry.training.recalibration.attention_transfer import AttentionTransfer, load_teacher
from model_registry.training.recalibration.checkpoint import CheckpointFolder, Reached
from model_registry.training.recalibration.export import export
from model_registry.training.recalibration.recipe import Recalibration
from model_registry.training.recalibration.start import accelerator, load, load_tokenizer
from model_registry.training.run_directory import RunDirectory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from model_registry.training.loop import Budget
    from model_registry.training.recalibration.texts import Documents


_QUERIES = 2
"""A third number to seed with, so that queries are not drawn as anything else is."""


class Recalibrating:
    """One run in one directory.

    With a teacher, the first part of the budget is attention transfer, and the teacher's predictions are most of the
    loss in the rest.
    """

    def __init__(
        self, source: Path, documents: Documents, recipe: Recalibration, directory: Path, teacher: Path | None = None
    ) -> None:
        self.source, self.recipe, self.directory = source, recipe, RunDirectory(directory)
        self.accelerator = accelerator()
        self.checkpoint = CheckpointFolder(directory, self.accelerator)
        self.model = load(source, recipe, cuda=self.accelerator.device.type == "cuda")
        self.teacher = self.transfer = None
        if teacher is not None:
            if self.accelerator.distributed_type == DistributedType.FSDP:
                raise TrainingError("--teacher does not go with --use_fsdp: attention transfer needs whole projections")
            self.teacher = load_teacher(teacher, self.model.config, torch.bfloat16 if recipe.bf16 else torch.float32)
            self.teacher.to(self.accelerator.device)
            if recipe.transfer_fraction:
                whole = self.model.get_base_model() if recipe.lora_rank else self.model
                self.transfer = AttentionTransfer(self.teacher, whole)
        self.tokenizer = load_tokenizer(source)
        self.length: int = self.model.config.train_length
        self.stream = self._packed(documents.train)
        self._rows(0)  # refuses texts that are too short, before anything is written
        self.held_out = held_out_batch(self._packed(documents.held_out), self.length, recipe.eval_sequences)
        self.identity = {**recipe.to_json(), "from": str(source.resolve()), "texts_sha256": documents.digest}
        self.identity["teacher"] = None if teacher is None else str(teacher.resolve())

    def run(
        self, budget: Budget, *, resume: bool, command: str, report: Callable[[str], None]
    ) -> dict[str, Any] | None:
        """Train until the budget is spent; returns the last log entry, None where it was spent before.

        Raises:
            TrainingError: the directory does not admit the run, or the loss is no longer finite.
        """
        self._enter_directory(resume=resume)
        recipe, accelerator = self.recipe, self.accelerator
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in trained if p.dim() >= 2], "weight_decay": recipe.weight_decay},
            {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, recipe.beta2))
        model, optimizer = accelerator.prepare(self.model, optimizer)
        projections: Any = None
        if self.transfer is not None:
            projections = torch.optim.AdamW(self.transfer.parameters(), betas=(0.9, recipe.beta2), weight_decay=0.0)
            projections = accelerator.prepare(projections)
        at = self._resume() if resume else Reached()
        if accelerator.is_main_process:
            count = sum(parameter.numel() for parameter in trained)
            report(f"{count:,} trained parameters, {len(self.stream):,} tokens of text, starting at step {at.step}")
        began, saved_at = time.monotonic() - at.seconds, at.seconds
        entry: dict[str, Any] | None = None
        with self._bar() as bar:
            task = bar.add_task("training", total=1.0)
            while (progress := budget.progress(at)) < 1:
                share = 0.0 if self.transfer is None else recipe.transfer_fraction
                # A run that is resumed with a larger budget does not go back to it.
                transferring = progress < share and at.step == at.transfer_steps
                if transferring:
                    set_rate(projections, recipe.transfer_rate_at(at.step, progress / share))
                    loss = self._transfer_step(projections, at.step)
                    kind = "divergence"
                else:
                    if at.losses and at.step == at.transfer_steps:
                        at = replace(at, losses=())  # divergences
                    trained_steps, left = at.step - at.transfer_steps, max(0.0, progress - share) / (1 - share)
                    set_rate(optimizer, recipe.learning_rate_at(trained_steps, left))
                    loss = self._step(model, optimizer, at.step)
                    kind = "loss"
                seconds = self._seconds(time.monotonic() - began)
                at = Reached(at.step + 1, seconds, (*at.losses, loss), at.transfer_steps + transferring)
                ended = budget.progress(at) >= 1
                bar.update(task, completed=1.0 if ended else budget.progress(at), description=f"{kind} {loss:.3f}")
                if at.step % recipe.eval_every == 0 or ended:
                    entry = self._log(model, at, kind)
                    at = replace(at, losses=())
                if ended or at.seconds - saved_at >= 60 * recipe.checkpoint_minutes:
                    saved_at = at.seconds
                    self._save(model, at, command)
        accelerator.wait_for_everyone()
        return entry

    def _packed(self, texts: Sequence[str]) -> torch.Tensor:
        """``[N]``: the texts' tokens, each of which the model has a row for."""
        stream, known = pack(texts, self.tokenizer), self.model.config.vocab_size
        if int(stream.max()) >= known:
            unknown = self.tokenizer.convert_ids_to_tokens(int(stream.max()))
            raise TrainingError(
                f"--from {str(self.source)!r}: its tokenizer gives {unknown!r} the number {int(stream.max())}, but "
                f"vocab_size={known}; resize the embeddings of what was converted"
            )
        return stream

    def _rows(self, step: int) -> torch.Tensor:
        """``[B, L + 1]``: this process's rows of a step, a function of the seed and the step."""
        processes = self.accelerator.num_processes
        count = self.recipe.batch_sequences * self.recipe.accumulate * processes
        rows = training_batch(self.stream, self.length, count, seed=self.recipe.seed, step=step)
        return rows[self.accelerator.process_index :: processes].to(self.accelerator.device)

    def _step(self, model: torch.nn.Module, optimizer: Any, step: int) -> float:
        model.train()
        parts = torch.split(self._rows(step), self.recipe.batch_sequences)
        total = 0.0
        for number, rows in enumerate(parts):
            last = number == len(parts) - 1
            # Gradients of several processes are exchanged once a step.
            with nullcontext() if last else self.accelerator.no_sync(model):
                objective, loss = self._objective(model, rows)
                self.accelerator.backward(objective / len(parts))
            total += float(self.accelerator.reduce(loss.detach(), reduction="mean")) / len(parts)
        self.accelerator.clip_grad_norm_(model.parameters(), self.recipe.grad_clip)
        optimizer.step()
        optimizer.zero_grad()
        self._check(total, "learning_rate")
        return total

    def _check(self, loss: float, rate: str) -> None:
        if not math.isfinite(loss):
            raise TrainingError(f"the loss became {loss}: lower {rate}={getattr(self.recipe, rate)}")

    def _transfer_step(self, optimizer: Any, step: int) -> float:
        assert self.transfer is not None
        recipe, accelerator = self.recipe, self.accelerator
        drawn = numpy.random.default_rng([recipe.seed, step, _QUERIES])
        count = min(recipe.transfer_queries or self.length, self.length)
        chosen = torch.tensor(drawn.permutation(self.length)[:count], device=accelerator.device).sort().values
        parts = torch.split(self._rows(step)[:, :-1], recipe.batch_sequences)
        total = 0.0
        for rows in parts:
            with torch.autocast(accelerator.device.type, dtype=torch.bfloat16, enabled=recipe.bf16):
                divergence = self.transfer.backward(rows, chosen)
            total += float(accelerator.reduce(divergence, reduction="mean")) / len(parts)
        for parameter in self.transfer.parameters():
            # No wrapper of the model sees these gradients, so they are exchanged here.
            parameter.grad = accelerator.reduce(parameter.grad, reduction="mean") / len(parts)
        optimizer.step()
        optimizer.zero_grad()
        self._check(total, "transfer_learning_rate")
        return total

    def _log(self, model: torch.nn.Module, at: Reached, kind: str) -> dict[str, Any]:
        recipe, processes = self.recipe, self.accelerator.num_processes
        entry = {
            "step": at.step,
            "tokens": at.step * recipe.batch_sequences * recipe.accumulate * processes * self.length,
            "seconds": round(at.seconds, 1),
            kind: sum(at.losses) / len(at.losses),
            "held_out_loss": self._held_out_loss(model),
        }
        if self.accelerator.is_main_process:
            self.directory.append(entry)
        return entry

    @torch.no_grad()
    def _held_out_loss(self, model: torch.nn.Module) -> float:
        """Of every process alike: under FSDP none may skip a forward pass."""
        model.eval()
        parts = torch.split(self.held_out.to(self.accelerator.device), self.recipe.batch_sequences)
        return sum(float(self._loss(model, part)) * len(part) for part in parts) / len(self.held_out)

    def _logits(self, model: Any, rows: torch.Tensor) -> torch.Tensor:
        """``[B * L, V]`` float32, of every token but each row's last."""
        with torch.autocast(self.accelerator.device.type, dtype=torch.bfloat16, enabled=self.recipe.bf16):
            logits = model(input_ids=rows[:, :-1], use_cache=False).logits
        return logits.float().flatten(0, 1)

    def _loss(self, model: torch.nn.Module, rows: torch.Tensor) -> torch.Tensor:
        return cross_entropy(self._logits(model, rows), rows[:, 1:].flatten())

    def _objective(self, model: torch.nn.Module, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What is minimised, and the loss of the next token, which is the same without a teacher."""
        found = self._logits(model, rows).log_softmax(-1)
        loss = nll_loss(found, rows[:, 1:].flatten())
        share = self.recipe.distillation
        if self.teacher is None or not share:
            return loss, loss
        with torch.no_grad():
            wanted = self._logits(self.teacher, rows).log_softmax(-1)
        divergence = kl_div(found, wanted, log_target=True, reduction="batchmean")
        return (1 - share) * loss + share * divergence, loss

    def _seconds(self, own: float) -> float:
        """The first process's clock, which decides for all when to stop and to save."""
        told = torch.tensor(own if self.accelerator.is_main_process else 0.0, device=self.accelerator.device)
        return float(self.accelerator.reduce(told, reduction="sum"))

    def _save(self, model: torch.nn.Module, at: Reached, command: str) -> None:
        """The exported model, then the checkpoint: a run whose checkpoint is at its end has its model."""
        accelerator, directory = self.accelerator, self.directory
        state = accelerator.get_state_dict(model)
        if accelerator.is_main_process:
            log, made = directory.log(), directory.model
            export(made, self.source, state, self.recipe, log, command, at.transfer_steps)
        self.checkpoint.save(at)

    def _resume(self) -> Reached:
        at = self.checkpoint.load()
        if self.accelerator.is_main_process:
            self.directory.forget_after(at.step)
        return at

    def _enter_directory(self, *, resume: bool) -> None:
        if resume:
            defaults = Recalibration().to_json() | {"teacher": None}
            self.directory.check_resumable(self.identity, defaults, checkpoint=self.checkpoint.exists())
            return
        self.directory.check_new()
        self.accelerator.wait_for_everyone()  # all have looked before one writes
        if self.accelerator.is_main_process:
            self.directory.create(self.identity)

    def _bar(self) -> bars.Progress:
        times = bars.TimeElapsedColumn(), bars.TimeRemainingColumn()
        columns = (bars.TextColumn("{task.description}"), bars.BarColumn(), *times)
        return bars.Progress(*columns, disable=not self.accelerator.is_main_process)


def set_rate(optimizer: Any, rate: float) -> None:
    """Give every group of parameters this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate
