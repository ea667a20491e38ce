"""A training run's directory: its recipe, its log and its checkpoint, each written so that a kill loses nothing."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from model_registry.training.errors import TrainingError
from model_registry.training.recipe import Recipe

if TYPE_CHECKING:
    from pathlib import Path

    from model_registry.training.optimizer import Optimizer


@dataclass(frozen=True)
class Progress:
    """How far a run is: steps done, seconds over all resumptions, losses of the steps since the last log line."""

    step: int = 0
    seconds: float = 0.0
    losses: tuple[float, ...] = ()


class RunDirectory:
    """``recipe.json``, ``log.jsonl``, ``checkpoint.pt`` and, after an export, ``model/``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = path / "model"
        self._recipe = path / "recipe.json"
        self._log = path / "log.jsonl"
        self._checkpoint = path / "checkpoint.pt"

    def check(self, identity: dict[str, Any], *, resume: bool) -> None:
        """Refuse a directory that the run must not write to; nothing is written yet.

        Args:
            identity: what a resumed run must share with the one that began: recipe and corpus.
            resume: whether to continue the run that is there.

        Raises:
            TrainingError: it is not empty and ``resume`` is off, or there is nothing that can be resumed.
        """
        if resume:
            self._check_resumable(identity)
        elif self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise TrainingError(f"output directory {str(self.path)!r} is not empty; pass --resume to continue its run")

    def create(self, identity: dict[str, Any]) -> None:
        """Make the directory of a new run."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._recipe.write_text(json.dumps(identity, indent=2) + "\n")

    def _check_resumable(self, identity: dict[str, Any]) -> None:
        if not self._recipe.is_file() or not self._checkpoint.is_file():
            raise TrainingError(f"output directory {str(self.path)!r} holds no checkpoint to resume")
        # A recipe field that was added after the run began has its default, which is chosen to change nothing.
        stored = Recipe().to_json() | json.loads(self._recipe.read_text())
        for key in sorted(identity.keys() | stored.keys()):
            if stored.get(key) != identity.get(key):
                raise TrainingError(
                    f"cannot resume {str(self.path)!r}: its {key} is {stored.get(key)!r}, not {identity.get(key)!r}"
                )

    def save(self, progress: Progress, model: torch.nn.Module, optimizer: Optimizer) -> None:
        """Replace the checkpoint in one rename: a kill leaves the old one or the new one, whole."""
        state = {
            "step": progress.step,
            "seconds": progress.seconds,
            "losses": list(progress.losses),
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
        }
        partial = self._checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self._checkpoint)  # noqa: PTH105 - the same call, named for its atomicity

    def load(self, model: torch.nn.Module, optimizer: Optimizer) -> Progress:
        """Restore the checkpoint in place and forget log lines that came after it."""
        state = torch.load(self._checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        kept = [entry for entry in self.log() if entry["step"] <= state["step"]]
        partial = self._log.with_suffix(".partial")
        partial.write_text("".join(json.dumps(entry) + "\n" for entry in kept))
        os.replace(partial, self._log)  # noqa: PTH105
        return Progress(state["step"], state["seconds"], tuple(state["losses"]))

    def append(self, entry: dict[str, Any]) -> None:
        """Add one line to the log."""
        with self._log.open("a") as log:
            log.write(json.dumps(entry) + "\n")

    def log(self) -> list[dict[str, Any]]:
        """Every whole line of the log, oldest first."""
        if not self._log.exists():
            return []
        lines = self._log.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]
