"""The loop: next-token cross-entropy on packed rows through accelerate, on one process or on many."""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import parse_flag_from_env
from rich import progress as bars
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer

from model_registry.modeling_wavelet import WaveletLlamaForCausalLM
from model_registry.training.batches import held_out_batch, pack, training_batch
from model_registry.training.errors import TrainingError
from model_registry.training.recalibration.adapters import adapted
from model_registry.training.recalibration.export import export
from model_registry.training.run_directory import Progress

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from model_registry.training.loop import Budget
    from model_registry.training.recalibration.recipe import Recalibration
    from model_registry.training.recalibration.texts import Documents


class Recalibrating:
    """One run in one directory: ``recipe.json``, ``log.jsonl``, ``checkpoint/`` and ``model/``."""

    def __init__(self, source: Path, documents: Documents, recipe: Recalibration, directory: Path) -> None:
        self.source, self.recipe, self.directory = source, recipe, directory
        self.accelerator = accelerator()
        self.model = load(source, recipe, cuda=self.accelerator.device.type == "cuda")
        self.tokenizer = AutoTokenizer.from_pretrained(source)
        self.length: int = self.model.config.train_length
        self.stream = pack(documents.train, self.tokenizer)
        self._rows(0)  # refuses texts that are too short, before anything is written
        held_out = pack(documents.held_out, self.tokenizer)
        self.held_out = held_out_batch(held_out, self.length, recipe.eval_sequences)
        self.identity = {**recipe.to_json(), "from": str(source.resolve()), "texts_sha256": documents.digest}

    def run(self, budget: Budget, *, resume: bool, command: str, report: Callable[[str], None]) -> dict[str, Any]:
        """Train until the budget is spent; returns the last log entry.

        Raises:
            TrainingError: the directory does not admit the run, or the loss is no longer finite.
        """
        self._check_directory(resume=resume)
        recipe, accelerator = self.recipe, self.accelerator
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in trained if p.dim() >= 2], "weight_decay": recipe.weight_decay},
            {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, recipe.beta2))
        model, optimizer = accelerator.prepare(self.model, optimizer)
        at = self._load() if resume else Progress()
        if accelerator.is_main_process:
            count = sum(parameter.numel() for parameter in trained)
            report(f"{count:,} trained parameters, {len(self.stream):,} tokens of text, starting at step {at.step}")
        began, saved_at, entry = time.monotonic() - at.seconds, at.seconds, {}
        with self._bar() as bar:
            task = bar.add_task("training", total=1.0)
            while (progress := budget.progress(at)) < 1:
                for group in optimizer.param_groups:
                    group["lr"] = recipe.learning_rate_at(at.step, progress)
                loss = self._step(model, optimizer, at.step)
                at = Progress(at.step + 1, self._seconds(time.monotonic() - began), (*at.losses, loss))
                ended = budget.progress(at) >= 1
                bar.update(task, completed=1.0 if ended else budget.progress(at), description=f"loss {loss:.3f}")
                if at.step % recipe.eval_every == 0 or ended:
                    entry = self._log(model, at)
                    at = replace(at, losses=())
                if ended or at.seconds - saved_at >= 60 * recipe.checkpoint_minutes:
                    saved_at = at.seconds
                    self._save(model, at, command)
        if not entry:
            raise TrainingError(f"the run in {str(self.directory)!r} already is at step {at.step}: nothing left to do")
        accelerator.wait_for_everyone()
        return entry

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
                loss = self._loss(model, rows) / len(parts)
                self.accelerator.backward(loss)
            total += float(self.accelerator.reduce(loss.detach(), reduction="mean"))
        self.accelerator.clip_grad_norm_(model.parameters(), self.recipe.grad_clip)
        optimizer.step()
        optimizer.zero_grad()
        if not torch.isfinite(torch.tensor(total)):
            raise TrainingError(f"the loss became {total}: lower learning_rate={self.recipe.learning_rate}")
        return total

    def _log(self, model: torch.nn.Module, at: Progress) -> dict[str, Any]:
        recipe, processes = self.recipe, self.accelerator.num_processes
        entry = {
            "step": at.step,
            "tokens": at.step * recipe.batch_sequences * recipe.accumulate * processes * self.length,
            "seconds": round(at.seconds, 1),
            "loss": sum(at.losses) / len(at.losses),
            "held_out_loss": self._held_out_loss(model),
        }
        if self.accelerator.is_main_process:
            with (self.directory / "log.jsonl").open("a") as log:
                log.write(json.dumps(entry) + "\n")
        return entry

    @torch.no_grad()
    def _held_out_loss(self, model: torch.nn.Module) -> float:
        """Of every process alike: under FSDP none may skip a forward pass."""
        model.eval()
        parts = torch.split(self.held_out.to(self.accelerator.device), self.recipe.batch_sequences)
        return sum(float(self._loss(model, part)) * len(part) for part in parts) / len(self.held_out)

    def _loss(self, model: torch.nn.Module, rows: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.accelerator.device.type, dtype=torch.bfloat16, enabled=self.recipe.bf16):
            logits = model(input_ids=rows[:, :-1], use_cache=False).logits
        return cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())

    def _seconds(self, own: float) -> float:
        """The first process's clock, which decides for all when to stop and to save."""
        told = torch.tensor(own if self.accelerator.is_main_process else 0.0, device=self.accelerator.device)
        return float(self.accelerator.reduce(told, reduction="sum"))

    def _save(self, model: torch.nn.Module, at: Progress, command: str) -> None:
        """Replace the checkpoint by rename, then the exported model."""
        partial, checkpoint = self.directory / "checkpoint.partial", self.directory / "checkpoint"
        accelerator = self.accelerator
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(partial))
        state = accelerator.get_state_dict(model)
        if accelerator.is_main_process:
            progress = {"step": at.step, "seconds": at.seconds, "losses": list(at.losses)}
            (partial / "progress.json").write_text(json.dumps(progress))
            old = self.directory / "checkpoint.old"
            shutil.rmtree(old, ignore_errors=True)
            if checkpoint.exists():
                checkpoint.rename(old)
            partial.rename(checkpoint)
            shutil.rmtree(old, ignore_errors=True)
            export(self.directory / "model", self.source, state, self.recipe, self.length, self.log(), command)
        accelerator.wait_for_everyone()

    def _load(self) -> Progress:
        checkpoint = self.directory / "checkpoint"
        if not checkpoint.exists():  # killed between the two renames
            checkpoint = self.directory / "checkpoint.old"
        self.accelerator.load_state(str(checkpoint))
        progress = json.loads((checkpoint / "progress.json").read_text())
        if self.accelerator.is_main_process:
            kept = [entry for entry in self.log() if entry["step"] <= progress["step"]]
            partial = self.directory / "log.partial"
            partial.write_text("".join(json.dumps(entry) + "\n" for entry in kept))
            os.replace(partial, self.directory / "log.jsonl")  # noqa: PTH105 - named for its atomicity
        return Progress(progress["step"], progress["seconds"], tuple(progress["losses"]))

    def log(self) -> list[dict[str, Any]]:
        """Every whole line of the log, oldest first."""
        path = self.directory / "log.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def _check_directory(self, *, resume: bool) -> None:
        path, recipe = self.directory, self.directory / "recipe.json"
        if resume:
            kept = any((path / name).exists() for name in ("checkpoint", "checkpoint.old"))
            if not recipe.is_file() or not kept:
                raise TrainingError(f"output directory {str(path)!r} holds no checkpoint to resume")
            stored = json.loads(recipe.read_text())
            for key in sorted(stored.keys() | self.identity.keys()):
                if stored.get(key) != self.identity.get(key):
                    was, wanted = stored.get(key), self.identity.get(key)
                    raise TrainingError(f"cannot resume {str(path)!r}: its {key} is {was!r}, not {wanted!r}")
            return
        # Decided before any process writes.
        occupied = path.exists() and (not path.is_dir() or any(path.iterdir()))
        self.accelerator.wait_for_everyone()
        if occupied:
            raise TrainingError(f"output directory {str(path)!r} is not empty; pass --resume to continue its run")
        if self.accelerator.is_main_process:
            path.mkdir(parents=True, exist_ok=True)
            recipe.write_text(json.dumps(self.identity, indent=2) + "\n")

    def _bar(self) -> bars.Progress:
        times = bars.TimeElapsedColumn(), bars.TimeRemainingColumn()
        columns = (bars.TextColumn("{task.description}"), bars.BarColumn(), *times)
        return bars.Progress(*columns, disable=not self.accelerator.is_main_process)


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


def load(source: Path, recipe: Recalibration, *, cuda: bool) -> Any:
    """The checkpoint's model in float32, with its adapters where the recipe has some.

    Raises:
        TrainingError: it is no ``wavelet_llama`` checkpoint, or an option does not fit it.
    """
    path = source / "config.json"
    if not path.is_file():
        raise TrainingError(f"--from {str(source)!r} is no checkpoint directory: it has no config.json")
    kind = json.loads(path.read_text()).get("model_type")
    if kind != WaveletLlamaForCausalLM.config_class.model_type:
        raise TrainingError(f"--from {str(source)!r}: model_type={kind!r}; make it one with wave-serve convert first")
    attention = recipe.attention
    if attention == "auto":
        attention = "flex_attention" if cuda else "eager"
    if attention == "flex_attention" and not cuda:
        raise TrainingError("attention='flex_attention': PyTorch has no backward pass of it on a CPU; take eager")
    model = WaveletLlamaForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation=attention)
    if recipe.train_length:
        model.config.train_length = recipe.train_length
    model.config.use_cache = False
    if recipe.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return adapted(model, recipe) if recipe.lora_rank else model
