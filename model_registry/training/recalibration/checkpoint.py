"""The checkpoint of a run on one process or many: a folder that every process writes files of its own into."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from model_registry.training.checkpoint import writing
from model_registry.training.run_directory import Progress

if TYPE_CHECKING:
    from pathlib import Path

    from accelerate import Accelerator


@dataclass(frozen=True)
class Reached(Progress):
    """How far a run is; ``transfer_steps`` of its steps were attention transfer."""

    transfer_steps: int = 0


class CheckpointFolder:
    """``checkpoint/`` in a run's directory; ``checkpoint.old/`` where a kill came between two renames."""

    def __init__(self, directory: Path, accelerator: Accelerator) -> None:
        self._path, self._old, self._partial = (
            directory / name for name in ("checkpoint", "checkpoint.old", "checkpoint.partial")
        )
        self._accelerator = accelerator

    def exists(self) -> bool:
        """Whether there is one."""
        return self._path.exists() or self._old.exists()

    def save(self, at: Reached) -> None:
        """Replace it by what accelerate prepared, in two renames; every process calls this.

        Raises:
            TrainingError: it cannot be written.
        """
        accelerator = self._accelerator
        if accelerator.is_main_process:
            shutil.rmtree(self._partial, ignore_errors=True)
        accelerator.wait_for_everyone()
        with writing(self._partial):
            accelerator.save_state(str(self._partial))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            (self._partial / "progress.json").write_text(json.dumps(asdict(at)))
            shutil.rmtree(self._old, ignore_errors=True)
            if self._path.exists():
                self._path.rename(self._old)
            self._partial.rename(self._path)
            shutil.rmtree(self._old, ignore_errors=True)

    def load(self) -> Reached:
        """Restore what accelerate prepared, in place; every process calls this."""
        path = self._path if self._path.exists() else self._old
        self._accelerator.load_state(str(path))
        progress = json.loads((path / "progress.json").read_text())
        return Reached(**progress | {"losses": tuple(progress["losses"])})
