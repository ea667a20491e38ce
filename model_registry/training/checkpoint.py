"""The checkpoint of a run on one process: a file that a kill leaves whole."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from model_registry.training.errors import TrainingError
from model_registry.training.run_directory import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from model_registry.training.optimizer import Optimizer


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around ``torch.save``, which tells of a full disk as a position in the file that it did not expect.

    Raises:
        TrainingError: it raised a RuntimeError.
    """
    try:
        yield
    except RuntimeError as error:
        raise TrainingError(f"{str(path)!r} could not be written; is the disk full? ({error})") from error


class CheckpointFile:
    """``checkpoint.pt`` in a run's directory."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "checkpoint.pt"

    def exists(self) -> bool:
        """Whether there is one."""
        return self._path.is_file()

    def save(self, progress: Progress, model: torch.nn.Module, optimizer: Optimizer) -> None:
        """Replace it in one rename: a kill leaves the old one or the new one, whole.

        Raises:
            TrainingError: it cannot be written.
        """
        state = {
            "step": progress.step,
            "seconds": progress.seconds,
            "losses": list(progress.losses),
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
        }
        partial = self._path.with_suffix(".partial")
        with writing(partial):
            torch.save(state, partial)
        os.replace(partial, self._path)  # noqa: PTH105 - named for its atomicity

    def load(self, model: torch.nn.Module, optimizer: Optimizer) -> Progress:
        """Restore ``model`` and ``optimizer`` in place."""
        state = torch.load(self._path, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return Progress(state["step"], state["seconds"], tuple(state["losses"]))
