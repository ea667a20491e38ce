"""A training run's directory: its recipe and its log, each written so that a kill loses nothing."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model_registry.training.errors import TrainingError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Progress:
    """How far a run is: steps done, seconds over all resumptions, losses of the steps since the last log line."""

    step: int = 0
    seconds: float = 0.0
    losses: tuple[float, ...] = ()


class RunDirectory:
    """``recipe.json``, ``log.jsonl`` and, after an export, ``model/``; a checkpoint lies beside them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = path / "model"
        self._recipe = path / "recipe.json"
        self._log = path / "log.jsonl"

    def check_new(self) -> None:
        """Refuse a directory that a new run must not write to; nothing is written yet.

        Raises:
            TrainingError: it is not empty.
        """
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise TrainingError(f"output directory {str(self.path)!r} is not empty; pass --resume to continue its run")

    def create(self, identity: dict[str, Any]) -> None:
        """Make the directory of a new run; ``identity`` is what a resumed run must share with it."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._recipe.write_text(json.dumps(identity, indent=2) + "\n")

    def check_resumable(self, identity: dict[str, Any], defaults: dict[str, Any], *, checkpoint: bool) -> None:
        """Refuse to resume a run that is not there, or that is another one.

        Args:
            identity: recipe and texts of the run that is to go on.
            defaults: of the recipe's fields. One that was added after the run began has its default, which is chosen
                to change nothing.
            checkpoint: whether there is one.

        Raises:
            TrainingError: there is nothing to resume, or the stored identity differs.
        """
        if not self._recipe.is_file() or not checkpoint:
            raise TrainingError(
                f"output directory {str(self.path)!r} holds no checkpoint to resume: start anew without --resume, in a "
                "directory that is new or empty"
            )
        stored = defaults | json.loads(self._recipe.read_text())
        for key in sorted(identity.keys() | stored.keys()):
            was, wanted = stored.get(key), identity.get(key)
            if was != wanted:
                raise TrainingError(f"cannot resume {str(self.path)!r}: its {key} is {was!r}, not {wanted!r}")

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

    def forget_after(self, step: int) -> None:
        """Drop the log's lines of later steps: a run that is resumed from ``step`` writes them anew."""
        kept = [entry for entry in self.log() if entry["step"] <= step]
        partial = self._log.with_suffix(".partial")
        partial.write_text("".join(json.dumps(entry) + "\n" for entry in kept))
        os.replace(partial, self._log)  # noqa: PTH105 - named for its atomicity
